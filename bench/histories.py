"""Histories for judging planners: images made from Debian packages, and when each package changed.

Dependencies and sizes come from the package lists, dates from the entries of each source's
changelog, taken from its smallest package. Knows apt and dpkg-deb; must not know planners.
"""

from __future__ import annotations

import gzip
import io
import json
import os
import re
import subprocess
import sys
import tarfile
import tempfile
from collections import defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from datetime import date
from email.utils import parsedate_to_datetime

_BATCH = 50  # packages per download: bounds the disk that archives take
_SIGNED = re.compile(rb"^ -- .*>\s+(.*?)\s*$", re.MULTILINE)

# Images by their top-level packages. Targets are set for JUDGED; OTHERS show if a planner is
# overfitted to them.
JUDGED: dict[str, tuple[str, ...]] = {
    "python-web": (
        "gunicorn", "python3-django", "python3-djangorestframework", "python3-celery",
        "python3-psycopg2", "python3-redis", "python3-pil", "python3-lxml", "python3-boto3",
        "python3-cryptography", "python3-requests", "python3-sentry-sdk", "bash", "coreutils",
    ),
    "node": (
        "nodejs", "npm", "node-express", "node-ws", "node-typescript", "webpack", "bash",
        "coreutils", "git", "ca-certificates",
    ),
    "java": (
        "openjdk-17-jre-headless", "openjdk-17-jdk-headless", "tomcat10", "maven",
        "libspring-web-java", "libhibernate-validator-java", "libpostgresql-jdbc-java", "bash",
        "coreutils", "ca-certificates",
    ),
    "postgresql": (
        "postgresql-15", "postgresql-15-postgis-3", "postgresql-plpython3-15",
        "postgresql-plperl-15", "postgresql-15-cron", "pgbouncer", "pgbackrest", "bash",
    ),
    "c-toolchain": (
        "build-essential", "clang", "cmake", "ninja-build", "gdb", "valgrind", "git", "ccache",
        "autoconf", "automake", "libtool", "pkg-config", "libssl-dev", "zlib1g-dev",
        "libboost-dev", "bison", "flex", "python3",
    ),
    "scientific": (
        "python3-numpy", "python3-scipy", "python3-pandas", "python3-matplotlib",
        "python3-sklearn", "python3-statsmodels", "jupyter-notebook", "python3-h5py",
        "python3-skimage", "python3-sympy", "bash", "coreutils",
    ),
    "nginx": (
        "nginx", "libnginx-mod-http-image-filter", "libnginx-mod-http-perl",
        "libnginx-mod-http-geoip2", "libnginx-mod-http-lua", "libnginx-mod-stream",
        "certbot", "python3-certbot-nginx", "curl", "logrotate", "cron", "bash",
    ),
    "desktop": (
        "inkscape", "gimp", "evince", "gedit", "dbus", "fonts-dejavu", "adwaita-icon-theme",
    ),
}  # fmt: skip
OTHERS: dict[str, tuple[str, ...]] = {
    "perl-web": (
        "libmojolicious-perl", "libcatalyst-perl", "libdbd-pg-perl", "libdbix-class-perl",
        "libplack-perl", "starman", "libtemplate-perl", "libxml-libxml-perl", "bash",
    ),
    "ruby": ("rails", "puma", "ruby-pg", "ruby-redis", "ruby-sidekiq", "ruby-devise", "bash"),
    "php": (
        "php-fpm", "php-mysql", "php-gd", "php-curl", "php-intl", "php-xml", "php-mbstring",
        "php-zip", "wordpress", "bash",
    ),
    "mail": (
        "postfix", "postfix-pgsql", "dovecot-imapd", "dovecot-lmtpd", "rspamd", "opendkim",
        "clamav-daemon", "spamassassin", "bash",
    ),
    "statistics": (
        "r-base-core", "r-recommended", "r-cran-tidyverse", "r-cran-rcpp", "r-cran-shiny",
        "bash", "coreutils",
    ),
    "media": ("ffmpeg", "imagemagick", "mediainfo", "sox", "python3", "yt-dlp", "bash"),
    "go-rust": ("golang", "rustc", "cargo", "git", "make", "pkg-config", "libssl-dev", "bash"),
    "kde": ("kate", "konsole", "okular", "dolphin", "gwenview"),
}  # fmt: skip


@dataclass(frozen=True, slots=True, kw_only=True)
class Package:
    """A package: its version, installed size in bytes, and the packages it needs, without itself."""

    source: str
    version: str
    size: int
    needs: frozenset[str]


@dataclass(frozen=True, slots=True, kw_only=True)
class Histories:
    """Images as packages by name, and the days on which each source changed."""

    images: dict[str, dict[str, Package]]
    roots: dict[str, tuple[str, ...]]
    changes: dict[str, list[date]]


@dataclass(frozen=True, slots=True, kw_only=True)
class _Record:
    """A paragraph of the package lists."""

    source: str
    version: str
    size: int
    download: int
    depends: tuple[tuple[str, ...], ...]  # groups of alternatives
    provides: tuple[str, ...]


def histories(directory: str, images: dict[str, tuple[str, ...]]) -> Histories:
    """Return the packages and changes of `images`. Changelogs are downloaded once to `directory`."""
    records = _available()
    found, roots = _images(images, records)
    sources = {package.source for image in found.values() for package in image.values()}
    return Histories(images=found, roots=roots, changes=_changes(directory, sources, records))


def present(images: dict[str, tuple[str, ...]]) -> Histories:
    """Return the packages of `images` as they are today, without changes. Downloads nothing."""
    found, roots = _images(images, _available())
    return Histories(images=found, roots=roots, changes={})


def _images(
    images: dict[str, tuple[str, ...]], records: dict[str, _Record]
) -> tuple[dict[str, dict[str, Package]], dict[str, tuple[str, ...]]]:
    """Return the packages of each image, and its top-level ones."""
    providers = defaultdict(list)
    for name, record in sorted(records.items()):
        for virtual in record.provides:
            providers[virtual].append(name)
    roots = {image: tuple(_present(names, records)) for image, names in images.items()}
    found = {image: _closure(names, records, providers) for image, names in roots.items()}
    return found, roots


def _available() -> dict[str, _Record]:
    output = _run("apt-cache", "dumpavail").stdout
    records: dict[str, _Record] = {}
    for paragraph in output.decode("utf-8", "replace").split("\n\n"):
        fields: dict[str, str] = dict(re.findall(r"^([A-Za-z-]+): *(.*)$", paragraph, re.MULTILINE))
        if "Package" not in fields or fields["Package"] in records:
            continue
        depends = ", ".join(fields[f] for f in ("Pre-Depends", "Depends") if f in fields)
        records[fields["Package"]] = _Record(
            source=fields.get("Source", fields["Package"]).split()[0],
            version=fields["Version"],
            size=int(fields.get("Installed-Size", "0")) * 1024,
            download=int(fields.get("Size", "0")),
            depends=tuple(tuple(_names(group, "|")) for group in depends.split(",") if group),
            provides=tuple(_names(fields.get("Provides", ""), ",")),
        )
    return records


def _names(text: str, separator: str) -> Iterator[str]:
    for item in text.split(separator):
        if match := re.match(r"\s*([a-z0-9][a-z0-9+.-]+)", item):
            yield match[1]


def _present(names: Iterable[str], records: dict[str, _Record]) -> Iterator[str]:
    for name in names:
        if name in records:
            yield name
        else:
            _say(f"warning: no package {name}, left out")


def _closure(
    roots: Iterable[str], records: dict[str, _Record], providers: dict[str, list[str]]
) -> dict[str, Package]:
    """Return all packages that the roots need, with the first available of alternatives."""
    closure: dict[str, Package] = {}
    waiting = list(roots)
    while waiting:
        name = waiting.pop()
        if name in closure:
            continue
        record = records[name]
        needs = {
            chosen
            for group in record.depends
            if (chosen := _choose(group, records, providers)) and chosen != name
        }
        closure[name] = Package(
            source=record.source, version=record.version, size=record.size, needs=frozenset(needs)
        )
        waiting += needs
    return closure


def _choose(
    group: tuple[str, ...], records: dict[str, _Record], providers: dict[str, list[str]]
) -> str | None:
    for name in group:
        if name in records:
            return name
    return next((providers[name][0] for name in group if providers.get(name)), None)


def _changes(
    directory: str, sources: set[str], records: dict[str, _Record]
) -> dict[str, list[date]]:
    """Return the dates of every source's changelog entries, oldest first."""
    os.makedirs(directory, exist_ok=True)
    cache = os.path.join(directory, "changelogs.json")
    known: dict[str, list[str]] = {}
    if os.path.exists(cache):
        with open(cache, encoding="utf-8") as file:
            known = json.load(file)
    packages = defaultdict(list)
    for name, record in records.items():
        packages[record.source].append((record.download, name))
    wanted = {min(packages[source])[1]: source for source in sources if source not in known}
    tried: set[str] = set()
    while names := sorted(wanted.keys() - tried):
        for start in range(0, len(names), _BATCH):
            _say(f"changelogs: package {start + 1} of {len(names)}")
            for name, found in _download(names[start : start + _BATCH], directory):
                if isinstance(found, str):  # the changelog is in another package
                    wanted[found] = wanted[name]
                else:
                    known[wanted[name]] = found
            with open(cache + ".new", "w", encoding="utf-8") as file:
                json.dump(known, file, indent=0, sort_keys=True)
            os.replace(cache + ".new", cache)
        tried |= set(names)
    for source in sorted(source for source in sources if not known.get(source)):
        _say(f"warning: no changelog of {source}, taken as never changing")
    return {
        source: sorted(map(date.fromisoformat, known.get(source, []))) for source in sorted(sources)
    }


def _download(names: list[str], directory: str) -> Iterator[tuple[str, list[str] | str]]:
    """Yield package names, each with the dates in its changelog or the package that has it."""
    with tempfile.TemporaryDirectory(dir=directory, prefix=".debs-") as debs:
        _run("apt-get", "download", "-q", "-o", "APT::Sandbox::User=root", *names, cwd=debs)
        for archive in sorted(os.listdir(debs)):
            if archive.endswith(".deb"):
                name = archive.split("_")[0]
                yield name, _days(name, os.path.join(debs, archive))


def _days(name: str, archive: str) -> list[str] | str:
    """Return the dates of the changelog's entries, or the package whose documentation is used."""
    content = _run("dpkg-deb", "--fsys-tarfile", archive).stdout
    home = f"./usr/share/doc/{name}"
    logs: list[bytes] = []
    with tarfile.open(fileobj=io.BytesIO(content)) as tar:
        for member in tar:
            if member.name == home and member.issym():
                return member.linkname.rsplit("/", 1)[-1]
            if member.name in (f"{home}/changelog.Debian.gz", f"{home}/changelog.gz"):
                if member.issym():
                    return member.linkname.split("/")[-2]
                file = tar.extractfile(member)
                assert file
                logs.append(gzip.decompress(file.read()))
    return sorted({day for log in logs for day in _signed(log)})


def _signed(log: bytes) -> Iterator[str]:
    """Yield the dates of a Debian changelog; none for other formats, such as upstream's."""
    for signed in _SIGNED.findall(log):
        try:
            yield parsedate_to_datetime(signed.decode("ascii")).date().isoformat()
        except ValueError:
            continue


def _run(*command: str, cwd: str | None = None) -> subprocess.CompletedProcess[bytes]:
    environment = {**os.environ, "LC_ALL": "C.UTF-8"}
    return subprocess.run(command, capture_output=True, check=False, cwd=cwd, env=environment)


def _say(message: str) -> None:
    print(message, file=sys.stderr, flush=True)

"""Images as registries hold them, and two registries: a directory with a program that stands for
skopeo, and a real one that is pushed to.

Must not know the package.
"""

import base64
import json
import os
import re
import shutil
import ssl
import subprocess
import time
import urllib.request
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

from consumers.requirements import require
from handmade import COMPRESSORS, CONFIG_TYPE, LAYER_TYPE, Base, Layout

_DOCKER = "application/vnd.docker."
_ENDINGS = {"plain": "", "gzip": "+gzip", "zstd": "+zstd"}
_DOCKER_ENDINGS = {"plain": "", "gzip": ".gzip"}
STORED = (("oci", "plain"), ("oci", "gzip"), ("oci", "zstd"), ("docker", "gzip"))


def add_image(
    layout: Layout, base: Base, kind: str = "oci", compressor: str = "gzip", **platform: str
) -> dict[str, Any]:
    """Add an image whose manifest is OCI's or Docker's (schema 2), and return its descriptor."""
    config = json.dumps(base.document() | platform).encode()
    stored = [COMPRESSORS[compressor](layer) for layer in base.layers]
    if kind == "oci":
        described = layout.blob(config, CONFIG_TYPE)
        layer_type = LAYER_TYPE + _ENDINGS[compressor]
        descriptor = layout.manifest(described, [layout.blob(one, layer_type) for one in stored])
    else:
        layer_type = f"{_DOCKER}image.rootfs.diff.tar{_DOCKER_ENDINGS[compressor]}"
        document = {
            "schemaVersion": 2,
            "mediaType": f"{_DOCKER}distribution.manifest.v2+json",
            "config": layout.blob(config, f"{_DOCKER}container.image.v1+json"),
            "layers": [layout.blob(one, layer_type) for one in stored],
        }
        descriptor = layout.blob(json.dumps(document).encode(), str(document["mediaType"]))
    return descriptor | ({"platform": platform} if platform else {})


def content(layout: Layout, descriptor: dict[str, Any]) -> bytes:
    """Return the bytes of a blob."""
    return layout.blobs[f"blobs/sha256/{descriptor['digest'][7:]}"]


# Answers as skopeo 1.9 does. Only its own directory need be in PATH.
_SKOPEO = r"""#!/bin/sh
printf '%s\n' "$*" >> "$REGISTRY/calls"
for word; do
  case $word in
    docker://*) image=${word#docker://};;
    dir:*) target=${word#dir:};;
  esac
done
case $image in *@*) version=${image##*@};; *) version=${image##*:};; esac
if ! [ -f "$REGISTRY/manifests/$version" ]; then
  echo 'time="2022-01-01" level=warning msg="slow"' >&2
  echo 'time="2022-01-01" level=fatal msg="reading \"'"$version"'\": manifest unknown"' >&2
  exit 1
fi
if [ -z "$target" ]; then exec /bin/cat "$REGISTRY/manifests/$version"; fi
/bin/mkdir "$target"
if [ -f "$REGISTRY/slow" ]; then exec /bin/sleep 60; fi
/bin/cp "$REGISTRY/manifests/$version" "$target/manifest.json"
/bin/cp "$REGISTRY/blobs/"* "$target"
echo Copying
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class DirectoryRegistry:
    """A registry of one repository in a directory, and the program that reads it."""

    directory: Path

    @classmethod
    def below(cls, directory: Path) -> Self:
        """Make an empty registry."""
        for name in ("manifests", "blobs", "bin", "tmp"):
            (directory / name).mkdir()
        made = cls(directory=directory)
        made.program("skopeo", _SKOPEO)
        return made

    def program(self, name: str, text: str) -> None:
        """Put a program into PATH."""
        path = self.directory / "bin" / name
        path.write_text(text, "utf-8")
        path.chmod(0o755)

    @property
    def environment(self) -> dict[str, str]:
        """The variables for a program that is to find this registry, and nothing in PATH."""
        return {
            "PATH": str(self.directory / "bin"),
            "REGISTRY": str(self.directory),
            "TMPDIR": str(self.directory / "tmp"),
        }

    def push(self, layout: Layout, *tagged: tuple[str, dict[str, Any]]) -> None:
        """Add everything in `layout`, and tag some of its manifests."""
        for name, data in layout.blobs.items():
            digits = os.path.basename(name)
            (self.directory / "blobs" / digits).write_bytes(data)
            (self.directory / "manifests" / f"sha256:{digits}").write_bytes(data)
        for tag, descriptor in tagged:
            (self.directory / "manifests" / tag).write_bytes(content(layout, descriptor))

    def calls(self) -> list[str]:
        """Return the arguments of each run of skopeo."""
        return (self.directory / "calls").read_text("utf-8").splitlines()

    def leftovers(self) -> list[str]:
        """Return the temporary files."""
        return os.listdir(self.directory / "tmp")


LOGIN = ("me", "secret")
# The registry takes only bcrypt; this is of "secret", at the lowest cost.
_PASSWORDS = "me:$2b$04$abcdefghijklmnopqrstuu2r9OfJnfCsdneAXAGHnS4UpFFP8WIrW\n"
PROGRAMS = ("docker-registry", "skopeo")
_LISTENING = re.compile(rb"listening on (127\.0\.0\.1:\d+)")
_PATIENCE = 20.0  # seconds


def make_certificate(directory: Path) -> Path:
    """Make a certificate for 127.0.0.1, which signs itself, and its key beside it."""
    require(["openssl"])
    certificate = directory / "certificate.pem"
    options = "req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 2"
    subject = ["-subj", "/CN=127.0.0.1", "-addext", "subjectAltName=IP:127.0.0.1"]
    files = ["-keyout", str(directory / "key.pem"), "-out", str(certificate)]
    subprocess.run(["openssl", *options.split(), *subject, *files], check=True, capture_output=True)
    return certificate


@contextmanager
def started(
    directory: Path, *, private: bool = False, certificate: Path | None = None
) -> Iterator["HttpRegistry"]:
    """Run an empty registry on loopback, at a port of its own choice, with its files in
    `directory`. A private one asks for LOGIN; one with a certificate speaks HTTPS. Needs no root.
    """
    program = shutil.which("docker-registry")
    assert program is not None
    settings: dict[str, Any] = {
        "version": 0.1,
        "storage": {
            "filesystem": {"rootdirectory": str(directory / "data")},
            "delete": {"enabled": True},
        },
        "http": {"addr": "127.0.0.1:0", "relativeurls": True},
    }
    if private:
        (directory / "htpasswd").write_text(_PASSWORDS, "utf-8")
        settings["auth"] = {"htpasswd": {"realm": "r", "path": str(directory / "htpasswd")}}
    if certificate is not None:
        key = certificate.with_name("key.pem")
        settings["http"]["tls"] = {"certificate": str(certificate), "key": str(key)}
    configuration, log = directory / "config.json", directory / "log"
    configuration.write_text(json.dumps(settings), "utf-8")  # JSON is a subset of YAML
    with (
        log.open("wb") as output,
        subprocess.Popen([program, "serve", configuration], stdout=output, stderr=output) as server,
    ):
        try:
            deadline = time.monotonic() + _PATIENCE
            while (listening := _LISTENING.search(log.read_bytes())) is None:
                assert server.poll() is None, log.read_text("utf-8")
                assert time.monotonic() < deadline
                time.sleep(0.01)
            login = LOGIN if private else None
            yield HttpRegistry(
                address=listening[1].decode(),
                data=directory / "data",
                login=login,
                scheme="http" if certificate is None else "https",
            )
        finally:
            server.terminate()


@dataclass(frozen=True, slots=True, kw_only=True)
class HttpRegistry:
    """A registry at `address` that keeps its files in `data`. `login` is the user and the
    password.
    """

    address: str
    data: Path
    login: tuple[str, str] | None
    scheme: str

    @property
    def credentials(self) -> str:
        """The file with the user and the password, as docker and podman write it."""
        assert self.login is not None
        login = base64.b64encode(":".join(self.login).encode()).decode()
        return json.dumps({"auths": {self.address: {"auth": login}}})

    def blob_file(self, digest: str) -> Path:
        """Return the file of a blob."""
        digits = digest.removeprefix("sha256:")
        return self.data / "docker/registry/v2/blobs/sha256" / digits[:2] / digits / "data"

    def push(
        self, repository: str, layout: Layout, manifests: Sequence[dict[str, Any]], *tags: str
    ) -> None:
        """Push blobs, and manifests in an order in which each refers to earlier ones; tag the last."""
        known = {descriptor["digest"][7:] for descriptor in manifests}
        for name, data in layout.blobs.items():
            digits = os.path.basename(name)
            if digits not in known:
                place = self._send("POST", f"/v2/{repository}/blobs/uploads/")
                joint = "&" if "?" in place else "?"
                octets = "application/octet-stream"
                self._send("PUT", f"{place}{joint}digest=sha256:{digits}", data, octets)
        for descriptor in manifests:
            names = [descriptor["digest"], *(tags if descriptor is manifests[-1] else ())]
            for name in names:
                data = content(layout, descriptor)
                self._send(
                    "PUT", f"/v2/{repository}/manifests/{name}", data, descriptor["mediaType"]
                )

    def _send(self, method: str, path: str, data: bytes = b"", kind: str = "") -> str:
        """Return the Location of the answer."""
        url = path if path.startswith("http") else f"{self.scheme}://{self.address}{path}"
        request = urllib.request.Request(url, data, method=method)
        if kind:
            request.add_header("Content-Type", kind)
        if self.login:
            login = base64.b64encode(":".join(self.login).encode()).decode()
            request.add_header("Authorization", f"Basic {login}")
        anyone = ssl._create_unverified_context()
        with urllib.request.urlopen(request, timeout=20, context=anyone) as answer:
            return answer.headers["Location"] or ""

"""conf.json: its keys, their defaults, and everything that can be known wrong
with them before the first byte is written.

The document is the one nixpkgs' `dockerTools.streamLayeredImage` hands to its
script. Owns the JSON keys; knows neither tar nor OCI.
"""

from __future__ import annotations

import json
import os
import platform
import re
import stat
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

import orjson

from stream.checks import Fields, depth_of, id_of, kind, meant, no_id, not_normal
from stream.container_config import wrong_types
from stream.errors import ConfError, Fault
from stream.limits import MAX_DEPTH, MAX_FAULTS
from stream.model import (
    DEFAULT_CREATED,
    DEFAULT_STORE_DIR,
    BaseReference,
    CustomisationLayer,
    Digest,
    ImageConf,
    LayerPlan,
    Owner,
    Recipe,
)
from stream.nix.store_root import Disk, not_readable
from stream.text import one_line

HEAD = 512  # bytes that tell a conf from an archive
# In an executable with a conf, what stands before it: no line of a JSON document.
EMBEDDED = b"\nexit 126 # the conf follows\n"

# GOARCH names of what `platform.machine()` says.
ARCHITECTURES = {
    "x86_64": "amd64",
    "aarch64": "arm64",
    "armv7l": "arm",
    "armv6l": "arm",
    "i686": "386",
    "i386": "386",
    "ppc64le": "ppc64le",
    "riscv64": "riscv64",
    "s390x": "s390x",
    "loongarch64": "loong64",
}

# The grammar of github.com/distribution/reference, for `name:tag`.
_DOMAIN_COMPONENT = r"(?:[a-zA-Z0-9]|[a-zA-Z0-9][a-zA-Z0-9-]*[a-zA-Z0-9])"
_DOMAIN = rf"(?:{_DOMAIN_COMPONENT}(?:\.{_DOMAIN_COMPONENT})*|\[[a-fA-F0-9:]+\])(?::[0-9]+)?"
_PATH_COMPONENT = r"[a-z0-9]+(?:(?:[._]|__|-+)[a-z0-9]+)*"
_NAME = re.compile(rf"(?:{_DOMAIN}/)?{_PATH_COMPONENT}(?:/{_PATH_COMPONENT})*", re.ASCII)
_TAG = re.compile(r"\w[\w.-]{0,127}", re.ASCII)
MAX_NAME_LENGTH = 255
MAX_CONF = 1 << 27  # bytes; a conf of 10,000 store paths is one of a megabyte
PEEKED = 4096  # bytes; an archive has a NUL among them, no JSON has one

KEYS = frozenset(
    {
        "annotations", "architecture", "base_config", "base_history", "config", "created", "customisation_layer",
        "from_image", "gid", "gname", "labels", "mtime", "os", "repo_tag", "skip_base_paths", "store_dir",
        "store_layers", "store_root", "uid", "uname",
    }
)  # fmt: skip


def ignore(_message: str) -> None:
    """Tell nobody."""


def load_conf(
    source: str | os.PathLike[str],
    *,
    repo_tag: str | None = None,
    warn: Callable[[str], None] = ignore,
) -> ImageConf:
    """Read the conf at the path `source`, or from standard input if that is `-`.

    `repo_tag` takes the place of the conf's own. `warn` is called with one line
    for each key that is not known. Raises ConfError, with every fault found.
    """
    return parse_conf(read_conf(source), name=conf_name(source), repo_tag=repo_tag, warn=warn)


def conf_name(source: str | os.PathLike[str]) -> str:
    """What stands for `source` in messages: see `load_conf`."""
    return "standard input" if source == "-" else os.fspath(source)


def read_conf(source: str | os.PathLike[str]) -> bytes:
    """The bytes that `load_conf` parses. Raises ConfError."""
    try:
        with open(0 if source == "-" else source, "rb", closefd=source != "-") as file:
            data = file.read(MAX_CONF + 1)
    except OSError as error:
        fault = Fault("", f"cannot be read: {error.strerror}")
        raise ConfError(conf_name(source), [fault]) from error
    if len(data) > MAX_CONF:
        fault = Fault("", f"has more than {MAX_CONF} bytes: is it a conf?")
        raise ConfError(conf_name(source), [fault])
    if not data:
        hint = ": what writes it has failed?" if source == "-" else ""
        raise ConfError(conf_name(source), [Fault("", f"is empty{hint}")])
    return data


def conf_in(data: bytes, name: str) -> bytes:
    """The conf that an executable holds; anything else as it is. Raises ConfError for
    an executable that holds none. `name` stands for `data` in messages.
    """
    if not data.startswith(b"#!"):
        return data
    # The last one: paths before it can hold anything.
    _, found, conf = data.rpartition(EMBEDDED)
    if not found:
        raise ConfError(name, [Fault("", "is an executable that holds no conf: give the conf")])
    return conf


def parse_object(data: bytes, name: str) -> dict[str, Any]:
    """The JSON object that `data` is. Raises ConfError."""
    try:
        document = orjson.loads(data)
    except orjson.JSONDecodeError as error:
        if b"\0" in data[:PEEKED]:
            fault = Fault("", "is binary, not JSON: is it an archive?")
        else:
            place = f"line {error.lineno} column {error.colno}"
            fault = Fault(place, f"not JSON: {error.msg}")
        raise ConfError(name, [fault]) from None
    if not isinstance(document, dict):
        raise ConfError(name, [Fault("", f"must be an object, not {kind(document)}")])
    return document


def parse_conf(
    data: bytes,
    *,
    name: str = "conf.json",
    repo_tag: str | None = None,
    warn: Callable[[str], None] = ignore,
) -> ImageConf:
    """The conf in `data`; `name` stands for it in messages. See `load_conf`."""
    data = conf_in(data, name)
    document = parse_object(data, name)
    if "name" in document and not document.keys() & {"repo_tag", "store_layers"}:
        wrong = "is a specification: give what 'stream-image plan' makes of it"
        raise ConfError(name, [Fault("", wrong)])
    if isinstance(document.get("config"), dict):
        document["config"] = _exact_config(name, data)
    if repo_tag is not None:
        document["repo_tag"] = repo_tag
    reader = _Reader(document)
    conf = reader.conf()
    for key in document:
        if key not in KEYS:
            warn(one_line(f"{name}: {key}: unknown key, ignored{meant(key, KEYS)}"))
    if reader.faults:
        raise ConfError(name, reader.faults)
    usual = ARCHITECTURES.get(conf.architecture.removesuffix("-linux"))
    if usual and usual != conf.architecture:
        shown = (
            f"architecture: {conf.architecture!r} is no name that images have: {usual} is meant?"
        )
        warn(one_line(f"{name}: {shown}"))
    return conf


def _exact_config(name: str, data: bytes) -> Any:
    """The container config as the standard library reads it: orjson makes floats
    of integers that have more than 64 bits, which would change the image ID.
    """
    try:
        value = json.loads(data)["config"]
    except (RecursionError, ValueError) as error:
        raise ConfError(name, [Fault("config", f"cannot be read: {error}")]) from None
    if (depth := depth_of(value)) > MAX_DEPTH:
        raise ConfError(name, [Fault("config", f"is nested {depth} deep, {MAX_DEPTH} are allowed")])
    return value


def parse_instant(text: str, now: datetime) -> datetime:
    """An ISO 8601 instant with an offset or `Z`, or `now`. Raises ValueError."""
    if text == "now":
        return now
    instant = datetime.fromisoformat(text)
    if instant.tzinfo is None:
        raise ValueError("no offset")
    return instant


def check_repo_tag(repo_tag: str) -> str | None:
    """What is wrong with `repo_tag` as `name:tag`, or None."""
    name, colon, tag = repo_tag.rpartition(":")
    if not colon or "/" in tag:
        return f"{repo_tag!r} has no tag: write name:tag"
    if not _NAME.fullmatch(name):
        rule = "a repository name is lower-case"
        if not _NAME.fullmatch(name.lower()):
            rule = "letters, digits, and one of '.', '_', '-', '/' between them"
        return f"{name!r} is not a repository name: {rule}"
    if len(name) > MAX_NAME_LENGTH:
        return f"the repository name has {len(name)} characters, {MAX_NAME_LENGTH} are allowed"
    if not _TAG.fullmatch(tag):
        return f"{tag!r} is not a tag: letters, digits, '_', '.', '-', at most 128"
    return None


class _Reader:
    """Reads one document key by key, and collects what is wrong instead of
    stopping at the first fault. What a faulty key yields is never used.
    """

    def __init__(self, document: dict[str, Any]) -> None:
        self._document = document
        self._store_is_known = True  # else each store path would be missed
        self.faults: list[Fault] = []

    def _fault(self, place: str, message: str) -> None:
        self.faults.append(Fault(place, message))

    def conf(self) -> ImageConf:
        now = datetime.now(UTC)
        created = self._instant("created", now, None)
        disk = Disk(self._store_dir().encode(), self._store_root().encode())
        self._text("os", "linux")
        return ImageConf(
            architecture=self._architecture(),
            container_config=self._container_config(),
            store_dir=disk.store_dir,
            store_layers=self._store_layers(disk),
            customisation_layer=self._customisation_layer(disk),
            repo_tag=self._repo_tag(),
            created=created,
            mtime=int(self._instant("mtime", now, created).timestamp()),
            owner=Owner(
                uid=self._id("uid"),
                gid=self._id("gid"),
                uname=self._text("uname", "root"),
                gname=self._text("gname", "root"),
            ),
            base=self._base(),
            annotations=self._strings("annotations"),
            store_root=disk.root,
        )

    def _text(self, key: str, default: str) -> str:
        value = self._document.get(key, default)
        if isinstance(value, str) and "\0" not in value:
            return value
        what = kind(value) if not isinstance(value, str) else "one with a NUL character"
        self._fault(key, f"must be a string, not {what}")
        return default

    def _architecture(self) -> str:
        machine = platform.machine()
        value = self._text("architecture", ARCHITECTURES.get(machine, machine))
        if not value:
            self._fault("architecture", "is empty: name one like amd64 or arm64")
        return value

    def _container_config(self) -> dict[str, Any]:
        labels = self._strings("labels")
        value = self._document.get("config", {})
        if not isinstance(value, dict):
            self._fault("config", f"must be an object, not {kind(value)}")
            return {}
        wrong = [*wrong_types(value)]
        for place, message in wrong[:MAX_FAULTS]:
            self._fault(f"config.{place}", message)
        if not labels or wrong:
            return value
        return {**value, "Labels": {**(value.get("Labels") or {}), **labels}}

    def _strings(self, key: str) -> dict[str, str]:
        """The object of strings at `key`."""
        value = self._document.get(key, {})
        if not isinstance(value, dict):
            self._fault(key, f"must be an object, not {kind(value)}")
            return {}
        for name, item in value.items():
            if not name:
                self._fault(key, "has an empty name")
            if not isinstance(item, str):
                self._fault(f"{key}[{json.dumps(name)}]", f"must be a string, not {kind(item)}")
        return value

    def _repo_tag(self) -> str:
        if "repo_tag" not in self._document:
            self._fault("repo_tag", "is missing: write it in the conf or give --repo-tag")
            return ""
        value = self._text("repo_tag", "")
        if isinstance(self._document["repo_tag"], str) and (wrong := check_repo_tag(value)):
            self._fault("repo_tag", wrong)
        return value

    def _instant(self, key: str, now: datetime, default: datetime | None) -> datetime:
        fallback = default or datetime.fromisoformat(DEFAULT_CREATED)
        if key not in self._document:
            return fallback
        value = self._document[key]
        if not isinstance(value, str):
            self._fault(key, f"must be a string, not {kind(value)}")
            return fallback
        try:
            return parse_instant(value, now)
        except ValueError:
            example = "2024-05-17T08:30:00Z"
            self._fault(key, f"{value!r} is not an instant like {example}, nor 'now'")
            return fallback

    def _base(self) -> BaseReference | None:
        config = self._choice("base_config", ("env", "full"))
        history = self._choice("base_history", ("rewrite", "keep"))
        skip = self._document.get("skip_base_paths", False)
        if not isinstance(skip, bool):
            self._fault("skip_base_paths", f"must be a boolean, not {kind(skip)}")
        key = "from_image"
        if self._document.get(key) is None:
            return None
        value = self._text(key, "")
        if not value:
            if self._document[key] == "":
                self._fault(key, "is empty: leave the key out for none")
            return None
        path, repo_tag = split_archive(value)
        if wrong := _no_archive(path):
            self._fault(key, f"{path} {wrong}")
        return BaseReference(
            path=path,
            repo_tag=repo_tag,
            config=config,
            history=history,
            skip_store_paths=skip is True,
        )

    def _choice(self, key: str, choices: tuple[str, ...]) -> str:
        value = self._text(key, choices[0])
        if value not in choices:
            names = " or ".join(repr(choice) for choice in choices)
            self._fault(key, f"must be {names}, not {value!r}")
        return value

    def _id(self, key: str) -> int:
        value = self._document.get(key, 0)
        number = id_of(value)
        if number is None:
            self._fault(key, no_id(value))
        return number or 0

    def _store_dir(self) -> str:
        value = self._text("store_dir", DEFAULT_STORE_DIR)
        if wrong := not_normal(value):
            self._fault("store_dir", f"{value!r} {wrong}")
        return value

    def _store_root(self) -> str:
        """The root below which the store is, empty for this machine's."""
        if "store_root" not in self._document:
            return ""
        before = len(self.faults)
        value = self._text("store_root", "/")
        if wrong := not_normal(value):
            self._fault("store_root", f"{value!r} {wrong}")
        elif not os.path.isdir(value.encode()):
            self._fault("store_root", f"{value} is not a directory")
        self._store_is_known = len(self.faults) == before
        return value.rstrip("/")

    def _store_layers(self, disk: Disk) -> tuple[LayerPlan, ...]:
        value = self._document.get("store_layers", [])
        if not isinstance(value, list):
            self._fault("store_layers", f"must be a list of lists, not {kind(value)}")
            return ()
        seen: dict[str, str] = {}
        plans = []
        for index, paths in enumerate(value):
            place = f"store_layers[{index}]"
            if not isinstance(paths, list):
                self._fault(place, f"must be a list of store paths, not {kind(paths)}")
            elif not paths:
                self._fault(place, "is empty: a layer holds at least one store path")
            else:
                good = [
                    path.encode()
                    for i, path in enumerate(paths)
                    if self._check_store_path(f"{place}[{i}]", path, disk, seen)
                ]
                plans.append(LayerPlan(store_paths=tuple(good)))
        return tuple(plans)

    def _check_store_path(self, place: str, path: object, disk: Disk, seen: dict[str, str]) -> bool:
        if not isinstance(path, str):
            self._fault(place, f"must be a string, not {kind(path)}")
        elif wrong := not_normal(path):
            self._fault(place, f"{path!r} {wrong}")
        elif os.path.dirname(path) != (store_dir := disk.store_dir.decode()):
            self._fault(
                place,
                f"{path} is not directly in the store directory {store_dir}: set store_dir if another is meant",
            )
        elif path in seen:
            self._fault(place, f"{path} is listed already, at {seen[path]}")
        elif self._store_is_known and (wrong := not_readable(path, disk)):
            self._fault(place, f"{path} {wrong}")
        else:
            seen[path] = place
            return True
        if isinstance(path, str):
            seen.setdefault(path, place)
        return False

    def _customisation_layer(self, disk: Disk) -> CustomisationLayer | Recipe | None:
        key = "customisation_layer"
        value = self._document.get(key)
        if value is None:
            return None
        if isinstance(value, dict):
            from stream import recipe_config

            Fields(value, key, self._fault).check_keys(recipe_config.KEYS)
            return recipe_config.read_recipe(value, key, self._fault, disk)
        path = self._text(key, "")
        if path:
            return self._ready_layer(key, path)
        if value == "":
            self._fault(key, "is empty: leave the key out for none")
        return None

    def _ready_layer(self, key: str, path: str) -> CustomisationLayer | None:
        try:
            name = f"{path}/checksum"
            fd = os.open(name.encode(), os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
            try:
                checksum = os.read(fd, 80).decode("ascii", "replace").strip()
            finally:
                os.close(fd)
            name = f"{path}/layer.tar"
            status = os.stat(name.encode())
            if not os.access(name.encode(), os.R_OK):
                raise PermissionError(13, "Permission denied")
        except OSError as error:
            self._fault(key, f"{name} cannot be read: {error.strerror}")
            return None
        if not re.fullmatch("[0-9a-f]{64}", checksum):
            self._fault(key, f"{path}/checksum does not hold 64 hexadecimal digits")
            return None
        if not stat.S_ISREG(status.st_mode):
            self._fault(key, f"{path}/layer.tar is not a regular file")
            return None
        return CustomisationLayer(
            path=path, checksum=Digest(f"sha256:{checksum}"), size=status.st_size
        )


def begins_conf(head: bytes) -> bool:
    """Whether what begins so is a document, or an executable with one: neither has a
    NUL, and no tar's header has none.
    """
    return (head.lstrip()[:1] == b"{" or head[:2] == b"#!") and b"\0" not in head


def head_of(path: str) -> bytes:
    """The first HEAD bytes of a regular file; none of what is not one."""
    try:
        fd = os.open(os.fsencode(path), os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
        try:
            return os.pread(fd, HEAD, 0)
        finally:
            os.close(fd)
    except (OSError, ValueError):
        return b""  # opening it will tell


def is_conf(path: str) -> bool:
    """Whether the file at `path` is a conf, and no archive."""
    return begins_conf(head_of(path))


def split_archive(text: str) -> tuple[str, str | None]:
    """`FILE` or `FILE:name:tag` as the file and the tag. What exists as a whole is
    a file, whatever colons are in its name.
    """
    at = -1
    while not _exists(text) and (at := text.find(":", at + 1)) >= 0:
        if _exists(text[:at]):
            return text[:at], text[at + 1 :]
    return text, None


def _exists(path: str) -> bool:
    return os.path.lexists(path.encode("utf-8", "surrogateescape"))


def _no_archive(path: str) -> str | None:
    """Why nothing can be read at `path`, or None."""
    name = path.encode()
    if not os.path.exists(name):
        return "does not exist"
    return None if os.access(name, os.R_OK) else "cannot be read: Permission denied"

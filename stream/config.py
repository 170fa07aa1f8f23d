"""Read and write a conf: its JSON keys, their defaults, and every fault that can be found
before the first byte is written.

The document is the one that nixpkgs' `dockerTools.streamLayeredImage` passes to its script.
Owns the JSON keys; must not know tar or the files that hold a conf.
"""

from __future__ import annotations

import json
import os
import platform
import re
import stat
from collections.abc import Callable, Sequence
from contextlib import suppress
from datetime import UTC, datetime, timedelta, timezone
from itertools import islice
from typing import Any

from stream.archives.target import split_archive, why_unreadable
from stream.errors import ArgumentError, ConfError, Fault
from stream.faults import (
    NoteFault,
    is_text,
    kind,
    measure_depth,
    suggest,
    why_not_in_image,
    why_not_normal,
)
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
from stream.nix.hashes import parse_sha256, to_sri
from stream.nix.store_root import Disk, why_not_readable
from stream.oci.container_config import unusual_keys, wrong_types
from stream.oci.platform import ARCHITECTURES
from stream.oci.reference import BadReference, Reference
from stream.schema import platforms
from stream.schema.fields import Fields, NoteFormer
from stream.schema.reading import conf_in, conf_name, ignore, load_object, parse_object
from stream.text import one_line

_NO_TAG = "is missing; set it in the conf, or pass a tag"
_WIDEST = timedelta(hours=24, seconds=-1)  # the largest offset from UTC
MAX_COMMENT = 200  # characters of a ready-made layer's line in the history
KEYS = frozenset(
    {
        "annotations", "architecture", "base_config", "base_history", "config", "created", "customisation_layer",
        "customisation_mtime", "customisation_store_paths", "from_image", "gid", "gname", "labels",
        "mtime", "os", "repo_tag", "skip_base_paths", "store_dir", "store_layers", "store_path_hashes", "store_root",
        "uid", "uname", "variant",
    }
)  # fmt: skip


def load_conf(
    source: str | os.PathLike[str],
    *,
    repo_tag: str | None = None,
    need_tag: bool = True,
    warn: Callable[[str], None] = ignore,
) -> ImageConf:
    """Read the conf at the path `source`, or from standard input if that is `-`.

    `repo_tag` replaces the conf's own. With `need_tag`, a conf without either is faulty: an
    archive needs a tag. `warn` is called with one line for each key that is unknown or in a
    former spelling. Raises ConfError, with all faults found at once.
    """
    return read_conf_document(
        load_object(source),
        name=conf_name(source),
        repo_tag=repo_tag,
        need_tag=need_tag,
        warn=warn,
    )


def parse_conf(
    data: bytes,
    *,
    name: str = "conf.json",
    repo_tag: str | None = None,
    need_tag: bool = True,
    warn: Callable[[str], None] = ignore,
) -> ImageConf:
    """Parse the conf in `data`, which messages call `name`. See `load_conf`."""
    ArgumentError.require("data", data, bytes)
    document = parse_object(conf_in(data, name), name)
    return read_conf_document(document, name=name, repo_tag=repo_tag, need_tag=need_tag, warn=warn)


def is_spec(document: dict[str, Any]) -> bool:
    """Return True if a JSON object is a specification rather than a conf."""
    return "name" in document and not document.keys() & {"repo_tag", "store_layers"}


def read_conf_document(
    document: dict[str, Any],
    *,
    name: str = "conf.json",
    repo_tag: str | None = None,
    need_tag: bool = True,
    warn: Callable[[str], None] = ignore,
) -> ImageConf:
    """Read the conf from the JSON object `document`, without changing it. See `load_conf`."""
    if is_spec(document):
        wrong = "is a specification, not a conf; plan it first (run: stream-image plan FILE)"
        raise ConfError(name, [Fault("", wrong)])
    if document.get(platforms.KEY) is not None:
        raise ConfError(name, [Fault(platforms.KEY, platforms.TOO_MANY)])
    config = document.get("config")
    if isinstance(config, dict) and (depth := measure_depth(config)) > MAX_DEPTH:
        raise ConfError(
            name,
            [Fault("config", f"is nested {depth} deep; at most {MAX_DEPTH} levels are allowed")],
        )
    if repo_tag is not None:
        document = {**document, "repo_tag": repo_tag}
    faults: list[Fault] = []
    former: dict[str, str] = {}  # by current spelling, the first place of a former one
    conf = read_image(
        document,
        lambda *fault: faults.append(Fault(*fault)),
        need_tag=need_tag,
        former=lambda place, key: former.setdefault(key, place),
    )
    unknown = [key for key in document if key not in KEYS]
    for key in unknown[:MAX_FAULTS]:
        warn(one_line(f"{name}: {key}: ignoring unknown key{suggest(key, KEYS)}"))
    if more := len(unknown[MAX_FAULTS:]):
        warn(one_line(f"{name}: ignoring {more} more unknown key{'' if more == 1 else 's'}"))
    for key, place in former.items():
        warn(one_line(f"{name}: {place}: is a former spelling; write {key}"))
    if faults:
        raise ConfError(name, faults)
    warn_of_oddities(conf, name, warn)
    return conf


def read_image(
    document: dict[str, Any],
    fault: NoteFault,
    *,
    need_tag: bool,
    former: NoteFormer,
) -> ImageConf:
    """Read the keys of a conf in `document`, and ignore others. `fault` is called with each
    fault, `former` with each key in a former spelling. After a fault the result is not usable.
    """
    return _Reader(document, fault, former).conf(need_tag=need_tag)


def warn_of_oddities(conf: ImageConf, name: str, warn: Callable[[str], None]) -> None:
    """Warn of an architecture that is not named as in OCI (GOARCH), and of keys of the container
    config that no consumer has in that spelling.
    """
    usual = ARCHITECTURES.get(conf.architecture.removesuffix("-linux"))
    if usual and usual != conf.architecture:
        wrong = f"{conf.architecture!r} is not an OCI architecture; did you mean {usual}?"
        warn(one_line(f"{name}: architecture: {wrong}"))
    for place, wrong in islice(unusual_keys(conf.container_config), MAX_FAULTS):
        warn(one_line(f"{name}: config.{place}: {wrong}"))


def require_tag(conf: ImageConf, name: str = "conf") -> None:
    """Raise ConfError if `conf` has no tag."""
    if conf.repo_tag is None:
        raise ConfError(name, [Fault("repo_tag", _NO_TAG)])


def parse_instant(text: str, now: datetime) -> datetime:
    """Parse an ISO 8601 instant with an offset or `Z`; `now` yields `now`. Raises ValueError."""
    if text == "now":
        return now
    instant = datetime.fromisoformat(text)
    if instant.tzinfo is None:
        raise ValueError("no offset")
    return instant


class _Reader(Fields):
    """A reader of one document, key by key, which reports every fault instead of stopping at
    the first. The value of a faulty key is never used.
    """

    def __init__(self, document: dict[str, Any], fault: NoteFault, former: NoteFormer) -> None:
        super().__init__(document, "", fault, strict=True)
        self._former = former
        self._store_is_known = True  # otherwise every store path would be reported
        self._listed: dict[str, str] = {}  # the first place of each store path

    def conf(self, *, need_tag: bool) -> ImageConf:
        now = datetime.now(UTC)
        created = self._instant("created", now, None)
        mtime = self._instant("mtime", now, created)
        disk = Disk(self._store_dir().encode(), self._store_root().encode())
        self.text("os")
        return ImageConf(
            architecture=self._architecture(),
            container_config=self._container_config(),
            store_dir=disk.store_dir,
            store_layers=self._store_layers(disk),
            customisation_layer=self._customisation_layer(disk),
            customisation_store_paths=self._customisation_store_paths(disk),
            repo_tag=self._repo_tag(needed=need_tag),
            created=created,
            mtime=_seconds(mtime),
            customisation_mtime=_seconds(self._instant("customisation_mtime", now, mtime)),
            owner=Owner(
                uid=self.id("uid") or 0,
                gid=self.id("gid") or 0,
                uname=self.text("uname", "root"),
                gname=self.text("gname", "root"),
            ),
            base=self._base(),
            annotations=self.strings("annotations"),
            store_root=disk.root,
            store_path_hashes=self._store_path_hashes(),
            variant=self.text("variant", empty=False),
        )

    def _architecture(self) -> str:
        machine = platform.machine()
        value = self.text("architecture", ARCHITECTURES.get(machine, machine))
        if not value:
            self.fault("architecture", "is empty; use a name such as amd64 or arm64")
        return value

    def _container_config(self) -> dict[str, Any]:
        labels = self.strings("labels")
        # nixpkgs writes null where the user did.
        value = {} if self.get("config") is None else self.object("config")
        wrong = [*wrong_types(value)]
        for place, message, _ in wrong:
            self.fault(f"config.{place}", message)
        if not labels or wrong:
            return value
        return {**value, "Labels": {**(value.get("Labels") or {}), **labels}}

    def _repo_tag(self, *, needed: bool) -> str | None:
        if not needed and self.get("repo_tag") is None:
            return None
        if not self.has("repo_tag"):
            self.fault("repo_tag", _NO_TAG)
            return None
        value = self.get("repo_tag")
        if not isinstance(value, str):
            self.fault("repo_tag", f"must be a string, not {kind(value)}")
            return None
        try:
            return str(Reference.parse(value))
        except BadReference as wrong:
            self.fault("repo_tag", str(wrong))
            return None

    def _instant(self, key: str, now: datetime, default: datetime | None) -> datetime:
        fallback = default or datetime.fromisoformat(DEFAULT_CREATED)
        value = self.get(key)
        if not isinstance(value, str):
            if self.has(key):
                self.fault(key, f"must be a string, not {kind(value)}")
            return fallback
        try:
            return parse_instant(value, now)
        except ValueError:
            example = "2024-05-17T08:30:00Z"
            self.fault(key, f"{value!r} is not an instant such as {example} or 'now'")
            return fallback

    def _base(self) -> BaseReference | None:
        config = self.choice("base_config", ("env", "full"))
        history = self.choice("base_history", ("rewrite", "keep"))
        skip = self.boolean("skip_base_paths")
        key = "from_image"
        if self.get(key) is None:
            return None
        value = self.text(key)
        if not value:
            if self.document[key] == "":
                self.fault(key, "is empty; omit the key instead")
            return None
        path, repo_tag = split_archive(value)
        if wrong := why_unreadable(path):
            self.fault(key, f"{path}: {wrong}")
        return BaseReference(
            path=path,
            repo_tag=repo_tag,
            config=config,
            history=history,
            skip_store_paths=skip,
        )

    def _store_dir(self) -> str:
        value = self.text("store_dir", DEFAULT_STORE_DIR)
        if wrong := why_not_in_image(value):
            self.fault("store_dir", f"{value!r} {wrong}")
        return value

    def _store_root(self) -> str:
        """Return the root that the store is below, or an empty string for this machine's store."""
        if not self.has("store_root"):
            return ""
        value = self.text("store_root", "/")
        self._store_is_known = False
        if wrong := why_not_normal(value):
            self.fault("store_root", f"{value!r} {wrong}")
        elif not os.path.isdir(value.encode()):
            self.fault("store_root", f"{value} is not a directory")
        else:
            self._store_is_known = value == self.get("store_root")
        return value.rstrip("/")

    def _store_layers(self, disk: Disk) -> tuple[LayerPlan, ...]:
        layers = self.list("store_layers", of="lists")
        return read_store_layers(
            layers,
            "store_layers",
            self._fault,
            disk,
            listed=self._listed,
            check_files=self._store_is_known,
        )

    def _customisation_store_paths(self, disk: Disk) -> tuple[bytes, ...]:
        key = "customisation_store_paths"
        paths = self.list(key)
        if paths and self.get("customisation_layer") is None:
            self.fault(key, "are behind the files of customisation_layer, which is missing")
        return _read_store_paths(
            paths, key, self._fault, disk, self._listed, check_files=self._store_is_known
        )

    def _store_path_hashes(self) -> dict[bytes, str]:
        """Return the NAR hashes of store paths, after these were read."""
        key = "store_path_hashes"
        hashes = {}
        for path, value in self.object(key).items():
            place = f"{self.at(key)}[{json.dumps(path)}]"
            if path not in self._listed:
                where = "store_layers or customisation_store_paths"
                self._fault(place, f"is not the hash of a store path in {where}")
            elif not isinstance(value, str):
                self._fault(place, f"must be a string, not {kind(value)}")
            elif is_text(path):
                try:
                    hashes[path.encode()] = f"sha256:{parse_sha256(value).hex()}"
                except ValueError as wrong:
                    self._fault(place, str(wrong))
        return dict(sorted(hashes.items()))  # equal confs are equal in all they print

    def _customisation_layer(self, disk: Disk) -> CustomisationLayer | Recipe | None:
        key = "customisation_layer"
        value = self.get(key)
        if value is None:
            return None
        if isinstance(value, dict):
            from stream.schema.recipe import read_recipe

            return read_recipe(value, key, self._fault, disk, self._former)
        path = self.text(key)
        if path:
            return self._ready_layer(key, path)
        if value == "":
            self.fault(key, "is empty; omit the key instead")
        return None

    def _ready_layer(self, key: str, path: str) -> CustomisationLayer | None:
        comment = ""
        try:
            name = f"{path}/checksum"
            checksum = _first_bytes(name, 80).decode("ascii", "replace").strip()
            name = f"{path}/comment"
            with suppress(FileNotFoundError):
                comment = _first_bytes(name, MAX_COMMENT + 2).decode("utf-8", "replace")
            name = f"{path}/layer.tar"
            status = os.stat(name.encode())
            if not os.access(name.encode(), os.R_OK):
                raise PermissionError(13, "Permission denied")
        except OSError as error:
            self.fault(key, f"{name}: cannot be read: {error.strerror}")
            return None
        if not re.fullmatch("[0-9a-f]{64}", checksum):
            self.fault(key, f"{path}/checksum does not contain 64 hexadecimal digits")
            return None
        comment = comment.removesuffix("\n")
        if len(comment) > MAX_COMMENT or not comment.isprintable():
            self.fault(key, f"{path}/comment is not a line of at most {MAX_COMMENT} characters")
            return None
        if not stat.S_ISREG(status.st_mode):
            self.fault(key, f"{path}/layer.tar is not a regular file")
            return None
        return CustomisationLayer(
            path=path,
            checksum=Digest(f"sha256:{checksum}"),
            size=status.st_size,
            comment=comment,
        )


def _first_bytes(path: str, count: int) -> bytes:
    """Return at most `count` bytes of the file at `path`, without waiting for a FIFO's writer.
    Raises OSError.
    """
    fd = os.open(path.encode(), os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    try:
        return os.read(fd, count)
    finally:
        os.close(fd)


def read_store_layers(  # noqa: PLR0913 — the value, its place, and what to check it against
    layers: Sequence[object],
    place: str,
    fault: NoteFault,
    disk: Disk,
    *,
    listed: dict[str, str] | None = None,
    check_files: bool = True,
) -> tuple[LayerPlan, ...]:
    """Read `layers`, the value at `place`: lists of store paths. Each path must be directly in
    the store directory, listed once and, with `check_files`, readable on `disk`. `listed` gets
    the place of each.
    """
    if listed is None:
        listed = {}
    plans = []
    for index, paths in enumerate(layers):
        at = f"{place}[{index}]"
        if not isinstance(paths, list):
            fault(at, f"must be a list of store paths, not {kind(paths)}")
        elif not paths:
            fault(at, "is empty; a layer has at least one store path")
        else:
            good = _read_store_paths(paths, at, fault, disk, listed, check_files=check_files)
            plans.append(LayerPlan(store_paths=good))
    return tuple(plans)


def _read_store_paths(  # noqa: PLR0913 — as above
    paths: Sequence[object],
    place: str,
    fault: NoteFault,
    disk: Disk,
    listed: dict[str, str],
    *,
    check_files: bool = True,
) -> tuple[bytes, ...]:
    """Read the list of store paths at `place`: see `read_store_layers`."""
    store_dir = disk.store_dir.decode()

    def wrong_path(path: object, at: str) -> str | None:
        if not isinstance(path, str):
            return f"must be a string, not {kind(path)}"
        first = listed.setdefault(path, at)
        if wrong := why_not_in_image(path):
            return f"{path!r} {wrong}"
        if os.path.dirname(path) != store_dir:
            hint = "set store_dir if the store is elsewhere"
            return f"{path} is not directly in the store directory {store_dir}; {hint}"
        if first != at:
            return f"{path} is already listed at {first}"
        if check_files and (wrong := why_not_readable(path, disk)):
            return f"{path}: {wrong}"
        return None

    good = []
    for number, path in enumerate(paths):
        at = f"{place}[{number}]"
        if wrong := wrong_path(path, at):
            fault(at, wrong)
        else:
            assert isinstance(path, str)
            good.append(path.encode())
    return tuple(good)


# ---- writing


def conf_document(conf: ImageConf) -> dict[str, Any]:
    """Return `conf` as a JSON object that reads as an equal conf. Defaults are omitted, except
    for `store_layers` and the architecture, which differs between machines. Labels are part
    of `config`.
    """
    base, owner, layer = conf.base, conf.owner, conf.customisation_layer
    if isinstance(layer, Recipe):
        from stream.schema.recipe import recipe_document

        customisation_layer: Any = recipe_document(layer)
    else:
        customisation_layer = layer and layer.path
    default = Owner()
    members = {
        "annotations": conf.annotations or None,
        "architecture": conf.architecture,
        "base_config": _unless(base and base.config, "env"),
        "base_history": _unless(base and base.history, "rewrite"),
        "config": conf.container_config or None,
        "created": _unless(conf.created.isoformat(), DEFAULT_CREATED),
        "customisation_layer": customisation_layer,
        "customisation_mtime": None
        if conf.customisation_mtime == conf.mtime
        else _instant_text(conf.customisation_mtime),
        "customisation_store_paths": [path.decode() for path in conf.customisation_store_paths]
        or None,
        "from_image": base and base.path + ("" if base.repo_tag is None else f":{base.repo_tag}"),
        "gid": _unless(owner.gid, default.gid),
        "gname": _unless(owner.gname, default.gname),
        "mtime": None if conf.mtime == _seconds(conf.created) else _instant_text(conf.mtime),
        "repo_tag": conf.repo_tag,
        "skip_base_paths": True if base and base.skip_store_paths else None,
        "store_dir": _unless(conf.store_dir.decode(), DEFAULT_STORE_DIR),
        "store_layers": [
            [path.decode() for path in plan.store_paths] for plan in conf.store_layers
        ],
        "store_path_hashes": {
            path.decode(): to_sri(nar_hash)
            for path, nar_hash in sorted(conf.store_path_hashes.items())
        }
        or None,
        "store_root": conf.store_root.decode() or None,
        "uid": _unless(owner.uid, default.uid),
        "uname": _unless(owner.uname, default.uname),
        "variant": conf.variant or None,
    }
    return {key: value for key, value in members.items() if value is not None}


def _unless(value: object, default: object) -> object:
    return None if value == default else value


def _seconds(instant: datetime) -> int:
    return int(instant.timestamp())


def _instant_text(seconds: int) -> str:
    """Return the instant `seconds` after the epoch as ISO 8601. At either end of the range of
    four-digit years, only an instant with an offset can express it. Raises ValueError.
    """
    epoch = datetime.fromtimestamp(0, UTC).replace(tzinfo=None)
    for offset in timedelta(), _WIDEST, -_WIDEST:
        with suppress(OverflowError):
            local = epoch + (timedelta(seconds=seconds) + offset)
            return local.replace(tzinfo=timezone(offset)).isoformat()
    raise ValueError(f"{seconds} seconds after the epoch are not an instant of four-digit years")

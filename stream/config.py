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

from stream.archives.target import split_archive, why_unreadable
from stream.errors import ConfError, Fault
from stream.faults import depth_of, kind, meant, not_normal
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
from stream.oci.container_config import wrong_types
from stream.oci.platform import ARCHITECTURES
from stream.oci.reference import BadReference, Reference
from stream.schema.fields import Fields
from stream.schema.reading import conf_in, conf_name, ignore, parse_object, read_conf
from stream.text import one_line

KEYS = frozenset(
    {
        "annotations", "architecture", "base_config", "base_history", "config", "created", "customisation_layer",
        "from_image", "gid", "gname", "labels", "mtime", "os", "repo_tag", "skip_base_paths", "store_dir",
        "store_layers", "store_root", "uid", "uname",
    }
)  # fmt: skip


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


class _Reader(Fields):
    """Reads one document key by key, and collects what is wrong instead of
    stopping at the first fault. What a faulty key yields is never used.
    """

    def __init__(self, document: dict[str, Any]) -> None:
        self.faults: list[Fault] = []
        super().__init__(document, "", self._note, strict=True)
        self._store_is_known = True  # else each store path would be missed

    def _note(self, place: str, message: str) -> None:
        self.faults.append(Fault(place, message))

    def conf(self) -> ImageConf:
        now = datetime.now(UTC)
        created = self._instant("created", now, None)
        disk = Disk(self._store_dir().encode(), self._store_root().encode())
        self.text("os")
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
                uid=self.id("uid") or 0,
                gid=self.id("gid") or 0,
                uname=self.text("uname", "root"),
                gname=self.text("gname", "root"),
            ),
            base=self._base(),
            annotations=self.strings("annotations"),
            store_root=disk.root,
        )

    def _architecture(self) -> str:
        machine = platform.machine()
        value = self.text("architecture", ARCHITECTURES.get(machine, machine))
        if not value:
            self.fault("architecture", "is empty: name one like amd64 or arm64")
        return value

    def _container_config(self) -> dict[str, Any]:
        labels = self.strings("labels")
        value = self.object("config")
        wrong = [*wrong_types(value)]
        for place, message in wrong[:MAX_FAULTS]:
            self.fault(f"config.{place}", message)
        if not labels or wrong:
            return value
        return {**value, "Labels": {**(value.get("Labels") or {}), **labels}}

    def _repo_tag(self) -> str:
        if not self.has("repo_tag"):
            self.fault("repo_tag", "is missing: write it in the conf or give --repo-tag")
            return ""
        value = self.text("repo_tag", nul=True)
        if isinstance(self.document["repo_tag"], str):
            try:
                Reference.parse(value)
            except BadReference as wrong:
                self.fault("repo_tag", str(wrong))
        return value

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
            self.fault(key, f"{value!r} is not an instant like {example}, nor 'now'")
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
                self.fault(key, "is empty: leave the key out for none")
            return None
        path, repo_tag = split_archive(value)
        if wrong := why_unreadable(path):
            self.fault(key, f"{path} {wrong}")
        return BaseReference(
            path=path,
            repo_tag=repo_tag,
            config=config,
            history=history,
            skip_store_paths=skip,
        )

    def _store_dir(self) -> str:
        value = self.text("store_dir", DEFAULT_STORE_DIR)
        if wrong := not_normal(value):
            self.fault("store_dir", f"{value!r} {wrong}")
        return value

    def _store_root(self) -> str:
        """The root below which the store is, empty for this machine's."""
        if not self.has("store_root"):
            return ""
        before = len(self.faults)
        value = self.text("store_root", "/")
        if wrong := not_normal(value):
            self.fault("store_root", f"{value!r} {wrong}")
        elif not os.path.isdir(value.encode()):
            self.fault("store_root", f"{value} is not a directory")
        self._store_is_known = len(self.faults) == before
        return value.rstrip("/")

    def _store_layers(self, disk: Disk) -> tuple[LayerPlan, ...]:
        seen: dict[str, str] = {}
        plans = []
        for index, paths in enumerate(self.list("store_layers", of="lists")):
            place = f"store_layers[{index}]"
            if not isinstance(paths, list):
                self.fault(place, f"must be a list of store paths, not {kind(paths)}")
            elif not paths:
                self.fault(place, "is empty: a layer holds at least one store path")
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
            self.fault(place, f"must be a string, not {kind(path)}")
        elif wrong := not_normal(path):
            self.fault(place, f"{path!r} {wrong}")
        elif os.path.dirname(path) != (store_dir := disk.store_dir.decode()):
            self.fault(
                place,
                f"{path} is not directly in the store directory {store_dir}: set store_dir if another is meant",
            )
        elif path in seen:
            self.fault(place, f"{path} is listed already, at {seen[path]}")
        elif self._store_is_known and (wrong := not_readable(path, disk)):
            self.fault(place, f"{path} {wrong}")
        else:
            seen[path] = place
            return True
        if isinstance(path, str):
            seen.setdefault(path, place)
        return False

    def _customisation_layer(self, disk: Disk) -> CustomisationLayer | Recipe | None:
        key = "customisation_layer"
        value = self.get(key)
        if value is None:
            return None
        if isinstance(value, dict):
            from stream.schema import recipe as recipe_config

            Fields(value, key, self._fault).check_keys(recipe_config.KEYS)
            return recipe_config.read_recipe(value, key, self._fault, disk)
        path = self.text(key)
        if path:
            return self._ready_layer(key, path)
        if value == "":
            self.fault(key, "is empty: leave the key out for none")
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
            self.fault(key, f"{name} cannot be read: {error.strerror}")
            return None
        if not re.fullmatch("[0-9a-f]{64}", checksum):
            self.fault(key, f"{path}/checksum does not hold 64 hexadecimal digits")
            return None
        if not stat.S_ISREG(status.st_mode):
            self.fault(key, f"{path}/layer.tar is not a regular file")
            return None
        return CustomisationLayer(
            path=path, checksum=Digest(f"sha256:{checksum}"), size=status.st_size
        )

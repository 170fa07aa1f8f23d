"""An earlier image, and which layers of an image it already has.

Against an archive, digests decide. Against a conf, names do, so that the image need not exist
any more: a layer stays if it has the same store paths in the same order, with the same owner
and time. The name of a store path with a hash identifies its content; any other path may have
other content by now, unless the earlier image has the tag that would be derived today.
Must not know how the answer is shown.
"""

from __future__ import annotations

import json
import re
from contextlib import suppress
from typing import Any, Protocol

from stream.archives.images import ArchiveLayer, open_archive
from stream.archives.target import split_archive
from stream.errors import ArgumentError, StreamImageError
from stream.known import Known
from stream.model import (
    DEFAULT_CREATED,
    DEFAULT_STORE_DIR,
    CustomisationLayer,
    Digest,
    ImageConf,
    LayerPlan,
    Recipe,
)
from stream.nix.hashes import DIGITS, is_hashed_path
from stream.oci.platform import Platform
from stream.planning.previous import check_previous
from stream.planning.tag import TAG_LENGTH, derive_tag
from stream.schema.reading import conf_name
from stream.schema.recipe import respell
from stream.sources.base.image import BaseImage
from stream.sources.layer import ListedLayer
from stream.sources.store import StoreLayer
from stream.tools.existing import Place, read_existing
from stream.values import dataclass

_DERIVED_TAG = re.compile(rf"(.+):[{DIGITS}]{{{TAG_LENGTH}}}")
_CHECKSUM = re.compile(r"[0-9a-f]{64}\s*")

# The keys of a conf that affect the bytes of every store layer, with their defaults.
_STAMP = {
    "created": None, "gid": 0, "gname": "root", "mtime": None, "store_dir": DEFAULT_STORE_DIR,
    "uid": 0, "uname": "root",
}  # fmt: skip


@dataclass(frozen=True, slots=True, kw_only=True)
class EarlierImage:
    """An image in an archive: its tag, and the diff_ids of its layers."""

    repo_tag: str
    diff_ids: frozenset[Digest]


def read_earlier(
    source: str, architecture: str | None = None, variant: str = ""
) -> dict[str, Any] | EarlierImage:
    """Read an earlier image: its conf, as a JSON object, or the image itself, in the notation of
    `stream.tools.existing.Place`: an archive (`FILE` or `FILE:name:tag`), or the image of a registry
    or an engine; a conf or an archive on standard input if `source` is `-`. Of several images, the
    one that fits `architecture` and its `variant` best is chosen.

    Raises ArgumentError if there is no such image, and the errors of `read_existing`.
    """
    place = Place.parse(source)
    platform = _platform(architecture, variant)
    found = read_existing(place, platform)
    if found is None:
        wanted = f" for {platform}" if platform else ""
        raise ArgumentError("source", source, f"there is no such image{wanted}")
    if isinstance(found, dict):
        return check_previous(found, conf_name(place.reference)).document
    return EarlierImage(repo_tag=found.repo_tag, diff_ids=found.diff_ids)


def _platform(architecture: object, variant: object) -> Platform | None:
    """Return the platform of an image with these, as in a conf; None without an architecture."""
    found = Platform.parse({"os": "linux", "architecture": architecture, "variant": variant})
    return found if found.architecture else None


class Comparison(Protocol):
    """Tells which layers an earlier image has; None if that is unknown."""

    def has_base_layer(self, layer: ArchiveLayer) -> bool | None:
        """Compare a layer of the base image."""

    def has_store_layer(self, layer: StoreLayer, plan: LayerPlan) -> bool | None:
        """Compare a store layer, made by `plan`. Raises SourceError."""

    def has_customisation_layer(self, layer: ListedLayer) -> bool | None:
        """Compare the customisation layer. Raises SourceError."""


class WithNothing:
    """There is no earlier image."""

    def has_base_layer(self, layer: ArchiveLayer) -> None:
        """See Comparison."""

    def has_store_layer(self, layer: StoreLayer, plan: LayerPlan) -> None:
        """See Comparison."""

    def has_customisation_layer(self, layer: ListedLayer) -> None:
        """See Comparison."""


class WithImage:
    """Compares digests with those of an image. Reads every layer whose digest is unknown."""

    def __init__(self, image: EarlierImage, known: Known) -> None:
        self._diff_ids = image.diff_ids
        self._known = known

    def has_base_layer(self, layer: ArchiveLayer) -> bool:
        """See Comparison."""
        return layer.diff_id in self._diff_ids

    def has_store_layer(self, layer: StoreLayer, plan: LayerPlan) -> bool:
        """See Comparison."""
        return self._known.diff_id(layer) in self._diff_ids

    def has_customisation_layer(self, layer: ListedLayer) -> bool | None:
        """See Comparison."""
        if not layer.complete:
            return None
        return self._known.diff_id(layer) in self._diff_ids


class WithConf:
    """Compares names with those in a conf. `document` is `conf` as written, `earlier` the
    earlier conf; `base` is the base image of `conf`. Reads files that are not `known` if its tag
    depends on them.
    """

    def __init__(
        self,
        conf: ImageConf,
        document: dict[str, Any],
        earlier: dict[str, Any],
        base: BaseImage | None,
        known: Known,
    ) -> None:
        self._conf = conf
        self._known = known
        self._document = document
        self._earlier = earlier
        self._same_stamp = _is_same(_stamp(document), _stamp(earlier))
        self._same_time = _is_same(_customisation_time(document), _customisation_time(earlier))
        self._same_image = self._same_stamp and self._same_time and self._has_derived_tag(base)
        self._layers = {tuple(layer) for layer in earlier.get("store_layers", ())}
        self._base_layers = self._find_base_layers() if base and not self._same_image else set()

    def has_base_layer(self, layer: ArchiveLayer) -> bool | None:
        """See Comparison."""
        if self._same_image:
            return True
        if self._base_layers is None:
            return None
        found = layer.diff_id in self._base_layers
        return None if found and not self._is_hashed(_base_path(self._earlier)) else found

    def has_store_layer(self, layer: StoreLayer, plan: LayerPlan) -> bool | None:
        """See Comparison."""
        paths = [path.decode() for path in plan.store_paths]
        if not self._same_stamp or tuple(paths) not in self._layers:
            return False
        return True if self._same_image or all(map(self._is_hashed, paths)) else None

    def has_customisation_layer(self, layer: ListedLayer) -> bool | None:
        """See Comparison."""
        if self._same_image:
            return True
        ours, theirs = (
            respell(made) if isinstance(made, dict) else made
            for made in (x.get("customisation_layer") for x in (self._document, self._earlier))
        )
        stays = self._has_customisation_store_paths()
        if not stays:
            return stays
        ready = self._conf.customisation_layer
        if isinstance(ready, CustomisationLayer):
            return self._has_ready_layer(ready.checksum, ready.path, theirs)
        if not self._same_time:
            return False
        if json.dumps(ours, sort_keys=True) != json.dumps(theirs, sort_keys=True):
            return False
        known = all(map(self._is_hashed, self._read_paths())) and self._has_same_base()
        return True if known else None

    def _has_customisation_store_paths(self) -> bool | None:
        """Return True if the earlier image's customisation layer has the same store paths, or
        neither has any; None if that is unknown.
        """
        paths = [path.decode() for path in self._conf.customisation_store_paths]
        if paths != self._earlier.get("customisation_store_paths", []):
            return False
        if not paths:
            return True
        if not (self._same_stamp and self._same_time):
            return False
        # Which of them the base image has decides as well.
        return True if all(map(self._is_hashed, paths)) and self._has_same_base() else None

    def _is_hashed(self, path: str | None) -> bool:
        return path is not None and is_hashed_path(
            path.encode("utf-8", "surrogateescape"), self._conf.store_dir
        )

    def _has_derived_tag(self, base: BaseImage | None) -> bool:
        """Return True if the earlier tag is the one that would be derived for this image."""
        repo_tag = self._earlier.get("repo_tag")
        derived = _DERIVED_TAG.fullmatch(repo_tag) if isinstance(repo_tag, str) else None
        if derived is None:
            return False
        document = {key: value for key, value in self._document.items() if key != "repo_tag"}
        document["repository"] = derived[1]
        image_id = base.image.image_id if base else None
        tag = derive_tag(document, self._conf, image_id, self._known)
        return repo_tag == f"{derived[1]}:{tag}"

    def _find_base_layers(self) -> set[Digest] | None:
        """Return the diff_ids of the earlier image's base, as it is now; None if it cannot be
        read.
        """
        path = _base_path(self._earlier)
        if path is None:
            return set()
        _, repo_tag = split_archive(str(self._earlier["from_image"]))
        with suppress(StreamImageError), open_archive(path) as archive:
            stated = self._earlier.get("architecture"), self._earlier.get("variant")
            image = archive.choose(repo_tag, _platform(*stated))
            return {layer.diff_id for layer in image.layers}
        return None

    def _has_same_base(self) -> bool:
        """Return True if neither image has a base, or both have the same one for certain."""
        ours, theirs = (document.get("from_image") for document in (self._document, self._earlier))
        return ours == theirs and (ours is None or self._is_hashed(_base_path(self._document)))

    def _read_paths(self) -> list[str]:
        """Return the paths that the customisation layer is made from."""
        made = self._conf.customisation_layer
        if not isinstance(made, Recipe):
            return []
        paths = (
            content if isinstance(content, bytes) else content.path
            for content in made.contents + made.copy_to_root
        )
        sources = (item.source for item in made.files)
        return [path.decode() for path in (*paths, *sources) if path]

    def _has_ready_layer(self, ours: Digest | None, path: str, theirs: object) -> bool | None:
        if not isinstance(theirs, str):
            return False
        if not self._is_hashed(theirs):
            return None if path == theirs else False
        if path == theirs:
            return True
        with suppress(OSError, ValueError):
            with open(f"{theirs}/checksum", encoding="ascii") as file:
                checksum = file.read(80)
            return bool(_CHECKSUM.fullmatch(checksum)) and ours == f"sha256:{checksum.strip()}"
        return False


def _is_same(ours: tuple[Any, ...], theirs: tuple[Any, ...]) -> bool:
    return "now" not in ours and ours == theirs


def _customisation_time(document: dict[str, Any]) -> tuple[Any, ...]:
    """Return what affects every entry of a customisation layer made from a recipe."""
    keys = "customisation_mtime", "mtime", "created"
    time = next((document[key] for key in keys if document.get(key)), DEFAULT_CREATED)
    return time, document.get("store_dir", DEFAULT_STORE_DIR)


def _stamp(document: dict[str, Any]) -> tuple[Any, ...]:
    found = {key: document.get(key, default) for key, default in _STAMP.items()}
    created = found.pop("created") or DEFAULT_CREATED
    found["mtime"] = found["mtime"] or created
    found["uid"], found["gid"] = str(found["uid"]), str(found["gid"])  # Nix writes text
    return tuple(found.values())


def _base_path(document: dict[str, Any]) -> str | None:
    base = document.get("from_image")
    return split_archive(base)[0] if isinstance(base, str) else None

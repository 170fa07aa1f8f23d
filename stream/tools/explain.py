"""The layers of an image, and which of them have to be transferred if an earlier image is
already there.

Compares the confs of both images. The earlier image need not exist any more, except for its
base image, if the base's layers are to be compared. A layer stays if it has the same store
paths in the same order, with the same owner and time: the name of a store path identifies its
content, unlike that of any other path. Knows neither argv nor terminals.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from stream.archives.images import open_archive
from stream.archives.target import split_archive
from stream.config import conf_document, load_conf
from stream.errors import ArgumentError, StreamImageError
from stream.model import DEFAULT_CREATED, DEFAULT_STORE_DIR, Digest, ImageConf, Recipe
from stream.schema.reading import ignore
from stream.schema.recipe import respell
from stream.sources.base.image import BaseImage
from stream.sources.image import ImageSources, opened
from stream.text import printable

# The keys of a conf that affect the bytes of every store layer, with their defaults.
_STAMP = {
    "created": None, "gid": 0, "gname": "root", "mtime": None, "store_dir": DEFAULT_STORE_DIR,
    "uid": 0, "uname": "root",
}  # fmt: skip


@dataclass(frozen=True, slots=True, kw_only=True)
class ExplainedLayer:
    """A layer. `kind` is `base`, `store` or `customisation`, `size` the size of its tar in
    bytes (None if the base image does not record it), `paths` its store paths with the size
    of each. `stays` is true if the earlier image has it; None if there is no earlier image,
    or if that is unknown.
    """

    kind: str
    name: str
    size: int | None
    paths: tuple[tuple[str, int], ...] = ()
    stays: bool | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Explanation:
    """The layers of an image, bottom to top. `against` is the earlier image's tag."""

    repo_tag: str
    layers: tuple[ExplainedLayer, ...]
    against: str | None = None

    @property
    def size(self) -> int:
        """The size in bytes of all layers whose size is known."""
        return sum(layer.size or 0 for layer in self.layers)

    @property
    def moving(self) -> tuple[ExplainedLayer, ...]:
        """The layers that the earlier image does not have."""
        return tuple(layer for layer in self.layers if layer.stays is False)

    @property
    def moving_size(self) -> int:
        """The size in bytes of the moving layers whose size is known."""
        return sum(layer.size or 0 for layer in self.moving)

    @property
    def unknown(self) -> tuple[ExplainedLayer, ...]:
        """The layers that the earlier image may or may not have."""
        compared = self.against is not None
        return tuple(layer for layer in self.layers if compared and layer.stays is None)


def explain(
    conf: ImageConf | str | os.PathLike[str],
    earlier: dict[str, Any] | None = None,
    *,
    document: dict[str, Any] | None = None,
    warn: Callable[[str], None] = ignore,
) -> Explanation:
    """Return the layers of the image of `conf`, or of the conf at that path. With `earlier`,
    the conf of an earlier image as a JSON object, also which of them that image has.
    `document` is `conf` as it was written, if it was. `warn` is called with a line for a
    person. Raises StreamImageError.
    """
    ArgumentError.require("conf", conf, ImageConf, str, os.PathLike)
    ArgumentError.require("earlier", earlier, dict, type(None))
    if not isinstance(conf, ImageConf):
        conf = load_conf(conf, need_tag=False, warn=warn)
    if document is None:
        document = conf_document(conf)
    compare = None if earlier is None else _Comparison(document, earlier)
    with opened(conf, warn) as sources:
        layers = (
            *_base_layers(sources.base, compare),
            *_store_layers(sources, compare),
            *_customisation_layer(sources, compare),
        )
    against = None if earlier is None else _tag(earlier)
    return Explanation(repo_tag=_tag(document), layers=layers, against=against)


def _tag(document: dict[str, Any]) -> str:
    return str(document.get("repo_tag") or "untagged")


class _Comparison:
    """Tells which layers the image of an earlier conf has."""

    def __init__(self, document: dict[str, Any], earlier: dict[str, Any]) -> None:
        self._document = document
        self._earlier = earlier
        self._alike = _stamp(document) == _stamp(earlier) and "now" not in _stamp(document)
        self._layers = {tuple(layer) for layer in earlier.get("store_layers", ())}

    def has_store_layer(self, paths: tuple[str, ...]) -> bool:
        return self._alike and paths in self._layers

    def has_customisation_layer(self) -> bool:
        ours, theirs = (
            respell(layer) if isinstance(layer, dict) else layer
            for layer in (
                document.get("customisation_layer") for document in (self._document, self._earlier)
            )
        )
        times = isinstance(ours, str) or self._alike
        return times and json.dumps(ours, sort_keys=True) == json.dumps(theirs, sort_keys=True)

    def base_layers(self) -> set[Digest]:
        """Return the diff_ids of the earlier image's base; none if it cannot be read."""
        base = self._earlier.get("from_image")
        if not isinstance(base, str):
            return set()
        path, repo_tag = split_archive(base)
        with suppress(StreamImageError), open_archive(path) as archive:
            image = archive.choose(repo_tag, self._earlier.get("architecture"))
            return {layer.diff_id for layer in image.layers}
        return set()


def _stamp(document: dict[str, Any]) -> tuple[Any, ...]:
    found = {key: document.get(key, default) for key, default in _STAMP.items()}
    created = found.pop("created") or DEFAULT_CREATED
    found["mtime"] = found["mtime"] or created
    found["uid"], found["gid"] = str(found["uid"]), str(found["gid"])  # Nix writes text
    return tuple(found.values())


def _base_layers(base: BaseImage | None, compare: _Comparison | None) -> Iterator[ExplainedLayer]:
    known = compare.base_layers() if compare and base else set()
    for layer in base.layers if base else ():
        yield ExplainedLayer(
            kind="base",
            name=layer.name,
            size=layer.blob.content_size,
            stays=layer.diff_id in known if compare else None,
        )


def _store_layers(sources: ImageSources, compare: _Comparison | None) -> Iterator[ExplainedLayer]:
    for plan, layer in zip(sources.conf.store_layers, sources.walk_store_layers(), strict=True):
        paths = tuple(map(printable, plan.store_paths))
        yield ExplainedLayer(
            kind="store",
            name=layer.label,
            size=layer.size,
            paths=tuple(zip(paths, layer.path_sizes, strict=True)),
            stays=compare.has_store_layer(paths) if compare else None,
        )


def _customisation_layer(
    sources: ImageSources, compare: _Comparison | None
) -> Iterator[ExplainedLayer]:
    if (layer := sources.customisation) is not None:
        stays = compare.has_customisation_layer() if compare else None
        yield ExplainedLayer(
            kind="customisation",
            name=layer.label,
            size=layer.size,
            stays=None if stays and _may_have_changed(sources.conf) else stays,
        )


def _may_have_changed(conf: ImageConf) -> bool:
    """Return True if the customisation layer is made from files outside the store, whose names
    do not identify their content.
    """
    made = conf.customisation_layer
    if made is None:
        return False
    copied = made.copy_to_root if isinstance(made, Recipe) else (made.path.encode(),)
    prefix = conf.store_dir + b"/"
    return any(isinstance(item, bytes) and not item.startswith(prefix) for item in copied)

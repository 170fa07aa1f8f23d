"""The layers of an image, and which of them have to be transferred if an earlier image is
already there. Knows neither argv nor terminals, nor how layers are compared.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from typing import Any

from stream.config import conf_document, load_conf
from stream.digests import NO_DIGESTS, Digests
from stream.errors import ArgumentError
from stream.interfaces import Takes
from stream.known import Known
from stream.model import ImageConf
from stream.schema.reading import ignore
from stream.sources.base.image import BaseImage
from stream.sources.bytecode import count_stale
from stream.sources.customisation.closure import LayerWithStore
from stream.sources.image import ImageSources, opened
from stream.sources.store import StoreLayer
from stream.text import printable
from stream.tools.earlier import (
    Comparison,
    EarlierImage,
    WithConf,
    WithImage,
    WithNothing,
)
from stream.tools.existing import UNTAGGED
from stream.typeflags import FILE
from stream.values import dataclass, replace


@dataclass(frozen=True, slots=True, kw_only=True)
class ExplainedLayer:
    """A layer. `kind` is `base`, `store` or `customisation`, `size` the size of its tar in
    bytes (None if the base image does not record it), `paths` its store paths with the size
    of each, `stale_bytecode` the number of Python's bytecode caches in them that are stale in
    the image. `stays` is true if the earlier image has it; None if there is no earlier image,
    or if that is unknown.
    """

    kind: str
    name: str
    size: int | None
    paths: tuple[tuple[str, int], ...] = ()
    stale_bytecode: int = 0
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
    def stale_bytecode(self) -> int:
        """The number of Python's bytecode caches in store paths that are stale in the image."""
        return sum(layer.stale_bytecode for layer in self.layers)

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


def explain(  # noqa: PLR0913 — the options of the command, each of its own
    conf: ImageConf | str | os.PathLike[str],
    earlier: dict[str, Any] | EarlierImage | None = None,
    *,
    document: dict[str, Any] | None = None,
    run_commands: bool = False,
    warn: Callable[[str], None] = ignore,
    digests: Digests = NO_DIGESTS,
) -> Explanation:
    """Return the layers of the image of `conf`, or of the conf at that path. With `earlier`,
    an earlier image or its conf as a JSON object, also which of them that image has. Against
    an image, every layer whose digest `digests` does not have is read and hashed. `document` is
    `conf` as it was written, if it was. A recipe's commands are run only with `run_commands`:
    without, the size of the layer that they make is unknown. `warn` is called with a line for a
    person. Raises StreamImageError.
    """
    ArgumentError.require("conf", conf, ImageConf, str, os.PathLike)
    ArgumentError.require("earlier", earlier, dict, EarlierImage, type(None))
    if not isinstance(conf, ImageConf):
        conf = load_conf(conf, need_tag=False, warn=warn)
    if document is None:
        document = conf_document(conf)
    if not run_commands:
        conf = replace(conf, commands="skipped")
    known = Known(digests, Takes())
    against: str | None = None
    compare: Comparison = WithNothing()
    with opened(conf, warn) as sources:
        if isinstance(earlier, EarlierImage):
            compare, against = WithImage(earlier, known), earlier.repo_tag
        elif earlier is not None:
            compare = WithConf(conf, document, earlier, sources.base, known)
            against = _tag(earlier)
        layers = (
            *_base_layers(sources.base, compare),
            *_store_layers(sources, compare),
            *_customisation_layer(sources, compare),
        )
    return Explanation(repo_tag=_tag(document), layers=layers, against=against)


def _tag(document: dict[str, Any]) -> str:
    return str(document.get("repo_tag") or UNTAGGED)


def _base_layers(base: BaseImage | None, compare: Comparison) -> Iterator[ExplainedLayer]:
    for layer in base.layers if base else ():
        yield ExplainedLayer(
            kind="base",
            name=layer.name,
            size=layer.blob.content_size,
            stays=compare.has_base_layer(layer),
        )


def _store_layers(sources: ImageSources, compare: Comparison) -> Iterator[ExplainedLayer]:
    for plan, layer in zip(sources.conf.store_layers, sources.walk_store_layers(), strict=True):
        yield ExplainedLayer(
            kind="store",
            name=layer.label,
            size=layer.size,
            paths=_paths(layer),
            stale_bytecode=_count_stale(layer, sources.conf),
            stays=compare.has_store_layer(layer, plan),
        )


def _paths(layer: StoreLayer) -> tuple[tuple[str, int], ...]:
    return tuple(zip(map(printable, layer.store_paths), layer.path_sizes, strict=True))


def _count_stale(layer: StoreLayer, conf: ImageConf) -> int:
    names = (name for typeflag, name, _, _ in layer.entries.list() if typeflag == FILE)
    return count_stale(names, layer.mtime, conf.store_root)


def _customisation_layer(sources: ImageSources, compare: Comparison) -> Iterator[ExplainedLayer]:
    if (layer := sources.customisation) is not None:
        store = layer.store if isinstance(layer, LayerWithStore) else None
        yield ExplainedLayer(
            kind="customisation",
            name=layer.label,
            size=layer.size if layer.complete else None,
            paths=_paths(store) if store else (),
            stale_bytecode=_count_stale(store, sources.conf) if store else 0,
            stays=compare.has_customisation_layer(layer),
        )

"""The layers of an earlier build, from its conf or from the history of its image. Their store
paths need not exist any more.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

from stream.errors import ConfError, Fault
from stream.model import RecordedLayer
from stream.schema.reading import conf_name, load_object
from stream.values import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Previous:
    """The store layers of an earlier conf, and its whole document."""

    store_layers: list[list[str]]
    document: dict[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class PreviousImage:
    """The store layers of an earlier image, bottom to top, as its history has them."""

    layers: tuple[RecordedLayer, ...]

    def above(self, base: Collection[str]) -> list[list[str]]:
        """Return the store paths of its layers, without those whose diff_ids are in `base`: the
        layers of the image that both build on.
        """
        return [list(layer.store_paths) for layer in self.layers if layer.diff_id not in base]


def read_previous(source: str) -> Previous:
    """Read the conf at the path `source`, or on standard input if that is `-`. Raises
    ConfError.
    """
    return check_previous(load_object(source), conf_name(source))


def check_previous(document: dict[str, Any], name: str) -> Previous:
    """Return the conf in `document`, which messages call `name`. Raises ConfError."""
    layers = document.get("store_layers", [])
    if not isinstance(layers, list) or not all(
        isinstance(layer, list) and all(isinstance(path, str) for path in layer) for layer in layers
    ):
        raise ConfError(name, [Fault("store_layers", "must be a list of lists of store paths")])
    if "store_layers" not in document and "repo_tag" not in document:
        raise ConfError(name, [Fault("", "is not a conf; plan its specification first")])
    return Previous(store_layers=layers, document=document)

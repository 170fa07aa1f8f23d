"""Progress events while an image is written. Knows neither layers nor files."""

from __future__ import annotations

from collections.abc import Callable, Iterable

from stream.model import Image, Layer
from stream.sources.layer import SourceLayer

# Yields the size of each layer in bytes, None where it is not known.
Sizes = Callable[[], Iterable[int | None]]


class Observer:
    """Is told what happens while an image is written; does nothing by itself."""

    def started(self, layers: int, sizes: Sizes, position: Callable[[], int]) -> None:
        """`layers` will be written; `position()` is the archive's bytes so far."""

    def layer_started(self, number: int, source: SourceLayer) -> None:
        """Layer `number`, from 1, begins."""

    def layer_written(self, number: int, source: SourceLayer) -> None:
        """All bytes of layer `number` are on their way."""

    def layer_completed(self, number: int, layer: Layer) -> None:
        """Layer `number` has its digest."""

    def finished(self, *images: Image) -> None:
        """The archive is complete, and holds these."""

    def exported(self, entries: int, size: int) -> None:
        """A root file system is complete: so many entries, and bytes of tar."""

    def warning(self, message: str) -> None:
        """The image can be written, but `message` should be known."""

"""Progress events while an image is written: numbers, strings and records.

Knows neither sources nor files.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping

from stream.errors import StreamImageError
from stream.model import Blob, Image, Layer, Loaded, Passage, Pushed

# Yields the size of each layer in bytes, or None if it is not known.
Sizes = Callable[[], Iterable[int | None]]


class Observer:
    """Receives progress events; the default methods do nothing."""

    def started(self, layers: int, sizes: Sizes, position: Callable[[], int]) -> None:
        """Writing begins: `layers` layers follow. `position()` returns the number of bytes
        written so far.
        """

    def layer_started(self, number: int, label: str, archive_name: str, size: int) -> None:
        """Layer `number`, counted from 1, begins: `size` bytes, called `label` in messages
        and `archive_name` in an archive.
        """

    def layer_completed(self, number: int, layer: Layer) -> None:
        """Layer `number` is hashed and stored. Layers may end in another order than they begin."""

    def layer_held(self, number: int, layer: Layer) -> None:
        """Layer `number`, which had begun, is there already and is not written."""

    def finished(self, *images: Image) -> None:
        """Everything is written; the output holds `images`."""

    def blob_confirmed(self, blob: Blob) -> None:
        """The registry that an image is pushed to has `blob`. Called in any thread."""

    def image_started(self, number: int, name: str) -> None:
        """Image `number` of many, counted from 1, begins: `name` says where it is from."""

    def image_failed(self, number: int, name: str, error: StreamImageError) -> None:
        """Image `number` of many is not pushed because of `error`; the next one follows."""

    def all_pushed(
        self, pushed: int, failed: int, totals: Mapping[Passage, tuple[int, int]]
    ) -> None:
        """Many images are pushed, and others have failed. `totals` are the numbers of blobs and
        their bytes, by how they came there.
        """

    def pushed(self, pushed: Pushed) -> None:
        """Everything is pushed."""

    def loaded(self, loaded: Loaded) -> None:
        """Everything is loaded into a container engine."""

    def exported(self, entries: int, size: int) -> None:
        """A root file system is written: `entries` entries in `size` bytes of tar."""

    def serving(self, *references: str) -> None:
        """Images can be pulled now, as `references`."""

    def answered(
        self, client: str, request: str, status: int, size: int | None, seconds: float
    ) -> None:
        """The server has answered `request` of `client` with an HTTP status and `size` bytes of
        body, None if they were cut short. Called in any thread.
        """

    def warning(self, message: str) -> None:
        """A person should read `message`, although the image can be written."""

"""The interfaces that an image passes through: sources of layers, what they write to, sinks.

A source knows what a layer holds, a sink knows where it goes, and neither knows the other:
`pipeline.write_images` joins them. A digest exists only on the record that `complete`
returns, so code that needs one before the bytes have passed cannot be written.
"""

from __future__ import annotations

from collections.abc import Collection, Generator, Hashable, Iterator, Mapping, Sequence
from typing import Protocol

from stream.model import Digest, Image, ImageDocuments, KnownLayer, Layer, LayerKey
from stream.tarwriter import Entries
from stream.values import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Takes:
    """The features that a sink supports: annotations of a manifest, layers that are compressed
    individually, layers that it holds already, which are then not written, and `indexes`: several
    images with one tag, each for another platform. `encoding` says
    how it stores layers: empty for uncompressed ones, else everything that their compressed
    bytes depend on, such as codec, level and version.
    """

    annotations: bool = False
    compressed_layers: bool = False
    held_layers: bool = False
    indexes: bool = False
    encoding: str = ""


class ContentWriter(Protocol):
    """The bytes of a layer being written, in order."""

    def write(self, data: bytes) -> None:
        """Write `data`."""

    def copy(self, fd: int, count: int, path: bytes, offset: int = -1) -> None:
        """Copy `count` bytes of `fd` from `offset`, or from its current position if `offset`
        is negative. Errors name the file as `path`. Raises SourceError if there are fewer.
        """

    def write_entries(self, entries: Entries) -> None:
        """Write a whole tar: every entry with its file's content, and the trailer."""

    def pad(self) -> None:
        """End a member's content."""

    def write_trailer(self) -> None:
        """End the tar."""


class LayerWriter(ContentWriter, Protocol):
    """A layer being written: content, then `close`, then `complete`."""

    def describe_content(self, diff_id: Digest, size: int) -> None:
        """Record that the compressed bytes hold a tar of `size` bytes with this digest."""

    def close(self) -> None:
        """End the layer. Raises SizeMismatch if its size is not the one announced."""

    def is_hashed(self) -> bool:
        """Return whether `complete` would not wait."""

    def complete(self) -> Layer:
        """Return the record of the closed layer; wait until it is hashed and stored."""

    def abort(self) -> None:
        """Give the layer up: what waits for the sink in another thread ends with an error, and
        nothing of the layer stays. May be called at any time, also after `complete`.
        """


class LayerSource(Protocol):
    """A layer of known size whose bytes have not been read yet.

    `fingerprint` is hexadecimal and identifies the content; `size` counts the bytes as they
    are written, compressed with `compression` if that is set; `entry_count` is the number of
    tar entries held in memory; `label` is for people, `comment` for the image's history.
    `diff_id` is the digest of the tar and `digest` that of the compressed bytes, if they are
    known beforehand; then the bytes written must have them.

    The bytes depend on nothing but what each of `keys` stands for, so that a digest recorded
    under one of them is that of this layer; without keys it is never recorded. A `repeatable`
    source may be written more than once, at any time, in any thread.
    """

    @property
    def label(self) -> str: ...
    @property
    def comment(self) -> str: ...
    @property
    def fingerprint(self) -> str: ...
    @property
    def size(self) -> int: ...
    @property
    def entry_count(self) -> int: ...
    @property
    def compression(self) -> str | None: ...
    @property
    def diff_id(self) -> Digest | None: ...
    @property
    def digest(self) -> Digest | None: ...
    @property
    def keys(self) -> tuple[LayerKey, ...]: ...
    @property
    def repeatable(self) -> bool: ...

    def write_to(self, writer: LayerWriter) -> None:
        """Write the layer's bytes. Raises SourceError or ArchiveError."""


class ImageSources(Protocol):
    """The layers of one or more images, and their documents once the layers are written."""

    def known_layers(self, takes: Takes) -> Sequence[KnownLayer]:
        """Return the distinct layers whose diff_ids are known before they are written, with
        the blobs that a sink would get that `takes` this.
        """

    def unknown_layers(self) -> Sequence[Hashable]:
        """Return a key for every other layer. Layers with equal keys are equal."""

    def unknown_sizes(self) -> Iterator[int]:
        """Yield the size in bytes of each of those, in order. Raises SourceError."""

    def layers(self, takes: Takes, skip: Collection[Digest]) -> Generator[LayerSource, None, None]:
        """Yield each layer to write, in the order in which they are best read. A base layer
        whose diff_id is in `skip` is left out. The caller writes each source before it asks
        for the next.
        """

    def documents(
        self, layers: Sequence[Layer], known: Mapping[Digest, Layer]
    ) -> Iterator[ImageDocuments]:
        """Yield the contents of each image's documents. `layers` are the records of the
        sources that `layers()` yielded, in order; `known` has them and those left out.
        """


class Sink(Protocol):
    """A destination of images. Layers come first, then each image's documents, then the end.

    `position` is the number of bytes written so far; any thread may read it. `concurrency` is
    the number of layers that may be written at once, each in a thread of its own.
    """

    @property
    def takes(self) -> Takes: ...
    @property
    def position(self) -> int: ...
    @property
    def concurrency(self) -> int: ...

    def holds(self, known: KnownLayer) -> Layer | None:
        """Return the record of `known` if the sink has it already, so that it need not be
        written, else None. A sink with a concurrency of more than 1 is asked in several threads.
        """

    def layer_name(self, source: LayerSource) -> str:
        """Return the name of a layer in this sink."""

    def begin_layer(self, source: LayerSource, known: KnownLayer | None) -> LayerWriter:
        """Begin the next layer. If its digests are `known`, a sink that does not need to hash
        it for itself may take them for the record.
        """

    def add_image(self, documents: ImageDocuments) -> Image:
        """Add an image whose layers are all written or held. The record's `size` is still 0."""

    def finish(self) -> int:
        """Make the images visible: write manifest, index, trailer. Return the total number of
        bytes written.
        """

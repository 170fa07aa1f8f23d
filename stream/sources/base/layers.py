"""The layers of an archive as sources: copied, decompressed or left compressed, and verified
while they pass. Does not know where they go.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Generator, Iterable, Iterator
from contextlib import AbstractContextManager, closing, contextmanager, nullcontext
from functools import partial
from itertools import chain
from typing import TypeAlias

from stream.archives.bytesource import ByteSource, FileBytes, pieces, read_exactly
from stream.archives.container import Blob, Container, range_of
from stream.archives.decompress import decompress
from stream.archives.images import ArchiveImage, ArchiveLayer
from stream.digests import content_key
from stream.errors import ArchiveError, DigestMismatch
from stream.interfaces import ContentWriter, LayerWriter, Takes
from stream.model import Descriptor, Digest, KnownLayer
from stream.oci import documents
from stream.oci.documents import store_paths_comment
from stream.sources.layer import SourceFields
from stream.text import one_line
from stream.values import dataclass

Opened: TypeAlias = Callable[[], AbstractContextManager[ByteSource]]


@dataclass(frozen=True, slots=True, kw_only=True)
class BaseLayer(SourceFields):
    """A layer of an archive, to be written uncompressed. `opened` opens its bytes, stored with
    `stored_compression`; unless the layer is repeatable, they must be read before the next
    layer's.
    """

    opened: Opened
    stored_compression: str | None

    def write_to(self, writer: ContentWriter) -> None:
        """Copy the layer, uncompressed. Raises ArchiveError."""
        with self.opened() as source:
            self._copy(source, writer)

    def _copy(self, source: ByteSource, writer: ContentWriter) -> None:
        if self.stored_compression is None and isinstance(source, FileBytes):
            fd, offset = source.range
            writer.copy(fd, self.size, source.name.encode("utf-8", "surrogateescape"), offset)
            return
        if self.stored_compression is not None:
            source = decompress(source, self.stored_compression)
        for piece in pieces(source, self.size):
            writer.write(piece)
        if self.stored_compression is not None and source.read(1):
            raise ArchiveError(source.name, "changed between two readings")


class _Tee:
    """A byte source that also writes what is read from it."""

    def __init__(self, source: ByteSource, writer: ContentWriter) -> None:
        self.name = source.name
        self.position = 0
        self.budget = source.budget
        self.unpacked = source.unpacked
        self._source = source
        self._writer = writer

    def read(self, count: int) -> bytes:
        """See ByteSource."""
        data = self._source.read(count)
        self._writer.write(data)
        self.position += len(data)
        return data

    def skip(self, count: int) -> None:
        """See ByteSource."""
        read_exactly(self, count)


@dataclass(frozen=True, slots=True, kw_only=True)
class CarriedLayer(SourceFields):
    """A layer of an archive that is copied as stored, without recompression; its content is
    verified while it passes. For `opened` see BaseLayer.
    """

    opened: Opened
    compression: str
    diff_id: Digest

    def write_to(self, writer: LayerWriter) -> None:
        """Copy the stored bytes. Raises ArchiveError, or DigestMismatch for content that
        does not have the diff_id.
        """
        with self.opened() as source:
            self._copy(_Tee(source, writer), writer)

    def _copy(self, stored: _Tee, writer: LayerWriter) -> None:
        content = hashlib.sha256()
        size = 0
        for piece in pieces(decompress(stored, self.compression)):
            content.update(piece)
            size += len(piece)
        for _ in pieces(stored):  # bytes after the compressed content are stored as well
            pass
        found = Digest(f"sha256:{content.hexdigest()}")
        if found != self.diff_id:
            raise DigestMismatch(self.comment, self.diff_id, found)
        writer.describe_content(found, size)


def archive_layers(
    container: Container[object],
    layers: Iterable[ArchiveLayer],
    *,
    owner: str,
    carry_compressed: bool,
) -> Generator[BaseLayer | CarriedLayer, None, None]:
    """Yield each distinct layer, in the container's order. With `carry_compressed`, layers
    stored with a compression that OCI allows stay compressed. `owner` says in messages whose
    layers they are.
    """
    carried = documents.LAYER_COMPRESSIONS if carry_compressed else frozenset()
    first = {layer.diff_id: layer for layer in reversed(list(layers))}
    by_blob = {
        blob if blob.compression in carried else _measure(container, blob): layer
        for blob, layer in ((layer.blob, layer) for layer in first.values())
    }
    with closing(container.read(list(by_blob))) as reading:
        for blob, source in reading:
            layer = by_blob[blob]
            fingerprint = layer.diff_id.removeprefix("sha256:")
            comment = store_paths_comment([layer.name])
            label = one_line(f"{owner} {layer.name}")
            repeatable = range_of(source) is not None
            opened = partial(_opened_again, container, blob) if repeatable else _once(source)
            if blob.compression in carried:
                assert blob.compression is not None
                yield CarriedLayer(
                    fingerprint=fingerprint,
                    size=blob.size,
                    comment=comment,
                    label=label,
                    diff_id=layer.diff_id,
                    digest=layer.digest,
                    compression=blob.compression,
                    opened=opened,
                    repeatable=repeatable,
                )
            else:
                assert blob.content_size is not None
                yield BaseLayer(
                    fingerprint=fingerprint,
                    size=blob.content_size,
                    comment=comment,
                    label=label,
                    diff_id=layer.diff_id,
                    keys=(content_key(layer.diff_id),),
                    opened=opened,
                    repeatable=repeatable,
                    stored_compression=blob.compression,
                )


def _once(source: ByteSource) -> Opened:
    return lambda: nullcontext(source)


@contextmanager
def _opened_again(container: Container[object], blob: Blob) -> Iterator[ByteSource]:
    """Open the bytes of a blob in a container that supports random access."""
    with closing(container.read([blob])) as reading:
        _, source = next(reading)
        yield source


def distinct_layers(layers: Iterable[ArchiveLayer], takes: Takes) -> list[KnownLayer]:
    """Return each distinct layer once, in the order given, with its blob in a sink that `takes`
    this.
    """
    found: dict[Digest, KnownLayer] = {}
    for layer in layers:
        if layer.diff_id not in found:
            found[layer.diff_id] = KnownLayer(
                diff_id=layer.diff_id,
                size=layer.blob.content_size,
                descriptor=_descriptor(layer, takes),
            )
    return list(found.values())


def _descriptor(layer: ArchiveLayer, takes: Takes) -> Descriptor | None:
    """Return the descriptor of the layer's blob if it is carried as it is stored."""
    compression = layer.blob.compression
    carried = takes.compressed_layers and compression in documents.LAYER_COMPRESSIONS
    if not carried or layer.digest is None:
        return None
    return Descriptor(
        media_type=documents.layer_type(compression), digest=layer.digest, size=layer.blob.size
    )


def _measure(container: Container[object], blob: Blob) -> Blob:
    return blob if blob.content_size is not None else container.measure(blob)


def check_listing(archive_name: str, *images: ArchiveImage) -> None:
    """Raise ArchiveError if images of one archive list a member with two diff_ids."""
    blobs: dict[Blob, Digest] = {}
    for layer in chain.from_iterable(image.layers for image in images):
        if blobs.setdefault(layer.blob, layer.diff_id) != layer.diff_id:
            raise ArchiveError(f"{archive_name}: {layer.name}", "is listed with two diff_ids")

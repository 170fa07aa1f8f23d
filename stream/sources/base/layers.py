"""The layers of an archive as sources: copied, decompressed or left compressed, and verified
while they pass. Knows not where they go.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator
from contextlib import closing
from dataclasses import dataclass, field
from itertools import chain

from stream.archives.bytesource import ByteSource, FileBytes, pieces, read_exactly
from stream.archives.container import Blob, Container
from stream.archives.decompress import decompressed
from stream.archives.images import ArchiveImage, ArchiveLayer
from stream.errors import ArchiveError, DigestMismatch
from stream.model import Descriptor, Digest, Layer
from stream.oci.documents import LAYER_TYPE, store_paths_comment
from stream.sources.layer import SourceLayer
from stream.tarwriter import LayerWriter
from stream.text import one_line


@dataclass(frozen=True, slots=True, kw_only=True)
class BaseLayer(SourceLayer):
    """A base image's layer at hand: its bytes are to be read before the next one's."""

    source: ByteSource
    compression: str | None

    def write_to(self, layer: LayerWriter) -> None:
        """Copy the layer, uncompressed. Raises ArchiveError."""
        source = self.source
        if self.compression is None and isinstance(source, FileBytes):
            fd, offset = source.range
            layer.copy(fd, self.size, source.name.encode("utf-8", "surrogateescape"), offset)
            return
        if self.compression is not None:
            source = decompressed(source, self.compression, source.name)
        for piece in pieces(source, self.size):
            layer.write(piece)
        if self.compression is not None and source.read(1):
            raise ArchiveError(source.name, "changed between two readings")


class _Tee:
    """What is read from `source` is written to `layer`, too."""

    def __init__(self, source: ByteSource, layer: LayerWriter) -> None:
        self.name = source.name
        self.position = 0
        self._source = source
        self._layer = layer

    def read(self, count: int) -> bytes:
        """See ByteSource."""
        data = self._source.read(count)
        self._layer.write(data)
        self.position += len(data)
        return data

    def skip(self, count: int) -> None:
        """See ByteSource."""
        read_exactly(self, count)


@dataclass(frozen=True, slots=True, kw_only=True)
class CarriedLayer(SourceLayer):
    """A base image's layer that stays compressed as it is; its content is verified
    while it passes.
    """

    source: ByteSource
    compression: str
    diff_id: Digest
    content_sizes: list[int] = field(default_factory=list)  # one, when it has passed

    def write_to(self, layer: LayerWriter) -> None:
        """Copy the stored bytes. Raises ArchiveError, or DigestMismatch for a content
        that is not its diff_id's.
        """
        stored = _Tee(self.source, layer)
        content = hashlib.sha256()
        size = 0
        for piece in pieces(decompressed(stored, self.compression, stored.name)):
            content.update(piece)
            size += len(piece)
        for _ in pieces(stored):  # what is behind the compressed content is stored as well
            pass
        found = Digest(f"sha256:{content.hexdigest()}")
        if found != self.diff_id:
            raise DigestMismatch(self.comment, self.diff_id, found)
        self.content_sizes.append(size)

    def record(self, digest: Digest) -> Layer:
        """See SourceLayer."""
        if self.expected is not None and digest != self.expected:
            raise DigestMismatch(self.comment, self.expected, digest)
        return Layer(
            archive_name=self.archive_name,
            diff_id=self.diff_id,
            size=self.content_sizes[0],
            comment=self.comment,
            compressed=Descriptor(
                media_type=f"{LAYER_TYPE}+{self.compression}", digest=digest, size=self.size
            ),
        )


# Compressions that OCI has media types for, and the ending of such a layer's name.
_CARRIED = {"gzip": ".gz", "zstd": ".zst"}


def archive_layers(
    container: Container, layers: Iterable[ArchiveLayer], *, owner: str, carry_compressed: bool
) -> Iterator[SourceLayer]:
    """Each distinct layer, in the container's order; one that is stored compressed
    stays so, if it can, with `carry_compressed`. `owner` says in messages whose they are.
    """
    carried = _CARRIED if carry_compressed else {}
    first = {layer.diff_id: layer for layer in reversed(list(layers))}
    by_blob = {
        blob if blob.compression in carried else _measured(container, blob): layer
        for blob, layer in ((layer.blob, layer) for layer in first.values())
    }
    with closing(container.read(list(by_blob))) as reading:
        for blob, source in reading:
            layer = by_blob[blob]
            name = f"{layer.diff_id.removeprefix('sha256:')}/layer.tar"
            comment = store_paths_comment([layer.name])
            label = one_line(f"{owner} {layer.name}")
            if blob.compression in carried:
                yield CarriedLayer(
                    archive_name=name + carried[blob.compression],
                    size=blob.size,
                    comment=comment,
                    label=label,
                    expected=layer.digest,
                    source=source,
                    compression=blob.compression,
                    diff_id=layer.diff_id,
                )
            else:
                assert blob.content_size is not None
                yield BaseLayer(
                    archive_name=name,
                    size=blob.content_size,
                    comment=comment,
                    label=label,
                    expected=layer.diff_id,
                    source=source,
                    compression=blob.compression,
                )


def _measured(container: Container, blob: Blob) -> Blob:
    return blob if blob.content_size is not None else container.measure(blob)


def check_listing(archive_name: str, *images: ArchiveImage) -> None:
    """Raise ArchiveError for images of one archive that give one member two diff_ids."""
    blobs: dict[Blob, Digest] = {}
    for layer in chain.from_iterable(image.layers for image in images):
        if blobs.setdefault(layer.blob, layer.diff_id) != layer.diff_id:
            raise ArchiveError(f"{archive_name}: {layer.name}", "is listed with two diff_ids")

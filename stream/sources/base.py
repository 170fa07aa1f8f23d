"""The base image: its layers, copied and verified, and what it says of itself.

Knows image archives through `stream.archives`; not where the layers go. Layers
come in the order in which the archive has them, each once, because a compressed
archive is read from its front; the manifest's order is the image's.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass, field, replace
from itertools import chain
from typing import Any, Self

from stream.archives.bytesource import ByteSource, FileBytes, pieces, read_exactly
from stream.archives.container import Blob, Container
from stream.archives.decompress import decompressed
from stream.archives.images import Archive, ArchiveImage, ArchiveLayer, open_archive
from stream.errors import ArchiveError, DigestMismatch
from stream.model import BaseReference, Descriptor, Digest, ImageConf, Layer, LayerPlan
from stream.oci.documents import LAYER_TYPE, store_paths_comment
from stream.sources.base_listing import BaseListing, Lister, held
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


class BaseImage:
    """An image in an open archive, to be built on. A context manager. `listings` are of
    its distinct layers, by their blobs, if any were made.
    """

    def __init__(
        self,
        reference: BaseReference,
        archive: Archive,
        image: ArchiveImage,
        listings: dict[Blob, BaseListing],
    ) -> None:
        self.archive = archive
        self.image = image
        self.listings = listings
        self._reference = reference

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.archive.container.close()

    @property
    def name(self) -> str:
        """The archive's, for errors."""
        return self.archive.name

    @property
    def layers(self) -> tuple[ArchiveLayer, ...]:
        """The image's layers, bottom to top; one may be there twice."""
        return self.image.layers

    @property
    def document(self) -> dict[str, Any]:
        """The image's config, parsed."""
        return self.image.document

    @property
    def architecture(self) -> str:
        """What the image is for."""
        return str(self.document.get("architecture"))

    def distinct_layer_count(self) -> int:
        """How many layers are written."""
        return len({layer.diff_id for layer in self.layers})

    def sizes(self) -> Iterator[int | None]:
        """The size of each layer that is written, uncompressed, as far as it is known."""
        for layer in {layer.diff_id: layer for layer in self.layers}.values():
            yield layer.blob.content_size

    def without_held(self, conf: ImageConf) -> ImageConf:
        """`conf` without the store paths that the image holds already, if that is
        what the conf asks for.
        """
        if not self._reference.skip_store_paths:
            return conf
        names = held(self.listings[layer.blob].store for layer in self.layers)
        plans = (
            LayerPlan(
                store_paths=tuple(
                    path for path in plan.store_paths if os.path.basename(path) not in names
                )
            )
            for plan in conf.store_layers
        )
        return replace(conf, store_layers=tuple(plan for plan in plans if plan.store_paths))

    def sources(self, *, carry_compressed: bool) -> Iterator[SourceLayer]:
        """Each distinct layer, in the archive's order; one that is stored compressed
        stays so, if it can, with `carry_compressed`.
        """
        return archive_layers(
            self.archive.container,
            self.layers,
            owner="base image's",
            carry_compressed=carry_compressed,
        )

    def in_order(self, written: Sequence[Layer]) -> list[Layer]:
        """The image's layers, bottom to top, made of those `written`."""
        by_diff_id = {layer.diff_id: layer for layer in written}
        return [
            replace(by_diff_id[layer.diff_id], comment=store_paths_comment([layer.name]))
            for layer in self.layers
        ]


def _measured(container: Container, blob: Blob) -> Blob:
    return blob if blob.content_size is not None else container.measure(blob)


def open_base_image(
    reference: BaseReference, conf: ImageConf, *, entries: bool = False
) -> BaseImage:
    """The image that `reference` means; of several the one for the conf's architecture.
    What the conf asks for is listed, with `entries` also its layers' entries. Raises
    ArchiveError.
    """
    lister = Lister(conf, entries=entries)
    archive = open_archive(reference.path, lister if lister.is_needed else None)
    try:
        image = archive.choose(reference.repo_tag, conf.architecture)
        check_listing(archive.name, image)
        blobs = dict.fromkeys(layer.blob for layer in image.layers)
        listings = {blob: archive.container.perused(blob) for blob in blobs if lister.is_needed}
    except BaseException:
        archive.container.close()
        raise
    return BaseImage(reference, archive, image, listings)


def check_listing(archive_name: str, *images: ArchiveImage) -> None:
    """Raise ArchiveError for images of one archive that give one member two diff_ids."""
    blobs: dict[Blob, Digest] = {}
    for layer in chain.from_iterable(image.layers for image in images):
        if blobs.setdefault(layer.blob, layer.diff_id) != layer.diff_id:
            raise ArchiveError(f"{archive_name}: {layer.name}", "is listed with two diff_ids")

"""The images of an archive as sources, each distinct layer once. See
`stream.interfaces.ImageSources`.

A layer is identified by its diff_id, never by its member's name. Knows archives; does not know
where the images go, nor why these are written together.
"""

from __future__ import annotations

from collections.abc import Collection, Generator, Iterator, Mapping, Sequence
from itertools import chain

from stream.archives.bytesource import ByteSource
from stream.archives.images import Archive, ArchiveImage, ArchiveLayer
from stream.archives.tarreader import read_members
from stream.errors import ArchiveError
from stream.interfaces import LayerSource, Takes
from stream.model import Digest, ImageDocuments, KnownLayer, Layer
from stream.oci.platform import Platform
from stream.sources.base.layers import archive_layers, check_listing, distinct_layers


class ArchiveSources:
    """`images` of `archive`. See `stream.interfaces.ImageSources`. Raises ArchiveError if they
    contradict each other.
    """

    def __init__(self, archive: Archive[object], images: Sequence[ArchiveImage]) -> None:
        check_listing(archive.name, *images)
        self._archive = archive
        self._images = images

    def known_layers(self, takes: Takes) -> list[KnownLayer]:
        """See the interface."""
        return distinct_layers(self._layers(), takes)

    def unknown_layers(self) -> tuple[()]:
        """See the interface: none."""
        return ()

    def unknown_sizes(self) -> Iterator[int]:
        """See the interface: none."""
        return iter(())

    def layers(self, takes: Takes, skip: Collection[Digest]) -> Generator[LayerSource, None, None]:
        """See the interface."""
        yield from archive_layers(
            self._archive.container,
            [layer for layer in self._layers() if layer.diff_id not in skip],
            owner=f"{self._archive.name}:",
            carry_compressed=takes.compressed_layers,
        )

    def documents(
        self, layers: Sequence[Layer], known: Mapping[Digest, Layer]
    ) -> Iterator[ImageDocuments]:
        """See the interface."""
        for image in self._images:
            stated = image.platform  # what the config lacks may be in the index
            own = Platform.parse(image.document)
            yield ImageDocuments(
                config=image.config,
                repo_tags=image.repo_tags,
                layers=tuple(known[layer.diff_id] for layer in image.layers),
                architecture=own.architecture or stated.architecture,
                os=own.os or stated.os or "linux",
                variant=own.variant or stated.variant,
                annotations=image.annotations,
            )

    def _layers(self) -> Iterator[ArchiveLayer]:
        return chain.from_iterable(image.layers for image in self._images)


def begins_tar(layer: ByteSource) -> bool:
    """Read the first entry of `layer`. Raises ArchiveError if it is not a tar."""
    return next(read_members(layer), None) is not None


def check_images(archive: Archive[object], images: Sequence[ArchiveImage]) -> None:
    """Raise ArchiveError if no consumer loads what would be merged: no image at all, or a layer
    that is not a tar.
    """
    if not images:
        raise ArchiveError(archive.name, "contains no image")
    for layer in chain.from_iterable(image.layers for image in images):
        archive.container.peruse(layer.blob)

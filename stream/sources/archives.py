"""The images of archives as sources, each distinct layer once. See
`stream.interfaces.ImageSources`.

A layer is identified by its diff_id, never by its member's name. Knows archives; does not know
where the images go, nor why these are written together.
"""

from __future__ import annotations

from collections.abc import Collection, Generator, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import chain

from stream.archives.bytesource import ByteSource
from stream.archives.images import Archive, ArchiveImage, ArchiveLayer
from stream.archives.tarreader import read_members
from stream.errors import ArchiveError
from stream.interfaces import LayerSource, Takes
from stream.model import Digest, ImageDocuments, KnownLayer, Layer
from stream.observer import Observer
from stream.oci.platform import Platform
from stream.oci.reference import qualified
from stream.sources.base.layers import archive_layers, check_listing, distinct_layers


@dataclass(slots=True, kw_only=True)
class _Images:
    """Images by ID, in order of first occurrence, and the owner of each tag."""

    images: dict[Digest, ArchiveImage] = field(default_factory=dict)
    owners: dict[str, tuple[str, Digest]] = field(default_factory=dict)  # by qualified tag

    def add(self, image: ArchiveImage, observer: Observer) -> None:
        image_id = image.image_id
        self.images.setdefault(image_id, image)
        for tag in image.repo_tags:
            _, owner = self.owners.get(qualified(tag), (tag, image_id))
            if owner != image_id:
                observer.warning(
                    f"{tag}: is now {image_id[:19]} instead of {owner[:19]}; the last image wins"
                )
            self.owners[qualified(tag)] = (tag, image_id)

    def tags(self, image_id: Digest) -> tuple[str, ...]:
        return tuple(tag for tag, owner in self.owners.values() if owner == image_id)


class ArchiveSources:
    """The images of several archives. See `stream.interfaces.ImageSources`. The first
    archive that has a layer provides it.
    """

    def __init__(
        self, inputs: Sequence[tuple[Archive[object], Sequence[ArchiveImage]]], observer: Observer
    ) -> None:
        self._found = _Images()
        self._plan: list[tuple[Archive[object], list[ArchiveLayer]]] = []
        given: set[Digest] = set()
        for archive, images in inputs:
            check_listing(archive.name, *images)
            new: list[ArchiveLayer] = []
            for image in images:
                self._found.add(image, observer)
                for layer in image.layers:
                    if layer.diff_id not in given:
                        given.add(layer.diff_id)
                        new.append(layer)
            self._plan.append((archive, new))

    def known_layers(self) -> list[KnownLayer]:
        """See the interface."""
        return distinct_layers(layer for _, layers in self._plan for layer in layers)

    def unknown_sizes(self) -> Iterator[int]:
        """See the interface: none."""
        return iter(())

    def unknown_count(self) -> int:
        """See the interface: none."""
        return 0

    def layers(self, takes: Takes, skip: Collection[Digest]) -> Generator[LayerSource, None, None]:
        """See the interface."""
        for archive, layers in self._plan:
            yield from archive_layers(
                archive.container,
                [layer for layer in layers if layer.diff_id not in skip],
                owner=f"{archive.name}:",
                carry_compressed=takes.compressed_layers,
            )

    def documents(
        self, layers: Sequence[Layer], known: Mapping[Digest, Layer]
    ) -> Iterator[ImageDocuments]:
        """See the interface."""
        for image_id, image in self._found.images.items():
            stated = image.platform  # what the config lacks may be in the index
            own = Platform.parse(image.document)
            yield ImageDocuments(
                config=image.config,
                repo_tags=self._found.tags(image_id),
                layers=tuple(known[layer.diff_id] for layer in image.layers),
                architecture=own.architecture or stated.architecture,
                os=own.os or stated.os or "linux",
                variant=own.variant or stated.variant,
                annotations=image.annotations,
            )


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

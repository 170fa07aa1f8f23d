"""Many images in one archive: each layer once, by its content.

A layer is known by its diff_id, never by its member's name, and is verified while
it passes. Nothing is staged. Knows archives; not argv.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from stream.archives.images import Archive, ArchiveImage, ArchiveLayer
from stream.model import Digest, Image
from stream.observer import Observer
from stream.oci import documents
from stream.oci.reference import qualified
from stream.pipeline import LayerWriting
from stream.sources.base.layers import archive_layers, check_listing
from stream.tarwriter import ArchiveWriter

MTIME = 1  # of all members, as in images made here


@dataclass(slots=True, kw_only=True)
class _Images:
    """Images by ID, in the order in which they came, and who has each tag."""

    images: dict[Digest, ArchiveImage] = field(default_factory=dict)
    owners: dict[str, tuple[str, Digest]] = field(default_factory=dict)  # by qualified tag

    def add(self, image: ArchiveImage, observer: Observer) -> None:
        image_id = image.image_id
        self.images.setdefault(image_id, image)
        for tag in image.repo_tags:
            _, owner = self.owners.get(qualified(tag), (tag, image_id))
            if owner != image_id:
                observer.warning(
                    f"{tag} is now {image_id[:19]}, no longer {owner[:19]}: the last one wins"
                )
            self.owners[qualified(tag)] = (tag, image_id)

    def tags(self, image_id: Digest) -> tuple[str, ...]:
        return tuple(tag for tag, owner in self.owners.values() if owner == image_id)


def merge(
    inputs: Sequence[tuple[Archive, Sequence[ArchiveImage]]],
    fd: int,
    observer: Observer | None = None,
) -> list[Image]:
    """Write the images of all `inputs` to `fd` as one docker-archive.

    Returns the record of each, in the order in which they came first. Of images that
    share a tag the last one has it, as `docker load` would have it; `observer` is
    told. Raises ArchiveError, DigestMismatch or OutputError; then there is no manifest.
    """
    observer = observer or Observer()
    found = _Images()
    plan: list[tuple[Archive, list[ArchiveLayer]]] = []  # the first that has a layer gives it
    given: set[Digest] = set()
    for archive, images in inputs:
        plan.append((archive, []))
        check_listing(archive.name, *images)
        for image in images:
            found.add(image, observer)
            for layer in image.layers:
                if layer.diff_id not in given:
                    given.add(layer.diff_id)
                    plan[-1][1].append(layer)
    with ArchiveWriter(fd, mtime=MTIME) as writer:
        observer.started(
            len(given),
            lambda: (layer.blob.content_size for _, layers in plan for layer in layers),
            lambda: writer.position,
        )
        writing = LayerWriting(writer, observer)
        for archive, new in plan:
            owner = f"{archive.name}:"
            for source in archive_layers(
                archive.container, new, owner=owner, carry_compressed=False
            ):
                writing.write(source)
        by_diff_id = {layer.diff_id: layer for layer in writing.complete()}
        items, written = [], []
        for image_id, image in found.images.items():
            name = f"{image_id.removeprefix('sha256:')}.json"
            writer.write_member(name, image.config)
            ours = tuple(by_diff_id[layer.diff_id] for layer in image.layers)
            tags = found.tags(image_id)
            items.append(documents.archive_item(name, tags, ours))
            written.append((image_id, tags, ours))
        writer.write_member("manifest.json", documents.archive_manifest(items))
        size = writer.finish()
    merged = [
        Image(image_id=image_id, repo_tags=tags, layers=ours, size=size)
        for image_id, tags, ours in written
    ]
    observer.finished(*merged)
    return merged

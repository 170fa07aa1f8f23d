"""The images of one archive and their tags. Must not know files."""

from __future__ import annotations

from collections.abc import Callable, Iterable

from stream.model import Digest, ImageDocuments
from stream.oci.documents import digest
from stream.oci.reference import qualified
from stream.values import replace


def distinct_images(
    images: Iterable[ImageDocuments], warn: Callable[[str], None], *, indexes: bool = False
) -> list[ImageDocuments]:
    """Return each of `images` once, in order of first occurrence, with the tags of all its
    occurrences. A tag belongs to the last image that has it, as with `docker load`; with `indexes`,
    to the last image for each platform. `warn` is called with a line for a person if that takes it
    from another one.
    """
    found: dict[Digest, ImageDocuments] = {}
    owners: dict[tuple[str, object], tuple[str, Digest]] = {}  # by qualified tag
    for image in images:
        image_id = digest(image.config)
        found.setdefault(image_id, image)
        platform = (image.os, image.architecture, image.variant) if indexes else None
        for tag in image.repo_tags:
            _, owner = owners.get((qualified(tag), platform), (tag, image_id))
            if owner != image_id:
                warn(f"{tag}: is now {image_id[:19]} instead of {owner[:19]}; the last image wins")
            owners[qualified(tag), platform] = tag, image_id
    return [
        replace(image, repo_tags=tuple(tag for tag, owner in owners.values() if owner == image_id))
        for image_id, image in found.items()
    ]

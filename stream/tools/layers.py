"""The layers of a conf's image, looked at as those of an archive are: from their metadata.

Must not know what is looked for.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, TypeVar

from stream.archives.images import open_archive
from stream.errors import ArchiveError, SourceError
from stream.sources.customisation.closure import LayerWithStore
from stream.sources.layer import ListedLayer
from stream.sources.store import StoreLayer
from stream.typeflags import FILE

if TYPE_CHECKING:
    from stream.archives.bytesource import ByteSource
    from stream.archives.tarreader import Member
    from stream.sources.base.image import BaseImage

T = TypeVar("T")


def peruse_base(base: BaseImage, peruse: Callable[[ByteSource], T]) -> list[T]:
    """Return the result of `peruse` for each layer of `base`, bottom to top. The archive is read
    once more for that. Raises ArchiveError.
    """
    with open_archive(base.name, peruse) as archive:
        for image in archive.images:
            if image.image_id == base.image.image_id:
                return [archive.container.peruse(layer.blob) for layer in image.layers]
    raise ArchiveError(base.name, "changed while it was read")


def sized_members(layer: StoreLayer | ListedLayer, store_root: bytes) -> Iterator[Member]:
    """Yield the members of the tar of `layer`, in order, with the sizes of their content. The store
    is below `store_root` on disk. Raises SourceError or ArchiveError.
    """
    if isinstance(layer, LayerWithStore):
        yield from layer.own.members()
        yield from sized_members(layer.store, store_root)
        return
    for member in layer.members():
        if isinstance(layer, StoreLayer) and member.typeflag == FILE:
            path = store_root + b"/" + member.name.lstrip(b"/")
            try:
                member.size = os.lstat(path).st_size
            except OSError as error:
                raise SourceError.unreadable(path, error) from error
        yield member

"""The fields that all sources of layers have. See `stream.interfaces.LayerSource`."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING

from stream.interfaces import ContentWriter
from stream.model import Digest, LayerKey
from stream.tarwriter import hash_layer, write_layer
from stream.values import dataclass

if TYPE_CHECKING:
    from stream.archives.bytesource import ByteSource
    from stream.archives.tarreader import Member


@dataclass(frozen=True, slots=True, kw_only=True)
class SourceFields:
    """The facts about a layer that are known before its bytes are written."""

    label: str
    comment: str
    fingerprint: str
    size: int
    entry_count: int = 0
    compression: str | None = None
    diff_id: Digest | None = None
    digest: Digest | None = None
    keys: tuple[LayerKey, ...] = ()
    repeatable: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class ReadableLayer(SourceFields):
    """A layer whose tar can be written more than once, and so be read as well."""

    repeatable: bool = True

    def write_to(self, writer: ContentWriter) -> None:
        """Write the layer's tar. Raises SourceError."""
        raise NotImplementedError

    def hashed(self) -> Digest:
        """Write the layer's tar to nowhere, and return its digest. Raises SourceError."""
        return hash_layer(self.size, self.write_to)

    def content(self) -> AbstractContextManager[ByteSource]:
        """Open its tar, to be read once from the front. Raises SourceError."""
        from stream.archives.sequential import bytes_from

        return bytes_from(lambda fd: write_layer(fd, self.size, self.write_to), self.label)


@dataclass(frozen=True, slots=True, kw_only=True)
class ListedLayer(ReadableLayer):
    """A layer whose members can be listed before its bytes pass. It is not complete if commands
    that make a part of it were not run, as nobody asked for its bytes.
    """

    complete: bool = True

    def end(self) -> int:
        """Return the offset in bytes of its tar's trailer. Raises SourceError or ArchiveError."""
        raise NotImplementedError

    def write_members(self, writer: ContentWriter) -> None:
        """Write its tar without the trailer. Raises SourceError or ArchiveError."""
        raise NotImplementedError

    def members(self) -> Iterator[Member]:
        """Yield the members of its tar, in order. Raises SourceError."""
        raise NotImplementedError

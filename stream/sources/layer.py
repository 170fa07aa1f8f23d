"""What all sources of layers have in common."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import TYPE_CHECKING

from stream.errors import DigestMismatch
from stream.model import Digest, Layer
from stream.tarwriter import LayerWriter, write_layer

if TYPE_CHECKING:
    from stream.archives.bytesource import ByteSource
    from stream.archives.tarreader import Member


@dataclass(frozen=True, slots=True, kw_only=True)
class SourceLayer:
    """A layer whose size is known and whose bytes are to come.

    `archive_name` is its member's name in the archive, `size` the member's bytes,
    `comment` its line in the image's history, `label` what a person may call it. If
    `expected` is set, the member's bytes must have that digest. `entry_count` says
    what its metadata costs while it waits.
    """

    archive_name: str
    size: int
    comment: str
    label: str
    expected: Digest | None = None
    entry_count: int = 0

    def write_to(self, layer: LayerWriter) -> None:
        """Write the member's bytes."""
        raise NotImplementedError

    def record(self, digest: Digest) -> Layer:
        """The record of this layer, its member's bytes having `digest`.

        Raises DigestMismatch if they are not the ones that were promised.
        """
        if self.expected is not None and digest != self.expected:
            raise DigestMismatch(self.comment, self.expected, digest)
        return Layer(
            archive_name=self.archive_name, diff_id=digest, size=self.size, comment=self.comment
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class ListedLayer(SourceLayer):
    """A layer whose members can be known before its bytes pass."""

    def members(self) -> Iterator[Member]:
        """The members of its tar, in order. Raises SourceError."""
        raise NotImplementedError

    def content(self) -> AbstractContextManager[ByteSource]:
        """Its tar, to be read once from the front. Raises SourceError."""
        from stream.archives.sequential import piped

        return piped(lambda fd: write_layer(fd, self.size, self.write_to), self.label)

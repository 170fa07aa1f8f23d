"""The ready-made customisation layer: a `layer.tar` on disk, copied unchanged.

Must not know what is in the tar or where it goes.
"""

from __future__ import annotations

import hashlib
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from stream.digests import content_key
from stream.errors import DigestMismatch, SourceError
from stream.interfaces import ContentWriter
from stream.model import CustomisationLayer, Digest
from stream.oci.documents import store_paths_comment
from stream.sources.layer import ListedLayer
from stream.tarwriter import padded
from stream.text import printable
from stream.values import dataclass

if TYPE_CHECKING:
    from stream.archives.bytesource import ByteSource
    from stream.archives.tarreader import Member

PIECE = 1 << 20  # bytes, read at once


@dataclass(frozen=True, slots=True, kw_only=True)
class ReadyLayer(ListedLayer):
    """A layer tar on disk."""

    path: bytes

    def members(self) -> Iterator[Member]:
        """See ListedLayer. Raises ArchiveError as well."""
        from stream.archives.tarreader import read_members

        with self.content() as content:
            yield from read_members(content)

    @contextmanager
    def content(self) -> Iterator[ByteSource]:
        """See ListedLayer; the file supports random access."""
        from stream.archives.bytesource import FileBytes

        with self._opened() as fd:
            yield FileBytes(fd, printable(self.path), size=self.size)

    @contextmanager
    def _opened(self) -> Iterator[int]:
        """Open the file for reading. Raises SourceError, even if its size changes meanwhile."""
        try:
            fd = os.open(self.path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
        except OSError as error:
            raise SourceError.unreadable(self.path, error) from error
        try:
            if not stat.S_ISREG(os.fstat(fd).st_mode):
                raise SourceError(self.path, "is no longer a regular file")
            yield fd
            if os.fstat(fd).st_size != self.size:
                raise SourceError(self.path, "changed while it was read")
        finally:
            os.close(fd)

    def write_to(self, writer: ContentWriter) -> None:
        """Copy the file. Raises SourceError if it is not `size` bytes long."""
        with self._opened() as fd:
            writer.copy(fd, self.size, self.path)

    def end(self) -> int:
        """See ListedLayer."""
        return max((member.offset + padded(member.size) for member in self.members()), default=0)

    def write_members(self, writer: ContentWriter) -> None:
        """See ListedLayer. Raises DigestMismatch if the file does not have its checksum: the
        digest of what is written does not show it.
        """
        end, offset, digest = self.end(), 0, hashlib.sha256()
        with self._opened() as fd:
            while piece := os.read(fd, PIECE):
                digest.update(piece)
                if offset < end:
                    writer.write(piece[: end - offset])
                offset += len(piece)
        found = Digest(f"sha256:{digest.hexdigest()}")
        if self.diff_id is not None and found != self.diff_id:
            raise DigestMismatch(self.comment, self.diff_id, found)


def ready_layer(plan: CustomisationLayer) -> ReadyLayer:
    """Return `plan` as a layer source, named by its checksum, which its bytes must have."""
    return ReadyLayer(
        fingerprint=plan.checksum.removeprefix("sha256:"),
        size=plan.size,
        comment=plan.comment or store_paths_comment([plan.path]),
        label="customisation layer",
        path=f"{plan.path}/layer.tar".encode(),
        diff_id=plan.checksum,
        keys=(content_key(plan.checksum),),
    )

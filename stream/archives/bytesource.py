"""Forward-only byte sources: a file, a part of one, or the output of a decompressor.

Must not know what the bytes mean.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Protocol, Self

from stream.errors import ArchiveError, StreamImageError
from stream.limits import BOMB_RATIO, BOMB_SIZE
from stream.model import Digest

PIECE = 1 << 18  # bytes; more costs page faults, less costs calls


@contextmanager
def reading(name: str) -> Iterator[None]:
    """Raise a failure of the system in the body, which reads `name`, as ArchiveError."""
    try:
        yield
    except StreamImageError:
        raise
    except OSError as error:
        raise ArchiveError(name, f"cannot be read: {error.strerror}") from error


class Budget:
    """The work that one input may cause, in proportion to the bytes read from it.

    Whatever reads the input pays for the bytes; decompressors, nested ones too, take what they
    produce, and readers what they keep, in all passes together. Without a common budget, many
    bombs could each stay below the limit, and nested decompressors could produce the square of
    BOMB_RATIO.
    """

    def __init__(self) -> None:
        self._paid = 0
        self._taken = 0

    def pay(self, count: int) -> None:
        """Account for `count` bytes that were read from the input."""
        self._paid += count

    def take(self, count: int, name: str, reason: str) -> None:
        """Account for work that costs as much as `count` bytes of output. Beyond the limit,
        raises ArchiveError for `name` with `reason`.
        """
        self._taken += count
        if self._taken > BOMB_SIZE and self._taken > BOMB_RATIO * self._paid:
            raise ArchiveError(name, f"{reason}; refused as a bomb")


class Readable(Protocol):
    """The one method of a file object that is used here."""

    def read(self, count: int, /) -> bytes:
        """Return at most `count` bytes; none only at the end."""


class ByteSource(Protocol):
    """A forward-only source of bytes. `position` is the number of bytes consumed; `name` is
    for errors; `budget` is that of the input the bytes come from. `unpacked` is true if they
    are the output of a decompressor.
    """

    name: str
    position: int
    budget: Budget
    unpacked: bool

    def read(self, count: int) -> bytes:
        """Return `count` bytes; fewer, or none, only at the end."""

    def skip(self, count: int) -> None:
        """Skip `count` bytes. Raises ArchiveError if there are fewer."""


class FileBytes:
    """`size` bytes of the file `fd` from `offset`. The file's own position is neither used
    nor changed, so several of these may read one file, with one `budget`.
    """

    unpacked = False

    def __init__(
        self, fd: int, name: str, *, size: int, offset: int = 0, budget: Budget | None = None
    ) -> None:
        self.name = name
        self.position = 0
        self.budget = budget or Budget()
        self.size = size
        self._fd = fd
        self._offset = offset

    @classmethod
    def whole(cls, fd: int, name: str, budget: Budget | None = None) -> Self:
        """Return all bytes of the file `fd`, up to its present size."""
        return cls(fd, name, size=os.fstat(fd).st_size, budget=budget)

    @property
    def range(self) -> tuple[int, int]:
        """The descriptor, and the offset at which these bytes begin."""
        return self._fd, self._offset

    def read(self, count: int) -> bytes:
        """See ByteSource."""
        pieces = []
        count = max(min(count, self.size - self.position), 0)
        while count:
            with reading(self.name):
                piece = os.pread(self._fd, min(count, PIECE), self._offset + self.position)
            if not piece:
                break
            pieces.append(piece)
            self.position += len(piece)
            self.budget.pay(len(piece))
            count -= len(piece)
        return pieces[0] if len(pieces) == 1 else b"".join(pieces)

    def skip(self, count: int) -> None:
        """See ByteSource."""
        self.position += count
        if self.position > self.size:
            raise ArchiveError(self.name, "is cut short")


class StreamBytes:
    """The bytes of a file object, which need not be seekable. If they come from another
    source, `within`, its budget counts, and they are not paid for again.
    """

    def __init__(
        self,
        file: Readable,
        name: str,
        within: ByteSource | None = None,
        *,
        unpacked: bool = False,
    ) -> None:
        self.name = name
        self.position = 0
        self.budget = Budget() if within is None else within.budget
        self.unpacked = unpacked or (within is not None and within.unpacked)
        self._file = file
        self._pays = within is None

    def read(self, count: int) -> bytes:
        """See ByteSource."""
        pieces = []
        while count:
            piece = self._file.read(min(count, PIECE))
            if not piece:
                break
            pieces.append(piece)
            self.position += len(piece)
            if self._pays:
                self.budget.pay(len(piece))
            count -= len(piece)
        return pieces[0] if len(pieces) == 1 else b"".join(pieces)

    def skip(self, count: int) -> None:
        """See ByteSource."""
        while count > 0:
            piece = self.read(min(count, PIECE))
            if not piece:
                raise ArchiveError(self.name, "is cut short")
            count -= len(piece)


class Part:
    """The next `size` bytes of `source`, as a byte source and as a file object."""

    def __init__(self, source: ByteSource, size: int, name: str) -> None:
        self.name = name
        self.position = 0
        self.budget = source.budget
        self.unpacked = source.unpacked
        self.size = size
        self._source = source

    def read(self, count: int = -1) -> bytes:
        """See ByteSource."""
        left = self.size - self.position
        data = self._source.read(left if count < 0 else min(count, left))
        self.position += len(data)
        return data

    def skip(self, count: int) -> None:
        """See ByteSource."""
        count = min(count, self.size - self.position)
        self._source.skip(count)
        self.position += count


def read_exactly(source: ByteSource, count: int) -> bytes:
    """Return `count` bytes of `source`. Raises ArchiveError if there are fewer."""
    data = source.read(count)
    if len(data) != count:
        raise ArchiveError(source.name, "is cut short")
    return data


def pieces(source: ByteSource, count: int | None = None) -> Iterator[bytes]:
    """Yield all bytes of `source`, or exactly `count`, in pieces of bounded size.

    Raises ArchiveError if there are fewer than `count`.
    """
    while count is None or count > 0:
        data = source.read(PIECE if count is None else min(count, PIECE))
        if not data:
            if count is not None:
                raise ArchiveError(source.name, "is cut short")
            return
        if count is not None:
            count -= len(data)
        yield data


class _Joined:
    def __init__(self, head: bytes, source: ByteSource) -> None:
        self._head = head
        self._source = source

    def read(self, count: int, /) -> bytes:
        if self._head:
            data, self._head = self._head[:count], self._head[count:]
            return data
        return self._source.read(count)


def join(head: bytes, source: ByteSource) -> StreamBytes:
    """Return `head`, which was read from `source`, and the rest of `source`."""
    return StreamBytes(_Joined(head, source), source.name, source)


class HashedBytes:
    """A byte source that hashes all bytes that pass, whether read or skipped."""

    def __init__(self, source: ByteSource) -> None:
        self.name = source.name
        self.position = 0
        self.budget = source.budget
        self.unpacked = source.unpacked
        self._source = source
        self._hash = hashlib.sha256()

    def read(self, count: int) -> bytes:
        """See ByteSource."""
        data = self._source.read(count)
        self._hash.update(data)
        self.position += len(data)
        return data

    def skip(self, count: int) -> None:
        """See ByteSource."""
        for _ in pieces(self, count):
            pass

    def finish(self) -> Digest:
        """Read the rest, and return the digest of all bytes."""
        for _ in pieces(self):
            pass
        return Digest(f"sha256:{self._hash.hexdigest()}")

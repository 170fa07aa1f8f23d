"""The files of a layer by their size, and those with the same content.

Memory is bounded for any number of entries. Must not know where layers come from.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable
from heapq import heappush, heappushpop

from stream.archives.bytesource import ByteSource, pieces
from stream.archives.flatten import parts_of
from stream.archives.summary import Summary, size_of
from stream.archives.tarreader import read_members
from stream.text import printable
from stream.typeflags import FILE
from stream.values import dataclass, field

MAX_LARGEST = 100  # files kept of a layer
# Files whose content is compared: smaller ones are not worth their memory, nor are more.
MIN_COMPARED = 4096  # bytes
MAX_COMPARED = 1 << 19  # contents, in all layers together


@dataclass(frozen=True, slots=True, kw_only=True)
class SizedFile:
    """A file in an image: its path, with unprintable characters escaped, and its size in bytes."""

    path: str
    size: int


@dataclass(slots=True)
class Copies:
    """The files of a layer with one content: the size of each in bytes, how many there are, and the
    name of the first.
    """

    size: int
    count: int
    name: bytes


class Allowance:
    """How many contents the layers of an image may still remember together."""

    def __init__(self, count: int = MAX_COMPARED) -> None:
        self._left = count
        self.is_spent = False

    def take(self) -> bool:
        """Return True if one more may be remembered."""
        if not self._left:
            self.is_spent = True
            return False
        self._left -= 1
        return True


@dataclass(slots=True)
class Files:
    """The files of a layer, and its summary. `contents` are their contents by SHA-256, if they were
    read.
    """

    allowance: Allowance
    summary: Summary = field(default_factory=Summary)
    contents: dict[bytes, Copies] = field(default_factory=dict)
    _largest: list[tuple[int, int, bytes]] = field(default_factory=list)  # a heap
    _count: int = 0

    def add(self, name: bytes, size: int, content: Iterable[bytes] | None = None) -> None:
        """Count a file of `size` bytes, whose `content` is read if it is large enough."""
        self._count += 1
        # Of equal ones, the first stays.
        item = (size, -self._count, name)
        if len(self._largest) < MAX_LARGEST:
            heappush(self._largest, item)
        else:
            heappushpop(self._largest, item)
        if content is not None and size >= MIN_COMPARED:
            digest = hashlib.sha256()
            for piece in content:
                digest.update(piece)
            key = digest.digest()
            if key in self.contents:
                self.contents[key].count += 1
            elif self.allowance.take():
                self.contents[key] = Copies(size, 1, name)

    @property
    def largest(self) -> tuple[SizedFile, ...]:
        """The largest files, in descending order."""
        return tuple(
            SizedFile(path=path_of(name), size=size)
            for size, _, name in sorted(self._largest, reverse=True)
        )


def path_of(name: bytes) -> str:
    """Return the path of the entry `name`."""
    return "/" + printable(b"/".join(parts_of(name)))


def make_file_lister(allowance: Allowance, *, contents: bool) -> Callable[[ByteSource], Files]:
    """Return a function that lists the files of a layer, for opening an archive with. Their
    `contents` are read on request. It raises ArchiveError.
    """

    def listed(layer: ByteSource) -> Files:
        found = Files(allowance)
        for member in read_members(layer):
            found.summary.add(member.name)
            if member.typeflag == FILE:
                content = pieces(layer, member.size) if contents else None
                found.add(member.name, member.size, content)
        found.summary.size = size_of(layer)
        return found

    return listed

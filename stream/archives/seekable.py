"""Seekable zstd: many frames, and a table of them at the end.

Zstandard Seekable Format 0.1.0. One frame is in memory at a time, uncompressed. The table is
checked before it is used. Must not know what the bytes mean.
"""

from __future__ import annotations

import os
import struct
from array import array
from bisect import bisect_right
from itertools import accumulate

from stream.archives.bytesource import Budget
from stream.archives.decompress import BOMB, MAX_WINDOW_LOG, invalid_zstd
from stream.errors import ArchiveError

MAX_FRAME = 16 << 20  # bytes, uncompressed; those that this package writes have 4 MiB
MAX_FRAMES = 1 << 20

_HEADER = struct.Struct("<II")  # of the skippable frame: its magic number, its size
_FOOTER = struct.Struct("<IBI")  # the number of frames, flags, a magic number
_SKIPPABLE, _SEEKABLE = 0x184D2A5E, 0x8F92EAB1
_HAS_CHECKSUMS = 0x80


class Frames:
    """The frames of the file `fd`. `starts` and `offsets` are where each frame begins, in the
    file and uncompressed, and last, where the last one ends.
    """

    def __init__(self, fd: int, starts: array[int], offsets: array[int]) -> None:
        self.size = offsets[-1]
        self._fd = fd
        self._starts = starts
        self._offsets = offsets
        self._loaded = -1
        self._data = b""

    def read(self, offset: int, count: int, name: str, budget: Budget) -> bytes:
        """Return at most `count` bytes from `offset`; none only at the end. Raises ArchiveError."""
        if offset >= self.size or count <= 0:
            return b""
        number = bisect_right(self._offsets, offset) - 1
        if number != self._loaded:
            self._data = b""  # not two at a time
            self._data = self._load(number, name, budget)
            self._loaded = number
        start = offset - self._offsets[number]
        return self._data[start : start + count]

    def _load(self, number: int, name: str, budget: Budget) -> bytes:
        import pyzstd

        start, end = self._starts[number : number + 2]
        size = self._offsets[number + 1] - self._offsets[number]
        budget.take(size, name, BOMB)
        try:
            stored = os.pread(self._fd, end - start, start)
        except OSError as error:
            raise ArchiveError(name, f"cannot be read: {error.strerror}") from error
        budget.pay(len(stored))
        option: dict[int, int] = {pyzstd.DParameter.windowLogMax: MAX_WINDOW_LOG}
        try:
            frame = pyzstd.EndlessZstdDecompressor(option=option)
            data = frame.decompress(stored, size + 1)
        except pyzstd.ZstdError as error:
            raise invalid_zstd(error, name) from error
        if len(data) != size or not frame.at_frame_edge:
            raise ArchiveError(name, "is not valid zstd: a frame differs from the seek table")
        return data


class FrameBytes:
    """`size` bytes of `frames` from `offset`, by default all, as a byte source."""

    unpacked = True

    def __init__(
        self,
        frames: Frames,
        name: str,
        budget: Budget,
        *,
        offset: int = 0,
        size: int | None = None,
    ) -> None:
        self.name = name
        self.position = 0
        self.budget = budget
        self._frames = frames
        self._offset = offset
        self._size = frames.size if size is None else size

    def read(self, count: int) -> bytes:
        """See ByteSource."""
        pieces = []
        count = min(count, self._size - self.position)
        while count > 0:
            at = self._offset + self.position
            piece = self._frames.read(at, count, self.name, self.budget)
            if not piece:
                break
            pieces.append(piece)
            self.position += len(piece)
            count -= len(piece)
        return pieces[0] if len(pieces) == 1 else b"".join(pieces)

    def skip(self, count: int) -> None:
        """See ByteSource."""
        self.position += count
        if self.position > self._size:
            raise ArchiveError(self.name, "is cut short")


def read_seek_table(fd: int) -> Frames | None:
    """Return the frames of the file `fd`, or None if it does not end in a seek table, or in one
    that is not worth its memory: such a file is zstd to be read from the front.
    """
    size = os.fstat(fd).st_size
    end = os.pread(fd, _FOOTER.size, max(size - _FOOTER.size, 0))
    if len(end) != _FOOTER.size:
        return None
    count, flags, magic = _FOOTER.unpack(end)
    width = 12 if flags & _HAS_CHECKSUMS else 8
    length = count * width + _FOOTER.size
    start = size - length - _HEADER.size
    if magic != _SEEKABLE or count > MAX_FRAMES or start < 0:
        return None
    table = os.pread(fd, _HEADER.size + count * width, start)
    if table[: _HEADER.size] != _HEADER.pack(_SKIPPABLE, length):
        return None
    entries = memoryview(table)[_HEADER.size :].cast("I")
    stored, content = entries[:: width // 4], entries[1 :: width // 4]
    # A frame without content, by the table, would never be read.
    if not all(content) or max(content, default=0) > MAX_FRAME or sum(stored) != start:
        return None
    if any(packed > MAX_FRAME + (MAX_FRAME >> 4) for packed in stored):
        return None
    return Frames(fd, _starts(stored), _starts(content))


def _starts(sizes: memoryview[int]) -> array[int]:
    return array("Q", accumulate(sizes, initial=0))

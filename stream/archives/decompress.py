"""Decompression. The format is detected from the first bytes; its library is imported on
demand.

Memory is bounded for any input, and decompression bombs are refused.
"""

from __future__ import annotations

import io
from collections.abc import Callable
from typing import IO, Any, BinaryIO, cast

from stream.archives.bytesource import ByteSource, StreamBytes
from stream.errors import ArchiveError

MAGIC_SIZE = 6
_MAGICS = (
    (b"\x1f\x8b", "gzip"),
    (b"BZh", "bzip2"),
    (b"\xfd7zXZ\0", "xz"),
    (b"\x28\xb5\x2f\xfd", "zstd"),
)
# A zstd stream may begin with skippable frames: 0x184D2A50 to …5F, little-endian.
_SKIPPABLE = b"\x2a\x4d\x18"

MAX_WINDOW_LOG = 27  # a window of 128 MiB, the most that --long and --ultra need
MAX_XZ_MEMORY = 160 << 20  # bytes; `xz -9` needs 65 MiB for its dictionary
BOMB_SIZE = 1 << 30  # bytes of output; beyond this, BOMB_RATIO applies
BOMB_RATIO = 1100  # the most output per byte of input; gzip reaches 1032


def compression_of(magic: bytes) -> str | None:
    """Return the compression of data that begins with `magic` (MAGIC_SIZE bytes), or None."""
    for start, name in _MAGICS:
        if magic.startswith(start):
            return name
    if magic[1:4] == _SKIPPABLE and magic[0] & 0xF0 == 0x50:
        return "zstd"
    return None


class _Counted(io.RawIOBase):
    """A byte source as a file object for decompressors; `count` is the bytes read from it."""

    def __init__(self, source: ByteSource) -> None:
        self._source = source
        self.count = 0

    def readable(self) -> bool:
        return True

    def read(self, size: int = -1) -> bytes:
        data = self._source.read(1 << 18 if size is None or size < 0 else size)
        self.count += len(data)
        return data

    def readinto(self, buffer: Any) -> int:
        data = self.read(len(buffer))
        buffer[: len(data)] = data
        return len(data)


class _Xz:
    """A reader of xz files that behaves like lzma.LZMAFile, but limits memory."""

    def __init__(self, file: BinaryIO) -> None:
        import lzma

        self._file = file
        self._error = lzma.LZMAError
        self._new: Callable[[], lzma.LZMADecompressor] = lambda: lzma.LZMADecompressor(
            lzma.FORMAT_XZ, memlimit=MAX_XZ_MEMORY
        )
        self._decompressor = self._new()

    def read(self, size: int) -> bytes:
        """Return at most `size` bytes; none only at the end."""
        while True:
            if self._decompressor.eof:
                rest = self._decompressor.unused_data.lstrip(b"\0")  # padding
                while not rest:
                    if not (piece := self._file.read(1 << 16)):
                        return b""
                    rest = piece.lstrip(b"\0")
                following = self._new()
                try:
                    data = following.decompress(rest, size)
                except self._error:
                    return b""  # trailing garbage, which other readers ignore as well
                self._decompressor = following
            else:
                piece = self._file.read(1 << 16) if self._decompressor.needs_input else b""
                if not piece and self._decompressor.needs_input:
                    raise EOFError
                data = self._decompressor.decompress(piece, size)
            if data:
                return data


def _open(compression: str, file: BinaryIO) -> IO[bytes]:
    if compression == "gzip":
        # 2.6 times as fast as the standard library.
        from isal import igzip

        return cast(IO[bytes], igzip.IGzipFile(fileobj=file))  # type: ignore[no-untyped-call]
    if compression == "bzip2":
        import bz2

        return bz2.BZ2File(file)
    if compression == "xz":
        return cast(IO[bytes], _Xz(file))
    import pyzstd

    return cast(
        IO[bytes],
        pyzstd.ZstdFile(file, level_or_option={pyzstd.DParameter.windowLogMax: MAX_WINDOW_LOG}),
    )


class Budget:
    """The output that all decompressors of one file may produce together, in proportion to
    the bytes read from it, which `spent()` returns. Without a common budget, a decompressor
    nested in another could produce the square of BOMB_RATIO.
    """

    def __init__(self, spent: Callable[[], int]) -> None:
        self._spent = spent
        self._out = 0

    def take(self, count: int, name: str) -> None:
        """Account for `count` bytes of output of `name`. Raises ArchiveError beyond the limit."""
        self._out += count
        if self._out > BOMB_SIZE and self._out > BOMB_RATIO * self._spent():
            raise ArchiveError(
                name,
                f"expands to more than {BOMB_RATIO} times its compressed size; refused as a bomb",
            )


class _Checked:
    """The output of a decompressor. All its errors are ArchiveErrors."""

    def __init__(self, compression: str, raw: _Counted, name: str, budgets: list[Budget]) -> None:
        self._compression = compression
        self._name = name
        self._budgets = budgets
        self._file = _open(compression, cast(BinaryIO, io.BufferedReader(raw, 1 << 18)))

    def read(self, count: int) -> bytes:
        try:
            data = self._file.read(count)
        except ArchiveError:
            raise
        except Exception as error:
            # zlib.error, LZMAError, ZstdError, EOFError, BadGzipFile: no common base class
            if isinstance(error, MemoryError):
                raise
            cut = isinstance(error, EOFError)
            reason = "is cut short" if cut else f"is not valid {self._compression}: {error}"
            raise ArchiveError(self._name, reason) from error
        for budget in self._budgets:
            budget.take(len(data), self._name)
        return data


def decompress(
    source: ByteSource, compression: str, name: str, budget: Budget | None = None
) -> StreamBytes:
    """Return the uncompressed bytes of `source`. `name` is for errors. If `source` is itself
    the output of a decompressor, `budget` is the one of the file; the output counts towards
    it too. Reading raises ArchiveError.
    """
    raw = _Counted(source)
    budgets = [Budget(lambda: raw.count), *([budget] if budget else ())]
    return StreamBytes(_Checked(compression, raw, name, budgets), name)

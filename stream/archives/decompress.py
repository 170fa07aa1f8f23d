"""Decompression. The format is detected from the first bytes; its library is imported on
demand.

Memory is bounded for any input, and decompression bombs are refused.
"""

from __future__ import annotations

import io
import mmap
from collections.abc import Callable
from typing import IO, Any, BinaryIO, cast

from stream.archives.bytesource import ByteSource, StreamBytes
from stream.errors import ArchiveError
from stream.limits import BOMB_RATIO

MAGIC_SIZE = 6
_MAGICS = (
    (b"\x1f\x8b", "gzip"),
    (b"BZh", "bzip2"),
    (b"\xfd7zXZ\0", "xz"),
    (b"\x28\xb5\x2f\xfd", "zstd"),
)
# A zstd stream may begin with skippable frames: 0x184D2A50 to …5F, little-endian.
_SKIPPABLE = b"\x2a\x4d\x18"

# The memory of a decompressor, and of one that reads another's output: both run at once.
MAX_WINDOW_LOG = 27  # a window of 128 MiB, the most that --long and --ultra need
MAX_INNER_WINDOW_LOG = 25  # 32 MiB; --ultra -20 needs that much
MAX_XZ_MEMORY = 100 << 20  # bytes; `xz -9` needs 65 MiB for its dictionary
MAX_INNER_XZ_MEMORY = 66 << 20
_ZSTD_BUFFERS = 1 << 20  # bytes; more than zstd allocates besides the window

# The cost of a byte of output, relative to gzip's: what a budget bounds is time.
COSTS = {"gzip": 1, "zstd": 1, "xz": 2, "bzip2": 4}
BOMB = f"expands to more than {BOMB_RATIO} times its compressed size"


def compression_of(magic: bytes) -> str | None:
    """Return the compression of data that begins with `magic` (MAGIC_SIZE bytes), or None."""
    for start, name in _MAGICS:
        if magic.startswith(start):
            return name
    if magic[1:4] == _SKIPPABLE and magic[0] & 0xF0 == 0x50:
        return "zstd"
    return None


class _File(io.RawIOBase):
    """A byte source as a file object for decompressors."""

    def __init__(self, source: ByteSource) -> None:
        self._source = source

    def readable(self) -> bool:
        return True

    def read(self, size: int = -1) -> bytes:
        return self._source.read(1 << 18 if size is None or size < 0 else size)

    def readinto(self, buffer: Any) -> int:
        data = self.read(len(buffer))
        buffer[: len(data)] = data
        return len(data)


class _Xz:
    """A reader of xz files that behaves like lzma.LZMAFile, but limits memory."""

    def __init__(self, file: BinaryIO, limit: int) -> None:
        import lzma

        self._file = file
        self._error = lzma.LZMAError
        self._new: Callable[[], lzma.LZMADecompressor] = lambda: lzma.LZMADecompressor(
            lzma.FORMAT_XZ, memlimit=limit
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


def _open(compression: str, file: BinaryIO, *, inner: bool) -> IO[bytes]:
    if compression == "gzip":
        # 2.6 times as fast as the standard library.
        from isal import igzip

        return cast(IO[bytes], igzip.IGzipFile(fileobj=file))  # type: ignore[no-untyped-call]
    if compression == "bzip2":
        import bz2

        return bz2.BZ2File(file)
    if compression == "xz":
        return cast(IO[bytes], _Xz(file, MAX_INNER_XZ_MEMORY if inner else MAX_XZ_MEMORY))
    import pyzstd

    window = MAX_INNER_WINDOW_LOG if inner else MAX_WINDOW_LOG
    option: dict[int, int] = {pyzstd.DParameter.windowLogMax: window}
    try:
        return cast(IO[bytes], pyzstd.ZstdFile(file, level_or_option=option))
    except pyzstd.ZstdError as error:  # nothing is read yet
        raise MemoryError from error


def invalid_zstd(error: Exception, name: str) -> ArchiveError:
    """Return the error for `name`, of which the zstd library says `error`. Raises MemoryError if
    memory may be the reason: the library has one exception for all, told apart by its text only.
    """
    try:
        # Not touched, so it costs nothing. If this much is left, the library had enough.
        mmap.mmap(-1, (1 << MAX_WINDOW_LOG) + _ZSTD_BUFFERS).close()
    except OSError:
        raise MemoryError from error
    return ArchiveError(name, f"is not valid zstd: {error}")


class _Checked:
    """The output of the decompressor of `source`, taken from its budget. All errors are
    ArchiveErrors.
    """

    def __init__(self, source: ByteSource, compression: str) -> None:
        self._source = source
        self._compression = compression
        self._cost = COSTS[compression]
        self._fault: str | None = None
        file = cast(BinaryIO, io.BufferedReader(_File(source), 1 << 18))
        self._file = _open(compression, file, inner=source.unpacked)

    def read(self, count: int) -> bytes:
        # One that has failed may otherwise continue, or report the end.
        if self._fault is not None:
            raise ArchiveError(self._source.name, self._fault)
        try:
            return self._read(count)
        except ArchiveError as error:
            self._fault = error.reason
            raise

    def _read(self, count: int) -> bytes:
        name = self._source.name
        try:
            data = self._file.read(count)
        except (ArchiveError, MemoryError):
            raise
        except EOFError as error:
            raise ArchiveError(name, "is cut short") from error
        except Exception as error:
            # zlib.error, LZMAError, ZstdError, BadGzipFile: no common base class
            if self._compression == "zstd":
                raise invalid_zstd(error, name) from error
            raise ArchiveError(name, f"is not valid {self._compression}: {error}") from error
        self._source.budget.take(self._cost * len(data), name, BOMB)
        return data


def decompress(source: ByteSource, compression: str) -> StreamBytes:
    """Return the uncompressed bytes of `source`. Reading raises ArchiveError."""
    return StreamBytes(_Checked(source, compression), source.name, source, unpacked=True)

"""The codecs, which turn blocks of input into the bytes of a compressed stream.

Formats: RFC 1952 (gzip), RFC 8878 (Zstandard) and the Zstandard seekable format 0.1.0. A
stream truncated at any byte is invalid. Must not know where bytes come from or where they
go.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterable, Iterator

from stream.compression.pump import Blocks, Encoded
from stream.compression.workers import map_in_order
from stream.pipes import Buffer
from stream.values import dataclass

KIB, MIB = 1 << 10, 1 << 20

# --- store: one Zstandard frame of raw blocks

_MAX_BLOCK = 128 * KIB
_WINDOW_128_KIB = 7 << 3  # 1 KiB << 7: exponent 7, mantissa 0
_STORE_HEADER = struct.pack("<IBB", 0xFD2FB528, 0, _WINDOW_128_KIB)  # neither size nor checksum
_STORE_END = b"\x01\0\0"  # an empty raw block, marked as the last


def _store(blocks: Blocks, _level: int, _threads: int) -> Encoded:
    yield [_STORE_HEADER]
    for chunk in blocks(8 * _MAX_BLOCK):
        buffers: list[Buffer] = []
        for start in range(0, len(chunk), _MAX_BLOCK):
            block = chunk[start : start + _MAX_BLOCK]
            buffers += [(len(block) << 3).to_bytes(3, "little"), block]
        yield buffers
    yield [_STORE_END]


# --- gzip: members of a fixed size, each compressed independently

_MEMBER_SIZE = 512 * KIB


def _gzip(blocks: Blocks, level: int, threads: int) -> Encoded:
    from deflate import gzip_compress

    def members() -> Iterator[Buffer]:
        empty = True
        for member in map_in_order(
            lambda: lambda data: gzip_compress(data, level),
            map(bytes, blocks(_MEMBER_SIZE)),
            threads,
        ):
            empty = False
            yield member
        if empty:
            yield gzip_compress(b"", level)

    return _chain(members())


def _libdeflate() -> str:
    from deflate import __version__

    return f"deflate-{__version__}"


# --- zstd: one frame; the size of the library's jobs depends on the level alone


def _zstd(blocks: Blocks, level: int, threads: int) -> Encoded:
    from zstandard import ZstdCompressionParameters, ZstdCompressor

    # At least one worker thread: without any, the library writes different bytes.
    parameters = ZstdCompressionParameters.from_level(
        level, threads=threads, write_content_size=False, write_checksum=True
    )
    frame = ZstdCompressor(compression_params=parameters).compressobj()
    for block in blocks(MIB):
        yield [frame.compress(block)]
    yield [frame.flush()]


def _libzstd() -> str:
    from zstandard import ZSTD_VERSION, __version__

    return f"zstandard-{__version__} libzstd-{'.'.join(map(str, ZSTD_VERSION))}"


# --- zstd in frames of a fixed size, each compressed independently

_FRAME_SIZE = 2 * MIB


def _frames(blocks: Blocks, size: int, level: int, threads: int) -> Iterator[tuple[int, bytes]]:
    """Yield frames of `size` bytes, each with the number of bytes in it."""
    from zstandard import ZstdCompressor

    def worker() -> Callable[[Buffer], tuple[int, bytes]]:
        compress = ZstdCompressor(level=level, write_checksum=True).compress
        return lambda data: (len(data), compress(data))

    pieces: Iterator[Buffer] = blocks(size)
    # A block is valid until the next, which the caller's own thread waits for.
    return map_in_order(worker, map(bytes, pieces) if threads else pieces, threads)


def encode_zstd_frames(blocks: Blocks, level: int, threads: int) -> Encoded:
    """Encode as `zstd`, but in frames: that takes less time, and threads are of use."""
    for _, frame in _frames(blocks, _FRAME_SIZE, level, threads):
        yield [frame]


# --- zstd-seekable: frames, then a skippable frame with a table of them

_SEEKABLE_FRAME_SIZE = 4 * MIB
_SKIPPABLE_MAGIC = 0x184D2A5E
_SEEKABLE_MAGIC = 0x8F92EAB1


def _seekable(blocks: Blocks, level: int, threads: int) -> Encoded:
    def frames() -> Iterator[Buffer]:
        table = bytearray()
        for size, frame in _frames(blocks, _SEEKABLE_FRAME_SIZE, level, threads):
            table += struct.pack("<II", len(frame), size)
            yield frame
        table += struct.pack("<IBI", len(table) // 8, 0, _SEEKABLE_MAGIC)
        yield struct.pack("<II", _SKIPPABLE_MAGIC, len(table)) + table

    return _chain(frames())


def _chain(parts: Iterable[Buffer]) -> Encoded:
    """Yield `parts`, each a valid stream by itself, as one stream that is valid only as a whole.

    The last byte of each part is written with the next part, so that the stream is never
    truncated between two parts.
    """
    last: Buffer = b""
    for part in parts:
        yield [last, memoryview(part)[:-1]]
        last = part[-1:]
    yield [last]


@dataclass(frozen=True, slots=True, kw_only=True)
class Codec:
    """A compression format: `encode(blocks, level, threads)`, and its levels, if any. `library`
    returns the library and its version, on which the compressed bytes depend.

    A codec without levels is passed the level 0. With 0 threads, gzip and frames of zstd are
    compressed in the caller's.
    """

    encode: Callable[[Blocks, int, int], Encoded]
    levels: range = range(0)
    default_level: int = 0
    library: Callable[[], str] = str


# Zstandard's levels above 19 need more memory to decompress than many readers allow.
CODECS = {
    "store": Codec(encode=_store),
    "gzip": Codec(encode=_gzip, levels=range(1, 13), default_level=6, library=_libdeflate),
    "zstd": Codec(encode=_zstd, levels=range(1, 20), default_level=3, library=_libzstd),
    "zstd-seekable": Codec(
        encode=_seekable, levels=range(1, 20), default_level=3, library=_libzstd
    ),
}

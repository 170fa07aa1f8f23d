"""Compression: of the whole output on its way to a file descriptor, or of one layer as a stream.

The compressed bytes depend only on the input, the codec and its level, never on the number
of threads. Must not know what the bytes are, or argv.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager

from stream.compression.codecs import CODECS, encode_zstd_frames
from stream.compression.pump import Encoder, opened_encoder
from stream.errors import ArgumentError
from stream.values import dataclass

NONE = "none"
CHOICES = (NONE, *CODECS)
MAX_THREADS = 200  # libzstd's own limit


@dataclass(frozen=True, slots=True, kw_only=True)
class Compression:
    """A codec, one of CHOICES, and its level.

    An omitted level becomes the codec's default; for a codec without levels it stays None.
    Raises ArgumentError for an unknown codec or a level that it does not have.
    """

    codec: str = NONE
    level: int | None = None

    def __post_init__(self) -> None:
        if self.codec not in CHOICES:
            raise ArgumentError.not_one_of("codec", self.codec, CHOICES)
        codec = CODECS.get(self.codec)
        levels = codec.levels if codec else range(0)
        if self.level is None:
            if codec and levels:
                object.__setattr__(self, "level", codec.default_level)
        elif not levels:
            raise ArgumentError("level", self.level, f"is not possible; {self.codec} has no levels")
        elif type(self.level) is not int or self.level not in levels:
            reason = f"is not a level of {self.codec}; it has {levels[0]} to {levels[-1]}"
            raise ArgumentError("level", self.level, reason)

    @property
    def encoding(self) -> str:
        """Everything that the bytes of a compressed layer depend on besides the layer: codec,
        level, the library and its version; empty without compression.
        """
        codec = CODECS.get(self.codec)
        return f"{self.codec}:{self.level} {codec.library()}" if codec else ""


UNCOMPRESSED = Compression()

# OCI has media types for these.
_LAYER_ENCODERS = {"gzip": CODECS["gzip"].encode, "zstd": encode_zstd_frames}
LAYER_CODECS = (NONE, *_LAYER_ENCODERS)
_LARGE_LAYER = 64 << 20  # bytes


def layer_encoder(compression: Compression, size: int, *, threads: int) -> Encoder:
    """Return the encoder of a layer of `size` bytes. It works in the thread that uses it, since
    others encode other layers; a large layer may be alone, and gets `threads` threads.
    """
    encode = _LAYER_ENCODERS[compression.codec]
    workers = min(threads, MAX_THREADS) if size >= _LARGE_LAYER else 0
    return lambda blocks: encode(blocks, compression.level or 0, workers)


def check_threads(threads: int | None) -> None:
    """Raise ArgumentError if `threads` is neither None nor a positive integer."""
    if threads is not None and (type(threads) is not int or threads < 1):
        raise ArgumentError("threads", threads, "is not a positive whole number")


@contextmanager
def opened_compressor(
    fd: int, compression: Compression, *, threads: int | None = None
) -> Iterator[int]:
    """Open a descriptor whose bytes are written to `fd` compressed; without compression it is
    `fd` itself. `threads` is the number of compression threads, by default one for each core
    available to this process.

    When the body ends, the compressed stream is completed and written. When the body fails,
    the stream is left without a valid end, without waiting for a reader that may have
    stalled. Raises ArgumentError for an invalid `threads`, and OutputError if the bytes cannot
    be written.
    """
    check_threads(threads)
    if compression.codec == NONE:
        yield fd
        return
    workers = min(threads or len(os.sched_getaffinity(0)), MAX_THREADS)
    encode = CODECS[compression.codec].encode
    with opened_encoder(
        fd, lambda blocks: encode(blocks, compression.level or 0, workers)
    ) as source:
        yield source

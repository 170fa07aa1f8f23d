"""Compression of the whole output on its way to a file descriptor.

The compressed bytes depend on the input, the codec and its level alone, never on the
number of threads. Must not know what the bytes are, nor argv.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from stream.compression.codecs import CODECS
from stream.compression.pump import encoded
from stream.errors import ArgumentError

NONE = "none"
CHOICES = (NONE, *CODECS)
MAX_THREADS = 200  # libzstd's own limit


@dataclass(frozen=True, slots=True, kw_only=True)
class Compression:
    """A codec, one of CHOICES, and its level.

    A level that is omitted becomes the codec's default; a codec without levels keeps None.
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


UNCOMPRESSED = Compression()


def check_threads(threads: int | None) -> None:
    """Raise ArgumentError if `threads` is neither None nor a whole number above zero."""
    if threads is not None and (type(threads) is not int or threads < 1):
        raise ArgumentError("threads", threads, "is not a whole number above zero")


@contextmanager
def compressed(fd: int, compression: Compression, *, threads: int | None = None) -> Iterator[int]:
    """Return a descriptor whose bytes reach `fd` compressed, or `fd` itself without compression.

    `threads` compress, by default one for each core available to this process.

    When the body ends, the compressed stream is completed and written. When the body fails,
    the stream is left without a valid end, and nothing waits for a reader that may have
    stalled. Raises ArgumentError for `threads`, and OutputError for bytes that cannot be
    written.
    """
    check_threads(threads)
    if compression.codec == NONE:
        yield fd
        return
    workers = min(threads or len(os.sched_getaffinity(0)), MAX_THREADS)
    encode = CODECS[compression.codec].encode
    with encoded(fd, lambda blocks: encode(blocks, compression.level or 0, workers)) as source:
        yield source

"""Compression of the whole output, on its way to a file descriptor.

The compressed bytes follow from the input, the codec and its level alone, never
from the number of threads. Knows nothing of what the bytes are.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from stream.compression.codecs import CODECS
from stream.compression.pump import Pump

NONE = "none"
CHOICES = (NONE, *CODECS)
MAX_THREADS = 200  # what libzstd takes


@dataclass(frozen=True, slots=True, kw_only=True)
class Compression:
    """A codec (one of CHOICES) and its level; codecs without levels have 0."""

    codec: str = NONE
    level: int = 0


UNCOMPRESSED = Compression()


@contextmanager
def compressed(fd: int, compression: Compression, *, threads: int | None = None) -> Iterator[int]:
    """A descriptor whose bytes reach `fd` compressed, by threads of this process
    (default: one for each core we may use). Without compression it is `fd` itself.

    When the body ends, the compressed stream is finished and all of it written.
    When the body fails, the stream is left without a valid end, and nobody waits
    for a reader that may be stalled. Raises OutputError for what cannot be written.
    """
    if compression.codec == NONE:
        yield fd
        return
    workers = min(threads or len(os.sched_getaffinity(0)), MAX_THREADS)
    encode = CODECS[compression.codec].encode
    pump = Pump(fd, lambda blocks: encode(blocks, compression.level, workers))
    try:
        yield pump.input
        pump.finish()
    except BaseException as error:
        pump.abandon()
        # The pump closed its input because it failed: that is the cause.
        if isinstance(error, BrokenPipeError) and pump.failure is not None:
            raise pump.failure from None
        raise

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
from stream.errors import UsageError
from stream.text import one_line

NONE = "none"
CHOICES = (NONE, *CODECS)
MAX_THREADS = 200  # what libzstd takes

_BY_ENDING = {
    ".gz": "gzip",
    ".gzip": "gzip",
    ".tgz": "gzip",
    ".zst": "zstd",
    ".zstd": "zstd",
    ".tzst": "zstd",
}
_UNSUPPORTED = frozenset(
    (
        ".7z",
        ".bz2",
        ".lz",
        ".lz4",
        ".lzma",
        ".lzo",
        ".tbz",
        ".tbz2",
        ".txz",
        ".tlz",
        ".xz",
        ".zip",
        ".z",
    )
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Compression:
    """A codec (one of CHOICES) and its level; codecs without levels have 0."""

    codec: str = NONE
    level: int = 0


UNCOMPRESSED = Compression()


def parse(text: str) -> Compression:
    """The compression spelt `CODEC` or `CODEC:LEVEL`. Raises UsageError."""
    name, colon, level_text = text.partition(":")
    if name not in CHOICES:
        raise UsageError(f"--compress {text}: not one of {', '.join(CHOICES)}")
    codec = CODECS.get(name)
    if not colon:
        return Compression(codec=name, level=codec.default_level if codec else 0)
    if codec is None or not codec.levels:
        raise UsageError(f"--compress {text}: {name} has no levels")
    levels = {str(level): level for level in codec.levels}
    if level_text not in levels:
        lowest, *_, highest = levels
        raise UsageError(f"--compress {text}: the levels of {name} are {lowest} to {highest}")
    return Compression(codec=name, level=levels[level_text])


def for_name(path: str) -> Compression:
    """The compression that a file of this name is expected to have.

    Raises UsageError where it is one that we do not write.
    """
    _, ending = os.path.splitext(path)
    if ending.lower() in _UNSUPPORTED:
        raise UsageError(
            f"-o {one_line(path)}: {ending} is not written: name it .tar, .tar.gz or .tar.zst,"
            " or give --compress"
        )
    return parse(_BY_ENDING.get(ending.lower(), NONE))


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

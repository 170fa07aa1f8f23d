"""A thread that reads a pipe, encodes the bytes and writes them to a file descriptor.

Knows how a stream is truncated on failure and how errors are reported; must not know the
codecs.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import ExitStack, closing, contextmanager
from typing import TypeAlias

from stream.errors import OutputError, StreamImageError, ThreadError
from stream.pipes import Abandoned, Buffer, Inflow, enlarge, pipe_to, write_all

# Given a size, yields the input in blocks of that size (the last may be shorter), each valid
# until the next. Ends only if the input is complete.
Blocks: TypeAlias = Callable[[int], Iterator[memoryview]]
# Yields buffers to be written together, and finishes when its blocks end.
Encoded: TypeAlias = Generator[Sequence[Buffer], None, None]
Encoder: TypeAlias = Callable[[Blocks], Encoded]


@contextmanager
def opened_encoder(fd: int, encode: Encoder) -> Iterator[int]:
    """Open a descriptor whose bytes are written to `fd` encoded. When the body fails, the
    encoded stream is left without an end, immediately. Raises OutputError.

    The thread has a duplicate of `fd`: when the body fails, the thread lives on, perhaps
    stuck in a write that nobody reads.
    """
    output = os.dup(fd)
    enlarge(output)
    with ExitStack() as stack:
        try:
            descriptor = stack.enter_context(
                pipe_to(lambda source: _pump(source, encode, output), name="compress", wait=False)
            )
        except (OSError, ThreadError):  # no pipe, or no thread to close it
            os.close(output)
            raise
        yield descriptor


def _pump(source: Inflow, encode: Encoder, output: int) -> None:
    """Encode `source` into `output`, then close `output`."""
    try:
        try:
            with closing(encode(source.blocks)) as batches:
                for buffers in batches:
                    if source.is_abandoned:
                        return
                    _write(output, buffers)
        finally:
            os.close(output)
    except (StreamImageError, MemoryError, Abandoned):
        raise
    except BaseException as error:
        # The libraries' errors have no common base class; most likely memory ran out.
        hint = "fewer threads or a lower level take less memory"
        raise OutputError(errno.ENOMEM, f"cannot compress: {error} ({hint})") from error


def _write(output: int, buffers: Sequence[Buffer]) -> None:
    try:
        write_all(output, *buffers)
    except OSError as error:
        raise OutputError.unwritable(error, "cannot write the image") from error

"""A thread that empties a pipe through an encoder into a file descriptor.

Knows pipes, partial writes and how a stream is cut short; not what encodes.
"""

from __future__ import annotations

import errno
import fcntl
import os
import select
import threading
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import closing, suppress
from typing import TypeAlias

from stream.errors import OutputError, ReaderClosedError, StreamImageError

Buffer: TypeAlias = bytes | bytearray | memoryview
# Given a size, yields the input in blocks of it (the last may be shorter), each
# valid until the next. Ends only where the input is complete.
Blocks: TypeAlias = Callable[[int], Iterator[memoryview]]
# Yields what shall be written together, and finishes when its blocks end.
Encoded: TypeAlias = Generator[Sequence[Buffer], None, None]
Encoder: TypeAlias = Callable[[Blocks], Encoded]

PIPE_SIZE = 1 << 20


class _Abandoned(Exception):
    """The input ends, but is not complete."""


class Pump:
    """Encodes what is written to `input` and writes it to `fd`.

    The thread is a daemon, and has a duplicate of `fd`: a writer that fails, or
    is stopped, can leave it behind stuck in a write that nobody reads.
    """

    def __init__(self, fd: int, encode: Encoder) -> None:
        self.failure: BaseException | None = None
        self._encode = encode
        self._abandoned = False
        self._output = os.dup(fd)
        self._source, self.input = os.pipe()
        for pipe in (self.input, self._output):
            with suppress(OSError):  # no pipe, or more than an unprivileged user may have
                fcntl.fcntl(pipe, fcntl.F_SETPIPE_SZ, PIPE_SIZE)
        self._thread = threading.Thread(target=self._run, name="compress", daemon=True)
        self._thread.start()

    def finish(self) -> None:
        """Wait until all is encoded and written. Raises what went wrong."""
        self._close_input()
        self._thread.join()
        if self.failure is not None:
            raise self.failure

    def abandon(self) -> None:
        """Leave the stream without an end, at once."""
        self._abandoned = True
        self._close_input()

    def _close_input(self) -> None:
        if self.input >= 0:
            fd, self.input = self.input, -1
            os.close(fd)

    def _run(self) -> None:
        try:
            try:
                with closing(self._encode(self._blocks)) as encoded:
                    for buffers in encoded:
                        if self._abandoned:
                            return
                        _write_all(self._output, buffers)
            finally:
                os.close(self._output)
        except _Abandoned:
            pass
        except (StreamImageError, MemoryError) as error:
            self.failure = error
        except BaseException as error:  # noqa: BLE001 — raised again in the writer's thread
            # The libraries' errors have nothing in common; that memory is scarce is likely.
            hint = "fewer threads or a lower level take less memory"
            self.failure = OutputError(errno.ENOMEM, f"cannot compress: {error} ({hint})")
            self.failure.__cause__ = error
        finally:
            os.close(self._source)  # after the failure is known: now the writer sees it

    def _blocks(self, size: int) -> Iterator[memoryview]:
        block = memoryview(bytearray(size))
        filled = 0
        while count := os.readv(self._source, [block[filled:]]):
            filled += count
            if filled == size:
                yield block
                filled = 0
        if self._abandoned:
            raise _Abandoned
        if filled:
            yield block[:filled]


def _write_all(fd: int, buffers: Sequence[Buffer]) -> None:
    """Write the buffers whole, to a descriptor that may be non-blocking."""
    left = [memoryview(buffer) for buffer in buffers if buffer]
    while left:
        try:
            count = os.writev(fd, left)
        except BlockingIOError:
            _wait_until_writable(fd)
            continue
        except BrokenPipeError as error:
            raise ReaderClosedError(error.errno, "the reader closed the pipe") from error
        except OSError as error:
            raise OutputError(error.errno, f"cannot write the image: {error.strerror}") from error
        while left and count >= len(left[0]):
            count -= len(left.pop(0))
        if count:
            left[0] = left[0][count:]


def _wait_until_writable(fd: int) -> None:
    poll = select.poll()
    poll.register(fd, select.POLLOUT)
    poll.poll()

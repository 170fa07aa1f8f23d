"""Pipes with a thread at one end, and complete writes to descriptors and file objects.

The threads are daemons, so one that is stuck in a call does not prevent the program from
exiting. A thread records its error before it closes its end of the pipe, so that the other
end can report the cause instead of a closed pipe. Must not know what the bytes are.
"""

from __future__ import annotations

import fcntl
import io
import os
import select
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import BinaryIO, TypeAlias

from stream.errors import ThreadError
from stream.threads import starting

Buffer: TypeAlias = bytes | bytearray | memoryview

_PIPE_SIZE = 1 << 20
_PIECE = 1 << 18


def write_all(output: int | BinaryIO, *buffers: Buffer) -> None:
    """Write all buffers, in order, to a descriptor, which may be non-blocking, or to a file
    object, which may accept fewer bytes per call. Raises OSError, or the object's exception.
    """
    left = [memoryview(buffer) for buffer in buffers if buffer]
    while left:
        count = _write_some(output, left)
        while left and count >= len(left[0]):
            count -= len(left.pop(0))
        if count:
            left[0] = left[0][count:]


def _write_some(output: int | BinaryIO, buffers: list[memoryview]) -> int:
    """Write the beginning of `buffers`. Return the number of bytes written."""
    if not isinstance(output, int):
        return output.write(buffers[0]) or 0  # None: a raw file that accepts nothing yet
    try:
        return os.writev(output, buffers)
    except BlockingIOError:
        _wait(output, select.POLLOUT)
        return 0


def read_some(fd: int, count: int) -> bytes:
    """Read at most `count` bytes from a descriptor, which may be non-blocking; none only
    at the end. Raises OSError.
    """
    while True:
        try:
            return os.read(fd, count)
        except BlockingIOError:
            _wait(fd, select.POLLIN)


def _wait(fd: int, event: int) -> None:
    poll = select.poll()
    poll.register(fd, event)
    poll.poll()


def enlarge(fd: int) -> None:
    """Enlarge the buffer of `fd`, if it is a pipe and the system allows it."""
    with suppress(OSError):  # not a pipe, or the user's limit is reached
        fcntl.fcntl(fd, fcntl.F_SETPIPE_SZ, _PIPE_SIZE)


class Abandoned(Exception):
    """Raised in the thread that reads a pipe: the bytes have ended, but are incomplete."""


class Inflow:
    """The bytes that arrive through a pipe, for the thread that reads them."""

    def __init__(self, fd: int) -> None:
        self.is_abandoned = False  # set when the writer fails: the bytes are incomplete
        self._fd = fd

    def read(self, count: int) -> bytes:
        """Return the bytes available, at most `count`; none only at the end."""
        return os.read(self._fd, count)

    def blocks(self, size: int) -> Iterator[memoryview]:
        """Yield the bytes in blocks of `size` (the last may be shorter), each valid until
        the next. Ends only if the bytes are complete, and else raises Abandoned.
        """
        block = memoryview(bytearray(size))
        filled = 0
        while count := os.readv(self._fd, [block[filled:]]):
            filled += count
            if filled == size:
                yield block
                filled = 0
        if self.is_abandoned:
            raise Abandoned
        if filled:
            yield block[:filled]


class _Worker(threading.Thread):
    """A thread that owns `fd`, one end of a pipe: it calls `work`, then closes `fd`."""

    def __init__(self, name: str, fd: int, work: Callable[[], object]) -> None:
        super().__init__(name=name, daemon=True)
        self.failure: BaseException | None = None
        self._fd = fd
        self._work = work

    def run(self) -> None:
        try:
            self._work()
        except Abandoned:
            pass
        except BaseException as error:  # noqa: BLE001 — raised again at the pipe's other end
            self.failure = error
        finally:
            os.close(self._fd)

    def begin(self, other: int) -> None:
        """Start. If that fails, close both ends of the pipe (`other` is the other one)."""
        try:
            with starting():
                self.start()
        except ThreadError:
            os.close(self._fd)
            os.close(other)
            raise


@contextmanager
def pipe_to(drain: Callable[[Inflow], object], *, name: str, wait: bool) -> Iterator[int]:
    """Open a pipe for writing, which `drain` reads in a thread called `name`.

    When the body ends, the pipe is closed and the thread joined. When the body fails, the
    bytes are abandoned, and the thread is joined only with `wait`. An exception of `drain` is
    raised here: at the end, or in place of the BrokenPipeError that it causes in the body.
    """
    read_end, write_end = os.pipe()
    enlarge(write_end)
    inflow = Inflow(read_end)
    worker = _Worker(name, read_end, lambda: drain(inflow))
    worker.begin(write_end)
    try:
        try:
            yield write_end
        except BaseException:
            inflow.is_abandoned = True
            raise
        finally:
            os.close(write_end)
            if wait or not inflow.is_abandoned:
                worker.join()
    except BaseException as error:
        inflow.is_abandoned = True  # also if the wait was interrupted
        if isinstance(error, BrokenPipeError) and worker.failure is not None:
            raise worker.failure from None
        raise
    if worker.failure is not None:
        raise worker.failure


class Outflow:
    """The bytes that a thread writes to a pipe, for their reader."""

    def __init__(self, fd: int, worker: _Worker) -> None:
        self._fd = fd
        self._worker = worker

    def read(self, count: int, /) -> bytes:
        """Return at most `count` bytes; none only at the end. An exception of the thread is
        raised at the end.
        """
        data = os.read(self._fd, count)
        if not data:
            self._worker.join()
            if self._worker.failure is not None:
                raise self._worker.failure
        return data


@contextmanager
def pipe_from(fill: Callable[[int], object], *, name: str) -> Iterator[Outflow]:
    """Open a pipe for reading. `fill` is called with its other end in a thread called `name`,
    and gets a BrokenPipeError if the body ends before the bytes do.
    """
    read_end, write_end = os.pipe()
    worker = _Worker(name, write_end, lambda: fill(write_end))
    worker.begin(read_end)
    try:
        yield Outflow(read_end, worker)
    finally:
        os.close(read_end)
        worker.join()


@contextmanager
def descriptor_of(output: int | BinaryIO) -> Iterator[int]:
    """Open a descriptor whose bytes reach `output`: its own, or a pipe that a thread copies
    to it. Exceptions of `output` are raised unchanged.
    """
    if isinstance(output, int):
        yield output
        return
    # Only these write nothing but their bytes to their descriptor: others that have one
    # (gzip.GzipFile) transform them.
    if isinstance(output, (io.FileIO, io.BufferedWriter, io.BufferedRandom)):
        output.flush()
        yield output.fileno()
        return

    def drain(inflow: Inflow) -> None:
        while data := inflow.read(_PIECE):
            write_all(output, data)

    with pipe_to(drain, name="pump", wait=True) as fd:
        yield fd

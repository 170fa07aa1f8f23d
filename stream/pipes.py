"""Pipes with a thread at one end, and complete writes to descriptors and file objects.

The threads are daemons: one that is stuck in a call does not keep the program from exiting.
A thread records its error before it closes its end of the pipe, so that the other side can
report the cause instead of a closed pipe. Must not know what the bytes are.
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

Buffer: TypeAlias = bytes | bytearray | memoryview

_PIPE_SIZE = 1 << 20
_PIECE = 1 << 18


def write_all(output: int | BinaryIO, *buffers: Buffer) -> None:
    """Write all of the buffers, in order, to a descriptor, which may be non-blocking, or to
    a file object, which may take a part at a time. Raises OSError, or the object's exception.
    """
    left = [memoryview(buffer) for buffer in buffers if buffer]
    while left:
        count = _write_some(output, left)
        while left and count >= len(left[0]):
            count -= len(left.pop(0))
        if count:
            left[0] = left[0][count:]


def _write_some(output: int | BinaryIO, buffers: list[memoryview]) -> int:
    """Write the beginning of `buffers`. Return the number of bytes that were taken."""
    if not isinstance(output, int):
        return output.write(buffers[0]) or 0  # None: a raw file that takes nothing yet
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
    """Raised in a thread that empties a pipe: the bytes have ended, but are incomplete."""


class Inflow:
    """The bytes that come through a pipe, as the thread that empties it reads them."""

    def __init__(self, fd: int) -> None:
        self.is_abandoned = False  # set when the writer fails: the bytes are incomplete
        self._fd = fd

    def read(self, count: int) -> bytes:
        """Read what is there, at most `count` bytes; none only at the end."""
        return os.read(self._fd, count)

    def blocks(self, size: int) -> Iterator[memoryview]:
        """Yield the bytes in blocks of `size` (the last may be shorter), each valid until
        the next. Ends only where the bytes are complete. Raises Abandoned.
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
    """A thread that has the end `fd` of a pipe: `work` is called in it, then it closes `fd`."""

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
        """Start. If no thread can be started, close the pipe, whose other end is `other`."""
        try:
            self.start()
        except RuntimeError:
            os.close(self._fd)
            os.close(other)
            raise


@contextmanager
def emptied(empty: Callable[[Inflow], object], *, name: str, wait: bool) -> Iterator[int]:
    """Open a pipe to write to, which `empty` reads in a thread called `name`.

    When the body ends, the pipe is closed and the thread waited for. When the body fails, the
    bytes are abandoned, and the thread is waited for only with `wait`. An exception of `empty`
    is raised here: at the end, or instead of the BrokenPipeError that the body meets then.
    """
    read_end, write_end = os.pipe()
    enlarge(write_end)
    inflow = Inflow(read_end)
    worker = _Worker(name, read_end, lambda: empty(inflow))
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
    """The bytes that a thread writes into a pipe."""

    def __init__(self, fd: int, worker: _Worker) -> None:
        self._fd = fd
        self._worker = worker

    def read(self, count: int, /) -> bytes:
        """Read at most `count` bytes; none only at the end. There, an exception of the
        thread is raised.
        """
        data = os.read(self._fd, count)
        if not data:
            self._worker.join()
            if self._worker.failure is not None:
                raise self._worker.failure
        return data


@contextmanager
def filled(fill: Callable[[int], object], *, name: str) -> Iterator[Outflow]:
    """Open a pipe to read from, which `fill` writes in a thread called `name`, given the
    descriptor. If the body ends before the bytes do, `fill` meets a BrokenPipeError.
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
    """Open a descriptor whose bytes reach `output`: its own where it has one, else a pipe
    that a thread empties into it. Exceptions of `output` are raised unchanged.
    """
    if isinstance(output, int):
        yield output
        return
    # Of these alone the descriptor is where their bytes go: others have one too
    # (gzip.GzipFile) and do more than write to it.
    if isinstance(output, (io.FileIO, io.BufferedWriter, io.BufferedRandom)):
        output.flush()
        yield output.fileno()
        return

    def empty(inflow: Inflow) -> None:
        while data := inflow.read(_PIECE):
            write_all(output, data)

    with emptied(empty, name="pump", wait=True) as fd:
        yield fd

"""Pipes with a thread at one end: how each side learns of the other's failure."""

import os
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, suppress

import pytest

from stream.compression.pump import Blocks, opened_encoder
from stream.errors import ThreadError
from stream.pipes import Abandoned, Inflow, pipe_from, pipe_to, read_some, write_all

PATIENCE = 20.0
LARGE = os.urandom(3 << 20)  # more than pipes hold


def raising(error: BaseException) -> Callable[[object], None]:
    """Return a function that raises `error`."""

    def fail(_: object) -> None:
        raise error

    return fail


def unencoded(blocks: Blocks) -> Iterator[list[memoryview]]:
    """Yield the input unchanged, as an encoder."""
    for block in blocks(1024):
        yield [block]


def test_bytes_pass_in_both_directions() -> None:
    """Without it bytes could be lost or doubled, which would change the layer."""
    found = bytearray()

    def drain(inflow: Inflow) -> None:
        for block in inflow.blocks(100_000):
            found.extend(block)

    with pipe_to(drain, name="test", wait=True) as fd:
        write_all(fd, LARGE[:5], b"", LARGE[5:])
    assert found == LARGE
    with pipe_from(lambda fd: write_all(fd, LARGE), name="test") as outflow:
        assert b"".join(iter(lambda: outflow.read(70_000), b"")) == LARGE


def test_failure_of_what_empties() -> None:
    """Without it the writer could get a closed pipe as the error instead of a full disk."""
    error = ZeroDivisionError("x")
    for data in (b"", LARGE):
        with (
            pytest.raises(ZeroDivisionError) as caught,
            pipe_to(raising(error), name="test", wait=False) as fd,
        ):
            write_all(fd, data)
        assert caught.value is error


def test_failure_of_what_fills() -> None:
    """Without it a layer truncated by an error could pass for a complete one."""
    error = ZeroDivisionError("x")

    def fill(fd: int) -> None:
        write_all(fd, b"begun")
        raise error

    with pipe_from(fill, name="test") as outflow:
        assert outflow.read(100) == b"begun"
        with pytest.raises(ZeroDivisionError) as caught:
            outflow.read(100)
    assert caught.value is error


def test_reader_that_leaves_early() -> None:
    """Without it a writer whose reader has gone could wait for ever, or be left running."""
    with pipe_from(lambda fd: write_all(fd, LARGE), name="early") as outflow:
        outflow.read(1)
    assert "early" not in {thread.name for thread in threading.enumerate()}


def test_abandoned_bytes_never_look_complete() -> None:
    """Without it a stream abandoned by a failure could get a valid end."""
    ended: list[BaseException | None] = []

    def drain(inflow: Inflow) -> None:
        try:
            list(inflow.blocks(10))
        except Abandoned as error:
            ended.append(error)
            raise

    for wait in (True, False):
        with pytest.raises(KeyboardInterrupt), pipe_to(drain, name="test", wait=wait) as fd:  # noqa: PT012
            write_all(fd, b"half")
            raise KeyboardInterrupt
    until = time.monotonic() + PATIENCE
    while len(ended) < 2 and time.monotonic() < until:
        time.sleep(0.01)
    assert [type(error) for error in ended] == [Abandoned, Abandoned]


def test_interrupted_while_it_is_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without it the thread could still complete the stream after Ctrl-C at the very end."""
    inflows: list[Inflow] = []

    def interrupted(_thread: threading.Thread) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt), pipe_to(inflows.append, name="test", wait=False):
        monkeypatch.setattr(threading.Thread, "join", interrupted)
    assert [inflow.is_abandoned for inflow in inflows] == [True]


@pytest.mark.parametrize(
    "opened",
    [
        lambda: pipe_to(raising(AssertionError()), name="test", wait=True),
        lambda: pipe_from(raising(AssertionError()), name="test"),
        lambda: opened_encoder(1, unencoded),  # type: ignore[arg-type]
    ],
    ids=["pipe_to", "pipe_from", "encoder"],
)
def test_thread_that_cannot_be_started(
    monkeypatch: pytest.MonkeyPatch, opened: Callable[[], AbstractContextManager[object]]
) -> None:
    """Without it each image that fails for lack of threads could leak descriptors."""

    def refuse(_thread: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(threading.Thread, "start", refuse)
    before = len(os.listdir("/proc/self/fd"))
    with pytest.raises(ThreadError), opened():
        pass
    assert len(os.listdir("/proc/self/fd")) <= before


def test_non_blocking_descriptors() -> None:
    """Without it a pipe that another program made non-blocking could end or truncate the image."""
    read_end, write_end = os.pipe()
    os.set_blocking(read_end, False)
    os.set_blocking(write_end, False)
    found = bytearray()

    def read() -> None:
        while data := read_some(read_end, 1 << 16):
            found.extend(data)

    reader = threading.Thread(target=read)
    reader.start()
    with suppress(BrokenPipeError):
        time.sleep(0.05)
        write_all(write_end, LARGE)
    os.close(write_end)
    reader.join()
    os.close(read_end)
    assert found == LARGE

"""Layers on their way into a sink: how many at once, what is tried again, how all ends."""

import threading
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import pytest
from support import until

from stream.errors import OutputError, StreamImageError
from stream.interfaces import LayerSource
from stream.model import Descriptor, Digest, KnownLayer, Layer
from stream.retries import BACK_OFF, JITTER
from stream.transfers import ASKING, Transfer, ask_for, transfers_into

PATIENCE = 30.0  # seconds


class PassingError(StreamImageError):
    """An error that need not occur again."""

    is_passing = True

    def __init__(self, retry_after: float | None = None) -> None:
        super().__init__("busy")
        self.retry_after = retry_after


@dataclass(frozen=True, kw_only=True)
class Source:
    """A layer whose writing is `write`."""

    write: Callable[[Any], None] = lambda _: None
    repeatable: bool = True
    comment: str = "a"
    size: int = 1

    def write_to(self, writer: object) -> None:
        """Write the layer."""
        self.write(writer)


LAYER = Layer(
    archive_name="", diff_id=Digest("sha256:0"), size=1, comment="",
    descriptor=Descriptor(media_type="", digest=Digest("sha256:0"), size=1),
)  # fmt: skip
KNOWN = KnownLayer(diff_id=LAYER.diff_id)


class Writer:
    """A layer being written: a wait for `aborted` is what a write to a stalled sink is."""

    def __init__(self, name: str, log: list[str], complete: Callable[[], None]) -> None:
        self.aborted = threading.Event()
        self._name = name
        self._log = log
        self._complete = complete

    def close(self) -> None:
        """End the layer."""

    def is_hashed(self) -> bool:
        """Return whether complete() would not wait."""
        return True

    def complete(self) -> Layer:
        """Return the record."""
        self._complete()
        self._log.append(f"complete {self._name}")
        return LAYER

    def abort(self) -> None:
        """Give the layer up."""
        self._log.append(f"abort {self._name}")
        self.aborted.set()


class Sink:
    """A sink that logs, and holds all layers that are known."""

    def __init__(self, concurrency: int, complete: Callable[[], None] = lambda: None) -> None:
        self.concurrency = concurrency
        self.log: list[str] = []
        self._complete = complete

    def holds(self, known: KnownLayer) -> Layer:
        """Return the record."""
        self.log.append("holds")
        return LAYER

    def begin_layer(self, source: LayerSource, known: KnownLayer | None) -> Writer:
        """Begin a layer."""
        self.log.append(f"begin {source.comment}")
        return Writer(source.comment, self.log, self._complete)


def carried_out(
    sink: Sink, *sources: Source, known: KnownLayer | None = None, pauses: list[float] | None = None
) -> list[tuple[int, bool]]:
    """Carry out transfers of `sources`; return the number of each, and whether it is held."""
    sleep = None if pauses is None else pauses.append
    ended: list[tuple[Transfer, Layer]] = []
    with transfers_into(sink) as transfers:  # type: ignore[arg-type]
        for number, source in enumerate(sources):
            transfers.add(Transfer(number, source, known, sink, sleep))  # type: ignore[arg-type]
            ended += transfers.ended()
        ended += transfers.rest()
    return sorted((transfer.number, transfer.is_held) for transfer, _ in ended)


def failing(*errors: Exception) -> Callable[[Any], None]:
    """Return a function that raises each error once, and then does nothing."""
    left = list(errors)

    def fail(*_: object) -> None:
        if left:
            raise left.pop(0)

    return fail


def no_threads() -> bool:
    """Return True if no transfer has left a thread."""
    return not any(thread.name.startswith("layer") for thread in threading.enumerate())


def test_so_many_at_once_and_no_more() -> None:
    """Without it a push would wait for each answer, or take memory without bound."""
    together = threading.Barrier(3, timeout=PATIENCE)
    lock, under_way, most = threading.Lock(), 0, 0

    def write(_: object) -> None:
        nonlocal under_way, most
        with lock:
            under_way += 1
            most = max(most, under_way)
        together.wait()
        with lock:
            under_way -= 1
        together.wait()

    found = carried_out(Sink(3), *[Source(write=write)] * 12)
    assert found == [(number, False) for number in range(12)]
    assert most == 3
    assert no_threads()


def test_the_largest_is_next() -> None:
    """Without it a push would end with its largest layer, alone."""
    sink, releases = Sink(2), [threading.Event(), threading.Event()]
    order: list[int] = []

    def hold(release: threading.Event) -> Callable[[object], None]:
        def wait(_: object) -> None:
            assert release.wait(PATIENCE)

        return wait

    def write(size: int) -> Callable[[object], None]:
        return lambda _: order.append(size)

    sizes = [3, 1, 4, 5, 2]
    with transfers_into(sink) as transfers:  # type: ignore[arg-type]
        for number, release in enumerate(releases):
            source = Source(write=hold(release))
            transfers.add(Transfer(number, source, None, sink))  # type: ignore[arg-type]
        until(lambda: len(sink.log) == 2)
        for size in sizes:
            source = Source(write=write(size), size=size)
            transfers.add(Transfer(size + 1, source, None, sink))  # type: ignore[arg-type]
        until(lambda: len(transfers._to_write) == len(sizes))  # type: ignore[attr-defined]
        releases[0].set()
        until(lambda: len(order) == len(sizes))  # in one thread, while the other is kept busy
        releases[1].set()
        assert len(list(transfers.rest())) == 7
    assert order == sorted(sizes, reverse=True)


def test_an_end_does_not_wait_for_a_sink_that_hangs(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without it Ctrl-C would have no effect while a registry does not answer."""
    monkeypatch.setattr("stream.transfers.FAREWELL", 0.05)
    begun, never = threading.Event(), threading.Event()

    def hang(_: object) -> None:
        begun.set()
        never.wait(PATIENCE)

    def interrupt(_: object) -> None:
        assert begun.wait(PATIENCE)
        raise KeyboardInterrupt

    try:
        with pytest.raises(KeyboardInterrupt):
            carried_out(Sink(2), Source(write=hang), Source(write=interrupt, repeatable=False))
        assert not no_threads()
        assert all(thread.daemon for thread in threading.enumerate() if "layer" in thread.name)
    finally:
        never.set()
        for thread in threading.enumerate():
            if thread.name.startswith("layer"):
                thread.join()


@pytest.mark.parametrize("concurrency", [1, 3])
def test_what_a_sink_holds_is_not_written(concurrency: int) -> None:
    """Without it a layer that is there would be sent."""
    sink = Sink(concurrency)
    assert carried_out(sink, *[Source()] * 20, known=KNOWN) == [(n, True) for n in range(20)]
    assert set(sink.log) == {"holds"}


def test_a_source_that_passes_once_is_written_in_order_by_the_caller() -> None:
    """Without it the next layer of a pipe would be read before this one."""
    written: list[tuple[int, threading.Thread]] = []

    def write(number: int) -> Callable[[object], None]:
        return lambda _: written.append((number, threading.current_thread()))

    sources = [Source(write=write(number), repeatable=number % 3 == 0) for number in range(9)]
    carried_out(Sink(3), *sources)
    ours = [number for number, thread in written if thread is threading.current_thread()]
    assert ours == [1, 2, 4, 5, 7, 8]


@pytest.mark.parametrize("where", ["write", "complete"])
@pytest.mark.parametrize("concurrency", [1, 3])
def test_a_passing_error_has_the_whole_layer_written_again(concurrency: int, where: str) -> None:
    """Without it a busy registry would end a push that took an hour."""
    fail, pauses = failing(*[PassingError()] * len(BACK_OFF)), list[float]()
    sink = Sink(concurrency, partial(fail, None) if where == "complete" else lambda: None)
    source = Source(write=fail) if where == "write" else Source()
    carried_out(sink, source, pauses=pauses)
    assert sink.log == ["begin a", "abort a"] * 3 + ["begin a", "complete a"]
    for pause, base in zip(pauses, BACK_OFF, strict=True):
        assert base * (1 - JITTER) <= pause <= base * (1 + JITTER)


def test_as_long_as_the_sink_asks_for() -> None:
    """Without it a registry that says when to come back would refuse each attempt."""
    pauses: list[float] = []
    carried_out(Sink(1), Source(write=failing(PassingError(60.0))), pauses=pauses)
    assert pauses == [60.0]


@pytest.mark.parametrize("concurrency", [1, 3])
@pytest.mark.parametrize(
    ("source", "error"),
    [
        (Source(), PassingError(60.5)),
        (Source(repeatable=False), PassingError()),
        (Source(), OutputError(28, "full")),
    ],
    ids=["too-long", "not-repeatable", "not-passing"],
)
def test_what_is_not_tried_again(concurrency: int, source: Source, error: Exception) -> None:
    """Without it a run could wait for hours, or send a layer without its beginning."""
    sink, pauses = Sink(concurrency), list[float]()
    with pytest.raises(type(error)):
        carried_out(sink, replace(source, write=failing(error)), pauses=pauses)
    assert (sink.log, pauses) == (["begin a", "abort a"], [])


def test_three_times_at_most() -> None:
    """Without it a registry that always fails would be asked for ever."""
    pauses: list[float] = []
    with pytest.raises(PassingError):
        carried_out(Sink(1), Source(write=failing(*[PassingError()] * 9)), pauses=pauses)
    assert len(pauses) == len(BACK_OFF)


def stalled(begun: threading.Event) -> Callable[[Any], None]:
    """Return a function that writes to a sink that takes nothing until it is aborted."""

    def write(writer: Writer) -> None:
        begun.set()
        assert writer.aborted.wait(PATIENCE)
        raise OutputError(32, "aborted")

    return write


@pytest.mark.parametrize("ours", [True, False], ids=["in-the-caller", "in-a-thread"])
def test_the_first_failure_ends_all(*, ours: bool) -> None:
    """Without it a push that cannot succeed would go on for minutes, or hang."""
    begun = threading.Event()

    def fail(_: object) -> None:
        assert begun.wait(PATIENCE)
        raise ZeroDivisionError

    sources = [Source(write=stalled(begun)), Source(write=fail, repeatable=not ours)]
    sink = Sink(2)
    with pytest.raises(ZeroDivisionError):
        carried_out(sink, *sources, *[Source()] * 20)
    assert sink.log.count("abort a") == 2
    assert no_threads()


def test_a_layer_that_the_caller_writes_is_ended_as_well() -> None:
    """Without it the failure of another layer would show only after minutes of writing."""
    begun = threading.Event()

    def fail(_: object) -> None:
        assert begun.wait(PATIENCE)
        raise ZeroDivisionError

    sources = [Source(write=fail), Source(write=stalled(begun), repeatable=False)]
    with pytest.raises(ZeroDivisionError):
        carried_out(Sink(2), *sources)
    assert no_threads()


def test_an_interrupt_ends_all() -> None:
    """Without it Ctrl-C would wait for layers to be sent, or for a pause to pass."""
    begun = threading.Event()
    paused = Source(write=failing(*[PassingError(50.0)] * 3))
    sink = Sink(3)

    def interrupt(_: object) -> None:
        assert begun.wait(PATIENCE)
        raise KeyboardInterrupt

    interrupted = Source(write=interrupt, repeatable=False)
    with pytest.raises(KeyboardInterrupt):
        carried_out(sink, Source(write=stalled(begun)), paused, interrupted)
    assert no_threads()


@pytest.mark.parametrize("concurrency", [1, 3])
def test_answers_are_in_the_order_of_the_questions(concurrency: int) -> None:
    """Without it a layer could be left out because another is there."""
    names = [Digest(f"sha256:{number}") for number in range(30)]

    class Asked(Sink):
        def holds(self, known: KnownLayer) -> Any:
            return replace(LAYER, diff_id=known.diff_id) if known.diff_id in names[::3] else None

    found = ask_for([KnownLayer(diff_id=name) for name in names], Asked(concurrency))  # type: ignore[arg-type]
    assert [layer and layer.diff_id for layer in found] == [
        name if number % 3 == 0 else None for number, name in enumerate(names)
    ]


def test_a_question_that_fails_is_the_last() -> None:
    """Without it a registry that refuses would be asked for each layer before the run ends."""
    asked: list[KnownLayer] = []

    class Refusing(Sink):
        def holds(self, known: KnownLayer) -> Any:
            asked.append(known)
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        ask_for([KNOWN] * 1000, Refusing(3))  # type: ignore[arg-type]
    assert len(asked) < 1000


def test_questions_are_asked_together() -> None:
    """Without it a push onto a base image would wait for an answer for each of its layers."""
    together = threading.Barrier(ASKING, timeout=PATIENCE)

    class Slow(Sink):
        def holds(self, known: KnownLayer) -> Any:
            together.wait()

    assert ask_for([KNOWN] * ASKING, Slow(2)) == [None] * ASKING  # type: ignore[arg-type]

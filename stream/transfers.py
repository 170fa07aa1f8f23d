"""Layers on their way into a sink: one after the other, or several at once, and again as a whole
where that may help.

Knows sources and sinks by their interfaces alone; neither which layers an image has nor what is
recorded of them.
"""

from __future__ import annotations

import queue
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from heapq import heappop, heappush
from typing import Protocol, Self, TypeAlias, TypeVar

from stream.errors import ThreadError
from stream.interfaces import LayerSource, LayerWriter, Sink
from stream.model import KnownLayer, Layer
from stream.retries import Retries
from stream.threads import starting

T = TypeVar("T")
Sleep: TypeAlias = Callable[[float], object]

# Threads that ask a sink whether it holds a layer: an answer takes time, but nothing else.
ASKING = 8

FAREWELL = 1.0  # seconds that the end waits for threads whose transfers are given up


class _GivenUpError(Exception):
    """Not written, because something else failed."""


class Transfer:
    """A layer on its way into `sink`: `ask`, `write`, `complete`. The last two write it again, up
    to three times, if an error is passing and the source repeatable. `number` is the caller's;
    `sleep` waits for some seconds.
    """

    def __init__(
        self,
        number: int,
        source: LayerSource,
        known: KnownLayer | None,
        sink: Sink,
        sleep: Sleep | None = None,
    ) -> None:
        self.number = number
        self.source = source
        self.known = known
        self.is_held = False
        self._sink = sink
        self._writer: LayerWriter | None = None
        self._retries = Retries()
        self._lock = threading.Lock()
        self._given_up = threading.Event()
        self._sleep = sleep or self._given_up.wait

    def ask(self) -> Layer | None:
        """Return the layer's record if the sink holds it, else None."""
        held = None if self.known is None else self._sink.holds(self.known)
        self.is_held = held is not None
        if held is None and self.known is not None and self.known.claimed:
            self.known = None
        return held

    def write(self) -> None:
        """Write the layer's bytes."""
        self._repeatedly(self._write)

    def is_hashed(self) -> bool:
        """Return whether `complete` would not wait."""
        return self._writer is not None and self._writer.is_hashed()

    def complete(self) -> Layer:
        """Return the layer's record; wait until it is hashed and stored."""
        return self._repeatedly(self._complete)

    def give_up(self) -> None:
        """Stop, whatever it is waiting for. May be called in any thread."""
        self._given_up.set()
        self._abort()

    def _abort(self) -> None:
        with self._lock:
            writer, self._writer = self._writer, None
        if writer is not None:
            writer.abort()

    def _write(self) -> LayerWriter:
        with self._lock:
            if self._given_up.is_set():
                raise _GivenUpError
            writer = self._writer = self._sink.begin_layer(self.source, self.known)
        self.source.write_to(writer)
        writer.close()
        return writer

    def _complete(self) -> Layer:
        return (self._writer or self._write()).complete()

    def _repeatedly(self, step: Callable[[], T]) -> T:
        while True:
            try:
                return step()
            except BaseException as error:
                self._abort()
                pause = self._retries.pause_after(error)
                if pause is None or not self.source.repeatable:
                    raise
            self._sleep(pause)


# A transfer that has ended, and the record of its layer.
Ended: TypeAlias = tuple[Transfer, Layer]


class Transfers(Protocol):
    """Transfers under way. A context manager; those under way at its end are given up."""

    def __enter__(self) -> Self: ...

    def __exit__(self, *exc_info: object) -> None: ...

    def add(self, transfer: Transfer) -> None:
        """Carry out `transfer`, or begin with it."""

    def ended(self) -> Iterator[Ended]:
        """Yield those that have ended, each once."""

    def rest(self) -> Iterator[Ended]:
        """Wait for all others, and yield them."""


def transfers_into(sink: Sink) -> Transfers:
    """Return what carries out transfers into `sink`."""
    return _OneByOne() if sink.concurrency == 1 else _Several(sink.concurrency)


def ask_for(known: Sequence[KnownLayer], sink: Sink) -> list[Layer | None]:
    """Return the record of each layer that `sink` holds, None for the others. A sink that takes
    several layers at once is asked for several at once.
    """
    if sink.concurrency == 1 or len(known) < 2:
        return [sink.holds(one) for one in known]
    answers: queue.SimpleQueue[tuple[int, Layer | BaseException | None]] = queue.SimpleQueue()
    questions = iter(enumerate(known))
    lock = threading.Lock()

    def stop() -> None:
        with lock:
            deque(questions, maxlen=0)

    def ask() -> None:
        while True:
            with lock:
                number, one = next(questions, (-1, None))
            if one is None:
                return
            try:
                answers.put((number, sink.holds(one)))
            except BaseException as error:  # noqa: BLE001 — raised again below
                stop()
                answers.put((number, error))

    for _ in range(min(len(known), ASKING)):
        with starting():
            threading.Thread(target=ask, name="layer-ask", daemon=True).start()
    held: list[Layer | None] = [None] * len(known)
    try:
        for _ in known:
            number, answer = answers.get()
            if isinstance(answer, BaseException):
                raise answer
            held[number] = answer
    finally:
        stop()
    return held


class _OneByOne:
    """Transfers one after the other, in order. Hashing may lag behind."""

    def __init__(self) -> None:
        self._open: deque[Transfer] = deque()
        self._held: deque[Ended] = deque()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc_info: object) -> None:
        for transfer in self._open:
            transfer.give_up()

    def add(self, transfer: Transfer) -> None:
        """See Transfers."""
        if (held := transfer.ask()) is not None:
            self._held.append((transfer, held))
            return
        transfer.write()
        self._open.append(transfer)

    def ended(self) -> Iterator[Ended]:
        """See Transfers."""
        while self._held:
            yield self._held.popleft()
        while self._open and self._open[0].is_hashed():
            yield self._complete_oldest()

    def rest(self) -> Iterator[Ended]:
        """See Transfers."""
        yield from self.ended()
        while self._open:
            yield self._complete_oldest()

    def _complete_oldest(self) -> Ended:
        transfer = self._open.popleft()
        return transfer, transfer.complete()


class _Several:
    """Transfers in threads, of which `concurrency` write at once; of those that wait for that, the
    largest is next. A source that is not repeatable must be written before the next one is asked
    for: it is, by the caller's thread. The first failure ends all.

    The threads are daemons, and at the end nobody waits long for one: a sink that hangs does not
    keep the program running.
    """

    def __init__(self, concurrency: int) -> None:
        self._concurrency = concurrency
        self._limit = max(concurrency, ASKING)
        self._threads: list[threading.Thread] = []
        self._changed = threading.Condition()  # for what follows
        self._open: set[Transfer] = set()
        self._to_ask: deque[Transfer] = deque()
        self._to_write: list[tuple[int, int, Transfer]] = []  # a heap
        self._writing = 0
        self._ended: deque[Ended] = deque()
        self._failure: BaseException | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self._fail(_GivenUpError())
        deadline = time.monotonic() + FAREWELL
        for thread in self._threads:
            thread.join(max(0.0, deadline - time.monotonic()))

    def add(self, transfer: Transfer) -> None:
        """See Transfers."""
        with self._changed:
            self._wait_for(lambda: len(self._open) < self._limit)
            self._open.add(transfer)
            if transfer.source.repeatable:
                self._to_ask.append(transfer)
                self._changed.notify_all()
                self._start_thread()
                return
        try:
            if self._ask(transfer):
                return
            with self._changed:
                self._wait_for(lambda: self._writing < self._concurrency)
                self._writing += 1
            self._write(transfer)
        except BaseException as error:  # noqa: BLE001 — raised again, unless another was first
            self._fail(error)
            self._raise_failure()

    def ended(self) -> Iterator[Ended]:
        """See Transfers."""
        self._raise_failure()
        while self._ended:
            yield self._ended.popleft()

    def rest(self) -> Iterator[Ended]:
        """See Transfers."""
        while True:
            with self._changed:
                self._wait_for(lambda: self._ended or not self._open)
            if not self._ended:
                return
            yield from self.ended()

    def _wait_for(self, predicate: Callable[[], object]) -> None:
        """Wait, with the lock held, until `predicate` is true. Raises the first failure of any."""
        self._changed.wait_for(lambda: self._failure or predicate())
        self._raise_failure()

    def _start_thread(self) -> None:
        if len(self._threads) < self._limit:
            thread = threading.Thread(
                target=self._run, name=f"layer-{len(self._threads)}", daemon=True
            )
            try:
                with starting():
                    thread.start()
            except ThreadError:
                if not self._threads:
                    raise
            else:
                self._threads.append(thread)

    def _run(self) -> None:
        """Carry out steps of transfers: the body of a thread."""
        while (step := self._next_step()) is not None:
            try:
                step()
            except BaseException as error:  # noqa: BLE001 — raised again in the caller's thread
                self._fail(error)

    def _next_step(self) -> Callable[[], object] | None:
        """Wait for something to do, and return it; None at the end."""
        with self._changed:
            while self._failure is None:
                if self._to_write and self._writing < self._concurrency:
                    self._writing += 1
                    return partial(self._write, heappop(self._to_write)[-1])
                if self._to_ask:
                    return partial(self._ask_and_queue, self._to_ask.popleft())
                self._changed.wait()
        return None

    def _ask_and_queue(self, transfer: Transfer) -> None:
        if not self._ask(transfer):
            with self._changed:
                heappush(self._to_write, (-transfer.source.size, transfer.number, transfer))
                self._changed.notify_all()

    def _ask(self, transfer: Transfer) -> bool:
        """Ask for a layer. Return True if the transfer has ended."""
        layer = transfer.ask()
        if layer is not None:
            self._end(transfer, layer)
        return layer is not None

    def _write(self, transfer: Transfer) -> None:
        transfer.write()
        layer = transfer.complete()
        with self._changed:
            self._writing -= 1
        self._end(transfer, layer)

    def _end(self, transfer: Transfer, layer: Layer) -> None:
        with self._changed:
            self._open.remove(transfer)
            self._ended.append((transfer, layer))
            self._changed.notify_all()

    def _fail(self, error: BaseException) -> None:
        """Give up everything under way because of `error`."""
        with self._changed:
            self._failure = self._failure or error
            under_way = tuple(self._open)
            self._changed.notify_all()
        for transfer in under_way:
            transfer.give_up()

    def _raise_failure(self) -> None:
        if self._failure is not None:
            raise self._failure from None

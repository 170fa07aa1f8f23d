"""A parallel map whose results are in order.

Must not know what the work is. (concurrent.futures would make an interrupted program wait
for its whole queue.)
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from queue import SimpleQueue
from typing import TypeVar

from stream.errors import ThreadError
from stream.threads import starting

Item = TypeVar("Item")
Result = TypeVar("Result")


def map_in_order(
    worker: Callable[[], Callable[[Item], Result]], items: Iterable[Item], threads: int
) -> Iterator[Result]:
    """Yield the result for each of `items`, in order, computed by `threads` threads, or by the
    caller's if that is 0. Each thread calls `worker()` once for the function that it applies.
    About two items per thread are in memory at a time. Exceptions of the function are raised
    here.
    """
    if not threads:
        yield from map(worker(), items)
        return
    jobs: SimpleQueue[tuple[Item, SimpleQueue[Result | BaseException]] | None] = SimpleQueue()
    pending: deque[SimpleQueue[Result | BaseException]] = deque()
    running = 0

    def work() -> None:
        function = None
        while (job := jobs.get()) is not None:
            item, answer = job
            try:
                function = function or worker()
                answer.put(function(item))
            except BaseException as error:  # noqa: BLE001 — raised again in oldest()
                answer.put(error)

    def oldest() -> Result:
        result = pending.popleft().get()
        if isinstance(result, BaseException):
            raise result
        return result

    try:
        for item in items:
            while pending and (len(pending) >= 2 * threads or not pending[0].empty()):
                yield oldest()
            pending.append(SimpleQueue())
            jobs.put((item, pending[-1]))
            if running < threads:
                try:
                    with starting():
                        threading.Thread(target=work, name="compress-block", daemon=True).start()
                    running += 1
                except ThreadError:  # continue with those that run
                    if not running:
                        raise
                    threads = running
        while pending:
            yield oldest()
    finally:
        for _ in range(running):
            jobs.put(None)

"""Sources made in a thread, ahead of the writing. Does not know what they are made from."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Iterator, Sequence

from stream.interfaces import LayerSource
from stream.threads import starting


class Ahead:
    """Makes sources in the background, in order, ahead of the writing by a bounded number of
    entries. Walking does not delay the writing, and memory does not grow with the image.

    The thread is a daemon, so that a run that fails does not wait for a walk whose result
    is not needed.
    """

    MAX_ENTRIES = 4096  # some 500 kB

    def __init__(self, makers: Sequence[Callable[[], LayerSource]]) -> None:
        self._makers = makers
        self._made: deque[LayerSource | BaseException] = deque()
        self._entries = 0
        self._closed = False
        self._changed = threading.Condition()
        with starting():
            threading.Thread(target=self._run, name="walk-ahead", daemon=True).start()

    def _run(self) -> None:
        for make in self._makers:
            with self._changed:
                self._changed.wait_for(lambda: self._closed or self._entries < self.MAX_ENTRIES)
                if self._closed:
                    return
            made: LayerSource | BaseException
            try:
                made = make()
                count = made.entry_count
            except BaseException as error:  # noqa: BLE001 — raised again in __iter__
                made, count = error, self.MAX_ENTRIES
            with self._changed:
                self._made.append(made)
                self._entries += count
                self._changed.notify_all()

    def __iter__(self) -> Iterator[LayerSource]:
        for _ in self._makers:
            with self._changed:
                self._changed.wait_for(lambda: self._made)
                made = self._made.popleft()
                if isinstance(made, BaseException):
                    raise made
                self._entries -= made.entry_count
                self._changed.notify_all()
            yield made

    def close(self) -> None:
        """Stop making sources."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()

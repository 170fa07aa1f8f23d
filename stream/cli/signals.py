"""Signals that ask the process to end: they raise Stopped in its main thread. Must not know what is
running.
"""

from __future__ import annotations

import _thread
import fcntl
import os
import signal
import time
from contextlib import suppress
from types import FrameType
from typing import Any, Self

_REPEATED_AFTER = 0.2  # seconds
# Descriptors for ourselves stay out of the way of those that files get, which begin at 3.
_LOWEST_FD = 48

# All that end a process, except those that a fault of its own raises and SIGKILL. SIGPIPE and
# SIGXFSZ are errors of a write.
_SIGNALS = (
    signal.SIGINT,
    signal.SIGTERM,
    signal.SIGHUP,
    signal.SIGQUIT,
    signal.SIGALRM,
    signal.SIGVTALRM,
    signal.SIGPROF,
    signal.SIGUSR1,
    signal.SIGUSR2,
    signal.SIGXCPU,
    signal.SIGIO,
    signal.SIGPWR,
    signal.SIGSTKFLT,
)


class Stopped(BaseException):
    """A signal asks the process to end."""

    def __init__(self, signum: int) -> None:
        self.signum = signum


class StopSignals:
    """What the signals that ask for the end do, for the main thread: from `catch` until the context
    ends, the first that is not ignored raises Stopped, and later ones have no effect.
    """

    def __init__(self) -> None:
        self._before: dict[int, Any] = {}
        self._repeater: _Repeater | None = None

    def __enter__(self) -> Self:
        return self

    def catch(self) -> None:
        """Begin to raise Stopped."""
        with suppress(OSError, RuntimeError):  # no descriptor or thread is left: it works as a rule
            self._repeater = _Repeater()
        for signum in _SIGNALS:
            handler = signal.getsignal(signum)
            if handler is not signal.SIG_IGN:
                self._before[signum] = handler
                signal.signal(signum, _stop)

    def __exit__(self, exc_type: type[BaseException] | None, *_exc_info: object) -> None:
        """Install the handlers that were there before. After Stopped, ours stay, and this thread
        goes on blocking the signals: another one would interrupt the end of the process.
        """
        if self._repeater is not None:
            self._repeater.end()
        if exc_type is Stopped:
            return
        for signum, handler in self._before.items():
            signal.signal(signum, handler)


def _stop(signum: int, _frame: FrameType | None) -> None:
    # One signal is enough: another would interrupt the clean-up.
    if _SIGNALS[0] not in signal.pthread_sigmask(signal.SIG_BLOCK, _SIGNALS):
        raise Stopped(signum)


class _Repeater:
    """A thread that sends each signal of ours to this thread, the main one, a second time.

    A handler in Python runs between two instructions of the interpreter. A signal that arrives
    after the last of them and before a system call that waits interrupts neither: it would take
    effect when the call ends, which may be never. The second one interrupts the call. Where the
    first took effect, the main thread blocks the second. Raises OSError or RuntimeError if there
    is no descriptor or no thread.
    """

    def __init__(self) -> None:
        self._main = _thread.get_ident()
        self._read_end, self._write_end = _high_pipe()
        try:
            _thread.start_new_thread(self._repeat, ())
        except BaseException:
            os.close(self._read_end)
            os.close(self._write_end)
            raise
        # The system's handler, which runs at once, writes each number to it.
        self._wakeup = signal.set_wakeup_fd(self._write_end, warn_on_full_buffer=False)

    def _repeat(self) -> None:
        while arrived := os.read(self._read_end, 1):
            if _is_ours(arrived[0]):
                time.sleep(_REPEATED_AFTER)
                if _is_ours(arrived[0]):
                    signal.pthread_kill(self._main, arrived[0])
        os.close(self._read_end)

    def end(self) -> None:
        """Let the thread end."""
        signal.set_wakeup_fd(self._wakeup)
        os.close(self._write_end)


def _is_ours(signum: int) -> bool:
    """Return False for a signal that somebody else's handler takes, such as that of a verb."""
    return signal.getsignal(signum) is _stop


def _high_pipe() -> tuple[int, int]:
    """Return the ends of a pipe, the second of which does not block. Raises OSError."""
    low = os.pipe()
    high: list[int] = []
    try:
        high = [fcntl.fcntl(fd, fcntl.F_DUPFD_CLOEXEC, _LOWEST_FD) for fd in low]
    finally:
        for fd in low:
            os.close(fd)
    os.set_blocking(high[1], False)
    return high[0], high[1]

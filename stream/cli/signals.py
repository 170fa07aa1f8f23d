"""Signals that ask the process to end: an exception in its main thread. Knows nothing of what is
running.
"""

from __future__ import annotations

import _thread
import os
import signal
import time
from contextlib import suppress
from functools import cache
from types import FrameType

_REPEATED_AFTER = 0.2  # seconds


class Stopped(BaseException):
    """A signal asks the process to end."""

    def __init__(self, signum: int) -> None:
        self.signum = signum


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


def stop_on_signals() -> None:
    """Raise Stopped in the main thread, which calls this, at the first signal that asks for the
    end and is not ignored. Later ones have no effect.
    """
    with suppress(OSError, RuntimeError):  # without a descriptor or a thread, it works as a rule
        _repeat_signals()
    for signum in _SIGNALS:
        if signal.getsignal(signum) is not signal.SIG_IGN:
            signal.signal(signum, _stop)


def _stop(signum: int, _frame: FrameType | None) -> None:
    # One signal is enough: another would interrupt the clean-up.
    if _SIGNALS[0] not in signal.pthread_sigmask(signal.SIG_BLOCK, _SIGNALS):
        raise Stopped(signum)


@cache  # once in a process
def _repeat_signals() -> None:
    """Send each signal to the main thread a second time, a moment later.

    A handler in Python runs between two instructions of the interpreter. A signal that arrives
    after the last of them and before a system call that waits interrupts neither: it would take
    effect when the call ends. The second one interrupts the call. If the first one took effect,
    the main thread blocks the second.
    """
    read_end, write_end = os.pipe()
    os.set_blocking(write_end, False)
    main = _thread.get_ident()

    def repeat() -> None:
        while arrived := os.read(read_end, 1):
            time.sleep(_REPEATED_AFTER)
            if signal.getsignal(arrived[0]) is _stop:
                signal.pthread_kill(main, arrived[0])

    _thread.start_new_thread(repeat, ())
    signal.set_wakeup_fd(write_end, warn_on_full_buffer=False)

"""Signals that ask the command line to end, where it runs in a program with handlers of its own."""

import os
import signal
import time

import pytest
from support import until

from stream.cli import main as command_line
from stream.cli import signals
from stream.cli.signals import Stopped, StopSignals

OURS = signal.SIGUSR1


def _handlers() -> list[object]:
    return [signal.getsignal(one) for one in signals._SIGNALS]


def _resources() -> set[str]:
    """Return the descriptors and the threads that there are."""
    return {f"{kind}/{one}" for kind in ("fd", "task") for one in os.listdir(f"/proc/self/{kind}")}


def test_everything_restored(capfd: pytest.CaptureFixture[str]) -> None:
    """Without it a program that calls the command line could no longer be interrupted, and each
    call would leave a thread in it.
    """
    signal.set_wakeup_fd(before := signal.set_wakeup_fd(-1))
    handlers, resources = _handlers(), _resources()
    assert command_line.main(["/no/such/conf", "-o", "/dev/null"]) == 2
    assert _handlers() == handlers
    until(lambda: _resources() <= resources)  # of other tests, some may end meanwhile
    assert signal.set_wakeup_fd(before) == before
    assert "/no/such/conf" in capfd.readouterr().err


def test_signal_of_another_handler_not_repeated(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without it one Ctrl-C would reach the command that `serve` runs twice."""
    monkeypatch.setattr(signals, "_REPEATED_AFTER", 0.01)
    arrived = []
    with StopSignals() as stopping:
        stopping.catch()
        ours = signal.signal(OURS, lambda *_: arrived.append(1))
        os.kill(os.getpid(), OURS)
        time.sleep(0.05)
        signal.signal(OURS, ours)
        time.sleep(0.05)
    assert arrived == [1]


def test_one_signal_stops_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without it the signal that is sent again could interrupt the clean-up."""
    monkeypatch.setattr(signals, "_REPEATED_AFTER", 0.01)
    mask = signal.pthread_sigmask(signal.SIG_BLOCK, [])
    with StopSignals() as stopping:
        stopping.catch()
        with pytest.raises(Stopped) as stopped:
            os.kill(os.getpid(), OURS)
        until(lambda: OURS in signal.sigpending())
        assert signal.sigtimedwait([OURS], 0)
    signal.pthread_sigmask(signal.SIG_SETMASK, mask)
    assert stopped.value.signum == OURS

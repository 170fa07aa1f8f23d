"""Programs that run apart from us: their reports, and how they end."""

import fcntl
import os
import resource

import pytest

from stream.sources.customisation.sandbox import running
from stream.sources.customisation.sandbox.running import run


@pytest.mark.parametrize(
    ("rest", "orderly"),
    [
        ("exit 0", True),
        ("exit 3", False),
        ("kill -9 $$", False),
        ("exec 3>&-; exec sleep 9", False),
    ],
)
def test_orderly_end(monkeypatch: pytest.MonkeyPatch, rest: str, *, orderly: bool) -> None:
    """The report of a program that was killed would count, while others still write files."""
    monkeypatch.setattr(running, "PATIENCE", 0.2)
    ended = run(["sh", "-c", f"echo {{}} >&3; {rest}"], {"PATH": os.defpath}, "{}", b"")
    assert (ended.report, ended.orderly) == (b"{}\n", orderly)


def test_endless_report(monkeypatch: pytest.MonkeyPatch) -> None:
    """A report that is cut off could still be valid: white space may follow it."""
    monkeypatch.setattr(running, "MAX_REPORT", 1 << 20)
    monkeypatch.setattr(running, "PATIENCE", 0.2)
    program = ["sh", "-c", "trap '' PIPE; echo {} >&3; yes '' >&3; exit 0"]
    assert not run(program, {"PATH": os.defpath}, "{}", b"").orderly


def test_descriptors_beyond_the_limit() -> None:
    """A shell may open a descriptor and lower the limit then: nothing could be run."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    high = fcntl.fcntl(2, fcntl.F_DUPFD, 100)
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (64, hard))
        program = ["sh", "-c", f"echo $(ls /proc/$$/fd | grep -c '^{high}$') >&3"]
        ended = run(program, {"PATH": os.defpath}, "{}", b"")
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
        os.close(high)
    assert ended.report == b"0\n"

"""Programs that run apart from us: their reports, and how they end."""

import os

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

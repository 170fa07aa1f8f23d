"""Reports that commands have written themselves."""

import json
from typing import Any

import pytest

from stream.sources.customisation.sandbox.report import Report, parse_report

SOUND: dict[str, Any] = {"status": 0, "line": "", "leftovers": []}
ENTRY = ["a", 0o100644, 0, 0, 0, 0, {}]


@pytest.mark.parametrize(
    "report",
    [
        1, [], {}, None, {**SOUND, "status": None}, {**SOUND, "status": True},
        {**SOUND, "status": 1.5}, {**SOUND, "line": 3}, {**SOUND, "leftovers": [1]},
        {**SOUND, "leftovers": 7}, {"refused": ["x"]}, {**SOUND, "entries": 1},
        {**SOUND, "entries": [[]]},
        *({**SOUND, "entries": [[*ENTRY[:at], wrong, *ENTRY[at + 1 :]]]}
          for at, wrong in [
              (0, 1), (0, "\u0100"), (1, -1), (1, float("inf")), (1, 1 << 16), (2, 1 << 32),
              (3, "0"), (4, -1), (5, 1 << 70), (6, []), (6, {"user.a": 1}), (6, {"\u0100": ""}),
          ]),
    ],
)  # fmt: skip
def test_not_a_report(report: object) -> None:
    """A recipe would end in an internal error, or in a layer that cannot be encoded."""
    with pytest.raises(ValueError, match="not a report"):
        parse_report(json.dumps(report).encode())


@pytest.mark.parametrize("data", [b"", b" ", b"{", b"\xff", b"[" * 100_000, b"9" * 5000])
def test_not_json(data: bytes) -> None:
    """A runner that was killed leaves half a report."""
    with pytest.raises(ValueError, match="not a report"):
        parse_report(data)


@pytest.mark.parametrize(
    ("line", "number"), [("", 0), ("12", 12), ("fakeroot", 0), ("9" * 5000, 0), ("\xb2", 0)]
)
def test_line(line: str, number: int) -> None:
    """The shell writes its line where commands can write as well."""
    assert parse_report(json.dumps({**SOUND, "line": line}).encode()) == Report(line=number)

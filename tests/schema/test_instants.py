"""Instants in the forms of GNU date, with that program as the reference."""

import subprocess
from datetime import datetime

import pytest

from stream.schema.instants import parse_date

TAKEN = [
    "@1700000000", "@0", "@-86400", "@+5", "@ 5", "@1700000000.9",
    "20240131", "2024-01-31", "2024/01/31", "2024-1-5", " 2024-02-29 ", "0001-01-01",
    "2024-01-31 10:00", "2024-01-31 10:00:59", "2024-01-31T10:00:00", "2024-01-31t1:2:3",
    "20240131 10:00:00", "2024-01-31  10:00:00.999", "2024-01-31T10:00:00,5Z",
    "2024-01-31T10:00:00Z", "2024-01-31 10:00:00z", "2024-01-31 10:00:00 UTC",
    "2024-01-31 10:00 gmt", "2024-01-31 UTC", "2024-01-31T10:00:00+02:00",
    "2024-01-31 10:00:00 -0330", "2024-01-31 10:00+02", "2024-01-31 23:59:59 -12:00",
    "Wed, 31 Jan 2024 10:00:00 +0100",
]  # fmt: skip
REFUSED_BY_BOTH = [
    "20241399", "2024-02-30", "@x", "@", "@1.0e3", "2024-01-31T10", "20240131100000",
    "2024-01-31 24:00", "2024-01-31 10:60", "2024-01/31", "2024-W05-3", "+5", "@" + "9" * 40,
]  # fmt: skip
REFUSED_HERE = ["", " ", "yesterday", "now", "10:00", "2024", "24-01-31", "2024-01-31 10:00:00 CET"]


def printed_by_date(text: str) -> subprocess.CompletedProcess[str]:
    """Run GNU date, as a build of dockerTools does."""
    return subprocess.run(
        ["date", "-Iseconds", "-d", text],
        env={"TZ": "UTC", "LC_ALL": "C", "PATH": "/usr/bin:/bin"},
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.mark.parametrize("text", TAKEN)
def test_as_date_prints_it(text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without it an image would have another time, and another ID, than dockerTools gives it."""
    monkeypatch.setenv("TZ", "America/New_York")
    found = parse_date(text)
    assert found is not None
    assert found.isoformat() == printed_by_date(text).stdout.strip()


@pytest.mark.parametrize("text", REFUSED_BY_BOTH)
def test_what_date_does_not_read(text: str) -> None:
    """Without it a typo would be taken for some other time."""
    assert printed_by_date(text).returncode != 0
    assert parse_date(text) is None


@pytest.mark.parametrize("text", REFUSED_HERE)
def test_what_depends_on_when_or_where_it_is_read(text: str) -> None:
    """Without it two plans of one specification could differ."""
    assert parse_date(text) is None


@pytest.mark.parametrize("text", ["2024-01-31T10:00:00+24:00", "9999-12-31T23:00:00-02:00"])
def test_beyond_what_a_conf_holds(text: str) -> None:
    """Without it a time that no conf can have would end in a traceback."""
    assert parse_date(text) is None


def test_it_is_in_utc() -> None:
    """Without it the offset of the specification would be in the image config."""
    assert parse_date("2024-01-31T10:00:00+02:00") == datetime.fromisoformat("2024-01-31T08:00Z")

"""Instants in the forms of GNU date, with that program as the reference."""

import subprocess
from datetime import datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stream.schema.instants import is_relative, parse_date

TAKEN = [
    "@1700000000", "@0", "@-86400", "@+5", "@ 5", "@1700000000.9", "@-1.5", "@-1.0", "@-0.5",
    "20240131", "2024-01-31", "2024/01/31", "2024-1-5", " 2024-02-29 ", "0001-01-01",
    "2024-01-31 10:00", "2024-01-31 10:00:59", "2024-01-31T10:00:00", "2024-01-31t1:2:3",
    "20240131 10:00:00", "2024-01-31  10:00:00.999", "2024-01-31T10:00:00,5Z",
    "2024-01-31T10:00:00Z", "2024-01-31 10:00:00z", "2024-01-31 10:00:00 UTC",
    "2024-01-31 10:00 gmt", "2024-01-31 UTC", "2024-01-31T10:00:00+02:00",
    "2024-01-31 10:00:00 -0330", "2024-01-31 10:00+02", "2024-01-31 23:59:59 -12:00",
    "Wed, 31 Jan 2024 10:00:00 +0100", "Wed, 31 Jan 2024 10:00:00 +0000 (UTC)",
    "31 Jan 2024", "31jan2024", "31-Jan-2024", "31 January 2024", "Jan 31, 2024", "Jan 31 2024",
    "jan-31-2024", "Sept 3 2024", "Jan. 5 2024", "1/31/2024", "Wed Jan 31 10:00:00 UTC 2024",
    "Wed Jan 31 10:00:00 AM UTC 2024", "Wed Jan 31 10:00:00 2024", "Wednesday 31 January 2024",
    "2024-01-31 Wed 10:00", "Jan 31 2024 10:00 UTC", "10:00 2024-01-31", "10am 31 Jan 2024",
    "12:30 pm 31 jan 2024", "2024-01-31 12 a.m.", "2024-01-31 10", "20240131 1000",
    "2024-01-31 10:00 UTC+2", "UTC 2024-01-31", "10:00Z 31 Jan 2024", "2024-01-31T10:00:00+5:30",
    "2024-01-31 10:00 +5", "2024-01-31 10:00 UT", "Thu 31 Jan 2024",
]  # fmt: skip
REFUSED_BY_BOTH = [
    "20241399", "2024-01-31,10:00", "2024-02-30", "@x", "@", "@1.0e3", "2024-01-31T10", "20240131100000",
    "20240131T100000Z", "20240131T100000+0200", "31 Jan, 2024", "Jan 31,2024", "31.01.2024",
    "2024-01-31 13:00 pm", "2024-01-31 0:30 am", "2024-01-31T10:00+02:00 UTC", "2024 Jan 31",
    "2024-01-31 24:00", "2024-01-31 10:60", "2024-01-31 10:00:60", "2024-01/31", "2024-W05-3", "+5", "@" + "9" * 40,
]  # fmt: skip
REFUSED_HERE = [
    "",
    " ",
    "yesterday",
    "now",
    "10:00",
    "2024",
    "24-01-31",
    "2024-01-31 10:00:00 CET",
    "31 Jan",
    "Jan 31 2024 Wed",
    "20240131 Wed",
    "10 Jan 31 2024",
    "2024/01/31T10:00",
    "20240131T10:00",
    "2024-01-31 10:00 +2 days",
    "2024-01-31 10:00 am +02",
    "2 days ago",
]
RELATIVE = ["yesterday", "2 days ago", "next week", "2024-01-31 +1 day", "Today", "last friday"]

# Parts of what date reads, of what it does not, and of what it reads otherwise than one may think.
DATES = st.sampled_from(
    [
        "2024-01-31", "2024-1-5", "2024/01/31", "20240131", "1/31/2024", "31 Jan 2024", "31jan2024",
        "31-Jan-2024", "January 31, 2024", "Jan 31 2024", "Jan-31-2024", "Jan 31", "5 sept 2024",
        "may 5 , 1999", "31 January2024", "Feb 29", "1969-12-31", "Jan31,2024", "mar. 5 2024",
    ]
)  # fmt: skip
TIMES = [
    "10:00", "10:00:59", "1:2:3", "10:00:00.999", "10:00:00,5", "10:00 am", "12:30:01pm", "10am",
    "12 am", "12 p.m.", "10", "1000", "0930", "9", "10:00+02:00", "10:00 -0330", "10:00:00+5",
    "23:59:59 -12:00", "T10:00", "t 10:00", "T10:00:00Z", "10:00z", "10:00 +5:30", "10:00am+2",
    "10:00:00utc", "1:00 A.M.", "00:00 am", "13:00 pm", "10:00+130", "10:00 + 2", "10:00-05:00:30",
]  # fmt: skip
OTHERS = [
    "UTC", "Z", "GMT", "ut", "utc+2", "UTC-0530", "UTC +2", "gmt+10:00", "z+1", "2024", "1999",
    "0001", "Wed", "Wed,", "Wednesday", "thu ,", "Sunday.", "fri.", "tues", "(x)", ",", "+5", "-",
    "10", ".", "T",
]  # fmt: skip
TEXTS = st.builds(
    lambda date, more, order, gap: gap.join(order.sample([date, *more], len(more) + 1)),
    DATES,
    st.lists(st.sampled_from(TIMES + OTHERS), max_size=4),
    st.randoms(use_true_random=False),
    st.sampled_from([" ", " ", "  ", "\t", ""]),
)


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


@given(texts=st.lists(TEXTS, min_size=5, max_size=20, unique=True))
def test_whatever_is_read_is_read_as_date_reads_it(texts: list[str]) -> None:
    """Without it a spelling nobody thought of would be read as another time than in nixpkgs."""
    found = [(text, at) for text in texts if (at := parse_date(text)) is not None]
    done = subprocess.run(
        ["date", "-Iseconds", "-f", "-"],
        env={"TZ": "UTC", "LC_ALL": "C", "PATH": "/usr/bin:/bin"},
        input="".join(f"{text}\n" for text, _ in found),
        capture_output=True,
        text=True,
        check=False,
    )
    assert not done.stderr
    printed = dict(zip([text for text, _ in found], done.stdout.splitlines(), strict=True))
    assert printed == {text: at.isoformat() for text, at in found}


@pytest.mark.parametrize("text", RELATIVE)
def test_relative(text: str) -> None:
    """Without it the message could not say why such a time is refused."""
    assert printed_by_date(text).returncode == 0
    assert parse_date(text) is None
    assert is_relative(text)


@pytest.mark.parametrize("text", [*TAKEN, "2024-01-31 10:00:00 CET", "Monday"])
def test_not_relative(text: str) -> None:
    """Without it the message would give a wrong reason."""
    assert not is_relative(text)

"""Read points in time as GNU date does: the forms that name one instant wherever and whenever
they are read.

Relative forms (`yesterday`), times without a date and local time zones are not among them.
Must not know the keys of any document.
"""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta, timezone

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_SECONDS = re.compile(r"@\s*([+-]?[0-9]{1,15})(?:[.,][0-9]*)?", re.ASCII)
_RFC_5322 = "%a, %d %b %Y %H:%M:%S %z"
_CALENDAR = re.compile(
    r"""
    (?: (?P<year>[0-9]{4}) (?P<separator>[-/]) (?P<month>[0-9]{1,2}) (?P=separator) (?P<day>[0-9]{1,2})
      | (?P<digits>[0-9]{8}) )
    (?: (?: \s*T | \s )\s*
        (?P<hour>[0-9]{1,2}) : (?P<minute>[0-9]{1,2}) (?: : (?P<second>[0-9]{1,2}) (?:[.,][0-9]+)? )?
        (?: \s* (?P<sign>[+-]) (?P<offset_hour>[0-9]{2}) (?: :? (?P<offset_minute>[0-9]{2}) )? )?
    )?
    (?: \s* (?:Z|UTC|GMT) )?
    """,
    re.ASCII | re.VERBOSE | re.IGNORECASE,
)


def parse_date(text: str) -> datetime | None:
    """Return the instant that `date --utc -d TEXT` prints, in UTC and whole seconds; None if
    `text` does not have one of these forms.

    Accepted: `@SECONDS`; a date as `2024-01-31`, `2024/1/31` or `20240131`, with or without a
    time and an offset or `UTC`; RFC 5322, as `date -R` writes it. Without a time it is
    midnight, without an offset UTC, as in Nix's builds.
    """
    text = text.strip()
    try:
        if match := _SECONDS.fullmatch(text):
            return _EPOCH + timedelta(seconds=int(match[1]))
        if match := _CALENDAR.fullmatch(text):
            return _from_calendar(match)
        return datetime.strptime(text, _RFC_5322).astimezone(UTC)
    except (ValueError, OverflowError):
        return None


def _from_calendar(match: re.Match[str]) -> datetime:
    part = match.groupdict()
    digits = part["digits"] or f"{part['year']}{part['month']:0>2}{part['day']:0>2}"
    hour, minute, second, *offset = (
        int(part[name] or 0)
        for name in ("hour", "minute", "second", "offset_hour", "offset_minute")
    )
    east = timedelta(hours=offset[0], minutes=offset[1])
    return datetime(
        int(digits[:4]), int(digits[4:6]), int(digits[6:]), hour, minute, second,
        tzinfo=timezone(-east if part["sign"] == "-" else east),
    ).astimezone(UTC)  # fmt: skip

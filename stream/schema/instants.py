"""Read points in time as GNU date does: the forms that name one instant wherever and whenever
they are read.

Relative forms (`yesterday`), times without a date and local time zones are not among them.
Must not know the keys of any document.
"""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta, timezone

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_SECONDS = re.compile(r"@\s*([+-]?[0-9]{1,15})(?:[.,]([0-9]*))?", re.ASCII)
_COMMENT = re.compile(r"\([^()]*\)")

# GNU date's names. Any of them may be cut to three letters.
_MONTHS = (
    "january", "february", "march", "april", "may", "june", "july", "august", "september",
    "october", "november", "december",
)  # fmt: skip
_DAYS = ("monday", "tuesday", "wednesday", "thursday", "friday", "saturday", "sunday")


def _any_of(names: tuple[str, ...], *more: str) -> str:
    longest_first = (*names, *more, *(rf"{name[:3]}\.?" for name in names))
    return f"(?:{'|'.join(longest_first)})(?![a-z])"


_MONTH = f"(?P<month>{_any_of(_MONTHS, 'sept')})"
_YEAR, _DAY = "(?P<year>[0-9]{4})(?![0-9])", "(?P<day>[0-9]{1,2})"
_NUMBER = "(?P<month>[0-9]{1,2})"
_WEEKDAY = f"(?P<weekday>{_any_of(_DAYS)})"
_HALF = r"(?P<half>[ap](?:m|\.m\.)(?![a-z]))"
_OFFSET = r"[+-](?:[0-9]{1,2}(?::[0-9]{2})?|[0-9]{4})(?![0-9:.,])"
_MINUTES = r":(?P<minute>[0-9]{1,2})(?::(?P<second>[0-9]{1,2})(?:[.,][0-9]+)?)?(?![0-9:])"

# What a text consists of, in any order: a pattern, and the part that must be known before. Its
# groups are the parts that it adds, and no part may be given twice. The first that fits is taken.
_ITEMS = tuple(
    (re.compile(rf"(?:{pattern})\s*", re.ASCII), needed)
    for pattern, needed in (
        (rf"{_YEAR}-{_NUMBER}-{_DAY}(?![0-9])(?:\s*t\s*(?=[0-9]{{1,2}}:)|\s*{_WEEKDAY})?", None),
        (rf"{_YEAR}/{_NUMBER}/{_DAY}(?![0-9])", None),
        (rf"{_NUMBER}/{_DAY}/{_YEAR}", None),
        (r"(?P<year>[0-9]{4})(?P<month>[0-9]{2})(?P<day>[0-9]{2})(?![0-9])", None),
        (rf"{_DAY}\s*{_MONTH}\s*{_YEAR}", None),
        (rf"{_DAY}-{_MONTH}-{_YEAR}", None),
        (rf"{_MONTH}\s*{_DAY}\s*,\s+{_YEAR}", None),
        (rf"{_MONTH}-{_DAY}-{_YEAR}", None),
        (rf"{_MONTH}\s*{_DAY}(?![0-9:])", None),  # its year may be anywhere behind it
        (rf"(?P<hour>[0-9]{{1,2}}){_MINUTES}(?:\s*(?:{_HALF}|(?P<offset>{_OFFSET})))?", None),
        (rf"(?P<hour>[0-9]{{1,2}})\s*{_HALF}", None),
        (rf"(?:z|utc?|gmt)(?![a-z])(?P<offset>(?:{_OFFSET})?)", None),
        (rf"^{_WEEKDAY}\s*,?", None),  # behind a number, date takes it for the Nth such day
        (r"(?P<hour>[0-9]{2})(?P<minute>[0-9]{2})(?![0-9])", "year"),
        (rf"{_YEAR}(?![-/:])", "day"),
        (r"(?P<hour>[0-9]{1,2})(?![0-9:])", "year"),
    )
)

_RELATIVE = re.compile(
    r"\b(?:yesterday|today|tomorrow|now|ago|next|last|this"
    r"|(?:year|month|fortnight|week|day|hour|min(?:ute)?|sec(?:ond)?)s?)\b"
)


def parse_date(text: str) -> datetime | None:
    """Return the instant that `date --utc -d TEXT` prints, in UTC and whole seconds; None if
    `text` does not have one of these forms.

    Accepted: `@SECONDS`; a date with a year of four digits (`2024-01-31`, `20240131`, `31 Jan
    2024`, `Jan 31, 2024`, `1/31/2024`), with or without a time, `am` or `pm`, an offset, `UTC` and
    the name of the day, in the orders that date reads. Without a time it is midnight, without an
    offset UTC, as in Nix's builds.
    """
    rest = text.strip().lower()
    try:
        if match := _SECONDS.fullmatch(rest):
            fraction = match[1].startswith("-") and int(match[2] or 0) > 0  # rounds down
            return _EPOCH + timedelta(seconds=int(match[1]) - fraction)
        parts = _parts(_COMMENT.sub(" ", rest).strip())
        return None if parts is None else _instant(parts)
    except (ValueError, OverflowError):
        return None


def is_relative(text: str) -> bool:
    """Return True if `text` names an instant that depends on when it is read, such as `2 days
    ago`.
    """
    return _RELATIVE.search(text.lower()) is not None


def _parts(text: str) -> dict[str, str] | None:
    """Return the parts of an instant by name; None if `text` has others, or one twice."""
    parts: dict[str, str] = {}
    end = 0
    while end < len(text):
        for pattern, needed in _ITEMS:
            match = pattern.match(text, end) if needed is None or needed in parts else None
            if match is not None:
                break
        else:
            return None
        found = {name: value for name, value in match.groupdict().items() if value is not None}
        if parts.keys() & found.keys():
            return None
        parts |= found
        end = match.end()
    return parts if "year" in parts else None


def _instant(parts: dict[str, str]) -> datetime:
    """Return the instant with these parts. Raises ValueError."""
    month = parts["month"]
    if not month.isdigit():
        month = str([name[:3] for name in _MONTHS].index(month[:3]) + 1)
    hour = int(parts.get("hour", 0))
    if half := parts.get("half"):
        if not 1 <= hour <= 12:
            raise ValueError(hour)
        hour = hour % 12 + (12 if half[0] == "p" else 0)
    return datetime(
        int(parts["year"]), int(month), int(parts["day"]),
        hour, int(parts.get("minute", 0)), int(parts.get("second", 0)),
        tzinfo=timezone(_east(parts.get("offset") or "+0")),
    ).astimezone(UTC)  # fmt: skip


def _east(offset: str) -> timedelta:
    digits = offset[1:].replace(":", "")
    hours, minutes = (digits[:-2], digits[-2:]) if len(digits) > 2 else (digits, "0")
    east = timedelta(hours=int(hours), minutes=int(minutes))
    return -east if offset.startswith("-") else east

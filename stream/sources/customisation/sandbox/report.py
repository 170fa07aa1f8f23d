"""The report of `session`, parsed.

Commands can write one of their own, so whatever it holds becomes values of these types, or a
ValueError. Knows neither how it came nor what is done about it.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from stream.values import dataclass

_MAX_ID = (1 << 32) - 1
_MAX_MODE = 0o177777
_MAX_LINE = 10  # digits


@dataclass(frozen=True, slots=True, kw_only=True)
class Metadata:
    """The attributes of an entry that only fakeroot knows. `mode` includes the type."""

    mode: int
    uid: int
    gid: int
    device: tuple[int, int]
    xattrs: dict[bytes, bytes]


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """The outcome of commands: the reason why they were `refused`, if they were; otherwise their exit
    `status` (-n: killed by signal n), the number of the `line` that failed (0: unknown), the names
    of processes that had to be killed, and what fakeroot knows of each path, if they ran under it.
    """

    refused: str = ""
    status: int = 0
    line: int = 0
    leftovers: tuple[str, ...] = ()
    metadata: Mapping[bytes, Metadata] | None = None


def parse_report(data: bytes) -> Report:
    """Return the report that is in `data`. Raises ValueError."""
    try:
        found = json.loads(data)
        if "refused" in found:
            return Report(refused=_text(found["refused"]))
        line = _text(found["line"])
        entries = found.get("entries")
        return Report(
            status=_number(found["status"], _MAX_ID, lowest=-_MAX_ID),
            line=int(line) if line.isdecimal() and len(line) <= _MAX_LINE else 0,
            leftovers=tuple(map(_text, found["leftovers"])),
            metadata=None if entries is None else dict(map(_entry, entries)),
        )
    except (AttributeError, KeyError, RecursionError, TypeError, ValueError) as error:
        raise ValueError("not a report") from error


def _entry(entry: Any) -> tuple[bytes, Metadata]:
    path, mode, uid, gid, major, minor, xattrs = entry
    return _bytes(path), Metadata(
        mode=_number(mode, _MAX_MODE),
        uid=_number(uid, _MAX_ID),
        gid=_number(gid, _MAX_ID),
        device=(_number(major, _MAX_ID), _number(minor, _MAX_ID)),
        xattrs={_bytes(name): _bytes(value) for name, value in xattrs.items()},
    )


def _text(value: Any) -> str:
    if not isinstance(value, str):
        raise TypeError
    return value


def _bytes(value: Any) -> bytes:
    return _text(value).encode("latin-1")


def _number(value: Any, highest: int, *, lowest: int = 0) -> int:
    if type(value) is not int or not lowest <= value <= highest:
        raise TypeError
    return value

"""The members of a JSON object, read one by one, and what is wrong with them.

Knows no document's keys.
"""

from __future__ import annotations

import re
from typing import Any

from stream.faults import NoteFault, kind, meant
from stream.limits import MAX_ID


def id_of(value: object) -> int | None:
    """The user or group that `value` is the number of, also as text; None if it is none."""
    if isinstance(value, str) and re.fullmatch("[0-9]{1,10}", value):
        value = int(value)
    if isinstance(value, int) and not isinstance(value, bool) and 0 <= value <= MAX_ID:
        return value
    return None


def no_id(value: object) -> str:
    """What to say of `value` if it is none."""
    shown = repr(value) if isinstance(value, (str, int)) else kind(value)
    return f"must be a number from 0 to {MAX_ID}, not {shown}"


class Fields:
    """The members of one object, `null` being absence. `fault` is told what is wrong; what
    is returned then is of no use.
    """

    def __init__(self, document: dict[str, Any], place: str, fault: NoteFault) -> None:
        self.document = document
        self._place = place
        self._fault = fault

    def at(self, key: str) -> str:
        """The place of `key`, or of the object itself."""
        return ".".join(filter(None, (self._place, key)))

    def fault(self, key: str, message: str) -> None:
        """Tell what is wrong with the value of `key`, or with the object itself."""
        self._fault(self.at(key), message)

    def check_keys(self, known: frozenset[str]) -> None:
        """Only `known` keys may be there."""
        for key in sorted(self.document.keys() - known):
            self.fault(key, f"unknown key{meant(key, known)}")

    def boolean(self, key: str) -> bool:
        """Absent: false."""
        value = self.document.get(key)
        if not isinstance(value, (bool, type(None))):
            self.fault(key, f"must be a boolean, not {kind(value)}")
        return value is True

    def text(self, key: str) -> str:
        """Absent: empty."""
        value = self.document.get(key)
        if not isinstance(value, (str, type(None))):
            self.fault(key, f"must be a string, not {kind(value)}")
        return value if isinstance(value, str) else ""

"""What is wrong with a value, in the words of a message.

Knows no document's keys: only JSON's types, and paths.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterable
from typing import Any

from stream.limits import MAX_ID

# Is told of a fault: its place in the document, and what is wrong.
NoteFault = Callable[[str, str], None]


def kind(value: object) -> str:
    """What JSON calls the type of `value`."""
    if value is None:
        return "null"
    names = {dict: "an object", list: "a list", str: "a string", bool: "a boolean"}
    return names.get(type(value), "a number")


def depth_of(value: object) -> int:
    """How deep lists and objects in `value` are nested; 1 if it holds none."""
    level, depth = [value], 0
    while level:
        depth += 1
        level = [
            item
            for above in level
            if isinstance(above, (dict, list))
            for item in (above.values() if isinstance(above, dict) else above)
        ]
    return depth


def meant(key: str, known: Iterable[str], longest: int = 30) -> str:
    """The hint that `key` looks like one that is known; `longest` characters of it are
    compared.
    """
    from difflib import get_close_matches

    by_lower = {name.lower(): name for name in known}
    close = get_close_matches(key[:longest].lower(), by_lower, n=1, cutoff=0.8)
    return f": {by_lower[close[0]]} is meant?" if close else ""


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


def is_text(value: str) -> bool:
    """Whether `value` has UTF-8 bytes: JSON can name half of a UTF-16 pair."""
    return value.isascii() or not any("\ud800" <= char <= "\udfff" for char in value)


def not_normal(path: str) -> str | None:
    """Why `path` cannot be a path in an image, or None."""
    if not path.startswith("/"):
        return "is not an absolute path"
    if "\0" in path:
        return "has a NUL character"
    if not is_text(path):
        return "has half a character"
    if path.startswith("//") or os.path.normpath(path) != path:
        return f"is not in normal form: write {os.path.normpath('/' + path.lstrip('/'))!r}"
    return None


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

"""What is wrong with a value, in the words of a message.

Knows no document's keys: only JSON's types, and paths.
"""

from __future__ import annotations

import errno
import os
import re
import stat
from collections.abc import Callable, Iterable
from typing import Any

from stream.disk import Disk
from stream.text import printable

# Is told of a fault: its place in the document, and what is wrong.
NoteFault = Callable[[str, str], None]

MAX_FAULTS = 20  # of one kind that are told
MAX_SIZE = 2**63 - 1  # bytes: what file systems and databases can hold
MAX_ID = 2**32 - 2  # the last one, (uid_t)-1, means "no change" to chown


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


def not_readable(path: str, disk: Disk) -> str | None:
    """Why `path` cannot be read on `disk`, or None. Follows no link."""
    name = path.encode()
    place = name
    try:
        place = disk.at(name)
        mode = os.lstat(place).st_mode
        if stat.S_ISLNK(mode):
            return None
        wanted = os.R_OK | os.X_OK if stat.S_ISDIR(mode) else os.R_OK
        if os.access(place, wanted):
            return None
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), place)
    except OSError as error:
        place = error.filename or place
        elsewhere = place != name
        if isinstance(error, (FileNotFoundError, NotADirectoryError)):
            return "does not exist" + (f": there is no {printable(place)}" if elsewhere else "")
        return f"cannot be read{f' at {printable(place)}' if elsewhere else ''}: {error.strerror}"


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

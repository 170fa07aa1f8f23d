"""What is wrong with a value, in the words of a message.

Knows no document: only JSON's types, and paths.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Callable, Iterable

# Is told of a fault: its place in the document, and what is wrong.
NoteFault = Callable[[str, str], None]


def kind(value: object) -> str:
    """What JSON calls the type of `value`."""
    if value is None:
        return "null"
    names = {dict: "an object", list: "a list", str: "a string", bool: "a boolean"}
    return names.get(type(value), "a number")


def meant(key: str, known: Iterable[str], longest: int = 30) -> str:
    """The hint that `key` looks like one that is known; `longest` characters of it are
    compared.
    """
    from difflib import get_close_matches

    by_lower = {name.lower(): name for name in known}
    close = get_close_matches(key[:longest].lower(), by_lower, n=1, cutoff=0.8)
    return f": {by_lower[close[0]]} is meant?" if close else ""


def not_normal(path: str) -> str | None:
    """Why `path` cannot be a path in an image, or None."""
    if not path.startswith("/"):
        return "is not an absolute path"
    if "\0" in path:
        return "has a NUL character"
    if path.startswith("//") or os.path.normpath(path) != path:
        return f"is not in normal form: write {os.path.normpath('/' + path.lstrip('/'))!r}"
    return None


def not_readable(path: str) -> str | None:
    """Why the store path `path` cannot be read, or None. Follows no link."""
    name = path.encode()
    try:
        mode = os.lstat(name).st_mode
    except OSError as error:
        missing = isinstance(error, (FileNotFoundError, NotADirectoryError))
        return "does not exist" if missing else f"cannot be read: {error.strerror}"
    if stat.S_ISLNK(mode):
        return None
    wanted = os.R_OK | os.X_OK if stat.S_ISDIR(mode) else os.R_OK
    return None if os.access(name, wanted) else "cannot be read: Permission denied"

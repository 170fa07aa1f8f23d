"""Describe what is wrong with a JSON value or a path, for messages. Knows no keys."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable

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

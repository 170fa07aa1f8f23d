"""Describe what is wrong with a JSON value or a path, for messages. Knows no keys."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from functools import lru_cache

# OCI Image Specification, layer.md: a name that begins with this deletes a file of a lower layer.
WHITEOUT = ".wh."

# Called with each fault: its place in the document, and what is wrong.
NoteFault = Callable[[str, str], None]


def kind(value: object) -> str:
    """Return the name of the JSON type of `value`, with its article."""
    if value is None:
        return "null"
    names = {dict: "an object", list: "a list", str: "a string", bool: "a boolean"}
    return names.get(type(value), "a number")


def measure_depth(value: object) -> int:
    """Return the number of levels of lists and objects in `value`; 1 if it contains none."""
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


def suggest(key: str, known: Iterable[str], longest: int = 30) -> str:
    """Return ` (did you mean "x"?)` for the key `x` of `known` that is most like `key`, or an
    empty string if none is close. The first `longest` characters of `key` are compared.
    """
    return _suggest(key[:longest].lower(), frozenset(known))


@lru_cache(maxsize=128)  # a generator's mistake is in each of thousands of objects
def _suggest(key: str, known: frozenset[str]) -> str:
    from difflib import get_close_matches

    by_lower = {name.lower(): name for name in sorted(known)}
    close = get_close_matches(key, by_lower, n=1, cutoff=0.8)
    return f' (did you mean "{by_lower[close[0]]}"?)' if close else ""


def is_text(value: str) -> bool:
    """Return True if `value` can be encoded in UTF-8: a JSON string may contain an unpaired
    UTF-16 surrogate.
    """
    return value.isascii() or not any("\ud800" <= char <= "\udfff" for char in value)


def why_not_in_image(path: str) -> str | None:
    """Return why `path` cannot be the path of a file in an image, or None if it can."""
    if wrong := why_not_normal(path):
        return wrong
    if any(name.startswith(WHITEOUT) for name in path.split("/")):
        return f"has a component that begins with {WHITEOUT}, which marks a deleted file; rename it"
    return None


def why_not_normal(path: str) -> str | None:
    """Return why `path` is not an absolute path in normal form, or None if it is."""
    if not path.startswith("/"):
        return "is not an absolute path"
    if "\0" in path:
        return "contains a NUL character"
    if not is_text(path):
        return "contains an unpaired UTF-16 surrogate"
    if path.startswith("//") or os.path.normpath(path) != path:
        return f"is not in normal form; write {os.path.normpath('/' + path.lstrip('/'))!r}"
    return None

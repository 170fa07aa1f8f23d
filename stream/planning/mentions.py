"""Store paths that a JSON value mentions: in a command, an environment variable, a label.

Nix manual, "Store path": 32 digits of its base 32, `-` and a name. Knows no store: what
else is a store path is for the caller to say.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from typing import Any

from stream.nixhash import DIGITS

_NAME = re.compile(r"[0-9a-zA-Z+._?=-]+")
_HASHED = re.compile(rf"[{DIGITS}]{{32}}-[0-9a-zA-Z+._?=-]+")
_PLAIN_KEY = re.compile(r"[a-zA-Z_][a-zA-Z0-9_]*")


def is_hashed(path: str) -> bool:
    """Whether the last component of `path` is what Nix makes of a hash and a name."""
    return _HASHED.fullmatch(path.rpartition("/")[2]) is not None


def mentioned(
    value: object, store_dir: str, known: Callable[[str], bool] = lambda _path: False
) -> dict[str, str]:
    """The store paths that strings and keys in `value` mention, each with the place of the
    first mention, like `config.Env[0]`; a key's place is that of its value.

    A path in `store_dir` counts if it is `known`, or named as Nix names them. The longest
    that is known is taken; the full stop of a sentence is no part of one that is not.
    """
    found: dict[str, str] = {}
    start = re.compile(re.escape(store_dir.rstrip("/")) + r"(?=/([^/\0]+))")
    for place, text in _strings(value):
        for match in start.finditer(text):
            path = _path(store_dir.rstrip("/"), match[1], known)
            if path is not None:
                found.setdefault(path, place)
    return found


def _path(store_dir: str, component: str, known: Callable[[str], bool]) -> str | None:
    """The store path that `component` begins with, or None."""
    match = _NAME.match(component)
    name = match[0] if match else ""
    sentence = name.rstrip(".?")
    for candidate in dict.fromkeys((component, name, sentence)):
        if candidate.strip(".") and known(f"{store_dir}/{candidate}"):
            return f"{store_dir}/{candidate}"
    return f"{store_dir}/{sentence}" if _HASHED.fullmatch(sentence) else None


def _strings(value: object) -> Iterator[tuple[str, str]]:
    """All strings in `value` with their places, in the order of the document."""
    waiting: list[tuple[str, Any]] = [("", value)]
    while waiting:
        place, item = waiting.pop()
        if isinstance(item, str):
            yield place, item
        elif isinstance(item, list):
            below = [(f"{place}[{number}]", inner) for number, inner in enumerate(item)]
            waiting += reversed(below)
        elif isinstance(item, dict):
            for key, inner in reversed(item.items()):
                waiting += ((_member(place, key), inner), (_member(place, key), key))


def _member(place: str, key: str) -> str:
    if not _PLAIN_KEY.fullmatch(key):
        return f"{place}[{json.dumps(key)}]"
    return f"{place}.{key}" if place else key

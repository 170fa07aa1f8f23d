"""Find the store paths mentioned in a JSON value (a command, a label), in the links and files
of a tree, or in any bytes.

In bytes, a store path is recognised by its hash. In JSON, which people write, the caller may
know others. Must not check whether the paths exist.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable, Iterator
from typing import Any

from stream.nix.hashes import MAX_STORE_NAME, STORE_NAME
from stream.nix.registrations import STATE_DIR
from stream.sources.customisation.content import pieces
from stream.sources.customisation.links import resolve_store_link
from stream.sources.customisation.tree import Tree, parts_of
from stream.typeflags import FILE, LINK

_NAME = re.compile(r"[0-9a-zA-Z+._?=-]+")
_HASHED = re.compile(STORE_NAME)
_PLAIN_KEY = re.compile(r"[a-zA-Z_][a-zA-Z0-9_]*")


def is_hashed(path: str) -> bool:
    """Return True if the last component of `path` has the form HASH-NAME of a store path."""
    return _HASHED.fullmatch(path.rpartition("/")[2]) is not None


# ---- in JSON


def find_in_value(
    value: object, store_dir: str, known: Callable[[str], bool] = lambda _path: False
) -> dict[str, str]:
    """Return the store paths mentioned in strings and keys of `value`, each with the place of
    its first mention, such as `config.Env[0]`. The place of a key is that of its value.

    A path in `store_dir` counts if it is `known` or named as Nix names them; the longest known
    path is taken. A full stop or question mark at the end of an unknown path is not part of it.
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
    """Return the store path that `component` begins with, or None."""
    match = _NAME.match(component)
    name = match[0] if match else ""
    sentence = name.rstrip(".?")
    for candidate in dict.fromkeys((component, name, sentence)):
        if candidate.strip(".") and known(f"{store_dir}/{candidate}"):
            return f"{store_dir}/{candidate}"
    return f"{store_dir}/{sentence}" if _HASHED.fullmatch(sentence) else None


def _strings(value: object) -> Iterator[tuple[str, str]]:
    """Yield all strings in `value` with their places, in the order of the document."""
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


# ---- in a tree, and in bytes


def find_in_tree(tree: Tree, store_dir: bytes) -> set[bytes]:
    """Return the store paths that the links of `tree` lead to and its files mention, except for a
    Nix database.

    Every target in `store_dir` counts, whatever its name. Raises SourceError for a file that
    cannot be read.
    """
    found: set[bytes] = set()
    for path, node in tree.entries():
        if node.typeflag == LINK:
            found |= find_in_link(path, node.link, store_dir)
        elif node.typeflag == FILE and not is_database(path):
            found |= find_in_bytes(pieces(node), store_dir)
    return found


def is_database(path: bytes) -> bool:
    """Return True for a file of Nix's database. It lists store paths that need not exist, such
    as those that others were built from.
    """
    return b"/".join(parts_of(path)).startswith(STATE_DIR + b"/db/")


def find_in_link(path: bytes, target: bytes, store_dir: bytes) -> set[bytes]:
    """Return the store paths that a link at `path` to `target` leads to or mentions."""
    found = find_in_bytes([target], store_dir)
    if (into := resolve_store_link(path, target, store_dir)) is not None:
        found.add(into)
    return found


def find_in_bytes(content: Iterable[bytes], store_dir: bytes) -> set[bytes]:
    """Return the store paths in the concatenated pieces of `content`."""
    pattern = re.compile(re.escape(store_dir) + b"/" + STORE_NAME.encode())
    return set(_matches(content, pattern, len(store_dir) + 1 + MAX_STORE_NAME))


def _matches(content: Iterable[bytes], pattern: re.Pattern[bytes], overlap: int) -> Iterator[bytes]:
    """Yield the matches of `pattern`, of at most `overlap` bytes each, also across pieces."""
    kept = b""
    for piece in content:
        window = kept + piece
        # A match that starts later may continue in the next piece.
        settled = len(window) - overlap
        start = max(settled, 0)
        for match in pattern.finditer(window):
            if match.start() < settled:
                yield match[0]
                start = max(start, match.end())
        kept = window[start:]
    yield from pattern.findall(kept)

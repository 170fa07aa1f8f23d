"""Store paths that a tree mentions, in links and in the content of files.

Knows how a store path looks; not where the tree comes from, nor what else refers to what.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Iterator

from stream.customisation.tree import FILE, LINK, Node, Tree
from stream.errors import SourceError

# Nix manual, "Store Path": 32 digits of its base 32, a dash, a name of at most 211 of these.
_NAME = rb"[0-9a-df-np-sv-z]{32}-[0-9a-zA-Z+\-._?=]{1,211}"
_LONGEST = 33 + 211
_PIECE = 1 << 20


def references(tree: Tree, store_dir: bytes) -> set[bytes]:
    """The store paths that links of `tree` lead to and its files mention.

    A link into `store_dir` leads to one whatever it is called, in a file it is known by
    its hash. Whether it exists is not asked. Raises SourceError for a file that cannot be
    read.
    """
    found: set[bytes] = set()
    for path, node in tree.entries():
        if node.typeflag == LINK:
            found |= referred_to(path, node.link, store_dir)
        elif node.typeflag == FILE:
            found |= mentioned(_pieces(node), store_dir)
    return found


def referred_to(path: bytes, target: bytes, store_dir: bytes) -> set[bytes]:
    """The store paths that a link at `path` with this target leads to or mentions."""
    found = mentioned([target], store_dir)
    if (into := _led_into(path, target, store_dir)) is not None:
        found.add(into)
    return found


def mentioned(pieces: Iterable[bytes], store_dir: bytes) -> set[bytes]:
    """The store paths in the content that `pieces` make together, known by their hashes."""
    pattern = re.compile(re.escape(store_dir) + rb"/(?:" + _NAME + rb")")
    return set(_matches(pieces, pattern, len(store_dir) + 1 + _LONGEST))


def _led_into(path: bytes, target: bytes, store_dir: bytes) -> bytes | None:
    """The store path that a link at `path` leads to, by its text alone."""
    absolute = os.path.normpath(os.path.join(b"/" + path, b"..", target))
    absolute = b"/" + absolute.lstrip(b"/")
    above = store_dir.rstrip(b"/") + b"/"
    if not absolute.startswith(above):
        return None
    return above + absolute.removeprefix(above).split(b"/", 1)[0]


def _matches(pieces: Iterable[bytes], pattern: re.Pattern[bytes], overlap: int) -> Iterator[bytes]:
    """What `pattern` matches, across pieces as well: of at most `overlap` bytes."""
    kept = b""
    for piece in pieces:
        window = kept + piece
        # What ends later may go on in the next piece.
        settled = len(window) - overlap
        start = max(settled, 0)
        for match in pattern.finditer(window):
            if match.start() < settled:
                yield match[0]
                start = max(start, match.end())
        kept = window[start:]
    yield from pattern.findall(kept)


def _pieces(node: Node) -> Iterator[bytes]:
    if node.data is not None:
        yield node.data
        return
    if not node.source:
        return
    try:
        with open(node.source, "rb", buffering=0) as file:
            while piece := file.read(_PIECE):
                yield piece
    except OSError as error:
        raise SourceError(node.source, f"cannot be read: {error.strerror}") from error

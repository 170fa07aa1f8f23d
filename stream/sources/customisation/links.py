"""The links of a tree that lead into the store. Knows only their text, not the store."""

from __future__ import annotations

import os
from collections.abc import Collection

from stream.sources.customisation.tree import Tree
from stream.typeflags import LINK


def resolve_store_link(path: bytes, target: bytes, store_dir: bytes) -> bytes | None:
    """Return the store path that a link at `path` with this target leads to, or None."""
    above = store_dir.rstrip(b"/") + b"/"
    absolute = target
    if not target.startswith(above) or b"/." in target or b"//" in target:
        absolute = os.path.normpath(os.path.join(b"/" + path, b"..", target))
        absolute = b"/" + absolute.lstrip(b"/")
    if not absolute.startswith(above):
        return None
    name = absolute.removeprefix(above).split(b"/", 1)[0]
    return above + name if name else None


def lost_links(tree: Tree, store_dir: bytes, known: Collection[bytes]) -> dict[bytes, bytes]:
    """Return the store paths that links of `tree` lead to and that are neither `known` nor in
    the tree, each with the path of the first such link.
    """
    found: dict[bytes, bytes] = {}
    for path, node in tree.entries():
        if node.typeflag == LINK:
            into = resolve_store_link(path, node.link, store_dir)
            if into is not None and into not in known and tree.find(into) is None:
                found.setdefault(into, path)
    return found

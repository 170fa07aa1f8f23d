"""Bytecode caches of Python that stay valid in the layer: see `stream.sources.bytecode`.

A cache that matched its source when it was copied, or when commands left it, gets the time
that the source has in the layer. Any other stays as it is: it was stale before, and Python has
to notice that. Knows trees; not how they are written.
"""

from __future__ import annotations

from collections.abc import Mapping

from stream.sources.bytecode import CACHE, HEADER_SIZE, Stamp, restamp, source_of
from stream.sources.customisation.content import opened, read
from stream.sources.customisation.tree import Node, Tree, under
from stream.typeflags import FILE

# The headers of valid caches as they are on disk, by path in the tree.
Headers = Mapping[bytes, bytes]


def refresh_bytecode(tree: Tree, mtime: int, before: Headers | None = None) -> Headers:
    """Make the valid caches of `tree` valid where every file is modified at `mtime` (seconds).
    Return their headers.

    Called before commands run, and again afterwards with the previous result: commands find
    every file modified at `mtime`, so that what was valid can no longer be seen. Raises
    SourceError for a file that has changed.
    """
    found: dict[bytes, bytes] = {}
    waiting = [(b"", tree.root)]
    while waiting:
        path, node = waiting.pop()
        for name, child in node.children.items():
            below = under(path, name)
            if child.is_directory:
                waiting.append((below, child))
            elif path.endswith(CACHE) and (source := _find_source(tree, path, name)):
                header = _refresh(child, source, mtime, (before or {}).get(below))
                if header is not None:
                    found[below] = header
    return found


def _find_source(tree: Tree, cache: bytes, name: bytes) -> Node | None:
    """Return the source of the file `name` in the directory `cache`, if it is a file on disk."""
    above, _, directory = cache.rpartition(b"/")
    source = source_of(name) if directory == CACHE else None
    found = tree.find(under(above, source)) if source else None
    return found if found and found.typeflag == FILE and found.identity else None


def _refresh(node: Node, source: Node, mtime: int, known: bytes | None) -> bytes | None:
    """Stamp the cache `node` if it is valid; return its header on disk if so. `known` is the
    header that was valid before commands ran.
    """
    if node.typeflag != FILE or not node.source or source.identity is None:
        return None
    with opened(node) as fd:
        header = read(fd, node, HEADER_SIZE)
    stamp = Stamp.parse(header)
    size, mtime_ns = source.identity.size, source.identity.mtime_ns
    untouched = header == known and mtime_ns == mtime * 10**9
    if stamp is None or stamp.size != size & 0xFFFFFFFF:
        return None
    if not untouched and stamp != Stamp.of(mtime_ns, size):
        return None
    node.head = restamp(header, mtime)
    return header

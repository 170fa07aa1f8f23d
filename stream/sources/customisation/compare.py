"""The changes to a tree, as a layer: entries that are new or different, and paths that were
removed.

Each removed path becomes a whiteout of its own, also in a directory that was made again: an
opaque directory would mean the same in fewer entries, but consumers differ in what it hides if
the layer has entries in it, and in whether its mark must come first. Memory grows with the
number of entries. Knows trees; not where they come from, nor how whiteouts are written.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

from stream.sources.customisation.tree import Node, Tree, parts_of
from stream.typeflags import LINK
from stream.values import dataclass, replace

# Called with a path and the node of a file that is there afterwards; returns True if its content
# is what the path had before, a file of the same size.
SameContent = Callable[[bytes, Node], bool]


@dataclass(frozen=True, slots=True, kw_only=True)
class Change:
    """The difference between two trees: applied over the first, `tree` gives the second once
    the entries at `removed` are gone. No path of these is below another.
    """

    tree: Tree
    removed: frozenset[bytes]


def compare(before: Tree, after: Tree, same_content: SameContent) -> Change:
    """Return the change from `before` to `after`. The tree has nodes of `after`. Times are
    not compared. If one name of a file is in the change, so are all: they stay hard links.
    """
    old, new = dict(before.entries()), dict(after.entries())
    changed = {
        path for path, node in new.items() if not _is_same(path, old.get(path), node, same_content)
    }
    _split_links(old, new, changed)
    _keep_links(old, new, changed)
    removed = frozenset(
        path
        for path in old.keys() - new.keys()
        if (above := new.get(_parent(path))) is not None and above.is_directory
    )
    wanted = changed | _parents({*changed, *removed})
    made = Tree()
    made.root = replace(after.root, children={})
    for path, node in new.items():
        if path in wanted and path:
            made.put(path, replace(node, children={}) if node.is_directory else node)
    return Change(tree=made, removed=removed)


def hidden_paths(removed: Iterable[bytes], before: Tree, tree: Tree) -> frozenset[bytes]:
    """Return the paths of `before` to be hidden so that, below `tree`, nothing is left of what
    was there at the paths `removed`. What `tree` has instead of a file hides it by itself.
    """
    found = set()
    waiting = [path for path in removed if _may_hold(tree, path)]
    while waiting:
        path = waiting.pop()
        instead = tree.find(path)
        if instead is None:
            found.add(path)
        elif instead.is_directory and (gone := before.find(path)) is not None:
            waiting += (path + b"/" + name for name in gone.children)
    return frozenset(found)


def _may_hold(tree: Tree, path: bytes) -> bool:
    """Return True unless something above `path` is not a directory in `tree`."""
    node: Node | None = tree.root
    for part in parts_of(path)[:-1]:
        node = None if node is None else node.children.get(part)
        if node is not None and not node.is_directory:
            return False
    return True


def _is_same(path: bytes, old: Node | None, new: Node, same_content: SameContent) -> bool:
    if old is new:
        return True
    if old is None or _attributes(old) != _attributes(new):
        return False
    return new.is_directory or (old.size == new.size and same_content(path, new))


def _attributes(node: Node) -> tuple[object, ...]:
    mode = 0 if node.typeflag == LINK else node.mode  # a link's is whatever the system gives it
    return (
        node.typeflag, mode, node.uid, node.gid, node.link, node.device, node.xattrs or {}
    )  # fmt: skip


def _split_links(old: dict[bytes, Node], new: dict[bytes, Node], changed: set[bytes]) -> None:
    """Add to `changed` each name that was a hard link to an earlier one, and no longer is."""
    first: dict[int, Node] = {}
    for path, node in old.items():
        if node.is_directory or path in changed or path not in new:
            continue
        if first.setdefault(id(node), new[path]) is not new[path]:
            changed.add(path)


def _keep_links(old: dict[bytes, Node], new: dict[bytes, Node], changed: set[bytes]) -> None:
    """Add to `changed` all names of a file if one is in it, or if they were not all links."""
    names: dict[int, list[bytes]] = {}
    for path, node in new.items():
        if not node.is_directory:
            names.setdefault(id(node), []).append(path)
    for paths in names.values():
        were = {id(old.get(path)) for path in paths}
        if len(were) > 1 or not changed.isdisjoint(paths):
            changed.update(paths)


def _parents(paths: Iterable[bytes]) -> set[bytes]:
    """Return all directories above `paths`."""
    found: set[bytes] = set()
    for path in paths:
        while path and (path := _parent(path)) not in found:
            found.add(path)
    return found


def _parent(path: bytes) -> bytes:
    return path.rpartition(b"/")[0]

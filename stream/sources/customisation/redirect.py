"""A tree fitted onto a base image: it follows the base's links, and inherits the attributes
of its directories.

A directory of ours at the path of a link to a directory would replace the link, and hide
everything that the base has there. `redirect` moves its entries to where the link leads in
the container: absolute targets begin at the root, and `..` stops there. `inherit` keeps the
base's modes and owners of directories that our entries are merely in. Knows the base as a
mapping; not where it comes from.
"""

from __future__ import annotations

from operator import itemgetter

from stream.errors import RecipeError
from stream.limits import MAX_LINKS
from stream.sources.base.tree import Base, BaseEntry
from stream.sources.customisation.tree import (
    DIRECTORY_MODE,
    Node,
    OccupiedError,
    Tree,
    directory,
    parts_of,
    under,
)
from stream.text import printable
from stream.typeflags import DIRECTORY, FILE, LINK
from stream.values import replace

MAX_STEPS = 1 << 22  # through links, for all paths; a long path counts for more


def redirect(tree: Tree, base: Base, *, first_wins: bool = False) -> None:
    """Merge each directory of `tree` whose path is a link to a directory in `base` into that
    directory, at any depth. It loses its own mode and owner: the target keeps its own. Links
    that lead out of a moved directory by `..` are made absolute, so that they still lead to
    the same path.

    Other entries replace the base's link; so does a directory if the link does not lead to
    one. Raises RecipeError for a cycle of links, and if two different entries would be at one
    path, unless `first_wins` is set: then the one that is there stays.
    """
    # A moved directory can itself meet a link there, or be the target of one: so repeat.
    while moved := _take_out(tree, _Union(tree, base)):
        move = _Move(tree, base, first_wins=first_wins)
        for node, path, target in moved:
            move.merge(node, path, target)


def _take_out(tree: Tree, union: _Union) -> list[tuple[Node, bytes, bytes]]:
    """Take the directories out of `tree` whose path is a link to a directory in the base.
    Return each with its path and the directory that the link leads to, ordered by path.
    """
    found = []
    waiting = [(b"", tree.root)]
    while waiting:
        path, node = waiting.pop()
        for name, child in node.children.items():
            below = under(path, name)
            if child.is_directory:
                target = union.leads_to(below)
                if target is None:
                    waiting.append((below, child))
                else:
                    found.append((below, node, target))
    return [
        (parent.children.pop(path.rpartition(b"/")[2]), path, target)
        for path, parent, target in sorted(found, key=itemgetter(0))
    ]


def inherit(tree: Tree, base: Base, before: frozenset[bytes] = frozenset()) -> frozenset[bytes]:
    """Give directories that `base` also has the base's mode, owner and extended attributes.
    This applies only to those with default attributes: owned by root, mode 0755, no extended
    attributes. Directories in `before` stay as they are. Return the paths of all directories.

    Called before commands run, and again afterwards with the previous result. So a directory
    that commands made, and did not change, also inherits from the base.
    """
    found = set()
    for path, node in tree.entries():
        if not node.is_directory:
            continue
        found.add(path)
        plain = (node.mode, node.uid, node.gid) == (DIRECTORY_MODE, 0, 0) and not node.xattrs
        if plain and path not in before:
            _take_over(node, base.get(path))
    return frozenset(found)


def destination(tree: Tree, base: Base, path: bytes) -> bytes:
    """Return the path of an entry put at `path` once the base's links to directories are
    followed, including one at the last component. Raises RecipeError for a cycle of links.
    """
    return _Union(tree, base).destination(path)


def make_directories(tree: Tree, base: Base, path: bytes, *, origin: bytes = b"") -> list[Node]:
    """Make the directory at `path` and those above it unless they exist, each with the
    base's attributes. Return those made. Raises OccupiedError as `Tree.make_directory`.
    """
    made = []
    node = tree.root
    parts = parts_of(path)
    for depth, part in enumerate(parts, 1):
        found = node.children.get(part)
        if found is None:
            found = node.children[part] = directory(origin=origin)
            _take_over(found, base.get(b"/".join(parts[:depth])))
            made.append(found)
        elif not found.is_directory:
            raise OccupiedError(b"/".join(parts[:depth]), found)
        node = found
    return made


def _take_over(node: Node, entry: BaseEntry | None) -> None:
    if entry is not None and entry.typeflag == DIRECTORY:
        node.mode, node.uid, node.gid = entry.mode, entry.uid, entry.gid
        node.xattrs = dict(entry.xattrs) or None


def _parent(path: bytes) -> bytes:
    return path.rpartition(b"/")[0]


class _Union:
    """The base with the tree above it, in which links are followed."""

    def __init__(self, tree: Tree, base: Base) -> None:
        self._tree = tree
        self._base = base
        self._known: dict[bytes, bytes | None] = {}
        self._followed: list[bytes] = []
        self._steps = 0

    def leads_to(self, path: bytes) -> bytes | None:
        """Return the directory that the base's link at `path` leads to; None if it is not a
        link, or does not lead to a directory. Raises RecipeError for a cycle.
        """
        entry = self._base.get(path)
        if entry is None or entry.typeflag != LINK:
            return None
        return self._follow(path, entry.link)

    def destination(self, path: bytes) -> bytes:
        """See `destination`."""
        at = b""
        rest = parts_of(path)
        while rest:
            at = under(at, rest.pop(0))
            node = self._tree.find(at)
            if node is not None and not node.is_directory:
                break
            target = self.leads_to(at)
            at = at if target is None else target
        return b"/".join([at, *rest])

    def _follow(self, path: bytes, link: bytes) -> bytes | None:
        """Return the directory that the link at `path` leads to, or None."""
        if path in self._known:
            return self._known[path]
        if path in self._followed or len(self._followed) == MAX_LINKS:
            way = b" -> /".join([*self._followed[-3:], path])
            what = "a cycle of links" if path in self._followed else "a chain of too many links"
            raise RecipeError(
                f"/{printable(self._followed[0])}",
                f"is in {what} in the base image: /{printable(way)}",
            )
        self._followed.append(path)
        found = self._walk(b"" if link.startswith(b"/") else _parent(path), link) if link else None
        self._followed.pop()
        self._known[path] = found
        return found

    def _walk(self, start: bytes, link: bytes) -> bytes | None:
        """Return the directory that `link` leads to from the directory `start`, or None."""
        at = start
        for part in link.split(b"/"):
            if part in (b"", b"."):
                continue
            self._steps += 1 + len(at) // 8
            if self._steps > MAX_STEPS:
                raise RecipeError(
                    f"/{printable(at[:80])}", "the path through the base's links is too long"
                )
            if part == b"..":
                at = _parent(at)
                continue
            path = under(at, part)
            node, entry = self._tree.find(path), self._base.get(path)
            found = None
            if node is None or node.is_directory:
                found = self.leads_to(path)
                if found is None and (node or (entry and entry.typeflag == DIRECTORY)):
                    found = path
            elif node.typeflag == LINK:
                found = self._follow(path, node.link)
            if found is None:
                return None
            at = found
        return at


class _Move:
    """Merges directories that were taken out of the tree."""

    def __init__(self, tree: Tree, base: Base, *, first_wins: bool) -> None:
        self._tree = tree
        self._base = base
        self._first_wins = first_wins

    def merge(self, node: Node, path: bytes, target: bytes) -> None:
        """Move the children of `node`, which was at `path`, into the directory `target`."""
        moved = path
        waiting = [(node, path, target)]
        while waiting:
            node, path, target = waiting.pop()
            place = self._directory(target, path, node)
            for name, child in sorted(node.children.items()):
                old, new = under(path, name), under(target, name)
                if child.is_directory:
                    if name not in place.children:
                        place.children[name] = replace(child, children={})
                    waiting.append((child, old, new))
                else:
                    if child.typeflag == LINK:
                        child.link = _retarget(child.link, path, moved)
                    there = place.children.setdefault(name, child)
                    if not _same(there, child) and not self._first_wins:
                        raise _conflict(new, there, old, child)

    def _directory(self, target: bytes, path: bytes, node: Node) -> Node:
        """Return the directory `target` of the tree, made if it does not exist."""
        try:
            make_directories(self._tree, self._base, target, origin=node.origin)
        except OccupiedError as error:
            raise _conflict(error.path, error.node, path, node) from None
        found = self._tree.find(target)
        assert found is not None
        return found


def _retarget(link: bytes, parent: bytes, moved: bytes) -> bytes:
    """Return the new target of a `link` that was in `parent`, after `moved` has moved."""
    depth = parent.count(b"/") - moved.count(b"/")
    if link.startswith(b"/"):
        return link
    for part in link.split(b"/"):
        if part == b"..":
            depth -= 1
        elif part not in (b"", b"."):
            depth += 1
        if depth < 0:
            return b"/" + b"/".join(parts_of(parent + b"/" + link))
    return link


def _same(one: Node, other: Node) -> bool:
    """Return True if two entries that are not directories are interchangeable."""
    if one is other:
        return True
    if one.typeflag == LINK:
        return (one.typeflag, one.link) == (other.typeflag, other.link)
    return one.typeflag == FILE and (one.typeflag, one.mode, one.data, one.source) == (
        other.typeflag, other.mode, other.data, other.source
    )  # fmt: skip


def _conflict(path: bytes, there: Node, old: bytes, node: Node) -> RecipeError:
    def shown(name: bytes, entry: Node) -> str:
        origin = f" (from {printable(entry.origin)})" if entry.origin else ""
        return f"/{printable(name)}{origin}"

    return RecipeError(
        f"/{printable(path)}",
        "two entries end up here through symlinks in the base image, "
        f"{shown(path, there)} and {shown(old, node)}; leave one out",
    )

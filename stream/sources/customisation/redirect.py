"""The tree above a base image: what goes through the base's links, and what a directory
of both is like.

A directory of ours at the path of a link to a directory would take the link's place, and
hide all that the base has there. `redirect` moves what is in it to where the link leads,
in the container: absolute targets begin at the root, `..` ends there. `inherit` keeps the
modes and owners of directories that entries are merely in. Knows the base as a mapping;
not where it comes from.
"""

from __future__ import annotations

from dataclasses import replace
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

MAX_STEPS = 1 << 22  # through links, for all paths; a long way counts more


def redirect(tree: Tree, base: Base, *, first_wins: bool = False) -> None:
    """Move directories of `tree` that are where `base` has a link to a directory into
    that directory, and merge them there; deeper ones as well. Their own modes and owners
    are gone: the directory has its own. Links that lead out of what is moved by `..` are
    made absolute, so that they lead where they did.

    What is no directory takes the place of the base's link; so does a directory where the
    link leads to none. Raises RecipeError for a loop of links, and where two different
    entries would be at one path, unless `first_wins`: then the one that is there stays.
    """
    # A directory that has come to its place can meet a link there, or be what one leads to.
    while moved := _take_out(tree, _Union(tree, base)):
        move = _Move(tree, base, first_wins=first_wins)
        for node, path, target in moved:
            move.merge(node, path, target)


def _take_out(tree: Tree, union: _Union) -> list[tuple[Node, bytes, bytes]]:
    """Take directories out of `tree` that are where the base has links to directories:
    each with its path, and the directory that the link leads to, in the order of paths.
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
    """Give directories that `base` has, too, its mode, owner and extended attributes; but
    only those that say nothing of themselves: root's, of mode 0755, without attributes.
    A directory that is not in `before` is new; the others stay as they are.

    Called before commands run, and after them with what it returned: the directories.
    Then one that commands made, and did not change, is like the base's, too.
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
    """Where something put at `path` belongs: beyond the base's links to directories, the
    last component included. Raises RecipeError for a loop of links.
    """
    return _Union(tree, base).destination(path)


def make_directories(tree: Tree, base: Base, path: bytes, *, origin: bytes = b"") -> list[Node]:
    """Make the directory at `path` and those above it, if they are not there, each as the
    base has it. Returns those made. Raises OccupiedError as `Tree.make_directory`.
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
    """The base with the tree above it, and where links lead there."""

    def __init__(self, tree: Tree, base: Base) -> None:
        self._tree = tree
        self._base = base
        self._known: dict[bytes, bytes | None] = {}
        self._followed: list[bytes] = []
        self._steps = 0

    def leads_to(self, path: bytes) -> bytes | None:
        """The directory that the base's link at `path` leads to; None if that is no link,
        or leads to no directory. Raises RecipeError for a loop.
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
        """The directory that the link at `path` leads to, or None."""
        if path in self._known:
            return self._known[path]
        if path in self._followed or len(self._followed) == MAX_LINKS:
            way = b" -> /".join([*self._followed[-3:], path])
            what = "a loop of links" if path in self._followed else "too many links"
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
        """The directory at the end of `link`, from the directory `start`; or None."""
        at = start
        for part in link.split(b"/"):
            if part in (b"", b"."):
                continue
            self._steps += 1 + len(at) // 8
            if self._steps > MAX_STEPS:
                raise RecipeError(
                    f"/{printable(at[:80])}", "the way through the base's links is too long"
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
        """Put what is in `node`, which was at `path`, into the directory `target`."""
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
                        child.link = _kept(child.link, path, moved)
                    there = place.children.setdefault(name, child)
                    if not _same(there, child) and not self._first_wins:
                        raise _conflict(new, there, old, child)

    def _directory(self, target: bytes, path: bytes, node: Node) -> Node:
        """The directory `target` of the tree."""
        try:
            make_directories(self._tree, self._base, target, origin=node.origin)
        except OccupiedError as error:
            raise _conflict(error.path, error.node, path, node) from None
        found = self._tree.find(target)
        assert found is not None
        return found


def _kept(link: bytes, parent: bytes, moved: bytes) -> bytes:
    """What has to be in a link that was in `parent`, when `moved` goes somewhere else."""
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
    """Whether it does not matter which of two entries that are no directories is there."""
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
        f"the base's links bring two entries here, {shown(path, there)} and {shown(old, node)}:"
        " leave one out",
    )

"""The tree that results from applying layers over each other.

OCI Image Specification, layer.md: whiteouts and opaque directories hide entries of lower
layers; directories are merged, and any other entry replaces the one at its path. As in an
overlay, a symlink from a lower layer is replaced by a directory; one in the same layer is
followed. Memory grows with the number of entries. Knows names and types; must not know
images or content.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence

from stream import faults
from stream.archives.bytesource import ByteSource
from stream.archives.tarreader import Member, read_members
from stream.errors import ArchiveError
from stream.limits import MAX_ENTRIES, MAX_LINKS
from stream.text import printable
from stream.typeflags import DIRECTORY, HARD_LINK, LINK
from stream.values import dataclass, field

MAX_LISTED = 1 << 28  # bytes of names, link targets and directories' records
MAX_IMPLIED = 1 << 26  # bytes of the paths of directories without an entry
MAX_STEPS = 1 << 26  # path components visited while symlinks are resolved, for all names

WHITEOUT, OPAQUE = faults.WHITEOUT.encode(), b".wh..wh..opq"
_AUFS = b".wh..wh."  # reserved by aufs, an old storage driver of Docker


class Budget:
    """The memory that the listings of all layers may use together."""

    def __init__(self) -> None:
        self._entries = 0
        self._bytes = 0

    def take(self, member: Member, where: str) -> None:
        """Count an entry of the layer `where`. Raises ArchiveError beyond the limits."""
        self._entries += 1
        self._bytes += len(member.name) + len(member.link)
        self._bytes += sum(map(len, member.pax.values())) if member.typeflag == DIRECTORY else 0
        if self._entries > MAX_ENTRIES or self._bytes > MAX_LISTED:
            raise ArchiveError(
                where, f"more than {MAX_ENTRIES} entries, or {MAX_LISTED} bytes of names"
            )


@dataclass(slots=True)
class Listing:
    """The entries of a layer: their names, typeflags and link targets, in order.
    `directories` are the directories among them, by index in `entries`.
    """

    entries: list[tuple[bytes, bytes, bytes]] = field(default_factory=list)
    directories: dict[int, Member] = field(default_factory=dict)

    def add(self, member: Member) -> None:
        """Append an entry."""
        if member.typeflag == DIRECTORY:
            member.header = b""  # no longer needed
            self.directories[len(self.entries)] = member
        self.entries.append((member.name, member.typeflag, member.link))


def make_lister() -> Callable[[ByteSource], Listing]:
    """Return a function that lists the entries of a layer, for opening an archive with. Its
    memory is bounded for all layers together.
    """
    budget = Budget()
    return lambda content: list_members(read_members(content), content.name, budget)


def list_members(members: Iterable[Member], name: str, budget: Budget) -> Listing:
    """Return the entries of one layer. `name` is for errors. Raises ArchiveError."""
    listing = Listing()
    for member in members:
        budget.take(member, name)
        listing.add(member)
    return listing


# An entry that is not a directory: the number of its layer, and its index in the layer.
# A hard link is the entry that it points to.
Leaf = tuple[int, int]


@dataclass(slots=True)
class Directory:
    """A directory of the tree. `member` is its entry, or None if it has none."""

    children: dict[bytes, Directory | Leaf] = field(default_factory=dict)
    member: Member | None = None


def parts_of(name: bytes) -> list[bytes]:
    """Return the components of `name`, a path from the root."""
    return [part for part in name.split(b"/") if part not in (b"", b".")]


def flatten(layers: Iterable[tuple[int, Listing, str]]) -> Directory:
    """Return the root of the tree of `layers`, from bottom to top. A layer is a number, its
    entries, and a name for errors; one that occurs twice has the same number both times.
    Raises ArchiveError for entries that cannot be extracted.
    """
    tree = _Tree()
    for number, listing, name in layers:
        tree.add(number, listing, name)
    return tree.root


class _Tree:
    def __init__(self) -> None:
        self.root = Directory()
        self._where = ""
        self._count = 0
        self._implied = 0
        self._steps = 0
        self._number = 0
        self._listing = Listing()

    def add(self, number: int, listing: Listing, name: str) -> None:
        self._number, self._listing, self._where = number, listing, name
        # Whiteouts hide lower layers only, wherever they are in their own layer.
        for path, _, _ in listing.entries:
            parts = self._parts(path)
            if parts and parts[-1].startswith(WHITEOUT):
                self._hide(parts)
        for index, entry in enumerate(listing.entries):
            parts = parts_of(entry[0])
            if not parts:
                self.root.member = listing.directories.get(index, self.root.member)
            elif not parts[-1].startswith(WHITEOUT) and not _is_aufs(parts):
                self._put(parts, index, entry)

    def _error(self, name: bytes, reason: str) -> ArchiveError:
        return ArchiveError(self._where, f"{printable(name)}: {reason}")

    def _parts(self, name: bytes) -> list[bytes]:
        self._count += 1
        if self._count > MAX_ENTRIES:
            raise ArchiveError(self._where, f"more than {MAX_ENTRIES} entries")
        parts = parts_of(name)
        if b".." in parts:
            raise self._error(name, "is outside the root")
        return parts

    def _hide(self, parts: list[bytes]) -> None:
        if _is_aufs(parts) and parts[-1] != OPAQUE:
            return
        directory: Directory | Leaf | None = self.root
        for part in parts[:-1]:
            directory = directory.children.get(part) if isinstance(directory, Directory) else None
        if isinstance(directory, Directory):
            if parts[-1] == OPAQUE:
                directory.children.clear()
            else:
                directory.children.pop(parts[-1].removeprefix(WHITEOUT), None)

    def _put(self, parts: list[bytes], index: int, entry: tuple[bytes, bytes, bytes]) -> None:
        name, kind, link = entry
        children = self._parent(parts[:-1], name).children
        if kind == DIRECTORY:
            child = children.get(parts[-1])
            if not isinstance(child, Directory):
                child = children[parts[-1]] = Directory()
            child.member = self._listing.directories[index]
        elif kind == HARD_LINK:
            children[parts[-1]] = self._resolve_hard_link(name, link)
        else:
            children[parts[-1]] = (self._number, index)

    def _resolve_hard_link(self, name: bytes, link: bytes) -> Leaf:
        """Return the entry that the hard link `name` points to."""
        target: Directory | Leaf | None = None
        if parts := self._parts(link):
            target = self._parent(parts[:-1], name).children.get(parts[-1])
        if not isinstance(target, tuple):
            what = "which does not exist (yet)" if target is None else "a directory"
            raise self._error(name, f"hard link to {printable(link)}, {what}")
        return target

    def _parent(self, parts: list[bytes], name: bytes) -> Directory:
        """Return the directory at the path `parts`; create it and its parents if missing."""
        directory = self.root
        for depth, part in enumerate(parts):
            child = directory.children.get(part)
            if not isinstance(child, Directory):
                if child is not None and child[0] == self._number:
                    return self._through_link(parts, depth, child[1], name)
                child = directory.children[part] = Directory()
                self._count += 1
                # One name can imply thousands of directories with paths of thousands of bytes.
                self._implied += sum(map(len, parts[: depth + 1])) + depth
                if self._implied > MAX_IMPLIED:
                    raise self._error(name[:80], "too many directories without an entry")
            directory = child
        return directory

    def _through_link(self, parts: list[bytes], depth: int, index: int, name: bytes) -> Directory:
        """Do the same if `parts[depth]` is an entry of this layer, which must be a symlink."""
        followed = 0
        path, rest = parts[:depth], parts[depth:]
        while True:
            _, kind, link = self._listing.entries[index]
            followed += 1
            if kind != LINK or followed > MAX_LINKS:
                what = "which is not a directory" if kind != LINK else "a symlink loop"
                raise self._error(name, f"is in {printable(b'/'.join([*path, rest[0]]))}, {what}")
            rest = [*parts_of(link), *rest[1:]]
            if link.startswith(b"/"):
                path = []
            while rest:
                self._steps += len(path) + len(rest)
                if self._steps > MAX_STEPS:
                    raise self._error(name[:80], "takes too many steps through symlinks")
                if rest[0] == b"..":
                    path, rest = path[:-1], rest[1:]
                    continue
                child = self._parent(path, name).children.get(rest[0])
                if isinstance(child, tuple) and child[0] == self._number:
                    index = child[1]
                    break
                path, rest = [*path, rest[0]], rest[1:]
            else:
                return self._parent(path, name)


def _is_aufs(parts: Sequence[bytes]) -> bool:
    return any(part.startswith(_AUFS) for part in parts)


@dataclass(slots=True)
class VisibleEntries:
    """The entries that remain visible. `directories` are by path, parents first; `leaves`
    has the paths of each entry that is not a directory. `hollow` lists the directories
    without a leaf below them, by parent directory.
    """

    root: Member | None
    directories: dict[bytes, Member | None]
    leaves: dict[int, dict[int, list[bytes]]]  # by the numbers of layer and entry
    hollow: dict[bytes, list[bytes]]


def collect_entries(root: Directory) -> VisibleEntries:
    """Return the entries of the tree `root`, which is emptied to save memory."""
    found = VisibleEntries(root.member, {}, {}, {})
    filled: set[bytes] = set()
    waiting: list[tuple[bytes, Directory]] = [(b"", root)]
    while waiting:
        prefix, directory = waiting.pop()
        below = []
        leaves = False
        for name, child in _take_children(directory.children):
            path = prefix + name
            if isinstance(child, Directory):
                found.directories[path] = child.member
                below.append((path + b"/", child))
            else:
                found.leaves.setdefault(child[0], {}).setdefault(child[1], []).append(path)
                leaves = True
        waiting += reversed(below)
        path = prefix[:-1]
        while leaves and path not in filled:
            filled.add(path)
            path = path.rpartition(b"/")[0]
    for path in found.directories:
        if path not in filled:
            found.hollow.setdefault(path.rpartition(b"/")[0], []).append(path)
    return found


def _take_children(
    children: dict[bytes, Directory | Leaf],
) -> Iterator[tuple[bytes, Directory | Leaf]]:
    yield from children.items()
    children.clear()

"""Layers as one tree: what is left of each when all lie over each other.

OCI Image Specification, layer.md: whiteouts and opaque directories hide what lower
layers have; directories are merged, and whatever else comes takes the place of what is
there. As in an overlay, a link to a directory in a lower layer gives way to a directory;
one in the same layer is followed. Memory grows with the number of entries. Knows names
and types; neither images nor content.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field

from stream.archives.bytesource import ByteSource
from stream.archives.tarreader import Member, read_members
from stream.errors import ArchiveError
from stream.limits import MAX_ENTRIES, MAX_LINKS
from stream.text import printable
from stream.typeflags import DIRECTORY, HARD_LINK, LINK

MAX_LISTED = 1 << 28  # bytes of names, link targets and directories' records
MAX_IMPLIED = 1 << 26  # bytes of the names of directories that have no entry
MAX_STEPS = 1 << 26  # through links, for all names

WHITEOUT, OPAQUE = b".wh.", b".wh..wh..opq"
_AUFS = b".wh..wh."  # what one of docker's old storage drivers kept for itself


class Budget:
    """What the listings of all layers may take together. Raises ArchiveError."""

    def __init__(self) -> None:
        self._entries = 0
        self._bytes = 0

    def take(self, member: Member, where: str) -> None:
        """Count an entry of the layer `where`."""
        self._entries += 1
        self._bytes += len(member.name) + len(member.link)
        self._bytes += sum(map(len, member.pax.values())) if member.typeflag == DIRECTORY else 0
        if self._entries > MAX_ENTRIES or self._bytes > MAX_LISTED:
            raise ArchiveError(
                where, f"more than {MAX_ENTRIES} entries, or {MAX_LISTED} bytes of names"
            )


@dataclass(slots=True)
class Listing:
    """A layer's entries: `entries` are names, types and link targets, in order;
    `directories` are those of them that are such, by their number.
    """

    entries: list[tuple[bytes, bytes, bytes]] = field(default_factory=list)
    directories: dict[int, Member] = field(default_factory=dict)

    def add(self, member: Member) -> None:
        """Append an entry."""
        if member.typeflag == DIRECTORY:
            member.header = b""  # of no use any more
            self.directories[len(self.entries)] = member
        self.entries.append((member.name, member.typeflag, member.link))


def lister() -> Callable[[ByteSource], Listing]:
    """What to open an archive with: lists what is needed of each layer's entries before
    any is written, in bounded memory for all of them.
    """
    budget = Budget()
    return lambda content: listed(read_members(content), content.name, budget)


def listed(members: Iterable[Member], name: str, budget: Budget) -> Listing:
    """The entries of one layer, which `name` stands for in messages."""
    listing = Listing()
    for member in members:
        budget.take(member, name)
        listing.add(member)
    return listing


# An entry that is no directory: the number of its layer, and its own in the layer.
# Hard links are the entry that they lead to.
Leaf = tuple[int, int]


@dataclass(slots=True)
class Directory:
    """A directory of the tree. `member` is the entry that describes it, if one does."""

    children: dict[bytes, Directory | Leaf] = field(default_factory=dict)
    member: Member | None = None


def parts_of(name: bytes) -> list[bytes]:
    """The components of a path from the root."""
    return [part for part in name.split(b"/") if part not in (b"", b".")]


def flatten(layers: Iterable[tuple[int, Listing, str]]) -> Directory:
    """The tree of `layers`, bottom to top: each a number, entries, and a name for
    errors. One that comes twice has the same number twice. Raises ArchiveError for
    entries that cannot be.
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
        # Wherever they stand in the layer, they hide what is below it.
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
            raise self._error(name, "a name that leaves the root")
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
            children[parts[-1]] = self._linked(name, link)
        else:
            children[parts[-1]] = (self._number, index)

    def _linked(self, name: bytes, link: bytes) -> Leaf:
        """The entry that a hard link leads to."""
        target: Directory | Leaf | None = None
        if parts := self._parts(link):
            target = self._parent(parts[:-1], name).children.get(parts[-1])
        if not isinstance(target, tuple):
            what = "which is not there (yet)" if target is None else "a directory"
            raise self._error(name, f"a hard link to {printable(link)}, {what}")
        return target

    def _parent(self, parts: list[bytes], name: bytes) -> Directory:
        """The directory that `parts` lead to; those that are missing are made."""
        directory = self.root
        for depth, part in enumerate(parts):
            child = directory.children.get(part)
            if not isinstance(child, Directory):
                if child is not None and child[0] == self._number:
                    return self._through_link(parts, depth, child[1], name)
                child = directory.children[part] = Directory()
                self._count += 1
                # One name can ask for thousands, each with a name of thousands of bytes.
                self._implied += sum(map(len, parts[: depth + 1])) + depth
                if self._implied > MAX_IMPLIED:
                    raise self._error(name[:80], "too many directories without an entry")
            directory = child
        return directory

    def _through_link(self, parts: list[bytes], depth: int, index: int, name: bytes) -> Directory:
        """The same where `parts[depth]` is an entry of this layer: a symbolic link."""
        followed = 0
        path, rest = parts[:depth], parts[depth:]
        while True:
            _, kind, link = self._listing.entries[index]
            followed += 1
            if kind != LINK or followed > MAX_LINKS:
                what = "which is no directory" if kind != LINK else "a loop of links"
                raise self._error(name, f"is in {printable(b'/'.join([*path, rest[0]]))}, {what}")
            rest = [*parts_of(link), *rest[1:]]
            if link.startswith(b"/"):
                path = []
            while rest:
                self._steps += len(path) + len(rest)
                if self._steps > MAX_STEPS:
                    raise self._error(name[:80], "the way through links is too long")
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
class Remains:
    """What is left of the layers. `directories` are all, by path, parents first;
    `leaves` have all paths of each entry that is no directory and that is left. `hollow`
    are the directories below which is no leaf, by the directory that they are in.
    """

    root: Member | None
    directories: dict[bytes, Member | None]
    leaves: dict[int, dict[int, list[bytes]]]  # by the numbers of layer and entry
    hollow: dict[bytes, list[bytes]]


def remains(root: Directory) -> Remains:
    """What `root` holds. Takes the tree apart."""
    found = Remains(root.member, {}, {}, {})
    filled: set[bytes] = set()
    waiting: list[tuple[bytes, Directory]] = [(b"", root)]
    while waiting:
        prefix, directory = waiting.pop()
        below = []
        leaves = False
        for name, child in _taken(directory.children):
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


def _taken(children: dict[bytes, Directory | Leaf]) -> Iterator[tuple[bytes, Directory | Leaf]]:
    yield from children.items()
    children.clear()

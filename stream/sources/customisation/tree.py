"""A file system tree in memory: the contents of the customisation layer.

Paths are bytes without a leading `/`; the root is `b""`. Knows neither where nodes come
from nor how they are written.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import NamedTuple, Self

from stream.typeflags import DIRECTORY, FILE, LINK
from stream.values import dataclass, field

# Typeflags of POSIX.1-2008, pax, "ustar Interchange Format".

DIRECTORY_MODE = 0o755


class Identity(NamedTuple):
    """The state of a file on disk that must not change until it is read; times in ns. Without
    `ctime_ns`, nobody but us can write to the file.
    """

    device: int
    inode: int
    size: int
    mtime_ns: int
    ctime_ns: int | None = None
    links: int = 1

    @classmethod
    def of(cls, status: os.stat_result) -> Self:
        """Return the identity of the file with this status."""
        return cls(
            status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns,
            status.st_nlink,
        )  # fmt: skip

    def holds(self, status: os.stat_result) -> bool:
        """Return True if a file with this status is still the same, with the same content. A
        new ctime alone counts as new content, as the modification time can be put back; one
        that a change of the number of links explains does not.
        """
        now = Identity.of(status)
        if now[:4] != self[:4]:
            return False
        return self.ctime_ns in (None, now.ctime_ns) or now.links != self.links


@dataclass(slots=True, kw_only=True)
class Node:
    """A file, directory, link or device.

    A file's content is `data`, or that of the file at `source`, whose `identity` must still
    hold when it is read; `head` replaces its first bytes. `link` is a
    link's target, `device` a device's major and minor number, `xattrs` extended attributes by
    name, `children` a directory's entries by name. `mtime_ns` is the modification time on disk
    while commands run, unless that is the layer's. `origin` says in messages where the node
    comes from. A file that is at several paths is a hard link.
    """

    typeflag: bytes
    mode: int
    uid: int = 0
    gid: int = 0
    size: int = 0
    data: bytes | None = None
    source: bytes = b""
    identity: Identity | None = None
    head: bytes = b""
    link: bytes = b""
    device: tuple[int, int] = (0, 0)
    xattrs: dict[bytes, bytes] | None = None
    children: dict[bytes, Node] = field(default_factory=dict)
    mtime_ns: int | None = None
    origin: bytes = b""

    @property
    def is_directory(self) -> bool:
        """True for a directory, which may have children."""
        return self.typeflag == DIRECTORY


def directory(mode: int = DIRECTORY_MODE, *, origin: bytes = b"") -> Node:
    """Return an empty directory owned by root."""
    return Node(typeflag=DIRECTORY, mode=mode, origin=origin)


def link(target: bytes, *, origin: bytes = b"") -> Node:
    """Return a symbolic link."""
    return Node(typeflag=LINK, mode=0o777, link=target, origin=origin)


def file(data: bytes, mode: int = 0o644, *, origin: bytes = b"") -> Node:
    """Return a small file with its content."""
    return Node(typeflag=FILE, mode=mode, size=len(data), data=data, origin=origin)


def parts_of(path: bytes) -> list[bytes]:
    """Return the components of `path`, absolute or not, with `.` and `..` resolved. As in a
    file system, `..` of the root is the root.
    """
    parts: list[bytes] = []
    for part in path.split(b"/"):
        if part == b"..":
            del parts[-1:]
        elif part not in (b"", b"."):
            parts.append(part)
    return parts


def under(path: bytes, name: bytes) -> bytes:
    """Return the path of `name` in the directory `path`."""
    return path + b"/" + name if path else name


class OccupiedError(Exception):
    """Another entry, `node`, is at `path` already."""

    def __init__(self, path: bytes, node: Node) -> None:
        self.path = path
        self.node = node
        super().__init__(path, node)


class Tree:
    """A tree with its root directory. `hidden` are the paths that are hidden below it; the
    directories above them are in the tree.
    """

    def __init__(self) -> None:
        self.root = directory()
        self.hidden: frozenset[bytes] = frozenset()

    def find(self, path: bytes) -> Node | None:
        """Return the node at `path`, or None. Does not follow links."""
        node = self.root
        for part in parts_of(path):
            found = node.children.get(part)
            if found is None:
                return None
            node = found
        return node

    def make_directory(self, path: bytes, *, origin: bytes = b"") -> Node:
        """Return the directory at `path`; it and those above it are made if necessary.
        Raises OccupiedError if one of them is not a directory.
        """
        node = self.root
        parts = parts_of(path)
        for depth, part in enumerate(parts):
            found = node.children.get(part)
            if found is None:
                found = node.children[part] = directory(origin=origin)
            elif not found.is_directory:
                raise OccupiedError(b"/".join(parts[: depth + 1]), found)
            node = found
        return node

    def put(self, path: bytes, node: Node) -> None:
        """Put `node` at `path`, which is not the root, and make the directories above it.
        Raises OccupiedError if another entry is there.
        """
        *above, name = parts_of(path)
        parent = self.make_directory(b"/".join(above), origin=node.origin)
        if name in parent.children:
            raise OccupiedError(b"/".join([*above, name]), parent.children[name])
        parent.children[name] = node

    def entries(self) -> Iterator[tuple[bytes, Node]]:
        """Yield all nodes with their paths, the root first: parents before children, names in
        byte order.
        """
        waiting = [(b"", self.root)]
        while waiting:
            path, node = waiting.pop()
            yield path, node
            waiting += (
                (under(path, name), node.children[name])
                for name in sorted(node.children, reverse=True)
            )

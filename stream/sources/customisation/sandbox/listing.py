"""The tree that commands left on disk, read back.

Types, sizes, links and names are those on disk, whatever was reported: a report comes from
where commands run. Only what the disk does not have is taken from it. Knows neither commands
nor how they ran; nothing runs in the tree any more.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import suppress

from stream.errors import CommandsError
from stream.sources.customisation.sandbox.report import Metadata
from stream.sources.customisation.tree import Identity, Node, Tree
from stream.text import printable
from stream.typeflags import BLOCK_DEVICE, CHARACTER_DEVICE, DIRECTORY, FIFO, FILE, LINK
from stream.values import dataclass

MAX_PATH = 4095  # Linux's PATH_MAX, without the NUL

_TYPES = {
    stat.S_IFREG: FILE,
    stat.S_IFDIR: DIRECTORY,
    stat.S_IFLNK: LINK,
    stat.S_IFIFO: FIFO,
}
_DEVICES = {stat.S_IFCHR: CHARACTER_DEVICE, stat.S_IFBLK: BLOCK_DEVICE}
FORMATS = {typeflag: form for form, typeflag in (_TYPES | _DEVICES).items()}
_OWNER_READS = {DIRECTORY: 0o500, FILE: 0o400}

Inode = tuple[int, int]  # with its device first


def unreadable_mode(node: Node) -> int:
    """Return the permissions that the owner of the file lacks to read it."""
    return ~node.mode & _OWNER_READS.get(node.typeflag, 0)


@dataclass(frozen=True, slots=True, kw_only=True)
class Listing:
    """How to list what the commands `which` left.

    `metadata` is what fakeroot knows, if they ran under it; otherwise `hidden` has the attributes
    that were not on disk when they started. `omitted` are paths left out, `mount_points`
    directories and files that were made for mounts, left out unless something was put there.
    With `hard_links`, a file at several paths is one node.
    `socket` is called with the path of each socket: layers cannot hold them.
    """

    which: str
    metadata: Mapping[bytes, Metadata] | None
    hidden: Mapping[Inode, Node]
    omitted: Collection[bytes]
    mount_points: Collection[Inode]
    hard_links: bool
    socket: Callable[[bytes], None]

    def list(self, top: bytes) -> Tree:
        """Return the tree on disk at `top`. Files that their owner cannot read are made readable
        on disk. Raises CommandsError.
        """
        made = Tree()
        directories = {b"": made.root}
        points = []
        linked: dict[Inode, Node] = {}
        for path, found in self._walk(top):
            inode = found.st_dev, found.st_ino
            node = linked.get(inode) or self._node(top, path, found)
            if node is None:
                self.socket(path)
                continue
            above, _, name = path.rpartition(b"/")
            if not path:
                made.root = node
            else:
                directories[above].children[name] = node
            if node.is_directory:
                directories[path] = node
            elif self.hard_links and node.typeflag == FILE and found.st_nlink > 1:
                linked[inode] = node
            if inode in self.mount_points:
                points.append((directories[above], name))
        for parent, name in reversed(points):
            point = parent.children[name]
            if not point.children and not point.size:
                del parent.children[name]
        return made

    def _node(self, top: bytes, path: bytes, found: os.stat_result) -> Node | None:
        """Return the node of an entry; None for a socket."""
        form = stat.S_IFMT(found.st_mode)
        typeflag = _TYPES.get(form) or _DEVICES.get(form)
        if typeflag is None:
            return None
        place = top + b"/" + path
        node = Node(typeflag=typeflag, mode=stat.S_IMODE(found.st_mode), origin=self.which.encode())
        if typeflag == LINK:
            node.link = os.readlink(place)
        if form in _DEVICES:  # anybody can make 0:0, the whiteout of an overlay
            node.device = os.major(found.st_rdev), os.minor(found.st_rdev)
        if self.metadata is None:
            node.xattrs = _user_xattrs(place) or None
            if before := self.hidden.get((found.st_dev, found.st_ino)):
                _unhide(node, before)
        elif reported := self.metadata.get(path):
            _apply(node, reported)
        else:
            raise CommandsError(self.which, f"/{printable(path)}: fakeroot does not know it")
        if node.typeflag == FILE:
            node.size = found.st_size
            node.source = place
            node.identity = Identity(found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns)
        return node

    def _walk(self, top: bytes) -> Iterator[tuple[bytes, os.stat_result]]:
        """Yield all paths below `top` with their status, parents first."""
        waiting = [b""]
        while waiting:
            path = waiting.pop()
            place = top + b"/" + path if path else top
            if len(place) > MAX_PATH:
                start = printable(path[:60])
                raise CommandsError(
                    self.which, f"made a path of more than {MAX_PATH} bytes: /{start}…"
                )
            found = self._status(path, place)
            is_directory = stat.S_ISDIR(found.st_mode)
            if is_directory or stat.S_ISREG(found.st_mode):
                needed = _OWNER_READS[DIRECTORY if is_directory else FILE]
                if found.st_mode & needed != needed:
                    os.chmod(place, stat.S_IMODE(found.st_mode) | needed)
            yield path, found
            if is_directory:
                above = path + b"/" if path else b""
                names = (above + name for name in os.listdir(place))
                waiting += (name for name in names if name not in self.omitted)

    def _status(self, path: bytes, place: bytes) -> os.stat_result:
        if path:
            return os.lstat(place)
        try:
            found = os.lstat(place)
        except FileNotFoundError:
            raise CommandsError(self.which, "removed the directory that they ran in") from None
        if not stat.S_ISDIR(found.st_mode):
            wrong = "replaced the directory that they ran in by another file"
            raise CommandsError(self.which, wrong)
        return found


def _user_xattrs(path: bytes) -> dict[bytes, bytes]:
    """Return the attributes in the `user.` namespace, as others are the system's."""
    found = {}
    with suppress(OSError):
        for name in map(os.fsencode, os.listxattr(path, follow_symlinks=False)):
            if name.startswith(b"user."):
                found[name] = os.getxattr(path, name, follow_symlinks=False)
    return found


def _apply(node: Node, reported: Metadata) -> None:
    node.uid, node.gid = reported.uid, reported.gid
    if node.typeflag != LINK:
        node.mode = stat.S_IMODE(reported.mode)
        node.xattrs = reported.xattrs or None
    device = _DEVICES.get(stat.S_IFMT(reported.mode))
    if device is not None and node.typeflag == FILE:
        node.typeflag, node.device = device, reported.device


def _unhide(node: Node, before: Node) -> None:
    """Give `node` the attributes of `before`, the same file, that are not on disk."""
    if before.typeflag in (CHARACTER_DEVICE, BLOCK_DEVICE) and node.typeflag == FILE:
        node.typeflag, node.device = before.typeflag, before.device
    node.uid, node.gid = before.uid, before.gid
    node.mode |= before.mode
    node.xattrs = {**(before.xattrs or {}), **(node.xattrs or {})} or None

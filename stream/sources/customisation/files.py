"""Files and directories of this machine, or given as text, as nodes of a tree.

Only what a checkout has everywhere counts: names, contents, links and whether a file may be executed.
Not so owners, times, extended attributes, the umask that a file was made under, and the order in
which a directory lists its entries. No link is followed but the one that is named. Knows nothing of
the tree that the nodes are put into.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Callable, Iterator
from operator import attrgetter

from stream.errors import RecipeError, SourceError
from stream.model import PlacedFile
from stream.nix.store_root import Disk
from stream.schema.exclusions import Exclusions
from stream.sources.customisation.tree import Identity, Node, directory, file, link, under
from stream.text import printable
from stream.typeflags import FILE
from stream.values import dataclass

PLAIN_MODE, PROGRAM_MODE = 0o644, 0o755
REPOSITORY = b".git"  # holds times and absolute paths, so that no two checkouts have the same

_NAME = attrgetter("name")


def make_node(item: PlacedFile, disk: Disk, warn: Callable[[str], None]) -> Node:
    """Return the node of `item`, with everything below it. `warn` is called with a line for a
    person. Raises SourceError for what cannot be read or is of a type that layers do not hold, and
    RecipeError for a mode that a directory cannot have.
    """
    if not item.source:
        node = file((item.text or "").encode(), PLAIN_MODE, origin=b"text in files")
    else:
        try:
            node = _node_on_disk(item, disk, warn)
        except OSError as error:
            if isinstance(error, SourceError):
                raise
            path = os.fsencode(error.filename or item.source)
            raise SourceError.unreadable(path, error) from error
    if item.mode is not None:
        if node.is_directory:
            raise RecipeError(
                printable(item.path),
                "mode is that of a single file, and this is a directory; use perms",
            )
        node.mode = item.mode
    for one in _nodes(node):
        one.uid, one.gid = item.uid or 0, item.gid or 0
    return node


def _nodes(node: Node) -> Iterator[Node]:
    """Yield `node` and all that is below it."""
    waiting = [node]
    while waiting:
        node = waiting.pop()
        yield node
        waiting += node.children.values()


def _node_on_disk(item: PlacedFile, disk: Disk, warn: Callable[[str], None]) -> Node:
    if disk.is_split(item.source):
        raise SourceError(
            item.source, "holds the store directory, whose files are elsewhere; use store paths"
        )
    on_disk = disk.follow(item.source)
    status = os.stat(on_disk)
    if stat.S_ISDIR(status.st_mode):
        return _Walk(item, warn).walk(on_disk)
    if not stat.S_ISREG(status.st_mode):
        raise SourceError(item.source, "is neither a file nor a directory")
    if item.exclude:
        raise RecipeError(
            printable(item.path), "exclude applies to a directory, and this is a file; remove it"
        )
    return _file(os.path.realpath(on_disk), status, item.source)


def _file(path: bytes, status: os.stat_result, origin: bytes) -> Node:
    if not os.access(path, os.R_OK):
        raise SourceError(path, "cannot be read: Permission denied; change its mode or exclude it")
    return Node(
        typeflag=FILE,
        mode=PROGRAM_MODE if status.st_mode & stat.S_IXUSR else PLAIN_MODE,
        size=status.st_size,
        source=path,
        identity=Identity.of(status),
        origin=origin,
    )


@dataclass(slots=True, kw_only=True)
class _Found:
    """A directory in which entries were found: its node, its name in `parent`, and whether any of
    its entries was left out.
    """

    node: Node
    parent: _Found | None
    name: bytes
    lacks: bool = False


class _Walk:
    def __init__(self, item: PlacedFile, warn: Callable[[str], None]) -> None:
        self._origin = item.source
        self._exclusions = Exclusions(item.exclude) if item.exclude else None
        self._warn = warn

    def walk(self, on_disk: bytes) -> Node:
        """Return the directory at `on_disk` with what is in it. Raises OSError."""
        root = _Found(node=directory(origin=self._origin), parent=None, name=b"")
        found = [root]
        waiting = [(root, b"", on_disk)]
        while waiting:
            place, path, on_disk = waiting.pop()
            with os.scandir(on_disk) as scan:
                entries = sorted(scan, key=_NAME)  # any machine reports the same fault first
            for entry in entries:
                below = under(path, entry.name)
                if self._is_excluded(entry, below):
                    place.lacks = True
                    continue
                node = place.node.children[entry.name] = self._node(entry)
                if node.is_directory:
                    found.append(_Found(node=node, parent=place, name=entry.name))
                    waiting.append((found[-1], below, entry.path))
                if entry.name == REPOSITORY:
                    self._warn(
                        f"{printable(entry.path)}: a git repository is put into the image, and no two"
                        ' checkouts have the same one; exclude it with "exclude": [".git"]'
                    )
        # As in a checkout, nothing is left of a directory if everything in it is left out.
        for place in reversed(found):
            if place.lacks and not place.node.children and place.parent is not None:
                del place.parent.node.children[place.name]
                place.parent.lacks = True
        return root.node

    def _is_excluded(self, entry: os.DirEntry[bytes], path: bytes) -> bool:
        if self._exclusions is None:
            return False
        return self._exclusions.match(path, is_directory=entry.is_dir(follow_symlinks=False))

    def _node(self, entry: os.DirEntry[bytes]) -> Node:
        if entry.is_dir(follow_symlinks=False):
            return directory(origin=self._origin)
        if entry.is_symlink():
            return link(os.readlink(entry.path), origin=self._origin)
        if not entry.is_file(follow_symlinks=False):
            raise SourceError(
                entry.path, "is neither a file, a directory nor a link; exclude or remove it"
            )
        return _file(entry.path, entry.stat(follow_symlinks=False), self._origin)

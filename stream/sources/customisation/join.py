"""Contents laid into one tree: linked, as nixpkgs' `symlinkJoin` does, or copied, as what
`dockerTools` copies to the root.

Owns what happens where contents meet at a path. Knows nothing of layers, and not what
becomes of the tree.

A link to a directory is followed no further than to what stands beside its content, as in
a store: `/run` in a content means the image's, not this machine's.
"""

from __future__ import annotations

import io
import os
import stat
from collections.abc import Container, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from operator import attrgetter
from typing import BinaryIO, NamedTuple, TypeGuard

from stream.errors import ContentConflict, SourceError
from stream.limits import MAX_LINKS
from stream.model import Builtin, Recipe
from stream.nix.store_root import Disk
from stream.sources.customisation import builtin as builtins
from stream.sources.customisation.tree import (
    DIRECTORY_MODE,
    Node,
    Tree,
    directory,
    link,
    parts_of,
    under,
)
from stream.text import printable
from stream.typeflags import DIRECTORY, FILE, LINK

# Links to directories can double what is reached with each step, and no path is a loop.
MAX_AGAIN = 300_000

CHUNK = 1 << 20

_NAME = attrgetter("name")


def make_tree(recipe: Recipe, *, present: Container[bytes] = (), disk: Disk | None = None) -> Tree:
    """The tree of `recipe`'s contents and of what it copies to the root. They are on `disk`,
    or, without it, where their paths say.

    Contents: directories are merged, a file becomes a link to its absolute path, a link is
    made again with its own text. Where a link to a directory meets another directory, the
    two are merged.

    Copies, as of `rsync -ak`: with their modes, owned by root; a link to a directory becomes
    a directory. With `keep_dirlinks`, as of `rsync -aK`, it stays, and a directory that meets
    one in the tree goes where it leads. A directory's mode is that of the last content which
    has it; the root's stays.

    shadowSetup comes last and adds only what is missing: not there, and not in the base
    image, whose paths are `present`.

    Raises SourceError for what cannot be read or linked, RecipeError for what is built in
    and cannot be made, and ContentConflict if contents disagree about a file, unless
    `first_wins`. Files of the same bytes and mode agree.
    """
    tree = Tree()
    joiner = _Joiner(tree, disk or Disk(), first_wins=recipe.first_wins)
    last: list[Builtin] = []
    for copied, contents in ((False, recipe.contents), (True, recipe.copy_to_root)):
        joiner.copied, joiner.keep_dirlinks = copied, copied and recipe.keep_dirlinks
        for content in contents:
            if isinstance(content, bytes):
                joiner.add(content)
            elif content.name == builtins.SHADOW_SETUP:
                last.append(content)
            else:
                joiner.add_builtin(content)
    joiner.copied, joiner.first_wins = False, True
    for builtin in last:
        joiner.add_builtin(builtin, present)
    return tree


@dataclass(slots=True, kw_only=True)
class _FoundLink(Node):
    """A link made again, with the path at which it was found in its content."""

    found: bytes


class _File(NamedTuple):
    """A file to be compared: at `path` with its device and inode, or only `data`."""

    mode: int
    size: int
    path: bytes = b""
    inode: tuple[int, int] | None = None
    data: bytes = b""

    def open(self) -> BinaryIO:
        """Its content."""
        return open(self.path, "rb") if self.path else io.BytesIO(self.data)


class _Joiner:
    """Lays contents into a tree, one after the other.

    The origin of a node is the absolute path of its content. Paths are the image's; what
    is opened is where `disk` has them.
    """

    def __init__(self, tree: Tree, disk: Disk, *, first_wins: bool) -> None:
        self._tree = tree
        self._disk = disk.remembering()
        self.first_wins = first_wins
        self.copied = self.keep_dirlinks = False
        self._followed: set[tuple[int, int]] = set()  # directories, by device and inode
        self._joined: set[tuple[bytes, int, int]] = set()  # the same, each where it was laid
        self._again = 0  # their entries, but for the first time
        self._alike: dict[bytes, list[_FoundLink]] = {}  # by path, links of the text that is there
        self._real_paths: dict[bytes, bytes] = {}  # of directories that have links

    def add(self, content: bytes) -> None:
        """Lay the directory `content` into the tree."""
        origin = os.path.abspath(content)
        with _reading(origin):
            if not stat.S_ISDIR(os.stat(self._disk.led(origin)).st_mode):
                raise SourceError(
                    origin,
                    "a content is a directory: put this into one, under its path in the image",
                )
            if self._disk.is_split(origin):
                raise SourceError(
                    origin, "holds the store directory, whose files are elsewhere: name store paths"
                )
            self._merge(self._tree.root, b"", origin, origin, followed=False)

    def add_builtin(self, builtin: Builtin, present: Container[bytes] = ()) -> None:
        """Lay a content that is built in into the tree, without what is `present`."""
        with _reading(builtin.path):
            for path, node in builtins.nodes(builtin, self._disk):
                if path not in present:
                    self._put(path, node)

    def _put(self, path: bytes, node: Node) -> None:
        """Lay a single node into the tree."""
        *above, name = parts_of(path)
        target, place = self._tree.root, b""
        for part in above:
            if part not in target.children:
                target.children[part] = directory(origin=node.origin)
            opened = self._open(target, place, part, node)
            if opened is None:
                return
            target, place = opened
        if target.children.setdefault(name, node) is node:
            return
        if node.is_directory:
            self._open(target, place, name, node)
        else:
            self._compare(target, place, name, node)

    def _merge(
        self, target: Node, place: bytes, source: bytes, origin: bytes, *, followed: bool
    ) -> None:
        """Lay the directory at `source`, in the content `origin`, into `target`, which is
        at `place` in the tree. `followed`: it was reached through a link.
        """
        waiting = [(target, place, source, self._disk.led(source), followed)]
        while waiting:
            target, place, source, on_disk, followed = waiting.pop()
            if followed and self._is_joined(place, on_disk):
                continue
            with os.scandir(on_disk) as scan:
                entries = sorted(scan, key=_NAME)  # the same conflict first on any machine
            if followed:
                self._count(entries, on_disk)
            children = target.children
            above = source.rstrip(b"/") + b"/"
            below = []
            for entry in entries:
                name = entry.name
                path = above + name
                node = self._node(entry, path, origin, followed=followed)
                opened = None
                if children.setdefault(name, node) is node:
                    if node.is_directory:
                        opened = node, under(place, name)
                elif node.is_directory or self._is_to_merge(children[name], node):
                    opened = self._open(target, place, name, node)
                    if opened and self.copied and node.is_directory:
                        opened[0].mode = node.mode
                else:
                    self._compare(target, place, name, node)
                if opened and entry.is_symlink():
                    below.append((*opened, path, self._disk.led(path), True))
                elif opened:
                    below.append((*opened, path, entry.path, followed))
            waiting += reversed(below)

    def _node(
        self, entry: os.DirEntry[bytes], path: bytes, origin: bytes, *, followed: bool
    ) -> Node:
        """What `entry`, which is at `path`, is in the tree."""
        if entry.is_file(follow_symlinks=False):
            if not self.copied:
                return link(path, origin=origin)
            facts = entry.stat(follow_symlinks=False)
            return Node(
                typeflag=FILE,
                mode=stat.S_IMODE(facts.st_mode),
                size=facts.st_size,
                source=entry.path,
                identity=(facts.st_dev, facts.st_ino, facts.st_size, facts.st_mtime_ns),
                origin=origin,
            )
        if entry.is_dir(follow_symlinks=False):
            return self._directory(entry.path, origin)
        if not entry.is_symlink():
            raise SourceError(
                entry.path, "a content holds files, directories and links only: remove this from it"
            )
        node = _FoundLink(
            typeflag=LINK, mode=0o777, link=os.readlink(entry.path), origin=origin, found=path
        )
        if self.copied:
            if not self.keep_dirlinks and self._leads_to_directory(node):
                return self._directory(self._disk.led(path), origin)
        elif followed and not node.link.startswith(b"/"):
            node.link = path  # from here its own text would lead elsewhere
        return node

    def _directory(self, on_disk: bytes, origin: bytes) -> Node:
        """A directory like that at `on_disk`, still empty."""
        mode = DIRECTORY_MODE
        if self.copied:
            mode = stat.S_IMODE(os.stat(on_disk).st_mode) | stat.S_IWUSR
        return directory(mode, origin=origin)

    def _is_to_merge(self, found: Node, node: Node) -> bool:
        """Whether `node` is a link to a directory that meets a directory, or another link,
        which may lead to one.
        """
        if found.typeflag == LINK and (self.keep_dirlinks or found.link == node.link):
            return False
        return found.typeflag in (DIRECTORY, LINK) and self._leads_to_directory(node)

    def _open(
        self, target: Node, place: bytes, name: bytes, node: Node
    ) -> tuple[Node, bytes] | None:
        """The directory `name` in `target`, which is at `place`, and its path, for `node` to
        be merged with; None if something else is there that wins.
        """
        found = target.children[name]
        if found.is_directory:
            return found, under(place, name)
        if self.keep_dirlinks and (opened := self._linked(place, found)):
            return opened
        path = under(place, name)
        if not self._leads_to_directory(found):
            self._disagree(path, found, node)
            return None
        on_disk = self._disk.led(found.found)
        made = target.children[name] = self._directory(on_disk, found.origin)
        for alike in (found, *self._alike.pop(path, ())):
            if self._leads_to_directory(alike):
                self._merge(made, path, alike.found, alike.origin, followed=True)
        return made, path

    def _linked(self, place: bytes, found: Node) -> tuple[Node, bytes] | None:
        """The directory of the tree that a link in its directory `place` leads to, and its
        path; None if there is none.
        """
        names = parts_of(place)
        nodes = [self._tree.root]
        for name in names:
            nodes.append(nodes[-1].children[name])
        todo: list[bytes] = []
        node: Node | None = found
        for _ in range(MAX_LINKS):
            if node is None or node.typeflag != LINK:
                return None
            if node.link.startswith(b"/"):
                del names[:], nodes[1:]
            todo += reversed(node.link.split(b"/"))
            while todo:
                name = todo.pop()
                if name == b"..":
                    del names[-1:], nodes[max(1, len(nodes) - 1) :]
                elif name not in (b"", b"."):
                    node = nodes[-1].children.get(name)
                    if node is None or not node.is_directory:
                        break
                    names.append(name)
                    nodes.append(node)
            else:
                return nodes[-1], b"/".join(names)
        return None

    def _compare(self, target: Node, place: bytes, name: bytes, node: Node) -> None:
        """Let what is in `target` stay if `node` agrees with it, or the first wins."""
        found = target.children[name]
        if isinstance(node, _FoundLink) and found.typeflag == LINK and found.link == node.link:
            self._alike.setdefault(under(place, name), []).append(node)
        elif not self.first_wins and not self._agree(found, node):
            self._disagree(under(place, name), found, node)

    def _disagree(self, path: bytes, found: Node, node: Node) -> None:
        if not self.first_wins:
            raise ContentConflict(f"/{printable(path)}", found.origin, node.origin)

    def _agree(self, found: Node, node: Node) -> bool:
        """Whether both are links of the same text, or files of the same bytes and mode, or
        lead to such.
        """
        if found.typeflag == node.typeflag == LINK and found.link == node.link:
            return True
        first, second = self._file(found), self._file(node)
        if first is None or second is None or first[:2] != second[:2]:
            return False
        if first.inode is not None and first.inode == second.inode:
            return True
        with first.open() as one, second.open() as other:
            for start in range(0, first.size, CHUNK):
                count = min(CHUNK, first.size - start)
                if one.read(count) != other.read(count):
                    return False
        return True

    def _file(self, node: Node) -> _File | None:
        """The file that `node` is or leads to."""
        if node.data is not None:
            return _File(node.mode, node.size, data=node.data)
        path = self._read_from(node)
        if path is None or not os.path.isfile(path):
            return None
        facts = os.stat(path)
        return _File(stat.S_IMODE(facts.st_mode), facts.st_size, path, (facts.st_dev, facts.st_ino))

    def _leads_to_directory(self, node: Node) -> TypeGuard[_FoundLink]:
        """Whether `node` is a link to a directory that can be followed. Raises SourceError
        for one that it would be in.
        """
        if not isinstance(node, _FoundLink) or not self._disk.is_directory(node.found):
            return False
        path = self._reached(node)
        if path in self._above(node):
            raise SourceError(
                self._disk.at(node.found),
                "leads to a directory that it is in, which has no end: remove the link"
                + (", or keep links to directories (keepContentsDirlinks)" * self.copied),
            )
        return path is not None

    def _read_from(self, node: Node) -> bytes | None:
        """The path on disk of what a file or link in a content is or leads to, None if there
        is none that can be followed.
        """
        if node.typeflag != LINK:
            return node.source or None
        path = self._reached(node) if isinstance(node, _FoundLink) else node.link
        return self._disk.led(path) if path is not None and self._disk.exists(path) else None

    def _reached(self, node: _FoundLink) -> bytes | None:
        """The real path of what a link in a content leads to; None if that does not exist, or
        is not beside its content.
        """
        if not self._disk.exists(node.found):
            return None
        above = self._above(node)
        path = self._disk.real_path(os.path.join(above[-1], os.path.basename(node.found)))
        beside = os.path.dirname(above[0]).rstrip(b"/") or above[0].rstrip(b"/")
        return path if path.startswith(beside + b"/") else None

    def _above(self, node: _FoundLink) -> list[bytes]:
        """The real paths of the directories that the link `node` is in, from its content
        down.
        """
        path = node.origin
        real = self._real_paths.get(path) or self._disk.real_path(path)
        self._real_paths[path] = real
        above = [real]
        for name in parts_of(node.found[len(path) :])[:-1]:
            path = os.path.join(path, name)
            # Short steps: all of a path that leads through links is long to follow.
            real = self._real_paths.get(path) or self._disk.real_path(os.path.join(real, name))
            self._real_paths[path] = real
            above.append(real)
        return above

    def _is_joined(self, place: bytes, directory: bytes) -> bool:
        """Whether links of another content have led to this directory at the same place: its
        links would now get another text, and disagree with themselves.
        """
        if self.copied:  # whose modes may be others' by now
            return False
        facts = os.stat(directory)
        identity = place, facts.st_dev, facts.st_ino
        known = identity in self._joined
        self._joined.add(identity)
        return known

    def _count(self, entries: Sequence[os.DirEntry[bytes]], directory: bytes) -> None:
        facts = os.stat(directory)
        identity = facts.st_dev, facts.st_ino
        if identity in self._followed:
            self._again += len(entries)
        self._followed.add(identity)
        if self._again > MAX_AGAIN:
            raise SourceError(
                directory,
                f"links to directories lead to more than {MAX_AGAIN} files again that others of"
                " them lead to: remove some",
            )


@contextmanager
def _reading(path: bytes) -> Iterator[None]:
    """Raise SourceError for what the system says of a file, `path` if it does not say."""
    try:
        yield
    except SourceError:
        raise
    except OSError as error:
        raise SourceError.unreadable(os.fsencode(error.filename or path), error) from error

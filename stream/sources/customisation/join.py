"""Contents joined into one tree: linked, as nixpkgs' `symlinkJoin` does, or copied, as
`dockerTools` copies to the root, or put at a path of their own.

Owns the rules for contents that have the same path. Knows nothing of layers, nor how the
tree is used.

A link to a directory is followed only if its target is below the directory that holds the
content, such as the store: `/run` in a content means the image's, not this machine's.
"""

from __future__ import annotations

import io
import os
import stat
from collections.abc import Callable, Container, Iterator, Sequence
from contextlib import contextmanager
from operator import attrgetter
from typing import BinaryIO, NamedTuple, TypeGuard

from stream.errors import ContentConflict, RecipeError, SourceError
from stream.limits import MAX_LINKS
from stream.model import Builtin, Conflicts, PlacedFile, Recipe
from stream.nix.store_root import Disk
from stream.schema.capabilities import ATTRIBUTE, container_data
from stream.schema.reading import ignore
from stream.sources.customisation import builtin as builtins
from stream.sources.customisation.tree import (
    DIRECTORY_MODE,
    Identity,
    Node,
    Tree,
    directory,
    link,
    parts_of,
    under,
)
from stream.text import printable
from stream.typeflags import DIRECTORY, FILE, LINK
from stream.values import dataclass, field

# Links to directories can double the number of reached files at each step without any cycle.
MAX_AGAIN = 300_000

CHUNK = 1 << 20
MIN_REPORTED = 1 << 20  # bytes copied more than once

# Extended attributes, acl(5).
_ACCESS_LISTS = frozenset({"system.posix_acl_access", "system.posix_acl_default"})

_NAME = attrgetter("name")


def make_tree(
    recipe: Recipe,
    *,
    present: Container[bytes] = (),
    disk: Disk | None = None,
    warn: Callable[[str], None] = ignore,
) -> Tree:
    """Return the tree of `recipe`'s contents, of what it copies to the root and of its files. They
    are read from `disk` or, without it, from their own paths.

    Contents: directories are merged, a file becomes a link to its absolute path, a link keeps
    its target. Where a link to a directory meets another directory, the two are merged.

    Copies, as with `rsync -ak`: files keep their modes and are owned by root; a link to a
    directory becomes a directory. With `keep_dirlinks`, as with `rsync -aK`, it stays a link,
    and a directory that meets one in the tree is merged into its target. A directory has the
    mode of the last content that has it; the root keeps its own. Unlike with rsync, files keep
    their capabilities, without which a program such as ping does not run. No other extended
    attribute is copied: they belong to this machine, and Docker has none in layers, either.

    Files come after these; see `stream.sources.customisation.files`.

    shadowSetup comes last and adds only files that are missing both here and in the base
    image, whose paths are `present`. `warn` is called with a line for a person if links to
    directories make the copy much larger, and for access control lists that are not copied.

    Raises SourceError for files that cannot be read or linked, RecipeError for built-in
    contents that cannot be made, and ContentConflict if contents differ in a file, unless
    `conflicts` says which wins. Files of the same bytes, mode and capabilities do not differ. The
    last one that wins takes the place of whatever is there, even a directory.
    """
    tree = Tree()
    joiner = _Joiner(tree, disk or Disk(), recipe.conflicts)
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
    joiner.copied = joiner.keep_dirlinks = False
    for item in recipe.files:
        joiner.add_file(item, warn)
    joiner.conflicts = "first"
    joiner.warn_of_copies(warn)
    joiner.warn_of_access_lists(warn)
    for builtin in last:
        joiner.add_builtin(builtin, present)
    return tree


@dataclass(slots=True, kw_only=True)
class _FoundLink(Node):
    """A link of a content, with the path at which it was found there."""

    found: bytes


class _File(NamedTuple):
    """A file to be compared: at `path`, with its device and inode, or `data` in memory."""

    mode: int
    size: int
    xattrs: dict[bytes, bytes] | None = None
    path: bytes = b""
    inode: tuple[int, int] | None = None
    data: bytes = b""

    def open(self) -> BinaryIO:
        """Open its content."""
        return open(self.path, "rb") if self.path else io.BytesIO(self.data)


# A directory to be joined: the node and path in the tree, the path in the content and on disk,
# and the link that was followed to get there, if any.
_Step = tuple[Node, bytes, bytes, bytes, _FoundLink | None]


@dataclass(slots=True, kw_only=True)
class _Copied:
    """A directory that is copied: the size of its own files in bytes, and the paths in the tree
    where it is, each with the link that was followed to get there (None: without one).
    """

    size: int = 0
    places: dict[bytes, _FoundLink | None] = field(default_factory=dict)


class _Joiner:
    """Joins contents into a tree, one after the other.

    The origin of a node is the absolute path of its content. Paths are the image's; files are
    opened where `disk` has them.
    """

    def __init__(self, tree: Tree, disk: Disk, conflicts: Conflicts) -> None:
        self._tree = tree
        self._disk = disk.remembering()
        self.conflicts: Conflicts = conflicts
        self.copied = self.keep_dirlinks = False
        self._followed: set[tuple[int, int]] = set()  # directories, by device and inode
        self._joined: set[tuple[bytes, int, int]] = set()  # the same, with the path in the tree
        self._access_lists: list[bytes] = []  # files and directories that have one
        self._again = 0  # entries of directories that were followed before
        self._alike: dict[bytes, list[_FoundLink]] = {}  # by path, links equal to the one there
        self._real_paths: dict[bytes, bytes] = {}  # of directories that have links
        self._copied: dict[tuple[int, int], _Copied] = {}  # by device and inode

    def add(self, content: bytes) -> None:
        """Join the directory `content` into the tree."""
        origin = os.path.abspath(content)
        with _reading(origin):
            if not stat.S_ISDIR(os.stat(self._disk.follow(origin)).st_mode):
                raise SourceError(
                    origin,
                    "is not a directory; `contents` and `copyToRoot` take directories laid out as in the image",
                )
            if self._disk.is_split(origin):
                raise SourceError(
                    origin, "holds the store directory, whose files are elsewhere; use store paths"
                )
            self._merge(self._tree.root, b"", origin, origin)

    def add_builtin(self, builtin: Builtin, present: Container[bytes] = ()) -> None:
        """Join a built-in content into the tree, except for the paths `present`."""
        with _reading(builtin.path):
            for path, node in builtins.nodes(builtin, self._disk):
                if path not in present:
                    self._put(path, node)

    def add_file(self, item: PlacedFile, warn: Callable[[str], None]) -> None:
        """Join a file, or a directory with everything in it, into the tree."""
        from stream.sources.customisation.files import make_node

        node = make_node(item, self._disk, warn)
        if parts_of(item.path):
            self._put(item.path, node)
        elif node.is_directory:
            for name, child in node.children.items():
                self._put(name, child)
        else:
            raise RecipeError("/", f"is a directory, and {printable(node.origin)} is a file")

    def _put(self, path: bytes, node: Node) -> None:
        """Join a node with everything below it into the tree."""
        *above, name = parts_of(path)
        target, place = self._tree.root, b""
        for part in above:
            if part not in target.children:
                target.children[part] = directory(origin=node.origin)
            opened = self._open(target, place, part, directory(origin=node.origin))
            if opened is None:
                return
            target, place = opened
        waiting = [(target, place, name, node)]
        while waiting:
            target, place, name, node = waiting.pop()
            if target.children.setdefault(name, node) is node:
                continue
            if not node.is_directory:
                self._compare(target, place, name, node)
            elif (opened := self._open(target, place, name, node)) and opened[0] is not node:
                if node.uid or node.gid:
                    opened[0].uid, opened[0].gid = node.uid, node.gid
                waiting += ((*opened, *child) for child in reversed(node.children.items()))

    def _merge(
        self,
        target: Node,
        place: bytes,
        source: bytes,
        origin: bytes,
        through: _FoundLink | None = None,
    ) -> None:
        """Join the directory at `source`, in the content `origin`, into `target`, which is at
        `place` in the tree. It was reached `through` a link, if any.
        """
        on_disk = self._disk.follow(source)
        waiting: list[_Step] = [(target, place, source, on_disk, through)]
        while waiting:
            target, place, source, on_disk, through = waiting.pop()
            followed = through is not None
            if followed and self._is_joined(place, on_disk):
                continue
            with os.scandir(on_disk) as scan:
                entries = sorted(scan, key=_NAME)  # any machine reports the same conflict first
            if followed:
                self._count(entries, on_disk)
            children = target.children
            above = source.rstrip(b"/") + b"/"
            below: list[_Step] = []
            size = 0
            for entry in entries:
                name = entry.name
                path = above + name
                node = self._node(entry, path, origin, followed=followed)
                size += node.size
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
                    link = self._found_link(entry, path, origin)
                    below.append((*opened, path, self._disk.follow(path), link))
                elif opened:
                    below.append((*opened, path, entry.path, through))
            waiting += reversed(below)
            if self.copied:
                self._note_copy(on_disk, place, size, through)

    def _node(
        self, entry: os.DirEntry[bytes], path: bytes, origin: bytes, *, followed: bool
    ) -> Node:
        """Return the node for `entry`, which is at `path`."""
        if entry.is_file(follow_symlinks=False):
            if not self.copied:
                return link(path, origin=origin)
            facts = entry.stat(follow_symlinks=False)
            return Node(
                typeflag=FILE,
                mode=stat.S_IMODE(facts.st_mode),
                size=facts.st_size,
                source=entry.path,
                identity=Identity.of(facts),
                xattrs=self._attributes(entry.path),
                origin=origin,
            )
        if entry.is_dir(follow_symlinks=False):
            return self._directory(entry.path, origin)
        if not entry.is_symlink():
            raise SourceError(
                entry.path, "contents can only hold files, directories and links; remove this"
            )
        node = self._found_link(entry, path, origin)
        if self.copied:
            if not self.keep_dirlinks and self._leads_to_directory(node):
                return self._directory(self._disk.follow(path), origin)
        elif followed and not node.link.startswith(b"/"):
            node.link = path  # its own text would lead elsewhere from here
        return node

    @staticmethod
    def _found_link(entry: os.DirEntry[bytes], path: bytes, origin: bytes) -> _FoundLink:
        target = os.readlink(entry.path)
        return _FoundLink(typeflag=LINK, mode=0o777, link=target, origin=origin, found=path)

    def _directory(self, on_disk: bytes, origin: bytes) -> Node:
        """Return an empty directory with the mode of that at `on_disk` if it is copied."""
        mode = DIRECTORY_MODE
        if self.copied:
            self._attributes(on_disk)
            mode = stat.S_IMODE(os.stat(on_disk).st_mode) | stat.S_IWUSR
        return directory(mode, origin=origin)

    def _attributes(self, on_disk: bytes) -> dict[bytes, bytes] | None:
        """Return the extended attributes to be copied from a file or directory; note it if it has
        an access control list.
        """
        try:
            names = os.listxattr(on_disk, follow_symlinks=False)
        except OSError:
            return None  # the file system has none
        if not _ACCESS_LISTS.isdisjoint(names):
            self._access_lists.append(on_disk)
        if ATTRIBUTE.decode() not in names:
            return None
        return {ATTRIBUTE: container_data(os.getxattr(on_disk, ATTRIBUTE, follow_symlinks=False))}

    def _is_to_merge(self, found: Node, node: Node) -> bool:
        """Return True if `node` is a link to a directory that meets a directory, or another
        link, which may lead to one.
        """
        if found.typeflag == LINK and (self.keep_dirlinks or found.link == node.link):
            return False
        return found.typeflag in (DIRECTORY, LINK) and self._leads_to_directory(node)

    def _open(
        self, target: Node, place: bytes, name: bytes, node: Node
    ) -> tuple[Node, bytes] | None:
        """Return the directory `name` in `target`, which is at `place`, and its path, so that
        `node` can be merged into it; None if something else is there that wins, or a link that wins
        takes its place.
        """
        found = target.children[name]
        if found.is_directory:
            return found, under(place, name)
        if self.keep_dirlinks and (opened := self._linked(place, found)):
            return opened
        path = under(place, name)
        if not self._leads_to_directory(found):
            self._settle(target, place, name, node)
            return (node, path) if target.children[name] is node and node.is_directory else None
        on_disk = self._disk.follow(found.found)
        made = target.children[name] = self._directory(on_disk, found.origin)
        for alike in (found, *self._alike.pop(path, ())):
            if self._leads_to_directory(alike):
                self._merge(made, path, alike.found, alike.origin, alike)
        return made, path

    def _linked(self, place: bytes, found: Node) -> tuple[Node, bytes] | None:
        """Return the directory of the tree that a link in its directory `place` leads to, and
        its path; None if there is none.
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
        """Compare `node` with the entry in `target`, and settle the conflict if they differ."""
        found = target.children[name]
        if isinstance(node, _FoundLink) and found.typeflag == LINK and found.link == node.link:
            self._alike.setdefault(under(place, name), []).append(node)
        elif self.conflicts != "error" or not self._agree(found, node):
            self._settle(target, place, name, node)

    def _settle(self, target: Node, place: bytes, name: bytes, node: Node) -> None:
        """Keep the entry in `target`, or put `node` in its place: whichever wins. Raises
        ContentConflict if none does.
        """
        path = under(place, name)
        if self.conflicts == "error":
            found = target.children[name]
            raise ContentConflict(f"/{printable(path)}", found.origin, node.origin)
        if self.conflicts == "last":
            if target.children[name].is_directory:
                gone = under(path, b"")
                self._alike = {
                    at: links for at, links in self._alike.items() if not at.startswith(gone)
                }
                self._joined.clear()
            self._alike.pop(path, None)
            target.children[name] = node

    def _agree(self, found: Node, node: Node) -> bool:
        """Return True if both are links with the same target, or are, or lead to, files of the
        same bytes, mode and capabilities, and have the same owner.
        """
        if (found.uid, found.gid) != (node.uid, node.gid):
            return False
        if found.typeflag == node.typeflag == LINK and found.link == node.link:
            return True
        first, second = self._file(found), self._file(node)
        if first is None or second is None or first[:3] != second[:3]:
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
        """Return the file that `node` is or leads to, or None."""
        if node.data is not None:
            return _File(node.mode, node.size, data=node.data)
        path = self._read_from(node)
        if path is None or not os.path.isfile(path):
            return None
        facts = os.stat(path)
        inode = facts.st_dev, facts.st_ino
        mode = node.mode if node.typeflag == FILE else stat.S_IMODE(facts.st_mode)
        return _File(mode, facts.st_size, node.xattrs, path, inode)

    def _leads_to_directory(self, node: Node) -> TypeGuard[_FoundLink]:
        """Return True if `node` is a link to a directory that can be followed. Raises
        SourceError if it is below that directory itself.
        """
        if not isinstance(node, _FoundLink) or not self._disk.is_directory(node.found):
            return False
        path = self._reached(node)
        if path in self._above(node):
            raise SourceError(
                self._disk.at(node.found),
                "symlink cycle: points to one of its own parents; remove the link"
                + (", or keep links to directories (keepContentsDirlinks)" * self.copied),
            )
        return path is not None

    def _read_from(self, node: Node) -> bytes | None:
        """Return the path on disk of the file that a file or link in a content is or leads to;
        None if the link cannot be followed.
        """
        if node.typeflag != LINK:
            return node.source or None
        if isinstance(node, _FoundLink):
            path = self._reached(node)
        else:  # what else a link leads to is not this machine's to say
            path = node.link if node.link.startswith(self._disk.store_dir + b"/") else None
        return self._disk.follow(path) if path is not None and self._disk.exists(path) else None

    def _reached(self, node: _FoundLink) -> bytes | None:
        """Return the real path of the target of a link in a content; None if it does not
        exist, or is not below the directory that holds the content.
        """
        if not self._disk.exists(node.found):
            return None
        above = self._above(node)
        path = self._disk.real_path(os.path.join(above[-1], os.path.basename(node.found)))
        beside = os.path.dirname(above[0]).rstrip(b"/") or above[0].rstrip(b"/")
        return path if path.startswith(beside + b"/") else None

    def _above(self, node: _FoundLink) -> list[bytes]:
        """Return the real paths of the directories that the link `node` is in, from its
        content down.
        """
        path = node.origin
        real = self._real_paths.get(path) or self._disk.real_path(path)
        self._real_paths[path] = real
        above = [real]
        for name in parts_of(node.found[len(path) :])[:-1]:
            path = os.path.join(path, name)
            # Step by step: resolving the whole of a path through links takes long.
            real = self._real_paths.get(path) or self._disk.real_path(os.path.join(real, name))
            self._real_paths[path] = real
            above.append(real)
        return above

    def _is_joined(self, place: bytes, directory: bytes) -> bool:
        """Return True if links of another content led to this directory at the same place: its
        links would now get other targets, and conflict with themselves.
        """
        if self.copied:  # directories may have other contents' modes by now
            return False
        facts = os.stat(directory)
        identity = place, facts.st_dev, facts.st_ino
        known = identity in self._joined
        self._joined.add(identity)
        return known

    def _note_copy(
        self, on_disk: bytes, place: bytes, size: int, through: _FoundLink | None
    ) -> None:
        facts = os.stat(on_disk)
        copied = self._copied.setdefault((facts.st_dev, facts.st_ino), _Copied())
        copied.size = size
        copied.places.setdefault(place, through)

    def warn_of_copies(self, warn: Callable[[str], None]) -> None:
        """Warn of links to directories that are copied elsewhere as well."""
        links: dict[bytes, _FoundLink] = {}
        added: dict[bytes, int] = {}  # bytes, by the link that they were copied through
        for copied in self._copied.values():
            followed = [found for found in copied.places.values() if found is not None]
            once = len(followed) == len(copied.places)
            for through in followed[once:]:
                links[through.found] = through
                added[through.found] = added.get(through.found, 0) + copied.size
        if (total := sum(added.values())) < MIN_REPORTED:
            return
        largest = links[max(added, key=lambda path: added[path])]
        more = f" (and {len(added) - 1} more like it)" if len(added) > 1 else ""
        relative = "" if not largest.link.startswith(b"/") else "make it relative and "
        warn(
            f"{printable(largest.found)}: a link to a directory that is copied elsewhere as well"
            f"{more}, which adds {total / 1e6:.0f} MB; {relative}set keepContentsDirlinks to keep"
            " links to directories"
        )

    def warn_of_access_lists(self, warn: Callable[[str], None]) -> None:
        """Warn of copied files that have an access control list: without it, the owning group has
        the rights that the list's mask gives.
        """
        if not self._access_lists:
            return
        count = len(self._access_lists)
        more = f" (and {count - 1} more)" if count > 1 else ""
        warn(
            f"{printable(self._access_lists[0])}{more}: its access control list is not copied; set"
            " mode and owner with perms"
        )

    def _count(self, entries: Sequence[os.DirEntry[bytes]], directory: bytes) -> None:
        facts = os.stat(directory)
        identity = facts.st_dev, facts.st_ino
        if identity in self._followed:
            self._again += len(entries)
        self._followed.add(identity)
        if self._again > MAX_AGAIN:
            raise SourceError(
                directory,
                f"links to directories reach more than {MAX_AGAIN} files repeatedly; remove some",
            )


@contextmanager
def _reading(path: bytes) -> Iterator[None]:
    """Translate OSError into SourceError for the file that it names, else for `path`."""
    try:
        yield
    except SourceError:
        raise
    except OSError as error:
        raise SourceError.unreadable(os.fsencode(error.filename or path), error) from error

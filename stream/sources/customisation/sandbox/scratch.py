"""A tree on disk, in a private directory, for as long as it is needed.

Knows nothing of commands, nor of owners and devices, which only root can make.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress

from stream.errors import SourceError
from stream.pipes import write_all
from stream.sources.customisation.content import CHANGED, PIECE, opened
from stream.sources.customisation.tree import Node, Tree
from stream.temporary.directory import make_directory, private_directory, translate_errors
from stream.typeflags import BLOCK_DEVICE, CHARACTER_DEVICE, FIFO, FILE, LINK
from stream.values import dataclass

_MAX_RANGE = 1 << 30


@dataclass(frozen=True, slots=True, kw_only=True)
class Scratch:
    """A private directory: `tree` in it is the tree's root, `temporary` a directory for
    temporary files, `staged` one for files that are moved into the tree. `owner` is the user and
    group of everything in the first two; None if that is us. The directory itself is ours, so
    that the owner's other processes cannot exchange them.
    """

    path: bytes
    owner: tuple[int, int] | None = None

    @property
    def tree(self) -> bytes:
        """The root directory of the tree."""
        return self.path + b"/tree"

    @property
    def temporary(self) -> bytes:
        """The directory for temporary files."""
        return self.path + b"/tmp"

    @property
    def staged(self) -> bytes:
        """The directory for files that `write` moves into the tree."""
        return self.path + b"/staged"


@contextmanager
def opened_scratch(owner: tuple[int, int] | None = None) -> Iterator[Scratch]:
    """Make a private directory, removed at the end even if this process is killed.

    Raises SourceError.
    """
    with private_directory() as path:
        place = Scratch(path=path, owner=owner)
        with translate_errors(path):
            if owner is not None:  # may pass through, to what is theirs
                os.chown(path, -1, owner[1])
                os.chmod(path, 0o710)  # noqa: S103 — the group is the owner's alone
            _make_directory(place.staged, None)
            _make_directory(place.temporary, owner)
            os.chmod(place.temporary, 0o1777)  # noqa: S103 — in a private directory
        yield place


def _make_directory(path: bytes, owner: tuple[int, int] | None) -> None:
    """Make a directory that only its owner can use, whatever our umask is."""
    make_directory(path)
    if owner is not None:
        os.chown(path, *owner)


SPECIAL = stat.S_ISUID | stat.S_ISGID


def write(tree: Tree, place: Scratch, mtime: int) -> None:
    """Make `tree` on disk, every file modified at `mtime` (seconds) unless it has a time of its
    own. Its owners and extended attributes are left out, as are set-ID bits where the system
    forbids them; a device becomes an empty file. Files in `place.staged` are moved, others
    copied. Raises SourceError.
    """
    directories = []
    written: dict[int, bytes] = {}  # paths by the identity of the node
    for name, node in tree.entries():
        path = place.tree + b"/" + name if name else place.tree
        with translate_errors(path):
            if node.is_directory:
                _make_directory(path, place.owner)
                directories.append((path, node))
                continue
            if node.typeflag == FILE and (first := written.setdefault(id(node), path)) != path:
                os.link(first, path, follow_symlinks=False)
                continue
            if node.typeflag == LINK:
                os.symlink(node.link, path)
            elif node.typeflag == FIFO:
                os.mkfifo(path, 0o600)
            elif node.source.startswith(place.staged + b"/"):
                os.rename(node.source, path)
            elif node.typeflag in (FILE, CHARACTER_DEVICE, BLOCK_DEVICE):
                _write_file(path, node)
            if place.owner is not None:
                os.chown(path, *place.owner, follow_symlinks=False)
            if node.typeflag != LINK:
                _chmod(path, node.mode)
            _set_time(path, node, mtime)
    for path, node in reversed(directories):
        with translate_errors(path):
            _set_time(path, node, mtime)
            _chmod(path, node.mode)


def _set_time(path: bytes, node: Node, mtime: int) -> None:
    ns = mtime * 10**9 if node.mtime_ns is None else node.mtime_ns
    os.utime(path, ns=(ns, ns), follow_symlinks=False)


def _chmod(path: bytes, mode: int) -> None:
    try:
        os.chmod(path, mode)
    except PermissionError:
        # Nix's sandbox allows no set-ID files.
        if not mode & SPECIAL:
            raise
        os.chmod(path, mode & ~SPECIAL)


def _write_file(path: bytes, node: Node) -> None:
    target = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    try:
        if node.data is not None:
            with open(target, "wb", closefd=False) as file:
                file.write(node.data)
        elif node.source:
            _copy(node, target)
    finally:
        os.close(target)


def _copy(node: Node, target: int) -> None:
    with opened(node) as source:
        left = node.size
        while left and (count := _copy_range(source, target, node, min(left, _MAX_RANGE))):
            left -= count
        if left:
            raise SourceError(node.source, CHANGED)


def _copy_range(source: int, target: int, node: Node, count: int) -> int:
    # Where the kernel cannot copy, and to learn which of the two files is at fault.
    with suppress(OSError):
        return os.copy_file_range(source, target, count)
    try:
        data = os.read(source, min(count, PIECE))
    except OSError as error:
        raise SourceError.unreadable(node.source, error) from error
    write_all(target, data)
    return len(data)

"""A tree on disk, in a private directory, for as long as it is needed.

Knows nothing of commands, nor of owners and devices, which only root can make.
"""

from __future__ import annotations

import errno
import itertools
import os
import secrets
import stat
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass

from stream.errors import SourceError
from stream.pipes import write_all
from stream.sources.customisation.content import CHANGED, PIECE, opened
from stream.sources.customisation.tree import Node, Tree
from stream.typeflags import BLOCK_DEVICE, CHARACTER_DEVICE, FIFO, FILE, LINK

# The errors of copy_file_range(2) where it is not supported.
_NO_RANGES = {errno.EXDEV, errno.EINVAL, errno.ENOSYS, errno.EOPNOTSUPP, errno.EPERM}
_MAX_RANGE = 1 << 30


@dataclass(frozen=True, slots=True, kw_only=True)
class Scratch:
    """A private directory: `tree` in it is the tree's root, `aside` holds everything else."""

    path: bytes

    @property
    def tree(self) -> bytes:
        """The root directory of the tree."""
        return self.path + b"/tree"

    @property
    def aside(self) -> bytes:
        """The directory for other files, with `tmp` in it."""
        return self.path + b"/aside"


@contextmanager
def opened_scratch() -> Iterator[Scratch]:
    """Make a private directory below TMPDIR; remove it at the end with everything in it.

    Raises SourceError.
    """
    # Named before it is made: a signal could arrive after mkdtemp made it and before it
    # returned the name.
    name = f"stream-image.{secrets.token_hex(8)}"
    path = os.fsencode(os.path.join(_temporary(), name))
    try:
        with _translate_errors(path):
            os.mkdir(path, 0o700)
            for below in (b"/aside", b"/aside/tmp"):
                os.mkdir(path + below, 0o700)
        yield Scratch(path=path)
    finally:
        _remove(path)


def _temporary() -> str:
    try:
        return tempfile.gettempdir()
    except FileNotFoundError as error:
        raise SourceError(
            b"TMPDIR", "no writable directory for temporary files; set TMPDIR to one"
        ) from error


@contextmanager
def _translate_errors(path: bytes) -> Iterator[None]:
    try:
        yield
    except SourceError:
        raise
    except OSError as error:
        raise SourceError(path, f"cannot be written: {error.strerror}") from error


def _remove(path: bytes) -> None:
    """Remove a directory of ours with everything in it, of any mode and any depth: each
    directory is moved to the top before it is read, so that no path gets too long.
    """
    try:
        top = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    except OSError:
        return
    try:
        names = (f".{secrets.token_hex(8)}".encode() for _ in itertools.count())
        waiting = [b"."]
        while waiting:
            name = waiting.pop()
            with suppress(OSError):
                fd = os.open(name, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC, dir_fd=top)
                try:
                    for child in os.listdir(fd):
                        waiting += _detach(os.fsencode(child), fd, next(names), top)
                finally:
                    os.close(fd)
            with suppress(OSError):  # the top itself cannot be removed as "."
                os.rmdir(name, dir_fd=top)
    finally:
        os.close(top)
    with suppress(OSError):
        os.rmdir(path)


def _detach(child: bytes, parent: int, name: bytes, top: int) -> list[bytes]:
    """Unlink `child` of `parent`, or, if it is a directory, move it to `top` as `name`."""
    with suppress(OSError):
        if not stat.S_ISDIR(os.lstat(child, dir_fd=parent).st_mode):
            os.unlink(child, dir_fd=parent)
            return []
        os.chmod(child, 0o700, dir_fd=parent)
        os.rename(child, name, src_dir_fd=parent, dst_dir_fd=top)
        return [name]
    return []


def write(tree: Tree, place: Scratch, mtime: int) -> None:
    """Make `tree` on disk, every file modified at `mtime` (seconds). Owners and extended
    attributes are left out; a device becomes an empty file. Raises SourceError.
    """
    directories = []
    for name, node in tree.entries():
        path = place.tree + b"/" + name if name else place.tree
        with _translate_errors(path):
            if node.is_directory:
                os.mkdir(path, 0o700)
                directories.append((path, node.mode))
                continue
            if node.typeflag == LINK:
                os.symlink(node.link, path)
            elif node.typeflag == FIFO:
                os.mkfifo(path, 0o600)
            elif node.typeflag in (FILE, CHARACTER_DEVICE, BLOCK_DEVICE):
                _write_file(path, node)
            if node.typeflag != LINK:
                os.chmod(path, node.mode)
            os.utime(path, (mtime, mtime), follow_symlinks=False)
    for path, mode in reversed(directories):
        with _translate_errors(path):
            os.utime(path, (mtime, mtime))
            os.chmod(path, mode)


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
        while left and (count := _copy_range(source, target, min(left, _MAX_RANGE))):
            left -= count
        if left:
            raise SourceError(node.source, CHANGED)


def _copy_range(source: int, target: int, count: int) -> int:
    try:
        return os.copy_file_range(source, target, count)
    except OSError as error:
        if error.errno not in _NO_RANGES:
            raise
    data = os.read(source, min(count, PIECE))
    write_all(target, data)
    return len(data)

"""Directories and tars merged into one tree of files on disk.

A tar is not trusted: nothing is written outside of the tree, nor through a link in it. Must not
know argv, images, nor what the tree is for.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress

from stream.archives.bytesource import pieces
from stream.archives.sequential import opened_file
from stream.archives.tarreader import Member, read_members
from stream.errors import (
    ArchiveError,
    ArgumentError,
    OutputError,
    SourceError,
    StreamImageError,
)
from stream.pipes import write_all
from stream.text import printable
from stream.typeflags import DIRECTORY, FILE, HARD_LINK, LINK

_PIECE = 1 << 20  # bytes
_CLASH = (
    "is a directory here or in another tree, and something else in the other; remove one of them"
)
_OPEN_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
# Owners, times and set-uid bits stay behind: the tree is its maker's.
_PERMISSIONS = 0o777


def merge_trees(trees: Sequence[str | os.PathLike[str]], directory: str | os.PathLike[str]) -> None:
    """Merge `trees` into the existing directory at `directory`. A tree is a directory, or a tar,
    which may be compressed or come from standard input (`-`).

    Directories are merged. Of two files or links with one path, the last one stays. Links are
    kept as they are; files keep their permissions. Raises ArgumentError, SourceError or
    ArchiveError for a tree that cannot be read, or where one has a directory and another
    something else, and OutputError.
    """
    ArgumentError.require("trees", trees, list, tuple)
    for tree in trees:
        ArgumentError.require("trees", tree, str, os.PathLike)
    with _writing():
        root = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        for tree in trees:
            with _writing():
                if tree != "-" and os.path.isdir(tree):
                    _add_directory(_Target(root), os.fsencode(tree))
                else:
                    _add_tar(_Target(root), tree)
    finally:
        os.close(root)


@contextmanager
def _writing() -> Iterator[None]:
    """Raise a failure of the system in the body, which writes to the tree, as OutputError."""
    try:
        yield
    except StreamImageError:
        raise
    except OSError as error:
        raise OutputError(error.errno, f"cannot write the tree: {error.strerror}") from error


def _identity(status: os.stat_result) -> tuple[int, int]:
    return status.st_dev, status.st_ino


class _ClashError(Exception):
    """A directory and something else have one path."""


class _Target:
    """The tree being made. Paths are sequences of names, none of which is `..`."""

    def __init__(self, root: int) -> None:
        self._root = root
        self._identity = _identity(os.fstat(root))

    def is_at(self, status: os.stat_result) -> bool:
        """Return True if the file with this status is the tree itself."""
        return _identity(status) == self._identity

    def add_directory(self, path: Sequence[bytes], mode: int) -> None:
        """Make the directory at `path`, or give the one that is there another mode."""
        fd = self._open(path)
        try:
            os.fchmod(fd, mode & _PERMISSIONS | stat.S_IRWXU)
        finally:
            os.close(fd)

    def add_file(self, path: Sequence[bytes], mode: int, content: Iterable[bytes]) -> None:
        """Write a file."""

        def write(name: bytes, above: int) -> None:
            flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
            fd = os.open(name, flags, 0o600, dir_fd=above)
            try:
                for piece in content:
                    write_all(fd, piece)
                os.fchmod(fd, mode & _PERMISSIONS)
            finally:
                os.close(fd)

        self._replace(path, write)

    def add_link(self, path: Sequence[bytes], link: bytes) -> None:
        """Make a symbolic link."""
        self._replace(path, lambda name, above: os.symlink(link, name, dir_fd=above))

    def add_hard_link(self, path: Sequence[bytes], other: Sequence[bytes]) -> None:
        """Give the file at the path `other` another name."""
        *directories, other_name = other or [b""]
        other_above = self._open(directories, make=False)
        try:
            self._replace(
                path,
                lambda name, above: os.link(
                    other_name, name, src_dir_fd=other_above, dst_dir_fd=above,
                    follow_symlinks=False,
                ),
            )  # fmt: skip
        finally:
            os.close(other_above)

    def _replace(self, path: Sequence[bytes], make: Callable[[bytes, int], object]) -> None:
        """Let `make` make the entry at `path`: it gets a name, and the directory above."""
        *directories, name = path
        above = self._open(directories)
        try:
            with suppress(FileNotFoundError):
                if stat.S_ISDIR(os.stat(name, dir_fd=above, follow_symlinks=False).st_mode):
                    raise _ClashError
                # Another name of the file, and whoever has it open, keep the content.
                os.unlink(name, dir_fd=above)
            make(name, above)
        finally:
            os.close(above)

    def _open(self, path: Sequence[bytes], *, make: bool = True) -> int:
        """Open the directory at `path`. With `make`, it and those above it are made."""
        fd = os.dup(self._root)
        for name in path:
            above = fd
            try:
                if make:
                    with suppress(FileExistsError):
                        os.mkdir(name, dir_fd=above)
                fd = os.open(name, _OPEN_DIRECTORY, dir_fd=above)
            except NotADirectoryError:
                raise _ClashError from None
            finally:
                os.close(above)
        return fd


# ---- what is merged


def _add_directory(target: _Target, top: bytes) -> None:
    """Add the directory at `top`. Raises SourceError."""
    waiting: list[tuple[bytes, ...]] = [()]
    while waiting:
        path = waiting.pop()
        place = os.path.join(top, *path)
        try:
            with os.scandir(place) as scan:
                entries = sorted(scan, key=lambda entry: entry.name)
            found = [entry.stat(follow_symlinks=False) for entry in entries]
            links = [os.readlink(entry.path) if entry.is_symlink() else b"" for entry in entries]
        except OSError as error:
            raise SourceError.unreadable(place, error) from error
        for entry, status, link in zip(entries, found, links, strict=True):
            below, mode = (*path, entry.name), status.st_mode
            if target.is_at(status):
                raise SourceError(entry.path, "is being made; choose a place outside of the trees")
            try:
                if stat.S_ISDIR(mode):
                    target.add_directory(below, mode)
                    waiting.append(below)
                elif stat.S_ISLNK(mode):
                    target.add_link(below, link)
                elif stat.S_ISREG(mode):
                    target.add_file(below, mode, _content(entry.path))
                else:
                    raise SourceError(entry.path, f"{_UNFIT}; remove it")
            except _ClashError:
                raise SourceError(entry.path, _CLASH) from None


_UNFIT = "is neither a file, a directory nor a link"


def _content(path: bytes) -> Iterator[bytes]:
    """Yield the content of a file. Raises SourceError."""
    try:
        with open(path, "rb", buffering=0, opener=_open_file) as file:
            while piece := file.read(_PIECE):
                yield piece
    except OSError as error:
        raise SourceError.unreadable(path, error) from error


def _open_file(path: str, flags: int) -> int:
    return os.open(path, flags | os.O_NOFOLLOW | os.O_NONBLOCK)


def _add_tar(target: _Target, tar: str | os.PathLike[str]) -> None:
    """Add the members of a tar. Raises ArchiveError."""
    with opened_file(tar) as file:
        source = file.content()
        for member in read_members(source, is_argument=True):
            where = f"{source.name}: {printable(member.name)}"
            try:
                _add_member(target, member, pieces(source, member.size), where)
            except _ClashError:
                raise ArchiveError(where, _CLASH) from None
        # A writer would otherwise see a closed pipe.
        for _ in pieces(source):
            pass


def _add_member(target: _Target, member: Member, content: Iterable[bytes], where: str) -> None:
    path = _names(member.name, where)
    if member.typeflag == DIRECTORY:
        if path:  # of the root, others see to
            target.add_directory(path, member.mode)
    elif not path:
        raise ArchiveError(where, "has no name")
    elif member.typeflag == FILE and not member.is_sparse:
        target.add_file(path, member.mode, content)
    elif member.typeflag == LINK:
        target.add_link(path, member.link)
    elif member.typeflag == HARD_LINK:
        other = _names(member.link, where)
        if other == path:
            return
        try:
            target.add_hard_link(path, other)
        except (FileNotFoundError, IndexError):
            reason = f"is a hard link to {printable(member.link)}, which is not there"
            raise ArchiveError(where, reason) from None
    else:
        raise ArchiveError(where, _UNFIT + (", but a sparse file" if member.is_sparse else ""))


def _names(name: bytes, where: str) -> list[bytes]:
    """Return the names that a path in a tar consists of. Raises ArchiveError."""
    names = [part for part in name.split(b"/") if part not in (b"", b".")]
    if b".." in names:
        raise ArchiveError(where, "has .. in its path, which leads out of the tree")
    return names

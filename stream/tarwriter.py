"""Tar: layers inside an archive, written to a file descriptor in one pass.

The only module that uses the C extension. A layer's size follows from its entries alone, so
its archive header is written before its content; its digest is known once its content has
passed, so only a completed layer has one. Formats: POSIX.1-2008 pax, with CPython's tarfile
as the reference for every byte; on request, GNU tar's own, with that program as the
reference. Knows neither Nix nor OCI, nor what its file descriptor refers to.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Self

from stream import _tarhash
from stream.errors import OutputError, SizeMismatch, SourceError, ThreadError
from stream.model import Digest, Owner
from stream.typeflags import DIRECTORY, FILE, HARD_LINK

BLOCK = 512
RECORD = 20 * BLOCK  # an archive's size is a multiple of this
MEMBER_MODE = 0o644

# Bytes that a writer's buffers may take.
_SLOT = 256 * 1024
MIN_BUFFERS, MAX_BUFFERS = 8 * _SLOT, 64 * _SLOT

encode_header = _tarhash.encode_header


def encode_record(key: bytes, value: bytes) -> bytes:
    """Return a record of a pax extended header; it begins with its own length."""
    rest = len(key) + len(value) + 3
    size = rest + len(str(rest))
    size = rest + len(str(size))
    return b"%d %s=%s\n" % (size, key, value)


def _padding(size: int, unit: int) -> int:
    return -size % unit


def padded(size: int) -> int:
    """Return the number of bytes that content of `size` bytes takes in a tar."""
    return size + _padding(size, BLOCK)


def tar_size(size: int) -> int:
    """Return the size of a tar whose members take `size` bytes, trailer included."""
    return size + 2 * BLOCK + _padding(size + 2 * BLOCK, RECORD)


@contextmanager
def _translate_errors() -> Iterator[None]:
    """Translate the extension's exceptions into this package's. One that has a path is the
    fault of an input, else of the output.
    """
    try:
        yield
    except _tarhash.EntryError as error:
        raise SourceError(*error.args) from None
    except _tarhash.ThreadError as error:
        raise ThreadError from error
    except OSError as error:
        if error.filename is not None:
            raise SourceError.unreadable(os.fsencode(error.filename), error) from error
        raise OutputError.unwritable(error, "cannot write the image") from error


class Entries:
    """The metadata of one layer, in order; every entry has `owner` and `mtime` (seconds). On
    disk, their names are prefixed with `root`. Takes about 120 bytes of memory per entry.
    """

    def __init__(self, *, owner: Owner, mtime: int, root: bytes = b"") -> None:
        self._native = _tarhash.Entries(
            mtime=mtime,
            uid=owner.uid,
            gid=owner.gid,
            uname=owner.uname,
            gname=owner.gname,
            root=root,
        )

    def add_directory(self, path: bytes, mode: int) -> None:
        """Append an entry for a directory that need not exist on disk."""
        self._native.add(DIRECTORY, path + b"/", mode)

    def walk(self, path: bytes) -> None:
        """Append `path` and, if it is a directory, everything below it.

        Raises SourceError, with the path on disk, for files that cannot be read or cannot
        be in a layer.
        """
        with _translate_errors():
            self._native.walk(path)

    def list(self) -> list[tuple[bytes, bytes, int, bytes]]:
        """Return the typeflag, name, mode and link target of each entry, in order."""
        return self._native.list()

    def __len__(self) -> int:
        return len(self._native)

    @property
    def records(self) -> memoryview:
        """A canonical encoding of all metadata except owner and mtime."""
        return memoryview(self._native)

    @property
    def identities(self) -> tuple[bytes, int]:
        """The device, inode, modification time and ctime of each file, encoded, and the latest
        ctime. A file keeps them only as long as nobody changes it; times are in ns since the
        epoch, modulo 2⁶⁴.
        """
        return self._native.identities

    @property
    def size(self) -> int:
        """The number of bytes that the entries take in a tar, content and padding included."""
        return self._native.tar_size

    @property
    def layer_size(self) -> int:
        """The size in bytes of the layer made of these entries, trailer included."""
        return tar_size(self.size)


class TarContent:
    """The bytes of one tar, written in order."""

    def __init__(self, native: _tarhash.Writer, size: int) -> None:
        self.size = size
        self._native = native
        self._start = native.position

    @property
    def written(self) -> int:
        """The number of bytes of this tar written so far."""
        return self._native.position - self._start

    def write_entries(self, entries: Entries) -> None:
        """Write a whole tar: every entry with its file's content, and the trailer.

        Raises SourceError for a file that has changed since it was walked.
        """
        with _translate_errors():
            self._native.write_entries(entries._native)
        self.write_trailer()

    def copy(self, fd: int, count: int, path: bytes, offset: int = -1) -> None:
        """Copy `count` bytes of `fd` from `offset`, or from its current position if `offset`
        is negative. Errors name the file as `path`.
        """
        with _translate_errors():
            self._native.copy(fd, count, path, offset)

    def write(self, data: bytes) -> None:
        """Write `data`."""
        with _translate_errors():
            self._native.write(data)

    def pad(self) -> None:
        """End a member's content."""
        with _translate_errors():
            self._native.write_zeros(_padding(self.written, BLOCK))

    def write_trailer(self) -> None:
        """End the tar."""
        with _translate_errors():
            self._native.write_zeros(tar_size(self.written) - self.written)


def write_layer(fd: int, size: int, write_to: Callable[[TarContent], None]) -> None:
    """Call `write_to` to write a tar of `size` bytes to `fd`, without an archive around it."""
    native = _tarhash.Writer(fd)
    try:
        write_to(TarContent(native, size))
        with _translate_errors():
            native.flush()
    finally:
        native.close()


class _HashedTar(TarContent):
    """A tar of `size` bytes that is hashed as it is written, unless its `digest` is known. Write
    the content, then call `close`, then `hashed`. Errors name it as `name`.
    """

    def __init__(
        self, native: _tarhash.Writer, name: str, size: int, digest: Digest | None = None
    ) -> None:
        super().__init__(native, size)
        self._name = name
        self._known_digest = digest
        self._digest_number: int | None = None
        if digest is None:
            with _translate_errors():
                native.begin_hash()

    def close(self) -> None:
        """End the tar. Raises SizeMismatch if its size is not the one announced."""
        if self.written != self.size:
            raise SizeMismatch(self._name, self.size, self.written)
        with _translate_errors():
            if self._known_digest is None:
                self._digest_number = self._native.end_hash()
            self._end()

    def _end(self) -> None:
        """Write what follows the tar."""
        raise NotImplementedError

    def is_hashed(self) -> bool:
        """Return whether `hashed` would not wait."""
        if self._known_digest is not None:
            return True
        number = self._digest_number
        return number is not None and self._native.digest(number, wait=False) is not None

    def hashed(self) -> Digest:
        """Return the digest of the closed tar; wait until it is hashed."""
        if self._known_digest is not None:
            return self._known_digest
        if self._digest_number is None:
            raise ValueError("the tar is not closed")
        return Digest("sha256:" + self._native.digest(self._digest_number).hex())


class HashedContent(_HashedTar):
    """A tar of `size` bytes written to a descriptor of its own, and hashed: see MemberWriter.
    A context manager, which frees `buffers` bytes; several can be written at the same time, each
    in a thread. Errors name it as `name`. The descriptor stays open.
    """

    def __init__(
        self, fd: int, size: int, *, name: str = "layer.tar", buffers: int = MAX_BUFFERS
    ) -> None:
        native = _tarhash.Writer(fd, min(max(buffers, MIN_BUFFERS), MAX_BUFFERS) // _SLOT)
        super().__init__(native, name, size)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self._native.close()

    def _end(self) -> None:
        self._native.flush()


def write_hashed_layer(fd: int, size: int, write_to: Callable[[TarContent], None]) -> Digest:
    """Write a tar as `write_layer` does, and return its digest. Raises SizeMismatch if its size is
    not the one announced.
    """
    with HashedContent(fd, size) as content:
        write_to(content)
        content.close()
        return content.hashed()


def hash_layer(size: int, write_to: Callable[[TarContent], None]) -> Digest:
    """Write a tar as `write_hashed_layer` does, but to nowhere."""
    fd = os.open(os.devnull, os.O_WRONLY | os.O_CLOEXEC)
    try:
        return write_hashed_layer(fd, size, write_to)
    finally:
        os.close(fd)


class TarWriter:
    """A tar written to `fd` member by member, each a header and then its content.

    An unfinished tar has no trailer, so that a reader sees that it is truncated.
    """

    def __init__(self, fd: int) -> None:
        self._native = _tarhash.Writer(fd)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self._native.close()

    @property
    def position(self) -> int:
        """The number of bytes written so far; any thread may read it."""
        return self._native.position

    def write(self, data: bytes) -> None:
        """Write `data`."""
        with _translate_errors():
            self._native.write(data)

    def copy(self, fd: int, count: int, path: bytes, offset: int) -> None:
        """Copy `count` bytes of `fd` from `offset`. Errors name the file as `path`."""
        with _translate_errors():
            self._native.copy(fd, count, path, offset)

    def pad(self) -> None:
        """End a member's content."""
        with _translate_errors():
            self._native.write_zeros(_padding(self.position, BLOCK))

    def finish(self) -> int:
        """Write the trailer and flush everything to `fd`. Return the tar's size in bytes."""
        with _translate_errors():
            self._native.write_zeros(2 * BLOCK)
            self._native.write_zeros(_padding(self.position, RECORD))
            self._native.flush()
        return self.position


class ArchiveWriter(TarWriter):
    """The outer tar: members without owner names, all modified at `mtime` (seconds)."""

    def __init__(self, fd: int, *, mtime: int) -> None:
        super().__init__(fd)
        self._mtime = mtime

    def _write_header(self, name: str, size: int, link: str = "") -> None:
        self._native.write(
            encode_header(
                name=name.encode(),
                mode=MEMBER_MODE,
                size=size,
                mtime=self._mtime,
                link=link.encode(),
                typeflag=HARD_LINK if link else FILE,
            )
        )

    def begin_member(self, name: str, size: int) -> _tarhash.Writer:
        """Begin a member of `size` bytes, to be written as a MemberWriter does it."""
        with _translate_errors():
            self._write_header(name, size)
        return self._native

    def write_member(self, name: str, data: bytes) -> None:
        """Write a small member."""
        with _translate_errors():
            self._write_header(name, len(data))
            self._native.write(data)
            self._native.write_zeros(_padding(len(data), BLOCK))

    def write_link(self, name: str, target: str) -> None:
        """Write `name` as a hard link to the earlier member `target`."""
        with _translate_errors():
            self._write_header(name, 0, target)


class MemberWriter(_HashedTar):
    """A member of an archive: `size` bytes, hashed as they are written. Write the content,
    then call `close`, then `hashed`.

    If its `digest` is known, nothing is hashed, and the system moves the files of entries without
    reading them, where it can.
    """

    def __init__(
        self, archive: ArchiveWriter, archive_name: str, size: int, digest: Digest | None = None
    ) -> None:
        super().__init__(archive.begin_member(archive_name, size), archive_name, size, digest)
        self.archive_name = archive_name

    def _end(self) -> None:
        self._native.write_zeros(_padding(self.size, BLOCK))

"""A directory as a container, whose members are the files in it.

Symlinks are followed, also out of the directory: layouts that Nix and Bazel make consist of
links. Names that documents contain never lead out of it. Nothing is scanned in advance.
"""

from __future__ import annotations

import os
import posixpath
from collections.abc import Generator, Iterator, Sequence
from contextlib import contextmanager

from stream.archives.bytesource import Budget, ByteSource, FileBytes, pieces, reading
from stream.archives.container import (
    Blob,
    Container,
    Peruse,
    T_co,
    check_document,
    content_of,
    peruse_content,
    where,
)
from stream.archives.decompress import MAGIC_SIZE, compression_of
from stream.errors import ArchiveError
from stream.text import one_line


def open_directory(path: str, peruse: Peruse[T_co] | None = None) -> Directory[T_co]:
    """Return the directory at `path` as a container."""
    return Directory(path, os.path.abspath(encode_path(path)), peruse)


def encode_path(path: str) -> bytes:
    """Return `path` as bytes for system calls, independently of the locale."""
    return path.encode("utf-8", "surrogateescape")


class Directory(Container[T_co]):
    """The files below the directory `root`, an absolute path."""

    def __init__(self, name: str, root: bytes, peruse: Peruse[T_co] | None) -> None:
        self.name = name
        self._root = root
        self._peruse = peruse
        self._budget = Budget()

    def _path(self, name: str) -> bytes:
        path = posixpath.normpath(name)
        if path.startswith(("/", "../")) or path == "..":
            raise ArchiveError(where(self.name, one_line(name)), "is outside the directory")
        try:
            encoded = encode_path(path)
        except ValueError:
            encoded = b"\0"
        if b"\0" in encoded:
            raise ArchiveError(where(self.name, one_line(name)), "is not a valid file name")
        return os.path.join(self._root, encoded)

    @contextmanager
    def _opened(self, name: str) -> Iterator[int]:
        with reading(where(self.name, name)):
            fd = os.open(self._path(name), os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
        try:
            yield fd
        finally:
            os.close(fd)

    def find(self, name: str) -> Blob | None:
        if not os.path.isfile(self._path(name)):
            return None
        with reading(where(self.name, name)), self._opened(name) as fd:
            size = os.fstat(fd).st_size
            compression = compression_of(os.pread(fd, MAGIC_SIZE, 0))
        return Blob(
            name=posixpath.normpath(name),
            size=size,
            offset=0,
            compression=compression,
            content_size=None if compression else size,
        )

    def document(self, blob: Blob) -> bytes:
        check_document(self.name, blob)
        with self._opened(blob.name) as fd:
            return b"".join(pieces(self._bytes(fd, blob), blob.size))

    def peruse(self, blob: Blob) -> T_co:
        with self._opened(blob.name) as fd:
            result = peruse_content(self._peruse, content_of(self._bytes(fd, blob), blob))
        if isinstance(result, ArchiveError):
            raise ArchiveError(result.where, result.reason)
        return result

    def read(self, blobs: Sequence[Blob]) -> Generator[tuple[Blob, ByteSource], None, None]:
        for blob in dict.fromkeys(blobs):
            with self._opened(blob.name) as fd:
                yield blob, self._bytes(fd, blob)

    def _bytes(self, fd: int, blob: Blob) -> ByteSource:
        return FileBytes(fd, where(self.name, blob.name), size=blob.size, budget=self._budget)

    def close(self) -> None:
        pass

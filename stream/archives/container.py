"""What an image archive is kept in: a tar, plain or compressed, or a directory.

A container is scanned once, for its members and for the small documents among
them; then blobs are read from it, by position where that is possible, else all
in one more reading from the front. Nothing is unpacked. Knows names, links and
bytes; not which of them are an image's.
"""

from __future__ import annotations

import os
import posixpath
import stat
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass, replace
from typing import Any, Protocol

from stream.archives import tarreader
from stream.archives.bytesource import ByteSource, FileBytes, Part, StreamBytes, pieces
from stream.archives.decompress import MAGIC_SIZE, Budget, compression_of, decompressed
from stream.errors import ArchiveError
from stream.limits import MAX_LINKS
from stream.text import printable
from stream.typeflags import FILE, HARD_LINK, LINK

MAX_DOCUMENT = 8 << 20  # bytes of a JSON document
MAX_DOCUMENTS = 64 << 20  # bytes of all that are kept while a compressed tar is scanned
MAX_MEMBERS = 100_000


@dataclass(frozen=True, slots=True, kw_only=True)
class Blob:
    """The bytes of one member: `size` of them, `compression` or None for none.
    `content_size` is that of the content, uncompressed, if it is known.
    """

    name: str
    size: int
    offset: int
    compression: str | None
    content_size: int | None


# Called with the content of each blob that may be a layer, uncompressed: what it
# returns is kept.
Peruse = Callable[[ByteSource], Any]


class Container(Protocol):
    """Members by name, and their bytes. `name` is for errors."""

    name: str

    def find(self, name: str) -> Blob | None:
        """The blob called `name`, through links; None if there is none."""

    def document(self, blob: Blob) -> bytes:
        """All bytes of a small blob."""

    def measure(self, blob: Blob) -> Blob:
        """`blob` with its content_size known."""

    def perused(self, blob: Blob) -> Any:
        """What the container's `peruse` says of `blob`. Raises its ArchiveError."""

    def read(self, blobs: Sequence[Blob]) -> Generator[tuple[Blob, ByteSource], None, None]:
        """Each distinct blob with its bytes, in the order in which the container
        has them. A source is read before the next one is asked for.
        """

    def close(self) -> None:
        """Close its files."""


def range_of(source: ByteSource) -> tuple[int, int] | None:
    """The descriptor and the offset at which `source` begins, if it is plainly
    part of a file, else None.
    """
    return source.range if isinstance(source, FileBytes) else None


def _encoded(path: str) -> bytes:
    """A path for the system, whatever the locale."""
    return path.encode("utf-8", "surrogateescape")


def where(container: str, member: str) -> str:
    """The place of a member, for errors."""
    return f"{container}: {member}"


@dataclass(slots=True)
class _Link:
    target: str


class _Names:
    """The members of a tar by normal name; links are resolved when asked for."""

    def __init__(self, container: str) -> None:
        self._container = container
        self._members: dict[str, Blob | _Link] = {}
        self._count = 0

    def normal(self, name: bytes) -> str:
        """`name` as the key of a member. Raises ArchiveError for one that leaves
        the archive.
        """
        text = name.decode("utf-8", "surrogateescape")
        parts = [part for part in text.split("/") if part not in ("", ".")]
        if text.startswith("/") or ".." in parts:
            raise ArchiveError(
                self._container, f"{printable(name)}: a name that leaves the archive"
            )
        return "/".join(parts)

    def count(self) -> None:
        """One more member."""
        self._count += 1
        if self._count > MAX_MEMBERS:
            raise ArchiveError(self._container, f"has more than {MAX_MEMBERS} members")

    def add(self, name: str, member: Blob | _Link) -> None:
        if name in self._members:
            raise ArchiveError(self._container, f"{name}: two members of this name")
        self._members[name] = member

    def add_link(self, member: tarreader.Member, name: str) -> None:
        """A hard link's target is a name in the archive; a symbolic link's is
        relative to its own directory.
        """
        target = member.link.decode("utf-8", "surrogateescape")
        if member.typeflag == LINK:
            target = posixpath.join(posixpath.dirname(name), target)
        target = posixpath.normpath(target.lstrip("/") or ".")
        if target == ".." or target.startswith("../"):
            raise ArchiveError(
                self._container,
                f"{name}: a link that leaves the archive ({printable(member.link)})",
            )
        self.add(name, _Link(target))

    def find(self, name: str) -> Blob | None:
        member = self._members.get(posixpath.normpath(name).lstrip("/"))
        for _ in range(MAX_LINKS):
            if not isinstance(member, _Link):
                return member
            member = self._members.get(member.target)
        raise ArchiveError(self._container, f"{name}: a loop of links")


def _may_be_document(name: str, head: bytes) -> bool:
    return head.lstrip()[:1] in (b"{", b"[") or name.endswith(".json")


class _TarContainer:
    """What plain and compressed tars have in common: the scan."""

    def __init__(self, fd: int, name: str, peruse: Peruse | None) -> None:
        self.name = name
        self._fd = fd
        self._peruse = peruse
        self._perused: dict[int, Any] = {}
        self._names = _Names(name)
        self._documents: dict[int, bytes] = {}
        self._kept = 0
        for member in tarreader.read_members(source := self._source()):
            self._names.count()
            normal = self._names.normal(member.name)
            if member.typeflag in (LINK, HARD_LINK):
                self._names.add_link(member, normal)
            elif member.typeflag == FILE:
                self._names.add(normal, self._scan_file(member, normal, source))

    def _source(self) -> ByteSource:
        """The tar from its beginning."""
        raise NotImplementedError

    def _scan_file(self, member: tarreader.Member, name: str, source: ByteSource) -> Blob:
        head = source.read(min(member.size, MAGIC_SIZE))
        return Blob(
            name=name,
            size=member.size,
            offset=member.offset,
            compression=compression_of(head),
            content_size=None if compression_of(head) else member.size,
        )

    def find(self, name: str) -> Blob | None:
        return self._names.find(name)

    def measure(self, blob: Blob) -> Blob:
        if blob.content_size is not None or blob.compression is None:
            return blob
        with closing(self.read([blob])) as reading:
            for _, source in reading:
                size = sum(map(len, pieces(decompressed(source, blob.compression, source.name))))
                return replace(blob, content_size=size)
        raise AssertionError("a blob that was scanned is there")

    def read(self, blobs: Sequence[Blob]) -> Generator[tuple[Blob, ByteSource], None, None]:
        raise NotImplementedError

    def perused(self, blob: Blob) -> Any:
        if blob.offset not in self._perused:
            with closing(self.read([blob])) as reading:
                for _, source in reading:
                    self._perused[blob.offset] = _peruse(self._peruse, _content(source, blob))
        result = self._perused[blob.offset]
        if isinstance(result, ArchiveError):
            raise result
        return result

    def close(self) -> None:
        os.close(self._fd)


def _peruse(peruse: Peruse | None, content: ByteSource) -> Any:
    """What `peruse` returns, or the ArchiveError that it raises: what looks like a
    layer need not be one.
    """
    assert peruse is not None
    try:
        return peruse(content)
    except ArchiveError as error:
        return error


def _content(source: ByteSource, blob: Blob) -> ByteSource:
    """What `source`, the stored bytes of `blob`, are uncompressed."""
    if blob.compression is None:
        return source
    return decompressed(source, blob.compression, source.name)


def _check_document(container: str, blob: Blob) -> None:
    if blob.size > MAX_DOCUMENT:
        raise ArchiveError(
            where(container, blob.name),
            f"a document of {blob.size} bytes; at most {MAX_DOCUMENT} are read",
        )


class PlainTar(_TarContainer):
    """A tar in a regular file, read by position."""

    def _source(self) -> ByteSource:
        return FileBytes(self._fd, self.name)

    def document(self, blob: Blob) -> bytes:
        _check_document(self.name, blob)
        return b"".join(pieces(self._part(blob), blob.size))

    def read(self, blobs: Sequence[Blob]) -> Generator[tuple[Blob, ByteSource], None, None]:
        for blob in sorted(set(blobs), key=lambda blob: blob.offset):
            yield blob, self._part(blob)

    def _part(self, blob: Blob) -> ByteSource:
        place = where(self.name, blob.name)
        return FileBytes(self._fd, place, offset=blob.offset, size=blob.size)


class CompressedTar(_TarContainer):
    """A compressed tar, read from the front: once to scan it, and once more for
    blobs. What may be a document is kept from the first reading.
    """

    def __init__(self, fd: int, name: str, compression: str, peruse: Peruse | None) -> None:
        self._compression = compression
        super().__init__(fd, name, peruse)

    def _source(self) -> ByteSource:
        file = FileBytes(self._fd, self.name)
        self._budget = Budget(lambda: file.position)
        return decompressed(file, self._compression, self.name)

    def _scan_file(self, member: tarreader.Member, name: str, source: ByteSource) -> Blob:
        part = Part(source, member.size, where(self.name, name))
        head = part.read(MAGIC_SIZE)
        compression = compression_of(head)
        size = member.size
        if not compression and member.size <= MAX_DOCUMENT and _may_be_document(name, head):
            self._keep_document(member.offset, head + b"".join(pieces(part, size - len(head))))
        elif compression or self._peruse is not None:
            content: ByteSource = StreamBytes(_Joined(head, part), part.name)
            if compression:
                content = decompressed(content, compression, part.name, self._budget)
            if self._peruse is not None:
                self._perused[member.offset] = _peruse(self._peruse, content)
            size = content.position + sum(map(len, pieces(content)))
        return Blob(
            name=name,
            size=member.size,
            offset=member.offset,
            compression=compression,
            content_size=size,
        )

    def _keep_document(self, offset: int, data: bytes) -> None:
        self._kept += len(data)
        if self._kept > MAX_DOCUMENTS:
            raise ArchiveError(self.name, f"holds more than {MAX_DOCUMENTS} bytes of documents")
        self._documents[offset] = data

    def document(self, blob: Blob) -> bytes:
        _check_document(self.name, blob)
        try:
            return self._documents[blob.offset]
        except KeyError:
            raise ArchiveError(where(self.name, blob.name), "is not JSON") from None

    def read(self, blobs: Sequence[Blob]) -> Generator[tuple[Blob, ByteSource], None, None]:
        wanted = {blob.offset: blob for blob in blobs}
        if not wanted:
            return
        source = self._source()
        for member in tarreader.read_members(source):
            blob = wanted.pop(member.offset, None)
            if blob is not None:
                if blob.size != member.size:
                    raise ArchiveError(where(self.name, blob.name), "changed between two readings")
                yield blob, Part(source, blob.size, where(self.name, blob.name))
                if not wanted:
                    return
        raise ArchiveError(self.name, "changed between two readings")


class _Joined:
    """`head`, then what `source` has."""

    def __init__(self, head: bytes, source: ByteSource) -> None:
        self._head = head
        self._source = source

    def read(self, count: int, /) -> bytes:
        if self._head:
            data, self._head = self._head[:count], self._head[count:]
            return data
        return self._source.read(count)


class SeekableTar(PlainTar):
    """A tar in seekable zstd (many frames and a table of them), read by position."""

    def __init__(self, fd: int, name: str, peruse: Peruse | None) -> None:
        import pyzstd

        file = open(fd, "rb", closefd=False)  # noqa: SIM115 — closed with the container
        try:
            self._zstd = pyzstd.SeekableZstdFile(file)
        except pyzstd.SeekableFormatError as error:
            raise ArchiveError(name, f"its seek table is not whole: {error}") from error
        Budget(lambda: os.fstat(fd).st_size).take(self._zstd.seek(0, os.SEEK_END), name)
        super().__init__(fd, name, peruse)

    def _source(self) -> ByteSource:
        return _SeekableBytes(self._zstd, self.name, 0, None)

    def _part(self, blob: Blob) -> ByteSource:
        return _SeekableBytes(self._zstd, where(self.name, blob.name), blob.offset, blob.size)


class _SeekableBytes:
    """Part of a seekable zstd file."""

    def __init__(self, file: object, name: str, offset: int, size: int | None) -> None:
        self.name = name
        self.position = 0
        self._file = file
        self._offset = offset
        end = file.seek(0, os.SEEK_END)  # type: ignore[attr-defined]
        self._size = end - offset if size is None else size

    def read(self, count: int) -> bytes:
        """See ByteSource."""
        count = max(min(count, self._size - self.position), 0)
        try:
            self._file.seek(self._offset + self.position)  # type: ignore[attr-defined]
            data: bytes = self._file.read(count)  # type: ignore[attr-defined]
        except Exception as error:
            if isinstance(error, MemoryError):
                raise
            raise ArchiveError(self.name, f"is not whole zstd: {error}") from error
        self.position += len(data)
        return data

    def skip(self, count: int) -> None:
        """See ByteSource."""
        self.position += count
        if self.position > self._size:
            raise ArchiveError(self.name, "is cut short")


class Directory:
    """A directory, of which every file is a member. Links lead nowhere else."""

    def __init__(self, path: str, peruse: Peruse | None) -> None:
        self.name = path
        self._peruse = peruse
        self._root = os.path.realpath(_encoded(path))

    def _path(self, name: str) -> bytes:
        try:
            path = os.path.realpath(os.path.join(self._root, _encoded(name)))
        except ValueError:
            raise ArchiveError(where(self.name, name), "a name that no file has") from None
        if os.path.commonpath([path, self._root]) != self._root:
            raise ArchiveError(where(self.name, name), "a name that leaves the directory")
        return path

    @contextmanager
    def _opened(self, name: str) -> Iterator[int]:
        try:
            fd = os.open(self._path(name), os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
        except OSError as error:
            reason = f"cannot be read: {error.strerror}"
            raise ArchiveError(where(self.name, name), reason) from error
        try:
            yield fd
        finally:
            os.close(fd)

    def find(self, name: str) -> Blob | None:
        if not os.path.isfile(self._path(name)):
            return None
        with self._opened(name) as fd:
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
        _check_document(self.name, blob)
        with self._opened(blob.name) as fd:
            return b"".join(pieces(FileBytes(fd, where(self.name, blob.name)), blob.size))

    measure = _TarContainer.measure

    def perused(self, blob: Blob) -> Any:
        for _, source in self.read([blob]):
            result = _peruse(self._peruse, _content(source, blob))
            if isinstance(result, ArchiveError):
                raise result
        return result

    def read(self, blobs: Sequence[Blob]) -> Generator[tuple[Blob, ByteSource], None, None]:
        for blob in dict.fromkeys(blobs):
            with self._opened(blob.name) as fd:
                yield blob, FileBytes(fd, where(self.name, blob.name), size=blob.size)

    def close(self) -> None:
        pass


def open_container(path: str, peruse: Peruse | None = None) -> Container:
    """The container at `path`: a directory, or a file that is a tar however
    compressed. Raises ArchiveError.
    """
    try:
        fd = os.open(_encoded(path), os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    except OSError as error:
        raise ArchiveError(path, f"cannot be read: {error.strerror}") from error
    mode = os.fstat(fd).st_mode
    if not stat.S_ISREG(mode):
        os.close(fd)
        if stat.S_ISDIR(mode):
            return Directory(path, peruse)
        raise ArchiveError(path, "is neither a regular file nor a directory")
    try:
        compression = compression_of(os.pread(fd, MAGIC_SIZE, 0))
        if compression is None:
            return PlainTar(fd, path, peruse)
        if compression == "zstd" and _has_seek_table(fd):
            return SeekableTar(fd, path, peruse)
        return CompressedTar(fd, path, compression, peruse)
    except BaseException:
        os.close(fd)
        raise


def _has_seek_table(fd: int) -> bool:
    """The seekable format ends in a table whose last four bytes are 0x8F92EAB1."""
    size = os.fstat(fd).st_size
    return size > 17 and os.pread(fd, 4, size - 4) == b"\xb1\xea\x92\x8f"

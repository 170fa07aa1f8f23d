"""Tars as containers, read by random access or forward-only.

A tar is opened, then scanned, which returns a container. A plain tar and one in seekable
zstd are read by random access. Any other compressed tar is forward-only: it is read once for
the scan, and again for blobs.
"""

from __future__ import annotations

import io
import os
import posixpath
from abc import ABC, abstractmethod
from collections.abc import Callable, Generator, Sequence
from contextlib import closing
from typing import Generic, TypeAlias

from stream.archives import tarreader
from stream.archives.bytesource import (
    Budget,
    ByteSource,
    FileBytes,
    Part,
    StreamBytes,
    join,
    pieces,
)
from stream.archives.container import (
    Blob,
    Container,
    Peruse,
    T,
    T_co,
    check_document,
    content_of,
    may_be_document,
    peruse_content,
    where,
)
from stream.archives.decompress import MAGIC_SIZE, compression_of, decompress
from stream.archives.seekable import FrameBytes, Frames, read_seek_table
from stream.errors import ArchiveError
from stream.limits import MAX_DOCUMENT, MAX_DOCUMENTS, MAX_LINKS, MAX_MEMBER_NAMES, MAX_MEMBERS
from stream.text import printable
from stream.typeflags import FILE, HARD_LINK, LINK
from stream.values import dataclass


class Tar(ABC):
    """A tar that is open but not scanned yet. `name` is for errors."""

    name: str

    @abstractmethod
    def scan(self, peruse: Peruse[T] | None = None) -> ScannedTar[T]:
        """Scan the tar for its members and return it as a container, which owns the tar.
        `peruse` is called for each blob that may be a layer: now if the tar is forward-only,
        otherwise on demand. Raises ArchiveError.
        """

    @abstractmethod
    def document(self, blob: Blob) -> bytes:
        """Return all bytes of a small blob that the scan did not keep. Raises ArchiveError."""

    @abstractmethod
    def read(self, blobs: Sequence[Blob]) -> Generator[tuple[Blob, ByteSource], None, None]:
        """See Container."""

    @abstractmethod
    def close(self) -> None:
        """Close its file."""


def open_tar(fd: int, name: str) -> Tar:
    """Return the tar, plain or compressed, in the regular file `fd`, which it owns. Raises
    ArchiveError; the caller then still owns `fd`.
    """
    compression = compression_of(os.pread(fd, MAGIC_SIZE, 0))
    if compression is None:
        return PlainTar(fd, name)
    if compression == "zstd" and (frames := read_seek_table(fd)) is not None:
        return SeekableTar(fd, name, frames)
    return CompressedTar(fd, name, compression)


# ---- members


@dataclass(slots=True)
class _Link:
    target: str


# Tells whether two blobs, both read already, have the same content.
_Same: TypeAlias = Callable[[Blob, Blob], bool]


# Returns the CRC-32 of more bytes, given that of those before.
_Checksum: TypeAlias = Callable[[bytes, int], int]


class _Names:
    """The members of a tar by normalized name. Links are resolved on lookup."""

    def __init__(self, container: str) -> None:
        self._container = container
        self._members: dict[str, Blob | _Link] = {}
        self._count = 0
        self._bytes = 0

    def normalize(self, name: bytes) -> str:
        """Return `name` normalized, as the key of a member. Raises ArchiveError for a name
        outside the archive.
        """
        text = name.decode("utf-8", "surrogateescape")
        parts = [part for part in text.split("/") if part not in ("", ".")]
        if text.startswith("/") or ".." in parts:
            raise ArchiveError(self._container, f"{printable(name)}: is outside the archive")
        return "/".join(parts)

    def count(self, member: tarreader.Member) -> None:
        """Count a member. Raises ArchiveError if there are too many."""
        self._count += 1
        if self._count > MAX_MEMBERS:
            raise ArchiveError(self._container, f"has more than {MAX_MEMBERS} members")
        self._bytes += len(member.name) + len(member.link)
        if self._bytes > MAX_MEMBER_NAMES:
            raise ArchiveError(
                self._container, f"has more than {MAX_MEMBER_NAMES} bytes of members' names"
            )

    def add(self, name: str, member: Blob | _Link, same: _Same | None = None) -> None:
        """Add a member. One of the same name must be the same, since readers disagree on which
        one counts; `same` compares the content of two blobs. Raises ArchiveError.
        """
        known = self._members.setdefault(name, member)
        if known is member or known == member:
            return
        if not (same and isinstance(known, Blob) and isinstance(member, Blob)):
            raise ArchiveError(self._container, f"{name}: two members have this name")
        if not same(known, member):
            reason = "two members have this name, and different contents"
            raise ArchiveError(self._container, f"{name}: {reason}")

    def add_link(self, member: tarreader.Member, name: str) -> None:
        """Add a link. A hard link's target is a name in the archive; a symlink's is relative
        to its own directory. Raises ArchiveError for a target outside the archive.
        """
        target = member.link.decode("utf-8", "surrogateescape")
        if member.typeflag == LINK:
            target = posixpath.join(posixpath.dirname(name), target)
        target = posixpath.normpath(target.lstrip("/") or ".")
        if target == ".." or target.startswith("../"):
            raise ArchiveError(
                self._container,
                f"{name}: a link out of the archive ({printable(member.link)})",
            )
        self.add(name, _Link(target))

    def find(self, name: str) -> Blob | None:
        """Return the blob called `name`, through links, or None. Raises ArchiveError for a loop."""
        member = self._members.get(posixpath.normpath(name).lstrip("/"))
        for _ in range(MAX_LINKS):
            if not isinstance(member, _Link):
                return member
            member = self._members.get(member.target)
        raise ArchiveError(self._container, f"{name}: a loop of links")


def _scan(
    tar: Tar, source: ByteSource, read_file: Callable[[tarreader.Member, str], Blob], same: _Same
) -> _Names:
    """Return the members of `tar`, whose bytes are `source`. `read_file` returns the blob of a
    file whose content is next.
    """
    names = _Names(tar.name)
    for member in tarreader.read_members(source, is_argument=True):
        names.count(member)
        normal = names.normalize(member.name)
        if member.typeflag in (LINK, HARD_LINK):
            names.add_link(member, normal)
        elif member.typeflag == FILE:
            names.add(normal, read_file(member, normal), same)
    if not source.position:
        raise ArchiveError(tar.name, "is empty")
    return names


@dataclass(slots=True, kw_only=True)
class _Findings(Generic[T_co]):
    """Results by the offset of their blob: the bytes of documents, and the results or errors
    of perusing layers.
    """

    documents: dict[int, bytes]
    perused: dict[int, T_co | ArchiveError]


class ScannedTar(Container[T_co]):
    """The members of `tar`. See Container."""

    def __init__(
        self,
        tar: Tar,
        names: _Names,
        peruse: Peruse[T_co] | None,
        findings: _Findings[T_co] | None = None,
    ) -> None:
        self.name = tar.name
        self._tar = tar
        self._names = names
        self._peruse = peruse
        self._findings = findings or _Findings(documents={}, perused={})

    def find(self, name: str) -> Blob | None:
        return self._names.find(name)

    def document(self, blob: Blob) -> bytes:
        check_document(self.name, blob)
        kept = self._findings.documents.get(blob.offset)
        return self._tar.document(blob) if kept is None else kept

    def peruse(self, blob: Blob) -> T_co:
        perused = self._findings.perused
        if blob.offset not in perused:
            perused[blob.offset] = self._peruse_now(blob)
        result = perused[blob.offset]
        if isinstance(result, ArchiveError):
            raise ArchiveError(result.where, result.reason)
        return result

    def _peruse_now(self, blob: Blob) -> T_co | ArchiveError:
        # A blob that looked like a document was kept instead.
        if (kept := self._findings.documents.get(blob.offset)) is not None:
            place = where(self.name, blob.name)
            return peruse_content(self._peruse, StreamBytes(io.BytesIO(kept), place))
        with closing(self.read([blob])) as reading:
            _, source = next(reading)
            return peruse_content(self._peruse, content_of(source, blob))

    def read(self, blobs: Sequence[Blob]) -> Generator[tuple[Blob, ByteSource], None, None]:
        return self._tar.read(blobs)

    def close(self) -> None:
        self._tar.close()


# ---- random access


class PlainTar(Tar):
    """A tar in a regular file, read by random access."""

    def __init__(self, fd: int, name: str) -> None:
        self.name = name
        self._fd = fd
        self._budget = Budget()

    def scan(self, peruse: Peruse[T] | None = None) -> ScannedTar[T]:
        source = self._source()

        def read_file(member: tarreader.Member, name: str) -> Blob:
            compression = compression_of(source.read(min(member.size, MAGIC_SIZE)))
            return Blob(
                name=name,
                size=member.size,
                offset=member.offset,
                compression=compression,
                content_size=None if compression else member.size,
            )

        return ScannedTar(self, _scan(self, source, read_file, self._is_same), peruse)

    def document(self, blob: Blob) -> bytes:
        return b"".join(pieces(self._part(blob), blob.size))

    def read(self, blobs: Sequence[Blob]) -> Generator[tuple[Blob, ByteSource], None, None]:
        for blob in sorted(set(blobs), key=lambda blob: blob.offset):
            yield blob, self._part(blob)

    def close(self) -> None:
        os.close(self._fd)

    def _is_same(self, one: Blob, other: Blob) -> bool:
        blocks = zip(pieces(self._part(one)), pieces(self._part(other)), strict=False)
        return one.size == other.size and all(a == b for a, b in blocks)

    def _source(self) -> ByteSource:
        """Return the bytes of the tar, from its beginning."""
        return FileBytes.whole(self._fd, self.name, self._budget)

    def _part(self, blob: Blob) -> ByteSource:
        place = where(self.name, blob.name)
        return FileBytes(self._fd, place, offset=blob.offset, size=blob.size, budget=self._budget)


class SeekableTar(PlainTar):
    """A tar in seekable zstd, the file `fd`, which consists of `frames`."""

    def __init__(self, fd: int, name: str, frames: Frames) -> None:
        super().__init__(fd, name)
        self._frames = frames

    def _source(self) -> ByteSource:
        return FrameBytes(self._frames, self.name, self._budget)

    def _part(self, blob: Blob) -> ByteSource:
        place = where(self.name, blob.name)
        return FrameBytes(self._frames, place, self._budget, offset=blob.offset, size=blob.size)


# ---- forward-only


class ForwardTar(Tar):
    """A forward-only tar. The scan keeps the blobs that may be documents."""

    @abstractmethod
    def _content(self) -> ByteSource:
        """Start reading the tar from its beginning."""

    def scan(self, peruse: Peruse[T] | None = None) -> ScannedTar[T]:
        source = self._content()
        scan = _ForwardScan(self.name, source, peruse)
        names = _scan(self, source, scan.read_file, scan.is_same)
        return ScannedTar(self, names, peruse, scan.findings)

    def document(self, blob: Blob) -> bytes:
        raise ArchiveError(where(self.name, blob.name), "is not JSON")


class _ForwardScan(Generic[T]):
    """The single pass that scans the files of a tar: documents are kept, and blobs that may
    be layers are perused and measured.
    """

    def __init__(self, name: str, source: ByteSource, peruse: Peruse[T] | None) -> None:
        self.findings: _Findings[T] = _Findings(documents={}, perused={})
        self._name = name
        self._source = source
        self._peruse = peruse
        self._kept = 0
        self._checksums: dict[int, int] = {}  # by the offset of the blob
        # Four times as fast as the standard library's.
        from isal.isal_zlib import crc32

        self._crc32: _Checksum = crc32

    def is_same(self, one: Blob, other: Blob) -> bool:
        """Return whether two blobs are the same: documents by their bytes, others by a checksum.
        What is read of a layer is verified by its digest in any case.
        """
        documents = self.findings.documents
        return (
            one.size == other.size
            and self._checksums[one.offset] == self._checksums[other.offset]
            and documents.get(one.offset) == documents.get(other.offset)
        )

    def read_file(self, member: tarreader.Member, name: str) -> Blob:
        """Return the blob of a file whose content is next."""
        part = _Summed(self._source, member.size, where(self._name, name), self._crc32)
        blob = self._read(member, name, part)
        for _ in pieces(part):
            pass
        self._checksums[blob.offset] = part.checksum
        return blob

    def _read(self, member: tarreader.Member, name: str, part: Part) -> Blob:
        head = part.read(MAGIC_SIZE)
        compression = compression_of(head)
        size = member.size
        if not compression and member.size <= MAX_DOCUMENT and may_be_document(name, head):
            self._keep_document(member.offset, head + b"".join(pieces(part, size - len(head))))
        elif compression or self._peruse is not None:
            content: ByteSource = join(head, part)
            if compression:
                content = decompress(content, compression)
            if self._peruse is not None:
                self.findings.perused[member.offset] = peruse_content(self._peruse, content)
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
            raise ArchiveError(self._name, f"contains more than {MAX_DOCUMENTS} bytes of documents")
        self.findings.documents[offset] = data


class _Summed(Part):
    """A part with a checksum of what has been read of it."""

    def __init__(self, source: ByteSource, size: int, name: str, crc32: _Checksum) -> None:
        super().__init__(source, size, name)
        self.checksum = 0
        self._crc32 = crc32

    def read(self, count: int = -1) -> bytes:
        data = super().read(count)
        self.checksum = self._crc32(data, self.checksum)
        return data

    def skip(self, count: int) -> None:
        for _ in pieces(self, count):
            pass


class CompressedTar(ForwardTar):
    """A compressed tar in a regular file."""

    def __init__(self, fd: int, name: str, compression: str) -> None:
        self.name = name
        self._fd = fd
        self._compression = compression
        self._budget = Budget()

    def _content(self) -> ByteSource:
        return decompress(FileBytes.whole(self._fd, self.name, self._budget), self._compression)

    def read(self, blobs: Sequence[Blob]) -> Generator[tuple[Blob, ByteSource], None, None]:
        wanted = {blob.offset: blob for blob in blobs}
        if not wanted:
            return
        source = self._content()
        for member in tarreader.read_members(source):
            blob = wanted.pop(member.offset, None)
            if blob is not None:
                if blob.size != member.size:
                    raise ArchiveError(where(self.name, blob.name), "changed between two readings")
                yield blob, Part(source, blob.size, where(self.name, blob.name))
                if not wanted:
                    return
        raise ArchiveError(self.name, "changed between two readings")

    def close(self) -> None:
        os.close(self._fd)

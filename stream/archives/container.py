"""The containers of image archives: members by name, and their bytes.

A container is scanned once, for its members and the small documents among them. Its blobs
are then read by random access where that is possible, otherwise all in one more pass from
the start. Nothing is unpacked. Knows names, links and bytes; must not know which of them
belong to an image.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Generator, Sequence
from contextlib import closing
from typing import Protocol, TypeAlias, TypeVar

from stream.archives.bytesource import ByteSource, FileBytes, pieces
from stream.archives.decompress import decompress
from stream.errors import ArchiveError
from stream.limits import MAX_DOCUMENT
from stream.values import dataclass, replace

T = TypeVar("T")
T_co = TypeVar("T_co", covariant=True)


@dataclass(frozen=True, slots=True, kw_only=True)
class Blob:
    """The bytes of one member as stored: `size` of them from `offset`. `compression` is None
    if they are uncompressed; `content_size` is their uncompressed size, or None if unknown.
    """

    name: str
    size: int
    offset: int
    compression: str | None
    content_size: int | None


# Called with the uncompressed content of each blob that may be a layer. The container keeps
# its result, or the ArchiveError that it raises.
Peruse: TypeAlias = Callable[[ByteSource], T]


class Container(Protocol[T_co]):
    """Members by name, and their bytes. `name` is for errors. A container may be opened with
    a function that peruses its layers; `T_co` is the type of its result.
    """

    name: str

    @abstractmethod
    def find(self, name: str) -> Blob | None:
        """Return the blob called `name`, through links; None if there is none."""

    @abstractmethod
    def document(self, blob: Blob) -> bytes:
        """Return all bytes of a small blob. Raises ArchiveError."""

    @abstractmethod
    def peruse(self, blob: Blob) -> T_co:
        """Return the result of the container's function for `blob`, or raise the
        ArchiveError that it raised. Raises ValueError if the container has no function.
        """

    @abstractmethod
    def read(self, blobs: Sequence[Blob]) -> Generator[tuple[Blob, ByteSource], None, None]:
        """Yield each distinct blob and its bytes, in the container's order. Each source must
        be read before the next one is requested. Raises ArchiveError.
        """

    @abstractmethod
    def close(self) -> None:
        """Close the container's files."""

    def measure(self, blob: Blob) -> Blob:
        """Return `blob` with `content_size` set, decompressing it if necessary."""
        if blob.content_size is not None or blob.compression is None:
            return blob
        with closing(self.read([blob])) as reading:
            _, source = next(reading)
            return replace(blob, content_size=sum(map(len, pieces(content_of(source, blob)))))


def content_of(source: ByteSource, blob: Blob) -> ByteSource:
    """Return the content of `blob`, whose stored bytes are `source`, uncompressed."""
    if blob.compression is None:
        return source
    return decompress(source, blob.compression)


def peruse_content(peruse: Peruse[T] | None, content: ByteSource) -> T | ArchiveError:
    """Return the result of `peruse`, or the ArchiveError that it raises: a blob that looks
    like a layer need not be one. Raises ValueError if `peruse` is None.
    """
    if peruse is None:
        raise ValueError("the archive was opened without a function to peruse its layers")
    try:
        return peruse(content)
    except ArchiveError as error:
        # One without the traceback, which refers to all that was being read.
        return ArchiveError(error.where, error.reason)


def may_be_document(name: str, head: bytes) -> bool:
    """Return True if the member `name`, which begins with `head`, is JSON or meant to be."""
    return head.lstrip()[:1] in (b"{", b"[") or name.endswith(".json")


def check_document(container: str, blob: Blob) -> None:
    """Raise ArchiveError if `blob` is too large for a document."""
    if blob.size > MAX_DOCUMENT:
        raise ArchiveError(
            where(container, blob.name),
            f"has {blob.size} bytes; the limit for a document is {MAX_DOCUMENT}",
        )


def range_of(source: ByteSource) -> tuple[int, int] | None:
    """Return the descriptor and offset of `source` if it is an uncompressed part of a file,
    else None.
    """
    return source.range if isinstance(source, FileBytes) else None


def where(container: str, member: str) -> str:
    """Return the place of `member` in `container`, for errors."""
    return f"{container}: {member}"

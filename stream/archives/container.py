"""The containers of image archives: members by name, and their bytes.

A container is scanned once, for its members and for the small documents among them; then
blobs are read from it, by random access where that is possible, otherwise all in one more
reading from the front. Nothing is unpacked. Knows names, links and bytes; not which of them
are an image's.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Generator, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from typing import Protocol, TypeAlias, TypeVar

from stream.archives.bytesource import ByteSource, FileBytes, pieces
from stream.archives.decompress import decompressed
from stream.errors import ArchiveError
from stream.limits import MAX_DOCUMENT

T = TypeVar("T")
T_co = TypeVar("T_co", covariant=True)


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


# Called with the content of each blob that may be a layer, uncompressed. The container
# keeps what it returns, or the ArchiveError that it raises.
Peruse: TypeAlias = Callable[[ByteSource], T]


class Container(Protocol[T_co]):
    """Members by name, and their bytes. `name` is for errors. `T_co` is the result of the
    function that the container was opened with to peruse its layers.
    """

    name: str

    @abstractmethod
    def find(self, name: str) -> Blob | None:
        """Return the blob called `name`, through links; None if there is none."""

    @abstractmethod
    def document(self, blob: Blob) -> bytes:
        """Return all bytes of a small blob. Raises ArchiveError."""

    @abstractmethod
    def perused(self, blob: Blob) -> T_co:
        """Return what the container's function returned for `blob`, or raise the
        ArchiveError that it raised. Raises ValueError if the container has no function.
        """

    @abstractmethod
    def read(self, blobs: Sequence[Blob]) -> Generator[tuple[Blob, ByteSource], None, None]:
        """Yield each distinct blob with its bytes, in the order in which the container
        has them. A source is read before the next one is asked for.
        """

    @abstractmethod
    def close(self) -> None:
        """Close its files."""

    def measure(self, blob: Blob) -> Blob:
        """Return `blob` with its content_size known."""
        if blob.content_size is not None or blob.compression is None:
            return blob
        with closing(self.read([blob])) as reading:
            _, source = next(reading)
            return replace(blob, content_size=sum(map(len, pieces(content_of(source, blob)))))


def content_of(source: ByteSource, blob: Blob) -> ByteSource:
    """Return `source`, the stored bytes of `blob`, uncompressed."""
    if blob.compression is None:
        return source
    return decompressed(source, blob.compression, source.name)


def peruse_content(peruse: Peruse[T] | None, content: ByteSource) -> T | ArchiveError:
    """Return what `peruse` returns, or the ArchiveError that it raises: what looks like a
    layer need not be one. Raises ValueError if there is no `peruse`.
    """
    if peruse is None:
        raise ValueError("the archive was opened without a function to peruse its layers")
    try:
        return peruse(content)
    except ArchiveError as error:
        return error


def check_document(container: str, blob: Blob) -> None:
    """Raise ArchiveError if `blob` is too large for a document."""
    if blob.size > MAX_DOCUMENT:
        raise ArchiveError(
            where(container, blob.name),
            f"a document of {blob.size} bytes; at most {MAX_DOCUMENT} are read",
        )


def range_of(source: ByteSource) -> tuple[int, int] | None:
    """Return the descriptor and the offset at which `source` begins, if it is plainly
    part of a file, else None.
    """
    return source.range if isinstance(source, FileBytes) else None


def where(container: str, member: str) -> str:
    """Return the place of a member, for errors."""
    return f"{container}: {member}"

"""What comes once and from the front: standard input, a pipe, a file read like one.

Nothing is staged: what has passed is gone. Knows nothing of images.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import contextmanager

from stream.archives.bytesource import PIECE, ByteSource, StreamBytes
from stream.archives.container import Blob
from stream.archives.decompress import MAGIC_SIZE, Budget, compression_of, decompressed
from stream.archives.tars import Content, ForwardTar
from stream.errors import ArchiveError
from stream.pipes import filled, read_some

STANDARD_INPUT = "standard input"


class Sequential:
    """What the descriptor `fd` yields. Its first bytes can be looked at before they
    are read; `count` is how many came so far.
    """

    def __init__(self, fd: int, name: str) -> None:
        self.name = name
        self.count = 0
        self._fd = fd
        self._ahead = b""

    def peek(self, count: int) -> bytes:
        """The first `count` bytes or more; fewer only if there are no more."""
        while len(self._ahead) < count and (data := self._read(PIECE)):
            self._ahead += data
        return self._ahead

    def read(self, count: int, /) -> bytes:
        """See Readable."""
        if self._ahead:
            data, self._ahead = self._ahead[:count], self._ahead[count:]
            return data
        return self._read(count)

    @property
    def compression(self) -> str | None:
        """What it is compressed with. Asked for before anything is read."""
        return compression_of(self.peek(MAGIC_SIZE))

    def content(self) -> StreamBytes:
        """All of it, uncompressed."""
        source = StreamBytes(self, self.name)
        compression = self.compression
        return decompressed(source, compression, self.name) if compression else source

    def _read(self, count: int) -> bytes:
        try:
            data = read_some(self._fd, count)
        except OSError as error:
            raise ArchiveError(self.name, f"cannot be read: {error.strerror}") from error
        self.count += len(data)
        return data


@contextmanager
def opened_file(path: str | os.PathLike[str]) -> Iterator[Sequential]:
    """Open the file at `path`, or standard input if that is `-`, to be read from the front.
    Raises ArchiveError.
    """
    if path == "-":
        yield Sequential(0, STANDARD_INPUT)
        return
    name = os.fspath(path)
    try:
        fd = os.open(os.fsencode(name), os.O_RDONLY | os.O_CLOEXEC)
    except (OSError, ValueError) as error:
        reason = (
            error.strerror if isinstance(error, OSError) else "its name contains a NUL character"
        )
        raise ArchiveError(name, f"cannot be read: {reason}") from error
    try:
        yield Sequential(fd, name)
    finally:
        os.close(fd)


class SequentialTar(ForwardTar):
    """A tar, plain or compressed, that passes once: all that can be known of it is
    known from the scan. `file` is not closed.
    """

    def __init__(self, file: Sequential) -> None:
        self.name = file.name
        self._file = file

    def _content(self) -> Content:
        return Content(self._file.content(), Budget(lambda: self._file.count))

    def read(self, blobs: Sequence[Blob]) -> Generator[tuple[Blob, ByteSource], None, None]:
        raise ArchiveError(self.name, "passes once, and must be read twice: put it in a file")

    def close(self) -> None:
        pass


@contextmanager
def piped(write: Callable[[int], object], name: str) -> Iterator[ByteSource]:
    """What `write` writes to the descriptor that it is given, while it does. What it
    raises, the reader meets where the bytes end.
    """
    with filled(write, name="write") as bytes_written:
        yield StreamBytes(bytes_written, name)

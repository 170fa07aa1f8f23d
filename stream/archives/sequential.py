"""Forward-only input: standard input, a pipe, or a file read like one.

Nothing is staged, so bytes can be read only once. Must not know images.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import contextmanager

from stream.archives.bytesource import PIECE, ByteSource, StreamBytes
from stream.archives.container import Blob
from stream.archives.decompress import MAGIC_SIZE, compression_of, decompress
from stream.archives.tars import ForwardTar
from stream.errors import ArchiveError
from stream.pipes import pipe_from, read_some

STANDARD_INPUT = "standard input"


class Sequential:
    """The bytes of the descriptor `fd`, which can be peeked at before they are read. `count`
    is the number of bytes received so far.
    """

    def __init__(self, fd: int, name: str) -> None:
        self.name = name
        self.count = 0
        self._fd = fd
        self._ahead = b""

    def peek(self, count: int) -> bytes:
        """Return at least the next `count` bytes without consuming them; fewer only at the end."""
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
        """The compression of the input, or None; known only before anything is read."""
        return compression_of(self.peek(MAGIC_SIZE))

    def content(self) -> StreamBytes:
        """Return the whole input, uncompressed. Call it before anything is read."""
        source = StreamBytes(self, self.name)
        compression = self.compression
        return decompress(source, compression) if compression else source

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
    """A forward-only tar, plain or compressed: only the scan can read it. `file` is not
    closed.
    """

    def __init__(self, file: Sequential) -> None:
        self.name = file.name
        self._file = file

    def _content(self) -> ByteSource:
        return self._file.content()

    def read(self, blobs: Sequence[Blob]) -> Generator[tuple[Blob, ByteSource], None, None]:
        raise ArchiveError(self.name, "must be read twice, and a pipe cannot be; save it to a file")

    def close(self) -> None:
        pass


@contextmanager
def bytes_from(write: Callable[[int], object], name: str) -> Iterator[ByteSource]:
    """Open the bytes that `write`, run in a thread, writes to the descriptor passed to it.
    `name` is for errors. An exception of `write` is raised where the bytes end.
    """
    with pipe_from(write, name="write") as outflow:
        yield StreamBytes(outflow, name)

"""The destinations of images: each module is one output format."""

from __future__ import annotations

import io
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import BinaryIO, Literal, Protocol, Self

from stream.compression import UNCOMPRESSED, Compression, check_threads, opened_compressor
from stream.errors import ArgumentError
from stream.interfaces import Sink, Takes
from stream.observer import Observer
from stream.pipes import descriptor_of
from stream.sinks.docker_archive import DockerArchive
from stream.sinks.legacy_archive import LegacyArchive
from stream.sinks.oci_archive import OciArchive

ArchiveFormat = Literal["docker-archive", "docker-archive-legacy", "oci-archive"]


class ArchiveSink(Sink, Protocol):
    """A sink that is written to a descriptor, and closed by leaving it."""

    takes: Takes

    def __init__(self, fd: int, *, mtime: int) -> None: ...

    def __enter__(self) -> Self: ...

    def __exit__(self, *exc_info: object) -> None: ...


ARCHIVE_FORMATS: dict[ArchiveFormat, type[ArchiveSink]] = {
    "docker-archive": DockerArchive,
    "docker-archive-legacy": LegacyArchive,
    "oci-archive": OciArchive,
}


def check_format(archive_format: str) -> None:
    """Raise ArgumentError for a format that is not one of ARCHIVE_FORMATS."""
    if archive_format not in tuple(ARCHIVE_FORMATS):
        raise ArgumentError.not_one_of("archive_format", archive_format, ARCHIVE_FORMATS)


def check_output(
    output: object, observer: object, compression: object, threads: int | None
) -> None:
    """Raise ArgumentError for what nothing can be written to, or not in this way: before
    anything is read.
    """
    is_descriptor = isinstance(output, int) and not isinstance(output, bool)
    if not is_descriptor and not callable(getattr(output, "write", None)):
        reason = "is neither a file descriptor nor a binary file object"
        raise ArgumentError("output", type(output), reason)
    if isinstance(output, io.TextIOBase):
        raise ArgumentError("output", type(output), "is a text file; open it in binary mode")
    ArgumentError.require("observer", observer, Observer, type(None))
    ArgumentError.require("compression", compression, Compression)
    check_threads(threads)


@contextmanager
def opened_archive(
    output: int | BinaryIO,
    archive_format: ArchiveFormat,
    *,
    mtime: int,
    compression: Compression = UNCOMPRESSED,
    threads: int | None = None,
) -> Iterator[ArchiveSink]:
    """Open an archive that is written to a file descriptor or binary file object, compressed
    by `threads` threads (default: one per core). `output` is not closed.

    Raises OutputError. Exceptions of the caller's file object pass through.
    """
    with ExitStack() as stack:
        fd = stack.enter_context(descriptor_of(output))
        fd = stack.enter_context(opened_compressor(fd, compression, threads=threads))
        yield stack.enter_context(ARCHIVE_FORMATS[archive_format](fd, mtime=mtime))

"""The destinations of images: each module is one output format."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import BinaryIO, Literal

from stream.compression import UNCOMPRESSED, Compression, check_threads, compressed
from stream.errors import ArgumentError
from stream.pipes import descriptor_of
from stream.sinks.docker_archive import DockerArchive
from stream.sinks.oci_archive import OciArchive

ArchiveFormat = Literal["docker-archive", "oci-archive"]
ARCHIVE_FORMATS: dict[ArchiveFormat, type[DockerArchive]] = {
    "docker-archive": DockerArchive,
    "oci-archive": OciArchive,
}


def check_arguments(archive_format: str, threads: int | None) -> None:
    """Raise ArgumentError for an unknown format, or a number of threads that cannot be."""
    if archive_format not in tuple(ARCHIVE_FORMATS):
        raise ArgumentError.not_one_of("archive_format", archive_format, ARCHIVE_FORMATS)
    check_threads(threads)


@contextmanager
def opened_archive(
    output: int | BinaryIO,
    archive_format: ArchiveFormat,
    *,
    mtime: int,
    compression: Compression = UNCOMPRESSED,
    threads: int | None = None,
) -> Iterator[DockerArchive]:
    """Open an archive that is written to a file descriptor or binary file object, compressed
    by `threads` threads (default: one per core). `output` is not closed.

    Raises OutputError. Exceptions of the caller's file object pass through.
    """
    with ExitStack() as stack:
        fd = stack.enter_context(descriptor_of(output))
        fd = stack.enter_context(compressed(fd, compression, threads=threads))
        yield stack.enter_context(ARCHIVE_FORMATS[archive_format](fd, mtime=mtime))

"""Several images merged into one archive, each distinct layer once.

A layer is identified by its diff_id, never by its member's name, and is verified while it
passes. Nothing is staged on disk. Knows archives; not argv.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from contextlib import ExitStack
from typing import BinaryIO

from stream.archives.images import Archive, ArchiveImage, open_archive
from stream.archives.target import split_archive
from stream.compression import UNCOMPRESSED, Compression
from stream.errors import ArgumentError
from stream.model import Image
from stream.observer import Observer
from stream.pipeline import write_images
from stream.sinks import ArchiveFormat, check_format, check_output, opened_archive
from stream.sources.archives import ArchiveSources, begins_tar, check_images

MTIME = 1  # of all members, as in images made here


def merge(  # noqa: PLR0913 — the options of the command, each of its own
    archives: Sequence[str | os.PathLike[str]],
    output: int | BinaryIO,
    observer: Observer | None = None,
    *,
    archive_format: ArchiveFormat = "docker-archive",
    compression: Compression = UNCOMPRESSED,
    threads: int | None = None,
) -> list[Image]:
    """Write the images of all `archives` as one archive to a file descriptor or binary file
    object, each layer once. An archive is `FILE` for all its images or `FILE:name:tag` for
    one of them.

    Return the record of each image, in order of first occurrence. If images share a tag, the
    last one keeps it, as with `docker load`, and `observer` is warned. Raises ArgumentError
    before anything is read, and ArchiveError, DigestMismatch or OutputError; then there is
    no manifest. `output` is not closed.
    """
    ArgumentError.require("archives", archives, list, tuple)
    if not archives:
        raise ArgumentError("archives", archives, "is empty; there is nothing to merge")
    for target in archives:
        ArgumentError.require("archives", target, str, os.PathLike)
    check_format(archive_format)
    check_output(output, observer, compression, threads)
    observer = observer or Observer()
    with ExitStack() as stack:
        inputs: list[tuple[Archive[object], Sequence[ArchiveImage]]] = []
        for target in archives:
            path, repo_tag = split_archive(os.fspath(target))
            archive = stack.enter_context(open_archive(path, begins_tar))
            chosen = archive.images if repo_tag is None else [archive.choose(repo_tag)]
            check_images(archive, chosen)
            inputs.append((archive, chosen))
        sources = ArchiveSources(inputs, observer)
        sink = stack.enter_context(
            opened_archive(
                output, archive_format, mtime=MTIME, compression=compression, threads=threads
            )
        )
        merged = write_images([sources], sink, observer)
    observer.finished(*merged)
    return merged

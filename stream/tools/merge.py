"""Several images merged into one archive, each distinct layer once.

A layer of an archive is identified by its diff_id, never by its member's name, and is verified
while it passes; one of a conf by its fingerprint. Nothing is staged on disk. Knows archives and
confs; not argv.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from contextlib import ExitStack
from typing import BinaryIO

from stream.archives.images import open_archive
from stream.archives.sequential import Sequential
from stream.compression import UNCOMPRESSED, Compression
from stream.config import require_tag
from stream.digests import NO_DIGESTS, Digests
from stream.errors import ArgumentError
from stream.interfaces import ImageSources
from stream.model import Image, ImageConf
from stream.observer import Observer
from stream.pipeline import write_images
from stream.sinks import ARCHIVE_FORMATS, ArchiveFormat, check_format, check_output, opened_archive
from stream.sources.archives import ArchiveSources, begins_tar, check_images
from stream.tools.planned import PLANNING, Planning
from stream.tools.target import ArchiveFile, read_targets
from stream.tools.write import opened_sources

MTIME = 1  # of all members, as in images made here

Input = ImageConf | ArchiveFile


def merge(  # noqa: PLR0913 — the options of the command, each of its own
    targets: Sequence[ImageConf | str | os.PathLike[str]],
    output: int | BinaryIO,
    observer: Observer | None = None,
    *,
    archive_format: ArchiveFormat = "docker-archive",
    compression: Compression = UNCOMPRESSED,
    threads: int | None = None,
    digests: Digests = NO_DIGESTS,
) -> list[Image]:
    """Write the images of all `targets` as one archive to a file descriptor or binary file
    object, each layer once. A target is a conf, parsed, in a file or on standard input (`-`), a
    specification, or an archive, `FILE` for all its images or `FILE:name:tag` for one of them. For `digests` see
    `write_image`.

    Return the record of each image, in order of first occurrence. If images share a tag, the
    last one keeps it, as with `docker load`, and `observer` is warned; in an OCI archive, the last
    one for each platform. Raises ArgumentError or
    ConfError before anything is written, RecipeError, SourceError, ArchiveError,
    DigestMismatch, SizeMismatch or OutputError; then there is no manifest. `output` is not
    closed.
    """
    check_format(archive_format)
    check_output(output, observer, compression, threads)
    observer = observer or Observer()
    return merge_inputs(
        find_inputs(targets, observer),
        output,
        observer,
        archive_format=archive_format,
        compression=compression,
        threads=threads,
        digests=digests,
    )


def find_inputs(
    targets: Sequence[ImageConf | str | os.PathLike[str]],
    observer: Observer,
    planning: Planning = PLANNING,
) -> list[Input]:
    """Return the conf or archive that each of `targets` names, before any output is opened. See
    `read_target`.
    """
    ArgumentError.require("targets", targets, list, tuple)
    if not targets:
        raise ArgumentError("targets", targets, "is empty; there is nothing to merge")
    if [*targets].count("-") > 1:
        raise ArgumentError("targets", "-", "standard input can only be read once")
    inputs: list[Input] = []
    for target in targets:
        ArgumentError.require("targets", target, ImageConf, str, os.PathLike)
        found = (
            [target]
            if isinstance(target, ImageConf)
            else read_targets(target, warn=observer.warning, planning=planning)
        )
        if isinstance(found, Sequential):
            reason = (
                "is an archive, which must be read twice, and a pipe cannot be; save it to a file"
            )
            raise ArgumentError("targets", found.name, reason)
        if isinstance(found, ArchiveFile):
            inputs.append(found)
            continue
        for conf in found:
            require_tag(conf)
        inputs += found
    return inputs


def merge_inputs(  # noqa: PLR0913 — the options of the command, each of its own
    inputs: Sequence[Input],
    output: int | BinaryIO,
    observer: Observer,
    *,
    archive_format: ArchiveFormat,
    compression: Compression,
    threads: int | None,
    digests: Digests,
) -> list[Image]:
    """Write the images of what `find_inputs` found. See `merge`."""
    with ExitStack() as stack:
        indexes = ARCHIVE_FORMATS[archive_format].takes.indexes
        images = [_opened(found, stack, observer, indexes=indexes) for found in inputs]
        sink = stack.enter_context(
            opened_archive(
                output, archive_format, mtime=MTIME, compression=compression, threads=threads
            )
        )
        merged = write_images(images, sink, observer, digests)
    observer.finished(*merged)
    return merged


def _opened(found: Input, stack: ExitStack, observer: Observer, *, indexes: bool) -> ImageSources:
    if isinstance(found, ImageConf):
        sources = stack.enter_context(opened_sources(found, observer))
        for warning in sources.warnings:
            observer.warning(warning)
        return sources
    archive = stack.enter_context(open_archive(found.path, begins_tar))
    if found.repo_tag is None:
        chosen = archive.images
    elif indexes:
        chosen = archive.tagged(found.repo_tag)
    else:
        chosen = (archive.choose(found.repo_tag),)
    check_images(archive, chosen)
    return ArchiveSources(archive, chosen)

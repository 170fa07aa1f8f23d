"""Write the image of a conf, or of several, as an archive. Knows neither argv nor how layers are made."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from itertools import chain
from typing import TYPE_CHECKING, BinaryIO

from stream.compression import UNCOMPRESSED, Compression
from stream.config import require_tag
from stream.digests import NO_DIGESTS, Digests
from stream.errors import ArgumentError
from stream.model import Descriptor, Image, ImageConf, ImageDocuments
from stream.observer import Observer
from stream.oci.documents import INDEX_TYPE, IndexEntry, describe, platform_index
from stream.oci.platform import Platform
from stream.pipeline import write_images
from stream.sinks import ARCHIVE_FORMATS, ArchiveFormat, check_format, check_output, opened_archive
from stream.sources import image
from stream.sources.store import Walk, walk
from stream.tools.platforms import check_platforms

if TYPE_CHECKING:
    from stream.sources.base.image import BaseImage


def write_image(  # noqa: PLR0913 — the options of the command, each of its own
    conf: ImageConf,
    output: int | BinaryIO,
    observer: Observer | None = None,
    *,
    archive_format: ArchiveFormat = "docker-archive",
    compression: Compression = UNCOMPRESSED,
    threads: int | None = None,
    digests: Digests = NO_DIGESTS,
) -> Image:
    """Write the image of `conf` to a file descriptor or binary file object, compressed by
    `threads` threads (default: one per core). Layers whose digests `digests` has are not hashed;
    those of others are recorded there.

    Return the image's record. Raises ArgumentError, or ConfError if `conf` has no tag,
    before anything is read; RecipeError, SourceError, ArchiveError, DigestMismatch, StaleDigest,
    SizeMismatch or OutputError: then the archive has no `manifest.json` and no trailer, and
    its reader sees that it is truncated. `output` is not closed.
    """
    ArgumentError.require("conf", conf, ImageConf)
    (written,) = write_index(
        [conf],
        output,
        observer,
        archive_format=archive_format,
        compression=compression,
        threads=threads,
        digests=digests,
    )
    return written


def write_index(  # noqa: PLR0913 — the options of the command, each of its own
    confs: Sequence[ImageConf],
    output: int | BinaryIO,
    observer: Observer | None = None,
    *,
    archive_format: ArchiveFormat = "oci-archive",
    compression: Compression = UNCOMPRESSED,
    threads: int | None = None,
    digests: Digests = NO_DIGESTS,
) -> tuple[Image, ...]:
    """Write the images of `confs`, each for another platform, to a file descriptor or binary file
    object. Those with one tag are an index under it. Return their records. See `write_image`;
    several need an `archive_format` with indexes, which is that of OCI.
    """
    several = check_platforms(confs)
    check_format(archive_format)
    if len(several) > 1 and not ARCHIVE_FORMATS[archive_format].takes.indexes:
        reason = "holds one platform; several need oci-archive"
        raise ArgumentError("archive_format", archive_format, reason)
    check_output(output, observer, compression, threads)
    for conf in several:
        require_tag(conf)
    observer = observer or Observer()
    mtime = several[0].mtime
    with ExitStack() as stack:
        sources = [stack.enter_context(opened_sources(conf, observer)) for conf in several]
        sink = stack.enter_context(
            opened_archive(
                output, archive_format, mtime=mtime, compression=compression, threads=threads
            )
        )
        for warning in chain.from_iterable(one.warnings for one in sources):
            observer.warning(warning)
        if any(conf.annotations for conf in several) and not sink.takes.annotations:
            observer.warning(f"annotations: left out, {archive_format} does not support them")
        written = write_images(sources, sink, observer, digests)
    observer.finished(*written)
    return tuple(written)


def find_named(confs: Sequence[ImageConf], images: Sequence[Image]) -> Descriptor | None:
    """Return the descriptor of what the tag of the `images` that `write_index` has written names:
    the manifest of the only one, or the index of several. None if the archive's format has none, or
    they have different tags.
    """
    entries = [
        IndexEntry(
            image.manifest,
            ImageDocuments(
                config=image.config,
                repo_tags=image.repo_tags,
                layers=image.layers,
                architecture=conf.architecture,
                variant=conf.variant,
            ),
        )
        for conf, image in zip(confs, images, strict=True)
        if image.manifest is not None
    ]
    if len(entries) < len(images) or len({image.repo_tags for image in images}) > 1:
        return None
    if len(entries) == 1:
        return entries[0].manifest
    return describe(INDEX_TYPE, platform_index(entries))


@contextmanager
def opened_sources(
    conf: ImageConf, observer: Observer, walk: Walk = walk
) -> Iterator[image.ImageSources]:
    """Open the sources of the image of `conf`, to be written; `walk` lists the entries of store
    layers. `observer` is warned if the base image is for another platform. Raises StreamImageError.
    """

    def check(base: BaseImage | None) -> None:
        wanted = Platform.of_conf(conf)
        if base is not None and wanted.distance(base.platform) is None:
            observer.warning(f"the base image is for {base.platform}, this one for {wanted}")

    with image.opened(conf, observer.warning, check=check, walk=walk) as sources:
        yield sources

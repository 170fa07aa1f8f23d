"""An image fetched from a registry by its digest, as a docker-archive.

The bytes of the archive depend on the image alone: its config, its layers' content and its tag;
not on who fetched it, nor on how its layers were compressed. From the digest that was asked for
to the content of the last file, everything is verified here. Must not know argv.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, BinaryIO

from stream.archives.directory import Directory
from stream.archives.images import Archive, ArchiveImage, read_archive
from stream.compression import UNCOMPRESSED, Compression
from stream.errors import ArgumentError, DigestMismatch, RegistryError
from stream.limits import MAX_INDEXES
from stream.model import Digest, Image
from stream.observer import Observer
from stream.oci.manifests import is_index
from stream.oci.platform import Platform
from stream.oci.reference import BadReference, Location, Reference, parse_digest
from stream.parsing import parse_json
from stream.pipeline import write_images
from stream.registry.skopeo import fetch, read_manifest
from stream.registry.trust import Access
from stream.sinks import check_output, opened_archive
from stream.sources.archives import ArchiveSources, begins_tar, check_images
from stream.temporary.directory import private_directory
from stream.values import replace

MTIME = 1  # of all members, as in images made here
_ANYWHERE = Access()
_SCHEMA_1 = (
    "has a manifest of Docker's schema 1, which names no image config; push the image again"
    " with a current tool"
)


def resolve(location: Location, platform: Platform, access: Access = _ANYWHERE) -> Location:
    """Return `location` with the digest of the image for `platform`, also where it names an
    index. The digest that it has is verified. Raises RegistryError or DigestMismatch.
    """
    for _ in range(MAX_INDEXES + 1):
        data = read_manifest(location, access)
        document = _parse(location, data)
        digest = Digest(f"sha256:{hashlib.sha256(data).hexdigest()}")
        if location.digest not in (None, digest):
            raise DigestMismatch(str(location), str(location.digest), digest)
        location = replace(location, digest=digest)
        if not is_index({}, document):
            return location
        location = replace(location, digest=_chosen(location, document, platform))
    raise RegistryError(str(location), "indexes are nested too deeply")


def _parse(location: Location, data: bytes) -> dict[str, Any]:
    try:
        document = parse_json(data)
    except ValueError as error:
        raise RegistryError(str(location), f"manifest {error}") from None
    if not isinstance(document, dict):
        raise RegistryError(str(location), "manifest is not a JSON object")
    if document.get("schemaVersion") == 1:
        raise RegistryError(str(location), _SCHEMA_1)
    return document


def _chosen(location: Location, index: dict[str, Any], platform: Platform) -> Digest:
    """Return the digest of the image in `index` that fits `platform` best."""
    entries = index.get("manifests")
    entries = [one for one in entries if isinstance(one, dict)] if isinstance(entries, list) else []
    platforms = [_stated(entry) for entry in entries]
    closest = platform.closest(platforms)
    if closest is None:
        there = ", ".join(dict.fromkeys(str(one) for one in platforms if one.os != "unknown"))
        raise RegistryError(
            str(location), f"has no image for {platform} (it has: {there or 'none'})"
        )
    try:
        return parse_digest(str(entries[closest].get("digest")))
    except BadReference as wrong:
        raise RegistryError(str(location), f"index: {wrong}") from None


def _stated(entry: dict[str, Any]) -> Platform:
    platform = entry.get("platform")
    return Platform.parse(platform if isinstance(platform, dict) else {})


def pull(  # noqa: PLR0913 — the options of the command, each of its own
    reference: str,
    output: int | BinaryIO,
    observer: Observer | None = None,
    *,
    repo_tag: str | None = None,
    platform: Platform | None = None,
    access: Access = _ANYWHERE,
    compression: Compression = UNCOMPRESSED,
    threads: int | None = None,
    progress: int | None = None,
) -> Image:
    """Fetch the image `reference`, `name@digest` or `name:tag@digest`, and write it as a
    docker-archive to a file descriptor or binary file object. The digest is that of its manifest,
    or of an index that has an image for `platform` (default: this machine's for Linux). It is
    tagged `repo_tag` (default: its own name and tag, or `latest`). While it is fetched, skopeo's
    progress goes to the descriptor `progress`, unless that is None.

    Return its record. Raises ArgumentError before anything is fetched, and RegistryError,
    ArchiveError, DigestMismatch, SourceError for temporary files, or OutputError; then there is no
    manifest. `output` is not closed.
    """
    location, tagged = _parsed(reference, repo_tag)
    check_output(output, observer, compression, threads)
    observer = observer or Observer()
    found = resolve(location, platform or Platform.of_this_machine(), access)
    with fetched(found, access, progress) as (archive, image):
        if platform is not None:
            warn_of_platform(found, image, platform, observer)
        return write_pulled(
            archive, image, tagged, output, observer, compression=compression, threads=threads
        )


def _parsed(reference: str, repo_tag: str | None) -> tuple[Location, Reference]:
    ArgumentError.require("reference", reference, str)
    ArgumentError.require("repo_tag", repo_tag, str, type(None))
    try:
        location = Location.parse(reference)
    except BadReference as wrong:
        raise ArgumentError("reference", reference, wrong.within(reference)) from None
    if location.digest is None:
        reason = "has no digest, so that it would be another image some day; write name@sha256:…"
        raise ArgumentError("reference", reference, reason)
    try:
        tagged = Reference.parse(repo_tag or f"{location.name}:{location.tag or 'latest'}")
    except BadReference as wrong:
        raise ArgumentError("repo_tag", repo_tag, wrong.within(repo_tag or "")) from None
    return location, tagged


@contextmanager
def fetched(
    location: Location, access: Access, progress: int | None = None
) -> Iterator[tuple[Archive[object], ArchiveImage]]:
    """Fetch the image whose manifest `location` has the digest of, as an archive on disk for as
    long as it is needed. Its documents are verified. Raises RegistryError, ArchiveError,
    DigestMismatch, or SourceError.
    """
    with private_directory() as place:
        directory = place + b"/image"
        fetch(location, os.fsdecode(directory), os.fsdecode(place), access, progress)
        container = Directory(str(location), directory, begins_tar)
        manifest = container.find("manifest.json")
        data = b"" if manifest is None else container.document(manifest)
        digest = f"sha256:{hashlib.sha256(data).hexdigest()}"
        if digest != location.digest:
            raise DigestMismatch(str(location), str(location.digest), digest)
        archive = read_archive(container)
        check_images(archive, archive.images)
        yield archive, archive.images[0]


def warn_of_platform(
    location: Location, image: ArchiveImage, platform: Platform, observer: Observer
) -> None:
    """Warn if the image is not for `platform`: a digest or tag of a single one names it anyway."""
    if platform.distance(image.platform) is None:
        observer.warning(f"{location}: is for {image.platform}, not for {platform}")


def write_pulled(  # noqa: PLR0913
    archive: Archive[object],
    image: ArchiveImage,
    repo_tag: Reference,
    output: int | BinaryIO,
    observer: Observer,
    *,
    compression: Compression = UNCOMPRESSED,
    threads: int | None = None,
) -> Image:
    """Write `image` as a docker-archive, tagged `repo_tag`. Raises ArchiveError, DigestMismatch
    or OutputError.
    """
    tagged = replace(image, repo_tags=(str(repo_tag),))
    with opened_archive(
        output, "docker-archive", mtime=MTIME, compression=compression, threads=threads
    ) as sink:
        (written,) = write_images([ArchiveSources(archive, [tagged])], sink, observer)
    observer.finished(written)
    return written

"""Compare an archive with the image that a conf yields now.

The image is built from the conf and discarded; only a layer that differs is read again,
to find the first difference. Knows the pipeline and reading archives; must not
know which rules an archive breaks by itself.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from itertools import zip_longest

from stream.archives.bytesource import ByteSource, pieces
from stream.archives.images import Archive, ArchiveImage, open_archive
from stream.archives.tarreader import Member, read_members
from stream.errors import ArchiveError
from stream.model import Image, ImageConf
from stream.observer import Observer
from stream.oci.reference import qualified
from stream.pipeline import write_images
from stream.schema.reading import ignore
from stream.sinks import opened_archive
from stream.sources.image import ImageSources, opened
from stream.text import printable
from stream.tools.verify.documents import CheckedImage
from stream.tools.verify.findings import Findings
from stream.typeflags import FILE

# The fields of an entry that are compared, and their names in messages.
_FIELDS = {
    "typeflag": "type", "link": "link target", "size": "size", "mode": "mode", "uid": "uid", "gid": "gid",
    "uname": "user name", "gname": "group name", "mtime": "mtime", "device": "device number",
}  # fmt: skip


def compare(
    path: str | None, images: Sequence[CheckedImage], conf: ImageConf, findings: Findings
) -> None:
    """Note how `images` differ from the image of `conf`.

    `path` is the archive that holds `images`, or None if it cannot be read again; then
    the first differing entry is not searched for. Raises StreamImageError if `conf`
    yields no image.
    """
    if len(images) != 1:
        findings.add("conf-mismatch", "", f"holds {len(images)} images; the conf yields 1")
    with opened(conf, ignore) as sources, open(os.devnull, "wb", buffering=0) as null:
        with opened_archive(null, "docker-archive", mtime=conf.mtime) as sink:
            (expected,) = write_images([sources], sink, Observer())
        for found in images[:1]:
            for message in _differences(path, found, expected, sources):
                findings.add("conf-mismatch", "", message)


def _differences(
    path: str | None, found: CheckedImage, expected: Image, sources: ImageSources
) -> Iterator[str]:
    """Describe how `found` differs from `expected`, which was made from `sources`."""
    untagged = not expected.repo_tags  # a conf without a tag says nothing of it
    if not untagged and [*map(qualified, found.repo_tags)] != [*map(qualified, expected.repo_tags)]:
        tags = ", ".join(found.repo_tags) or "nothing"
        yield f"is tagged {tags}; the conf's tag is {', '.join(expected.repo_tags)}"
    counts = len(found.layers), len(expected.layers)
    if counts[0] != counts[1]:
        yield f"number of layers is {counts[0]}, not {counts[1]}"
    diff_ids = [layer.diff_id for layer in found.layers]
    wanted = [layer.diff_id for layer in expected.layers]
    for index, (ours, theirs) in enumerate(zip(diff_ids, wanted, strict=False)):
        if ours != theirs:
            message = f"layer {index + 1} is the first to differ from the conf's image"
            where = path and _first_difference(path, found, index, sources)
            yield f"{message}: {where}" if where else message
            break
    if found.image_id != expected.image_id:
        where = _config_difference(path, found, expected) if path and diff_ids == wanted else ""
        yield f"image ID is {found.image_id}; the conf yields {expected.image_id}{where}"


@contextmanager
def _opened_image(path: str, found: CheckedImage) -> Iterator[tuple[Archive[object], ArchiveImage]]:
    """Open the archive again, and choose `found` in it. Raises ArchiveError."""
    with open_archive(path) as archive:
        yield archive, next(one for one in archive.images if one.image_id == found.image_id)


def _first_difference(path: str, found: CheckedImage, index: int, sources: ImageSources) -> str:
    """Describe how the layer at `index` of the archive differs from that of `sources`.
    Returns an empty string if that cannot be found out.
    """
    with (
        suppress(ArchiveError),  # the faults of the archive have been noted already
        _opened_image(path, found) as (archive, image),
        archive.layer_content(image.layers[index]) as theirs,
        sources.layer_content(index) as ours,
    ):
        return _layer_difference(theirs, ours)
    return ""


def _layer_difference(theirs: ByteSource, ours: ByteSource) -> str:
    for member, expected in zip_longest(read_members(theirs), read_members(ours)):
        if member is None:
            return f"{printable(expected.name)}: missing"
        shown = printable(member.name)
        if expected is None:
            return f"{shown}: unexpected entry"
        if member.name != expected.name:
            return f"{shown}: expected {printable(expected.name)} here"
        for field, what in _FIELDS.items():
            if getattr(member, field) != getattr(expected, field):
                values = (_shown(field, entry) for entry in (member, expected))
                return f"{shown}: {what} is {next(values)}, not {next(values)}"
        if member.typeflag == FILE and not _same_content(theirs, ours, member.size):
            return f"{shown}: content differs"
    return "same entries, encoded differently"


def _shown(field: str, member: Member) -> str:
    value = getattr(member, field)
    if field == "mode":
        return f"{value:04o}"
    return printable(value) if isinstance(value, bytes) else str(value)


def _same_content(theirs: ByteSource, ours: ByteSource, size: int) -> bool:
    blocks = zip(pieces(theirs, size), pieces(ours, size), strict=True)
    return all(one == other for one, other in blocks)


def _config_difference(path: str, found: CheckedImage, expected: Image) -> str:
    """Describe which key of the image configs differs. Returns an empty string if that
    cannot be found out.
    """
    try:
        with _opened_image(path, found) as (_, image):
            ours, theirs = json.loads(expected.config), image.document
    except ArchiveError:
        return ""
    for key in (*ours, *theirs):
        if ours.get(key) != theirs.get(key):
            return f"; the image configs differ in {key!r}"
    return "; the image configs hold the same values, encoded differently"

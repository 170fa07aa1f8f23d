"""Compare an archive with the image that a conf yields now.

The image is built from the conf and discarded; only where the two differ is it built
again, to find the first difference. Knows the pipeline and reading archives; must not
know which rules an archive breaks by itself.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from itertools import zip_longest

from stream.archives.bytesource import ByteSource, Part, pieces
from stream.archives.decompress import decompressed
from stream.archives.images import open_archive
from stream.archives.sequential import piped
from stream.archives.tarreader import Member, read_members
from stream.errors import ArchiveError
from stream.model import Image, ImageConf
from stream.oci.reference import qualified
from stream.pipeline import write_image
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
    fd = os.open(os.devnull, os.O_WRONLY | os.O_CLOEXEC)
    try:
        expected = write_image(conf, fd)
    finally:
        os.close(fd)
    if len(images) != 1:
        findings.add("conf-mismatch", "", f"holds {len(images)} images; the conf yields 1")
    for found in images[:1]:
        _compare_image(path, found, expected, conf, findings)


def _compare_image(
    path: str | None, found: CheckedImage, expected: Image, conf: ImageConf, findings: Findings
) -> None:
    def differ(message: str) -> None:
        findings.add("conf-mismatch", "", message)

    if [*map(qualified, found.repo_tags)] != [*map(qualified, expected.repo_tags)]:
        tags = ", ".join(found.repo_tags) or "nothing"
        differ(f"is tagged {tags}; the conf's tag is {conf.repo_tag}")
    counts = len(found.layers), len(expected.layers)
    if counts[0] != counts[1]:
        differ(f"number of layers is {counts[0]}, not {counts[1]}")
    for number, (ours, theirs) in enumerate(zip(found.layers, expected.layers, strict=False)):
        if ours.diff_id != theirs.diff_id:
            message = f"layer {number + 1} is the first to differ from the conf's image"
            where = path and _first_difference(path, found, number, theirs.archive_name, conf)
            differ(f"{message}: {where}" if where else message)
            break
    if found.image_id != expected.image_id:
        same = [layer.diff_id for layer in found.layers] == [
            layer.diff_id for layer in expected.layers
        ]
        where = _config_difference(path, found, conf) if path and same else ""
        message = f"image ID is {found.image_id}; the conf yields {expected.image_id}"
        differ(message + where)


@contextmanager
def _written(conf: ImageConf) -> Iterator[Iterator[tuple[str, Part]]]:
    """Yield an iterator over the members of the archive that `conf` yields, as they are
    written: each name and content.
    """
    with piped(lambda fd: write_image(conf, fd), "the conf's image") as source:
        yield (
            (printable(member.name), Part(source, member.size, printable(member.name)))
            for member in read_members(source)
        )


def _first_difference(
    path: str, found: CheckedImage, number: int, archive_name: str, conf: ImageConf
) -> str:
    """Describe how the layer `number` of the archive differs from the one that `conf`
    writes as `archive_name`. Returns an empty string if that cannot be found out.
    """
    try:
        with _layer(path, found, number) as theirs, _written(conf) as members:
            for name, part in members:
                if name == archive_name:
                    return _layer_difference(theirs, part)
    except ArchiveError:
        pass  # the faults of the archive have been noted already
    return ""


@contextmanager
def _layer(path: str, found: CheckedImage, number: int) -> Iterator[ByteSource]:
    """Yield the uncompressed content of the layer `number` of `found`."""
    with open_archive(path) as archive:
        image = next(image for image in archive.images if image.image_id == found.image_id)
        blob = image.layers[number].blob
        with closing(archive.container.read([blob])) as reading:
            for _, source in reading:
                name = source.name
                yield decompressed(source, blob.compression, name) if blob.compression else source
                return


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


def _config_difference(path: str, found: CheckedImage, conf: ImageConf) -> str:
    """Describe which key of the image configs differs. Returns an empty string if that
    cannot be found out.
    """
    config = b"{}"
    try:
        with _written(conf) as members:
            for name, part in members:
                if name.endswith(".json") and name != "manifest.json":
                    config = part.read()
        with open_archive(path) as archive:
            image = next(image for image in archive.images if image.image_id == found.image_id)
            ours, theirs = json.loads(config), image.document
    except ArchiveError:
        return ""
    for key in (*ours, *theirs):
        if ours.get(key) != theirs.get(key):
            return f"; the image configs differ in {key!r}"
    return "; the image configs hold the same values, encoded differently"

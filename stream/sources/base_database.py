"""The Nix database of a base image: one file, of the last layer that has it.

Knows layers and whiteouts (OCI Image Specification, layer.md), and which files in Nix's
directory matter; not what is in them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from stream.archives.bytesource import ByteSource, pieces
from stream.archives.container import where
from stream.archives.images import Archive, ArchiveImage, open_archive
from stream.archives.tarreader import DIRECTORY, FILE, LINK, Member, read_members
from stream.customisation.database import STATE_DIR, BaseDatabase
from stream.customisation.registrations import MAX_DATABASE, SCHEMA_VERSION
from stream.errors import ArchiveError, printable
from stream.model import BaseReference
from stream.sources.base import OPAQUE, WHITEOUT, check_listing

MAX_KEPT = 4 * MAX_DATABASE  # bytes, of all layers together
_MAX_SMALL = 100  # bytes of a version

_DIRECTORY = STATE_DIR + b"/db"
_DATABASE, _SCHEMA, _CA_SCHEMA = (
    _DIRECTORY + b"/" + name for name in (b"db.sqlite", b"schema", b"ca-schema")
)
# What SQLite has not yet brought into the database.
_JOURNALS = (_DATABASE + b"-wal", _DATABASE + b"-journal")
_FILES = frozenset({_DATABASE, _SCHEMA, _CA_SCHEMA, *_JOURNALS})
_PARTS = _DIRECTORY.split(b"/")
_ABOVE = frozenset(b"/".join(_PARTS[:depth]) for depth in range(1, len(_PARTS) + 1))


@dataclass(frozen=True, slots=True, kw_only=True)
class _Item:
    """What a layer has at a path. `content` is a file's, if it is of interest."""

    typeflag: bytes
    size: int
    content: bytes = b""


@dataclass(frozen=True, slots=True, kw_only=True)
class DatabaseListing:
    """What a layer does to the database: `hidden` are paths that whiteouts hide, with a `/`
    at the end for what is in an opaque directory.
    """

    hidden: set[bytes] = field(default_factory=set)
    items: dict[bytes, _Item] = field(default_factory=dict)


class DatabaseFinder:
    """Lists layers; is the `peruse` of an archive. Raises ArchiveError."""

    def __init__(self) -> None:
        self._kept = 0

    def __call__(self, layer: ByteSource) -> DatabaseListing:
        listing = DatabaseListing()
        for member in read_members(layer):
            self.take(listing, member, layer)
        return listing

    def take(self, listing: DatabaseListing, member: Member, layer: ByteSource) -> None:
        """Add `member`, whose content is next in `layer`, to `listing`."""
        parts = [part for part in member.name.split(b"/") if part not in (b"", b".")]
        name = parts.pop() if parts else b""
        if name != OPAQUE:
            parts.append(name.removeprefix(WHITEOUT))
        path = b"/".join(parts)
        if name == OPAQUE and (path in _ABOVE or not path):
            listing.hidden.add(path + b"/")
        elif path not in _FILES and path not in _ABOVE:
            return
        elif name.startswith(WHITEOUT):
            listing.hidden.add(path)
        else:
            listing.items.pop(path, None)  # the last one of the name counts, in its place
            listing.items[path] = self._item(path, member, layer)

    def _item(self, path: bytes, member: Member, layer: ByteSource) -> _Item:
        content = b""
        most = MAX_DATABASE if path == _DATABASE else _MAX_SMALL
        if member.typeflag == FILE and path in (_DATABASE, _SCHEMA, _CA_SCHEMA):
            self._kept += member.size
            if member.size > most or self._kept > MAX_KEPT:
                raise ArchiveError(
                    where(layer.name, printable(path)),
                    f"has {member.size} bytes; at most {most}, and {MAX_KEPT} of all layers, are read",
                )
            content = b"".join(pieces(layer, member.size))
        return _Item(typeflag=member.typeflag, size=member.size, content=content)


def base_database(reference: BaseReference, architecture: str | None = None) -> BaseDatabase | None:
    """The Nix database of the image that `reference` means, if it has one; of several
    images that for `architecture`. Raises ArchiveError.
    """
    with open_archive(reference.path, DatabaseFinder()) as archive:
        image = archive.choose(reference.repo_tag, architecture)
        check_listing(archive.name, image)
        return database_of(archive, image)


def database_of(archive: Archive, image: ArchiveImage) -> BaseDatabase | None:
    """The same for `image` in `archive`, which was opened with a DatabaseFinder."""
    listings: list[DatabaseListing] = [
        archive.container.perused(layer.blob) for layer in image.layers
    ]
    return join_listings(listings, archive.name)


def join_listings(listings: Sequence[DatabaseListing], archive_name: str) -> BaseDatabase | None:
    """The database that is left when the layers, bottom to top, lie over each other.
    Raises ArchiveError for one that is not whole, or of another schema version.
    """
    left = _left(listings)
    for path, item in left.items():
        if item.typeflag == LINK:
            raise ArchiveError(
                where(archive_name, printable(path)),
                "is a link, and a Nix database behind one cannot be merged",
            )
    database = left.get(_DATABASE)
    if database is None:
        return None
    place = where(archive_name, printable(_DATABASE))
    if database.typeflag != FILE:
        raise ArchiveError(place, "is no regular file")
    for path in _JOURNALS:
        if path in left and left[path].size:
            raise ArchiveError(
                place,
                f"is not all of the Nix database: {printable(path)} has changes to it. "
                "Close the database before the base image is made",
            )
    version = left[_SCHEMA].content.strip() if _SCHEMA in left else b""
    if version != b"%d" % SCHEMA_VERSION:
        raise ArchiveError(
            place,
            f"is a Nix database of schema version {printable(version) or 'unknown'}; "
            f"only version {SCHEMA_VERSION} can be merged",
        )
    return BaseDatabase(name=place, data=database.content, has_realisations=_CA_SCHEMA in left)


def _left(listings: Sequence[DatabaseListing]) -> dict[bytes, _Item]:
    """What is left of the items, by path."""
    left: dict[bytes, _Item] = {}

    def hide(path: bytes) -> None:
        below = path.removesuffix(b"/") + b"/"
        for known in list(left):
            if known == path or below == b"/" or known.startswith(below):
                del left[known]

    for listing in listings:
        for path in listing.hidden:
            hide(path)
        for path, item in listing.items.items():
            for above in _ABOVE:
                if path.startswith(above + b"/"):
                    left.pop(above, None)  # only a directory has something in it
            if item.typeflag != DIRECTORY:
                hide(path)
            left[path] = item
    return left

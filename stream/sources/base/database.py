"""The Nix database of a base image: one file, from the topmost layer that has it.

Knows which files in Nix's directory matter; not their contents.
"""

from __future__ import annotations

from stream.archives.bytesource import ByteSource, pieces
from stream.archives.container import where
from stream.archives.flatten import Directory, Leaf, parts_of
from stream.archives.tarreader import Member
from stream.errors import ArchiveError
from stream.nix.registrations import MAX_DATABASE, SCHEMA_VERSION, STATE_DIR
from stream.sources.base.listing import Keep
from stream.sources.base.tree import BaseTree
from stream.text import printable
from stream.typeflags import FILE, LINK
from stream.values import dataclass

MAX_KEPT = 4 * MAX_DATABASE  # bytes, in all layers together
_MAX_SMALL = 100  # bytes of a version

_DATABASE, _SCHEMA, _CA_SCHEMA = (
    STATE_DIR + b"/db/" + name for name in (b"db.sqlite", b"schema", b"ca-schema")
)
# Changes that SQLite has not written to the database yet.
_JOURNALS = (_DATABASE + b"-wal", _DATABASE + b"-journal")


@dataclass(frozen=True, slots=True, kw_only=True)
class BaseDatabase:
    """The database of a base image: the file's content. `name` is for errors.
    `has_realisations` is true if it has Nix's tables for content-addressed derivations.
    """

    name: str
    data: bytes
    has_realisations: bool = False


def keeper() -> Keep:
    """Return a function that reads a Nix database's files while layers are listed. It reads
    one byte of journals, enough to know that they are not empty, and raises ArchiveError for
    files that are too large.
    """
    kept = 0

    def keep(member: Member, layer: ByteSource) -> bytes | None:
        nonlocal kept
        path = b"/".join(parts_of(member.name))
        if member.typeflag != FILE or path not in (_DATABASE, _SCHEMA, _CA_SCHEMA, *_JOURNALS):
            return None
        if path in _JOURNALS:
            return b"".join(pieces(layer, min(member.size, 1)))
        if member.is_sparse:
            place = where(layer.name, printable(path))
            raise ArchiveError(place, "is stored as a sparse file, and cannot be merged")
        kept += member.size
        most = MAX_DATABASE if path == _DATABASE else _MAX_SMALL
        if member.size > most or kept > MAX_KEPT:
            raise ArchiveError(
                where(layer.name, printable(path)),
                f"has {member.size} bytes; at most {most} are read, and {MAX_KEPT} in all layers",
            )
        return b"".join(pieces(layer, member.size))

    return keep


def base_database(tree: BaseTree) -> BaseDatabase | None:
    """Return the Nix database in `tree`, which was listed with a `keeper`; None if it has
    none. Drops the contents kept in `tree`, which would stay in memory while the image is
    written. Raises ArchiveError for a database that is incomplete, or of another schema
    version.
    """
    database = _content(tree, _DATABASE)
    journals = {path: _content(tree, path) for path in _JOURNALS}
    schema, ca_schema = _content(tree, _SCHEMA), _content(tree, _CA_SCHEMA)
    for layer in tree.layers:
        layer.contents.clear()
    if database is None:
        return None
    place = where(tree.name, printable(_DATABASE))
    for path, content in journals.items():
        if content:
            raise ArchiveError(
                place,
                f"is incomplete: {printable(path)} has changes that are not in it yet;"
                " close the Nix database before making the base image",
            )
    version = (schema or b"").strip()
    if version != b"%d" % SCHEMA_VERSION:
        raise ArchiveError(
            place,
            f"is a Nix database of schema version {printable(version) or 'unknown'}; "
            f"only version {SCHEMA_VERSION} can be merged",
        )
    return BaseDatabase(name=place, data=database, has_realisations=ca_schema is not None)


def _content(tree: BaseTree, path: bytes) -> bytes | None:
    """Return the content of the file at `path`, or None if nothing is there. Raises
    ArchiveError if it is not a regular file, or is reached through a link.
    """
    found: Directory | Leaf | None = tree.root
    way = b""
    for part in path.split(b"/"):
        if not isinstance(found, Directory):
            return None
        way = way + b"/" + part if way else part
        found = found.children.get(part)
        if isinstance(found, tuple) and tree.entry(found)[0] == LINK:
            raise ArchiveError(
                where(tree.name, printable(way)),
                "is a link; a Nix database reached through one cannot be merged",
            )
    if found is None:
        return None
    number, index = found if isinstance(found, tuple) else (0, -1)
    kept = tree.layers[number].contents.get(index)
    if kept is None:
        raise ArchiveError(where(tree.name, printable(path)), "is not a regular file")
    return kept.content

"""Registrations: the records of store paths in a Nix database, written and read as SQLite.

Schema version 10, used by every Nix since 2.0. Knows the tables and SQLite's file format,
and trusts no file; must not know stores, nor where a database is kept.
"""

from __future__ import annotations

import re
import struct
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import closing
from typing import TYPE_CHECKING, Any

from stream.values import dataclass, field

if TYPE_CHECKING:
    import sqlite3

SCHEMA_VERSION = 10
MAX_DATABASE = 64 << 20  # bytes of a database to be read: about 80,000 store paths

# The mtime of store files, and of dockerTools' images. For Nix, 0 means "unknown".
REGISTRATION_TIME = 1

NAR_HASH = re.compile("sha256:[0-9a-f]{64}")

_MAX_ROWS = 1 << 20  # of each table
_MAX_TEXT = 1 << 20  # bytes of a value
_MAX_STATEMENT = 10_000  # bytes of a statement in the schema; Nix's longest has 600
_SHOWN = 200  # characters of an untrusted text in a message
_MAX_SCHEMA_STEPS = 10_000  # SQLite instructions: about 1000 tables and indexes
_MAX_STEPS = 64  # million SQLite instructions: enough for the largest number of rows

# SQLite's Database File Format, 1.3 and 1.6. A page's header: type, first free block,
# number of cells, and start of their content.
_PAGE, _FILE_HEADER = 4096, 100
_PAGE_HEADER = struct.Struct(">BHHH")
_FREE_BLOCK = struct.Struct(">HH")  # the next one, and its own size
_INTERIOR, _LEAF = (2, 5), (10, 13)
_VERSIONS, _JOURNALLED = slice(18, 20), b"\1\1"
_CHANGES, _CHANGES_AGAIN, _LIBRARY = slice(24, 28), slice(92, 96), slice(96, 100)
_LIBRARY_VERSION = 3_040_000

_TABLES = (
    """CREATE TABLE ValidPaths (
    id integer primary key autoincrement not null, path text unique not null,
    hash text not null, registrationTime integer not null, deriver text,
    narSize integer, ultimate integer, sigs text, ca text
)""",
    """CREATE TABLE Refs (
    referrer integer not null, reference integer not null,
    primary key (referrer, reference),
    foreign key (referrer) references ValidPaths(id) on delete cascade,
    foreign key (reference) references ValidPaths(id) on delete restrict
)""",
    """CREATE TABLE DerivationOutputs (
    drv integer not null, id text not null, path text not null,
    primary key (drv, id),
    foreign key (drv) references ValidPaths(id) on delete cascade
)""",
)
# Without the trigger, a path that refers to itself could not be deleted.
_INDEXES = (
    "CREATE INDEX IndexReferrer on Refs(referrer)",
    "CREATE INDEX IndexReference on Refs(reference)",
    "CREATE INDEX IndexDerivationOutputs on DerivationOutputs(path)",
    """CREATE TRIGGER DeleteSelfRefs before delete on ValidPaths begin
    delete from Refs where referrer = old.id and reference = old.id;
end""",
)

# The columns that are read, and the types that their values may have.
_TEXT, _NUMBER = (str,), (int,)
_TEXT_OR_NULL, _NUMBER_OR_NULL = (str, type(None)), (int, type(None))
_COLUMNS: dict[str, dict[str, tuple[type, ...]]] = {
    "ValidPaths": {
        "id": _NUMBER,
        "path": _TEXT,
        "hash": _TEXT,
        "deriver": _TEXT_OR_NULL,
        "narSize": _NUMBER_OR_NULL,
        "ultimate": _NUMBER_OR_NULL,
        "sigs": _TEXT_OR_NULL,
        "ca": _TEXT_OR_NULL,
    },
    "Refs": {"referrer": _NUMBER, "reference": _NUMBER},
    "DerivationOutputs": {"drv": _NUMBER, "id": _TEXT, "path": _TEXT},
}


@dataclass(slots=True, kw_only=True)
class Registration:
    """The record of a store path. `outputs` are a derivation's, by name."""

    nar_hash: str
    nar_size: int | None
    deriver: str | None
    ultimate: int | None = None
    sigs: str | None = None
    ca: str | None = None
    references: set[str] = field(default_factory=set)
    outputs: dict[str, str] = field(default_factory=dict)


class UnusableError(Exception):
    """A database differs from those that Nix writes. The text gives the reason."""


# ---- writing


def encode(registrations: Mapping[str, Registration]) -> bytes:
    """Return a database of `registrations`, which are by store path. Rows are in order and
    indexes come last, so that pages fill in the same way for any SQLite version and options.
    """
    import sqlite3

    ids = {path: number for number, path in enumerate(sorted(registrations), 1)}
    with closing(sqlite3.connect(":memory:", isolation_level=None)) as connection:
        for pragma in (
            f"page_size = {_PAGE}",
            "auto_vacuum = none",
            "encoding = 'UTF-8'",
            "secure_delete = on",  # clears what is left between cells
        ):
            connection.execute(f"PRAGMA {pragma}")
        connection.execute("BEGIN")
        for statement in _TABLES:
            connection.execute(statement)
        items = [(ids[path], path, registrations[path]) for path in ids]
        connection.executemany(
            "INSERT INTO ValidPaths VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)",
            (
                (number, path, item.nar_hash, REGISTRATION_TIME, item.deriver, item.nar_size)
                + (item.ultimate, item.sigs, item.ca)
                for number, path, item in items
            ),
        )
        connection.executemany(
            "INSERT INTO Refs VALUES (?, ?)",
            (
                (number, reference)
                for number, _, item in items
                for reference in sorted(map(ids.__getitem__, item.references))
            ),
        )
        connection.executemany(
            "INSERT INTO DerivationOutputs VALUES (?, ?, ?)",
            (
                (number, *output)
                for number, _, item in items
                for output in sorted(item.outputs.items())
            ),
        )
        for statement in _INDEXES:
            connection.execute(statement)
        connection.execute("COMMIT")
        data = bytearray(connection.serialize())
    data[_CHANGES] = data[_CHANGES_AGAIN] = (1).to_bytes(4, "big")
    data[_LIBRARY] = _LIBRARY_VERSION.to_bytes(4, "big")
    _clear_free_space(data)
    return bytes(data)


def _clear_free_space(data: bytearray) -> None:
    """Zero the bytes outside the cells of the database's pages, where SQLite leaves old
    content.
    """
    for start in range(0, len(data), _PAGE):
        header = start or _FILE_HEADER
        kind, free, cells, content = _PAGE_HEADER.unpack_from(data, header)
        if kind not in _INTERIOR + _LEAF:  # not a tree page, but the continuation of a large row
            continue
        end = header + (12 if kind in _INTERIOR else 8) + 2 * cells
        data[end : start + content] = bytes(start + content - end)
        while free:
            free_block = start + free
            free, size = _FREE_BLOCK.unpack_from(data, free_block)
            data[free_block + 4 : free_block + size] = bytes(size - 4)


# ---- reading


def read(data: bytes, is_store_path: Callable[[str], object]) -> dict[str, Registration]:
    """Return the registrations in the database `data`, by store path. Raises UnusableError.

    The database is untrusted: its schema is parsed, nothing in it is run, and rows are read
    from plain tables only.
    """
    import sqlite3

    if len(data) > MAX_DATABASE:
        raise UnusableError(f"it is larger than {MAX_DATABASE} bytes")
    # Nix leaves it in WAL mode, which a database in memory cannot have.
    data = data[: _VERSIONS.start] + _JOURNALLED + data[_VERSIONS.stop :]
    try:
        with closing(sqlite3.connect(":memory:", isolation_level=None)) as connection:
            connection.deserialize(data)
            _read_schema(connection)
            return _Reader(connection, len(data)).registrations(is_store_path)
    except sqlite3.Error as error:
        # Errors of the Python module itself have no code.
        stopped = getattr(error, "sqlite_errorcode", None) == sqlite3.SQLITE_INTERRUPT
        reason = "it takes too long" if stopped else str(error)[:_SHOWN]
        raise UnusableError(reason) from None
    except UnicodeDecodeError:  # SQLite's message quotes the file
        raise UnusableError("its schema is malformed") from None


def _read_schema(connection: sqlite3.Connection) -> None:
    """Have SQLite read the schema within narrow limits, then raise them for the rows. See
    sqlite.org/security.html, "Untrusted SQLite Database Files".
    """
    import sqlite3

    for limit, most in (
        (sqlite3.SQLITE_LIMIT_LENGTH, _MAX_STATEMENT),
        (sqlite3.SQLITE_LIMIT_COLUMN, 100),
        (sqlite3.SQLITE_LIMIT_EXPR_DEPTH, 20),
        (sqlite3.SQLITE_LIMIT_ATTACHED, 0),
    ):
        connection.setlimit(limit, most)
    connection.set_progress_handler(lambda: True, _MAX_SCHEMA_STEPS)
    for pragma in ("trusted_schema = off", "cell_size_check = on", "query_only = on"):
        connection.execute(f"PRAGMA {pragma}")
    connection.execute("SELECT 1 FROM sqlite_master LIMIT 1").fetchall()
    connection.setlimit(sqlite3.SQLITE_LIMIT_LENGTH, _MAX_TEXT)
    steps = iter(range(_MAX_STEPS))
    connection.set_progress_handler(lambda: next(steps, None) is None, 1_000_000)


class _Reader:
    def __init__(self, connection: sqlite3.Connection, size: int) -> None:
        self._connection = connection
        self._text_left = size  # in a malicious file, values can share pages

    def registrations(self, is_store_path: Callable[[str], object]) -> dict[str, Registration]:
        """Return all registrations by store path."""
        paths: dict[int, str] = {}
        found: dict[str, Registration] = {}
        for key, path, nar_hash, deriver, nar_size, ultimate, sigs, ca in self._rows("ValidPaths"):
            if not is_store_path(path) or not NAR_HASH.fullmatch(nar_hash):
                raise UnusableError(f"{path[:_SHOWN]} or its hash does not belong to this store")
            if key in paths or path in found:
                raise UnusableError(f"{path} occurs twice")
            paths[key] = path
            found[path] = Registration(
                nar_hash=nar_hash, nar_size=nar_size, deriver=deriver, ultimate=ultimate,
                sigs=sigs, ca=ca,
            )  # fmt: skip
        try:
            for referrer, reference in self._rows("Refs"):
                found[paths[referrer]].references.add(paths[reference])
            for key, output, path in self._rows("DerivationOutputs"):
                found[paths[key]].outputs[output] = path
        except KeyError as error:
            raise UnusableError(f"it has no path with the id {error}") from None
        return found

    def _rows(self, table: str) -> Iterator[tuple[Any, ...]]:
        """Yield the rows of `table`. Raises UnusableError for a value of a wrong type."""
        columns = _COLUMNS[table]
        self._check(table, columns)
        rows: Iterable[tuple[Any, ...]] = self._connection.execute(
            f"SELECT {', '.join(columns)} FROM {table} NOT INDEXED"  # noqa: S608 — names of ours
        )
        for count, row in enumerate(rows):
            if count >= _MAX_ROWS:
                raise UnusableError(f"{table} has more than {_MAX_ROWS} rows")
            for value, types in zip(row, columns.values(), strict=True):
                if type(value) not in types:
                    raise UnusableError(f"{table} has a value of the wrong type")
                if isinstance(value, str):
                    self._text_left -= len(value)
            if self._text_left < 0:
                raise UnusableError("its values are longer than the file")
            yield row

    def _check(self, table: str, columns: Iterable[str]) -> None:
        """Check that `table` is a plain table and that none of its columns is generated."""
        found = self._connection.execute(
            "SELECT substr(sql, 1, 13) FROM sqlite_master WHERE name = ? COLLATE nocase", (table,)
        ).fetchall()
        if found != [("CREATE TABLE ",)]:
            raise UnusableError(f"it has no table {table}")
        hidden = {
            name: kind
            for _, name, *_, kind in self._connection.execute(f"PRAGMA table_xinfo({table})")
        }
        if any(hidden.values()) or not hidden.keys() >= set(columns):
            raise UnusableError(f"{table} does not match schema version {SCHEMA_VERSION}")


STATE_DIR = b"nix/var/nix"

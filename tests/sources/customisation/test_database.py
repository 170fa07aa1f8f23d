"""The Nix database: reproducible bytes, what is in them, and bases that cannot be merged.

Tests with a real Nix are in tests/consumers/test_nix_database.py.
"""

import hashlib
import json
import sqlite3
import tarfile
from collections.abc import Callable, Sequence
from contextlib import closing
from pathlib import Path
from random import Random
from typing import Any

import pytest
from handmade import COMPRESSORS, Base, layer_tar, link, sound, tar_of
from hypothesis import given
from hypothesis import strategies as st
from roots import flattened

from stream import typeflags
from stream.config import parse_conf
from stream.errors import ArchiveError, RecipeError, SourceError
from stream.model import NixDatabase, StoreObject
from stream.nix import registrations
from stream.nix.store_root import Disk
from stream.sources.base import database as finding
from stream.sources.base.database import BaseDatabase
from stream.sources.customisation import tree as nodes
from stream.sources.customisation.database import add_database
from stream.sources.customisation.tree import Tree
from stream.sources.image import opened_base

ALPHABET = "0123456789abcdfghijklmnpqrsvwxyz"  # Nix's base-32
DATABASE = "nix/var/nix/db/db.sqlite"
STOPPED = sqlite3.SQLITE_INTERRUPT


def store_path(name: str, store_dir: str = "/nix/store") -> str:
    """Return a store path, always the same for the same name."""
    digest = hashlib.sha256(name.encode()).digest()
    return f"{store_dir}/{''.join(ALPHABET[byte % 32] for byte in digest)}-{name}"


def store_object(name: str, *references: str, **more: Any) -> StoreObject:
    """Return a store object that refers to those with the given names."""
    return StoreObject(
        path=store_path(name),
        nar_hash=f"sha256:{hashlib.sha256(name.encode()).hexdigest()}",
        nar_size=more.pop("nar_size", 200 + len(name)),
        references=tuple(store_path(reference) for reference in references),
        **more,
    )


A, B = store_object("a", "a", deriver=store_path("a.drv")), store_object("b", "a", "b")


def made(*objects: StoreObject, roots: Sequence[str] = (), **more: Any) -> Tree:
    """Return a tree with the database of these objects."""
    tree = Tree()
    database = NixDatabase(objects=objects, roots=tuple(roots))
    add_database(tree, database, disk=Disk(b"/nix/store"), **more)
    return tree


def written(*objects: StoreObject, **more: Any) -> bytes:
    """Return the SQLite file of these objects."""
    node = made(*objects, **more).find(DATABASE.encode())
    assert node is not None
    assert node.data is not None
    return node.data


def query(data: bytes, sql: str) -> list[tuple[Any, ...]]:
    """Return the rows of an SQL query of the file."""
    with closing(sqlite3.connect(":memory:")) as connection:
        connection.deserialize(data)
        return connection.execute(sql).fetchall()


def rows(data: bytes) -> tuple[list[tuple[Any, ...]], ...]:
    """Return the content of the tables."""
    return (
        query(data, "SELECT path, hash, deriver, narSize, ultimate, sigs, ca FROM ValidPaths"),
        query(
            data,
            "SELECT a.path, b.path FROM Refs JOIN ValidPaths a ON a.id = referrer"
            " JOIN ValidPaths b ON b.id = reference ORDER BY 1, 2",
        ),
        query(data, "SELECT v.path, d.id, d.path FROM DerivationOutputs d"
            " JOIN ValidPaths v ON v.id = drv ORDER BY 1, 2"),
    )  # fmt: skip


def sample(count: int) -> list[StoreObject]:
    """Return objects with a few references each, always the same."""
    random = Random(7)
    names = [f"n{number}" for number in range(count)]
    return [
        store_object(name, *random.sample(names[: at + 1], min(at + 1, random.randrange(12))))
        for at, name in enumerate(names)
    ]


@pytest.mark.slow
@given(st.data())
def test_same_objects_same_bytes(data: st.DataObject) -> None:
    """Without it the layer's digest would depend on the order of a set."""
    names = [f"p{number}" for number in range(data.draw(st.integers(0, 60)))]
    chosen = st.lists(st.sampled_from(names), unique=True, max_size=8) if names else st.just([])
    objects = [store_object(name, *data.draw(chosen)) for name in names]
    one = written(*objects)
    shuffled = [
        store_object(
            item.path[44:], *[path[44:] for path in data.draw(st.permutations(item.references))]
        )
        for item in data.draw(st.permutations(objects))
    ]
    assert written(*shuffled) == one
    assert query(one, "PRAGMA integrity_check") == [("ok",)]
    assert query(one, "PRAGMA foreign_key_check") == []
    paths, references, _ = rows(one)
    assert paths == sorted(
        (item.path, item.nar_hash, None, item.nar_size, None, None, None) for item in objects
    )
    assert references == sorted((item.path, to) for item in objects for to in item.references)


def test_bytes_are_the_same_everywhere() -> None:
    """Without it another SQLite could give another layer: the bytes are compared with those of
    SQLite 3.40 (Debian, with its own options), 3.44, 3.49 and 3.54.
    """
    data = written(*sample(1500))
    assert len(data) == 749_568
    assert hashlib.sha256(data).hexdigest() == (
        "f9bffde97894cbb1f2524ad8ab1b80e437b298577bed1f6b7a53bac3ac898d3b"
    )


def test_large_values_do_not_upset_it() -> None:
    """A large value continues on overflow pages, which must be kept."""
    signatures = "key:" + "x" * 9000
    data = written(base=based(changed(written(A), f"UPDATE ValidPaths SET sigs = '{signatures}'")))
    assert query(data, "PRAGMA integrity_check") == [("ok",)]
    assert rows(data)[0][0][5] == signatures


def test_registration_time_is_constant() -> None:
    """Nix writes the current time there, and zero would mean that it is unknown."""
    assert query(written(A, B), "SELECT DISTINCT registrationTime FROM ValidPaths") == [(1,)]


def test_opens_where_nothing_can_be_written(tmp_path: Path) -> None:
    """A database in WAL mode cannot be read without files beside it."""
    path = tmp_path / "db.sqlite"
    path.write_bytes(written(A, B))
    with closing(sqlite3.connect(f"file:{path}?mode=ro", uri=True)) as connection:
        assert connection.execute("PRAGMA journal_mode").fetchall() == [("delete",)]
        assert connection.execute("SELECT count(*) FROM Refs").fetchall() == [(3,)]
    assert [item.name for item in tmp_path.iterdir()] == ["db.sqlite"]


def test_a_path_that_refers_to_itself_can_be_deleted() -> None:
    """Nix's garbage collector relies on the trigger, with foreign keys enabled."""
    with closing(sqlite3.connect(":memory:")) as connection:
        connection.deserialize(written(A))
        connection.execute("PRAGMA foreign_keys = on")
        connection.execute("DELETE FROM ValidPaths")
        assert connection.execute("SELECT count(*) FROM Refs").fetchall() == [(0,)]


def test_files_in_the_tree() -> None:
    """Nix looks for its files at these paths, and there are no others."""
    tree = made(A, B, roots=[B.path, B.path])
    found = {path: (node.typeflag, node.mode, node.link) for path, node in tree.entries()}
    places = {path: kind for path, kind in found.items() if kind[0] != typeflags.DIRECTORY}
    assert {mode for kind, mode, _ in found.values() if kind == typeflags.DIRECTORY} == {0o755}
    assert places == {
        b"nix/var/nix/db/db.sqlite": (typeflags.FILE, 0o644, b""),
        b"nix/var/nix/db/schema": (typeflags.FILE, 0o644, b""),
        b"nix/var/nix/gcroots/profiles": (typeflags.LINK, 0o777, b"/nix/var/nix/profiles"),
        b"nix/var/nix/gcroots/docker/" + B.path[11:].encode(): (
            typeflags.LINK, 0o777, B.path.encode(),
        ),
    }  # fmt: skip
    schema = tree.find(b"nix/var/nix/db/schema")
    assert schema is not None
    assert schema.data == b"10"


@pytest.mark.parametrize(
    ("objects", "roots", "message"),
    [
        ([B], [], f"{B.path}: refers to {A.path}, which is not in the database"),
        ([A], [B.path], f"{B.path}: is a root that is not in the database"),
        ([A, store_object("a")], [], f"{A.path}: is listed twice"),
        ([StoreObject(path="/gnu/store/x", nar_hash="", nar_size=1, references=())], [],
         "/gnu/store/x: is not a store path in /nix/store"),
        ([StoreObject(path=A.path, nar_hash="sha256-x", nar_size=1, references=())], [],
         f"{A.path}: narHash must be sha256: and 64 hex digits"),
        ([store_object("c", deriver="unknown")], [], "unknown: is not a store path in /nix/store"),
    ],
)  # fmt: skip
def test_impossible_databases(objects: list[StoreObject], roots: list[str], message: str) -> None:
    """Nix would fail in the container, much later and with less information."""
    with pytest.raises(RecipeError) as caught:
        made(*objects, roots=roots)
    assert str(caught.value) == f"Nix database: {message}"


def test_a_place_that_is_taken() -> None:
    """A content with its own database must not be overwritten silently."""
    tree = Tree()
    tree.put(DATABASE.encode(), nodes.file(b"", origin=b"/nix/store/x"))
    with pytest.raises(RecipeError, match=f"/{DATABASE}: .* from /nix/store/x; leave it out"):
        add_database(tree, NixDatabase(objects=(), roots=()), disk=Disk(b"/nix/store"))


# ---- derivations

DERIVATION = (
    'Derive([("dev","{store}/dev","",""),("later","","r:sha256",""),'
    '("out","{store}/out","",""){more}],[],[],"x","sh",["-c","(\\"a\\",\\"b\\",\\"c\\",\\"d\\")"],[])'
)


@pytest.mark.parametrize("begin", ["Derive(", 'DrvWithVersion("xp-dyn-drv",'])
@pytest.mark.parametrize("rooted", [False, True])
def test_outputs_of_derivations(tmp_path: Path, begin: str, *, rooted: bool) -> None:
    """Nix knows a derivation's outputs from the database, not from the file."""
    store = "/a/store" if rooted else str(tmp_path)
    disk = Disk(store.encode(), str(tmp_path).encode() if rooted else b"")
    path = store_path("x.drv", store)
    file = Path(f"{tmp_path}{path}" if rooted else path)
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(DERIVATION.format(store=store, more="").replace("Derive(", begin))
    digest = "sha256:" + "0" * 64
    tree = Tree()
    item = StoreObject(path=path, nar_hash=digest, nar_size=1, references=())
    database = NixDatabase(objects=(item,), roots=())
    add_database(tree, database, disk=disk)
    node = tree.find(DATABASE.encode())
    assert node is not None
    assert node.data is not None
    assert rows(node.data)[2] == [(path, name, f"{store}/{name}") for name in ("dev", "out")]
    file.write_text("no such thing")
    with pytest.raises(SourceError, match="is not a derivation"):
        add_database(Tree(), database, disk=disk)
    file.unlink()
    with pytest.raises(SourceError, match=r"x\.drv: no such file"):
        add_database(Tree(), database, disk=disk)


# ---- merging


def based(data: bytes, **more: Any) -> BaseDatabase:
    """Return a base image's database."""
    return BaseDatabase(name="base.tar: db.sqlite", data=data, **more)


def changed(data: bytes, *statements: str) -> bytes:
    """Return the database after the statements."""
    with closing(sqlite3.connect(":memory:", isolation_level=None)) as connection:
        connection.deserialize(data)
        for statement in statements:
            connection.execute(statement)
        return connection.serialize()


def in_wal_mode(data: bytes) -> bytes:
    """Return the file as Nix leaves it."""
    return data[:18] + b"\2\2" + data[20:]


@pytest.mark.parametrize("base_first", [False, True])
def test_merged_with_the_base(base_first: bool) -> None:  # noqa: FBT001 — a parameter of the test
    """Paths that only the base has are kept with their signatures; of two records one wins."""
    other = store_object("c", "a", "c")
    base = changed(
        written(A, other),
        "UPDATE ValidPaths SET ultimate = 1, sigs = 'k:s', ca = 'fixed:x', deriver = NULL,"
        " narSize = 7, registrationTime = 123",
        f"INSERT INTO DerivationOutputs SELECT id, 'out', 'o' FROM ValidPaths WHERE path = '{other.path}'",
    )
    data = written(A, B, base=based(in_wal_mode(base)), base_first=base_first, roots=[other.path])
    paths, references, outputs = rows(data)
    kept = (None, 7, 1, "k:s", "fixed:x")
    assert paths == sorted(
        [
            (
                A.path,
                A.nar_hash,
                *(kept if base_first else (A.deriver, A.nar_size, None, None, None)),
            ),
            (B.path, B.nar_hash, None, B.nar_size, None, None, None),
            (other.path, other.nar_hash, *kept),
        ]
    )
    assert references == sorted((item.path, to) for item in (A, B, other) for to in item.references)
    assert outputs == [(other.path, "out", "o")]
    assert query(data, "SELECT DISTINCT registrationTime FROM ValidPaths") == [(1,)]


def test_merging_nothing_new_changes_nothing() -> None:
    """The bytes depend on the content, not on its history."""
    objects = sample(50)
    assert written(*objects[:20], base=based(written(*objects))) == written(*objects)
    assert written(base=based(written(*objects))) == written(*objects)


def test_realisations_of_the_base_are_dropped() -> None:
    """If the file with their version stayed, Nix would look for tables that are gone."""
    tree = made(A, base=based(written(A), has_realisations=True))
    node = tree.find(b"nix/var/nix/db/ca-schema")
    assert node is not None
    assert node.data == b"0"


def shared_text() -> bytes:
    """Return a database in which two rows with a long text share its bytes."""
    length = 900_629  # so that both rows fit into one leaf
    data = bytearray(
        changed(
            written(A, B),
            f"UPDATE ValidPaths SET sigs = printf('%.*c', {length}, 'x') WHERE id = 1",
            f"UPDATE ValidPaths SET sigs = printf('%.*c', {length}, 'x') WHERE id = 2",
        )
    )
    root = query(bytes(data), "SELECT rootpage FROM sqlite_master WHERE name = 'ValidPaths'")[0][0]
    start = (root - 1) * 4096
    assert (data[start], data[start + 4]) == (13, 2)  # a leaf with both
    nexts = []
    for number in range(2):
        at = start + int.from_bytes(data[start + 8 + 2 * number : start + 10 + 2 * number], "big")
        size = 0
        while True:
            size = size << 7 | data[at] & 127
            at += 1
            if data[at - 1] < 128:
                break
        # File format, 1.6: the part of a row that is stored in its leaf.
        local = 489 + (size - 489) % 4092
        at += 1 + (local if local <= 4061 else 489)
        nexts.append(at)
    first, second = (int.from_bytes(data[at : at + 4], "big") for at in nexts)
    assert second > first
    data[nexts[1] : nexts[1] + 4] = data[nexts[0] : nexts[0] + 4]
    del data[(second - 1) * 4096 :]
    data[28:32] = (second - 1).to_bytes(4, "big")
    return bytes(data)


def looping_schema() -> bytes:
    """Return a schema table of 20 levels in which every page has the same child 300 times:
    reading all of it would not end in any useful time.
    """
    data = bytearray(written(A))
    page = 4096
    leaf_row = next(
        row for row in query(bytes(data), "SELECT rowid FROM sqlite_master WHERE sql IS NULL")
    )[0]
    first = len(data) // page + 1
    levels = 17
    # A leaf with an index that SQLite makes itself: a row that may come twice.
    name, table = b"sqlite_autoindex_ValidPaths_1", b"ValidPaths"
    payload = bytes([6, 13 + 2 * 5, 13 + 2 * len(name), 13 + 2 * len(table), 1, 0])
    payload += b"index" + name + table + bytes([3])
    cell = bytes([len(payload), leaf_row]) + payload
    leaf = bytearray(page)
    leaf[0:8] = bytes([13, 0, 0, 0, 1]) + (page - len(cell)).to_bytes(2, "big") + b"\0"
    leaf[8:10] = (page - len(cell)).to_bytes(2, "big")
    leaf[page - len(cell) :] = cell

    def interior(below: int, at: int = 0) -> bytes:
        made = bytearray(page)
        count = 300
        content = page - 5 * count
        made[at : at + 12] = (
            bytes([5, 0, 0]) + count.to_bytes(2, "big") + content.to_bytes(2, "big") + b"\0"
            + below.to_bytes(4, "big")
        )  # fmt: skip
        for number in range(count):
            place = content + 5 * number
            made[at + 12 + 2 * number : at + 14 + 2 * number] = place.to_bytes(2, "big")
            made[place : place + 5] = below.to_bytes(4, "big") + b"\1"
        return bytes(made)

    # The real rows first, by the first child of the root; then the endless ones.
    copy = first + levels + 1
    root = bytearray(interior(first, 100))
    content = int.from_bytes(root[105:107], "big")
    root[content : content + 4] = copy.to_bytes(4, "big")
    original = bytearray(data[:page])
    shifted = bytearray(page)
    cells = int.from_bytes(original[103:105], "big")
    shifted[0:8] = original[100:108]
    shifted[8 : 8 + 2 * cells] = original[108 : 108 + 2 * cells]
    start = int.from_bytes(original[105:107], "big")
    shifted[start:] = original[start:]
    data[:page] = original[:100] + root[100:]
    for number in range(levels):
        data += interior(first + number + 1)
    data += leaf + shifted
    data[28:32] = (len(data) // page).to_bytes(4, "big")
    return bytes(data)


def recreated(table: str, sql: str) -> bytes:
    """Return a database with something else in place of `table`."""
    return changed(written(A), "DROP TRIGGER DeleteSelfRefs", f"DROP TABLE {table}", sql)


COLUMNS = "id integer primary key, path, hash, deriver, narSize, ultimate, sigs, ca"
ENDLESS = (
    "WITH RECURSIVE n(i) AS (VALUES(1) UNION ALL SELECT i + 1 FROM n) SELECT "
    "1 AS id, 'p' AS path, 'h' AS hash, NULL AS deriver, 1 AS narSize, 1 AS ultimate, 's' AS sigs,"
    " 'c' AS ca FROM n WHERE i < 0"
)
BASES: dict[str, tuple[Callable[[], bytes], str]] = {
    "no database": (lambda: b"x" * 8192, "file is not a database"),
    "empty": (lambda: b"", "file is not a database"),
    "cut short": (lambda: written(*sample(300))[:40_000], "malformed"),
    "too large": (lambda: bytes((64 << 20) + 1), "it is larger than 67108864 bytes"),
    "no tables": (
        lambda: changed(written(A), "ALTER TABLE ValidPaths RENAME TO x"),
        "it has no table ValidPaths",
    ),
    "no table of references": (
        lambda: changed(written(A), "DROP TABLE Refs"),
        "it has no table Refs",
    ),
    "an older schema": (
        lambda: changed(written(A), "ALTER TABLE ValidPaths DROP COLUMN ca"),
        "ValidPaths does not match schema version 10",
    ),
    "a view that does not end": (
        lambda: recreated("ValidPaths", f"CREATE VIEW ValidPaths AS {ENDLESS}"),
        "it has no table ValidPaths",
    ),
    "a virtual table": (
        lambda: recreated(
            "ValidPaths", f"CREATE VIRTUAL TABLE ValidPaths USING fts5({COLUMNS[20:]})"
        ),
        "it has no table ValidPaths",
    ),
    "a computed column": (
        lambda: recreated("ValidPaths", f"CREATE TABLE ValidPaths ({COLUMNS} AS (zeroblob(9)))"),
        "ValidPaths does not match schema version 10",
    ),
    "bytes for text": (
        lambda: changed(written(A), "UPDATE ValidPaths SET deriver = x'00'"),
        "ValidPaths has a value of the wrong type",
    ),
    "no UTF-8": (
        lambda: changed(written(A), "UPDATE ValidPaths SET deriver = CAST(x'ff' AS text)"),
        "Could not decode to UTF-8",
    ),
    "a huge value": (
        lambda: changed(written(A), "UPDATE ValidPaths SET sigs = printf('%.*c', 2000000, 'x')"),
        "string or blob too big",
    ),
    "another store": (
        lambda: changed(written(A), "UPDATE ValidPaths SET path = '/gnu' || path"),
        "or its hash does not belong to this store",
    ),
    "a path twice": (
        lambda: changed(
            recreated("ValidPaths", f"CREATE TABLE ValidPaths ({COLUMNS})"),
            *[f"INSERT INTO ValidPaths (path, hash) VALUES ('{A.path}', '{A.nar_hash}')"] * 2,
        ),
        "occurs twice",
    ),
    "references to nowhere": (
        lambda: changed(written(A), "INSERT INTO Refs VALUES (1, 9)"),
        "it has no path with the id 9",
    ),
    "text in two places": (shared_text, "its values are longer than the file"),
    "a schema without end": (looping_schema, "it takes too long"),
    "very many tables": (
        lambda: changed(
            written(A),
            "PRAGMA writable_schema = on",
            "WITH n(i) AS (VALUES(1) UNION ALL SELECT i + 1 FROM n WHERE i < 5000)"
            " INSERT INTO sqlite_master SELECT 'table', 't' || i, 't' || i, 2,"
            " 'CREATE TABLE t' || i || '(x)' FROM n",
        ),
        "it takes too long",
    ),
    "a name that is no UTF-8": (
        lambda: changed(
            written(A),
            "PRAGMA writable_schema = on",
            "UPDATE sqlite_master SET name = CAST(x'ff' AS text), sql = 'CREATE nothing'"
            " WHERE name = 'IndexReferrer'",
        ),
        "its schema is malformed",
    ),
    "a long statement": (
        lambda: changed(written(A), f"CREATE VIEW v AS SELECT {'1,' * 6000} 1"),
        "too big",
    ),
}


@pytest.mark.parametrize("name", BASES)
def test_bases_that_cannot_be_merged(name: str) -> None:
    """A crafted base must not run anything, take forever or give a traceback."""
    make, message = BASES[name]
    with pytest.raises(ArchiveError) as caught:
        made(A, base=based(make()))
    text = str(caught.value)
    assert text.startswith("base.tar: db.sqlite: the Nix database cannot be read: ")
    assert message in text
    assert len(text) < 500


def test_a_stopped_query_is_known_by_its_code(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without it the reason would depend on the wording of SQLite's messages."""

    def stop(code: int) -> None:
        error = sqlite3.OperationalError("interrupted" if code != STOPPED else "other words")
        error.sqlite_errorcode = code
        raise error

    for code, reason in ((STOPPED, "it takes too long"), (sqlite3.SQLITE_ERROR, "interrupted")):
        monkeypatch.setattr(registrations, "_read_schema", lambda _, code=code: stop(code))
        with pytest.raises(registrations.UnusableError, match=reason):
            registrations.read(written(A), str)


def test_other_tables_of_a_base_are_ignored() -> None:
    """Foreign triggers, views and tables are neither run nor copied."""
    base = changed(
        written(A),
        "CREATE TABLE more (x)",
        "CREATE VIEW v AS SELECT * FROM nowhere",
        "CREATE TRIGGER t AFTER INSERT ON ValidPaths BEGIN DELETE FROM Refs; END",
        "CREATE INDEX i ON ValidPaths(abs(narSize))",
    )
    assert written(A, B, base=based(base)) == written(A, B)


@given(st.data())
def test_damaged_bases_end_in_an_error_or_not_at_all(data: st.DataObject) -> None:
    """Any byte of a base can be wrong."""
    base = bytearray(written(*sample(30)))
    for _ in range(data.draw(st.integers(1, 8))):
        base[data.draw(st.integers(0, len(base) - 1))] = data.draw(st.integers(0, 255))
    try:
        result = written(A, base=based(bytes(base)))
    except (ArchiveError, RecipeError):
        return
    assert query(result, "PRAGMA integrity_check") == [("ok",)]
    assert query(result, "PRAGMA foreign_key_check") == []


# ---- finding it in a base image


def image_of(directory: Path, layers: Sequence[bytes], compressor: str = "plain") -> Path:
    """Make a base image of these layers."""
    path = directory / "base.tar"
    path.write_bytes(COMPRESSORS[compressor](Base(layers=list(layers)).docker_archive()))
    return path


def found_in(image: Path) -> BaseDatabase | None:
    """Return the database that a run finds in it."""
    recipe: dict[str, Any] = {"nix_database": {"objects": []}}
    conf = parse_conf(
        json.dumps(
            {"repo_tag": "x:1", "from_image": str(image), "customisation_layer": recipe}
        ).encode()
    )
    with opened_base(conf) as base:
        assert base is not None
        return finding.base_database(base.tree())


def with_database(data: bytes = b"data", **more: bytes) -> dict[str, bytes]:
    """Return a layer's files."""
    return {DATABASE: data, "nix/var/nix/db/schema": b"10", "nix/store/x": b"", **more}


@pytest.mark.parametrize("compressor", COMPRESSORS)
def test_found_in_the_last_layer_that_has_it(tmp_path: Path, compressor: str) -> None:
    """The database is found however the base image is compressed."""
    layers = [with_database(b"old"), with_database(b"new" * 5000), {"other": b""}]
    base = image_of(tmp_path, [layer_tar(files) for files in layers], compressor)
    found = found_in(base)
    assert found is not None
    assert found.data == b"new" * 5000
    assert found.name == f"{base}: {DATABASE}"
    assert not found.has_realisations


def test_a_base_without_a_database(tmp_path: Path) -> None:
    """Most bases have none."""
    assert found_in(image_of(tmp_path, [layer_tar({"nix/var/nix/db/x": b""})])) is None


PLACES = [DATABASE.rsplit("/", depth)[0] for depth in range(1, 5)]


@st.composite
def layers(draw: st.DrawFn) -> bytes:
    """Draw a layer that changes the database and the directories above it."""
    members: dict[str, bytes | tarfile.TarInfo] = {}
    for _ in range(draw(st.integers(0, 4))):
        parent, _, name = draw(st.sampled_from([DATABASE, *PLACES])).rpartition("/")
        kind = draw(st.sampled_from(["whiteout", "opaque", "file", "directory", "database"]))
        prefix = f"{parent}/" if parent else ""
        if kind == "whiteout":
            members[f"{prefix}.wh.{name}"] = b""
        elif kind == "opaque":
            members[f"{prefix}.wh..wh..opq"] = b""
        elif kind == "directory" and f"{prefix}{name}" not in members:
            members[f"{prefix}{name}"] = directory = tarfile.TarInfo()
            directory.type = tarfile.DIRTYPE
        elif kind == "file" and f"{prefix}{name}" != DATABASE:
            members[f"{prefix}{name}"] = b"in the way"
        else:
            members[DATABASE] = draw(st.binary(max_size=3))
            members[DATABASE.replace("db.sqlite", "schema")] = b"10"
    return tar_of(sound(draw(st.permutations(list(members.items())))))


@given(st.lists(layers(), min_size=1, max_size=5))
def test_layers_can_hide_the_database(tmp_path: Path, stack: list[bytes]) -> None:
    """Whiteouts and replaced directories hide it, as in an export."""
    image = image_of(tmp_path, stack)
    nodes_left = flattened(stack)
    expected = nodes_left.get(DATABASE)
    schema = nodes_left.get(DATABASE.replace("db.sqlite", "schema"))
    if expected is None:
        assert found_in(image) is None
    elif expected.kind != tarfile.REGTYPE or schema is None or schema.content != b"10":
        with pytest.raises(ArchiveError):
            found_in(image)
    else:
        found = found_in(image)
        assert found is not None
        assert found.data == expected.content


@pytest.mark.parametrize(
    ("more", "message"),
    [
        ({f"{DATABASE}-wal": b"x"}, "db.sqlite-wal has changes that are not in it yet; close"),
        ({f"{DATABASE}-journal": b"x"}, "db.sqlite-journal has changes that are not in it yet"),
        (
            {"nix/var/nix/db/schema": b"9\n"},
            "is a Nix database of schema version 9; only version 10",
        ),
        ({"nix/var/nix/db/schema": b""}, "schema version unknown"),
        ({"nix/var/nix/db/schema": b"1" * 101}, "has 101 bytes; at most 100"),
    ],
)
def test_databases_that_cannot_be_taken(
    tmp_path: Path, more: dict[str, bytes], message: str
) -> None:
    """The file alone would be an older state of it, or another format."""
    base = image_of(tmp_path, [layer_tar(with_database()), layer_tar(more)])
    with pytest.raises(ArchiveError) as caught:
        found_in(base)
    assert str(caught.value).startswith(f"{base}: ")
    assert message in str(caught.value)


def test_an_empty_log_is_ignored(tmp_path: Path) -> None:
    """Newer Nix versions leave an empty log when they close the database."""
    files = with_database(**{f"{DATABASE}-wal": b"", "nix/var/nix/db/ca-schema": b"4"})
    found = found_in(image_of(tmp_path, [layer_tar(files)]))
    assert found is not None
    assert found.has_realisations


@pytest.mark.parametrize("name", [DATABASE, *PLACES])
def test_a_database_reached_through_a_link(tmp_path: Path, name: str) -> None:
    """Our database would not follow the link: an error, instead of losing the base's."""
    base = image_of(tmp_path, [tar_of([(name, link("/elsewhere"))])])
    with pytest.raises(ArchiveError, match=f"{name}: is a link"):
        found_in(base)


def test_room_for_databases_has_an_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A thousand layers with a large database each must not fill the memory."""
    monkeypatch.setattr(finding, "MAX_KEPT", 10_000)
    stack = [layer_tar(with_database(bytes(4000) + b"%d" % number)) for number in range(3)]
    assert found_in(image_of(tmp_path, stack[:2])) is not None
    with pytest.raises(ArchiveError, match=r"at most .* are read, and .* in all layers"):
        found_in(image_of(tmp_path, stack))
    monkeypatch.setattr(finding, "MAX_DATABASE", 4000)
    with pytest.raises(ArchiveError, match="has 4001 bytes; at most 4000"):
        found_in(image_of(tmp_path, stack[:1]))

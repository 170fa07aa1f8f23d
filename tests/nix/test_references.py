"""References graphs in Nix's formats."""

import base64
import json
from typing import Any

import pytest
from graphs import graphs
from hypothesis import given
from hypothesis import strategies as st

from stream.errors import ConfError
from stream.graph import Graph, Node
from stream.model import StoreObject
from stream.nix import references
from stream.nix.references import References, parse_references

STORE = "/nix/store"
HELLO = f"{STORE}/{'h' * 32}-hello-2.12"
GLIBC = f"{STORE}/{'g' * 32}-glibc-2.39"


def info(size: object, *others: object, **more: object) -> dict[str, Any]:
    """Return Nix's description of a store path."""
    return {"narHash": "sha256:0", "narSize": size, "references": list(others), **more}


def read(document: object) -> References:
    """Parse a document."""
    return parse_references(json.dumps(document).encode(), "graph.json")


def parsed(document: object) -> Graph:
    """Return the graph in a document."""
    return read(document).graph


def as_list(graph: Graph) -> list[dict[str, Any]]:
    """Return a graph as `exportReferencesGraph` writes it; every second path refers to itself."""
    return [
        {"path": path, "closureSize": 0}
        | info(node.size, *sorted({*node.references, *([path] if number % 2 else [])}))
        for number, (path, node) in enumerate(graph.items())
    ]


FORMS: dict[str, Any] = {
    "a list": [info(7, GLIBC, HELLO, path=HELLO), info(9, path=GLIBC, closureSize=9)],
    "an old list": [info(7, GLIBC, path=HELLO, valid=True), info(9, path=GLIBC, valid=True)],
    "of a build": {
        "exportReferencesGraph": {"graph": [HELLO], "more": [GLIBC]},
        "graph": [info(7, GLIBC, HELLO, path=HELLO), info(9, path=GLIBC)],
        "more": [info(9, path=GLIBC)],
        "name": "conf.json",
    },
    "by path": {HELLO: info(7, GLIBC, ca=None), GLIBC: info(9, deriver=None)},
    "by name": {
        "version": 2,
        "storeDir": STORE,
        "info": {
            HELLO.removeprefix(f"{STORE}/"): info(7, GLIBC.removeprefix(f"{STORE}/")),
            GLIBC.removeprefix(f"{STORE}/"): info(9),
        },
    },
}


@pytest.mark.parametrize("form", FORMS)
def test_forms_of_all_nix_versions(form: str) -> None:
    """The version of Nix must not matter."""
    assert parsed(FORMS[form]) == {
        HELLO: Node(7, frozenset([GLIBC])),
        GLIBC: Node(9, frozenset()),
    }


@given(graph=graphs(cycles=True))
def test_what_is_written_is_read(graph: Graph) -> None:
    """Nix may write cycles, and references of a path to itself."""
    listed = as_list(graph)
    assert parsed(listed) == graph
    assert parsed({item.pop("path"): item for item in listed}) == graph


@pytest.mark.parametrize(
    ("document", "place", "message"),
    [
        (3, "", "must be a list or an object, not a number"),
        ([3], "[0]", "must be an object, not a number"),
        ([None], "[0]", "must be an object, not null"),
        ([{}], "[0].path", "is missing"),
        ([{"path": 3}], "[0].path", "must be a store path, not a number"),
        ([info(1, path="hello")], "[0].path", "'hello' is not a store path"),
        ([info(1, path="/")], "[0].path", "'/' is not"),
        ([info(1, path="//x")], "[0].path", "'//x' is not"),
        ([info(1, path="/x/../y")], "[0].path", "'/x/../y' is not"),
        ([info(1, path="/x\0y")], "[0].path", "is not a store path"),
        ([info(None, path="/x")], "[0].narSize", "is missing"),
        ([info("1", path="/x")], "[0].narSize", "must be a number of bytes, not a string"),
        ([info(1 << 63, path="/x")], "[0].narSize", f"must be a number of bytes, not {1 << 63}"),
        ([info(-1, path="/x")], "[0].narSize", "must be a number of bytes, not -1"),
        ([info(1.5, path="/x")], "[0].narSize", "must be a number of bytes, not 1.5"),
        ([{"path": "/x", "references": [], "narSize": True}], "[0].narSize", "bytes, not a boolean"),
        ([{"path": "/x", "narSize": 1}], "[0].references", "is missing"),
        ([{"path": "/x", "narSize": 1, "references": "/x"}], "[0].references", "must be a list"),
        ([info(1, None, path="/x")], "[0].references[0]", "is missing"),
        ([info(1, "/x", ["/x"], path="/x")], "[0].references[1]", "must be a store path, not a list"),
        ([info(1, "/y", path="/x")], "[0]", "refers to /y, which is not listed; list a whole closure"),
        ([info(1, path="/x"), info(2, path="/x")], "[1]", "/x is already listed at [0], diff"),
        (
            [info(1, path="/x"), info(1, "/y", path="/x"), info(1, path="/y")],
            "[1]",
            "/x is already listed at [0], differently",
        ),
        ([{"path": "/x", "valid": False}], "[0]", "is not in the Nix store that was queried"),
        ({"/x": None}, '["/x"]', "is not in the Nix store that was queried"),
        ({"/x": []}, '["/x"]', "must be an object, not a list"),
        ({"/x": info(1, "/y")}, '["/x"]', "refers to /y"),
        ({"x": info(1)}, '["x"]', "'x' is not a store path"),
        ({"info": {}, "version": 2}, "storeDir", "must be the absolute path of the store directory"),
        ({"info": {"x": info(1, "y")}, "storeDir": "/s"}, 'info["x"]', "refers to /s/y"),
        ({"exportReferencesGraph": {"g": []}}, "g", "must be a list"),
        ({"exportReferencesGraph": {"g": []}, "g": [{}]}, "g[0].path", "is missing"),
        ({"info": {"": info(1)}, "storeDir": "/s"}, 'info[""]', "is not a store path"),
    ],
)  # fmt: skip
def test_faults_are_reported_by_place(document: object, place: str, message: str) -> None:
    """A fault in a graph that was shortened or written by hand is reported with its place, on one line."""
    with pytest.raises(ConfError) as error:
        parsed(document)
    (fault,) = error.value.faults
    assert fault.place == place
    assert message in fault.message
    assert "\n" not in str(error.value)
    assert str(error.value).startswith("graph.json: ")


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "not JSON"),
        (b"\xff", "not JSON"),
        (b"[" * 10**6, "not JSON"),
        (b'[{"path": "/x", "references": ' + b"[" * 900 + b"]" * 900 + b"}]", "must be a store path"),
        (b'[{"path": "/x", "references": [], "narSize": 1' + b"0" * 40 + b"}]", "narSize: must be"),
    ],
    ids=["empty", "not text", "deep", "deep and whole", "long number"],
)  # fmt: skip
def test_hostile_documents(data: bytes, message: str) -> None:
    """No document may cause a traceback."""
    with pytest.raises(ConfError, match=message):
        parse_references(data, "graph.json")


def test_not_all_faults_of_thousands() -> None:
    """A large graph must not flood the terminal with faults."""
    with pytest.raises(ConfError) as error:
        parsed([{}] * 10_000)
    assert len(error.value.faults) == 20


def test_more_paths_than_can_be_planned(monkeypatch: pytest.MonkeyPatch) -> None:
    """Planning needs memory that grows with the square of the paths; a document must not exhaust it."""
    monkeypatch.setattr(references, "MAX_PATHS", 3)
    listed = {f"/s/{n}": info(n) for n in range(4)}
    assert len(parsed(dict(list(listed.items())[:3]))) == 3
    with pytest.raises(ConfError, match="too many store paths: at most 3 are allowed"):
        parsed(listed)


def test_more_references_than_can_be_planned(monkeypatch: pytest.MonkeyPatch) -> None:
    """Repeated references take time like any others."""
    monkeypatch.setattr(references, "MAX_REFERENCES", 3)
    assert parsed([info(1, *["/x"] * 3, path="/x")]) == {"/x": Node(1, frozenset())}
    with pytest.raises(ConfError, match="too many"):
        parsed([info(1, *["/x"] * 4, path="/x")])


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.sampled_from(["/x", "/y", ""]),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(
            st.sampled_from(["path", "narSize", "references", "info", "storeDir", "valid", "/x"]),
            inner,
        )
    ),
)


@given(document=json_values)
def test_any_json_is_a_graph_or_an_error(document: Any) -> None:
    """No JSON causes a traceback, and every reference of a graph is a node of it."""
    try:
        graph = parsed(document)
    except ConfError:
        return
    for path, node in graph.items():
        assert node.references <= graph.keys() - {path}


HASH = "sha256:" + "ab" * 32
DERIVER = f"{STORE}/{'d' * 32}-hello-2.12.drv"


def objects_of(references: References) -> tuple[StoreObject, ...]:
    """Return the database records of all paths."""
    return references.objects(references.graph)


@pytest.mark.parametrize("by_name", [False, True])
def test_what_a_database_says(*, by_name: bool) -> None:
    """Nix's database records references of a path to itself, and derivers."""
    prefix = f"{STORE}/" if by_name else ""
    hello, glibc, deriver = (path.removeprefix(prefix) for path in (HELLO, GLIBC, DERIVER))
    infos: Any = {
        hello: {**info(7, hello, glibc, glibc), "narHash": HASH, "deriver": deriver},
        glibc: {**info(9), "narHash": HASH.removeprefix("sha256:"), "deriver": None},
    }
    assert objects_of(read({"storeDir": STORE, "info": infos} if by_name else infos)) == (
        StoreObject(path=GLIBC, nar_hash=HASH, nar_size=9, references=()),
        StoreObject(
            path=HELLO, nar_hash=HASH, nar_size=7, references=(GLIBC, HELLO), deriver=DERIVER
        ),
    )


def test_hash_as_an_object() -> None:
    """Nix 2.33 wrote hashes like this in `--json-format 2`."""
    value = {
        "algorithm": "sha256",
        "format": "base64",
        "hash": base64.b64encode(b"\xab" * 32).decode(),
    }
    (found,) = objects_of(read([info(1, path="/x") | {"narHash": value}]))
    assert found.nar_hash == HASH


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (None, r"\[0\].narHash: is missing; a Nix database needs one"),
        ("md5:0", r"\[0\].narHash: is not a SHA-256 as Nix writes it; a"),
        (["sha256:0"], r"\[0\].narHash: is not a SHA-256"),
        ({"algorithm": [], "format": "base64"}, r"\[0\].narHash: is not a SHA-256"),
    ],
)
def test_hashes_are_needed_for_a_database_alone(value: object, message: str) -> None:
    """A graph without hashes is enough for planning, but not for a database."""
    references = read([info(1, path="/x") | {"narHash": value}])
    assert references.graph == {"/x": Node(1, frozenset())}
    assert references.objects([]) == ()
    with pytest.raises(ConfError, match=message):
        objects_of(references)


def test_not_all_hashes_that_are_missing() -> None:
    """A large graph must not flood the terminal with faults."""
    references = read([{"path": f"/x{n}", "narSize": 1, "references": []} for n in range(100)])
    with pytest.raises(ConfError) as error:
        objects_of(references)
    assert len(error.value.faults) == 20


def lines_of(graph: Graph, *, hashed: bool) -> bytes:
    """Return a graph as `exportReferencesGraph` and `nix-store --dump-db` write it."""
    records = (
        [
            path,
            *([HASH, str(node.size)] if hashed else []),
            DERIVER if number % 2 else "",
            str(len(node.references)),
            *sorted(node.references),
        ]
        for number, (path, node) in enumerate(graph.items())
    )
    return "".join(f"{line}\n" for record in records for line in record).encode()


@given(graph=graphs(cycles=True).filter(bool))
def test_lines_are_read(graph: Graph) -> None:
    """A graph in lines needs neither jq nor another Nix."""
    hashed = parse_references(lines_of(graph, hashed=True), "lines")
    assert hashed.graph == graph
    assert hashed.sized
    expected = [DERIVER if number % 2 else "" for number in range(len(graph))]
    assert {item.path: item.deriver for item in objects_of(hashed)} == dict(
        zip(graph, expected, strict=True)
    )
    plain = parse_references(lines_of(graph, hashed=False), "lines")
    assert plain.graph == {path: Node(0, node.references) for path, node in graph.items()}
    assert not plain.sized
    with pytest.raises(ConfError, match=r"^lines: has neither hashes nor sizes"):
        objects_of(plain)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("/x", "lists store paths without their references, as `nix-store -qR` does; list a whole"),
        ("/x\n/y\n/z\n/a\n", "lists store paths without their references"),
        ("/x\n\n", "line 1: record is truncated"),
        ("/x\n\n1\n", "line 1: record is truncated"),
        ("/x\n\n0\n/y\n\n", "line 4: record is truncated"),
        ("/x\n\n99999999999999999999\n", "line 3: '9+' is not a number of references"),
        ("/x\n\n-1\n", "line 3: '-1' is not a number of references"),
        ("/x\n\n1\n/y\n", "line 1: refers to /y, which is not listed"),
        ("/x\n\n1\n/x\n/x\n\n0\n", "line 5: /x is already listed at line 1, differently"),
        ("/x/\n\n0\n", "line 1: '/x/' is not a store path"),
        ("/x\n\n1\ny\n", r"line 1.references\[0\]: 'y' is not a store path"),
        ("/x\nabc\n1\n\n", "line 1: record is truncated"),
        ("/x\nabc\n1e3\n\n0\n", "line 1.narSize: '1e3' is not a number of bytes"),
        ("/x\nabc\n\N{ARABIC-INDIC DIGIT ONE}\n\n0\n", "line 1.narSize: '.' is not a number of bytes"),
        ("/\n\n0\n", "line 1: '/' is not a store path"),
    ],
)  # fmt: skip
def test_faults_are_reported_by_line(text: str, message: str) -> None:
    """A truncated file must not be read as a smaller closure."""
    with pytest.raises(ConfError, match=f"^lines: {message}"):
        parse_references(text.encode(), "lines")


def test_graphs_put_together() -> None:
    """Two files of exportReferencesGraph, one after the other, are the union of their graphs."""
    text = "/x\n\n0\n/y\n/d.drv\n2\n/x\n/y\n" + "/x\n\n0\n/z\n\n1\n/x\n"
    graph = parse_references(text.encode(), "lines").graph
    assert {path: sorted(node.references) for path, node in graph.items()} == {
        "/x": [],
        "/y": ["/x"],
        "/z": ["/x"],
    }
    twice = json.dumps([info(1, path="/x"), info(1, path="/x")]).encode()
    assert [*parse_references(twice, "list").graph] == ["/x"]


@given(data=st.lists(st.sampled_from([b"/x", b"/y", b"", b"0", b"1", b"2", b"\xff", b"z"])))
def test_any_lines_are_a_graph_or_an_error(data: list[bytes]) -> None:
    """No text causes a traceback, and every reference of a graph is a node of it."""
    try:
        graph = parse_references(b"/" + b"\n".join(data), "lines").graph
    except ConfError:
        return
    assert all(node.references <= graph.keys() for node in graph.values())

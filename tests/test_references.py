"""References graphs as Nix writes them."""

import json
from typing import Any

import pytest
from graphs import graphs
from hypothesis import given
from hypothesis import strategies as st

from stream.errors import ConfError
from stream.layering import references
from stream.layering.graph import Graph, Node
from stream.layering.references import parse_references

STORE = "/nix/store"
HELLO = f"{STORE}/{'h' * 32}-hello-2.12"
GLIBC = f"{STORE}/{'g' * 32}-glibc-2.39"


def info(size: object, *others: object, **more: object) -> dict[str, Any]:
    """What Nix says of a store path."""
    return {"narHash": "sha256:0", "narSize": size, "references": list(others), **more}


def parsed(document: object) -> Graph:
    """The graph in a document."""
    return parse_references(json.dumps(document).encode(), "graph.json")


def as_list(graph: Graph) -> list[dict[str, Any]]:
    """What `exportReferencesGraph` writes of a graph; every other path refers to itself."""
    return [
        {"path": path, "closureSize": 0}
        | info(node.size, *sorted({*node.references, *([path] if number % 2 else [])}))
        for number, (path, node) in enumerate(graph.items())
    ]


FORMS: dict[str, Any] = {
    "a list": [info(7, GLIBC, HELLO, path=HELLO), info(9, path=GLIBC, closureSize=9)],
    "an old list": [info(7, GLIBC, path=HELLO, valid=True), info(9, path=GLIBC, valid=True)],
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
    """Which Nix somebody has is no matter."""
    assert parsed(FORMS[form]) == {
        HELLO: Node(7, frozenset([GLIBC])),
        GLIBC: Node(9, frozenset()),
    }


@given(graph=graphs(cycles=True))
def test_what_is_written_is_read(graph: Graph) -> None:
    """Cycles and references of a path to itself are what Nix may write."""
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
        ([info(1, path="hello")], "[0].path", "'hello' is not the path of a store path"),
        ([info(1, path="/")], "[0].path", "'/' is not"),
        ([info(1, path="//x")], "[0].path", "'//x' is not"),
        ([info(1, path="/x/../y")], "[0].path", "'/x/../y' is not"),
        ([info(1, path="/x\0y")], "[0].path", "is not the path of a store path"),
        ([info(None, path="/x")], "[0].narSize", "is missing"),
        ([info("1", path="/x")], "[0].narSize", "must be a number of bytes, not a string"),
        ([info(-1, path="/x")], "[0].narSize", "must be a number of bytes, not -1"),
        ([info(1.5, path="/x")], "[0].narSize", "must be a number of bytes, not a number"),
        ([{"path": "/x", "references": [], "narSize": True}], "[0].narSize", "bytes, not a boolean"),
        ([{"path": "/x", "narSize": 1}], "[0].references", "is missing"),
        ([{"path": "/x", "narSize": 1, "references": "/x"}], "[0].references", "must be a list"),
        ([info(1, None, path="/x")], "[0].references[0]", "is missing"),
        ([info(1, "/x", ["/x"], path="/x")], "[0].references[1]", "must be a store path, not a list"),
        ([info(1, "/y", path="/x")], "[0]", "refers to /y, which is not here: list a whole closure"),
        ([info(1, path="/x"), info(1, path="/x")], "[1]", "/x is listed already, at [0]"),
        ([{"path": "/x", "valid": False}], "[0]", "is not in the store that Nix was asked about"),
        ({"/x": None}, '["/x"]', "is not in the store that Nix was asked about"),
        ({"/x": []}, '["/x"]', "must be an object, not a list"),
        ({"/x": info(1, "/y")}, '["/x"]', "refers to /y"),
        ({"x": info(1)}, '["x"]', "'x' is not the path of a store path"),
        ({"info": {}, "version": 2}, "storeDir", "must be the absolute path of the store directory"),
        ({"info": {"x": info(1, "y")}, "storeDir": "/s"}, 'info["x"]', "refers to /s/y"),
        ({"info": {"": info(1)}, "storeDir": "/s"}, 'info[""]', "is not the path"),
    ],
)  # fmt: skip
def test_faults_are_told_by_place(document: object, place: str, message: str) -> None:
    """A graph that somebody cut down or wrote by hand is told where it is wrong, in one line."""
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
    """No document ends in a traceback."""
    with pytest.raises(ConfError, match=message):
        parse_references(data, "graph.json")


def test_not_all_faults_of_thousands() -> None:
    """A terminal shows some lines, not all of a large graph."""
    with pytest.raises(ConfError) as error:
        parsed([{}] * 10_000)
    assert len(error.value.faults) == 20


def test_more_paths_than_can_be_planned(monkeypatch: pytest.MonkeyPatch) -> None:
    """Planning takes memory with the square of the paths: a document must not take all."""
    monkeypatch.setattr(references, "MAX_PATHS", 3)
    listed = {f"/s/{n}": info(n) for n in range(4)}
    assert len(parsed(dict(list(listed.items())[:3]))) == 3
    with pytest.raises(ConfError, match="one too many: 3 store paths are allowed"):
        parsed(listed)


def test_more_references_than_can_be_planned(monkeypatch: pytest.MonkeyPatch) -> None:
    """The same references again and again take time as others do."""
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
    """Nothing that JSON can say ends in a traceback, and references of a graph are in it."""
    try:
        graph = parse_references(json.dumps(document).encode(), "graph.json")
    except ConfError:
        return
    for path, node in graph.items():
        assert node.references <= graph.keys() - {path}

"""Closures, from a graph or of the paths alone; `consumers/test_nix.py` queries a real Nix."""

import json
import os
from pathlib import Path
from typing import Any

import pytest
from graphs import graphs, walked
from hypothesis import given
from hypothesis import strategies as st

from stream.errors import ConfError, SourceError
from stream.graph import Graph, Node
from stream.nix import query
from stream.nix.nar import directory_nar_size, nar_size
from stream.nix.references import References, parse_references
from stream.planning import closure as closures
from stream.planning.closure import Wanted, find_closure, find_in_graph, take_alone

STORE = "/nix/store"
HELLO = f"{STORE}/{'0' * 32}-hello"
GLIBC = f"{STORE}/{'1' * 32}-glibc"
OTHER = f"{STORE}/{'2' * 32}-other"


@pytest.fixture(autouse=True)
def no_nix(monkeypatch: pytest.MonkeyPatch) -> None:
    """Hide the machine's Nix from all tests."""
    monkeypatch.setattr(query, "PROGRAM", "no-such-nix-store")


def written(graph: Graph) -> bytes:
    """Return a graph as `exportReferencesGraph` writes it."""
    return json.dumps(
        [
            {
                "path": path,
                "narSize": node.size,
                "narHash": "sha256:" + f"{number:064x}",
                "references": [*node.references],
            }
            for number, (path, node) in enumerate(graph.items())
        ]
    ).encode()


def references_of(graph: Graph) -> References:
    """Parse the document of a graph."""
    return parse_references(written(graph), "graph.json")


def wanted(*paths: str, mentions: Any = None, store_dir: str = STORE) -> Wanted:
    """Return the wanted paths of a specification, each with its place."""
    return Wanted(
        name="spec.json",
        paths=tuple((path, f"contents[{number}]") for number, path in enumerate(paths)),
        mentions=mentions,
        store_dir=store_dir,
    )


SMALL: Graph = {
    HELLO: Node(1, frozenset([GLIBC])),
    GLIBC: Node(2, frozenset()),
    OTHER: Node(4, frozenset([GLIBC])),
}


@given(graph=graphs(cycles=True), data=st.data())
def test_all_that_is_reached_and_nothing_else(graph: Graph, data: st.DataObject) -> None:
    """Otherwise an image lacks a library, or contains unneeded paths of the graph."""
    chosen = data.draw(st.lists(st.sampled_from(sorted(graph)))) if graph else []
    found = find_in_graph(references_of(graph), wanted(*chosen))
    reached = {path for start in chosen for path in walked(graph, start)}
    assert found.graph == {path: graph[path] for path in reached}
    assert [item.path for item in found.objects() or ()] == sorted(reached)


@pytest.mark.parametrize("source", ["graph", "alone"])
def test_known_only(tmp_path: Path, source: str) -> None:
    """With given roots, what the image only mentions need not exist."""
    store = f"{tmp_path}/store"
    known, gone, found = (f"{store}/{digit * 32}-x" for digit in "012")
    os.makedirs(known)
    graph = {known: Node(1, frozenset())}

    def find(paths: tuple[tuple[str, str], ...], *, known_only: bool) -> tuple[str, ...]:
        asked = Wanted(
            name="spec.json", paths=paths, found=((found, "a file"), (known, "a file")),
            mentions={"Env": [gone]}, known_only=known_only, store_dir=store,
        )  # fmt: skip
        if source == "alone":
            return take_alone(asked).wanted
        return find_in_graph(references_of(graph), asked).wanted

    assert find((), known_only=True) == (known,)
    for paths, known_only in [((), False), (((found, "roots[0]"),), True)]:
        with pytest.raises(ConfError) as caught:
            find(paths, known_only=known_only)
        assert "roots[0]" in str(caught.value) or not known_only


def test_paths_in_store_paths_and_mentions() -> None:
    """`contents` may name a directory in a package, and a command's package is needed as well."""
    found = find_in_graph(references_of(SMALL), wanted(f"{GLIBC}/lib", GLIBC))
    assert [*found.graph] == [GLIBC]
    mentions = {"config": {"Cmd": [f"{OTHER}/bin/x"]}}
    found = find_in_graph(references_of(SMALL), wanted(GLIBC, mentions=mentions))
    assert {*found.graph} == {GLIBC, OTHER}


def test_mentions_of_a_graphs_own_names() -> None:
    """Directories that Nix did not make have names without hashes."""
    graph = {f"{STORE}/foo": Node(1, frozenset([f"{STORE}/bar"])), f"{STORE}/bar": SMALL[GLIBC]}
    mentions = {"config": {"Env": [f"PATH=/bin:{STORE}/foo/bin"], "Cmd": [f"{STORE}/nothing"]}}
    assert find_in_graph(references_of(graph), wanted(mentions=mentions)).graph == graph


def test_what_the_graph_lacks() -> None:
    """Otherwise an image would be planned without a path that was misspelt."""
    lost, gone = f"{STORE}/{'3' * 32}-lost", f"{STORE}/{'4' * 32}-gone"
    mentions = {"config": {"Entrypoint": [f"{gone}/bin/gone"]}}
    with pytest.raises(ConfError) as error:
        find_in_graph(references_of(SMALL), wanted(HELLO, lost, mentions=mentions))
    assert str(error.value) == "\n".join(
        f"spec.json: {place}: {path} is not in graph.json; list the closure of every wanted path"
        for place, path in (("contents[1]", lost), ("config.Entrypoint[0]", gone))
    )


@pytest.mark.parametrize(
    ("path", "message"),
    [
        ("/usr/bin", "/usr/bin is not in the store directory, /nix/store"),
        ("/nix/store", "/nix/store is not in the store directory"),
        ("/nix/stores/x", "/nix/stores/x is not in the store directory"),
        ("hello", "hello is not an absolute path"),
        (f"{HELLO}/../x", "is not in normal form"),
        (f"{HELLO}\0", "contains a NUL character"),
        ("", " is not an absolute path"),
    ],
)
def test_not_a_store_path(path: str, message: str) -> None:
    """A path outside the store directory cannot be in a store layer."""
    for function in (
        take_alone,
        find_closure,
        lambda want: find_in_graph(references_of(SMALL), want),
    ):
        with pytest.raises(ConfError, match=r"^spec.json: contents\[0\]: ") as error:
            function(wanted(path))
        assert message in error.value.faults[0].message


def test_a_graph_of_another_store() -> None:
    """A graph of another store directory lists paths that are not on this machine."""
    graph = {HELLO: SMALL[GLIBC], "/gnu/store/x": SMALL[GLIBC], f"{HELLO}/bin": SMALL[GLIBC]}
    with pytest.raises(ConfError) as error:
        find_in_graph(references_of(graph), wanted(HELLO))
    assert str(error.value).splitlines() == [
        f"graph.json: [{number}]: {path} is not in the store directory, /nix/store"
        for number, path in ((1, "/gnu/store/x"), (2, f"{HELLO}/bin"))
    ]


def test_more_than_can_be_planned(monkeypatch: pytest.MonkeyPatch) -> None:
    """A hostile specification must not exhaust memory or flood the terminal."""
    paths = [f"{STORE}/{number}" for number in range(130)]
    with pytest.raises(ConfError) as error:
        find_in_graph(references_of(SMALL), wanted(*paths))
    assert (len(error.value.faults), error.value.more) == (100, 30)
    monkeypatch.setattr(closures, "MAX_PATHS", 29)
    with pytest.raises(
        ConfError, match=r"spec.json: needs 130 store paths; at most 29 are allowed"
    ):
        take_alone(wanted(*paths))


def test_graph_in_a_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without Nix on the machine, the graph is the only source."""
    path = tmp_path / "graph.json"
    path.write_bytes(written(SMALL))
    found = find_closure(wanted(HELLO), references_graph=str(path))
    assert {*found.graph} == {HELLO, GLIBC}
    with pytest.raises(ConfError, match=r"lost.json: cannot be read: No such file"):
        find_closure(wanted(HELLO), references_graph=str(tmp_path / "lost.json"))
    monkeypatch.setattr(closures, "MAX_GRAPH", 99)
    with pytest.raises(ConfError, match=r"graph.json: is too large for a references graph"):
        find_closure(wanted(HELLO), references_graph=str(path))


def test_graph_of_closure_info(tmp_path: Path) -> None:
    """Nixpkgs' closureInfo makes a directory; who gives it means the registration in it."""
    (tmp_path / "store-paths").write_text(f"{HELLO}\n")
    with pytest.raises(ConfError, match=r"/registration: cannot be read: No such file"):
        find_closure(wanted(HELLO), references_graph=str(tmp_path))
    (tmp_path / "registration").write_text(f"{HELLO}\nsha256:{'0' * 52}\n100\n\n0\n")
    found = find_closure(wanted(HELLO), references_graph=str(tmp_path))
    assert found.graph == {HELLO: Node(100, frozenset())}


def name_of(path: str) -> str:
    """Return the last component of a path."""
    return path.rpartition("/")[2]


@pytest.fixture
def store(tmp_path: Path) -> Path:
    """Make a store directory with two store paths, one of them a link."""
    path = tmp_path / "store"
    (path / "app" / "bin").mkdir(parents=True)
    (path / "app" / "bin" / "run").write_bytes(b"x" * 1000)
    (path / "link").symlink_to("app")
    return path


def test_paths_alone(store: Path) -> None:
    """Any directories can be made into an image, on a machine without Nix."""
    mentions = {"config": {"Cmd": [f"{store}/app/bin/run"], "Env": [f"X={store}/nothing"]}}
    want = wanted(f"{store}/link", mentions=mentions, store_dir=str(store))
    found = find_closure(want)
    assert {path: node.references for path, node in found.graph.items()} == {
        f"{store}/link": frozenset({f"{store}/app"}),
        f"{store}/app": frozenset(),
    }
    assert found.graph[f"{store}/link"].size < 1000 < found.graph[f"{store}/app"].size
    assert found.objects() is None


def test_a_link_alone_brings_what_it_leads_to(store: Path) -> None:
    """A link is useless without its target, and links through it would dangle."""
    (store / "current").symlink_to(f"{store}/link/bin")
    (store / "round").symlink_to("round")
    (store / "gone").symlink_to("gone-away")
    (store / "out").symlink_to("/etc")
    os.symlink(b"\xff", bytes(store / "odd"))
    named = [f"{store}/{name}" for name in ("current", "round", "gone", "out", "odd")]
    found = find_closure(wanted(*named, store_dir=str(store)))
    assert {name_of(path): [*map(name_of, node.references)] for path, node in found.graph.items()} == {
        "current": ["link"], "link": ["app"], "app": [], "round": [], "gone": [], "out": [], "odd": [],
    }  # fmt: skip
    assert found.wanted == tuple(named)


def test_paths_alone_that_are_not_there(store: Path) -> None:
    """A name with Nix's hash is intended as a store path, so a missing one must be reported."""
    lost = f"{store}/{'0' * 32}-lost"
    want = wanted(f"{store}/no", mentions=[f"{lost}/bin"], store_dir=str(store))
    with pytest.raises(ConfError) as error:
        find_closure(want)
    assert str(error.value).splitlines() == [
        f"spec.json: contents[0]: {store}/no: no such file",
        f"spec.json: [0]: {lost}: no such file",
    ]


def test_sizes_that_are_measured(store: Path) -> None:
    """The lines of `exportReferencesGraph` have no sizes, which planning needs."""
    app, link = f"{store}/app", f"{store}/link"
    lines = f"{link}\n\n1\n{app}\n{app}\n\n0\n{store}/unwanted\n\n0\n"
    references = parse_references(lines.encode(), "lines")
    found = find_in_graph(references, wanted(link, store_dir=str(store)))
    assert found.graph == {
        path: Node(nar_size(path.encode()), references.graph[path].references)
        for path in (link, app)
    }


def test_size_of_a_directory_that_is_nowhere(tmp_path: Path) -> None:
    """The layer that dockerTools has in the store counts as if it were there."""
    (tmp_path / "a").write_bytes(b"x" * 65)
    (tmp_path / "b").write_bytes(b"")
    assert directory_nar_size({"a": 65, "b": 0}) == nar_size(bytes(tmp_path))


def test_size_of_a_socket(store: Path) -> None:
    """A socket is reported when streaming; measuring must not take it for a file."""
    before = nar_size(bytes(store))
    os.mkfifo(store / "fifo")
    assert 0 < nar_size(bytes(store)) - before < 200
    with pytest.raises(SourceError, match="no: no such file"):
        nar_size(bytes(store / "no"))

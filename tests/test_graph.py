"""The references graph, against its definitions."""

from itertools import pairwise

from graphs import graph_of, graphs, walked
from hypothesis import given

from stream.graph import Graph, find_chains, find_dominators, find_starts

DIAMOND = graph_of({"a": "bc", "b": "d", "c": "d", "d": "e", "e": ""})


def without(graph: Graph, starts: tuple[str, ...], path: str) -> set[str]:
    """Return the paths that are reached from `starts` without passing `path`."""
    cut = graph_of(
        {one: [*(node.references - {path})] for one, node in graph.items()}  # type: ignore[misc]
    )
    return set().union(*(walked(cut, start) for start in starts if start != path))


@given(graph=graphs(cycles=True))
def test_dominators(graph: Graph) -> None:
    """The bytes that a store path is said to bring along would be wrong."""
    starts = find_starts(graph)
    dominators = find_dominators(graph, starts)
    assert dominators.keys() == graph.keys()
    for path in graph:
        gone = graph.keys() - without(graph, starts, path) - {path}
        below = {path}
        for other, above in dominators.items():
            if above in below:
                below.add(other)
        assert below - {path} == gone


@given(graph=graphs(cycles=True))
def test_starts_reach_everything(graph: Graph) -> None:
    """A circle that nothing refers to would be missing from every list."""
    starts = find_starts(graph)
    assert set().union(*(walked(graph, start) for start in starts)) == graph.keys()
    assert len(set(starts)) == len(starts)


@given(graph=graphs(cycles=True))
def test_chains(graph: Graph) -> None:
    """A chain that is not one, or a start that is left out, would mislead who removes it."""
    starts = find_starts(graph)
    for goal in graph:
        chains = find_chains(graph, starts, goal)
        assert [chain[0] for chain in chains] == [
            start for start in starts if goal in walked(graph, start)
        ]
        for chain in chains:
            assert chain[-1] == goal
            steps = pairwise(chain)
            assert all(after in graph[before].references for before, after in steps)


def test_the_shortest_chain() -> None:
    """A detour would hide the reference that has to be removed."""
    graph = graph_of({"a": "bc", "b": "c", "c": "d", "d": ""})
    assert find_chains(graph, "a", "d") == [("a", "c", "d")]
    assert find_chains(DIAMOND, "a", "d") == [("a", "b", "d")]


def test_what_is_shared_is_below_what_shares_it() -> None:
    """What two paths need would be counted for one of them."""
    assert find_dominators(DIAMOND, "a") == {"a": None, "b": "a", "c": "a", "d": "a", "e": "d"}

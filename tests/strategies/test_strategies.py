"""Layering strategies: the store paths that share a layer."""

import os
import subprocess
import sys
from collections.abc import Callable

import pytest
from graphs import graph_of, graphs, slow_scores, store_path, walked
from hypothesis import given, settings
from hypothesis import strategies as st

from stream.graph import Graph, Node
from stream.strategies.auto import auto
from stream.strategies.popularity import popularity, popularity_scores
from stream.strategies.program import pipeline
from stream.strategies.reach import members, reach

Planner = Callable[[Graph, int], list[list[str]]]


def contest(graph: Graph, budget: int) -> list[list[str]]:
    """Run the pipeline of dockerTools from before there was another planner."""
    return pipeline(graph, [["popularity_contest"], ["limit_layers", budget]], budget)


PLANNERS: list[Planner] = [popularity, auto, contest]

# The example in nixpkgs' documentation of the scores.
EXAMPLE = {"A": "BG", "B": "CE", "C": "DE", "D": "F", "E": "F", "F": "", "G": ""}


# ---- slow reference implementations


def slow_auto(graph: Graph, budget: int) -> set[frozenset[str]]:
    """Compute `auto` with primaries as sets of names."""
    reached = {path: walked(graph, path) - {path} for path in graph}
    sets: dict[str, frozenset[str]] = dict.fromkeys(graph, frozenset())

    def layers(of: dict[str, frozenset[str]]) -> set[frozenset[str]]:
        return {
            frozenset(path for path in of if of[path] == primaries) for primaries in of.values()
        }

    waiting = sorted(sorted(graph), key=lambda path: graph[path].size)  # Nix lists by path
    while waiting:
        primary = waiting.pop()
        after = {**sets, primary: frozenset([primary])}
        for path in reached[primary]:
            kept = {other for other in sets[path] if primary not in reached[other]}
            if not kept & reached[primary]:
                kept.add(primary)
            after[path] = frozenset(kept)
        if len(layers(after)) > budget:
            break
        sets = after
    return layers(sets)


# ---- tests


def test_scores_of_the_example() -> None:
    """The scores are those of nixpkgs."""
    graph = graph_of(EXAMPLE)
    assert popularity_scores(graph) == {"A": 1, "B": 2, "C": 3, "D": 4, "E": 5, "F": 9, "G": 2}
    assert ["".join(layer) for layer in popularity(graph, 9)] == list("FEDCBGA")
    assert ["".join(layer) for layer in popularity(graph, 3)] == ["F", "E", "DCBGA"]


def test_auto_of_an_example() -> None:
    """Paths that two large ones need in common are a layer; paths that only one needs join it."""
    edges = {"R": "XYa", "X": "xc", "Y": "yc", "x": "", "y": "", "c": "", "a": ""}
    sizes = {"X": 100, "Y": 90, "R": 1, "x": 2, "y": 2, "c": 1, "a": 1}
    assert auto(graph_of(edges, sizes), 4) == [["c"], ["Y", "y"], ["X", "x"], ["R", "a"]]
    assert auto(graph_of(edges, sizes), 1) == [sorted(edges)]


@given(graph=graphs())
def test_scores_as_counted(graph: Graph) -> None:
    """The sum over ancestors equals the count along all ways."""
    assert popularity_scores(graph) == slow_scores(graph)


@settings(max_examples=25)
@given(graph=graphs(cycles=True), budget=st.integers(1, 9), data=st.data())
def test_auto_leaves_out_what_is_unshipped_at_the_end(
    graph: Graph, budget: int, data: st.DataObject
) -> None:
    """As in nixpkgs, such paths take part in the split; else a tenth of large closures differs."""
    unshipped = data.draw(st.sets(st.sampled_from(sorted(graph)))) if graph else set()
    found = auto(graph, budget, unshipped)
    expected = {layer - unshipped for layer in slow_auto(graph, budget)} - {frozenset()}
    assert {frozenset(layer) for layer in found} == expected
    everything = [path for layer in auto(graph, budget) for path in layer]
    assert [path for layer in found for path in layer] == [
        path for path in everything if path not in unshipped
    ]


@settings(max_examples=25)
@given(graph=graphs(), budget=st.integers(1, 9), data=st.data())
def test_popularity_counts_what_is_unshipped(
    graph: Graph, budget: int, data: st.DataObject
) -> None:
    """The image's own roots raise the scores of what they need, and take no layer."""
    unshipped = data.draw(st.sets(st.sampled_from(sorted(graph)))) if graph else set()
    order = [
        path
        for layer in popularity(graph, len(graph) + 1)
        for path in layer
        if path not in unshipped
    ]
    layers = [[path] for path in order[: budget - 1]] + [order[budget - 1 :]]
    assert popularity(graph, budget, unshipped) == [layer for layer in layers if layer]


@given(graph=graphs(cycles=True), budget=st.integers(1, 9))
def test_auto_as_with_sets_of_names(graph: Graph, budget: int) -> None:
    """Bit sets give the same result as sets of names."""
    found = auto(graph, budget)
    assert {frozenset(layer) for layer in found} == slow_auto(graph, budget)
    sizes = [
        sum(graph[path].size for path in set().union(*(walked(graph, path) for path in layer)))
        for layer in found
    ]
    assert sizes == sorted(sizes)


@given(graph=graphs(cycles=True), budget=st.integers(1, 16), planner=st.sampled_from(PLANNERS))
def test_every_path_once_and_the_budget_kept(graph: Graph, budget: int, planner: Planner) -> None:
    """With a path lost, a container does not start; with an excess layer, an image does not load."""
    layers = planner(graph, budget)
    assert sorted(path for layer in layers for path in layer) == sorted(graph)
    assert len(layers) <= budget
    assert all(layers)
    assert planner(dict(reversed(list(graph.items()))), budget) == layers


@pytest.mark.parametrize("planner", PLANNERS)
@pytest.mark.parametrize("paths", [0, 1, 4, 5, 6, 60])
def test_no_path_is_lost_at_the_budget(planner: Planner, paths: int) -> None:
    """Off-by-one errors would lose a path in the layer that holds the rest."""
    graph = {
        store_path(n): Node(n, frozenset(map(store_path, range(n // 2)))) for n in range(paths)
    }
    layers = planner(graph, 5)
    assert sorted(path for layer in layers for path in layer) == sorted(graph)
    assert len(layers) <= min(paths, 5)
    if planner is not auto:
        assert len(layers) == min(paths, 5)
    assert len(planner(graph, 1)) == min(paths, 1)


@pytest.mark.parametrize("planner", PLANNERS)
@pytest.mark.parametrize("budget", [0, -1])
def test_no_layer_left_is_an_error(planner: Planner, budget: int) -> None:
    """Otherwise more layers than an image may have would be made silently."""
    with pytest.raises(ValueError, match=f"a budget of {budget} layers"):
        planner(graph_of(EXAMPLE), budget)


@given(graph=graphs(), budget=st.integers(1, 9))
def test_popularity_is_a_pipeline(graph: Graph, budget: int) -> None:
    """Popularity is defined by the pipeline, as in dockerTools."""
    assert popularity(graph, budget) == contest(graph, budget)


def test_popularity_orders_names_as_text_then_hash() -> None:
    """Most of a closure are ties, so another order would yield other layers."""
    names = ["0-foo", "1-foo+", "2-foo-1", "3-foo", "4-bar"]
    graph = {f"/s/{name}": Node(1, frozenset()) for name in names}
    found = [path.removeprefix("/s/") for layer in popularity(graph, 9) for path in layer]
    assert found == ["4-bar", "1-foo+", "0-foo", "3-foo", "2-foo-1"]


def test_auto_orders_paths_by_name_then_hash() -> None:
    """The order of paths affects a layer's bytes; `+` sorts before the hyphen after a name."""
    names = ["0-foo", "1-foo+", "2-foo-1", "3-foo", "4-bar"]
    graph = {f"/s/{name}": Node(1, frozenset()) for name in names}
    (found,) = auto(graph, 1)
    assert [path.removeprefix("/s/") for path in found] == [
        "4-bar", "0-foo", "3-foo", "1-foo+", "2-foo-1",
    ]  # fmt: skip


def test_auto_takes_the_last_of_equal_sizes_first() -> None:
    """Nix lists by path and nixpkgs takes from the end, so the last of equal sizes comes first."""
    graph = graph_of({"A": "", "B": "", "C": ""}, {"A": 5, "B": 5, "C": 5})
    assert sorted(auto(graph, 2)) == [["A", "B"], ["C"]]


@given(graph=graphs(cycles=True))
def test_reach_as_walked(graph: Graph) -> None:
    """Bit sets give the same result as following references, also in cycles."""
    known = reach(graph)
    for number, name in enumerate(known.order):
        found = {known.order[other] for other in members(known.reached[number])}
        assert found == walked(graph, name) - {name}


def test_paths_in_cycles_come_last() -> None:
    """No root reaches them, so they are not needed."""
    graph = graph_of({"A": "B", "B": "", "X": "Y", "Y": "X"})
    assert popularity(graph, 9) == [["B"], ["A"], ["X"], ["Y"]]


PROGRAM = (
    "[['split_paths', [names[9], {'children_of': names[120]}]],"
    " ['over', 'rest', ['popularity_contest']], ['over', 'main', ['split_every', 3]]]"
)


@pytest.mark.parametrize(
    ("module", "planner", "arguments"),
    [
        ("auto", "auto", "24"),
        ("popularity", "popularity", "24"),
        ("program", "pipeline", PROGRAM),
    ],
)
def test_hash_seed(module: str, planner: str, arguments: str) -> None:
    """The same closure gives the same image on every machine and in every run."""
    module = {"pipeline": "program"}.get(planner, planner)
    program = (
        f"from stream.strategies.{module} import {planner} as plan\n"
        "from stream.graph import Node\n"
        "names = [f'/s/{n * 7919 % 1000}-p{n % 5}' for n in range(200)]\n"
        "print(plan({name: Node(n % 7, frozenset(names[n // 2:n:3])) for n, name in enumerate(names)},\n"
        f"    {arguments}))"
    )
    outputs = {
        subprocess.run(
            [sys.executable, "-c", program],
            env={**os.environ, "PYTHONHASHSEED": seed},
            capture_output=True,
            check=True,
        ).stdout
        for seed in ("0", "1", "77")
    }
    assert len(outputs) == 1


def test_deep_closures() -> None:
    """A chain of references may be deeper than Python's recursion limit."""
    names = [store_path(number) + str(number) for number in range(5000)]
    graph = {
        name: Node(1, frozenset(names[number - 1 : number])) for number, name in enumerate(names)
    }
    for planner in PLANNERS:
        assert len(planner(graph, 100)) == 100


@pytest.mark.parametrize("planner", PLANNERS)
def test_a_large_cycle(planner: Planner) -> None:
    """A degenerate graph takes no more time than others, and no path is lost in it."""
    names = [store_path(number) + str(number) for number in range(3000)]
    graph = {name: Node(1, frozenset([names[n - 1]])) for n, name in enumerate(names)}
    assert sorted(path for layer in planner(graph, 9) for path in layer) == sorted(names)

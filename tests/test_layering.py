"""Planners: which store paths share a layer."""

import os
import subprocess
import sys
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stream.layering.auto import auto
from stream.layering.graph import Graph, Node
from stream.layering.popularity import popularity, popularity_scores
from stream.layering.reach import members, name_key, reach

Planner = Callable[[Graph, int], list[list[str]]]
PLANNERS: list[Planner] = [popularity, auto]

# Of nixpkgs' documentation of the scores.
EXAMPLE = {"A": "BG", "B": "CE", "C": "DE", "D": "F", "E": "F", "F": "", "G": ""}


def graph_of(edges: dict[str, str], sizes: dict[str, int] | None = None) -> Graph:
    """A graph of paths with names of one letter."""
    return {
        path: Node((sizes or {}).get(path, 1), frozenset(references))
        for path, references in edges.items()
    }


def store_path(number: int) -> str:
    """A store path; several have the same name."""
    return f"/nix/store/{number * 7919 % 1000:032}-p{number % 3}"


@st.composite
def graphs(draw: st.DrawFn, *, cycles: bool = False) -> Graph:
    """Closures: every path refers to earlier ones, with `cycles` to any, itself included."""
    count = draw(st.integers(0, 14))
    names = [store_path(number) for number in range(count)]
    found = {}
    for number, name in enumerate(names):
        others = names if cycles else names[:number]
        references = draw(st.sets(st.sampled_from(others))) if others else set()
        found[name] = Node(draw(st.integers(0, 5)), frozenset(references) - {name})
    shuffled = draw(st.permutations(list(found)))
    return {name: found[name] for name in shuffled}


# ---- the same, the slow way


def closure(graph: Graph, path: str) -> set[str]:
    """All that a path reaches, itself included."""
    found: set[str] = set()
    waiting = [path]
    while waiting:
        at = waiting.pop()
        if at not in found:
            found.add(at)
            waiting += graph[at].references
    return found


def counted(graph: Graph, path: str) -> dict[str, int]:
    """The counts below a path, as they are defined."""
    counts: dict[str, int] = {}
    for child in graph[path].references:
        counts[child] = counts.get(child, 0) + 1
        for below, count in counted(graph, child).items():
            counts[below] = counts.get(below, 0) + count + 1
    return counts


def slow_scores(graph: Graph) -> dict[str, int]:
    """Scores counted from a root above all."""
    referred = {other for node in graph.values() for other in node.references}
    top = {"": Node(0, frozenset(set(graph) - referred))}
    return counted({**graph, **top}, "")


def slow_auto(graph: Graph, budget: int) -> set[frozenset[str]]:
    """Primaries as sets of names."""
    reached = {path: closure(graph, path) - {path} for path in graph}
    sets: dict[str, frozenset[str]] = dict.fromkeys(graph, frozenset())

    def layers(of: dict[str, frozenset[str]]) -> set[frozenset[str]]:
        return {
            frozenset(path for path in of if of[path] == primaries) for primaries in of.values()
        }

    as_nix_lists = sorted(graph)
    for primary in reversed(sorted(as_nix_lists, key=lambda path: graph[path].size)):
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
    """Who knows nixpkgs' scores finds them again."""
    graph = graph_of(EXAMPLE)
    assert popularity_scores(graph) == {"A": 1, "B": 2, "C": 3, "D": 4, "E": 5, "F": 9, "G": 2}
    assert ["".join(layer) for layer in popularity(graph, 9)] == list("FEDCBGA")
    assert ["".join(layer) for layer in popularity(graph, 3)] == ["F", "E", "DCBGA"]


def test_auto_of_an_example() -> None:
    """What two large paths need in common is a layer, and what each needs alone goes with it."""
    edges = {"R": "XYa", "X": "xc", "Y": "yc", "x": "", "y": "", "c": "", "a": ""}
    sizes = {"X": 100, "Y": 90, "R": 1, "x": 2, "y": 2, "c": 3, "a": 1}
    assert auto(graph_of(edges, sizes), 4) == [["c"], ["Y", "y"], ["X", "x"], ["R", "a"]]
    assert auto(graph_of(edges, sizes), 1) == [sorted(edges)]


@given(graph=graphs())
def test_scores_as_counted(graph: Graph) -> None:
    """The sum over ancestors is what counting along all ways gives."""
    assert popularity_scores(graph) == slow_scores(graph)


@given(graph=graphs(), budget=st.integers(1, 9))
def test_auto_as_with_sets_of_names(graph: Graph, budget: int) -> None:
    """The bits say what sets of names would."""
    found = auto(graph, budget)
    assert {frozenset(layer) for layer in found} == slow_auto(graph, budget)
    sizes = [
        sum(graph[path].size for path in set().union(*(closure(graph, path) for path in layer)))
        for layer in found
    ]
    assert sizes == sorted(sizes)


@given(graph=graphs(cycles=True), budget=st.integers(1, 16), planner=st.sampled_from(PLANNERS))
def test_every_path_once_and_the_budget_kept(graph: Graph, budget: int, planner: Planner) -> None:
    """A path that is lost is a container that does not start; a layer too many, an image that does not load."""
    layers = planner(graph, budget)
    assert sorted(path for layer in layers for path in layer) == sorted(graph)
    assert len(layers) <= budget
    assert all(layers)
    assert planner(dict(reversed(list(graph.items()))), budget) == layers


@given(graph=graphs(cycles=True))
def test_reach_as_walked(graph: Graph) -> None:
    """Bits tell what following references tells, in cycles too."""
    known = reach(graph)
    for number, name in enumerate(known.order):
        found = {known.order[other] for other in members(known.reached[number])}
        assert found == closure(graph, name) - {name}


def test_paths_in_cycles_come_last() -> None:
    """No root reaches them, so nobody needs them."""
    graph = graph_of({"A": "B", "B": "", "X": "Y", "Y": "X"})
    assert popularity(graph, 9) == [["B"], ["A"], ["X"], ["Y"]]


@pytest.mark.parametrize("planner", ["auto", "popularity"])
def test_hash_seed(planner: str) -> None:
    """The same closure gives the same image on every machine and in every run."""
    program = (
        f"from stream.layering.{planner} import {planner} as plan\n"
        "from stream.layering.graph import Node\n"
        "names = [f'/s/{n * 7919 % 1000}-p{n % 5}' for n in range(200)]\n"
        "print(plan({name: Node(n % 7, frozenset(names[n // 2:n:3])) for n, name in enumerate(names)}, 24))"
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
    """A chain of references longer than Python recurses is planned as well."""
    names = [store_path(number) + str(number) for number in range(5000)]
    graph = {
        name: Node(1, frozenset(names[number - 1 : number])) for number, name in enumerate(names)
    }
    for planner in PLANNERS:
        assert len(planner(graph, 100)) == 100

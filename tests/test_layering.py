"""The choice of a layering strategy, and the arguments passed to it."""

from typing import Any

import pytest

from stream.errors import ConfError
from stream.graph import Graph, Node
from stream.layering import STRATEGIES, split_into_layers
from stream.strategies.auto import auto
from stream.strategies.popularity import popularity
from stream.strategies.stable import stable

GRAPH: Graph = {
    "/s/lib": Node(900_000, frozenset()),
    "/s/tool": Node(5_000, frozenset({"/s/lib"})),
    "/s/app": Node(40_000, frozenset({"/s/tool"})),
    "/s/page": Node(300, frozenset()),
}
ROOTS = ["/s/app", "/s/page"]


def test_each_strategy_by_its_name() -> None:
    """A name that selected another strategy would change every layer of an image."""
    kept = [["/s/page", "/s/lib"], ["/s/app"], ["/s/tool"]]
    asked = {name: split_into_layers(GRAPH, ROOTS, 3, name, kept) for name in STRATEGIES}
    assert asked == {
        "stable": stable(GRAPH, ROOTS, 3, kept),
        "auto": auto(GRAPH, 3),
        "popularity": popularity(GRAPH, 3),
    }


@pytest.mark.parametrize("strategy", [*STRATEGIES, [["popularity_contest"]]])
def test_nothing_to_split(strategy: str | list[Any]) -> None:
    """An image without store paths has no layers for them, and needs no budget."""
    assert split_into_layers({}, (), 0, strategy) == []


def test_program() -> None:
    """A program determines the layers; exceeding the budget is a fault of the document."""
    program = [["popularity_contest"], ["limit_layers", 2]]
    assert len(split_into_layers(GRAPH, ROOTS, 2, program)) == 2
    with pytest.raises(ConfError, match=r"^spec\.json: layeringPipeline: makes 2 layers"):
        split_into_layers(GRAPH, ROOTS, 1, program, name="spec.json")


SHIPPED: Graph = {
    "/s/lib": Node(900_000, frozenset()),
    "/s/app": Node(40_000, frozenset()),
    "/s/page": Node(300, frozenset()),
}


@pytest.mark.parametrize(
    ("strategy", "expected"),
    [
        ("stable", stable(SHIPPED, ROOTS, 2)),
        ("auto", auto(GRAPH, 2, {"/s/tool"})),
        ("popularity", popularity(GRAPH, 2, {"/s/tool"})),
        ([["popularity_contest"]], [["/s/app"], ["/s/lib"], ["/s/page"]]),
        ([["subcomponent_out", ["/s/app"]]], [["/s/app"], ["/s/page", "/s/lib"]]),
    ],
)
def test_unshipped_paths(strategy: str | list[Any], expected: list[list[str]]) -> None:
    """A program and `stable` do not see such a path, not even to reach others through it."""
    assert (
        split_into_layers(
            GRAPH, ROOTS, 3 if isinstance(strategy, list) else 2, strategy, unshipped={"/s/tool"}
        )
        == expected
    )


@pytest.mark.parametrize("strategy", [*STRATEGIES, [["popularity_contest"]]])
def test_nothing_shipped(strategy: str | list[Any]) -> None:
    """An image that holds none of the paths has no layers for them, and needs no budget."""
    assert split_into_layers(GRAPH, ROOTS, 0, strategy, unshipped=GRAPH.keys()) == []


@pytest.mark.parametrize("strategy", [*STRATEGIES, [["popularity_contest"]]])
def test_no_budget(strategy: str | list[Any]) -> None:
    """Without a budget, every path may have a layer of its own."""
    layers = split_into_layers(GRAPH, ROOTS, None, strategy)
    assert layers == split_into_layers(GRAPH, ROOTS, len(GRAPH), strategy)


def test_no_such_strategy() -> None:
    """A misspelt name must not silently select another strategy."""
    with pytest.raises(ValueError, match="'best' is not a layering strategy: stable, auto, pop"):
        split_into_layers(GRAPH, ROOTS, 2, "best")


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_no_layer_left(strategy: str) -> None:
    """A budget without a layer is the caller's mistake, with every strategy."""
    with pytest.raises(ValueError, match="a budget of 0 layers; at least 1"):
        split_into_layers(GRAPH, ROOTS, 0, strategy)

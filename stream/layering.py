"""Divide store paths into layers: the entry point to the strategies.

Knows the strategies by name; must not know how they work, or what a store path contains.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Any

from stream.errors import Fault
from stream.graph import Graph, check_budget, part

STRATEGIES = ("stable", "auto", "popularity")
KEEPS_LAYERS = "stable"  # the strategy that uses the previous plan


def split_into_layers(  # noqa: PLR0913 — some are for some strategies only
    graph: Graph,
    roots: Collection[str],
    budget: int | None,
    strategy: str | list[Any] = KEEPS_LAYERS,
    previous: Sequence[Sequence[str]] | None = None,
    *,
    unshipped: Collection[str] = frozenset(),
    name: str = "",
) -> list[list[str]]:
    """Return the layers of `graph`, at most `budget` of them unless it is None: each store path
    once, except those `unshipped`, in the order in which the paths are written.

    `strategy` is one of STRATEGIES, or a program of nixpkgs' `layeringPipeline` as parsed
    JSON, which may leave paths out. `stable` takes account of the `roots`, the paths that the
    image is made for, and keeps layers of the `previous` plan; the others ignore both. As in
    nixpkgs, `auto` and `popularity` take account of the paths `unshipped`, with their sizes and
    references; the others plan as if these did not exist. `name` is the name of a program's
    document in messages. Raises ValueError for a budget below 1, and ConfError for a program that
    is faulty or makes more than `budget` layers.
    """
    shipped = part(graph, graph.keys() - unshipped) if unshipped else graph
    if not shipped:
        return []
    if budget is not None:
        check_budget(budget)
    # Each is imported where it is needed: importing all takes as long as a small plan.
    if not isinstance(strategy, str):
        from stream.strategies.program import pipeline

        return pipeline(shipped, strategy, budget, name=name)
    if budget is None:
        budget = len(graph)
    if strategy == "popularity":
        from stream.strategies.popularity import popularity

        return popularity(graph, budget, unshipped)
    if strategy == "auto":
        from stream.strategies.auto import auto

        return auto(graph, budget, unshipped)
    if strategy != "stable":
        raise ValueError(f"{strategy!r} is not a layering strategy: {', '.join(STRATEGIES)}")
    from stream.strategies.stable import stable

    return stable(shipped, [path for path in roots if path in shipped], budget, previous)


def find_program_faults(program: object) -> list[Fault]:
    """Return the faults of a `layeringPipeline` program, parsed JSON, without running it."""
    from stream.strategies.program import program_faults

    return program_faults(program)


def find_strangers(program: list[Any], graph: Graph) -> list[str]:
    """Return the texts of a program that are neither operations nor store paths of `graph`."""
    from stream.strategies.program import WORDS

    waiting: list[Any] = [program]
    strangers: dict[str, None] = {}
    while waiting:
        item = waiting.pop()
        if isinstance(item, str) and item not in graph and item not in WORDS:
            strangers[item] = None
        elif isinstance(item, list):
            waiting += reversed(item)
        elif isinstance(item, dict):
            waiting += item.values()
    return list(strangers)

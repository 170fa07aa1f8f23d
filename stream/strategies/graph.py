"""The references graph of a closure: store paths, how large they are and what they
refer to. Knows neither JSON nor the store.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Node:
    """A store path: bytes of its own (its NAR's, as Nix counts them), and the store
    paths that it refers to, without itself.
    """

    size: int
    references: frozenset[str]


# Store paths by name. Every reference is a node; cycles are allowed.
Graph = Mapping[str, Node]


def check_budget(budget: int) -> None:
    """Raises ValueError if there is no layer for store paths: to be found out before."""
    if budget < 1:
        raise ValueError(f"a budget of {budget} layers: at least 1 is needed")


def roots(graph: Graph) -> set[str]:
    """The paths that no other refers to."""
    return set(graph).difference(*(node.references - {path} for path, node in graph.items()))


def closure(graph: Graph, paths: Iterable[str]) -> set[str]:
    """`paths`, which are in `graph`, and all that they reach."""
    found: set[str] = set()
    waiting = list(paths)
    while waiting:
        at = waiting.pop()
        if at not in found:
            found.add(at)
            waiting += graph[at].references
    return found


def part(graph: Graph, paths: Collection[str]) -> dict[str, Node]:
    """The nodes of `paths`, in the order of `graph`, with the references among them."""
    kept = frozenset(paths)
    return {
        path: Node(node.size, node.references & kept)
        for path, node in graph.items()
        if path in kept
    }

"""The references graph of a closure: store paths, their sizes and their references. Must
not know JSON or the store.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping

from stream.values import dataclass


@dataclass(frozen=True, slots=True)
class Node:
    """A store path: its own size in bytes (that of its NAR, as Nix counts), and the store
    paths that it refers to, without itself.
    """

    size: int
    references: frozenset[str]


# Store paths by name. Every reference is a node; cycles are allowed.
Graph = Mapping[str, Node]


def check_budget(budget: int) -> None:
    """Raise ValueError if `budget` leaves no layer for store paths. Call it before planning."""
    if budget < 1:
        raise ValueError(f"a budget of {budget} layers; at least 1 is needed")


def roots(graph: Graph) -> set[str]:
    """Return the paths that no other path refers to."""
    return set(graph).difference(*(node.references - {path} for path, node in graph.items()))


def closure(graph: Graph, paths: Iterable[str]) -> set[str]:
    """Return `paths`, which are in `graph`, and all paths reachable from them."""
    found: set[str] = set()
    waiting = list(paths)
    while waiting:
        at = waiting.pop()
        if at not in found:
            found.add(at)
            waiting += graph[at].references
    return found


def part(graph: Graph, paths: Collection[str]) -> dict[str, Node]:
    """Return the subgraph of `paths`, in the order of `graph`."""
    kept = frozenset(paths)
    return {
        path: Node(node.size, node.references & kept)
        for path, node in graph.items()
        if path in kept
    }

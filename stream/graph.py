"""The references graph of a closure: store paths, their sizes and their references. Must
not know JSON or the store.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping

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


def find_starts(graph: Graph, named: Iterable[str] = ()) -> tuple[str, ...]:
    """Return the paths that a walk of the whole `graph` starts from: those `named`, in their order,
    then those that no other path refers to, then one of each circle that is still out of reach.
    """
    starts = [path for path in dict.fromkeys(named) if path in graph]
    starts += sorted(roots(graph).difference(starts))
    reached = closure(graph, starts)
    for path in sorted(graph):
        if path not in reached:
            starts.append(path)
            reached |= closure(graph, [path])
    return tuple(starts)


def find_chains(graph: Graph, starts: Iterable[str], goal: str) -> list[tuple[str, ...]]:
    """Return the shortest chain of references from each of `starts` to `goal`, for those that reach
    it, in their order. Of several, the one whose paths sort first.
    """
    referrers: dict[str, list[str]] = {path: [] for path in graph}
    for path, node in graph.items():
        for other in node.references:
            referrers[other].append(path)
    following: dict[str, str] = {}
    distance = {goal: 0}
    level = [goal]
    while level:
        reached = []
        for at in sorted(level):
            for path in referrers[at]:
                if path not in distance:
                    distance[path] = distance[at] + 1
                    following[path] = at
                    reached.append(path)
        level = reached
    chains = []
    for start in starts:
        if start in distance:
            chain = [start]
            while chain[-1] != goal:
                chain.append(following[chain[-1]])
            chains.append(tuple(chain))
    return chains


def find_nearest(graph: Graph, starts: Iterable[str]) -> dict[str, str | None]:
    """Return for each path reachable from `starts` the path before it on a shortest chain from any
    of them; None for a start.
    """
    before: dict[str, str | None] = dict.fromkeys(starts)
    level = [*before]
    while level:
        reached = []
        for at in level:
            for path in sorted(graph[at].references):
                if path not in before:
                    before[path] = at
                    reached.append(path)
        level = reached
    return before


def find_dominators(graph: Graph, starts: Iterable[str]) -> dict[str, str | None]:
    """Return for each path reachable from `starts` the last other path that every way to it
    passes; None if there is none. A path comes after the one that it is returned with.

    Cooper, Harvey and Kennedy, "A Simple, Fast Dominance Algorithm": in an order in which a path
    comes after one of its referrers, what dominates it is intersected until nothing changes.
    """
    order = _reverse_postorder(graph, starts)
    number = {path: place for place, path in enumerate(order, 1)}  # 0 stands before all starts
    referrers: list[list[int]] = [[] for _ in range(len(order) + 1)]
    for path in order:
        for other in graph[path].references:
            referrers[number[other]].append(number[path])
    for path in starts:
        referrers[number[path]].append(0)
    above = [0] + [-1] * len(order)
    changed = True
    while changed:
        changed = False
        for at in range(1, len(above)):
            found = -1
            for one in referrers[at]:
                if above[one] >= 0:
                    found = one if found < 0 else _meet(above, found, one)
            if found != above[at]:
                above[at], changed = found, True
    return {path: order[above[at] - 1] if above[at] else None for path, at in number.items()}


def _meet(above: list[int], one: int, other: int) -> int:
    """Return the last path that dominates both."""
    while one != other:
        if one > other:
            one = above[one]
        else:
            other = above[other]
    return one


def _reverse_postorder(graph: Graph, starts: Iterable[str]) -> list[str]:
    """Return the paths reachable from `starts`, each before those it refers to except in circles."""
    order: list[str] = []
    seen: set[str] = set()
    for start in starts:
        waiting: list[tuple[str, Iterator[str]]] = []
        if start not in seen:
            seen.add(start)
            waiting.append((start, iter(sorted(graph[start].references))))
        while waiting:
            path, below = waiting[-1]
            for other in below:
                if other not in seen:
                    seen.add(other)
                    waiting.append((other, iter(sorted(graph[other].references))))
                    break
            else:
                waiting.pop()
                order.append(path)
    return order[::-1]

"""Popularity: the store paths that most others need get a layer each, and the rest share
one. nixpkgs' `dockerTools` planned like this before `auto`; the order of paths is the same.

A path's score is the sum, over the path and all that reach it, of the number of ways from
the roots. (nixpkgs adds up counts along all ways, with the same result.)
"""

from __future__ import annotations

from collections.abc import Collection

from stream.graph import Graph, check_budget
from stream.strategies.reach import cycles, members, name_key


def popularity(
    graph: Graph, budget: int, unshipped: Collection[str] = frozenset()
) -> list[list[str]]:
    """Split the paths of `graph` into at most `budget` layers: the most popular path first,
    the last layer holding the rest. The paths `unshipped` count in the scores and are in no
    layer. Raises ValueError for a budget below 1.
    """
    check_budget(budget)
    order = [path for path in by_popularity(graph) if path not in unshipped]
    layers = [[path] for path in order[: budget - 1]]
    if rest := order[budget - 1 :]:
        layers.append(rest)
    return layers


def by_popularity(graph: Graph) -> list[str]:
    """Return all paths by falling score, and by name among equal scores. Paths that no root
    reaches, in or below a cycle, come last.
    """
    scores = popularity_scores(graph)
    return sorted(graph, key=lambda path: (-scores[path], name_key(path)))


def popularity_scores(graph: Graph) -> dict[str, int]:
    """Return the score of each path; 0 if no root reaches it."""
    components = list(cycles(graph, sorted(graph, key=name_key)))[::-1]  # referrers first
    component = {path: n for n, inside in enumerate(components) for path in inside}
    number = {path: n for n, path in enumerate(component)}
    referrers: dict[str, list[str]] = {path: [] for path in component}
    for path, at in component.items():
        for other in graph[path].references:
            if component[other] != at:
                referrers[other].append(path)
    ways: list[int] = []  # number of ways from the roots, by path number
    above: list[int] = []  # by component: its paths and all that reach it, as a bit set
    scores: list[int] = []  # by component, whose paths all have the same score
    for inside in components:
        start = number[inside[0]]
        bits = ((1 << len(inside)) - 1) << start
        # The sum above each referrer is known. Start from the largest, as the rest has to be
        # added path by path.
        most, known, score = 0, 0, 0
        for path in inside:
            from_roots = sum(ways[number[other]] for other in referrers[path])
            root = not referrers[path] and len(inside) == 1
            ways.append(1 if root else from_roots)
            for at in {component[other] for other in referrers[path]}:
                bits |= above[at]
                if (count := above[at].bit_count()) > most:
                    most, known, score = count, above[at], scores[at]
        above.append(bits)
        scores.append(score + sum(ways[node] for node in members(bits & ~known)))
    return {path: scores[at] for path, at in component.items()}

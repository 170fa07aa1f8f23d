"""Popularity: the store paths that most others need get a layer each, the rest shares
one. The planner of nixpkgs' `dockerTools` before `auto`, to the order of paths.

A path's score is the sum, over it and all that reach it, of the ways that lead there
from the roots. (nixpkgs adds up counts along all ways; that is the same number.)
"""

from __future__ import annotations

from stream.strategies.graph import Graph, check_budget
from stream.strategies.reach import cycles, members, name_key


def popularity(graph: Graph, budget: int) -> list[list[str]]:
    """Layers, at most `budget` of them, each path of `graph` once: the most popular path
    first, the last layer holding the rest. Raises ValueError for a budget below 1.
    """
    check_budget(budget)
    order = by_popularity(graph)
    layers = [[path] for path in order[: budget - 1]]
    if rest := order[budget - 1 :]:
        layers.append(rest)
    return layers


def by_popularity(graph: Graph) -> list[str]:
    """All paths by falling score, those of equal score by name. Paths that no root
    reaches, which are in cycles or below them, come last.
    """
    scores = popularity_scores(graph)
    return sorted(graph, key=lambda path: (-scores[path], name_key(path)))


def popularity_scores(graph: Graph) -> dict[str, int]:
    """The score of each path; 0 for one that no root reaches."""
    components = list(cycles(graph, sorted(graph, key=name_key)))[::-1]  # referrers first
    component = {path: n for n, inside in enumerate(components) for path in inside}
    number = {path: n for n, path in enumerate(component)}
    referrers: dict[str, list[str]] = {path: [] for path in component}
    for path, at in component.items():
        for other in graph[path].references:
            if component[other] != at:
                referrers[other].append(path)
    ways: list[int] = []  # from the roots, by number
    above: list[int] = []  # of each component, its paths and all that reach it
    scores: list[int] = []  # of each component: all its paths have the same
    for inside in components:
        start = number[inside[0]]
        bits = ((1 << len(inside)) - 1) << start
        # What is above one referrer is added up already. The one with most is taken, as
        # the rest must be added path by path.
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

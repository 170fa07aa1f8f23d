"""Popularity: the store paths that most others need get a layer each, the rest shares
one. The planner of nixpkgs' `dockerTools` before `auto`, to the order of paths.

A path's score is the sum, over it and all that reach it, of the ways that lead there
from the roots. (nixpkgs adds up counts along all ways; that is the same number.)
"""

from __future__ import annotations

from stream.layering.graph import Graph
from stream.layering.reach import members, name_key, reach


def popularity(graph: Graph, budget: int) -> list[list[str]]:
    """Layers, at most `budget` (1 or more) of them, each path of `graph` once: the most
    popular path first, paths of equal score by name. Paths that no root reaches, which
    are in cycles, come last.
    """
    scores = popularity_scores(graph)
    ranked = sorted(graph, key=lambda path: (-scores[path], name_key(path)))
    layers = [[path] for path in ranked[: budget - 1]]
    if rest := ranked[budget - 1 :]:
        layers.append(rest)
    return layers


def popularity_scores(graph: Graph) -> dict[str, int]:
    """The score of each path; 0 for one that no root reaches."""
    known = reach(graph)
    count = len(known.order)
    referrers: list[list[int]] = [[] for _ in range(count)]
    for node, others in enumerate(known.references):
        for other in others:
            referrers[other].append(node)
    ways = [0] * count
    for node in reversed(range(count)):  # what refers comes before what is referred to
        above = [other for other in referrers[node] if known.cycle[other] != known.cycle[node]]
        ways[node] = sum(ways[other] for other in above) if referrers[node] else 1
    scores = [0] * count
    for node in range(count):
        if ways[node]:
            scores[node] += ways[node]
            for other in members(known.reached[node]):
                scores[other] += ways[node]
    return {known.order[node]: scores[node] for node in range(count)}

"""Auto: large store paths draw to themselves what they alone need, and what several of
them need in common shares a layer. The planner of nixpkgs' `dockerTools` today.
"""

from __future__ import annotations

from stream.layering.graph import Graph
from stream.layering.reach import members, name_key, reach


def auto(graph: Graph, budget: int) -> list[list[str]]:
    """Layers, at most `budget` (1 or more) of them, each path of `graph` once; by
    rising size of their closures, paths in a layer by name.

    Each path has a set of primary paths. Paths become primary by falling size, as long
    as the layers, which are the paths of equal sets, are no more than `budget`.
    """
    known = reach(graph)
    if not known.order:
        return []
    by_size = sorted(
        range(len(known.order)),
        key=lambda node: (-graph[known.order[node]].size, name_key(known.order[node])),
    )
    sets = [0] * len(known.order)  # of primaries, by their numbers in turn
    groups = {0: len(known.order)}  # how many paths have a set
    reached_by: list[int] = []  # of each primary, what it reaches
    for turn, primary in enumerate(by_size):
        above = sum(1 << other for other, bits in enumerate(reached_by) if bits >> primary & 1)
        below = sum(
            1 << other
            for other, node in enumerate(by_size[:turn])
            if known.reached[primary] >> node & 1
        )
        changed = {primary: 1 << turn}
        for node in members(known.reached[primary]):
            if node == primary:
                continue
            kept = sets[node] & ~above
            changed[node] = kept if kept & below else kept | 1 << turn
        after = dict(groups)
        for node, new in changed.items():
            after[sets[node]] -= 1
            if not after[sets[node]]:
                del after[sets[node]]
            after[new] = after.get(new, 0) + 1
        if len(after) > budget:
            break
        groups = after
        for node, new in changed.items():
            sets[node] = new
        reached_by.append(known.reached[primary])
    layers: dict[int, list[int]] = {}
    for node, primaries in enumerate(sets):
        layers.setdefault(primaries, []).append(node)
    return _ordered(graph, known.order, known.reached, list(layers.values()))


def _ordered(
    graph: Graph, order: list[str], reached: list[int], layers: list[list[int]]
) -> list[list[str]]:
    def closure_size(layer: list[int]) -> int:
        bits = 0
        for node in layer:
            bits |= reached[node] | 1 << node
        return sum(graph[order[node]].size for node in members(bits))

    named = [
        (closure_size(layer), sorted((order[node] for node in layer), key=name_key))
        for layer in layers
    ]
    named.sort(key=lambda item: (item[0], [name_key(path) for path in item[1]]))
    return [paths for _, paths in named]

"""Auto: each large store path shares a layer with the paths that it alone needs, and paths
that the same large ones need share a layer. nixpkgs' `dockerTools` plans like this today.
"""

from __future__ import annotations

from collections.abc import Collection

from stream.graph import Graph, check_budget
from stream.strategies.reach import Reach, members, reach


def auto(graph: Graph, budget: int, unshipped: Collection[str] = frozenset()) -> list[list[str]]:
    """Split the paths of `graph` into at most `budget` layers, ordered by rising size of
    their closures, with the paths of a layer by name. The paths `unshipped` take part, and are
    then left out. Raises ValueError for a budget below 1.

    Paths become primary in order of falling size, as long as there are at most `budget`
    layers. Each path has the set of the nearest primary paths that need it; paths with
    equal sets are a layer.
    """
    check_budget(budget)
    known = reach(graph)
    if not known.order:
        return []
    # Among equal sizes the last path comes first: nixpkgs takes them from the end of a
    # list that Nix sorted.
    by_size = sorted(graph, key=lambda path: (graph[path].size, path), reverse=True)
    layers = {0: (1 << len(known.order)) - 1}  # set of primaries -> set of paths
    primaries: list[int] = []
    seen: set[int] = set()
    for path in by_size:
        primary = known.number[path]
        # Another path of the same cycle would only replace the first.
        if known.cycle[primary] in seen:
            continue
        seen.add(known.cycle[primary])
        after = _with_primary(layers, primary, primaries, known)
        if len(after) > budget:
            break
        layers = after
        primaries.append(primary)
    ordered = _ordered(graph, known, list(layers.values()))
    shipped = ([path for path in layer if path not in unshipped] for layer in ordered)
    return [layer for layer in shipped if layer]


def _with_primary(
    layers: dict[int, int], primary: int, primaries: list[int], known: Reach
) -> dict[int, int]:
    """Return the layers with `primary` as a further primary path. In the keys, a primary is
    the bit of its position in `primaries`.
    """
    own = 1 << len(primaries)
    reached = known.reached[primary]
    above = below = 0
    for place, other in enumerate(primaries):
        above |= (known.reached[other] >> primary & 1) << place
        below |= (reached >> other & 1) << place
    after = {own: 1 << primary}
    for key, nodes in layers.items():
        if inside := nodes & reached:
            kept = key & ~above
            new = kept if kept & below else kept | own
            after[new] = after.get(new, 0) | inside
        if outside := nodes & ~reached & ~(1 << primary):
            after[key] = after.get(key, 0) | outside
    return after


def _ordered(graph: Graph, known: Reach, layers: list[int]) -> list[list[str]]:
    sizes = [graph[path].size for path in known.order]

    def closure_size(layer: int) -> int:
        bits = layer
        for node in members(layer):
            bits |= known.reached[node]
        return sum(sizes[node] for node in members(bits))

    def name(path: str) -> tuple[str, str]:
        # Not `name_key`, which sorts foo+ before foo; this sorts it after.
        head, _, rest = path.partition("-")
        return rest, head

    named = [
        (closure_size(layer), sorted((known.order[node] for node in members(layer)), key=name))
        for layer in layers
    ]
    # nixpkgs leaves layers with equal closure sizes in the order of a hash seed.
    named.sort(key=lambda item: (item[0], [name(path) for path in item[1]]))
    return [paths for _, paths in named]

"""Stable: paths that are likely to change together share a layer, so that an update moves few
bytes. Knows the graph, sizes, names and the previous plan; must not know any history.

Sources change. Paths of the same version that refer to each other, or that one path refers to,
are assumed to come from one source; large sources change more often than small ones, and roots
most of all. A path's hash is new if a source of its closure changed or, where dependents are not
rebuilt, if its own source did: both count, unless the previous plan shows that dependents are
rebuilt. The chance that one of n sources changes before the next build grows with n, more slowly
than in proportion. A layer moves as a whole when one of its members changes, and its causes are
the union of theirs, so paths that have many causes in common cost little together. Another image
shares a layer if it has all of its members: paths with the same dependents always come together,
and each dependent of only some members is a reason to come without the others. The plan is the
partition with the least sum of size times (weighted chances of change + weighted chance of not
being shared) that is found by merging pairs of layers and then moving single paths.
"""

from __future__ import annotations

import heapq
import math
import re
from collections import defaultdict
from collections.abc import Collection, Iterable, Sequence
from itertools import groupby

from stream.graph import Graph
from stream.strategies.reach import Reach, name_key, reach
from stream.values import dataclass, replace

# Round numbers from a plateau shared by dissimilar images and years: docs/adr/0006.
_CHANGE = 0.08  # n causes change a layer with a chance of 1 - exp(-_CHANGE * sqrt(n))
_CAUSE = 192 << 10  # size in bytes of a source with one cause; 4 times that has two, 9 times three
_CAUSES = 10  # the most causes of a source, except of roots
_ROOTS = 400  # the causes of all roots together
_OWN = 13  # weight of a change in the layer itself against one in its closure
_OWN_LAYERS = 64  # with fewer layers that weight is lower: it would gain less than it costs
_APART = 0.3  # as _CHANGE, for n dependents that not all members have
_SHARING = 0.2  # weight of a byte that is not shared against one that is pushed again
_LAYER_COST = 64 << 10  # bytes that a layer costs besides its content: tar, manifest, requests
_BUILDS = 20  # future builds that a push now is weighed against
_TOLERANCE = 1.02  # an old plan may cost this many times as much as a fresh one and be kept
_WINDOW = 2  # neighbours that a layer is compared with while there are many
_ALL_PAIRS = 200  # up to this many layers, every pair is compared
_MOVES = 40_000  # comparisons spent on moving single paths

_HASH = re.compile(r"[0-9a-z]{32}-")
_VERSION = re.compile(r"-[0-9][^-]*")
_TELLING = re.compile(r".*-([0-9][^-]*\.[^-]*)")  # a version that few sources share


@dataclass(frozen=True, slots=True)
class _Layer:
    """A layer of paths, by index. `own` has bits for the causes of the members, `causes` for
    those of their closures. `dependents` has a bit for each path that depends on some member
    and, above these, a bit for each that does not depend on all of them. `held` is 0 except for
    a layer of the previous plan, which is not taken apart: the additional cost, in bytes per
    build, of merging it with another.
    """

    members: tuple[int, ...]
    size: int
    own: int
    causes: int
    dependents: int
    held: float = 0

    def __or__(self, other: _Layer) -> _Layer:
        return _Layer(
            self.members + other.members,
            self.size + other.size,
            self.own | other.own,
            self.causes | other.causes,
            self.dependents | other.dependents,
        )


def stable(
    graph: Graph,
    roots: Collection[str],
    budget: int,
    previous: Sequence[Sequence[str]] | None = None,
) -> list[list[str]]:
    """Split the paths of `graph` into at most `budget` (≥ 1) layers, those least likely to change
    first.

    A layer of the plan `previous` stays together unless a fresh plan would move clearly fewer
    bytes; its paths are matched by name if their hash is new. The plan does not depend on the
    order of the arguments, and on hashes only to distinguish equal names.
    """
    known = reach(graph)
    rebuilt = _are_rebuilt(graph, previous or ())
    planner = _Planner(graph, known, roots, 0 if rebuilt else _own_weight(budget))
    if previous:
        # No sign this time, but maybe before: with another weight, plans would alternate.
        afresh = rebuilt is not None or not any(node.references for node in graph.values())
        plan = planner.renew(previous, budget, afresh=afresh)
    else:
        plan = planner.plan(planner.single, budget)
    plan.sort(key=lambda layer: (planner.chance(layer), min(layer.members)))
    return [sorted((known.order[node] for node in x.members), key=name_key) for x in plan]


class _Planner:
    """The planner of one graph, and the cost of its plans. Paths are indices, sets of them bits."""

    def __init__(
        self, graph: Graph, known: Reach, roots: Collection[str], own_weight: float
    ) -> None:
        self._paths = paths = known.order
        sizes = [_rounded(graph[path].size) for path in paths]
        own, count = _sources(known, sizes, {known.number[r] for r in roots if r in known.number})
        self._changing = [1 - math.exp(-_CHANGE * math.sqrt(n)) for n in range(count + 1)]
        self._own = [own_weight * chance for chance in self._changing]
        # By the number of bits in `dependents`: one for each path, two if members differ on it.
        self._unshared = [0.0] * len(paths) + [
            _SHARING * (1 - math.exp(-_APART * math.sqrt(n))) for n in range(len(paths) + 1)
        ]
        causes = _causes(known, own)
        dependents = _dependents(known)
        others = (1 << len(paths)) - 1
        self.single = [
            _Layer(
                (number,),
                sizes[number],
                own[number],
                causes[number],
                dependents[number] | (others ^ dependents[number]) << len(paths),
            )
            for number in range(len(paths))
        ]

    def chance(self, layer: _Layer) -> float:
        """Return the chance that the layer changes before the next build."""
        return self._changing[layer.causes.bit_count()]

    def cost(self, layer: _Layer) -> float:
        """Return the bytes that the layer is expected to cost per build."""
        return (layer.size + _LAYER_COST) * (
            self._changing[layer.causes.bit_count()]
            + self._own[layer.own.bit_count()]
            + self._unshared[layer.dependents.bit_count()]
        )

    def together(self, one: _Layer, two: _Layer) -> float:
        """Return the cost of both layers merged into one."""
        return (one.size + two.size + _LAYER_COST) * (
            self._changing[(one.causes | two.causes).bit_count()]
            + self._own[(one.own | two.own).bit_count()]
            + self._unshared[(one.dependents | two.dependents).bit_count()]
        )

    def plan(self, layers: Sequence[_Layer], budget: int) -> list[_Layer]:
        """Merge layers until they are within the budget and no further merge pays."""
        merged = list(layers)
        if len(merged) > _ALL_PAIRS:
            merged = _merge(self, merged, max(budget, _ALL_PAIRS), _WINDOW)
        if len(merged) <= _ALL_PAIRS:
            merged = _merge(self, merged, budget, _ALL_PAIRS)
        return self._move(merged)

    def renew(
        self, previous: Sequence[Sequence[str]], budget: int, *, afresh: bool
    ) -> list[_Layer]:
        """Return the cheapest of three plans: from the previous layers, from those of them that
        need no push now and, if `afresh`, from none.
        """
        pushed = {frozenset(layer) for layer in previous}
        old = [self._hold(group, pushed) for group in self._found(previous)]
        same = [layer for layer in old if self._names(layer) in pushed]
        starts = [old, same, []] if afresh and same else [old, same]

        def price(plan: Iterable[_Layer]) -> float:
            now = sum(layer.size for layer in plan if self._names(layer) not in pushed)
            return now + _BUILDS * sum(map(self.cost, plan))

        best, *others = (self.plan(self._with_rest(start), budget) for start in starts)
        for other in others:
            if price(other) * _TOLERANCE < price(best):
                best = other
        return best

    def _names(self, layer: _Layer) -> frozenset[str]:
        return frozenset(self._paths[index] for index in layer.members)

    def _hold(self, group: Sequence[int], pushed: set[frozenset[str]]) -> _Layer:
        layer = self._join(group)
        spared = layer.size if self._names(layer) in pushed else 0
        return replace(layer, held=1 + spared / _BUILDS)

    def _join(self, group: Sequence[int]) -> _Layer:
        size = own = causes = dependents = 0
        for number in group:
            layer = self.single[number]
            size += layer.size
            own |= layer.own
            causes |= layer.causes
            dependents |= layer.dependents
        return _Layer(tuple(group), size, own, causes, dependents)

    def _with_rest(self, layers: Sequence[_Layer]) -> list[_Layer]:
        taken = {index for layer in layers for index in layer.members}
        return [*layers, *(layer for layer in self.single if layer.members[0] not in taken)]

    def _found(self, previous: Sequence[Sequence[str]]) -> list[list[int]]:
        """Return the previous layers with their paths' counterparts in the graph: the same path,
        else one of the same name, else one that differs in the version only.
        """
        home = {path: number for number, layer in enumerate(previous) for path in layer}
        groups: dict[int, list[int]] = defaultdict(list)
        waiting = dict(enumerate(self._paths))
        for key in (str, _name, _bare_name):
            old = defaultdict(list)
            for path in sorted(home, reverse=True):
                old[key(path)].append(path)
            for index, path in list(waiting.items()):
                if old[key(path)]:
                    groups[home.pop(old[key(path)].pop())].append(index)
                    del waiting[index]
        return [groups[number] for number in sorted(groups)]

    def _move(self, layers: list[_Layer]) -> list[_Layer]:
        """Move single paths, largest first, to where they cost least, within _MOVES comparisons."""
        layers = list(layers)
        costs = [self.cost(layer) for layer in layers]
        free = [number for number, layer in enumerate(layers) if not layer.held]
        movable = [(path, number) for number in free for path in layers[number].members]
        movable.sort(key=lambda item: (-self.single[item[0]].size, item))
        work = 0
        for path, source in movable:
            if len(layers[source].members) == 1 or len(free) == 1:
                continue
            work += len(free) + len(layers[source].members)
            if work > _MOVES:
                break
            single = self.single[path]
            rest = self._join([index for index in layers[source].members if index != path])
            saved = costs[source] - (left := self.cost(rest))
            added, target = min(
                (self.together(layers[number], single) - costs[number], number)
                for number in free
                if number != source
            )
            if added < saved:
                layers[source], costs[source] = rest, left
                layers[target] |= single
                costs[target] += added
        return layers


def _merge(planner: _Planner, layers: Sequence[_Layer], target: int, window: int) -> list[_Layer]:
    """Merge the two layers whose merge costs least, repeatedly, until `target` are left and no
    further merge pays. Each is compared with `window` neighbours on either side.
    """
    # Neighbours have a similar number of causes, and so probably many in common.
    layers = sorted(layers, key=lambda layer: (layer.causes.bit_count(), layer.members))
    alive = dict(enumerate(layers))
    costs = [planner.cost(layer) for layer in layers]
    before = [*range(-1, len(layers) - 1)]
    after = [*range(1, len(layers)), -1]
    heap: list[tuple[float, int, int]] = []

    def compare(number: int, links: list[int]) -> None:
        layer, other = alive[number], links[number]
        for _ in range(window):
            if other < 0:
                break
            added = planner.together(layer, alive[other]) - costs[number] - costs[other]
            added += layer.held + alive[other].held
            heapq.heappush(heap, (added, number, other))
            other = links[other]

    while True:
        if not heap:
            for number in alive:
                compare(number, after)
        if not heap or (len(alive) <= target and heap[0][0] >= 0):
            return list(alive.values())
        _, one, two = heapq.heappop(heap)
        if one not in alive or two not in alive:
            continue
        # The merged layer replaces the one with more causes.
        gone, kept = sorted((one, two), key=lambda number: alive[number].causes.bit_count())
        new = len(costs)
        alive[new] = alive.pop(one) | alive.pop(two)
        costs.append(planner.cost(alive[new]))
        _unlink(gone, before, after)
        before.append(before[kept])
        after.append(after[kept])
        _link(new, before, after)
        compare(new, before)
        compare(new, after)


def _unlink(number: int, before: list[int], after: list[int]) -> None:
    if before[number] >= 0:
        after[before[number]] = after[number]
    if after[number] >= 0:
        before[after[number]] = before[number]


def _link(number: int, before: list[int], after: list[int]) -> None:
    if before[number] >= 0:
        after[before[number]] = number
    if after[number] >= 0:
        before[after[number]] = number


def _own_weight(budget: int) -> float:
    """Return the weight of a change in the layer itself if dependents may not be rebuilt."""
    return _OWN * math.pow(min(1, budget / _OWN_LAYERS), 1.5)


def _are_rebuilt(graph: Graph, previous: Sequence[Sequence[str]]) -> bool | None:
    """Guess if dependents of a changed path are rebuilt.

    False if a path of the previous plan refers to the replacement of another one; True if a
    path of an old name with a new hash refers to a new path; None if there is no sign.
    """
    before = {path for layer in previous for path in layer}
    new = graph.keys() - before
    gone = before - graph.keys()
    names, bare_names = {_name(path) for path in gone}, {_bare_name(path) for path in gone}
    sign = None
    for path, node in graph.items():
        if found := (node.references & new) - {path}:
            # A new path that replaces none was in a base image.
            if path in before and not bare_names.isdisjoint(map(_bare_name, found)):
                return False
            if _name(path) in names:
                sign = True
    return sign


def _sources(known: Reach, sizes: Sequence[int], roots: set[int]) -> tuple[list[int], int]:
    """Return, for each path, a bit for each cause of its source, and the number of all causes."""
    versions = [_TELLING.match(_name(path)) for path in known.order]
    sources = [[number] for number in range(len(sizes))]
    for number, version in enumerate(versions):
        alike = {version[1]: number} if version else {}
        for other in known.references[number]:
            if like := versions[other]:
                _unite(sources, other, alike.setdefault(like[1], other))
    own = [0] * len(sizes)
    count = 0
    for number, group in enumerate(sources):
        if number != group[0]:
            continue
        size = sum(sizes[member] for member in group)
        many = min(_CAUSES, max(1, round(math.sqrt(size / _CAUSE))))
        if not roots.isdisjoint(group):
            many = max(many, _ROOTS // len(roots))
        for member in group:
            own[member] = ((1 << many) - 1) << count
        count += many
    return own, count


def _unite(groups: list[list[int]], one: int, two: int) -> None:
    """Merge the groups of two members, so that all their members share one list."""
    small, large = sorted((groups[one], groups[two]), key=len)
    if small is not large:
        large += small
        for member in small:
            groups[member] = large


def _causes(known: Reach, own: Sequence[int]) -> list[int]:
    """Return, for each node, the union of `own` over its closure."""
    causes = [0] * len(own)
    for cycle in _cycles(known):  # referenced nodes first
        below = 0
        for node in cycle:
            below |= own[node]
            for other in known.references[node]:
                below |= causes[other]
        for node in cycle:
            causes[node] = below
    return causes


def _dependents(known: Reach) -> list[int]:
    """Return the nodes that reach each node, itself included."""
    bits = [1 << node for node in range(len(known.order))]
    for cycle in reversed(_cycles(known)):  # referring nodes first
        above = 0
        for node in cycle:
            above |= bits[node]
        for node in cycle:
            bits[node] = above
            for other in known.references[node]:
                bits[other] |= above
    return bits


def _cycles(known: Reach) -> list[list[int]]:
    nodes = range(len(known.order))
    return [list(cycle) for _, cycle in groupby(nodes, key=known.cycle.__getitem__)]


def _rounded(size: int) -> int:
    """Round to a power of two, so that a small change of size does not move other paths."""
    return 1 << round(math.log2(size)) if size else 0


def _name(path: str) -> str:
    """Return the name of a store path without directory and hash."""
    base = path.rsplit("/", 1)[-1]
    return base[33:] if _HASH.match(base) else base


def _bare_name(path: str) -> str:
    """Return the name without the parts that start with a digit, as versions do."""
    return _VERSION.sub("", _name(path))

"""Layers by chance of change: what is likely to change together lies together, so that an
update moves few bytes. Knows graph, sizes, names and the plan before, and no history.

What changes is a source. Paths of one version that refer to each other, or that one path refers
to, are taken to be of one; large sources change more often than small ones, and roots are worked
on more than the rest. A path's hash is new when a source of its closure changed or, where
dependents are not rebuilt, when its own did: both count, unless the plan before shows that they
are. The chance that one of n sources changes before the next build grows with n, more slowly
than in proportion. A layer moves whole when one of its members changes, and its causes are the
union of theirs, so paths that have many in common cost little together. Another image shares a
layer if it has all of the members: paths with the same dependents come together everywhere, and
each dependent of only some members is a reason to come without the others. The plan is the
partition with the least sum of size times (weighted chances of change + weighted chance of not
being shared) that merging layers two at a time, and then moving paths one at a time, finds.
"""

from __future__ import annotations

import heapq
import math
import re
from collections import defaultdict
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass, replace
from itertools import groupby

from stream.strategies.graph import Graph
from stream.strategies.reach import Reach, name_key, reach

# Round numbers from a plateau that is the same for unlike images and years: docs/adr/0006.
_CHANGE = 0.08  # n causes strike with a chance of 1 - exp(-_CHANGE * sqrt(n))
_CAUSE = 192 << 10  # bytes of a source that has one cause to change; 4 have two, 9 three ...
_CAUSES = 10  # what no source has more of, but for roots: they are worked on
_ROOTS = 400  # causes that the roots have together
_OWN = 13  # what the chance of a change in the layer weighs against one in its closure
_OWN_LAYERS = 64  # with fewer layers it weighs less: there it wins less than it costs
_APART = 0.3  # as _CHANGE, of n dependents that not all members have
_SHARING = 0.2  # what a byte that is not shared weighs against one that is pushed again
_LAYER_COST = 64 << 10  # bytes that a layer costs beside its content: tar, manifest, requests
_BUILDS = 20  # builds to come that a push now is weighed against
_TOLERANCE = 1.02  # how much dearer than a fresh plan an old one may be and stay
_WINDOW = 2  # neighbours that a layer is compared with while there are many
_ALL_PAIRS = 200  # no more layers than this are compared each with each
_MOVES = 40_000  # comparisons spent on moving single paths

_HASH = re.compile(r"[0-9a-z]{32}-")
_VERSION = re.compile(r"-[0-9][^-]*")
_TELLING = re.compile(r".*-([0-9][^-]*\.[^-]*)")  # a version that few sources have in common


@dataclass(frozen=True, slots=True)
class _Layer:
    """Paths by index. `own` has bits for the sources of the members, `causes` for those of their
    closures. `dependents` has a bit for each path that depends on some member and, above all of
    these, a bit for each that some member can do without. A layer of the plan before is `held`: so many bytes a build
    is what merging it with another costs more, and it is not taken apart.
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
    first. A layer of `previous`, the plan before, stays together as long as a fresh plan would
    not move clearly fewer bytes; its paths are found again by name where the hash is new. The
    plan does not depend on the order of what is given, nor on hashes but to tell equal names.
    """
    known = reach(graph)
    rebuilt = _are_rebuilt(graph, previous or ())
    planner = _Planner(graph, known, roots, 0 if rebuilt else _own_weight(budget))
    if previous:
        # What is no sign this time was one before: a plan of another weight would come and go.
        afresh = rebuilt is not None or not any(node.references for node in graph.values())
        plan = planner.renew(previous, budget, afresh=afresh)
    else:
        plan = planner.plan(planner.single, budget)
    plan.sort(key=lambda layer: (planner.chance(layer), min(layer.members)))
    return [sorted((known.order[node] for node in x.members), key=name_key) for x in plan]


class _Planner:
    """What is known of a graph, and what plans for it cost. Paths are indices, sets of them bits."""

    def __init__(
        self, graph: Graph, known: Reach, roots: Collection[str], own_weight: float
    ) -> None:
        self._paths = paths = known.order
        sizes = [_rounded(graph[path].size) for path in paths]
        own, count = _sources(known, sizes, {known.number[r] for r in roots if r in known.number})
        self._changing = [1 - math.exp(-_CHANGE * math.sqrt(n)) for n in range(count + 1)]
        self._own = [own_weight * chance for chance in self._changing]
        # By the bits of `dependents`: each path has one at least, and two if members differ.
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
        """That the layer changes before the next build."""
        return self._changing[layer.causes.bit_count()]

    def cost(self, layer: _Layer) -> float:
        """Bytes that the layer is expected to cost with each build."""
        return (layer.size + _LAYER_COST) * (
            self._changing[layer.causes.bit_count()]
            + self._own[layer.own.bit_count()]
            + self._unshared[layer.dependents.bit_count()]
        )

    def together(self, one: _Layer, two: _Layer) -> float:
        """The cost of both as one layer."""
        return (one.size + two.size + _LAYER_COST) * (
            self._changing[(one.causes | two.causes).bit_count()]
            + self._own[(one.own | two.own).bit_count()]
            + self._unshared[(one.dependents | two.dependents).bit_count()]
        )

    def plan(self, layers: Sequence[_Layer], budget: int) -> list[_Layer]:
        """Merge layers until they are within the budget and no merge is a gain."""
        merged = list(layers)
        if len(merged) > _ALL_PAIRS:
            merged = _merge(self, merged, max(budget, _ALL_PAIRS), _WINDOW)
        if len(merged) <= _ALL_PAIRS:
            merged = _merge(self, merged, budget, _ALL_PAIRS)
        return self._move(merged)

    def renew(
        self, previous: Sequence[Sequence[str]], budget: int, *, afresh: bool
    ) -> list[_Layer]:
        """The cheapest of the plan before, what of it needs no push now and, if `afresh`, a
        plan made without it.
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
        """The old layers, as far as their paths are still there: the same path, else one of the
        same name, else one that differs in the version.
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
        """Move single paths, the largest first, to where they cost least, as far as _MOVES go."""
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
    """Merge the two layers whose merge costs least, again and again, until `target` are left and
    no merge is a gain. Each is compared with `window` neighbours on either side.
    """
    # Neighbours have about as many causes: one of them striking both is no rare thing.
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
        # The merged layer takes the place of the one with more causes.
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
    """What the chance of a change in a layer itself weighs where dependents may stay."""
    return _OWN * math.pow(min(1, budget / _OWN_LAYERS), 1.5)


def _are_rebuilt(graph: Graph, previous: Sequence[Sequence[str]]) -> bool | None:
    """Whether dependents of what changed are new: not if a path of the plan before refers to
    what replaced another one, probably if one of an old name with a new hash refers to what is
    new, else there is no sign.
    """
    before = {path for layer in previous for path in layer}
    new = graph.keys() - before
    gone = before - graph.keys()
    names, bare_names = {_name(path) for path in gone}, {_bare_name(path) for path in gone}
    sign = None
    for path, node in graph.items():
        if found := (node.references & new) - {path}:
            # What is new in place of nothing was in a base image.
            if path in before and not bare_names.isdisjoint(map(_bare_name, found)):
                return False
            if _name(path) in names:
                sign = True
    return sign


def _sources(known: Reach, sizes: Sequence[int], roots: set[int]) -> tuple[list[int], int]:
    """For each path as many bits as its source has causes to change; and how many there are."""
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
    """Make the groups of two members one: each member's is then the same list."""
    small, large = sorted((groups[one], groups[two]), key=len)
    if small is not large:
        large += small
        for member in small:
            groups[member] = large


def _causes(known: Reach, own: Sequence[int]) -> list[int]:
    """What is in `own` of each node's closure, together."""
    causes = [0] * len(own)
    for cycle in _cycles(known):  # what is referred to comes first
        below = 0
        for node in cycle:
            below |= own[node]
            for other in known.references[node]:
                below |= causes[other]
        for node in cycle:
            causes[node] = below
    return causes


def _dependents(known: Reach) -> list[int]:
    """What reaches each node, itself included."""
    bits = [1 << node for node in range(len(known.order))]
    for cycle in reversed(_cycles(known)):  # what refers comes first
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
    """A power of two: an update that changes a size a little is no reason to move other paths."""
    return 1 << round(math.log2(size)) if size else 0


def _name(path: str) -> str:
    """The name of a store path without directory and hash."""
    base = path.rsplit("/", 1)[-1]
    return base[33:] if _HASH.match(base) else base


def _bare_name(path: str) -> str:
    """The name without the parts that start with a digit, as versions do."""
    return _VERSION.sub("", _name(path))

"""What reaches what in a references graph, as bit sets.

A set of nodes is an int: bit n is the node with the number n in `order`, in which a
node comes behind all that it refers to, but for cycles.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from stream.strategies.graph import Graph


def name_key(path: str) -> str:
    """By what store paths are ordered: the name, then the directory and the hash, which
    stand before the path's first hyphen.
    """
    head, hyphen, name = path.partition("-")
    return f"{name}-{head}" if hyphen else path


@dataclass(frozen=True, slots=True)
class Reach:
    """The nodes in `order`; of each by number, what it refers to, all that it reaches
    without itself, and the number of its cycle (nodes of one cycle reach each other).
    """

    order: list[str]
    number: dict[str, int]
    references: list[list[int]]
    reached: list[int]
    cycle: list[int]


def members(bits: int) -> Iterator[int]:
    """The numbers of the nodes in a set, rising."""
    digits = bin(bits)[:1:-1]  # of which find() is many times as fast as shifts
    at = digits.find("1")
    while at >= 0:
        yield at
        at = digits.find("1", at + 1)


def reach(graph: Graph) -> Reach:
    """Compute it. Time grows with nodes and references, times the nodes' bits."""
    names = sorted(graph, key=name_key)
    components = list(cycles(graph, names))
    order = [name for cycle in components for name in cycle]
    number = {name: index for index, name in enumerate(order)}
    references = [
        sorted(number[other] for other in graph[name].references if other != name) for name in order
    ]
    reached = [0] * len(order)
    numbers = [0] * len(order)
    for index, cycle in enumerate(components):
        inside = [number[name] for name in cycle]
        bits = ((1 << len(inside)) - 1) << inside[0]  # they stand together in `order`
        for node in inside:
            for other in references[node]:
                bits |= 1 << other | reached[other]
        for node in inside:
            reached[node] = bits ^ 1 << node
            numbers[node] = index
    return Reach(order, number, references, reached, numbers)


def cycles(graph: Graph, names: list[str]) -> Iterator[list[str]]:
    """Strongly connected components, what is referred to first (Tarjan), without
    recursion. `names` are the graph's, and say where it begins.
    """
    index: dict[str, int] = {}
    low: dict[str, int] = {}
    stack: list[str] = []
    on_stack: set[str] = set()
    for root in names:
        if root in index:
            continue
        work = [(root, iter(sorted(graph[root].references, key=name_key)))]
        index[root] = low[root] = len(index)
        stack.append(root)
        on_stack.add(root)
        while work:
            node, rest = work[-1]
            for other in rest:
                if other not in index:
                    index[other] = low[other] = len(index)
                    stack.append(other)
                    on_stack.add(other)
                    work.append((other, iter(sorted(graph[other].references, key=name_key))))
                    break
                if other in on_stack:
                    low[node] = min(low[node], index[other])
            else:
                work.pop()
                if work:
                    above = work[-1][0]
                    low[above] = min(low[above], low[node])
                if low[node] == index[node]:
                    cycle = []
                    while True:
                        member = stack.pop()
                        on_stack.discard(member)
                        cycle.append(member)
                        if member == node:
                            break
                    yield sorted(cycle, key=name_key)

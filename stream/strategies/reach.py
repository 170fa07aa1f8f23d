"""Reachability in a references graph, as bit sets.

A set of nodes is an int: bit n is the node with number n in `order`, in which a node
follows all that it refers to, except within cycles.
"""

from __future__ import annotations

from collections.abc import Iterator

from stream.graph import Graph
from stream.values import dataclass


def name_key(path: str) -> str:
    """Return the sort key of a store path: its name, then the directory and hash, which
    precede the first hyphen.
    """
    head, hyphen, name = path.partition("-")
    return f"{name}-{head}" if hyphen else path


@dataclass(frozen=True, slots=True)
class Reach:
    """A graph's nodes in `order` and, by number, each node's `references`, the nodes it
    reaches except itself, and its cycle (nodes of one cycle reach each other).
    """

    order: list[str]
    number: dict[str, int]
    references: list[list[int]]
    reached: list[int]
    cycle: list[int]


def members(bits: int) -> Iterator[int]:
    """Yield the numbers of the nodes in a set, rising."""
    digits = bin(bits)[:1:-1]  # find() in a string is many times as fast as shifts
    at = digits.find("1")
    while at >= 0:
        yield at
        at = digits.find("1", at + 1)


def reach(graph: Graph) -> Reach:
    """Compute the reachability of all nodes. Time grows with the number of nodes and
    references, times the size of a bit set.
    """
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
        bits = ((1 << len(inside)) - 1) << inside[0]  # a cycle is contiguous in `order`
        for node in inside:
            for other in references[node]:
                bits |= 1 << other | reached[other]
        for node in inside:
            reached[node] = bits ^ 1 << node
            numbers[node] = index
    return Reach(order, number, references, reached, numbers)


def cycles(graph: Graph, names: list[str]) -> Iterator[list[str]]:
    """Yield the strongly connected components, referenced ones first (Tarjan), without
    recursion. `names` are all names of `graph`, in the order in which to start from them.
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

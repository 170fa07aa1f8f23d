"""References graphs for tests: of letters, or of any shape from Hypothesis; and their properties,
computed the slow way. Must not know the planner.
"""

from hypothesis import strategies as st

from stream.graph import Graph, Node

NAMES = ("foo", "foo+", "foo-1.0", "foo-1.0+git", "bar")  # names that sort in odd ways


def graph_of(edges: dict[str, str], sizes: dict[str, int] | None = None) -> Graph:
    """Return a graph of paths with names of one letter."""
    return {
        path: Node((sizes or {}).get(path, 1), frozenset(references))
        for path, references in edges.items()
    }


def store_path(number: int) -> str:
    """Return a store path; several have the same name."""
    return f"/nix/store/{number * 7919 % 1000:032}-{NAMES[number % len(NAMES)]}"


@st.composite
def graphs(draw: st.DrawFn, *, cycles: bool = False, most: int = 14) -> Graph:
    """Draw a closure: every path refers to earlier ones, or with `cycles` to any."""
    count = draw(st.integers(0, most))
    names = [store_path(number) for number in range(count)]
    found = {}
    for number, name in enumerate(names):
        others = names if cycles else names[:number]
        references = draw(st.sets(st.sampled_from(others))) if others else set()
        found[name] = Node(draw(st.integers(0, 5)), frozenset(references) - {name})
    shuffled = draw(st.permutations(list(found)))
    return {name: found[name] for name in shuffled}


def walked(graph: Graph, path: str) -> set[str]:
    """Return all paths that a path reaches, including itself."""
    found: set[str] = set()
    waiting = [path]
    while waiting:
        at = waiting.pop()
        if at not in found:
            found.add(at)
            waiting += graph[at].references
    return found


def counted(graph: Graph, path: str) -> dict[str, int]:
    """Return the counts below a path, by their definition."""
    counts: dict[str, int] = {}
    for child in graph[path].references:
        counts[child] = counts.get(child, 0) + 1
        for below, count in counted(graph, child).items():
            counts[below] = counts.get(below, 0) + count + 1
    return counts


def slow_scores(graph: Graph) -> dict[str, int]:
    """Return the scores of a graph without cycles, counted from a root above all paths."""
    referred = {other for node in graph.values() for other in node.references}
    top = {"": Node(0, frozenset(set(graph) - referred))}
    return counted({**graph, **top}, "")

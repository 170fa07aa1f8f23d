"""Count the rooms of a source tree and the imports between them, and print who imports whom.

    python tests/rooms.py [TREE [DRAWING]]

A room is a module or a package directly in `stream/`: its face `stream/__init__.py` and the
extension `_tarhash` are rooms, and so are `bench` and `demo.py` beside it. There is an arrow
from room A to room B if a file of A imports from B anywhere, also inside a function or for
types alone. An arrow is upward if B stands no lower than A in the DRAWING of the floors (default:
that of the tree's docs/design.md), above which are the face and what is outside of `stream/`.
A circle is a set of modules each of which imports all the others, directly or through others.

Reads files only: must not import the tree.
"""

from __future__ import annotations

import ast
import sys
from collections.abc import Collection, Mapping
from functools import cache
from pathlib import Path

FACE = "__init__"
OUTSIDE = ("bench", "demo")  # they import the face, and nobody imports them


def floors(drawing: Path) -> list[set[str]]:
    """Return the rooms of each floor, from the top, as the drawing in a Markdown file has them."""
    block = drawing.read_text("utf-8").partition("```floors\n")[2].partition("```")[0]
    return [set(line.partition("│")[2].split()) for line in block.splitlines() if "│" in line]


@cache
def imports(path: Path) -> set[str]:
    """Return the full names of all that a file imports, also inside functions."""
    found = set()
    for node in ast.walk(ast.parse(path.read_bytes())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert not node.level, f"{path.name}:{node.lineno}: a relative import"
            assert node.module
            found |= {f"{node.module}.{alias.name}" for alias in node.names}
    return found


def modules(package: Path) -> dict[str, Path]:
    """Return the files of a package by their dotted names below it; a room's own `__init__`
    goes by the room's name.
    """
    return {
        ".".join(path.relative_to(package).with_suffix("").parts).removesuffix(".__init__"): path
        for path in sorted(package.rglob("*.py"))
    }


def module_graph(files: Mapping[str, Path]) -> dict[str, set[str]]:
    """Return which modules each module imports. One that imports a name from a package
    imports the package's `__init__`.
    """
    graph: dict[str, set[str]] = {}
    for module, path in files.items():
        found = {name.removeprefix("stream.") for name in imports(path)}
        named = {name for name in found if name in files}
        members = {name.rpartition(".")[0] for name in found} & files.keys()
        graph[module] = (named | members) - {module}
    return graph


def room_graph(tree: Path) -> dict[str, set[str]]:
    """Return the rooms of a tree, with the rooms that each of them imports."""
    files = modules(tree / "stream")
    graph: dict[str, set[str]] = {module.split(".", 1)[0]: set() for module in files}
    graph |= {room: set() for room in ("_tarhash", *OUTSIDE)}
    sources = [(module.split(".", 1)[0], path) for module, path in files.items()]
    sources += [("demo", tree / "demo.py"), *(("bench", p) for p in tree.glob("bench/*.py"))]
    for room, path in sources:
        for name in imports(path):
            head, _, rest = name.partition(".")
            if head == "stream":
                first = rest.split(".", 1)[0]
                graph[room].add(first if first in graph else FACE)
    return {room: found - {room} for room, found in graph.items()}


def circles(graph: Mapping[str, Collection[str]]) -> list[list[str]]:
    """Return the circles of a graph: sets of nodes, sorted, each of which leads to all."""
    reached = {node: _reached(graph, node) for node in graph}
    found = {
        tuple(sorted(other for other in reached[node] if node in reached[other]))
        for node in graph
        if node in reached[node]
    }
    return [list(circle) for circle in sorted(found)]


def _reached(graph: Mapping[str, Collection[str]], start: str) -> set[str]:
    reached: set[str] = set()
    waiting = [start]
    while waiting:
        for node in set(graph[waiting.pop()]) - reached:
            reached.add(node)
            waiting.append(node)
    return reached


def upward(graph: Mapping[str, Collection[str]], drawn: list[set[str]]) -> list[tuple[str, str]]:
    """Return the arrows of a graph that do not lead to a lower floor."""
    depth = {room: number for number, floor in enumerate(drawn, 1) for room in floor}
    depth |= {FACE: 0} | dict.fromkeys(OUTSIDE, -1)
    return sorted((a, b) for a, found in graph.items() for b in found if depth[b] <= depth[a])


def main(tree: str = ".", drawing: str = "") -> None:
    """Print the numbers of a tree, and its rooms with their arrows by floor."""
    drawn = floors(Path(drawing) if drawing else Path(tree) / "docs" / "design.md")
    graph = room_graph(Path(tree))
    files = modules(Path(tree) / "stream")
    found = circles(module_graph({name: path for name, path in files.items() if name != FACE}))
    up = upward(graph, drawn)
    arrows = sum(len(others) for others in graph.values())
    print(f"rooms: {len(graph)}, arrows: {arrows}, circles: {len(found)}, upward: {len(up)}")
    for circle in found:
        print("circle:", *circle)
    for a, b in up:
        print("upward:", a, "->", b)
    for floor in [set(OUTSIDE), {FACE}, *drawn]:
        print()
        for room in sorted(floor):
            print(f"{room:20} -> {' '.join(sorted(graph[room])) or '(nothing)'}")


if __name__ == "__main__":
    main(*sys.argv[1:])

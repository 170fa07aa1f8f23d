"""The pipeline language of nixpkgs' `dockerTools` (`layeringPipeline`): a list of
operations, each `[name, argument…]`, that cut a references graph into layers.

A program is checked as a whole before it runs: the type of each operation's input (a graph,
a list of graphs, or named parts) follows from those before it. An empty graph counts like
any other, as in nixpkgs, and is dropped only when it would become a layer.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Any

from stream.errors import ConfError, Fault
from stream.graph import Graph, Node, check_budget, closure, part, roots
from stream.limits import MAX_FAULTS
from stream.strategies.popularity import by_popularity
from stream.values import dataclass

PLACE = "layeringPipeline"
MAX_OPERATIONS = 1000
MAX_DEPTH = 50  # levels of nested operations
MAX_SHOWN = 80  # characters of a string in a message


def pipeline(
    graph: Graph, program: object, budget: int | None = None, *, name: str = "", place: str = PLACE
) -> list[list[str]]:
    """Run `program`, parsed JSON, on `graph` and return the layers: each path once, except
    those that the program removes. Paths in a layer are ordered by size and then by path,
    unless an operation orders them otherwise.

    `budget` is the maximum number of layers, or None for no limit, as in nixpkgs. `name` and
    `place` locate the program in messages: the document, and the place in it. Raises
    ConfError, with all faults of the program.
    """
    if budget is not None:
        check_budget(budget)
    compiler = _Compiler()
    step, kind = compiler.program(place, program, _GRAPH)
    if compiler.faults:
        raise ConfError(name, compiler.faults)
    # Among equal sizes nixpkgs keeps the order of the document, which Nix writes by path.
    ordered = sorted(graph, key=lambda path: (graph[path].size, path))
    found = step({path: graph[path] for path in ordered})
    layers = [list(layer) for layer in _flat(found, kind) if layer]
    if budget is not None and len(layers) > budget:
        wrong = f"makes {len(layers)} layers; {budget} are left for store paths"
        raise ConfError(name, [Fault(place, f'{wrong}; end it with ["limit_layers", {budget}]')])
    return layers


def program_faults(program: object, place: str = PLACE) -> list[Fault]:
    """Return the faults of `program` without running it."""
    compiler = _Compiler()
    compiler.program(place, program, _GRAPH)
    return compiler.faults


@dataclass(frozen=True, slots=True)
class _Kind:
    """The type of an operation's input or output: a graph, a list of `item`, or `parts` by
    name. `shown` names it in messages.
    """

    shown: str
    item: _Kind | None = None
    parts: dict[str, _Kind] | None = None


def _list_of(item: _Kind) -> _Kind:
    return _Kind("a list of graphs" if item is _GRAPH else "a list of lists or parts", item)


_ANYTHING = _Kind("anything")  # after a fault, so that it is not reported again
_GRAPH = _Kind("a graph")
_GRAPHS = _list_of(_GRAPH)
_MAIN_REST = _Kind("parts", parts={"main": _GRAPH, "rest": _GRAPH})
_MAIN_COMMON_REST = _Kind("parts", parts={"main": _GRAPH, "common": _GRAPH, "rest": _GRAPH})

_Step = Callable[[Any], Any]
_Compiled = tuple[_Step, _Kind]

_TAKES = {
    "flatten": (),
    "limit_layers": ("a number of layers",),
    "map": ("an operation",),
    "over": ("the name of a part", "an operation"),
    "pipe": ("a list of operations",),
    "popularity_contest": (),
    "remove_paths": ("a list of store paths",),
    "reverse": (),
    "split_every": ("a number of paths",),
    "split_paths": ("a list of store paths",),
    "subcomponent_in": ("a list of store paths",),
    "subcomponent_out": ("a list of store paths",),
}
# The strings in a program that are not paths.
WORDS = frozenset(_TAKES).union(*(kind.parts or () for kind in (_MAIN_REST, _MAIN_COMMON_REST)))


class _Compiler:
    """A compiler of programs to functions, which collects their faults. The function is of
    no use if there are faults.
    """

    def __init__(self) -> None:
        self.faults: list[Fault] = []
        self._operations = 0
        self._depth = 0

    def program(self, place: str, program: object, kind: _Kind) -> _Compiled:
        """Return a function that runs the operations in turn on a `kind`, and its type of
        output.
        """
        if not isinstance(program, list):
            return self._fault(place, f"must be a list of operations, not {_shown(program)}")
        steps = []
        for index, operation in enumerate(program):
            step, kind = self._operation(f"{place}[{index}]", operation, kind)
            steps.append(step)
            if len(self.faults) >= MAX_FAULTS or self._operations > MAX_OPERATIONS:
                break

        def run(value: Any) -> Any:
            for step in steps:
                value = step(value)
            return value

        return run, kind

    def _fault(self, place: str, message: str) -> _Compiled:
        self.faults.append(Fault(place, message))
        return _same, _ANYTHING

    def _operation(self, place: str, operation: object, kind: _Kind) -> _Compiled:
        self._operations += 1
        if self._operations > MAX_OPERATIONS:
            return self._fault(place, f"too many operations: at most {MAX_OPERATIONS} are allowed")
        if self._depth > MAX_DEPTH:
            return self._fault(place, f"nested too deeply: at most {MAX_DEPTH} levels are allowed")
        if not isinstance(operation, list) or not operation:
            wanted = 'must be an operation like ["popularity_contest"]'
            return self._fault(place, f"{wanted}, not {_shown(operation)}")
        name, *arguments = operation
        if not isinstance(name, str) or name not in _TAKES:
            return self._fault(
                f"{place}[0]", f"{_shown(name)} is not an operation; use {', '.join(_TAKES)}"
            )
        takes = _TAKES[name]
        if len(arguments) != len(takes):
            wanted = f"{name} takes {' and '.join(takes) or 'no argument'}"
            return self._fault(place, f"{wanted}; {len(arguments)} arguments are given")
        self._depth += 1
        compiled: _Compiled = getattr(self, f"_{name}")(place, kind, *arguments)
        self._depth -= 1
        return compiled

    def _takes(self, place: str, kind: _Kind, *, wanted: str, hint: str, ok: bool) -> None:
        if not ok and kind is not _ANYTHING:
            self._fault(place, f"takes {wanted}, but its input is {kind.shown}{hint}")

    def _takes_graph(self, place: str, kind: _Kind) -> None:
        hint = ""
        if kind.item:
            hint = '; put it in ["map", …]'
        elif kind.parts:
            hint = f'; put it in ["over", "{next(iter(kind.parts))}", …]'
        self._takes(place, kind, wanted="a graph", hint=hint, ok=kind is _GRAPH)

    # ---- arguments

    def _paths(self, place: str, value: object) -> list[str]:
        if not isinstance(value, list):
            self._fault(place, f"must be a list of store paths, not {_shown(value)}")
            return []
        for index, path in enumerate(value):
            if not isinstance(path, str):
                self._fault(f"{place}[{index}]", f"must be a store path, not {_shown(path)}")
                return []
        return value

    def _paths_or_one(self, place: str, value: object) -> list[str]:
        return [value] if isinstance(value, str) else self._paths(place, value)

    def _number(self, place: str, value: object) -> int:
        if isinstance(value, int) and not isinstance(value, bool) and value >= 1:
            return value
        self._fault(place, f"must be a number of at least 1, not {_shown(value)}")
        return 1

    # ---- operations, named as in the language

    def _popularity_contest(self, place: str, kind: _Kind) -> _Compiled:
        self._takes_graph(place, kind)

        def run(graph: Graph) -> list[Graph]:
            return [{path: Node(graph[path].size, frozenset())} for path in by_popularity(graph)]

        return run, _GRAPHS

    def _split_paths(self, place: str, kind: _Kind, specs: object) -> _Compiled:
        self._takes_graph(place, kind)
        named: list[str] = []
        parents: list[str] = []
        if not isinstance(specs, list):
            return self._fault(f"{place}[1]", f"must be a list of store paths, not {_shown(specs)}")
        for index, spec in enumerate(specs):
            at = f"{place}[1][{index}]"
            if isinstance(spec, str):
                named.append(spec)
            elif isinstance(spec, dict) and spec.keys() == {"children_of"}:
                parents += self._paths_or_one(f"{at}.children_of", spec["children_of"])
            else:
                wanted = 'must be a store path or {"children_of": …}'
                return self._fault(at, f"{wanted}, not {_shown(spec)}")

        def run(graph: Graph) -> dict[str, Graph]:
            children = (graph[path].references for path in parents if path in graph)
            return _split(graph, {path for path in named if path in graph}.union(*children))

        return run, _MAIN_COMMON_REST

    def _subcomponent_out(self, place: str, kind: _Kind, paths: object) -> _Compiled:
        self._takes_graph(place, kind)
        wanted = self._paths(f"{place}[1]", paths)

        def run(graph: Graph) -> dict[str, Graph]:
            return _main_rest(graph, closure(graph, (path for path in wanted if path in graph)))

        return run, _MAIN_REST

    def _subcomponent_in(self, place: str, kind: _Kind, paths: object) -> _Compiled:
        self._takes_graph(place, kind)
        wanted = self._paths(f"{place}[1]", paths)

        def run(graph: Graph) -> dict[str, Graph]:
            referrers: dict[str, list[str]] = {path: [] for path in graph}
            for path, node in graph.items():
                for other in node.references:
                    referrers[other].append(path)
            upwards = {path: Node(0, frozenset(above)) for path, above in referrers.items()}
            return _main_rest(graph, closure(upwards, (path for path in wanted if path in graph)))

        return run, _MAIN_REST

    def _over(self, place: str, kind: _Kind, key: object, operation: object) -> _Compiled:
        self._takes(
            place, kind, wanted="parts", hint="; put it after split_paths or subcomponent_out",
            ok=kind.parts is not None,
        )  # fmt: skip
        parts = kind.parts or {}
        if not isinstance(key, str):
            self._fault(f"{place}[1]", f"must be the name of a part, not {_shown(key)}")
        elif parts and key not in parts:
            self._fault(f"{place}[1]", f"{_shown(key)} is not a part here; use {', '.join(parts)}")
        known = parts.get(key, _ANYTHING) if isinstance(key, str) else _ANYTHING
        step, yielded = self._operation(f"{place}[2]", operation, known)

        def run(value: dict[str, Any]) -> dict[str, Any]:
            # `split_paths` yields no empty parts; there is nothing to do for one.
            return {name: step(item) if name == key else item for name, item in value.items()}

        return run, _Kind("parts", parts={**parts, str(key): yielded}) if parts else _ANYTHING

    def _map(self, place: str, kind: _Kind, operation: object) -> _Compiled:
        hint = "; put flatten before it" if kind.parts else ""
        self._takes(place, kind, wanted="a list", hint=hint, ok=kind.item is not None)
        step, yielded = self._operation(f"{place}[1]", operation, kind.item or _ANYTHING)
        return lambda values: [step(value) for value in values], _list_of(yielded)

    def _pipe(self, place: str, kind: _Kind, program: object) -> _Compiled:
        return self.program(f"{place}[1]", program, kind)

    def _split_every(self, place: str, kind: _Kind, count: object) -> _Compiled:
        self._takes_graph(place, kind)
        size = self._number(f"{place}[1]", count)

        def run(graph: Graph) -> list[Graph]:
            paths = list(graph)
            # `part` on the whole graph would iterate over all of it each time.
            pieces = (paths[start : start + size] for start in range(0, len(paths), size))
            return [part({path: graph[path] for path in piece}, piece) for piece in pieces]

        return run, _GRAPHS

    def _limit_layers(self, place: str, kind: _Kind, count: object) -> _Compiled:
        hint = "; put flatten before it" if kind.item or kind.parts else ""
        ok = kind.item in (_GRAPH, _ANYTHING)
        self._takes(place, kind, wanted="a list of graphs", hint=hint, ok=ok)
        limit = self._number(f"{place}[1]", count)

        def run(graphs: list[Graph]) -> list[Graph]:
            kept, others = graphs[: limit - 1], graphs[limit - 1 :]
            rest = {path: node for graph in others for path, node in graph.items()}
            return [*kept, rest] if others else kept

        return run, _GRAPHS

    def _remove_paths(self, place: str, kind: _Kind, paths: object) -> _Compiled:
        self._takes_graph(place, kind)
        unwanted = frozenset(self._paths_or_one(f"{place}[1]", paths))
        return lambda graph: part(graph, graph.keys() - unwanted), _GRAPH

    def _reverse(self, place: str, kind: _Kind) -> _Compiled:
        hint = "; put flatten before it" if kind.parts else ""
        self._takes(place, kind, wanted="a list", hint=hint, ok=kind.item is not None)
        return lambda values: values[::-1], kind

    def _flatten(self, place: str, kind: _Kind) -> _Compiled:
        return lambda value: list(_flat(value, kind)), _GRAPHS


def _same(value: Any) -> Any:
    return value


def _flat(value: Any, kind: _Kind) -> Iterator[Graph]:
    """Yield the graphs in `value`, in order."""
    if kind.parts:
        for name, item in value.items():
            yield from _flat(item, kind.parts[name])
    elif kind.item:
        for item in value:
            yield from _flat(item, kind.item)
    else:
        yield value


def _split(graph: Graph, wanted: set[str]) -> dict[str, Graph]:
    """Split `graph` as `split_paths` does: `main` are the paths that only `wanted` reach,
    including themselves, `common` those that the rest also reaches.
    """
    if not wanted:
        return {"rest": graph}
    top = roots(graph)
    if len(top) == 1 and top <= wanted:
        return {"main": graph}
    # References to wanted paths are dropped, also in the parts, as nixpkgs does: later
    # operations see the result.
    cut = {path: Node(node.size, node.references - wanted) for path, node in graph.items()}
    below = closure(graph, wanted)
    rest = graph.keys() - below
    common = below & closure(cut, rest)
    parts = {"main": below - common, "common": common, "rest": rest}
    return {name: part(cut, paths) for name, paths in parts.items() if paths}


def _main_rest(graph: Graph, main: Iterable[str]) -> dict[str, Graph]:
    found = frozenset(main)
    return {"main": part(graph, found), "rest": part(graph, graph.keys() - found)}


def _shown(value: object) -> str:
    """Return a JSON value for a message: its type if it is not short."""
    if isinstance(value, dict):
        return "an object"
    if isinstance(value, list):
        return "a list" if value else "an empty list"
    if value is None or isinstance(value, bool):
        return "null" if value is None else str(value).lower()
    if isinstance(value, str):
        return repr(value[:MAX_SHOWN]) + "…" * (len(value) > MAX_SHOWN)
    return repr(value) if isinstance(value, int) and abs(value) < 2**64 else "a number"

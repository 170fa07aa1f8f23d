"""The pipeline language of `dockerTools`."""

import json
from typing import Any

import pytest
from graphs import counted, graph_of, graphs, store_path, walked
from hypothesis import given
from hypothesis import strategies as st

from stream.errors import ConfError
from stream.graph import Graph, Node
from stream.strategies.program import pipeline, program_faults

# R needs A and B; both need C, and A alone D and E.
DIAMOND = {"R": "AB", "A": "CDE", "B": "C", "C": "", "D": "E", "E": ""}
SIZES = dict(zip("RABCDE", (6, 5, 4, 3, 2, 1), strict=True))


def layers_of(*program: object) -> list[str]:
    """Return the layers of DIAMOND, each as one word."""
    return ["".join(layer) for layer in pipeline(graph_of(DIAMOND, SIZES), list(program))]


# ---- a second, slow implementation of the language: parts are dicts, lists are lists, and a
# graph is a tuple of its paths in order and a set of pairs

Slow = tuple[tuple[str, ...], frozenset[tuple[str, str]]]


def sub(graph: Slow, keep: set[str]) -> Slow:
    """Return the subgraph of the paths in `keep`."""
    paths, edges = graph
    return tuple(path for path in paths if path in keep), frozenset(
        (one, other) for one, other in edges if {one, other} <= keep
    )


def nodes(graph: Slow) -> Graph:
    """Return the same graph in the form that `walked` takes."""
    paths, edges = graph
    return {
        path: Node(0, frozenset(other for one, other in edges if one == path)) for path in paths
    }


def reached(graph: Slow, start: set[str]) -> set[str]:
    """Return the paths of `start` that are in the graph, and all that they reach."""
    return set().union(*(walked(nodes(graph), path) for path in start & set(graph[0])))


def slow_contest(graph: Slow) -> list[Slow]:
    """Return a graph for each path, by score and name."""
    paths, edges = graph
    tops = set(paths) - {other for _, other in edges}
    scores = counted({**nodes(graph), "": Node(0, frozenset(tops))}, "")

    def key(path: str) -> tuple[int, str]:
        head, name = path.split("-", 1)
        return -scores[path], f"{name}-{head}"

    return [((path,), frozenset()) for path in sorted(paths, key=key)]


def slow_split(graph: Slow, specs: list[Any]) -> dict[str, Slow]:
    """Split as documented: by what can be reached from above with the paths cut off."""
    paths, edges = graph
    wanted = set()
    for spec in specs:
        if isinstance(spec, str):
            wanted.add(spec)
        else:
            names = spec["children_of"]
            names = [names] if isinstance(names, str) else names
            wanted |= {other for one, other in edges if one in names}
    wanted &= set(paths)
    tops = set(paths) - {other for _, other in edges}
    if not wanted:
        return {"rest": graph}
    if len(tops) == 1 and tops <= wanted:
        return {"main": graph}
    cut = paths, frozenset(edge for edge in edges if edge[1] not in wanted)
    off, others = reached(graph, wanted), reached(cut, tops - wanted)
    found = {"main": off - others, "common": off & others, "rest": others - off}
    return {name: sub(cut, part) for name, part in found.items() if part}


def slow_flat(value: Any) -> list[Slow]:
    """Return all graphs in a value."""
    if isinstance(value, tuple):
        return [value]
    items = value.values() if isinstance(value, dict) else value
    return [graph for item in items for graph in slow_flat(item)]


def slow(operation: list[Any], value: Any) -> Any:  # noqa: PLR0911, PLR0912 one case each
    """Run one operation."""
    name, *arguments = operation
    every = set(value[0]) if isinstance(value, tuple) else set()
    match name:
        case "popularity_contest":
            return slow_contest(value)
        case "split_paths":
            return slow_split(value, arguments[0])
        case "subcomponent_out":
            main = reached(value, set(arguments[0]))
            return {"main": sub(value, main), "rest": sub(value, every - main)}
        case "subcomponent_in":
            up = value[0], frozenset((other, one) for one, other in value[1])
            main = reached(up, set(arguments[0]))
            return {"main": sub(value, main), "rest": sub(value, every - main)}
        case "over":
            key, inner = arguments
            return {**value, key: slow(inner, value[key])} if key in value else value
        case "map":
            return [slow(arguments[0], item) for item in value]
        case "pipe":
            for inner in arguments[0]:
                value = slow(inner, value)
            return value
        case "split_every":
            rest = list(value[0])
            pieces = []
            while rest:
                pieces.append(sub(value, set(rest[: arguments[0]])))
                rest = rest[arguments[0] :]
            return pieces
        case "limit_layers":
            kept, merged = value[: arguments[0] - 1], value[arguments[0] - 1 :]
            paths = tuple(path for graph in merged for path in graph[0])
            edges = frozenset(edge for graph in merged for edge in graph[1])
            return [*kept, (paths, edges)] if merged else kept
        case "remove_paths":
            unwanted = arguments[0]
            return sub(value, every - set([unwanted] if isinstance(unwanted, str) else unwanted))
        case "reverse":
            return list(reversed(value))
        case "flatten":
            return slow_flat(value)
    raise AssertionError(name)


def slow_pipeline(graph: Graph, program: list[Any]) -> list[list[str]]:
    """Return the layers of a graph."""
    ordered = sorted(sorted(graph), key=lambda path: graph[path].size)
    edges = frozenset((path, other) for path in graph for other in graph[path].references)
    found = slow_flat(slow(["pipe", program], (tuple(ordered), edges)))
    return [list(paths) for paths, _ in found if paths]


# ---- valid programs: a kind is "graph", a list of one kind, or a dict of kinds

some_paths = st.lists(st.integers(0, 15).map(store_path), max_size=3)
one_path = st.integers(0, 15).map(store_path)
specs = st.lists(
    one_path | st.fixed_dictionaries({"children_of": one_path | some_paths}), max_size=3
)


@st.composite
def operations(draw: st.DrawFn, kind: Any, depth: int) -> tuple[list[Any], Any]:  # noqa: PLR0911
    """Draw an operation on a `kind`, and the kind that it yields."""
    deep = ["pipe"] if depth < 3 else []
    if kind == "graph":
        name = draw(
            st.sampled_from(
                ["popularity_contest", "split_every", "split_paths", "subcomponent_in"]
                + ["subcomponent_out", "remove_paths", "flatten", *deep]
            )
        )
    elif isinstance(kind, list):
        limit = ["limit_layers"] if kind == ["graph"] else []
        name = draw(st.sampled_from(["reverse", "flatten", *limit, *deep, *["map"] * len(deep)]))
    else:
        name = draw(st.sampled_from(["flatten", *deep, *["over"] * 2 * len(deep)]))
    match name:
        case "pipe":
            inner, kind = draw(programs(kind, depth + 1))
            return ["pipe", inner], kind
        case "map":
            inner, yielded = draw(operations(kind[0], depth + 1))
            return ["map", inner], [yielded]
        case "over":
            key = draw(st.sampled_from(sorted(kind)))
            inner, yielded = draw(operations(kind[key], depth + 1))
            return ["over", key, inner], {**kind, key: yielded}
        case "reverse":
            return ["reverse"], kind
        case "split_every" | "limit_layers":
            return [name, draw(st.integers(1, 5))], ["graph"]
        case "remove_paths":
            return [name, draw(some_paths | one_path)], "graph"
        case "split_paths":
            return [name, draw(specs)], dict.fromkeys(("main", "common", "rest"), "graph")
        case "subcomponent_in" | "subcomponent_out":
            return [name, draw(some_paths)], dict.fromkeys(("main", "rest"), "graph")
        case _:
            return [name], ["graph"]


@st.composite
def programs(draw: st.DrawFn, kind: Any = "graph", depth: int = 0) -> tuple[list[Any], Any]:
    """Draw a program on a `kind`, and the kind that it yields."""
    found = []
    for _ in range(draw(st.integers(0, 4))):
        operation, kind = draw(operations(kind, depth))
        found.append(operation)
    return found, kind


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=3)
    | st.sampled_from(["over", "map", "pipe", "flatten", "split_paths", "main", "children_of"]),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=3), inner),
)  # fmt: skip


# ---- tests


@pytest.mark.parametrize(
    ("program", "layers"),
    [
        ([], ["EDCBAR"]),
        ([["popularity_contest"]], list("CEDABR")),
        ([["popularity_contest"], ["limit_layers", 3]], ["C", "E", "DABR"]),
        ([["popularity_contest"], ["limit_layers", 99]], list("CEDABR")),
        ([["popularity_contest"], ["reverse"]], list("RBADEC")),
        ([["split_every", 4]], ["EDCB", "AR"]),
        ([["split_paths", ["A"]]], ["EDA", "C", "BR"]),
        ([["split_paths", [{"children_of": "A"}]]], ["EDC", "BAR"]),
        ([["split_paths", [{"children_of": ["A", "B"]}, "B"]]], ["EDCB", "AR"]),
        ([["split_paths", ["R"]]], ["EDCBAR"]),
        ([["split_paths", ["nowhere"]]], ["EDCBAR"]),
        ([["split_paths", ["R", "D"]], ["over", "main", ["popularity_contest"]]], list("CEDABR")),
        ([["split_paths", ["A", "D"]], ["over", "main", ["popularity_contest"]]],
         ["E", "A", "D", "C", "BR"]),
        ([["split_paths", ["A"]], ["over", "main", ["split_every", 1]]], [*"EDA", "C", "BR"]),
        ([["subcomponent_out", ["A"]]], ["EDCA", "BR"]),
        ([["subcomponent_in", ["C", "nowhere"]]], ["CBAR", "ED"]),
        ([["subcomponent_in", ["nowhere"]]], ["EDCBAR"]),
        ([["remove_paths", "C"]], ["EDBAR"]),
        ([["remove_paths", ["C", "E", "nowhere"]]], ["DBAR"]),
        ([["remove_paths", list("RABCDE")]], []),
        ([["split_every", 3], ["map", ["split_every", 2]]], ["ED", "C", "BA", "R"]),
        ([["split_every", 3], ["map", ["popularity_contest"]], ["flatten"], ["limit_layers", 2]],
         ["E", "CDABR"]),
        ([["pipe", [["split_every", 3], ["reverse"]]]], ["BAR", "EDC"]),
    ],
    ids=json.dumps,
)  # fmt: skip
def test_examples(program: list[Any], layers: list[str]) -> None:
    """A program written for nixpkgs means the same here."""
    assert layers_of(*program) == layers


@given(graph=graphs(), program=programs())
def test_programs_as_walked(graph: Graph, program: tuple[list[Any], Any]) -> None:
    """All operations, nested and in sequence, do what is documented."""
    assert program_faults(program[0]) == []
    assert pipeline(graph, program[0]) == slow_pipeline(graph, program[0])


@given(graph=graphs(cycles=True), program=programs())
def test_no_path_is_lost(graph: Graph, program: tuple[list[Any], Any]) -> None:
    """If a path were lost in a cycle, the container would not start."""
    layers = pipeline(graph, program[0])
    found = [path for layer in layers for path in layer]
    assert len(found) == len(set(found))
    assert all(layers)
    if "remove_paths" not in str(program):
        assert set(found) == set(graph)
    else:
        assert set(found) <= set(graph)
    assert pipeline(dict(reversed(list(graph.items()))), program[0]) == layers


def test_split_paths_in_a_cycle() -> None:
    """Paths that no root reaches stay in the image."""
    graph = graph_of({"A": "B", "B": "A", "X": "Y", "Y": "XC", "C": ""})
    assert pipeline(graph, [["split_paths", ["X"]]]) == [["C", "X", "Y"], ["A", "B"]]


def test_references_to_split_paths_are_gone() -> None:
    """Popularity within a part does not count them, as in nixpkgs."""
    graph = graph_of({"R": "AB", "A": "B", "B": "", "Z": "R"})
    program = [["split_paths", ["A", "B"]], ["over", "main", ["popularity_contest"]]]
    assert pipeline(graph, program) == [["A"], ["B"], ["R", "Z"]]


def test_a_budget_that_does_not_suffice_is_an_error() -> None:
    """A program that makes too many layers is an error, which says how to limit them."""
    graph = graph_of(DIAMOND)
    assert len(pipeline(graph, [["popularity_contest"]], 6)) == 6
    with pytest.raises(ConfError) as error:
        pipeline(graph, [["popularity_contest"]], 5, name="spec.json")
    assert str(error.value) == (
        "spec.json: layeringPipeline: makes 6 layers; 5 are left for store paths;"
        ' end it with ["limit_layers", 5]'
    )


@pytest.mark.parametrize(
    ("program", "place", "message"),
    [
        ({}, "", "must be a list of operations, not an object"),
        (None, "", "must be a list of operations, not null"),
        (["flatten"], "[0]", "must be an operation like .*, not 'flatten'"),
        ([[]], "[0]", "must be an operation like .*, not an empty list"),
        ([["popularity"]], "[0][0]", "'popularity' is not an operation; use flatten, "),
        ([[3]], "[0][0]", "3 is not an operation"),
        ([["flatten", 1]], "[0]", "flatten takes no argument; 1 arguments are given"),
        ([["over", "main"]], "[0]", "over takes the name of a part and an operation"),
        ([["split_every", 0]], "[0][1]", "must be a number of at least 1, not 0"),
        ([["split_every", True]], "[0][1]", "must be a number of at least 1, not true"),
        ([["split_every", 1], ["limit_layers", 1.5]], "[1][1]", "must be a number of at least 1"),
        ([["split_every", 1], ["limit_layers", -(10**5000)]], "[1][1]", "not a number"),
        ([["split_paths", "A"]], "[0][1]", "must be a list of store paths, not 'A'"),
        ([["split_paths", [3]]], "[0][1][0]", 'must be a store path or {"children_of": …}, not 3'),
        ([["split_paths", [{"childrenOf": "A"}]]], "[0][1][0]", "must be a store path or"),
        ([["split_paths", [{"children_of": 1}]]], "[0][1][0].children_of", "must be a list"),
        ([["subcomponent_in", ["A", None]]], "[0][1][1]", "must be a store path, not null"),
        ([["remove_paths", {}]], "[0][1]", "must be a list of store paths, not an object"),
        ([["popularity_contest"], ["popularity_contest"]], "[1]",
         'takes a graph, but its input is a list of graphs; put it in ."map", ….'),
        ([["split_paths", []], ["split_every", 2]], "[1]", 'parts; put it in ."over", "main", ….'),
        ([["split_paths", []], ["limit_layers", 2]], "[1]", "takes a list of graphs, .*; put flatten"),
        ([["split_paths", []], ["map", ["flatten"]]], "[1]", "takes a list, .*; put flatten before"),
        ([["split_paths", []], ["reverse"]], "[1]", "takes a list, .*; put flatten before it"),
        ([["reverse"]], "[0]", "takes a list, but its input is a graph"),
        ([["split_every", 1], ["map", ["split_every", 1]], ["limit_layers", 3]], "[2]",
         "takes a list of graphs, .* a list of lists or parts; put flatten"),
        ([["over", "main", ["flatten"]]], "[0]", "takes parts, .* its input is a graph; put it after"),
        ([["subcomponent_in", []], ["over", "common", ["flatten"]]], "[1][1]",
         "'common' is not a part here; use main, rest"),
        ([["subcomponent_in", []], ["over", 1, ["flatten"]]], "[1][1]", "must be the name of a part"),
        ([["split_paths", []], ["over", "rest", ["pipe", [["split_every", 2], ["nope"]]]]],
         "[1][2][1][1][0]", "'nope' is not an operation"),
        ([["popularity_contest"], ["map", ["map", ["flatten"]]]], "[1][1]", "takes a list"),
        ([["flatten", *range(10**5)]], "[0]", "100000 arguments"),
        ([["x" * 10**6]], "[0][0]", "x.… is not an operation"),
    ],
)  # fmt: skip
def test_faults_are_reported_by_place(program: Any, place: str, message: str) -> None:
    """Programs are written by hand: a fault is reported with its place, on one line."""
    with pytest.raises(ConfError, match=message) as error:
        pipeline(graph_of(DIAMOND), program, name="spec.json")
    (fault,) = error.value.faults
    assert fault.place == f"layeringPipeline{place}"
    assert len(str(error.value)) < 500
    assert "\n" not in str(error.value)


def test_all_faults_in_one_run() -> None:
    """Someone who repairs a program sees all its faults at once."""
    program = [["nope"], ["split_every", 0], ["map", ["split_paths", 3]], ["limit_layers", "x"]]
    assert [fault.place for fault in program_faults(program, "P")] == [
        "P[0][0]",
        "P[1][1]",
        "P[2][1][1]",
        "P[3][1]",
    ]


@pytest.mark.parametrize(
    ("program", "message"),
    [
        ([["flatten"]] * 1001, "at most 1000 are allowed"),
        ([["pipe", [["flatten"]] * 600]] * 2, "at most 1000 are allowed"),
        ([["nope"]] * 10**6, "not an operation"),
    ],
    ids=["long", "wide", "wrong"],
)
def test_programs_are_bounded(program: Any, message: str) -> None:
    """An untrusted program must not exhaust time or memory."""
    faults = program_faults(program)
    assert 1 <= len(faults) <= 25
    assert message in faults[0].message


def test_deep_programs() -> None:
    """Nesting ends in an error, not in Python's recursion."""
    program: list[Any] = []
    for _ in range(100_000):
        program = [["pipe", program]]
    (fault,) = program_faults(program)
    assert "nested too deep" in fault.message
    while program:  # deep nesting must not be freed by recursion either
        program = program[0][1]


@given(program=json_values)
def test_any_json_is_a_program_or_an_error(program: Any) -> None:
    """No JSON causes a traceback."""
    graph = graph_of(DIAMOND)
    if program_faults(program):
        with pytest.raises(ConfError):
            pipeline(graph, program)
    else:
        pipeline(graph, program)

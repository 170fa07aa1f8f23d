"""Imports go one way, and nothing heavy is imported before it is needed."""

import ast
import os
import subprocess
import sys
from pathlib import Path

import orjson
import pytest

import stream

PACKAGE = Path(stream.__file__).parent

DESIGN = Path(__file__).parents[1] / "docs" / "design.md"


def _floors() -> list[set[str]]:
    """Return the rooms of each floor, from the top, as the drawing in docs/design.md has them."""
    drawing = DESIGN.read_text().partition("```floors\n")[2].partition("```")[0]
    return [set(line.partition("│")[2].split()) for line in drawing.splitlines() if "│" in line]


# A module imports from lower floors, or from its own room.
ROWS = _floors()
DEPTH = {name: depth for depth, row in enumerate(ROWS) for name in row}
MODULES = {
    ".".join(path.relative_to(PACKAGE).with_suffix("").parts).removesuffix(".__init__"): path
    for path in PACKAGE.rglob("*.py")
    if path != PACKAGE / "__init__.py"  # the library's face: it gathers names from everywhere
}


def imports(path: Path) -> set[str]:
    """Return the full names of all modules that a file imports, even inside functions."""
    found = set()
    for node in ast.walk(ast.parse(path.read_bytes())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert not node.level, f"{path.name}:{node.lineno}: a relative import"
            assert node.module
            found |= {f"{node.module}.{alias.name}" for alias in node.names}
    return found


def rooms(path: Path) -> set[str]:
    """Return the modules of this package that a file imports: `sinks` for `stream.sinks.x`."""
    inside = {name.removeprefix("stream.").split(".", 1)[0] for name in imports(path)}
    return inside & DEPTH.keys()


@pytest.mark.parametrize("module", MODULES)
def test_direction(module: str) -> None:
    """The architecture is the order of imports: from the command line down to the value types."""
    room = module.split(".", 1)[0]
    assert room in DEPTH, f"stream/{room} has no floor yet: draw it in docs/design.md"
    for other in rooms(MODULES[module]):
        assert DEPTH[other] > DEPTH[room] or other == room, f"{module} imports {other}"


def test_the_drawing_has_every_room_once() -> None:
    """A room that is missing, or drawn on two floors, would not be held to any order."""
    drawn = [room for floor in ROWS for room in floor]
    there = {module.split(".", 1)[0] for module in MODULES} | {"_tarhash"}
    assert sorted(drawn) == sorted(there)


def _cycle(graph: dict[str, set[str]]) -> list[str]:
    """Return the nodes of one cycle of `graph`; empty if it has none."""
    done: set[str] = set()
    for start in sorted(graph):
        way: list[str] = []
        waiting = [(start, iter(sorted(graph[start])))] if start not in done else []
        way += [start] * bool(waiting)
        while waiting:
            for other in waiting[-1][1]:
                if other in way:
                    return way[way.index(other) :]
                if other not in done:
                    way.append(other)
                    waiting.append((other, iter(sorted(graph[other]))))
                    break
            else:
                done.add(way.pop())
                waiting.pop()
    return []


def test_no_circles() -> None:
    """Modules that import each other cannot be read, tested or replaced one at a time."""
    graph: dict[str, set[str]] = {}
    for module, path in MODULES.items():
        found = {name.removeprefix("stream.") for name in imports(path)}
        named = {name for name in found if name in MODULES}
        members = {name.rpartition(".")[0] for name in found} & MODULES.keys()
        graph[module] = (named | members) - {module}
    assert _cycle(graph) == []
    assert _cycle({"a": {"b"}, "b": {"c"}, "c": {"b"}, "d": set()}) == ["b", "c"]


@pytest.mark.parametrize("module", MODULES)
def test_only_tarwriter_uses_the_extension(module: str) -> None:
    """Only one module depends on C; everything else stays readable and replaceable without it."""
    assert ("_tarhash" in rooms(MODULES[module])) == (module == "tarwriter")


@pytest.mark.parametrize("module", MODULES)
def test_nobody_imports_the_command_line(module: str) -> None:
    """Arguments and exit codes stay in the command line's modules."""
    inside = module == "__main__" or module.split(".", 1)[0] == "cli"
    assert inside or not {"cli", "__main__"} & rooms(MODULES[module])


@pytest.mark.parametrize("module", MODULES)
def test_no_tar_but_in_tarwriter(module: str) -> None:
    """The standard tarfile is the tests' oracle, so the code under test must not use it."""
    outside = {name.split(".")[0] for name in imports(MODULES[module])}
    assert "_tarhash" not in outside
    assert "tarfile" not in outside


@pytest.mark.parametrize(
    ("room", "strangers"),
    [
        ("model", {"json", "orjson", "os", "io"}),
        ("errors", {"json", "orjson", "os", "io"}),
        ("oci.documents", {"os", "io", "pathlib"}),
        ("tarwriter", {"json", "orjson", "sys"}),
        ("pipeline", {"json", "orjson", "argparse", "sys"}),
        ("config", {"argparse"}),
    ],
)
def test_what_a_room_must_not_know(room: str, strangers: set[str]) -> None:
    """The imports match the last column of the design's table."""
    assert not {name.split(".")[0] for name in imports(MODULES[room])} & strangers


HEAVY = {
    "asyncio",
    "email",
    "http",
    "multiprocessing",
    "rich",
    "socket",
    "sqlite3",
    "ssl",
    "tarfile",
    "unittest",
    "urllib.request",
}


def loaded(code: str, *args: str) -> set[str]:
    """Return the modules in a fresh interpreter after `code`."""
    code += "\nimport sys; print(*sys.modules, file=sys.stderr)"
    found = subprocess.run(
        [sys.executable, "-c", code, *args], check=True, capture_output=True, text=True,
        errors="surrogateescape",
    )  # fmt: skip
    return set(found.stderr.split())


def test_import_is_light() -> None:
    """Start-up time is a promise; modules that a site's own .pth files load are not ours."""
    assert not (loaded("import stream") - loaded("")) & (HEAVY | {"argparse"})


@pytest.mark.parametrize("module", MODULES)
def test_only_the_command_line_knows_usage_errors(module: str) -> None:
    """A library that raised one would speak of arguments that its caller never gave."""
    names = {
        node.id
        for node in ast.walk(ast.parse(MODULES[module].read_bytes()))
        if isinstance(node, ast.Name)
    }
    inside = module.split(".", 1)[0] == "cli"
    mentioned = names | {name.rpartition(".")[2] for name in imports(MODULES[module])}
    assert inside or "UsageError" not in mentioned


def test_a_quiet_run_is_light(tmp_path: Path) -> None:
    """Progress bars are for terminals: a run in a pipe does not pay for them."""
    conf = tmp_path / "conf.json"
    conf.write_bytes(orjson.dumps({"repo_tag": "x:1"}))
    run = "import sys; from stream.cli.main import main; assert main(sys.argv[1:]) == 0"
    assert not (loaded(run, "-q", "-o", os.devnull, str(conf)) - loaded("")) & HEAVY


def test_only_the_verb_that_runs_is_imported(tmp_path: Path) -> None:
    """Each verb that comes along unasked delays the first byte."""
    conf = tmp_path / "conf.json"
    conf.write_bytes(orjson.dumps({"repo_tag": "x:1"}))
    run = "import sys; from stream.cli.main import main; assert main(sys.argv[1:]) == 0"
    package = "stream.cli.verbs."
    found = {
        name for name in loaded(run, "-q", "-o", os.devnull, str(conf)) if name.startswith(package)
    }
    assert found == {f"{package}stream"}

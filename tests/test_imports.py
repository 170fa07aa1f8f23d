"""Imports go one way, and nothing heavy is imported before it is needed."""

import os
import re
import subprocess
import sys
from pathlib import Path

import orjson
import pytest
from rooms import FACE, circles, floors, imports, module_graph, modules

import stream

PACKAGE = Path(stream.__file__).parent

# A module imports from lower floors, or from its own room.
ROWS = floors(Path(__file__).parents[1] / "docs" / "design.md")
DEPTH = {name: depth for depth, row in enumerate(ROWS) for name in row}
# The library's face gathers names from everywhere, so it is held to nothing.
MODULES = {module: path for module, path in modules(PACKAGE).items() if module != FACE}


def rooms(path: Path) -> set[str]:
    """Return the modules of this package that a file imports: `sinks` for `stream.sinks.x`."""
    inside = {name.removeprefix("stream.").split(".", 1)[0] for name in imports(path)}
    return inside & DEPTH.keys()


def room_of(module: str) -> str:
    """Return the room of a module: `sinks` for `sinks.x`."""
    return module.split(".", 1)[0]


def test_every_room_has_a_floor() -> None:
    """A room that is not drawn would not be held to any order: draw it in docs/design.md."""
    assert {room_of(module) for module in MODULES} <= DEPTH.keys()


def test_direction() -> None:
    """The architecture is the order of imports: from the command line down to the value types."""
    upward = [
        f"{module} imports {other}"
        for module, path in MODULES.items()
        for other in rooms(path) - {room_of(module)}
        if DEPTH[other] <= DEPTH[room_of(module)]
    ]
    assert not upward


def test_the_drawing_has_every_room_once() -> None:
    """A room that is missing, or drawn on two floors, would not be held to any order."""
    drawn = [room for floor in ROWS for room in floor]
    there = {module.split(".", 1)[0] for module in MODULES} | {"_tarhash"}
    assert sorted(drawn) == sorted(there)


def test_no_circles() -> None:
    """Modules that import each other cannot be read, tested or replaced one by one."""
    assert circles(module_graph(MODULES)) == []


def importers(*wanted: str) -> set[str]:
    """Return the modules that import one of these rooms."""
    return {module for module, path in MODULES.items() if rooms(path).intersection(wanted)}


def test_one_door_to_the_strategies() -> None:
    """Without it a strategy could not be replaced, or chosen, in one place."""
    outside = {module for module in importers("strategies") if room_of(module) != "strategies"}
    assert outside == {"layering"}


def test_only_tarwriter_uses_the_extension() -> None:
    """Only one module depends on C; everything else stays readable and replaceable without it."""
    assert importers("_tarhash") == {"tarwriter"}


def test_nobody_imports_the_command_line() -> None:
    """Arguments and exit codes stay in the command line's modules."""
    assert {room_of(module) for module in importers("cli", "__main__")} <= {"__main__", "cli"}


def test_no_tar_but_in_tarwriter() -> None:
    """The standard tarfile is the tests' oracle, so the code under test must not use it."""
    wrong = {
        module: found
        for module, path in MODULES.items()
        if (found := {name.split(".")[0] for name in imports(path)} & {"_tarhash", "tarfile"})
    }
    assert not wrong


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
    "dataclasses",
    "email",
    "http",
    "inspect",
    "multiprocessing",
    "orjson",
    "rich",
    "shutil",
    "socket",
    "sqlite3",
    "ssl",
    "tarfile",
    "unittest",
    "urllib.request",
    "urllib3",
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


def test_commands_start_light() -> None:
    """What a verb imports it pays for even where it finds that there is nothing to do."""
    code = "import stream.cli.main, stream.cli.verbs.stream, stream.cli.verbs.push"
    assert not (loaded(code) - loaded("")) & HEAVY


def test_only_the_command_line_knows_usage_errors() -> None:
    """A library that raised one would speak of arguments that its caller never gave."""
    mentioned = {
        room_of(module)
        for module, path in MODULES.items()
        if re.search(rb"\bUsageError\b", path.read_bytes())
    }
    assert mentioned == {"cli"}


def test_a_quiet_run_is_light(tmp_path: Path) -> None:
    """Progress bars are for terminals: a run in a pipe does not pay for them."""
    conf = tmp_path / "conf.json"
    conf.write_bytes(orjson.dumps({"repo_tag": "x:1"}))
    run = "import sys; from stream.cli.main import main; assert main(sys.argv[1:]) == 0"
    found = loaded(run, "-q", "-o", os.devnull, str(conf)) - loaded("")
    assert not found & HEAVY
    assert not {name for name in found if name.startswith(("stream.sources.base", "stream.nix.q"))}
    assert "stream.archives.tarreader" not in found


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


def test_values_are_made_by_the_package() -> None:
    """The standard decorator, once on the path of a command, costs more than all of ours."""
    importing = {
        module
        for module, path in MODULES.items()
        if re.search(rb"^(from|import) dataclasses\b", path.read_bytes(), re.MULTILINE)
    }
    assert importing == set()

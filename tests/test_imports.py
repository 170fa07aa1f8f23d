"""Imports go one way, and nothing heavy comes along before it is needed."""

import ast
import os
import subprocess
import sys
from pathlib import Path

import orjson
import pytest

import stream

PACKAGE = Path(stream.__file__).parent

# From the door inwards. A module imports what is in a later row, or its own row's package.
ROWS: list[set[str]] = [
    {"__main__"},
    {"cli"},
    {"commands"},
    {
        "answer",
        "explanation",
        "inspection",
        "verification",
        "merging",
        "export",
        "planning",
        "tarsum",
        "wrapping",
    },
    {"progress"},
    {"pipeline"},
    {"observer"},
    {"sources", "sinks"},
    {"customisation"},
    {"config", "output", "installation"},
    {"tarwriter", "compression", "archives"},
    {"_tarhash", "schema"},
    {"oci"},
    {"nix"},
    {"strategies"},
    {"model", "errors", "faults", "limits", "typeflags"},
    {"text"},
]
DEPTH = {name: depth for depth, row in enumerate(ROWS) for name in row}
MODULES = {
    ".".join(path.relative_to(PACKAGE).with_suffix("").parts): path
    for path in PACKAGE.rglob("*.py")
    if path != PACKAGE / "__init__.py"  # the library's face: it gathers names from everywhere
}


def imports(path: Path) -> set[str]:
    """Full names of all that a file imports, also inside functions."""
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
    """The modules of this package that a file imports: `sinks` for `stream.sinks.x`."""
    inside = {name.removeprefix("stream.").split(".", 1)[0] for name in imports(path)}
    return inside & DEPTH.keys()


@pytest.mark.parametrize("module", MODULES)
def test_direction(module: str) -> None:
    """Who knows whom is the architecture: from the command line down to the value types."""
    room = module.split(".", 1)[0]
    assert room in DEPTH, f"stream/{room} has no place yet: give it one in ROWS"
    for other in rooms(MODULES[module]):
        assert DEPTH[other] > DEPTH[room] or other == room, f"{module} imports {other}"


@pytest.mark.parametrize("module", MODULES)
def test_only_tarwriter_uses_the_extension(module: str) -> None:
    """One door to C: everything else stays readable and replaceable without it."""
    assert ("_tarhash" in rooms(MODULES[module])) == (module == "tarwriter")


@pytest.mark.parametrize("module", MODULES)
def test_nobody_imports_the_command_line(module: str) -> None:
    """Arguments and exit codes stay at the door."""
    assert module == "__main__" or not {"cli", "__main__"} & rooms(MODULES[module])


@pytest.mark.parametrize("module", MODULES)
def test_no_tar_but_in_tarwriter(module: str) -> None:
    """What the standard tarfile does is the tests' oracle, so it must not be what is tested."""
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
    """The design's last column, as far as imports show it."""
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
    """The modules in a fresh interpreter after `code`."""
    code += "\nimport sys; print(*sys.modules, file=sys.stderr)"
    found = subprocess.run(
        [sys.executable, "-c", code, *args], check=True, capture_output=True, text=True,
        errors="surrogateescape",
    )  # fmt: skip
    return set(found.stderr.split())


def test_import_is_light() -> None:
    """Start to first byte is a promise; what a site's own .pth files load is not ours."""
    assert not (loaded("import stream") - loaded("")) & (HEAVY | {"argparse"})


@pytest.mark.parametrize("name", stream.__all__)
def test_the_face_of_the_library(name: str) -> None:
    """Names are imported when they are used: a wrong one would fail with its first user."""
    assert getattr(stream, name) is not None
    assert name in dir(stream)
    home = stream._HOME.get(name, "")
    assert name == "__version__" or f"stream.{home}.{name}" in imports(PACKAGE / "__init__.py")


def test_a_quiet_run_is_light(tmp_path: Path) -> None:
    """Progress bars are for terminals: a run in a pipe never pays for them."""
    conf = tmp_path / "conf.json"
    conf.write_bytes(orjson.dumps({"repo_tag": "x:1"}))
    run = "import sys; from stream.cli import main; assert main(sys.argv[1:]) == 0"
    assert not (loaded(run, "-q", "-o", os.devnull, str(conf)) - loaded("")) & HEAVY

"""The flake's packages and apps, with a stub of nixpkgs in place of the one it fetches."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from consumers.nix import VERSIONS, Nix, find_programs
from consumers.requirements import require
from support import COMMAND

pytestmark = [pytest.mark.consumers]
ROOT = Path(__file__).parents[2]
STUB = """
import ../tests/dockertools/nixpkgs-stub.nix {{
  python = "{python}";
  interpreter = "{interpreter}";
}}
"""


@pytest.fixture(scope="module")
def flake(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Copy what the flake reads, as a checkout has it."""
    flake = tmp_path_factory.mktemp("flake")
    for name in ("flake.nix", "LICENSE", "README.md", "pyproject.toml", "setup.py"):
        shutil.copy(ROOT / name, flake)
    for name in ("native", "nix", "stream"):
        shutil.copytree(ROOT / name, flake / name)
    return flake


@pytest.fixture(scope="module")
def stubbed(flake: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Copy the flake, with the stub in place of the nixpkgs that it fetches."""
    flake = shutil.copytree(flake, tmp_path_factory.mktemp("stubbed") / "flake")
    stub = flake / "tests" / "dockertools"
    stub.mkdir(parents=True)
    for name in ("nixpkgs-stub.nix", "build-application.sh"):
        shutil.copy(ROOT / "tests" / "dockertools" / name, stub)
    interpreter = sys._base_executable  # type: ignore[attr-defined]
    text = STUB.format(python=sys.executable, interpreter=interpreter)
    (flake / "nix" / "nixpkgs.nix").write_text(text, "utf-8")
    return flake


@pytest.fixture(scope="module", params=VERSIONS)
def nix(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Nix:
    """Return each Nix with a store of its own."""
    return Nix.below(tmp_path_factory.mktemp("nix"), find_programs(request.param))


def run(nix: Nix, verb: str, *words: str) -> str:
    """Return the output of a command that knows flakes."""
    verbs = ["flake", "show"] if verb == "show" else [verb]
    return nix.run("nix", *verbs, "--extra-experimental-features", "flakes", *words)


def test_run(nix: Nix, stubbed: Path, tmp_path: Path) -> None:
    """Without it the package could lack a module, a program or a file, or the flake its app."""
    require(["bwrap", "fakeroot"])
    assert run(nix, "run", f"path:{stubbed}", "--", "--version") == "stream-image 0.1.0\n"

    out = run(nix, "eval", "--raw", f"path:{stubbed}#default.outPath")
    (tmp_path / "store" / "a").mkdir(parents=True)
    (tmp_path / "store" / "a" / "file").write_text("a\n", "utf-8")
    spec = {
        "name": "a",
        "store_dir": f"{tmp_path}/store",
        "contents": [f"{tmp_path}/store/a"],
        "extraCommands": "mkdir made",
        "fakeRootCommands": "chown 3:4 made",
    }
    (tmp_path / "spec.json").write_text(json.dumps(spec), "utf-8")

    def image(*command: str, environment: dict[str, str]) -> bytes:
        """Return an image whose commands need bash, bubblewrap, coreutils and fakeroot."""
        conf = subprocess.run(
            [*command, "plan", tmp_path / "spec.json"],
            env=environment, stdout=subprocess.PIPE, check=True,
        ).stdout  # fmt: skip
        return subprocess.run(
            [*command, "-q", "-"], env=environment, input=conf, stdout=subprocess.PIPE, check=True
        ).stdout

    packaged = image(f"{out}/bin/stream-image", environment={})
    assert packaged == image(*COMMAND, environment={**os.environ})


def test_show(nix: Nix, stubbed: Path) -> None:
    """Without it `nix flake show`, which people try first, could fail or list other names."""
    shown = json.loads(run(nix, "show", "--json", f"path:{stubbed}"))

    assert shown["apps"]["x86_64-linux"]["default"]["type"] == "app"
    assert {*shown["overlays"]} == {"default", "dockerTools"}
    for system in ("aarch64-linux", "x86_64-linux"):
        assert {*shown["packages"][system]} == {"default", "stream-image"}


def test_without_nixpkgs(nix: Nix, flake: Path) -> None:
    """Without it using the functions could fetch a second nixpkgs, or ask for an input."""
    names = run(nix, "eval", "--json", f"path:{flake}#overlays", "--apply", "builtins.attrNames")
    assert json.loads(names) == ["default", "dockerTools"]
    assert not (flake / "flake.lock").exists()

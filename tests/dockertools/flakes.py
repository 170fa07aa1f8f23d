"""Flakes with a stub of nixpkgs in place of nixpkgs, in a Nix with a store of its own.

Knows Nix's command line; must not know images.
"""

import json
import os
import shutil
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from consumers.nix import Nix

ROOT: Final = Path(__file__).parents[2]
SYSTEM: Final = "x86_64-linux"

_NIXPKGS: Final = """{
  outputs = _: { legacyPackages.%s = import ./. { system = "%s"; }; };
}
"""

# In place of docker, and of skopeo with a registry that is a list of what was pushed.
_DOCKER: Final = """#!/bin/sh
exec tar -t > /dev/null
"""
_SKOPEO: Final = """#!/bin/sh
case $1 in
    inspect) grep -qxF "$2" pushed ;;
    copy) tar --zstd -t > /dev/null && echo "$3" >> pushed ;;
esac
"""
# Pushes into that registry.
_STREAM_IMAGE: Final = f"""#!/bin/sh
case $1 in
    push) {sys.executable} -m stream digests "$2" > /dev/null && echo "docker://$3" >> pushed ;;
    *) exec {sys.executable} -m stream "$@" ;;
esac
"""
# Nix with a test's flakes wherever others would be fetched.
_NIX: Final = """#!/bin/bash
verb=($1) options=({options})
shift
if [ "$verb" = flake ]; then verb+=($1) options=(); shift; fi
fetched=github:stream-image/stream-image
exec {nix} --extra-experimental-features flakes "${{verb[@]}}" "${{options[@]}}" "${{@/#$fetched/path:{project}}}"
"""


def copy_flake(flake: Path) -> Path:
    """Copy what this project's flake reads to `flake`, as a checkout has it."""
    flake.mkdir(parents=True)
    for name in ("flake.nix", "LICENSE", "README.md", "pyproject.toml", "setup.py"):
        shutil.copy(ROOT / name, flake)
    for name in ("examples", "native", "nix", "stream"):
        shutil.copytree(ROOT / name, flake / name)
    return flake


def write_stub(place: Path, **arguments: str) -> None:
    """Write `nix/nixpkgs.nix` in `place`, where nix/ is: nixpkgs as a function, by nixpkgs-stub.nix.

    `arguments` are those of the stub, by default those that build the package with this Python.
    """
    stub = place / "tests" / "dockertools"
    stub.mkdir(parents=True)
    for name in ("nixpkgs-stub.nix", "build-application.sh"):
        shutil.copy(ROOT / "tests" / "dockertools" / name, stub)
    interpreter: str = sys._base_executable  # type: ignore[attr-defined]
    arguments = arguments or {"python": sys.executable, "interpreter": interpreter}
    given = " ".join(f'{key} = "{value}";' for key, value in arguments.items())
    text = f"import ../tests/dockertools/nixpkgs-stub.nix {{ {given} }}\n"
    (place / "nix" / "nixpkgs.nix").write_text(text, "utf-8")


def write_nixpkgs(nixpkgs: Path, **arguments: str) -> Path:
    """Write a flake that looks like nixpkgs; `arguments` are those of `write_stub`."""
    shutil.copytree(ROOT / "nix", nixpkgs / "nix")
    write_stub(nixpkgs, **arguments)
    (nixpkgs / "default.nix").write_text("import ./nix/nixpkgs.nix\n", "utf-8")
    (nixpkgs / "flake.nix").write_text(_NIXPKGS % (SYSTEM, SYSTEM), "utf-8")
    return nixpkgs


def write_programs(directory: Path, nix: Nix, inputs: dict[str, Path], project: Path) -> Path:
    """Write `nix`, which has these flakes in place of those it would fetch, and stubs of docker, skopeo and push."""
    options = [f"--override-input {name} path:{path}" for name, path in inputs.items()]
    texts = {
        "docker": _DOCKER,
        "nix": _NIX.format(
            nix=shutil.which("nix", path=nix.environment["PATH"]),
            options=" ".join(["--no-write-lock-file", *options]),
            project=project,
        ),
        "skopeo": _SKOPEO,
        "stream-image": _STREAM_IMAGE,
    }
    directory.mkdir()
    for name, text in texts.items():
        (directory / name).write_text(text, "utf-8")
        (directory / name).chmod(0o755)
    return directory


@dataclass(frozen=True, slots=True, kw_only=True)
class Flakes:
    """A Nix that knows flakes. `inputs` replaces inputs by name, so that none is fetched; `programs`
    is what `write_programs` made.
    """

    nix: Nix
    inputs: dict[str, Path] = field(default_factory=dict)
    programs: Path | None = None

    def shell(self, directory: Path, script: str) -> None:
        """Run a script of bash in a directory, with `programs` in its PATH."""
        path = f"{self.programs}:{self.nix.environment['PATH']}"
        self._run("bash", "-euo", "pipefail", "-c", script, cwd=directory, PATH=path)

    def run(self, verb: str, *words: object) -> str:
        """Return the output of `nix VERB WORDS`."""
        options = ["--extra-experimental-features", "flakes"]
        for name, path in self.inputs.items():
            options += ["--no-write-lock-file", "--override-input", name, f"path:{path}"]
        return self._run("nix", *verb.split(), *options, *map(str, words))

    def _run(self, *argv: str, cwd: Path | None = None, **environment: str) -> str:
        unset = {key: value for key, value in os.environ.items() if not key.startswith("NIX_")}
        return subprocess.run(
            argv,
            check=True,
            cwd=cwd,
            env={**unset, **self.nix.environment, **environment},
            stdout=subprocess.PIPE,
            text=True,
            timeout=300,
        ).stdout

    def build(self, flake: Path, *names: str) -> list[Path]:
        """Build outputs of a flake; return where they are."""
        self.run("build", "--no-link", *[f"path:{flake}#{name}" for name in names])
        listed = "[ " + " ".join(f'"${{outputs.{name}}}"' for name in names) + " ]"
        words = (f"path:{flake}#packages.{SYSTEM}", "--apply", f"outputs: {listed}")
        return [Path(path) for path in json.loads(self.run("eval", "--json", *words))]

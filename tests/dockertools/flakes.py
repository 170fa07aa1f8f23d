"""Flakes with a stub of nixpkgs in place of nixpkgs, in a Nix with a store of its own.

Knows Nix's command line; must not know images.
"""

import json
import shutil
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from consumers.nix import Nix

ROOT: Final = Path(__file__).parents[2]
SYSTEM: Final = "x86_64-linux"

_NIXPKGS: Final = """{
  outputs = _: { legacyPackages.%s = import ./. { system = "%s"; }; };
}
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


@dataclass(frozen=True, slots=True, kw_only=True)
class Flakes:
    """A Nix that knows flakes. `inputs` replaces inputs by name, so that none is fetched."""

    nix: Nix
    inputs: dict[str, Path]

    def run(self, verb: str, *words: object) -> str:
        """Return the output of `nix VERB WORDS`."""
        options = ["--extra-experimental-features", "flakes"]
        for name, path in self.inputs.items():
            options += ["--no-write-lock-file", "--override-input", name, f"path:{path}"]
        return self.nix.run("nix", *verb.split(), *options, *map(str, words))

    def build(self, flake: Path, *names: str) -> list[Path]:
        """Build outputs of a flake; return where they are."""
        self.run("build", "--no-link", *[f"path:{flake}#{name}" for name in names])
        listed = "[ " + " ".join(f'"${{outputs.{name}}}"' for name in names) + " ]"
        words = (f"path:{flake}#packages.{SYSTEM}", "--apply", f"outputs: {listed}")
        return [Path(path) for path in json.loads(self.run("eval", "--json", *words))]

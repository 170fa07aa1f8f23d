"""A real Nix with a store of the test's own, anywhere on the disk; needs neither root nor namespaces.

Knows Nix's programs; must not know images.
"""

import os
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Self

from .requirements import require, unmet

PROGRAMS: Final = ("nix", "nix-build", "nix-hash", "nix-store")

VERSIONS: Final = ("installed", "newer")

NEWER: Final = "STREAM_IMAGE_NIX"
"""The variable with the directory of a newer Nix's programs, which `.ci/nix-2.26` prints."""

NEWEST: Final = VERSIONS[1] if os.environ.get(NEWER) else VERSIONS[0]

# Without substituters, or each build first tries the network. A sandbox would need root.
_CONFIG: Final = """sandbox = false
substituters =
build-users-group =
experimental-features = nix-command
"""

# The output names its references, which is how Nix finds them, and has a file of the given size.
# The shell must end last: Nix kills a builder that closes its standard error, as GNU's programs do before they exit.
_DERIVATION: Final = """
{ name, references, bytes }: derivation {
  inherit name bytes;
  system = builtins.currentSystem;
  builder = "/bin/sh";
  PATH = "/usr/bin:/bin";
  references = map builtins.storePath references;
  args = ["-c" "mkdir $out && echo $references %s > $out/names && head -c $bytes /dev/zero > $out/zeros && exit"];
}
"""


def find_programs(version: str) -> str:
    """Return the directory of programs of one of `VERSIONS`, empty for those in PATH; without them, skip the test."""
    if version == "installed":
        require(PROGRAMS)
        return ""
    if not (directory := os.environ.get(NEWER, "")):
        unmet(f"{NEWER} is not set to what .ci/nix-2.26 prints")
    return directory


def _settings(programs: str) -> dict[str, str]:
    path = os.environ.get("PATH", os.defpath)
    return {"NIX_CONFIG": _CONFIG, "PATH": f"{programs}:{path}" if programs else path}


def _run(argv: Sequence[str], environment: dict[str, str], told: str = "") -> str:
    unset = {key: value for key, value in os.environ.items() if not key.startswith("NIX_")}
    return subprocess.run(
        argv,
        check=True,
        env=unset | environment,
        input=told,
        stdout=subprocess.PIPE,
        text=True,
        timeout=60,
    ).stdout


@dataclass(frozen=True, slots=True, kw_only=True)
class Nix:
    """Nix's programs, with all their files in one directory."""

    directory: Path
    environment: dict[str, str]

    @classmethod
    def below(cls, directory: Path, programs: str = "") -> Self:
        """Return an empty store in `directory`, and the programs in `programs`, or else in PATH."""
        parts = {"NIX_STORE_DIR": "store", "NIX_STATE_DIR": "state", "NIX_LOG_DIR": "log"}
        more = {"NIX_CONF_DIR": "conf", "HOME": "home"}
        for name in {*parts.values(), *more.values()}:
            (directory / name).mkdir(parents=True)
        places = {key: str(directory / name) for key, name in (parts | more).items()}
        return cls(directory=directory, environment={**places, **_settings(programs)})

    @property
    def store_dir(self) -> str:
        """The directory of the store paths."""
        return self.environment["NIX_STORE_DIR"]

    def run(self, *argv: str) -> str:
        """Return the standard output of a program, which must succeed."""
        return _run(argv, self.environment)

    def add(self, path: Path) -> str:
        """Copy a file or directory into the store."""
        return self.run("nix-store", "--add", str(path)).strip()

    def build(
        self, name: str, references: Sequence[str] = (), size: int = 0, *, selfish: bool = False
    ) -> str:
        """Build a store path that refers to others, and with `selfish` to itself."""
        listed = " ".join(f'"{path}"' for path in references)
        code = _DERIVATION % ("$out" if selfish else "")
        arguments = f'{{ name = "{name}"; references = [{listed}]; bytes = {size}; }}'
        return self.run(
            "nix-build", "--quiet", "--no-out-link", "--expr", f"({code}) {arguments}"
        ).strip()


@dataclass(frozen=True, slots=True, kw_only=True)
class RootedNix:
    """A store whose paths begin with /nix/store but whose files are below a root, like that of `nix --store ROOT`."""

    root: Path
    environment: dict[str, str]

    @classmethod
    def below(cls, directory: Path, programs: str = "") -> Self:
        """Return an empty store with its root in `directory`, and the programs in `programs`, or else in PATH."""
        for name in ("root", "conf", "home"):
            (directory / name).mkdir(parents=True)
        places = {"NIX_CONF_DIR": str(directory / "conf"), "HOME": str(directory / "home")}
        return cls(root=directory / "root", environment={**places, **_settings(programs)})

    def run(self, *words: str, store: str = "", told: str = "") -> str:
        """Return the standard output of `nix-store`, which must succeed."""
        return _run(
            ["nix-store", "--store", store or str(self.root), *words], self.environment, told
        )

    def build(self, expression: str, words: Sequence[str]) -> Path:
        """Build an expression with further arguments; return where the output's file is."""
        argv = ["nix-build", "--quiet", "--no-out-link", "--store", str(self.root), *words]
        path = _run([*argv, "--expr", expression], self.environment).strip()
        return Path(f"{self.root}{path}")

    def add(self, path: Path, *references: str) -> str:
        """Copy a file or directory into the store with its references, for which `nix-store --add` does not scan."""
        added = self.run("--add", str(path)).strip()
        *told, _number = self.run("--dump-db", added).splitlines()
        lines = [*told, str(len(references)), *references]
        self.run("--load-db", told="".join(f"{line}\n" for line in lines))
        return added

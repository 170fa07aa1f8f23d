"""The functions of `nix/` in a real Nix: evaluated, built in its sandbox, and their results run.

Without nixpkgs: `pkgs` is `nix/minimal.nix`, with Debian's programs and this installation.
"""

import hashlib
import io
import json
import os
import shlex
import subprocess
import tarfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Self

from consumers.nix import RootedNix
from sources.customisation.sandbox.nobody import SITES

REPOSITORY: Final = Path(__file__).parents[2]
_SITES: Final = [*dict.fromkeys([str(REPOSITORY), *SITES])]
SECONDS: Final = 120

# What builders see of this machine. fakeroot is found through /etc/alternatives.
_SEEN: Final = ("/bin", "/usr", "/lib", "/lib64", "/etc/alternatives")
_COMMAND: Final = """#!/bin/sh
PYTHONDONTWRITEBYTECODE=1 PYTHONPATH={sites} exec /usr/bin/python3 -m stream "$@"
"""


def write_command(directory: Path) -> Path:
    """Write bin/stream-image into `directory`, which starts this installation; return `directory`."""
    command = directory / "bin" / "stream-image"
    command.parent.mkdir(parents=True)
    command.write_text(_COMMAND.format(sites=shlex.quote(":".join(_SITES))), "utf-8")
    command.chmod(0o755)
    return directory


# Before each expression. busybox is static: it runs in containers, where nothing else is.
_SCOPE: Final = """
let
  minimal = arguments: import %(nix)s/minimal.nix ({
    stream-image = "%(stream_image)s";
    packages = rec {
      busybox = pkgs.runCommand "busybox" { } ''
        mkdir -p $out/bin
        cp /usr/bin/busybox $out/bin/busybox
        for name in cat env find grep id ls sh stat touch; do
          ln -s busybox $out/bin/$name
        done
      '';
      bashInteractive = pkgs.runCommand "bash" { } ''
        mkdir -p $out/bin
        ln -s ${busybox}/bin/sh $out/bin/bash
      '';
      coreutils = busybox;
      shadow = pkgs.runCommand "shadow" { } ''
        mkdir -p $out/bin
        ln -s ${busybox}/bin/busybox $out/bin/useradd
      '';
      cacert = pkgs.runCommand "cacert" { } ''
        mkdir -p $out/etc/ssl/certs
        echo certificates > $out/etc/ssl/certs/ca-bundle.crt
      '';
    };
  } // arguments);
  functions = pkgs: import %(nix)s { inherit pkgs; };
  pkgs = minimal { };
  inherit (pkgs) lib;
in
with functions pkgs;
"""


class NixError(Exception):
    """An evaluation or a build that failed; the text is what Nix printed."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Image:
    """An image in a docker-archive."""

    image_id: str
    tags: list[str]
    config: dict[str, Any]
    layers: list[bytes]

    @classmethod
    def read(cls, archive: bytes) -> Self:
        """Read the first image of an archive, in any compression that tarfile knows."""
        with tarfile.open(fileobj=io.BytesIO(archive)) as tar:
            files = {
                member.name: file.read()
                for member in tar
                if (file := tar.extractfile(member)) is not None
            }
        (manifest, *_) = json.loads(files["manifest.json"])
        config = files[manifest["Config"]]
        return cls(
            image_id=hashlib.sha256(config).hexdigest(),
            tags=manifest["RepoTags"],
            config=json.loads(config),
            layers=[files[name] for name in manifest["Layers"]],
        )

    def members(self, layer: int = -1) -> dict[str, tarfile.TarInfo]:
        """Return the members of a layer by name, without `./`."""
        with tarfile.open(fileobj=io.BytesIO(self.layers[layer])) as tar:
            return {member.name.removeprefix("./"): member for member in tar}

    def content(self, name: str, layer: int = -1) -> bytes:
        """Return the content of a file in a layer."""
        with tarfile.open(fileobj=io.BytesIO(self.layers[layer])) as tar:
            file = tar.extractfile(name)
            assert file is not None
            return file.read()


@dataclass(frozen=True, slots=True, kw_only=True)
class Functions:
    """The functions as seen by expressions, which are written in their scope, with `pkgs` and `lib`;
    `minimal` and `functions` make others.
    """

    nix: RootedNix
    stream_image: Path

    @classmethod
    def below(cls, directory: Path, *, programs: str = "", sandbox: bool = True) -> Self:
        """Return the functions with an empty store in `directory` and the Nix in the directory
        `programs`, or the one on PATH.
        """
        made = RootedNix.below(directory / "nix")
        command = write_command(directory / "stream-image")
        environment = dict(made.environment)
        if programs:
            environment["PATH"] = f"{programs}:{os.environ['PATH']}"
        if sandbox:
            seen = [path for path in _SEEN if os.path.exists(path)]
            places = " ".join([*seen, *_SITES, str(command)])
            config = environment["NIX_CONFIG"].replace("sandbox = false", "sandbox = true")
            environment["NIX_CONFIG"] = (
                f"{config}sandbox-fallback = false\nsandbox-paths = {places}\n"
            )
        nix = RootedNix(root=made.root, environment=environment)
        return cls(nix=nix, stream_image=command)

    def evaluate(self, expression: str, *words: str) -> Any:
        """Return the value of an expression. Raises NixError."""
        return json.loads(self.attempt("nix-instantiate", expression, *_EVALUATED, *words).stdout)

    def warnings(self, expression: str) -> str:
        """Return what Nix prints while it evaluates an expression. Raises NixError."""
        return self.attempt("nix-instantiate", expression, *_EVALUATED).stderr

    def build(self, expression: str, *words: str) -> Path:
        """Build an expression; return where the output is on this disk. Raises NixError."""
        done = self.attempt("nix-build", expression, "--no-out-link", *words)
        return self.on_disk(done.stdout.strip())

    def name(self, path: Path) -> str:
        """Return the store path that is at `path` on this disk."""
        return str(path).removeprefix(str(self.nix.root))

    def on_disk(self, path: str) -> Path:
        """Return where a store path is on this disk."""
        return Path(f"{self.nix.root}{path}")

    def attempt(
        self, program: str, expression: str, *words: str
    ) -> "subprocess.CompletedProcess[str]":
        """Run a program of Nix with an expression. Raises NixError."""
        scope = _SCOPE % {"nix": REPOSITORY / "nix", "stream_image": self.stream_image}
        unset = {key: value for key, value in os.environ.items() if not key.startswith("NIX_")}
        done = subprocess.run(
            [program, "--store", str(self.nix.root), *words, "--expr", scope + expression],
            check=False,
            capture_output=True,
            env=unset | self.nix.environment,
            text=True,
            timeout=SECONDS,
        )
        if done.returncode:
            raise NixError(done.stderr)
        return done

    def run(self, *words: str | Path) -> bytes:
        """Run a program where the store is at /nix; return its standard output."""
        return subprocess.run(
            [*self._isolated(), *map(str, words)],
            check=True,
            stdout=subprocess.PIPE,
            timeout=SECONDS,
        ).stdout

    def _isolated(self) -> list[str]:
        options = ["bwrap", "--dev-bind", "/dev", "/dev", "--proc", "/proc"]
        for name in sorted({*os.listdir("/")} - {"dev", "nix", "proc"}):
            path = f"/{name}"
            linked = os.path.islink(path)
            options += (
                ["--symlink", os.readlink(path), path] if linked else ["--bind-try", path, path]
            )
        return [*options, "--bind", str(self.nix.root / "nix"), "/nix"]

    def image(self, expression: str, *words: str) -> Image:
        """Build an image and read it: an archive, or what an executable streams."""
        path = self.build(expression)
        if not os.access(path, os.X_OK) or path.read_bytes()[:2] != b"#!":
            return Image.read(path.read_bytes())
        return Image.read(self.run(self.name(path), *words))

    def references(self, path: Path, *, every: bool = False) -> Sequence[str]:
        """Return the store paths that one refers to, or with `every` its closure, by name."""
        query = "--requisites" if every else "--references"
        given = self.name(path)
        found = self.nix.run("--query", query, given).split()
        return sorted(name.rpartition("/")[2].partition("-")[2] for name in found)


_EVALUATED: Final = ("--eval", "--strict", "--json", "--readonly-mode")

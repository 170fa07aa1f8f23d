"""The flake: its packages and apps, with a stub of nixpkgs in place of the one it fetches; its overlays."""

import json
import os
import shutil
import subprocess
from pathlib import Path

import pytest
from consumers.nix import Nix
from consumers.requirements import require
from support import COMMAND

from .flakes import SYSTEM, Flakes, write_stub

pytestmark = [pytest.mark.consumers]


@pytest.fixture(scope="module")
def stubbed(flake: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the flake with a stub that builds the package."""
    copy = tmp_path_factory.mktemp("stubbed") / "flake"
    shutil.copytree(flake, copy)
    write_stub(copy)
    return copy


@pytest.fixture(scope="module")
def nix(programs: str, tmp_path_factory: pytest.TempPathFactory) -> Flakes:
    """Return each Nix with a store of its own."""
    return Flakes(nix=Nix.below(tmp_path_factory.mktemp("nix"), programs))


def test_run(nix: Flakes, stubbed: Path, tmp_path: Path) -> None:
    """Without it the package could lack a module, a program or a file, or the flake its app."""
    require(["bwrap", "fakeroot"])
    assert nix.run("run", f"path:{stubbed}", "--", "--version") == "stream-image 0.1.0\n"

    (out,) = nix.build(stubbed, "default")
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


def test_show(nix: Flakes, stubbed: Path) -> None:
    """Without it `nix flake show`, which people try first, could fail or list other names."""
    shown = json.loads(nix.run("flake show", "--json", f"path:{stubbed}"))

    assert shown["apps"][SYSTEM]["default"]["type"] == "app"
    assert {*shown["overlays"]} == {"default", "dockerTools"}
    for system in ("aarch64-linux", "x86_64-linux"):
        assert {*shown["packages"][system]} == {"default", "stream-image"}


def evaluate(flakes: Flakes, tmp_path: Path, expression: str) -> object:
    """Return the value of an expression with `nixpkgs` and `stream-image` in scope, from a pure evaluation."""
    text = f"{{ outputs = {{ nixpkgs, stream-image, ... }}: {{ value = {expression}; }}; }}"
    (tmp_path / "flake.nix").write_text(text, "utf-8")
    return json.loads(flakes.run("eval", "--json", f"path:{tmp_path}#value"))


def test_overlays(flakes: Flakes, tmp_path: Path) -> None:
    """Without it an overlay could hide functions of others, or bring names that nobody asked for."""
    expression = """
      let
        with_ = overlay: import nixpkgs { system = "x86_64-linux"; overlays = [ overlay ]; };
        ours = stream-image.lib.dockerTools nixpkgs.legacyPackages.x86_64-linux;
        over = (with_ stream-image.overlays.dockerTools).dockerTools;
        added = with_ stream-image.overlays.default;
        image = tools: (tools.streamLayeredImage { name = "a"; }).outPath;
      in
      {
        new = builtins.attrNames (builtins.removeAttrs over (builtins.attrNames ours));
        left = over.examples;
        package = (added.stream-image).pname;
        same = image over == image ours;
        added = builtins.attrNames added.streamImage == builtins.attrNames ours;
        theirs = added.dockerTools.streamLayeredImage;
      }
    """
    assert evaluate(flakes, tmp_path, expression) == {
        "new": ["examples"],
        "left": "theirs",
        "package": "stream-image",
        "same": True,
        "added": True,
        "theirs": "theirs",
    }


def test_nothing_is_fetched(nix: Flakes, flake: Path) -> None:
    """Without it using the functions could fetch a second nixpkgs, or ask for an input."""
    assert not (flake / "flake.lock").exists()
    metadata = json.loads(nix.run("flake metadata", "--json", f"path:{flake}"))
    assert metadata["locks"]["nodes"] == {"root": {}}

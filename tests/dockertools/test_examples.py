"""examples/nix, built as its users build it."""

import json
import shutil
import subprocess
from pathlib import Path

import pytest
from support import COMMAND

from .flakes import ROOT, SYSTEM, Flakes

pytestmark = [pytest.mark.consumers]
EXAMPLES = ROOT / "examples" / "nix"


def test_examples(flakes: Flakes) -> None:
    """Without it the examples that people start from could fail, or make unsound images."""
    words = (f"path:{EXAMPLES}#packages.{SYSTEM}", "--apply", "builtins.attrNames")
    names = json.loads(flakes.run("eval", "--json", *words))
    assert {f"{name}.nix" for name in names if name != "default"} == {
        file.name for file in EXAMPLES.glob("*.nix") if file.name != "flake.nix"
    }
    for name, path in zip(names, flakes.build(EXAMPLES, *names), strict=True):
        check(name, path)


def test_template(flakes: Flakes, tmp_path: Path) -> None:
    """Without it `nix flake init` could leave people with another flake than the one that is tested."""
    flakes.shell(tmp_path, "nix flake init --template github:stream-image/stream-image")
    assert {file.name: file.read_bytes() for file in tmp_path.iterdir()} == {
        file.name: file.read_bytes() for file in EXAMPLES.iterdir()
    }


def test_push(flakes: Flakes, tmp_path: Path) -> None:
    """Without it the script that people run in CI could fail, or push each image each time."""
    here = shutil.copytree(EXAMPLES, tmp_path / "examples")
    for _ in range(2):
        flakes.shell(here, "sh push.sh registry.example")
    pushed = (here / "pushed").read_text("utf-8").splitlines()
    assert [image.rpartition(":")[0] for image in pushed] == [
        "docker://registry.example/hello",
        "docker://registry.example/stable",
    ]


def check(name: str, path: Path) -> None:
    """Check that an image is sound, whether it is a file or is streamed."""
    with path.open("rb") as file:
        is_streamed = file.read(2) == b"#!"
    archive = (
        subprocess.run([path], stdout=subprocess.PIPE, check=True).stdout if is_streamed else None
    )
    words = ["-"] if is_streamed else [str(path)]
    verified = subprocess.run(
        [*COMMAND, "verify", *words], input=archive, capture_output=True, check=False
    )
    assert verified.returncode == 0, (name, verified.stderr.decode())

"""docs/nix.md, and the README's section for Nix: their examples are evaluated and built as their
readers would, with a stub of nixpkgs.
"""

import json
import re
import textwrap
from pathlib import Path

import pytest

from .flakes import ROOT, SYSTEM, Flakes
from .test_examples import check

pytestmark = [pytest.mark.consumers]
PAGE = (ROOT / "docs" / "nix.md").read_text("utf-8")
README = (ROOT / "README.md").read_text("utf-8")


def blocks(language: str, page: str = PAGE) -> list[str]:
    """Return a page's code blocks in a language."""
    found = re.findall(rf"^( *)```{language}\n(.*?)^ *```", page, re.DOTALL | re.MULTILINE)
    return [textwrap.dedent(text) for _indent, text in found]


def side(diff: str, sign: str) -> str:
    """Return one side of a diff: before (`-`) or after (`+`)."""
    return "".join(f"{line[1:]}\n" for line in diff.splitlines() if line[:1] in ("", " ", sign))


IN_A_FLAKE, WITH_AN_OVERLAY, IN_ONE_CALL = blocks("diff")
# The value of each example in the scope that readers have; `./stream-image` is a checkout.
FLAKE = """{{
  outputs = {{ nixpkgs, stream-image, ... }}:
    let
      pkgs = nixpkgs.legacyPackages.{system};
      dockerTools = stream-image.lib.dockerTools pkgs;
    in {{
      packages.{system} = {{
        {outputs}
      }};
    }};
}}
"""


def write(directory: Path, outputs: dict[str, str]) -> Path:
    """Write a flake with expressions of the page as its packages."""
    text = "\n".join(f"{name} = ({value});" for name, value in outputs.items())
    text = re.sub(r"\./stream-image/(\S+)", r'"${stream-image}/\1"', text)
    made = FLAKE.format(system=SYSTEM, outputs=textwrap.indent(text, 8 * " "))
    (directory / "flake.nix").write_text(made, "utf-8")
    (directory / "layers.json").write_text('{"store_layers": []}', "utf-8")
    return directory


def test_switching_in_a_flake(flakes: Flakes, tmp_path: Path) -> None:
    """Without it the first thing that people copy could fail."""
    (tmp_path / "flake.nix").write_text(side(IN_A_FLAKE, "+"), "utf-8")
    (image,) = flakes.build(tmp_path, "default")
    check("default", image)


def test_switching_otherwise(flakes: Flakes, tmp_path: Path) -> None:
    """Without it the other ways to switch could fail, or make another image."""
    outputs = {
        "overlaid": f'({side(WITH_AN_OVERLAY, "+")}).dockerTools.streamLayeredImage {{ name = "a"; }}',
        "ours": 'dockerTools.streamLayeredImage { name = "a"; }',
        "call": side(IN_ONE_CALL, "+"),
    }
    overlaid, ours, call = flakes.build(write(tmp_path, outputs), *outputs)
    assert overlaid == ours
    check("call", call)


def test_every_function_is_described(flakes: Flakes, flake: Path) -> None:
    """Without it a function could be there that nobody finds, or described that is not there."""
    functions = f'import {flake}/nix {{ stream-image = "/usr"; }}'
    words = ("--eval", "--strict", "--json", "-E", f"builtins.attrNames ({functions})")
    names = json.loads(flakes.nix.run("nix-instantiate", *words))
    described = re.findall(r"`(\w+)`", " ".join(re.findall(r"^### (.*)$", PAGE, re.MULTILINE)))
    assert sorted([*described, "mkPureLayer", "mkRootLayer"]) == names


def test_readme() -> None:
    """Without it the first screen could have another line than the page, which is tested."""
    (diff,) = blocks("diff", README)
    assert {line.replace(" ", "") for line in diff.splitlines()} <= {
        line.replace(" ", "") for line in IN_A_FLAKE.splitlines()
    }


@pytest.mark.parametrize("diff", [IN_A_FLAKE, WITH_AN_OVERLAY, IN_ONE_CALL])
def test_what_one_had(diff: str, tmp_path: Path, flakes: Flakes) -> None:
    """Without it a diff could begin from something that nobody has."""
    (tmp_path / "before.nix").write_text(f"nixpkgs: pkgs: {side(diff, '-')}", "utf-8")
    flakes.nix.run("nix-instantiate", "--parse", str(tmp_path / "before.nix"))


def test_expressions(flakes: Flakes, tmp_path: Path) -> None:
    """Without it an example on the page could fail, or make an unsound image."""
    examples = blocks("nix") + blocks("nix", README)
    outputs = {f"example{number}": text for number, text in enumerate(examples)}
    # A set of functions is not built, only evaluated; nor is what would be fetched.
    functions = {name for name, text in outputs.items() if text.startswith("import ")}
    fetched = {name for name, text in outputs.items() if "pullImage" in text}
    write(tmp_path, {**outputs, **{name: f"({outputs[name]}).fakeNss" for name in functions}})
    for name in fetched:
        flakes.run("eval", "--raw", f"path:{tmp_path}#{name}.imageTag")
    built = [name for name in outputs if name not in fetched]
    # What is made of images is not one: a file system, a tree.
    others = {
        name for name, text in outputs.items() if re.match("dockerTools.(export|mergeD)", text)
    }
    for name, path in zip(built, flakes.build(tmp_path, *built), strict=True):
        if name in functions | others:
            continue
        if path.is_dir():
            assert (path / "layer.tar").is_file()  # a layer alone
        else:
            check(name, path)


def test_commands(flakes: Flakes, tmp_path: Path) -> None:
    """Without it a command that people copy from the page could fail."""
    (tmp_path / "flake.nix").write_text(side(IN_A_FLAKE, "+"), "utf-8")
    for script in blocks("sh"):
        flakes.shell(tmp_path, script)

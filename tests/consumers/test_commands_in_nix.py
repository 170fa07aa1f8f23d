"""A recipe's commands, run in a build of Nix, whose own sandbox is around ours."""

import importlib
import json
import os
import shutil
import subprocess
import tarfile
from pathlib import Path
from typing import Any

import pytest
from sources.customisation.sandbox.nobody import SITES, TESTS
from support import COMMAND

from consumers.nix import RootedNix
from consumers.requirements import require

pytestmark = [pytest.mark.consumers]
RECIPES: list[dict[str, Any]] = [
    {"extra": "mkdir -p d/e; chmod 0 d/e; echo x > a; test $(id -u) = 0; ! test -e /sys/kernel"},
    {"fake": "touch new; chown 3:4 new; chmod 4755 new; mknod n c 1 3"},
    {
        "fake": "busybox touch s; busybox chown 5:6 s; busybox mknod n b 8 1; busybox ls -ln s | cut -c 1-20 > l"
    },
    {"fake": "touch /x; chown 8:9 /x; cat /b > /y; ! test -e /sys/kernel", "chroot": True},
]
DERIVATION = """
{ code, input, python, path }: derivation {
  name = "made";
  system = builtins.currentSystem;
  builder = "/bin/sh";
  args = ["-c" "printf %s \\"$input\\" | $python -c \\"$code\\" > $out"];
  PATH = path;
  PYTHONDONTWRITEBYTECODE = "1";
  inherit code input python;
}
"""


# The builder must not end before the shell: see consumers/nix.py.
CUSTOMISE = """
{ code, python, path, content, spec }: derivation {
  name = "layer";
  system = builtins.currentSystem;
  builder = "/bin/sh";
  args = ["-c" "printf %s \\"$spec\\" | $python -c \\"$code\\" customise - -o $out && exit"];
  PATH = path;
  PYTHONDONTWRITEBYTECODE = "1";
  inherit code python spec;
  content = builtins.storePath content;
}
"""


@pytest.fixture
def nix(tmp_path: Path, nix_programs: str) -> RootedNix:
    """Return each Nix, which builds in its sandbox, in which this installation can be seen."""
    if os.geteuid() != 0:
        pytest.skip("Nix makes its sandbox as root")
    require(["fakeroot", "bwrap"])
    places = ["/bin", "/usr", "/lib", "/lib64", "/etc", *SITES, str(TESTS)]
    made = RootedNix.below(tmp_path / "nix", nix_programs)
    config = made.environment["NIX_CONFIG"].replace("sandbox = false", "sandbox = true")
    config += f"sandbox-fallback = false\nsandbox-paths = {' '.join(places)}\n"
    return RootedNix(root=made.root, environment={**made.environment, "NIX_CONFIG": config})


def build(nix: RootedNix, expression: str, **arguments: str) -> Path:
    """Build `expression` with Debian's Python and programs, and return the output."""
    python = shutil.which("python3", path="/usr/bin")
    assert python is not None
    arguments |= {"python": python, "path": "/usr/bin:/bin"}
    words = [word for key, value in arguments.items() for word in ("--argstr", key, value)]
    return nix.build(expression, words)


def test_customise_in_a_build(nix: RootedNix, tmp_path: Path) -> None:
    """Without it a layer would have other bytes than outside, or Nix not know what it refers to."""
    (tmp_path / "content" / "bin").mkdir(parents=True)
    (tmp_path / "content" / "bin" / "hello").write_text("hello\n", "utf-8")
    content = nix.add(tmp_path / "content")
    spec = {
        "name": "a",
        "contents": [content],
        "extraCommands": "test $(id -u) = 0; mkdir -m 700 data; cat bin/hello > data/copy",
        "fakeRootCommands": "chown 7:8 /data; chmod 4755 /data/copy; ! test -e /sys/kernel",
        "enableFakechroot": True,
    }
    code = (
        f"import sys; sys.path[:0] = {SITES!r}; from stream.cli.main import main; sys.exit(main())"
    )
    built = build(nix, CUSTOMISE, code=code, content=content, spec=json.dumps(spec))
    outside = tmp_path / "outside"
    subprocess.run(
        [*COMMAND, "customise", "-", "-o", outside],
        input=json.dumps({**spec, "store_root": str(nix.root)}).encode(),
        check=True,
    )
    assert os.listdir(outside)
    assert {file.name: file.read_bytes() for file in built.iterdir()} == {
        file.name: file.read_bytes() for file in outside.iterdir()
    }
    with tarfile.open(built / "layer.tar") as tar:
        assert (tar.getmember("./data").uid, tar.getmember("./data").gid) == (7, 8)
        assert tar.getmember("./data/copy").mode == 0o4755
    output = str(built).removeprefix(str(nix.root))
    assert nix.run("--query", "--references", output).split() == [content]


@pytest.mark.parametrize(
    ("module", "recipes"),
    [
        ("sources.customisation.sandbox.test_commands", RECIPES),
        ("sources.customisation.test_rooted", [{}]),
    ],
)
def test_the_same_in_a_build(nix: RootedNix, module: str, recipes: list[dict[str, Any]]) -> None:
    """Without it nobody could make a layer with commands in a derivation."""
    outcome = importlib.import_module(module).outcome
    code = (
        f"import json, sys; sys.path[:0] = {[*SITES, str(TESTS)]!r};"
        f" from {module} import outcome;"
        " print(json.dumps([outcome(each) for each in json.load(sys.stdin)]))"
    )
    built = build(nix, DERIVATION, code=code, input=json.dumps(recipes))
    assert json.loads(built.read_text()) == [outcome(recipe) for recipe in recipes]

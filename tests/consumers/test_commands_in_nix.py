"""A recipe's commands, run in a build of Nix, whose own sandbox is around ours."""

import json
import os
import shutil
from pathlib import Path
from typing import Any

import pytest
from sources.customisation.sandbox.nobody import SITES, TESTS

from consumers.nix import PROGRAMS, RootedNix
from consumers.requirements import require

pytestmark = [pytest.mark.consumers]
MODULE = "sources.customisation.sandbox.test_commands"
RECIPES: list[dict[str, Any]] = [
    {"extra": "mkdir -p d/e; chmod 0 d/e; echo x > a; test $(id -u) = 0; ! test -e /sys/kernel"},
    {"fake": "touch new; chown 3:4 new; chmod 4755 new; mknod n c 1 3"},
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


@pytest.mark.skipif(os.geteuid() != 0, reason="Nix makes its sandbox as root")
def test_the_same_in_a_build(tmp_path: Path) -> None:
    """Without it nobody could make a layer with commands in a derivation."""
    require([*PROGRAMS, "fakeroot", "bwrap"])
    from sources.customisation.sandbox.test_commands import outcome

    python = shutil.which("python3", path="/usr/bin")
    assert python is not None
    places = ["/bin", "/usr", "/lib", "/lib64", "/etc", *SITES, str(TESTS)]
    nix = RootedNix.below(tmp_path / "nix")
    config = nix.environment["NIX_CONFIG"].replace("sandbox = false", "sandbox = true")
    config += f"sandbox-fallback = false\nsandbox-paths = {' '.join(places)}\n"
    environment = {**nix.environment, "NIX_CONFIG": config}
    code = (
        f"import json, sys; sys.path[:0] = {[*SITES, str(TESTS)]!r};"
        f" from {MODULE} import outcome;"
        " print(json.dumps([outcome(each) for each in json.load(sys.stdin)]))"
    )
    arguments = {
        "code": code,
        "input": json.dumps(RECIPES),
        "python": python,
        "path": "/usr/bin:/bin",
    }
    words = [word for key, value in arguments.items() for word in ("--argstr", key, value)]
    built = RootedNix(root=nix.root, environment=environment).build(DERIVATION, words)
    assert json.loads(built.read_text()) == [outcome(recipe) for recipe in RECIPES]

"""`streamLayeredImage` and `buildLayeredImage`: what dockerTools' users rely on."""

import json
import subprocess
from pathlib import Path

import pytest
from support import COMMAND

from .harness import Functions, Image

pytestmark = [pytest.mark.consumers]

CONTENTS = """
    let
      library = pkgs.writeText "library" "text";
      hello = pkgs.runCommand "hello" { } ''
        mkdir -p $out/bin
        echo ${library} > $out/bin/hello
        chmod +x $out/bin/hello
      '';
    in
"""


def test_same_image_as_from_the_command_line(functions: Functions, tmp_path: Path) -> None:
    """Without it, moving between Nix and the command line would push every layer again."""
    given = 'name = "Hello"; tag = "1"; config.Cmd = [ "/bin/hello" ]; contents = [ hello ];'
    image = functions.image(f"{CONTENTS} streamLayeredImage {{ {given} }}")
    hello = functions.build(f"{CONTENTS} hello")
    spec = {
        "name": "Hello",
        "tag": "1",
        "config": {"Cmd": ["/bin/hello"]},
        "contents": [str(hello).removeprefix(str(functions.nix.root))],
        "conflicts": "first",
        "customisation_mtime": "@315532800",
        "layering": "auto",
        "store_root": str(functions.nix.root),
    }
    conf = tmp_path / "conf.json"
    plan = [*COMMAND, "plan", "-", "-o", str(conf)]
    subprocess.run(plan, check=True, input=json.dumps(spec).encode())
    archive = subprocess.run([*COMMAND, conf], check=True, stdout=subprocess.PIPE).stdout
    assert Image.read(archive).image_id == image.image_id
    assert image.tags == ["hello:1"]
    assert len(image.layers) == 3


def test_commands_run_in_the_build(functions: Functions) -> None:
    """Commands that run again when streaming see other rules, and need programs that are gone."""
    expression = f"""{CONTENTS} streamLayeredImage {{
      name = "made";
      contents = hello;
      extraCommands = "echo $name > data; type mkdir";
      fakeRootCommands = "chown 7:8 data";
    }}"""
    conf = functions.build(f"({expression}).conf")
    layer = json.loads(conf.read_bytes())["customisation_layer"]
    assert {*functions.on_disk(layer).iterdir()} >= {
        functions.on_disk(layer) / name for name in ("layer.tar", "checksum")
    }
    image = functions.image(expression)
    data = image.members()["data"]
    assert (data.uid, data.gid, data.mtime) == (7, 8, 315532800)
    assert functions.references(conf) == sorted(
        ["hello", "library", "made-conf.json", "made-customisation-layer"]
    )

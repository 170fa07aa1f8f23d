"""docs/plan.md: its tables list every key and operation, and its examples work."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import distribution
import pytest

from stream.cli.verbs.plan import EPILOG
from stream.nix.references import parse_references
from stream.planning.spec import KEYS, parse_spec
from stream.schema.permissions import read_permissions
from stream.strategies.program import _TAKES, program_faults

PAGE = (Path(__file__).parents[2] / "docs" / "plan.md").read_text("utf-8")
PROGRAMS = {
    "nix-build": "echo spec.json",
    "jq": f'{sys.executable} -c \'import json; print(json.load(open("conf.json"))["repo_tag"])\'',
    # The conf beside it has the name of the image.
    "docker": f"""if [ $1 = run ]; then grep -F "\\"repo_tag\\": \\"$3\\"" conf.json
      else {sys.executable} -m stream inspect -q - > /dev/null; fi""",
}


def section(title: str) -> str:
    """Return the text of a section, up to the next title."""
    _, _, rest = PAGE.partition(f"# {title}\n")
    assert rest, title
    return re.split(r"^#", rest, maxsplit=1, flags=re.MULTILINE)[0]


def example(title: str) -> Any:
    """Return the JSON of a section."""
    (text,) = re.findall(r"```json\n(.*?)```", section(title), re.DOTALL)
    return json.loads(text)


def first_cells(text: str) -> str:
    """Return the first column of a section's tables."""
    return "\n".join(re.findall(r"^\| (.*?) \|", text, re.MULTILINE))


def test_keys() -> None:
    """Nobody finds a key that is not on the page, and a key on the page has to exist."""
    assert {*re.findall(r"`([A-Za-z_]+)`", first_cells(section("SPEC.json")))} == KEYS


def test_keys_in_the_help() -> None:
    """Without it, users of the command who lack the page would have to guess the keys."""
    _, _, keys = EPILOG.partition("Its keys")
    assert {*re.findall(r"\w+", keys.partition(":")[2])} == KEYS


def test_operations() -> None:
    """Without it, users would have to guess the operations of a layeringPipeline."""
    table = first_cells(section("`layeringPipeline`"))
    assert {*re.findall(r'^`\["(\w+)"', table, re.MULTILINE)} == _TAKES.keys()


def test_examples(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An example that a newcomer copies must be accepted unchanged."""
    monkeypatch.chdir(tmp_path)
    spec = example("Without Nix")
    for path in spec["copyToRoot"][:2]:
        Path(path).mkdir()
    warnings: list[str] = []
    parse_spec(json.dumps(spec).encode(), name="s", warn=warnings.append)
    assert not warnings
    files = example("Files")
    for item in files["files"].values():
        path = Path(item if isinstance(item, str) else item.get("path", "./app"))
        path.mkdir(exist_ok=True)
    Path(files["fromImage"]).write_bytes(b"")  # only streaming reads it
    parse_spec(json.dumps(files).encode(), name="s", warn=warnings.append)
    assert not warnings
    (tmp_path / "layer").mkdir()
    (tmp_path / "layer/layer.tar").write_bytes(b"")
    (tmp_path / "layer/checksum").write_text("0" * 64, "ascii")
    roots = {**example("Given roots"), "customisation_layer": f"{tmp_path}/layer"}
    parse_spec(json.dumps(roots).encode(), name="s", warn=warnings.append)
    assert not warnings
    assert not program_faults(example("`layeringPipeline`"))
    assert len(parse_references(json.dumps(example("The closure")).encode(), "g").graph) == 2
    faults: list[str] = []
    read_permissions(example("`perms`"), "perms", lambda *fault: faults.append(str(fault)))
    assert not faults


@pytest.mark.slow
def test_commands(tmp_path: Path) -> None:
    """The commands run a container by the derived tag, and make a layer."""
    commands = re.findall(r"^ {4}(\S.*)$", PAGE, re.MULTILINE)
    assert len(commands) >= 4
    for name, script in PROGRAMS.items():
        (tmp_path / name).write_text(f"#!/bin/bash\nset -e\n{script}\n", "utf-8")
        (tmp_path / name).chmod(0o755)
    (tmp_path / "spec.json").write_text('{"name": "hello", "contents": "fakeNss"}', "utf-8")
    path = f"{tmp_path}:{os.path.dirname(sys.executable)}:{os.environ['PATH']}"
    commands = ["stream-image plan spec.json | stream-image - -o base.tar", *commands]
    with distribution.running() as registry:
        script = "\n".join(commands).replace("registry.example", registry.address)
        subprocess.run(
            ["bash", "-euo", "pipefail", "-c", script],
            cwd=tmp_path,
            env={**os.environ, "PATH": path},
            check=True,
            timeout=60,
        )
    assert registry.repository("app").tags.keys() == {"v1"}
    assert (tmp_path / "layer" / "layer.tar").exists()

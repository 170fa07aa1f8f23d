"""The README's commands, each run as printed, and its examples."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import distribution
import pytest
from consumers.nix import Nix
from engines.scripted import ScriptedDocker, running
from handmade import Base, Layout, layer_tar
from registries import DirectoryRegistry, add_image

README = (Path(__file__).parent.parent / "README.md").read_text("utf-8")
PROSE = re.sub(r"```.*?```", "", README, flags=re.DOTALL)
# An indented line is a command; the text after `#` is a comment on it.
COMMANDS = [
    match[1].split("  #")[0].strip() for match in re.finditer(r"^ {4}(\S.*)$", PROSE, re.MULTILINE)
]
MAKE = [command for command in COMMANDS if command.startswith("make ")]  # CI runs these

# Stands for a consumer: reads an archive, compressed or not, from its standard input, and checks
# that it is complete; or fetches the manifest of an image. Real consumers are in tests/consumers.
CONSUMER = """#!{python}
import io, json, subprocess, sys, tarfile, urllib.request
if sys.argv[1] == "run":
    sys.exit(sys.argv[-1] != "hello:latest")
if sys.argv[1] == "pull":
    host, _, name = sys.argv[2].partition("/")
    path, _, tag = name.rpartition(":")
    with urllib.request.urlopen(f"http://{{host}}/v2/{{path}}/manifests/{{tag}}") as answer:
        sys.exit(not json.load(answer)["layers"])
data = sys.stdin.buffer.read()
if data.startswith(b"\\x28\\xb5\\x2f\\xfd"):
    import pyzstd
    data = pyzstd.decompress(data)
with tarfile.open(fileobj=io.BytesIO(data)) as tar:
    names = tar.getnames()
assert "manifest.json" in names, names
"""
# A consumer as well, but for images of the registry.
SKOPEO = """#!/bin/sh
case "$*" in
  *docker://*) exec "$REGISTRY/bin/skopeo" "$@";;
  *) exec docker "$@";;
esac
"""


def make_registry(directory: Path) -> str:
    """Make a registry with the image that is pulled. Return the digest of its index."""
    directory.mkdir()
    base = Base(layers=[layer_tar({"one": b"1"})], tags=None)
    layout = Layout()
    images = [add_image(layout, base, architecture=name, os="linux") for name in ("amd64", "arm64")]
    index = layout.index(images)
    DirectoryRegistry.below(directory).push(layout, ("3.20", index))
    return str(index["digest"])


@pytest.fixture(scope="module")
def shell(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Make a directory with everything the commands name: confs, archives, consumers."""
    here = tmp_path_factory.mktemp("readme")
    programs = here / "bin"
    programs.mkdir()
    for name in ("docker", "podman", "ctr", "skopeo", "buildah"):
        text = SKOPEO if name == "skopeo" else CONSUMER.format(python=sys.executable)
        (programs / name).write_text(text, "utf-8")
        (programs / name).chmod(0o755)
    store = here / "store"
    for name in ("hello", "bash"):
        (store / name / "bin").mkdir(parents=True)
        (store / name / "bin" / name).write_bytes(b"#!/bin/bash\n")
    conf = {
        "repo_tag": "hello:latest",
        "store_dir": str(store),
        "store_layers": [[f"{store}/hello"]],
    }
    for name in ("conf.json", "old.json"):
        (here / name).write_text(json.dumps(conf), "utf-8")
    for name in ("amd64", "arm64"):
        (here / f"{name}.json").write_text(json.dumps(conf | {"architecture": name}), "utf-8")
    (here / "confs").mkdir()
    (here / "confs" / "hello.json").write_text(json.dumps(conf), "utf-8")
    for name in ("image.tar", "base.tar", "other.tar"):
        subprocess.run(
            [sys.executable, "-m", "stream", "-q", "conf.json", "-o", name], cwd=here, check=True
        )
    (here / "setup.sh").write_text("echo made > /made\n", "utf-8")
    (here / "layer.tar").write_bytes((here / "image.tar").read_bytes())
    return here


def test_readme_has_commands() -> None:
    """A pattern without matches would leave everything below untested."""
    assert len(COMMANDS) >= 9
    assert MAKE == ["make demo", "make test"]


@pytest.mark.slow
def test_commands(shell: Path) -> None:
    """Commands that a newcomer copies from the README work, in the README's order."""
    path = f"{shell}/bin:{os.path.dirname(sys.executable)}:{os.environ['PATH']}"
    pulled = make_registry(shell / "registry")
    # An image that is prefetched is added to the store, if there is one: not to this machine's.
    registry = {"REGISTRY": f"{shell}/registry", **Nix.below(shell / "nix").environment}
    failed = {}
    docker = ScriptedDocker(socket=shell / "docker.sock")
    with distribution.running() as pushed, running(docker):
        for command in COMMANDS:
            if command in MAKE:
                continue
            assert re.search(r"\b(stream-image|docker|spec\.json|site)\b", command)
            run = command.replace('{"name"', f'{{"store_dir": "{shell}/store", "name"')
            for name in ("hello", "bash"):
                run = run.replace(f"/nix/store/…-{name}", f"{shell}/store/{name}")
            run = run.replace("sha256:…", pulled)
            run = run.replace("registry.example/app", f"{pushed.address}/app")
            done = subprocess.run(
                ["bash", "-c", f"set -euo pipefail; {run}"],
                cwd=shell,
                env={
                    **os.environ,
                    **(registry if "/alpine" in run else {}),
                    "DOCKER_HOST": docker.url,
                    "PATH": path,
                },
                capture_output=True,
                text=True,
                timeout=60,
                check=False,
            )
            if done.returncode:
                failed[command] = done.stderr
    assert not failed
    assert pushed.repository("app").tags.keys() == {"v2"}
    assert [*docker.tags] == ["hello:latest"]


def test_conf_example() -> None:
    """The first conf that a newcomer sees is valid, except for its store paths."""
    (example,) = re.findall(r"```json\n(.*?)```", README, re.DOTALL)
    assert json.loads(example).keys() == {"repo_tag", "store_layers", "config"}


def test_python_examples(shell: Path) -> None:
    """The library works as the README describes it."""
    spec = {"name": "x", "contents": [f"{shell}/store/hello"], "store_dir": f"{shell}/store"}
    (shell / "spec.json").write_text(json.dumps(spec), "utf-8")
    said = []
    for example in re.findall(r"```python\n(.*?)```", README, re.DOTALL):
        done = subprocess.run(
            [sys.executable, "-c", example], cwd=shell, capture_output=True, text=True, check=True
        )
        said.append(done.stdout)
    assert len(said) == 3
    assert said[0].startswith("sha256:")
    assert re.fullmatch(r"x:[0-9a-z]{32} 1\n", said[1])
    assert said[2] == "1 image, 0 faults\n"


def test_keys_of_the_conf() -> None:
    """The table has every key."""
    from stream.config import KEYS

    table = README[README.index("## The conf") : README.index("## From Python")]
    named = set(
        re.findall(r"`([a-z_]+)`", "\n".join(re.findall(r"^\| (.*?) \|", table, re.MULTILINE)))
    )
    assert named | {"os"} == KEYS

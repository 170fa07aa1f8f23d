"""docs/app-without-nix.md: each application is built as the page says, run, changed and built again.

Base images and packages come from this machine: what they would be elsewhere does not matter here.
"""

import importlib.util
import json
import os
import re
import shutil
import subprocess
import sys
import sysconfig
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

import stream
from stream.tools.planned import load_confs

from .isolation import Isolation, IsolationError, isolated
from .requirements import PATH, require, unmet

pytestmark = pytest.mark.consumers

PAGE = (Path(__file__).parents[2] / "docs" / "app-without-nix.md").read_text("utf-8")
FETCH = "import urllib.request as u; print(u.urlopen('http://127.0.0.1:8080/').read().decode())"
DOCKER = """#!/bin/sh
# `docker save` finds the base image in its place.
[ "$1" = save ] || cat > loaded.tar
"""


class App:
    """An application of the page, in a directory of its own."""

    def __init__(self, title: str, directory: Path) -> None:
        _, _, rest = PAGE.partition(f"## {title}\n")
        section = rest.partition("\n## ")[0]
        self.directory = directory
        for name, text in re.findall(
            r"^`(\S+)`:\n\n```\w+\n(.*?)```", section, re.DOTALL | re.MULTILINE
        ):
            (directory / name).parent.mkdir(parents=True, exist_ok=True)
            (directory / name).write_text(text, "utf-8")
        self.commands = re.findall(
            r"^ {4}((?:docker|pip|npm|stream-image) .*)$", section, re.MULTILINE
        )
        assert self.commands
        self.program("docker", DOCKER)

    def program(self, name: str, text: str) -> None:
        """Make a program that the commands find."""
        (self.directory / "bin").mkdir(exist_ok=True)
        (self.directory / "bin" / name).write_text(text, "utf-8")
        (self.directory / "bin" / name).chmod(0o755)

    def base(self, name: str, program: str, files: dict[str, Any], env: list[str]) -> None:
        """Make the base image `name`, with a program of this machine and the libraries it needs."""
        spec = {
            "name": "base",
            "tag": "latest",
            "files": {path: path for path in libraries(program)} | files,
            "config": {"Env": ["PATH=/usr/local/bin", *env]},
        }
        path = self.directory / "base.json"
        path.write_text(json.dumps(spec), "utf-8")
        (conf,) = load_confs(str(path))
        with (self.directory / name).open("wb") as file:
            stream.write_image(conf, file)

    def run(self, *commands: str) -> list[str]:
        """Run commands of the page. Return the diff_ids of the image that docker was given."""
        places = self.directory / "bin", Path(sys.executable).parent, os.environ["PATH"]
        for command in commands:
            subprocess.run(
                ["bash", "-euo", "pipefail", "-c", command],
                cwd=self.directory,
                env={**os.environ, "PATH": os.pathsep.join(map(str, places))},
                check=True,
            )
        return [str(one) for one in self.document()["rootfs"]["diff_ids"]]

    def document(self) -> Any:
        """Return the config of the image that docker was given."""
        (layer,) = json.loads(self._read("manifest.json"))
        return json.loads(self._read(layer["Config"]))

    def _read(self, member: str) -> bytes:
        return subprocess.run(
            ["tar", "-xOf", "loaded.tar", member],
            cwd=self.directory, check=True, capture_output=True,
        ).stdout  # fmt: skip

    def answer(self) -> str:
        """Run the image in its own root, processes and network. Return the page that it serves."""
        root = self.directory / "root"
        shutil.rmtree(root, ignore_errors=True)
        root.mkdir()
        self.run(f"stream-image export -q loaded.tar | tar -xC {root}")
        config = self.document()["config"]
        user = f"--userspec={config['User']}:{config['User']}"
        with in_isolation(self.directory) as isolation:

            def fetch() -> str:
                return isolation.run([sys.executable, "-c", FETCH]).stdout

            environment = ["env", "-i", *config.get("Env", [])]
            command = [
                shutil.which("chroot", path=PATH) or "chroot",
                user,
                str(root),
                *config["Cmd"],
            ]
            isolation.start([*environment, *command], lambda: bool(fetch()))
            return fetch()


@contextmanager
def in_isolation(logs: Path) -> Iterator[Isolation]:
    """Make namespaces, or skip the test where that is not allowed."""
    try:
        with isolated(logs) as isolation:
            yield isolation
    except IsolationError as error:
        unmet(str(error))


def libraries(program: str) -> set[str]:
    """Return the shared libraries that the dynamic loader loads for a program, and the loader."""
    told = subprocess.run(["ldd", program], capture_output=True, text=True, check=True).stdout
    return {*re.findall(r"(/\S+) \(0x", told)}


def assert_only_the_application_moves(before: list[str], after: list[str]) -> None:
    """What changed is the last layer, and no other."""
    assert before[:-1] == after[:-1]
    assert before[-1] != after[-1]


def test_a_static_site(tmp_path: Path) -> None:
    """The smallest image: no base, and no Nix."""
    require(["busybox", "chroot", "ip"])
    app = App("A static site", tmp_path)
    spec = tmp_path / "site.json"
    busybox = os.path.realpath(shutil.which("busybox") or "")
    # Where it is on this machine is not what the page is about.
    spec.write_text(spec.read_text().replace('box": "/bin/busybox"', f'box": "{busybox}"'))
    before = app.run(*app.commands)
    assert app.answer().strip() == "<p>Hello</p>"
    assert app.run(*app.commands) == before
    (tmp_path / "pages" / "index.html").write_text("<p>Changed</p>\n", "ascii")
    assert_only_the_application_moves(before, app.run(*app.commands))
    assert app.answer().strip() == "<p>Changed</p>"


def test_a_python_app(tmp_path: Path) -> None:
    """After one line, the environment with all its packages stays."""
    require(["chroot", "ip", "ldd"])
    app = App("A Python web app", tmp_path)
    python, standard = os.path.realpath(sys.executable), sysconfig.get_path("stdlib")
    extensions = Path(standard, "lib-dynload").glob("*.so")
    needed = sorted({path for one in extensions for path in libraries(str(one))})
    unused = ["/test/", "site-packages/", "dist-packages/", "__pycache__/", "/config-*/"]
    app.base(
        "python.tar",
        python,
        {
            "/usr/local/bin/python3": python,
            standard: {"path": standard, "exclude": unused},
            **{path: path for path in needed},
        },
        [f"PYTHONHOME={Path(standard).parents[1]}"],
    )
    found = importlib.util.find_spec("pygments")
    assert found is not None
    source = Path(str(found.origin)).parent
    app.program("pip", f"#!/bin/sh\nmkdir vendor; cp -r {source} vendor/pygments\n")
    before = app.run(*app.commands)
    assert "HTTPServer" in app.answer()
    assert app.document()["config"]["Env"][-1] == "PYTHONDONTWRITEBYTECODE=1"
    main = tmp_path / "app" / "main.py"
    main.write_text(main.read_text().replace("Show this file", "Changed"), "utf-8")
    assert_only_the_application_moves(before, app.run(app.commands[-1]))
    assert "Changed" in app.answer()


def test_a_node_app(tmp_path: Path) -> None:
    """The same with the packages of Node."""
    require(["chroot", "ip", "ldd", "node"])
    app = App("A Node app", tmp_path)
    node = os.path.realpath(shutil.which("node") or "")
    app.base("node.tar", node, {"/usr/local/bin/node": node}, [])
    app.program(
        "npm",
        "#!/bin/sh\nmkdir -p node_modules/ms\n"
        "echo 'module.exports = n => `${Math.floor(n)}ms`' > node_modules/ms/index.js\n",
    )
    before = app.run(*app.commands)
    assert app.answer().startswith("up for ")
    server = tmp_path / "server.js"
    server.write_text(server.read_text().replace("up for", "running for"), "utf-8")
    assert_only_the_application_moves(before, app.run(app.commands[-1]))
    assert app.answer().startswith("running for ")

"""What `verify` says of a container's start, proved by starting one with each consumer."""

import io
import platform
import subprocess
import tarfile
from pathlib import Path
from typing import Any

import pytest
from handmade import Base

import stream

from .consumer import Runner
from .requirements import require

pytestmark = pytest.mark.consumers

ARCHITECTURE = {"x86_64": "amd64", "aarch64": "arm64"}.get(platform.machine(), platform.machine())
PROGRAM = '#include <stdio.h>\nint main(void) { puts("started"); return 0; }\n'
SCRIPT = b"#!/bin/missing\n"

CONFIGS: dict[str, tuple[dict[str, Any], set[str]]] = {
    "absolute": ({"Cmd": ["/bin/x"]}, set()),
    "in the default PATH": ({"Cmd": ["x"]}, set()),
    "through links": ({"Cmd": ["/sbin/y"]}, set()),
    "relative": ({"Cmd": ["bin/x"], "WorkingDir": "/"}, set()),
    "user": ({"Cmd": ["/bin/x"], "User": "web:web"}, set()),
    "numbers": ({"Cmd": ["/bin/x"], "User": "77:88"}, set()),
    "directory that is missing": ({"Cmd": ["/bin/x"], "WorkingDir": "/a/b"}, set()),
    "missing": ({"Cmd": ["/bin/z"]}, {"start-command"}),
    "not in PATH": ({"Cmd": ["x"], "Env": ["PATH=/a"]}, {"start-command"}),
    "not executable": ({"Cmd": ["/etc/passwd"]}, {"start-command"}),
    "without its interpreter": ({"Cmd": ["/bin/script"]}, {"start-command"}),
    "without its loader": ({"Cmd": ["/bin/dynamic"]}, {"start-command"}),
    "dangling": ({"Cmd": ["/bin/lost"]}, {"start-command"}),
    "unknown user": ({"Cmd": ["/bin/x"], "User": "db"}, {"start-user"}),
    "unknown group": ({"Cmd": ["/bin/x"], "User": "web:db"}, {"start-user"}),
    "not a directory": ({"Cmd": ["/bin/x"], "WorkingDir": "/etc/passwd"}, {"start-directory"}),
}


@pytest.fixture(scope="module")
def layer(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """Make a layer with a program in two forms, a script, links and users."""
    require(("cc",))
    directory = tmp_path_factory.mktemp("program")
    source = directory / "program.c"
    source.write_text(PROGRAM)
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w") as tar:
        for name, options in (("bin/x", ["-static"]), ("bin/dynamic", [])):
            made = directory / name.replace("/", "-")
            subprocess.run(["cc", *options, "-o", made, source], check=True)
            _add(tar, name, made.read_bytes(), 0o755)
        _add(tar, "bin/script", SCRIPT, 0o755)
        _add(tar, "etc/passwd", b"web:x:77:88::/:/bin/x\n", 0o644)
        _add(tar, "etc/group", b"web:x:88:\n", 0o644)
        for name, target in (("sbin", "/bin"), ("bin/y", "../bin/x"), ("bin/lost", "gone")):
            link = tarfile.TarInfo(name)
            link.type, link.linkname = tarfile.SYMTYPE, target
            tar.addfile(link)
    return file.getvalue()


def _add(tar: tarfile.TarFile, name: str, content: bytes, mode: int) -> None:
    info = tarfile.TarInfo(name)
    info.mode, info.size = mode, len(content)
    tar.addfile(info, io.BytesIO(content))


@pytest.fixture(params=["docker", "podman", "containerd"])
def starter(request: pytest.FixtureRequest) -> Runner:
    """Return each consumer that starts an image's own command."""
    chosen = request.getfixturevalue(request.param)
    assert isinstance(chosen, Runner)
    return chosen


@pytest.mark.slow
def test_verify_is_right_about_the_start(starter: Runner, layer: bytes, tmp_path: Path) -> None:
    """A rule that no consumer follows would be a false alarm; one that is missing, silence."""
    wrong = []
    for number, (case, (config, rules)) in enumerate(CONFIGS.items()):
        tag = f"start:{number}"
        base = Base(layers=[layer], config=config, tags=[tag], architecture=ARCHITECTURE)
        path = tmp_path / "image.tar"
        path.write_bytes(base.docker_archive())
        found = {one.rule for one in stream.verify(path).findings if one.rule.startswith("start-")}
        assert found == rules, case
        starter.load_file(path)
        ended = starter.run(tag)
        started = ended.returncode == 0 and ended.stdout == "started\n"
        if started != (not rules):
            wrong.append((case, ended.returncode, ended.stdout, ended.stderr))
    assert wrong == []

"""`stream-image run-as-root`: the layer of commands that run in an image, as a directory."""

import io
import json
import os
import subprocess
import tarfile
from pathlib import Path
from typing import Any

import pytest
from consumers.requirements import require, unmet
from handmade import Base, layer_tar
from support import COMMAND

import stream


def run(*words: str | Path, **options: Any) -> "subprocess.CompletedProcess[bytes]":
    """Run the command."""
    return subprocess.run(
        [*COMMAND, *words], capture_output=True, check=False, timeout=60, **options
    )


@pytest.fixture
def base(tmp_path: Path) -> Path:
    """Write a base image."""
    archive = tmp_path / "base.tar"
    archive.write_bytes(Base(layers=[layer_tar({"a": b"a", "b": b"b"})]).docker_archive())
    return archive


@pytest.fixture
def sandbox() -> None:
    """Require the sandbox."""
    require(["bwrap", "fakeroot", "unshare"])
    command = ["unshare", "--user", "--map-root-user", "--mount", "true"]
    if subprocess.run(command, check=False, capture_output=True).returncode:
        unmet("no user namespaces")


@pytest.mark.slow
@pytest.mark.usefixtures("sandbox")
def test_the_same_as_from_a_specification(base: Path, tmp_path: Path) -> None:
    """Without it there would be two ways to make such a layer, and the images would differ."""
    script = "rm /a; echo ä > /c; chown 7:8 /c"
    done = run(
        "run-as-root", f"{base}:base:1", "-", "-o", tmp_path / "layer", "--mtime", "@315532800",
        "--pre-mount", "touch layer/d", "--post-umount", "test -e layer/c",
        input=script.encode(),
    )  # fmt: skip
    assert (done.returncode, done.stdout, done.stderr) == (0, b"", b"")
    assert sorted(os.listdir(tmp_path / "layer")) == ["checksum", "comment", "layer.tar"]
    with tarfile.open(tmp_path / "layer/layer.tar") as tar:
        assert [(entry.name, entry.uid, entry.mtime) for entry in tar] == [
            (".", 0, 315532800), ("./.wh.a", 0, 315532800), ("./c", 7, 315532800),
            ("./d", 0, 315532800),
        ]  # fmt: skip
    spec = {"name": "x", "tag": "1", "fromImage": str(base)}
    made = {"runAsRoot": script, "preMount": "touch layer/d", "customisation_mtime": "@315532800"}
    ready = {"customisation_layer": str(tmp_path / "layer")}
    images = []
    for keys in made, ready:
        planned = run("plan", "-", input=json.dumps({**spec, **keys}).encode())
        assert planned.returncode == 0, planned.stderr
        images.append(stream.write_image(stream.parse_conf(planned.stdout), io.BytesIO()).image_id)
    assert images[0] == images[1]


@pytest.mark.usefixtures("sandbox")
def test_script_in_a_file(base: Path, tmp_path: Path) -> None:
    """Without it a script would have to be quoted."""
    (tmp_path / "script").write_text("echo $0 >&2\nfalse\n")
    done = run("run-as-root", base, "script", "-o", "layer", cwd=tmp_path)
    assert done.returncode == 1
    assert b"runAsRoot: failed at line 2" in done.stderr
    assert sorted(os.listdir(tmp_path)) == ["base.tar", "script"]


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["run-as-root", "base.tar"], "-o/--output"),
        (["run-as-root", "base.tar", "-o", "layer"], "nothing to run"),
        (["run-as-root", "base.tar", "missing", "-o", "layer"], "missing: "),
        (["run-as-root", "missing.tar", "--pre-mount", "true", "-o", "layer"], "missing.tar"),
    ],
)
def test_bad_usage(base: Path, words: list[str], said: str) -> None:
    """Without it the message would be that of something else."""
    done = run(*words, cwd=base.parent)
    assert done.returncode in (1, 2)
    assert done.stdout == b""
    (line,) = done.stderr.decode().splitlines()
    assert line.startswith("stream-image: ")
    assert said in line
    assert os.listdir(base.parent) == ["base.tar"]

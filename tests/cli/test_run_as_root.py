"""`stream-image run-as-root`: the layer of commands that run in an image, as a directory."""

import io
import json
import os
import signal
import subprocess
import tarfile
from contextlib import suppress
from pathlib import Path
from typing import Any

import commandline
import pytest
from consumers.requirements import require, unmet
from handmade import Base, layer_tar
from support import COMMAND, Run, leftovers, until

import stream


def run(*words: str | Path, **options: Any) -> "subprocess.CompletedProcess[bytes]":
    """Run the command."""
    return commandline.run(
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


@pytest.mark.slow
@pytest.mark.usefixtures("sandbox")
@pytest.mark.parametrize(
    "signum", [signal.SIGHUP, signal.SIGINT, signal.SIGKILL, signal.SIGQUIT, signal.SIGTERM]
)
def test_ended_by_a_signal(base: Path, signum: signal.Signals) -> None:
    """Without it an image, unpacked, or a process of its commands would be left."""
    place = base.parent
    (place / "tmp").mkdir()
    seconds = f"{100_000 + os.getpid()}.25"
    (place / "script").write_text(f"echo started; sleep {seconds} & sleep {seconds}")
    environment = {"TMPDIR": str(place / "tmp")}
    with Run("run-as-root", base, place / "script", "-o", place / "layer", env=environment) as run:
        until(lambda: "started" in run.stderr())
        outcome, _ = run.stopped_by(signum)
    assert outcome.status == (-signum if signum == signal.SIGKILL else 128 + signum)
    until(lambda: not os.listdir(place / "tmp") and not running(seconds))
    assert leftovers(place) == ["base.tar", "script", "tmp"]
    assert str(place) not in Path("/proc/self/mountinfo").read_text()


def running(argument: str) -> bool:
    """Return True if a process has this argument."""
    for file in Path("/proc").glob("[0-9]*/cmdline"):
        with suppress(OSError):
            if argument.encode() in file.read_bytes().split(b"\0"):
                return True
    return False


@pytest.mark.slow
@pytest.mark.usefixtures("sandbox")
@pytest.mark.parametrize(
    ("size", "said"),
    [(32, "staged/0: cannot be written: No space left"), (512, "runAsRoot: failed at line 1")],
)
def test_no_space(tmp_path: Path, size: int, said: str) -> None:
    """Without it half an image would be left where there is no space for it."""
    content = {"a": bytes(100_000)}
    (tmp_path / "base.tar").write_bytes(Base(layers=[layer_tar(content)]).docker_archive())
    (tmp_path / "script").write_text("head -c 1M /dev/zero > /big")
    (tmp_path / "tmp").mkdir()
    shell = (
        f"mount -t tmpfs -o mode=1777,size={size}k tmpfs tmp; "
        '"$@"; test $? = 1 -a -z "$(ls -A tmp)" && exit 1'
    )
    with Run(
        "run-as-root", "base.tar", "script", "-o", "layer",
        prefix=["unshare", "-rm", "--wd", str(tmp_path), "sh", "-c", shell, "sh"],
        env={"TMPDIR": str(tmp_path / "tmp")},
    ) as run:  # fmt: skip
        outcome = run.wait()
    assert outcome.status == 1
    assert said in outcome.stderr.splitlines()[-1]
    assert sorted(os.listdir(tmp_path)) == ["base.tar", "script", "tmp"]

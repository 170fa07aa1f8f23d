"""`stream-image load`: its arguments, its output, and what it keeps between runs."""

import json
import subprocess
from collections.abc import Callable

import pytest

from .conftest import Workshop
from .scripted import ScriptedDocker

Run = Callable[..., "subprocess.CompletedProcess[bytes]"]


def test_output(docker: ScriptedDocker, workshop: Workshop, stream_image: Run) -> None:
    """Scripts take the name from standard output; people and logs get the rest."""
    conf = str(workshop.store.conf("a", "b"))
    done = stream_image("load", conf, "--host", docker.url, "--progress=plain")
    assert done.returncode == 0, done.stderr
    assert done.stdout == b"test:1\n"
    assert b"in docker, sent 2 layers (20.5 kB), " in done.stderr
    done = stream_image("load", "-q", "-t", "other:2", conf, env={"DOCKER_HOST": docker.url})
    assert (done.stdout, done.stderr) == (b"other:2\n", b"")
    assert sorted(docker.tags) == ["other:2", "test:1"]


def test_dry_run(docker: ScriptedDocker, workshop: Workshop, stream_image: Run) -> None:
    """Whoever is about to load learns what would be sent, and the engine stays as it is."""
    words = ["load", str(workshop.store.conf("a", "b")), "--host", docker.url, "--dry-run"]
    done = stream_image(*words, "--progress", "none")
    assert (done.returncode, done.stdout) == (0, b"test:1\n")
    assert done.stderr.count(b"\nlayer ") == 1
    assert b" kB would send  store paths: [" in done.stderr
    assert b"in docker, dry run, would send 2 layers (20.5 kB), " in done.stderr
    assert docker.loads == []
    assert docker.images == {}


def test_events(docker: ScriptedDocker, workshop: Workshop, stream_image: Run) -> None:
    """A program learns what was sent and what was held, by layers and bytes."""
    conf = str(workshop.store.conf("a", "b", "c"))
    done = stream_image("load", conf, "--host", docker.url, "--progress=json", "--no-digest-cache")
    event = json.loads(done.stderr.splitlines()[-1])
    assert {
        name: event[name] for name in ("event", "engine", "name", "layers", "sent", "held")
    } == {
        "event": "loaded",
        "engine": "docker",
        "name": "test:1",
        "layers": 3,
        "sent": {"layers": 3, "size": 30720},
        "held": {"layers": 0, "size": 0},
    }


@pytest.mark.parametrize(
    ("arguments", "status", "message"),
    [
        (["--host", "h:1"], 2, b"h:1: is not a URL with unix://, tcp:// or ssh://"),
        (["--namespace", "n"], 2, b"n: is for containerd only"),
        (["--host", "unix:///none"], 1, b"docker at unix:///none: does not answer: No such file"),
    ],
)
def test_errors(
    workshop: Workshop, stream_image: Run, arguments: list[str], status: int, message: bytes
) -> None:
    """One line each, and what is wrong in the call is told from what is wrong elsewhere."""
    done = stream_image("load", str(workshop.store.conf("a")), *arguments)
    assert done.returncode == status
    assert done.stderr.startswith(b"stream-image: " + message)
    assert done.stderr.count(b"\n") == 1

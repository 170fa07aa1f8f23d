"""`stream-image push-all`: what is read, printed and returned."""

import json
import os
import pty
import signal
import subprocess
import threading
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import distribution
import pytest
from conftest import Run as Command
from distribution import Registry
from support import COMMAND, Run, Store, until


@pytest.fixture
def registry() -> Iterator[Registry]:
    """Run an empty registry."""
    with distribution.running() as running:
        yield running


@pytest.fixture
def confs(tmp_path: Path) -> Path:
    """Return a directory with the confs of three images that share a layer."""
    store = Store.below(tmp_path)
    store.file("shared", os.urandom(5000))
    directory = tmp_path / "confs"
    directory.mkdir()
    for name in ("one", "two", "three"):
        store.file(name, os.urandom(3000))
        document = json.loads(store.conf(["shared"], [name]).read_bytes())
        (directory / f"{name}.json").write_text(json.dumps(document | {"repo_tag": f"{name}:v1"}))
    return directory


def digest(registry: Registry, name: str, tag: str = "v1") -> str:
    """Return the reference of an image by its digest."""
    return f"{registry.address}/{name}@{registry.repository(name).tags[tag]}"


def test_directory(registry: Registry, confs: Path, stream_image: Command) -> None:
    """Without it a directory of confs could not be pushed by one command."""
    (confs / "README").write_text("not a conf")
    done = stream_image(
        "push-all",
        str(confs),
        f"{registry.address}/team",
        "--progress",
        "plain",
        "--registry-cache",
    )
    assert done.returncode == 0, done.stderr
    names = ["one", "three", "two"]
    assert done.stdout.decode().splitlines() == [digest(registry, f"team/{one}") for one in names]
    team = [repository for name, repository in registry.repositories.items() if "team/" in name]
    manifests = [json.loads(data) for one in team for _, data in one.manifests.values()]
    assert all("annotations" in layer for one in manifests for layer in one["layers"])
    *lines, last = done.stderr.decode().splitlines()
    for number, (line, name) in enumerate(zip(lines, names, strict=True), 1):
        assert line.startswith(f"image {number}/3 {registry.address}/team/{name}:v1 sha256:")
    assert ", sent 2 blobs (" in lines[1]
    assert ", mounted 1 blob (" in lines[1]
    assert last.startswith("pushed 3 of 3 images, sent 7 blobs (")
    assert ", mounted 2 blobs (" in last


@pytest.mark.slow
def test_terminal(registry: Registry, confs: Path) -> None:
    """Without it nobody would see how far a run is that takes minutes."""
    master, terminal = pty.openpty()
    shown = b""

    def slow(request: distribution.Request, _: distribution.Connection) -> None:
        if request.method == "PATCH":  # not before the bar was drawn
            until(lambda: b"image 1/3, layer " in shown)

    registry.script = slow
    words = ["push-all", str(confs), registry.address]
    process = subprocess.Popen(
        [*COMMAND, *words], stdout=subprocess.DEVNULL, stderr=terminal,
        env={**os.environ, "TERM": "xterm", "COLUMNS": "100"},
    )  # fmt: skip
    os.close(terminal)
    with suppress(OSError):  # EIO: the other end is closed
        while data := os.read(master, 1 << 16):
            shown += data
    os.close(master)
    assert process.wait(30) == 0
    for number, name in enumerate(("one", "three", "two"), 1):
        assert f"image {number}/3 {registry.address}/{name}:v1 sha256:".encode() in shown
    assert b"pushed 3 of 3 images" in shown.splitlines()[-1]


def test_list(registry: Registry, confs: Path, stream_image: Command) -> None:
    """Without it images could not be given names of their own."""
    text = f"""
# the images of this week
{confs}/one.json {registry.address}/a:1
{confs}/one.json  {confs}/two.json\t{registry.address}/b
{confs}/three.json {registry.address}/c:1
"""
    unnamed = json.loads((confs / "three.json").read_bytes())
    del unnamed["repo_tag"]
    (confs / "three.json").write_text(json.dumps(unnamed))
    document = json.loads((confs / "two.json").read_bytes())
    (confs / "two.json").write_text(
        json.dumps(document | {"architecture": "arm64", "repo_tag": "one:v1"})
    )
    done = stream_image("push-all", "-", "--progress", "none", stdin=text.encode())
    assert done.returncode == 0, done.stderr
    assert done.stdout.decode().splitlines() == [
        digest(registry, "a", "1"),
        digest(registry, "b"),
        digest(registry, "c", "1"),
    ]
    kind, _ = registry.repository("b").manifests[registry.repository("b").tags["v1"]]
    assert kind.endswith("index.v1+json")


def test_failures_are_counted(registry: Registry, confs: Path, stream_image: Command) -> None:
    """Without it CI would go on as if all images had been pushed."""
    (confs / "two.json").write_text("{")
    done = stream_image("push-all", str(confs), registry.address, "--progress", "json")
    assert done.returncode == 1
    assert done.stdout.decode().splitlines() == [
        digest(registry, "one"),
        digest(registry, "three"),
    ]
    events = [json.loads(line) for line in done.stderr.splitlines()]
    starts = [one for one in events if one["event"] == "image-start"]
    assert [(one["image"], one["images"]) for one in starts] == [(1, 3), (2, 3), (3, 3)]
    (failed,) = [one for one in events if one["event"] == "image-failed"]
    assert (failed["image"], failed["kind"]) == (3, "ConfError")
    assert failed["name"] == f"{confs}/two.json"
    last = events[-1]
    assert (last["event"], last["pushed"], last["failed"]) == ("all-pushed", 2, 1)
    assert (last["sent"]["blobs"], last["mounted"]["blobs"]) == (5, 1)
    quiet = stream_image("push-all", str(confs), registry.address, "-q")
    assert quiet.stderr.decode().startswith(f"stream-image: {confs}/two.json: ")
    assert quiet.stderr.count(b"\n") == 1


@pytest.mark.parametrize(
    ("words", "text", "message"),
    [
        (["nowhere"], b"", "nowhere: No such file"),
        (["."], b"", "no *.json"),
        (["../conf.json"], b"", "conf.json: is not a directory; use 'push' for one image"),
        (["-"], b"conf.json\n", "line 1 has one word"),
        (["-", "r.example"], b"\n- x\n", "line 2: - is the list"),
        (["-"], b"x" * 70_000, "line 1 is too long"),
    ],
)
def test_mistakes(
    words: list[str], text: bytes, message: str, tmp_path: Path, stream_image: Command
) -> None:
    """Without it a mistake in the list would be reported as something else, or not at all."""
    folder = tmp_path / "empty"
    folder.mkdir()
    (tmp_path / "conf.json").touch()
    done = stream_image("push-all", *words, "--progress", "none", stdin=text, cwd=folder)
    assert done.returncode == 2
    assert message in done.stderr.decode()


def test_interrupted(registry: Registry, confs: Path) -> None:
    """Without it Ctrl-C could leave a tag that cannot be pulled, or wait for the rest."""
    hanging, end = threading.Event(), threading.Event()

    def hang(request: distribution.Request, _: distribution.Connection) -> None:
        if request.method == "PATCH" and "/two/" in request.path:
            hanging.set()
            end.wait(60)

    registry.script = hang
    try:
        with Run("push-all", confs, registry.address, "--progress", "none") as run:
            until(hanging.is_set)
            _, seconds = run.stopped_by(signal.SIGINT)
            outcome = run.finish()
    finally:
        end.set()
    assert outcome.status == 128 + signal.SIGINT
    assert seconds < 20, "the registry was waited for"
    names = ["one", "three"]
    assert outcome.stdout.decode().splitlines() == [digest(registry, name) for name in names]
    assert not registry.repository("two").tags


@pytest.mark.parametrize(
    "prefix", ["registry.example/team:v1", "https://registry.example", "registry.example/Team"]
)
def test_prefix_below_which_nothing_can_be(
    tmp_path: Path, stream_image: Command, prefix: str
) -> None:
    """Said of each of a thousand images, it would hide what is wrong: one word."""
    (tmp_path / "app.json").write_text('{"repo_tag": "app:1"}')
    done = stream_image("push-all", str(tmp_path), prefix)
    assert done.returncode == 2
    assert done.stderr.startswith(f"stream-image: {prefix}: cannot be a PREFIX: ".encode())
    assert done.stderr.count(b"\n") == 1

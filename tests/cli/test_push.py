"""`stream-image push`: what it prints, what it leaves when it is stopped."""

import json
import os
import re
import signal
import threading
from collections.abc import Iterator
from pathlib import Path

import distribution
import pytest
from conftest import Run as Command
from distribution import Answer, Registry
from support import Run, Store, until

LARGE = 40 << 20  # bytes: more than the buffers on the way to the registry


@pytest.fixture
def registry() -> Iterator[Registry]:
    """Run an empty registry."""
    with distribution.running() as running:
        yield running


@pytest.fixture
def store(tmp_path: Path) -> Store:
    """Return a store with two files, a large one of zeros."""
    store = Store.below(tmp_path)
    store.file("one", os.urandom(5000))
    store.file("large", LARGE)
    return store


def test_what_is_printed(
    registry: Registry, store: Store, tmp_path: Path, stream_image: Command
) -> None:
    """Without it the output could not be given to a program that deploys the image."""
    name, digest_file = f"{registry.address}/team/app", tmp_path / "digest"
    conf = str(store.conf(["one"], ["large"]))
    rehearsed = stream_image("push", conf, f"{name}:v1", "--dry-run", "--digest-file", digest_file)
    assert (rehearsed.returncode, registry.repositories) == (0, {})
    *moving, last = rehearsed.stderr.decode().splitlines()
    assert [line.rpartition(", ")[2].partition(" (")[0] for line in moving] == ["would send"] * 2
    assert ", dry run, would send 3 blobs (" in last
    assert not digest_file.exists()
    rehearsed = stream_image("push", conf, f"{name}:v1", "--dry-run", "--progress", "none")
    *moving, last = rehearsed.stderr.decode().splitlines()
    assert all("B would send  store paths: [" in line for line in moving)
    assert len(moving) == 2
    assert ", dry run, would send 3 blobs (" in last
    words = ["--compress", "zstd:1", "-t", "latest", "--digest-file", str(digest_file)]
    done = stream_image("push", conf, f"{name}:v1", *words, "--progress", "plain")
    assert done.returncode == 0, done.stderr
    tags = registry.repository("team/app").tags
    assert done.stdout.decode() == f"{name}@{tags['v1']}\n"
    assert digest_file.read_text() == f"{tags['v1']}\n"
    assert tags["latest"] == tags["v1"]
    *layers, last = done.stderr.decode().splitlines()
    assert [line.rpartition(", ")[2].partition(" ")[0] for line in layers] == ["sent"] * 2
    assert last.startswith(f"{name}:v1 {name}:latest sha256:")
    assert ", sent 3 blobs (" in last
    again = stream_image("push", conf, f"{name}:v1", *words, "--progress", "json")
    events = [json.loads(line) for line in again.stderr.splitlines()]
    assert {event["passage"] for event in events if event["event"] == "blob"} <= {"sent", "held"}
    assert events[-1]["event"] == "pushed"
    assert events[-1]["reference"] == f"{name}@{tags['v1']}"
    assert events[-1]["sent"]["blobs"] + events[-1]["held"]["blobs"] == 3


def test_several_confs_are_one_index(
    registry: Registry, store: Store, tmp_path: Path, stream_image: Command
) -> None:
    """Without it the index of a multi-platform image could not be pushed from a shell."""
    confs = []
    for name in ("amd64", "arm64"):
        document = json.loads(store.conf(["one"]).read_bytes())
        confs.append(tmp_path / f"{name}.json")
        confs[-1].write_text(json.dumps(document | {"architecture": name}))
    name = f"{registry.address}/app:v1"
    done = stream_image("push", *confs, name, "--progress", "plain")
    assert done.returncode == 0, done.stderr
    digest = registry.repository("app").tags["v1"]
    assert done.stdout.decode() == f"{name[:-3]}@{digest}\n"
    *_, amd64, arm64, last = done.stderr.decode().splitlines()
    assert [line.partition(" sha256:")[0] for line in (amd64, arm64)] == [
        "linux/amd64",
        "linux/arm64",
    ]
    assert last.startswith(f"{name} {digest}: index of 2 images, sent 3 blobs (")
    again = stream_image("push", *confs, name, "--progress", "json")
    event = json.loads(again.stderr.splitlines()[-1])
    index = json.loads(registry.repository("app").manifests[digest][1])
    assert [(one["platform"], one["manifest"]) for one in event["images"]] == [
        (f"linux/{one['platform']['architecture']}", one["digest"]) for one in index["manifests"]
    ]
    refused = stream_image("push", "-", "-", name)
    assert (refused.returncode, refused.stdout) == (2, b"")
    assert b"standard input can only be read once" in refused.stderr


def test_nothing_to_send(registry: Registry, store: Store, stream_image: Command) -> None:
    """Without it the line for an image that is there already would have a rate of 0 B/s."""
    words = ["push", str(store.conf(["one"])), f"{registry.address}/app:v1"]
    stream_image(*words)
    said = stream_image(*words).stderr.decode()
    assert re.search(r", sent nothing, held 2 blobs \(.* kB\), in [\d.]+ s\n$", said)


def test_what_is_refused(registry: Registry, store: Store, stream_image: Command) -> None:
    """Without it a mistake could be a traceback, or show after everything is read."""
    conf = str(store.conf(["one"]))
    name = f"{registry.address}/app"
    for words, said in (
        ([f"{name}@sha256:{'0' * 64}"], b"write name:tag"),
        ([name, "--tag", "no tag"], b"stream-image: no tag: is not a tag: "),
        (["a/B"], b"stream-image: a/B: is not a repository name: a repository name is lower-case"),
        (["a/B:v"], b"stream-image: a/B:v: 'a/B' is not a repository name: "),
        ([name, "--from", "other.example/base"], b"another registry"),
        (
            [name, "--compress", "zstd-seekable"],
            b"--compress zstd-seekable: is not one of none, gzip, zstd\n",
        ),
        ([name, "--compress", "brotli"], b"--compress brotli: is not one of none, gzip, zstd\n"),
    ):
        done = stream_image("push", conf, *words)
        assert (done.returncode, done.stdout) == (2, b""), done.stderr
        assert said in done.stderr
        assert done.stderr.count(b"\n") == 1
    assert not registry.requests
    registry.script = lambda request, _: Answer(status=403) if request.method == "POST" else None
    done = stream_image("push", conf, name)
    assert (done.returncode, done.stdout) == (1, b"")
    assert done.stderr.startswith(f"stream-image: {name}: POST ".encode())
    assert done.stderr.count(b"\n") == 1


def test_the_registry_remembers(
    registry: Registry, store: Store, stream_image: Command, tmp_path: Path
) -> None:
    """Without it the options would have no effect, or a secret that CI does not give to strangers
    would let everybody be believed.
    """
    conf = str(store.conf(["one"]))
    name = f"{registry.address}/app"
    variable = "STREAM_IMAGE_REGISTRY_CACHE_SECRET"

    def annotations(tag: str, *words: str, secret: str | None = None) -> dict[str, str]:
        environment = {**os.environ, "XDG_CACHE_HOME": str(tmp_path)}
        environment |= {} if secret is None else {variable: secret}
        done = stream_image("push", conf, f"{name}:{tag}", *words, env=environment)
        assert done.returncode == 0, done.stderr
        warnings = [line for line in done.stderr.decode().splitlines() if "warning" in line]
        assert len(warnings) == (secret is not None and len(secret) < 16)
        assert all(f"not used, because ${variable} " in line for line in warnings)
        repository = registry.repository("app")
        _, data = repository.manifests[repository.tags[tag]]
        found: dict[str, str] = json.loads(data)["layers"][0].get("annotations", {})
        return found

    assert annotations("plain", secret="x" * 16) == {}
    opened = annotations("open", "--registry-cache")
    sealed = annotations("sealed", "--cache-from", ":open", secret="x" * 16)
    assert set(opened) == set(sealed) != set()
    assert opened != sealed
    for secret in ("", "x" * 15):
        assert annotations("short", "--registry-cache", secret=secret) == {}


def test_interrupted_while_the_registry_hangs(registry: Registry, store: Store) -> None:
    """Without it Ctrl-C would have no effect until a registry that hangs is given up."""
    hanging, end = threading.Event(), threading.Event()

    def hang(request: distribution.Request, _: distribution.Connection) -> None:
        if request.method in ("PATCH", "DELETE"):
            hanging.set()
            end.wait(60)

    registry.script = hang
    words = [f"{registry.address}/app:v1", "--compress", "none", "--progress", "none"]
    try:
        with Run("push", store.conf(["large"]), *words) as run:
            until(hanging.is_set)
            outcome, seconds = run.stopped_by(signal.SIGINT)
    finally:
        end.set()
    assert (outcome.status, outcome.stdout, outcome.stderr) == (128 + signal.SIGINT, b"", "")
    assert seconds < 20, "the registry was waited for"
    assert not registry.repository("app").tags


@pytest.mark.slow
def test_killed_at_any_time(
    registry: Registry, store: Store, tmp_path: Path, stream_image: Command
) -> None:
    """Without it a push that is killed could leave a tag that cannot be pulled, or a cache that
    spoils the next push.
    """
    store.file("large", os.urandom(5 << 20))
    conf = store.conf(["one"], ["large"])
    words = [f"{registry.address}/app:v1", "--compress", "gzip:1", "--progress", "none"]
    stream_image("push", str(conf), *words, "--no-digest-cache")
    digest = registry.repository("app").tags["v1"]
    total = len(registry.requests)
    for number in (2, total // 2, total - 3, total - 1):
        registry.repositories.clear()
        registry.requests.clear()
        reached = threading.Event()

        def hang(request: distribution.Request, _: distribution.Connection) -> Answer | None:
            if request.number < number:  # noqa: B023 — called in this turn alone
                return None
            reached.set()  # noqa: B023 — used in the same turn
            return Answer(raw=b"")

        registry.script = hang
        cache = ["--digest-cache", str(tmp_path / f"cache-{number}")]
        with Run("push", conf, *words, *cache) as run:
            until(reached.is_set)
            run.process.kill()
            run.wait()
        registry.script = None
        assert not registry.repository("app").tags
        done = stream_image("push", str(conf), *words, *cache)
        assert done.returncode == 0, done.stderr
        assert registry.repository("app").tags == {"v1": digest}

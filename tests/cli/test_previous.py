"""The previous build on the command line: which one is taken, and what is imported for it."""

import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import distribution
import pytest
from conftest import Run as Command
from distribution import Registry
from engines.scripted import ScriptedDocker, running

NAMES = ("aaa-1.1", "bbb-1.2", "ccc-1.3", "ddd-1.4")
CHANGE_NOTHING = ("GET", "HEAD")


@pytest.fixture
def registry() -> Iterator[Registry]:
    """Run an empty registry."""
    with distribution.running() as running:
        yield running


@pytest.fixture
def spec(tmp_path: Path) -> Path:
    """Return a specification of four paths, which are laid out one by one, but two by two if there
    are only two layers for them.
    """
    return write_spec(tmp_path)


def write_spec(directory: Path, **keys: object) -> Path:
    """Write the specification with these keys."""
    store = directory / "store"
    graph: list[dict[str, Any]] = []
    for number, name in enumerate(NAMES):
        path = store / f"{str(number) * 32}-{name}"
        path.mkdir(parents=True, exist_ok=True)
        (path / name).write_text(name)
        references = [item["path"] for item in graph[:1]]
        graph.append({"path": str(path), "narSize": 1_000_000, "references": references})
    (directory / "graph.json").write_text(json.dumps(graph))
    document = {
        "name": "app",
        "architecture": "amd64",
        "store_dir": str(store),
        "references_graph": str(directory / "graph.json"),
        "contents": [item["path"] for item in graph],
        **keys,
    }
    (directory / "spec.json").write_text(json.dumps(document))
    return directory / "spec.json"


def layers_in(registry: Registry, tag: str) -> list[str]:
    """Return the history of the image with a tag."""
    repository = registry.repository("app")
    _, manifest = repository.manifests[repository.tags[tag]]
    config = json.loads(repository.blobs[json.loads(manifest)["config"]["digest"]])
    return [item["comment"] for item in config["history"]]


@pytest.mark.slow
def test_push_takes_what_has_the_tag(
    registry: Registry, tmp_path: Path, stream_image: Command
) -> None:
    """Without it each push of a specification would lay the image out afresh."""
    name = f"{registry.address}/app"

    def push(*words: str, **keys: object) -> list[str]:
        ended = stream_image("push", write_spec(tmp_path, **keys), *words)
        assert ended.returncode == 0, ended.stderr
        assert b"warning" not in ended.stderr
        tag = ended.stdout.decode().partition("@")[2].strip()
        registry.repository("app").tags["last"] = tag
        return layers_in(registry, "last")

    few = push(f"{name}:v1", maxLayers=3)
    assert len(few) < len(push(f"{name}:v2")) == 5
    assert push(f"{name}:v1") == few
    # Of an image whose tag is yet to be derived, or given in the specification.
    assert push(name, "--tag", "v1") == few
    assert push(name, tag="v1") == few
    assert push(f"{name}:v3", "--previous", f"docker://{name}:v1") == few
    assert len(push(f"{name}:v1", "--no-previous")) == 5


def test_push_of_a_conf_looks_for_nothing(
    registry: Registry, spec: Path, tmp_path: Path, stream_image: Command
) -> None:
    """Without it a conf, which has its layers, would cost requests."""
    conf = tmp_path / "conf.json"
    assert stream_image("plan", spec, "-o", conf).returncode == 0
    assert stream_image("push", conf, f"{registry.address}/app:v1").returncode == 0
    assert registry.log.count("GET /v2/app/manifests/v1") == 1
    del registry.requests[:]
    # With a strategy that keeps no layers there is nothing to look for, either.
    auto = write_spec(tmp_path, layering="auto")
    ended = stream_image("push", auto, f"{registry.address}/app:v1")
    assert ended.returncode == 0
    assert b"warning" not in ended.stderr
    assert registry.log.count("GET /v2/app/manifests/v1") == 1


def test_what_is_said_of_a_previous_build(
    registry: Registry, spec: Path, tmp_path: Path, stream_image: Command
) -> None:
    """Without it a mistake in --previous would go unnoticed, or a first build be full of warnings."""
    name = f"docker://{registry.address}/app:v1"
    absent = stream_image("plan", spec, "--previous", name)
    assert absent.returncode == 0
    assert absent.stderr.decode() == (
        f"stream-image: warning: {name}: is not there, or has no image for linux/amd64; planned"
        " without the layers of a previous build\n"
    )
    for place, status in (
        ("docker://127.0.0.1:1/app:v1", 1),
        ("docker://no name", 2),
        (str(tmp_path / "missing"), 2),
    ):
        ended = stream_image("plan", spec, "--previous", place)
        assert (ended.returncode, ended.stdout) == (status, b"")
        assert ended.stderr.count(b"\n") == 1
    conf = tmp_path / "conf.json"
    assert stream_image("plan", spec, "-o", conf).returncode == 0
    unused = stream_image("digests", conf, "--previous", name, "-q")
    assert unused.stderr.decode() == (
        f"stream-image: warning: --previous {name}: not used, as a conf has its layers\n"
    )
    assert {request.method for request in registry.requests} <= set(CHANGE_NOTHING)


def test_verified_against_a_specification_with_its_previous_build(
    tmp_path: Path, stream_image: Command
) -> None:
    """Without it an image of a specification could not be verified but for the first time."""
    few, archive = tmp_path / "few.json", tmp_path / "image.tar"
    assert stream_image("plan", write_spec(tmp_path, maxLayers=3), "-o", few).returncode == 0
    spec = write_spec(tmp_path)
    made = stream_image(spec, "--previous", few, "--repo-tag", "app:v1", "-o", archive)
    assert made.returncode == 0
    verify = ("verify", archive, "--conf", spec, "--repo-tag", "app:v1", "--previous")
    assert stream_image(*verify, few).returncode == 0
    assert stream_image(*verify, archive).returncode == 0
    assert stream_image(*verify, "").returncode == 1


@pytest.mark.slow
def test_nothing_is_imported_for_it_unless_it_is_needed(spec: Path, tmp_path: Path) -> None:
    """Without it every start would take longer for what few need."""
    conf = tmp_path / "conf.json"
    for words in (
        [str(conf), "-o", str(tmp_path / "image.tar")],
        ["plan", str(spec), "-o", str(conf)],
    )[::-1]:
        ended = subprocess.run(
            [sys.executable, "-X", "importtime", "-m", "stream", *words],
            capture_output=True, check=True, text=True, env=dict(os.environ),
        )  # fmt: skip
        imported = {line.rpartition("|")[2].strip() for line in ended.stderr.splitlines()}
        assert "stream.tools.planned" in imported
        unwanted = {
            "stream.tools.existing", "stream.tools.previous", "stream.oci.history",
            "stream.registry.client", "stream.engines.opening",
        }  # fmt: skip
        assert not imported & unwanted


def test_push_all_takes_what_has_each_tag(
    registry: Registry, tmp_path: Path, stream_image: Command
) -> None:
    """Without it a fleet of images would be laid out afresh each time."""
    few = write_spec(tmp_path, maxLayers=3, tag="v1")
    assert stream_image("push", few, f"{registry.address}/app:v1").returncode == 0
    layers = layers_in(registry, "v1")
    directory = tmp_path / "specs"
    directory.mkdir()
    (directory / "app.json").write_bytes(write_spec(tmp_path, tag="v1").read_bytes())
    line = f"{directory}/app.json {registry.address}/app:v1\n".encode()
    for words, given in (([directory, registry.address], b""), (["-"], line)):
        ended = stream_image("push-all", *words, stdin=given)
        assert ended.returncode == 0, ended.stderr
        assert layers_in(registry, "v1") == layers
    ended = stream_image("push-all", directory, registry.address, "--no-previous")
    assert ended.returncode == 0
    assert layers_in(registry, "v1") != layers


@pytest.mark.slow
def test_load_takes_what_has_the_tag(
    tmp_path: Path, stream_image: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without it each load of a specification would lay the image out afresh."""
    few = tmp_path / "few.json"
    assert stream_image("plan", write_spec(tmp_path, maxLayers=3), "-o", few).returncode == 0
    layers = json.loads(few.read_bytes())["store_layers"]
    history = [{"Comment": f"store paths: {layer}"} for layer in layers[::-1]]
    there = {"Os": "linux", "Architecture": "amd64", "RootFS": {"Layers": ["x"] * len(layers)}}
    answers = {"/images/app:v1/json": there, "/images/app:v1/history": history}
    answers |= {path.replace(":v1", ":latest"): answer for path, answer in answers.items()}
    docker = ScriptedDocker(socket=tmp_path / "docker.sock")
    docker.garble = lambda path: json.dumps(answers[path]).encode() if path in answers else None
    monkeypatch.setenv("DOCKER_HOST", docker.url)

    def load(*words: str, **keys: object) -> int:
        ended = stream_image("load", write_spec(tmp_path, **keys), "--dry-run", *words)
        assert ended.returncode == 0, ended.stderr
        assert b"warning" not in ended.stderr
        (found,) = re.findall(rb": (\d+) layers", ended.stderr)
        return int(found)

    with running(docker):
        assert load("--tag", "app:v1") == load(tag="v1") == len(layers) + 1
        assert load("--tag", "app:v1", "--no-previous") == load(tag="v2") == len(NAMES) + 1
        # A derived tag will be a new one: what is called latest has its layers.
        assert load() == len(layers) + 1


def test_images_without_store_paths_are_no_news(
    registry: Registry, tmp_path: Path, stream_image: Command
) -> None:
    """Who builds without Nix would be warned at every push of what is as it should be."""
    (tmp_path / "hello").write_text("hello")
    spec = tmp_path / "spec.json"
    spec.write_text(json.dumps({"name": "app", "tag": "1", "files": {"/hello": "hello"}}))
    for _ in range(2):
        done = stream_image("push", "--quiet", str(spec), f"{registry.address}/app:1")
        assert (done.returncode, done.stderr) == (0, b"")
    place = f"docker://{registry.address}/app:1"
    asked = stream_image("plan", str(spec), "--previous", place)
    assert b"its history names no store paths" in asked.stderr

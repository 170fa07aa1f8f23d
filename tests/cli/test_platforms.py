"""A specification for several platforms, from the plan to the archive."""

import io
import json
import tarfile
from pathlib import Path
from typing import Any

import pytest
from conftest import Run as Command
from support import Store


@pytest.fixture
def store(tmp_path: Path) -> Store:
    """Return a store with a path for each of two platforms."""
    store = Store.below(tmp_path)
    for name in ("one", "two"):
        store.file(name, name.encode())
    return store


@pytest.fixture
def spec(store: Store) -> dict[str, Any]:
    """Return a specification without a tag."""
    return {
        "name": "app",
        "store_dir": str(store.path("one").parent),
        "config": {"User": "1"},
        "platforms": [
            {"architecture": "amd64", "roots": [str(store.path("one"))]},
            {"architecture": "arm", "variant": "v6", "roots": [str(store.path("two"))]},
        ],
    }


def index_of(archive: bytes) -> tuple[str, list[dict[str, Any]]]:
    """Return the name of an OCI archive's only index, and the configs of its images."""
    with tarfile.open(fileobj=io.BytesIO(archive)) as tar:
        read = {info.name: tar.extractfile(info).read() for info in tar if not info.isdir()}  # type: ignore[union-attr]

    def blob(descriptor: dict[str, Any]) -> Any:
        return json.loads(read[f"blobs/sha256/{descriptor['digest'][7:]}"])

    (top,) = json.loads(read["index.json"])["manifests"]
    configs = [blob(blob(one)["config"]) for one in blob(top)["manifests"]]
    return top["annotations"]["io.containerd.image.name"], configs


@pytest.mark.slow
def test_planned_and_streamed(
    spec: dict[str, Any], store: Store, tmp_path: Path, stream_image: Command
) -> None:
    """Without it an image for several platforms would take a specification, a conf and a tag for
    each, which all have to agree.
    """
    data = json.dumps(spec).encode()
    planned = stream_image("plan", "-", stdin=data)
    assert planned.returncode == 0, planned.stderr
    conf = json.loads(planned.stdout)
    assert [one["store_layers"] for one in conf["platforms"]] == [
        [[str(store.path(name))]] for name in ("one", "two")
    ]
    assert conf["config"] == spec["config"]
    (tmp_path / "conf.json").write_bytes(planned.stdout)
    words = ["-q", "--format", "oci-archive"]
    archive = stream_image(tmp_path / "conf.json", *words)
    assert archive.returncode == 0, archive.stderr
    name, configs = index_of(archive.stdout)
    assert name == f"docker.io/library/{conf['repo_tag']}"
    assert [(one["architecture"], one.get("variant")) for one in configs] == [
        ("amd64", None), ("arm", "v6"),
    ]  # fmt: skip
    wrapper = tmp_path / "stream-app"
    assert stream_image("wrap", tmp_path / "conf.json", "--embed", "-o", wrapper).returncode == 0
    for way in (["-", "-q"], ["merge", "-", *words], [wrapper, *words]):
        assert stream_image(*way, stdin=data).stdout == archive.stdout


def test_the_tag_is_of_all_platforms(
    spec: dict[str, Any], store: Store, stream_image: Command
) -> None:
    """Without it a change of one platform could leave the tag as it is, or each platform have its own."""

    def tag_of(document: dict[str, Any]) -> str:
        planned = stream_image("plan", "-", stdin=json.dumps(document).encode())
        assert planned.returncode == 0, planned.stderr
        return str(json.loads(planned.stdout)["repo_tag"])

    before = tag_of(spec)
    store.path("two").write_bytes(b"changed")
    assert tag_of(spec) != before
    assert tag_of(spec | {"tag": "v1"}) == "app:v1"


def test_what_is_refused(spec: dict[str, Any], tmp_path: Path, stream_image: Command) -> None:
    """Without it one of several images would be taken without a word."""
    path = tmp_path / "spec.json"
    path.write_text(json.dumps(spec))
    for words, wrong in (
        (
            [path, "--format", "docker-archive"],
            "docker-archive: holds one platform; several need oci-archive",
        ),
        (
            ["explain", path],
            f"{path}: platforms: there are several, and only one image can be used",
        ),
        (["export", path], f"{path}: platforms: there are several, and only one image can be used"),
    ):
        done = stream_image(*words)
        assert (done.returncode, done.stdout) == (2, b""), done.stderr
        assert done.stderr.decode().startswith(f"stream-image: {wrong}")
    spec["platforms"][1]["maxLayers"] = "x"
    path.write_text(json.dumps(spec))
    done = stream_image("plan", path)
    assert done.stderr.decode().startswith(
        f"stream-image: {path}: platforms[1]: maxLayers: must be"
    )

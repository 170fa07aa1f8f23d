"""`--iidfile` and `--metadata-file`: what scripts learn about an image that was made."""

import hashlib
import json
import os
import tarfile
from pathlib import Path
from typing import Any

import distribution
import pytest
from engines.scripted import ScriptedDocker, running
from support import Store

from stream.cli.main import main


@pytest.fixture
def store(tmp_path: Path) -> Store:
    """Return a store with one path."""
    store = Store.below(tmp_path)
    store.file("one/file", b"content")
    return store


@pytest.fixture
def files(tmp_path: Path) -> list[str]:
    """Return the options, with a file for each."""
    return ["--iidfile", str(tmp_path / "id"), "--metadata-file", str(tmp_path / "metadata")]


def read(files: list[str]) -> tuple[str, dict[str, Any]]:
    """Return what the files of both options hold."""
    return Path(files[1]).read_text(), json.loads(Path(files[3]).read_bytes())


def member(archive: Path, name: str) -> bytes:
    """Return a member of an archive."""
    with tarfile.open(archive) as tar:
        file = tar.extractfile(name)
        assert file is not None
        return file.read()


def test_of_an_archive(store: Store, tmp_path: Path, files: list[str]) -> None:
    """Without it a script could not run the very image that it has streamed."""
    image = tmp_path / "image.tar"
    assert main([str(store.conf(["one"])), "-q", "-o", str(image), *files]) == 0
    (manifest,) = json.loads(member(image, "manifest.json"))
    image_id = f"sha256:{hashlib.sha256(member(image, manifest['Config'])).hexdigest()}"
    (tag,) = manifest["RepoTags"]
    assert read(files) == (image_id, {"containerimage.config.digest": image_id, "image.name": tag})


def test_of_an_oci_archive(store: Store, tmp_path: Path, files: list[str]) -> None:
    """Without it the digest that a registry will show could not be compared with the one made."""
    image = tmp_path / "image.tar"
    words = ["-q", "--format", "oci-archive", "-o", str(image), *files]
    assert main([str(store.conf(["one"])), *words]) == 0
    (described,) = json.loads(member(image, "index.json"))["manifests"]
    manifest = json.loads(member(image, f"blobs/sha256/{described['digest'][7:]}"))
    image_id, metadata = read(files)
    assert image_id == manifest["config"]["digest"] == metadata["containerimage.config.digest"]
    assert metadata["containerimage.digest"] == described["digest"]
    assert metadata["containerimage.descriptor"] == {
        key: described[key] for key in ("mediaType", "digest", "size")
    }


def test_of_several_platforms(store: Store, tmp_path: Path, files: list[str]) -> None:
    """Without it the index in an archive would be reported with another digest, or with none."""
    conf, image = store.conf(["one"]), tmp_path / "image.tar"
    platforms = [{"architecture": "amd64"}, {"architecture": "arm", "variant": "v7"}]
    conf.write_text(json.dumps(json.loads(conf.read_bytes()) | {"platforms": platforms}))
    assert main([str(conf), "-q", "-o", str(image), *files]) == 0
    (described,) = json.loads(member(image, "index.json"))["manifests"]
    image_id, metadata = read(files)
    assert image_id == metadata["containerimage.digest"] == described["digest"]
    assert metadata["containerimage.descriptor"]["mediaType"] == described["mediaType"]
    assert metadata["containerimage.descriptor"]["size"] == described["size"]
    assert "containerimage.config.digest" not in metadata


def test_of_a_push(store: Store, files: list[str]) -> None:
    """Without it a deployment could not name the image that was pushed, nor all its tags."""
    with distribution.running() as registry:
        name = f"{registry.address}/app"
        words = ["push", str(store.conf(["one"])), f"{name}:v1", "-q", "-t", "latest", *files]
        assert main([*words, "--dry-run"]) == 0
        assert not Path(files[1]).exists()
        assert not Path(files[3]).exists()
        assert main(words) == 0
        digest = registry.repository("app").tags["v1"]
        media_type, data = registry.repository("app").manifests[digest]
    image_id = json.loads(data)["config"]["digest"]
    described = {"mediaType": media_type, "digest": digest, "size": len(data)}
    assert read(files) == (
        image_id,
        {
            "containerimage.config.digest": image_id,
            "containerimage.descriptor": described,
            "containerimage.digest": digest,
            "image.name": f"{name}:v1,{name}:latest",
        },
    )


def test_of_a_load(store: Store, tmp_path: Path, files: list[str]) -> None:
    """Without it a script could run another image that has got the tag meanwhile."""
    with running(ScriptedDocker(socket=tmp_path / "docker.sock")) as docker:
        words = ["load", str(store.conf(["one"])), "-q", "--engine", "docker", "--host", docker.url]
        assert main([*words, *files]) == 0
    ((tag, image_id),) = docker.tags.items()
    assert read(files) == (
        image_id,
        {"containerimage.config.digest": image_id, "image.name": tag},
    )


def test_failure_leaves_the_files(store: Store, tmp_path: Path, files: list[str]) -> None:
    """Without it a script could take the image of the run before for that of a failed one."""
    os.mkfifo(store.path("one/fifo"))
    conf = store.conf(["one"])
    for name in (files[1], files[3]):
        Path(name).write_text("before")
    assert main([str(conf), "-q", "-o", str(tmp_path / "image.tar"), *files]) == 1
    assert [Path(name).read_text() for name in (files[1], files[3])] == ["before"] * 2
    assert not (tmp_path / "image.tar").exists()


def test_file_that_cannot_be_written(store: Store, tmp_path: Path) -> None:
    """Without it a mistake in its name would be noticed only after the whole image has passed."""
    words = ["-q", "-o", str(tmp_path / "image.tar"), "--iidfile", str(tmp_path / "none" / "id")]
    assert main([str(store.conf(["one"])), *words]) == 1
    assert not (tmp_path / "image.tar").exists()

"""A docker-archive with legacy members in real consumers."""

import json
import subprocess
import tarfile
from pathlib import Path

import pytest

from .consumer import Consumer, Runner
from .daemons import Docker
from .images import REPO_TAG, BuiltImage, image_id, producer

pytestmark = pytest.mark.consumers
LEGACY = ("--format", "docker-archive-legacy")


@pytest.mark.parametrize("name", ["docker", "podman", "skopeo"])
def test_loads(
    name: str, request: pytest.FixtureRequest, image: BuiltImage, tmp_path: Path
) -> None:
    """The members that nobody has read since 2016 do not keep anybody from loading an image with one
    new layer, as dockerTools' buildImage makes it, and its programs run from that layer.
    """
    document = json.loads(image.conf.read_bytes())
    paths = [path for layer in document["store_layers"] for path in layer]
    document |= {"store_layers": [], "customisation_store_paths": paths}
    (tmp_path / "conf.json").write_text(json.dumps(document))
    archive = tmp_path / "image.tar"
    subprocess.run(producer(tmp_path / "conf.json", "-q", *LEGACY, "-o", str(archive)), check=True)
    consumer: Consumer = request.getfixturevalue(name)
    consumer.load_file(archive)
    assert consumer.image_id(REPO_TAG) == image_id(archive)
    if isinstance(consumer, Runner):
        ran = consumer.run(REPO_TAG)
        assert ran.stdout == image.greeting("hello"), ran.stderr


def test_docker_reads_the_legacy_members(docker: Docker, image: BuiltImage, tmp_path: Path) -> None:
    """Docker finds the layers of an image in the legacy members alone, the same layer twice
    included.
    """
    base = tmp_path / "base.tar"
    docker_archive = tmp_path / "image.tar"
    document = json.loads(image.conf.read_bytes())
    for path, conf in (
        (base, document),
        (docker_archive, {**document, "from_image": str(base), "store_layers": []}),
    ):
        (tmp_path / "conf.json").write_text(json.dumps(conf))
        made = producer(tmp_path / "conf.json", "-q", *LEGACY, "-o", str(path))
        subprocess.run(made, check=True)
    without = tmp_path / "without.tar"
    with tarfile.open(docker_archive) as tar, tarfile.open(without, "w") as out:
        for info in tar:
            if "/" in info.name or info.name == "repositories":
                out.addfile(info, tar.extractfile(info) if info.isfile() else None)
    loaded = docker.load_file(without)
    assert len(loaded.images) == 1
    assert docker.image_id(REPO_TAG) != image_id(
        docker_archive
    )  # made by docker, with a config of its own
    ran = docker.run(REPO_TAG)
    assert ran.stdout == image.greeting("hello"), ran.stderr

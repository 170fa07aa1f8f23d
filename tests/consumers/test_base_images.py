"""Base images saved by real tools, in chains of three, each an image of ours on the previous one."""

import json
import subprocess
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest

from .consumer import Runner
from .daemonless import Podman, Skopeo
from .daemons import Docker
from .images import (
    REPO_TAG,
    WORKING_DIR,
    BuiltImage,
    customisation_layer,
    image_config,
    producer,
)
from .isolation import isolated
from .requirements import require

pytestmark = pytest.mark.consumers

LEVELS = range(4)
"""The last one is run. The others become base images."""

Save = Callable[[Path, Path], None]


def docker_save(conf: Path, target: Path) -> None:
    """Have docker load an image and save it."""
    require(Docker.programs)
    with isolated(target.parent) as namespaces:
        docker = Docker(namespaces)
        docker.load(producer(conf))
        docker.output("docker", "save", f"--output={target}", docker.reference(REPO_TAG))


def podman_save(archive_format: str, conf: Path, target: Path) -> None:
    """Have podman load an image and save it."""
    require(Podman.programs)
    with isolated(target.parent) as namespaces:
        podman = Podman(namespaces)
        podman.load(producer(conf))
        form, output = f"--format={archive_format}", f"--output={target}"
        podman.output("podman", "save", "--quiet", form, output, podman.reference(REPO_TAG))


def skopeo_copy(transport: str, conf: Path, target: Path) -> None:
    """Have skopeo copy an image, which compresses the layers of OCI images."""
    require(Skopeo.programs)
    with isolated(target.parent) as namespaces:
        skopeo = Skopeo(namespaces)
        skopeo.load(producer(conf))
        skopeo.copy(f"{transport}:{target}:{REPO_TAG}")


def ourselves(archive_format: str, compression: str, conf: Path, target: Path) -> None:
    """Write the image."""
    options = ("-q", "--format", archive_format, "--compress", compression, "-o", str(target))
    subprocess.run(producer(conf, *options), check=True)


SAVES: dict[str, Save] = {
    "docker save": docker_save,
    "podman save, docker-archive": partial(podman_save, "docker-archive"),
    "podman save, oci-archive": partial(podman_save, "oci-archive"),
    "skopeo copy, docker-archive": partial(skopeo_copy, "docker-archive"),
    "skopeo copy, oci": partial(skopeo_copy, "oci"),
    "skopeo copy, oci-archive": partial(skopeo_copy, "oci-archive"),
    "ours, docker-archive": partial(ourselves, "docker-archive", "none"),
    "ours, docker-archive, zstd": partial(ourselves, "docker-archive", "zstd"),
    "ours, docker-archive, zstd-seekable": partial(ourselves, "docker-archive", "zstd-seekable"),
    "ours, oci-archive": partial(ourselves, "oci-archive", "none"),
    "ours, oci-archive, gzip": partial(ourselves, "oci-archive", "gzip"),
}


@pytest.fixture(scope="session")
def layers(image: BuiltImage, tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """Return the diff_ids of all levels together, each level from an image of its own."""
    directory = tmp_path_factory.mktemp("levels")
    diff_ids = []
    for level in LEVELS:
        archive = directory / f"{level}.tar"
        ourselves("docker-archive", "none", write_level(image, directory, level, None), archive)
        diff_ids += image_config(archive)["rootfs"]["diff_ids"]
    return diff_ids


def write_level(image: BuiltImage, directory: Path, level: int, base: Path | None) -> Path:
    """Write the conf of one level: some of the store, and a top layer that has something to say.

    What runs in the end needs all of them: the program and the name of its motto are of level 0, the name of the
    directory that it counts is of level 1.
    """
    conf = json.loads(image.conf.read_bytes())
    tree, mottos, programs = conf["store_layers"]
    entries: dict[str, bytes | str | None] = {
        "srv": None,
        "motto": f"said by level {level}".encode(),
        "levels": None,
        f"levels/{level}": b"",
    }
    if level == 0:
        entries["levels/unwanted"] = b""
    if level == 1:
        entries["levels/.wh.unwanted"] = b""
    conf |= {
        "from_image": str(base) if base else None,
        "store_layers": [[programs], [tree], [mottos], []][level],
        "customisation_layer": str(customisation_layer(directory / f"top-{level}", entries)),
    }
    conf["config"]["Env"] = [["MOTTO=/motto"], ["TREE=/levels"], [], []][level] + [f"LEVEL={level}"]
    path = directory / f"{level}.json"
    path.write_text(json.dumps(conf))
    return path


@pytest.mark.parametrize(
    ("saves", "name"),
    [
        (["docker save"] * 3, "docker"),
        (["podman save, docker-archive"] * 3, "podman"),
        (["podman save, oci-archive"] * 3, "podman"),
        (["skopeo copy, docker-archive"] * 3, "podman"),
        (["skopeo copy, oci"] * 3, "containerd"),
        (["skopeo copy, oci-archive"] * 3, "containerd"),
        (["ours, docker-archive"] * 3, "docker"),
        (["ours, docker-archive, zstd"] * 3, "podman"),
        (["ours, docker-archive, zstd-seekable"] * 3, "containerd"),
        (["ours, oci-archive"] * 3, "podman"),
        (["ours, oci-archive, gzip"] * 3, "containerd"),
        (["skopeo copy, oci", "docker save", "podman save, oci-archive"], "docker"),
        (["podman save, docker-archive", "ours, oci-archive, gzip", "docker save"], "containerd"),
    ],
    ids=lambda value: value if isinstance(value, str) else " < ".join(dict.fromkeys(value)),
)
def test_chain(  # noqa: PLR0913, PLR0917 — fixtures
    saves: list[str],
    name: str,
    request: pytest.FixtureRequest,
    image: BuiltImage,
    layers: list[str],
    tmp_path: Path,
) -> None:
    """Without it a base image from a real tool could lose a layer, its position or its variables on the way up."""
    runner: Runner = request.getfixturevalue(name)
    base = None
    for level, save in enumerate(saves):
        conf = write_level(image, tmp_path, level, base)
        base = tmp_path / f"base-{level}"
        SAVES[save](conf, base)
    archive = tmp_path / "image.tar"
    ourselves("docker-archive", "none", write_level(image, tmp_path, LEVELS[-1], base), archive)

    loaded = runner.load_file(archive)
    ran = runner.run(REPO_TAG)

    config = image_config(archive)
    assert len(layers) == 7
    assert config["rootfs"]["diff_ids"] == layers
    assert config["config"]["Env"] == ["MOTTO=/motto", "LEVEL=3", "TREE=/levels"]
    assert set(loaded.images) == {runner.reference(REPO_TAG)}
    said = f"hello in {WORKING_DIR}: said by level 3 ({len(LEVELS)})\n"
    assert (ran.returncode, ran.stdout) == (0, said), ran.stderr

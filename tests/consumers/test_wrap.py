"""Executables of `stream-image wrap`, loaded into real consumers."""

import json
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest

from .daemonless import Skopeo
from .daemons import Docker
from .images import REPO_TAG, BuiltImage

pytestmark = pytest.mark.consumers


def _executable(image: BuiltImage, directory: Path, *options: str) -> Path:
    """Return the wrapped conf of the image."""
    program = directory / "stream-greeter"
    subprocess.run(
        (sys.executable, "-m", "stream", "wrap", str(image.conf), "-o", str(program), *options),
        check=True,
    )
    return program


@pytest.mark.parametrize("options", [(), ("--embed",)], ids=["named", "embedded"])
def test_docker_loads_and_runs(
    docker: Docker, image: BuiltImage, expected_id: str, options: Sequence[str], tmp_path: Path
) -> None:
    """Without it `./result | docker load`, which users know, could give another image."""
    program = str(_executable(image, tmp_path, *options))
    assert dict(docker.load((program,)).images) == {REPO_TAG: expected_id}
    again = docker.load((program, "--repo_tag", "other:two")).images
    assert dict(again) == {REPO_TAG: expected_id, "other:two": expected_id}
    ran = docker.run("other:two")
    assert (ran.returncode, ran.stdout) == (0, image.greeting("hello")), ran.stderr


def test_skopeo_copies(skopeo: Skopeo, image: BuiltImage, expected_id: str, tmp_path: Path) -> None:
    """Without it options that a consumer needs could be lost on their way through the executable."""
    program = str(_executable(image, tmp_path, "--embed", "-t", "other:two"))
    loaded = skopeo.load_unfiltered((program, "--compress", "store"))
    assert set(loaded.images.values()) == {expected_id}
    manifest = skopeo.isolation.path(skopeo.blobs) / "manifest.json"
    assert json.loads(manifest.read_bytes())["config"]["digest"] == expected_id

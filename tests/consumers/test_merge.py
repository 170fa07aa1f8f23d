"""Merged archives in real consumers."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from .consumer import Runner
from .images import BuiltImage, image_id, producer

pytestmark = pytest.mark.consumers


@pytest.mark.parametrize("name", ["docker", "podman", "containerd"])
def test_all_images_and_tags(
    request: pytest.FixtureRequest, name: str, image: BuiltImage, tmp_path: Path
) -> None:
    """Images that share layers, from archives of different kinds, are loaded unchanged and with all tags."""
    runner = request.getfixturevalue(name)
    assert isinstance(runner, Runner)
    conf = json.loads(image.conf.read_text())
    conf["config"]["Cmd"][1] = "other"
    other = tmp_path / "other.json"
    other.write_text(json.dumps(conf))
    ids: dict[str, str] = {}
    for path, tag, options in (
        (image.conf, "greeter:one", ["--compress", "zstd"]),
        (image.conf, "greeter:again", []),
        (other, "other:two", ["--format", "oci-archive", "--compress", "gzip"]),
    ):
        archive = tmp_path / f"{len(ids)}.tar"
        subprocess.run([*producer(path, "-q", "-t", tag, "-o", str(archive)), *options], check=True)
        plain = tmp_path / "plain.tar"
        subprocess.run([*producer(path, "-q", "-t", tag, "-o", str(plain))], check=True)
        ids[tag] = image_id(plain)
    assert len(set(ids.values())) == 2
    loaded = runner.load(
        (sys.executable, "-m", "stream", "merge", "-q", *(f"{tmp_path}/{n}.tar" for n in range(3)))
    )
    assert dict(loaded.images) == {runner.reference(tag): found for tag, found in ids.items()}
    for tag, said in (("greeter:again", "hello"), ("other:two", "other")):
        ran = runner.run(tag, *(() if name != "containerd" else (image.program, said)))
        assert ran.stdout == image.greeting(said), ran.stderr

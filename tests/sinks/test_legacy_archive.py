"""The legacy members of a docker-archive, read as Docker before 1.10 did: from `repositories` down
the chain of parents, without `manifest.json`.
"""

import hashlib
import io
import json
import re
import tarfile
from pathlib import Path
from typing import Any

import orjson
import pytest
import trees
from handmade import Base, layer_tar
from parity import conf_of

import stream
from stream.tools.merge import merge
from stream.tools.verify import verify

FIRST, SECOND = layer_tar({"a": b"a" * 700}), layer_tar({"b": b"b"})
TWICE = Base(layers=[FIRST, SECOND, FIRST, FIRST], config={"Env": ["A=1"]})


class Reading:
    """An archive with legacy members, as CPython's tarfile reads it."""

    def __init__(self, data: bytes) -> None:
        with tarfile.open(fileobj=io.BytesIO(data)) as tar:
            infos = tar.getmembers()
            self.members = {info.name: tar.extractfile(info).read() for info in infos}  # type: ignore[union-attr]
        assert len(self.members) == len(infos), "a member name twice"
        assert infos[-1].name == "manifest.json"
        self.repositories = json.loads(self.members["repositories"])

    def chain(self, name: str, tag: str) -> list[dict[str, Any]]:
        """Return the layers of a tag, top first; `data` is the tar of each."""
        layer_id, found = self.repositories[name][tag], []
        while layer_id:
            assert re.fullmatch("[0-9a-f]{64}", layer_id)
            assert self.members[f"{layer_id}/VERSION"] == b"1.0"
            layer = json.loads(self.members[f"{layer_id}/json"])
            assert layer["id"] == layer_id
            found.append({**layer, "data": self.members[f"{layer_id}/layer.tar"]})
            layer_id = layer.get("parent")
        return found


def diff_ids(chain: list[dict[str, Any]]) -> list[str]:
    """Return the digests of a chain's layers, bottom to top."""
    return ["sha256:" + hashlib.sha256(layer["data"]).hexdigest() for layer in reversed(chain)]


@pytest.fixture
def conf(store_dir: bytes, tmp_path: Path) -> dict[str, Any]:
    """Return a conf with a store layer on a base that lists a layer three times."""
    trees.build(store_dir + b"/0", trees.File(0o644, 700, 1))
    (tmp_path / "base.tar").write_bytes(TWICE.docker_archive())
    return conf_of(store_dir, "0", from_image=str(tmp_path / "base.tar"), config={"Cmd": ["/x"]})


def written(conf: dict[str, Any]) -> tuple[bytes, stream.Image]:
    """Return the archive of `conf`, and its record."""
    file = io.BytesIO()
    parsed = stream.parse_conf(orjson.dumps(conf))
    image = stream.write_image(parsed, file, archive_format="docker-archive-legacy")
    return file.getvalue(), image


def test_chain(conf: dict[str, Any], tmp_path: Path) -> None:
    """The chain of parents has the image's layers, each with an ID of its own, and the container
    config is that of the top layer.
    """
    archive, image = written(conf)
    chain = Reading(archive).chain("test", "1")
    assert diff_ids(chain) == [layer.diff_id for layer in image.layers]
    assert len({layer["id"] for layer in chain}) == 5
    assert chain[0]["config"] == json.loads(image.config)["config"]
    assert [layer for layer in chain[1:] if "config" in layer] == []
    assert [layer["Size"] for layer in chain] == [len(layer["data"]) for layer in chain]
    (tmp_path / "image.tar").write_bytes(archive)
    assert verify(str(tmp_path / "image.tar")).faults == ()


def test_same_image(conf: dict[str, Any]) -> None:
    """The legacy members do not change the image."""
    plain = stream.write_image(stream.parse_conf(orjson.dumps(conf)), io.BytesIO())
    assert written(conf)[1].image_id == plain.image_id


def test_merged(conf: dict[str, Any], tmp_path: Path) -> None:
    """Images that share layers, above other parents and with other configs, have chains of their
    own in one archive; a tag that occurs twice is the last one's.
    """
    other = {**conf, "repo_tag": "test:2", "config": {"Cmd": ["/y"]}}
    upper = {"repo_tag": "registry.example:5000/a/b:3", "architecture": "amd64"}
    (tmp_path / "top.tar").write_bytes(Base(layers=[SECOND, FIRST]).docker_archive())
    files = []
    images = []
    for number, one in enumerate(
        (
            conf,
            other,
            {**upper, "from_image": str(tmp_path / "top.tar")},
            {**other, "repo_tag": "test:1"},
        )
    ):
        archive, image = written(one)
        files.append(str(tmp_path / f"{number}.tar"))
        Path(files[-1]).write_bytes(archive)
        images.append(image)
    out = io.BytesIO()
    merge(files, out, archive_format="docker-archive-legacy")
    found = Reading(out.getvalue())
    for image, (name, tag), command in (
        (images[3], ("test", "1"), ["/y"]),
        (images[1], ("test", "2"), ["/y"]),
        (images[2], ("registry.example:5000/a/b", "3"), None),
    ):
        chain = found.chain(name, tag)
        assert diff_ids(chain) == [layer.diff_id for layer in image.layers]
        assert chain[0]["config"].get("Cmd") == command


def test_image_without_layers() -> None:
    """An image without layers has no top layer that a tag could name."""
    archive, _ = written({"repo_tag": "test:1", "architecture": "amd64"})
    assert Reading(archive).repositories == {}

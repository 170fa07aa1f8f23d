"""A base image as a tree on disk."""

import os
import subprocess
import tarfile
from datetime import UTC, datetime
from pathlib import Path

import pytest
from consumers.requirements import require
from handmade import Base

from sources.customisation.test_rooted import directory, layer_tar, member
from stream.errors import ArchiveError
from stream.model import BaseReference, ImageConf, Owner, Recipe
from stream.sources.base.image import open_base_image
from stream.sources.customisation.tree import Node
from stream.sources.customisation.unpack import Unpacked, digest_content, unpack

CONF = ImageConf(
    architecture="amd64",
    container_config={},
    store_dir=b"/nix/store",
    store_layers=(),
    customisation_layer=Recipe(),
    repo_tag=None,
    created=datetime(1970, 1, 1, tzinfo=UTC),
    mtime=1,
    customisation_mtime=1,
    owner=Owner(),
)


def unpacked(tmp_path: Path, *layers: bytes) -> Unpacked:
    """Unpack an image of `layers`."""
    archive = tmp_path / "base.tar"
    archive.write_bytes(Base(layers=list(layers)).docker_archive())
    (tmp_path / "files").mkdir()
    with open_base_image(BaseReference(path=str(archive)), CONF, entries=True) as image:
        return unpack(image, os.fsencode(tmp_path / "files"))


def content(node: Node | None) -> bytes:
    """Return the content of a file."""
    assert node is not None
    return Path(os.fsdecode(node.source)).read_bytes()


def test_layers(tmp_path: Path) -> None:
    """Commands would find another file system than a container has."""
    below = layer_tar(
        {
            "d": directory(0o700, uid=7), "d/a": (member(), b"below"), "d/gone": (member(), b""),
            "implied/x": (member(mtime=1.5), b"x"), "early": (member(mtime=-5), b""),
            "late": (member(mtime=1 << 40), b""),
        }
    )  # fmt: skip
    above = layer_tar(
        {
            "d/a": (member(uid=3), b"above"), "b": member(tarfile.LNKTYPE, linkname="d/a"),
            "d/.wh.gone": member(),
            "null": member(tarfile.CHRTYPE, devmajor=1, devminor=3),
        }
    )  # fmt: skip
    found = unpacked(tmp_path, below, above)
    tree = dict(found.tree.entries())
    assert [*tree] == [
        b"",
        b"b",
        b"d",
        b"d/a",
        b"early",
        b"implied",
        b"implied/x",
        b"late",
        b"null",
    ]
    assert tree[b"b"] is tree[b"d/a"]
    assert content(tree[b"b"]) == b"above"
    assert found.digests[b"b"] == found.digests[b"d/a"] == digest_content(tree[b"b"])
    assert (tree[b"d"].mode, tree[b"d"].uid, tree[b"implied"].mode) == (0o700, 7, 0o755)
    assert tree[b"implied/x"].mtime_ns == 1_500_000_000
    assert tree[b"early"].mtime_ns == 0
    assert tree[b"late"].mtime_ns == (1 << 33) * 10**9
    assert tree[b"null"].device == (1, 3)
    assert len(os.listdir(tmp_path / "files")) == 4


@pytest.mark.parametrize("version", ["0.0", "0.1", "1.0"])
def test_sparse_file(tmp_path: Path, version: str) -> None:
    """Its holes would be missing, and what is behind them at another place."""
    require(["tar"])
    wanted = b"begin" + bytes(200_000) + b"middle" + bytes(300_000)
    file = tmp_path / "file"
    with file.open("wb") as written:
        written.write(b"begin")
        written.seek(200_000, os.SEEK_CUR)
        written.write(b"middle")
        written.truncate(len(wanted))
    layer = subprocess.run(
        ["tar", "-cSf", "-", "--hole-detection=raw", "--format=pax", f"--sparse-version={version}",
         "-C", tmp_path, "file"],
        check=True, capture_output=True,
    ).stdout  # fmt: skip
    assert len(layer) < 100_000
    found = unpacked(tmp_path, layer)
    node = found.tree.find(b"file")
    assert content(node) == wanted
    assert node is not None
    assert (node.size, found.digests[b"file"]) == (len(wanted), digest_content(node))


def test_sparse_file_that_is_a_bomb(tmp_path: Path) -> None:
    """Without it a few bytes would fill the disk."""
    info = member(
        pax_headers={
            "GNU.sparse.major": "0", "GNU.sparse.minor": "1", "GNU.sparse.name": "file",
            "GNU.sparse.size": str(1 << 50), "GNU.sparse.numblocks": "1", "GNU.sparse.map": "0,1",
        }
    )  # fmt: skip
    with pytest.raises(ArchiveError, match="too large; refused as a bomb"):
        unpacked(tmp_path, layer_tar({"file": (info, b"x")}))

"""A customisation layer made from a recipe, used by everything that reads a conf."""

import hashlib
import io
import json
import os
import tarfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path

import pytest
from roots import flattened, read_root

from stream.cli import wrapper
from stream.errors import SourceError, StreamImageError
from stream.model import ImageConf, Owner, Recipe
from stream.sources.customisation import make
from stream.sources.customisation.tree import Identity, Node, Tree, file, link
from stream.tools import inspect as inspection
from stream.tools.export import export
from stream.tools.verify import verify
from stream.tools.write import write_image
from stream.typeflags import FILE

CONF = ImageConf(
    architecture="amd64",
    container_config={},
    store_dir=b"/nix/store",
    store_layers=(),
    customisation_layer=Recipe(),
    repo_tag="made:1",
    created=datetime(1970, 1, 1, 0, 0, 1, tzinfo=UTC),
    mtime=1,
    customisation_mtime=1,
    owner=Owner(),
)
NAMES = ["./", "./bin/", "./bin/greet", "./etc/", "./etc/motd", "./etc/passwd"]


@dataclass
class Making:
    """A stand-in for making recipes that counts how often it has begun and ended."""

    tree: Tree
    begun: int = 0
    ended: int = 0
    fault: StreamImageError | None = None
    seen: list[tuple[Recipe, ImageConf]] = field(default_factory=list)

    @contextmanager
    def opened_tree(self, recipe: Recipe, conf: ImageConf, **_given: object) -> Iterator[Tree]:
        """Stand in for make.opened_tree."""
        self.begun += 1
        self.seen.append((recipe, conf))
        if self.fault is not None:
            raise self.fault
        try:
            yield self.tree
        finally:
            self.ended += 1


@pytest.fixture
def making(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Making:
    """Make every recipe give the same tree."""
    source = tmp_path / "motd"
    source.write_bytes(b"read where it stands\n" * 1000)
    status = source.stat()
    motd = Node(
        typeflag=FILE, mode=0o444, size=status.st_size, source=bytes(source),
        identity=Identity.of(status),
    )  # fmt: skip
    passwd = file(b"root:x:0:0::/:/bin/sh\n")
    passwd.xattrs = {b"user.note": b"kept"}
    tree = Tree()
    tree.put(b"etc/motd", motd)
    tree.put(b"etc/passwd", passwd)
    tree.put(b"bin/greet", link(b"/nix/store/x/bin/greet"))
    making = Making(tree)
    monkeypatch.setattr(make, "opened_tree", making.opened_tree)
    return making


def _written(conf: ImageConf = CONF) -> bytes:
    output = io.BytesIO()
    write_image(conf, output)
    return output.getvalue()


def _member(archive: bytes, name: str) -> bytes:
    with tarfile.open(fileobj=io.BytesIO(archive)) as tar:
        content = tar.extractfile(name)
        assert content is not None
        return content.read()


@pytest.mark.usefixtures("making")
def test_it_is_the_last_layer() -> None:
    """Without it the recipe's tree would not be in the image, or not as specified."""
    archive = _written()
    (item,) = json.loads(_member(archive, "manifest.json"))
    config = json.loads(_member(archive, item["Config"]))
    layer = _member(archive, item["Layers"][-1])
    digest = "sha256:" + hashlib.sha256(layer).hexdigest()
    assert config["rootfs"]["diff_ids"] == [digest]
    assert [entry["comment"] for entry in config["history"]] == ["customisation layer"]
    with tarfile.open(fileobj=io.BytesIO(layer)) as tar:
        assert [info.name + "/" * info.isdir() for info in tar] == NAMES
        assert {info.mtime for info in tar} == {CONF.mtime}


def test_recipe_and_conf_are_passed_on(making: Making) -> None:
    """Without it a recipe could not be carried out, or not with the base image."""
    recipe = Recipe(extra_commands="true")
    conf = replace(CONF, customisation_layer=recipe)
    _written(conf)
    assert making.seen == [(recipe, conf)]


def test_nothing_is_written_before_it_is_made(making: Making) -> None:
    """Without it a recipe's fault would be reported after a part of an image."""
    making.fault = SourceError(b"/nix/store/gone", "does not exist")
    output = io.BytesIO()
    with pytest.raises(SourceError, match="does not exist"):
        write_image(CONF, output)
    assert output.getvalue() == b""


def test_its_files_are_removed_at_the_end(making: Making, tmp_path: Path) -> None:
    """Without it scratch trees would be left behind when a run fails."""
    (tmp_path / "motd").write_bytes(b"changed")
    with pytest.raises(SourceError, match="changed"):
        _written()
    assert making.begun == making.ended == 1
    with open(os.devnull, "wb") as output, pytest.raises(SourceError, match="changed"):
        export(CONF, output.fileno())
    assert making.begun == making.ended == 2


def test_without_a_layer_nothing_is_made(making: Making) -> None:
    """Without it images without this layer would have an empty one, and other IDs."""
    archive = _written(replace(CONF, customisation_layer=None))
    (item,) = json.loads(_member(archive, "manifest.json"))
    assert item["Layers"] == []
    assert making.begun == 0


def test_an_empty_recipe_makes_the_root_alone() -> None:
    """Without it images without contents would lack their own root directory."""
    archive = _written()
    (item,) = json.loads(_member(archive, "manifest.json"))
    with tarfile.open(fileobj=io.BytesIO(_member(archive, item["Layers"][0]))) as tar:
        assert tar.getnames() == ["."]


def test_export(making: Making, tmp_path: Path) -> None:
    """Without it a root file system would lack the layer, or its entries' attributes."""
    path = tmp_path / "root.tar"
    with path.open("wb") as output:
        exported = export(CONF, output.fileno())
    assert (exported.entries, making.begun, making.ended) == (len(NAMES), 1, 1)
    root = read_root(path.read_bytes())
    archive = _written()
    (item,) = json.loads(_member(archive, "manifest.json"))
    assert root == flattened([_member(archive, item["Layers"][0])])
    assert root["etc/passwd"].xattrs == (("SCHILY.xattr.user.note", "kept"),)


def test_inspect_reads_no_content(making: Making, tmp_path: Path) -> None:
    """Without it the plan of a large image would take as long as the image."""
    (tmp_path / "motd").unlink()
    (image,) = inspection.inspect(CONF, print).images
    (layer,) = image.layers
    assert (layer.entries, layer.history) == (len(NAMES), "customisation layer")
    assert layer.size == layer.stored_size > 21_000
    assert making.begun == making.ended == 1


@pytest.mark.usefixtures("making")
def test_inspect_matches_the_layer() -> None:
    """Without it a plan would be that of another image."""
    (image,) = inspection.inspect(CONF, print).images
    archive = _written()
    (item,) = json.loads(_member(archive, "manifest.json"))
    assert [layer.name for layer in image.layers] == item["Layers"]
    assert [layer.size for layer in image.layers] == [len(_member(archive, item["Layers"][0]))]


def test_verify_against_the_conf(making: Making, tmp_path: Path) -> None:
    """Without it nobody could check that an image still matches its recipe."""
    path = tmp_path / "image.tar"
    path.write_bytes(_written())
    assert verify(str(path), CONF).faults == ()
    passwd = making.tree.find(b"etc/passwd")
    assert passwd is not None
    passwd.mode = 0o600
    (first, *_) = verify(str(path), CONF).faults
    assert "./etc/passwd: mode is 0644, not 0600" in first.message


def test_wrap_takes_a_recipe() -> None:
    """Without it such a conf could not be wrapped, although its paths are already absolute."""
    wrapper.check(CONF, "conf.json")

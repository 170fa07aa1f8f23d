"""The partial archive: everything but the bytes of the layers that an engine has, and the names."""

import hashlib
import io
import json
import tarfile
from pathlib import Path

import pytest
from handmade import Base, layer_tar
from remembered import Remembered
from support import Store

import stream
from stream.model import Descriptor, Digest, KnownLayer
from stream.pipeline import write_images
from stream.sinks.daemon import PartialArchive
from stream.tools.write import opened_sources


def partial(
    conf: stream.ImageConf, path: Path, held: set[Digest], known: Remembered
) -> stream.Image:
    """Write a partial archive of the image of `conf`."""
    with (
        opened_sources(conf, stream.Observer()) as sources,
        open(path, "wb") as file,
        PartialArchive(file.fileno(), mtime=conf.mtime, held=held) as sink,
    ):
        (image,) = write_images([sources], sink, stream.Observer(), known)
    return image


@pytest.fixture
def conf(tmp_path: Path) -> stream.ImageConf:
    """Return a conf of a base image with a layer listed twice, three store layers, and a layer on top."""
    store = Store.below(tmp_path)
    for name in "abc":
        store.file(name, name.encode() * 2000)
    base = Base(layers=[layer_tar({"x": b"x"}), layer_tar({"y": b"y"}), layer_tar({"x": b"x"})])
    (tmp_path / "base.tar").write_bytes(base.docker_archive())
    top = layer_tar({"top": b"t"})
    store.file("top/layer.tar", top)
    store.file("top/checksum", hashlib.sha256(top).hexdigest().encode())
    more = {"customisation_layer": str(store.path("top")), "from_image": str(tmp_path / "base.tar")}
    return stream.load_conf(str(store.conf("a", "b", "c", annotations={"x": "y"}, **more)))


@pytest.fixture
def digests() -> Remembered:
    """Return what is known of the layers."""
    return Remembered()


def test_left_out(conf: stream.ImageConf, tmp_path: Path, digests: Remembered) -> None:
    """The documents are those of the whole image, whatever is left out; readers of either form
    find the layers that are there, and no name.
    """
    whole = stream.write_image(conf, io.BytesIO(), archive_format="oci-archive", digests=digests)
    *_, bottom, middle, top, _ = whole.layers
    image = partial(conf, tmp_path / "x.tar", {middle.diff_id, whole.layers[0].diff_id}, digests)
    assert (image.image_id, image.manifest) == (whole.image_id, whole.manifest)
    assert image.repo_tags == whole.repo_tags == ("test:1",)
    with tarfile.open(tmp_path / "x.tar") as tar:
        files = {info.name: tar.extractfile(info).read() for info in tar}  # type: ignore[union-attr]
    for layer in (bottom, top):
        for name in (layer.archive_name, f"blobs/{layer.diff_id.replace(':', '/')}"):
            assert f"sha256:{hashlib.sha256(files[name]).hexdigest()}" == layer.diff_id
    assert not any(middle.diff_id.removeprefix("sha256:") in name for name in files)
    assert middle.archive_name not in files
    (item,) = json.loads(files["manifest.json"])
    assert item["RepoTags"] is None
    assert len(item["Layers"]) == 7
    (entry,) = json.loads(files["index.json"])["manifests"]
    assert "annotations" not in entry


def test_only_what_is_known_whole(tmp_path: Path) -> None:
    """The manifest needs a layer's size, so one that an engine has is sent if that is unknown."""
    digest = Digest("sha256:" + "0" * 64)
    blob = Descriptor(media_type="x", digest=digest, size=1)
    with (
        open(tmp_path / "x.tar", "wb") as file,
        PartialArchive(file.fileno(), mtime=1, held={digest}) as sink,
    ):
        assert sink.holds(KnownLayer(diff_id=digest)) is None
        assert sink.holds(KnownLayer(diff_id=Digest("sha256:1"), size=1, descriptor=blob)) is None
        assert sink.holds(KnownLayer(diff_id=digest, size=1, descriptor=blob)) is not None


def test_known_bottom_to_top(conf: stream.ImageConf, digests: Remembered) -> None:
    """Docker has layers by what lies under them, so their order is the image's."""
    whole = stream.write_image(conf, io.BytesIO(), digests=digests)
    with opened_sources(conf, stream.Observer()) as sources:
        known = sources.known(digests, PartialArchive.takes)
    assert [one and one.diff_id for one in known] == [layer.diff_id for layer in whole.layers]


def test_foreseen(conf: stream.ImageConf, digests: Remembered) -> None:
    """An image that an engine has is found by its ID, which must be that of the image as it would be written."""
    whole = stream.write_image(conf, io.BytesIO(), archive_format="oci-archive", digests=digests)
    with opened_sources(conf, stream.Observer()) as sources:
        known = sources.known(digests, PartialArchive.takes)
        documents = sources.foreseen([one for one in known if one is not None])
    assert documents.config == whole.config
    assert [layer.descriptor for layer in documents.layers] == [
        layer.descriptor for layer in whole.layers
    ]
    assert documents.annotations == conf.annotations

"""The OCI archive, read without the package: a layout whose descriptors are correct, and a
docker-archive in the same bytes.
"""

import gzip
import hashlib
import io
import json
import os
import subprocess
import tarfile
from collections.abc import Callable, Mapping
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import handmade
import orjson
import pytest
import trees
from handmade import Base, digest, layer_tar
from parity import conf_of

import stream
from stream.archives.bytesource import StreamBytes
from stream.model import Descriptor, ImageDocuments
from stream.sinks.oci_archive import OciArchive
from stream.sources.base.layers import CarriedLayer
from stream.tarwriter import ArchiveWriter

GOLDEN = Path(__file__).parents[1] / "golden"
LAYER_TYPE = "application/vnd.oci.image.layer.v1.tar"
FIRST, SECOND = layer_tar({"a": b"a" * 700}), layer_tar({"b": b"b"})
TWICE = Base(layers=[FIRST, SECOND, FIRST], config={"Env": ["A=1"], "Labels": {"of": "base"}})


class Reading:
    """An OCI archive as CPython's tarfile reads it; only tarfile follows its hard links."""

    def __init__(self, data: bytes) -> None:
        with tarfile.open(fileobj=io.BytesIO(data)) as tar:
            self.infos = tar.getmembers()
            self.members = {info.name: tar.extractfile(info).read() for info in self.infos}  # type: ignore[union-attr]
        assert len(self.members) == len(self.infos), "a member name twice"
        self.links = {info.name: info.linkname for info in self.infos if info.islnk()}

    def json(self, name: str) -> Any:
        """Return a member, parsed as JSON."""
        return json.loads(self.members[name])

    def blob(self, descriptor: Mapping[str, Any]) -> bytes:
        """Return the blob of a descriptor; its size and digest must match."""
        data = self.members["blobs/" + descriptor["digest"].replace(":", "/")]
        assert digest(data) == descriptor["digest"]
        assert len(data) == descriptor["size"]
        return data

    @property
    def entry(self) -> dict[str, Any]:
        """The only descriptor of the index."""
        index = self.json("index.json")
        assert index["schemaVersion"] == 2
        assert index["mediaType"] == "application/vnd.oci.image.index.v1+json"
        (entry,) = index["manifests"]
        return dict(entry)

    @property
    def manifest(self) -> dict[str, Any]:
        """The OCI manifest."""
        manifest: dict[str, Any] = json.loads(self.blob(self.entry))
        assert manifest["schemaVersion"] == 2
        assert manifest["mediaType"] == self.entry["mediaType"]
        return manifest

    @property
    def config(self) -> dict[str, Any]:
        """The image config."""
        return dict(json.loads(self.blob(self.manifest["config"])))


def written(
    conf: Mapping[str, Any], archive_format: Any = "oci-archive"
) -> tuple[bytes, stream.Image, list[str]]:
    """Return the archive of `conf`, its record, and the warnings."""

    class Warnings(stream.Observer):
        def warning(self, message: str) -> None:
            warnings.append(message)

    warnings: list[str] = []
    file = io.BytesIO()
    parsed = stream.parse_conf(orjson.dumps(conf))
    image = stream.write_image(parsed, file, Warnings(), archive_format=archive_format)
    return file.getvalue(), image, warnings


def customisation(directory: str, data: bytes) -> str:
    """Return the directory of a ready-made top layer."""
    os.makedirs(directory)
    Path(directory, "layer.tar").write_bytes(data)
    Path(directory, "checksum").write_text(hashlib.sha256(data).hexdigest(), "ascii")
    return directory


@pytest.fixture
def conf(store_dir: bytes, tmp_path: Path) -> dict[str, Any]:
    """Return a conf with layers of every source, one of the base's listed twice."""
    trees.build(store_dir + b"/0", trees.File(0o644, 700, 1))
    trees.build(store_dir + b"/1", trees.Directory(0o555, ((b"l", trees.Link(b"x")),)))
    (tmp_path / "base.tar").write_bytes(
        TWICE.docker_archive(names=["first/layer.tar", "second/layer.tar", "first/layer.tar"])
    )
    return conf_of(
        store_dir,
        store_layers=[[f"{store_dir.decode()}/{name}"] for name in "01"],
        customisation_layer=customisation(f"{store_dir.decode()}/top", layer_tar({"top": b"t"})),
        from_image=str(tmp_path / "base.tar"),
        annotations={"org.opencontainers.image.title": "grüße", "com.example.b": ""},
        labels={"ours": "1"},
    )


def test_layout(conf: dict[str, Any]) -> None:
    """Following index, manifest and config leads to blobs with the digests and sizes they state."""
    archive, image, _ = written(conf)
    found = Reading(archive)
    assert found.json("oci-layout") == {"imageLayoutVersion": "1.0.0"}
    assert found.entry["mediaType"] == "application/vnd.oci.image.manifest.v1+json"
    assert found.entry["platform"] == {"architecture": "amd64", "os": "linux"}
    assert found.entry["annotations"] == {
        "org.opencontainers.image.ref.name": "1",
        "io.containerd.image.name": "docker.io/library/test:1",
    }
    manifest = found.manifest
    assert manifest["config"]["mediaType"] == "application/vnd.oci.image.config.v1+json"
    assert manifest["config"]["digest"] == image.image_id
    assert manifest["annotations"] == conf["annotations"]
    assert {layer["mediaType"] for layer in manifest["layers"]} == {LAYER_TYPE}
    diff_ids = [digest(found.blob(layer)) for layer in manifest["layers"]]
    assert diff_ids == found.config["rootfs"]["diff_ids"]
    assert diff_ids == [layer.diff_id for layer in image.layers]
    assert diff_ids[:3] == [digest(FIRST), digest(SECOND), digest(FIRST)]
    assert len(diff_ids) == 6


def test_docker_archive_in_it(conf: dict[str, Any]) -> None:
    """Readers of manifest.json find each layer as a regular file: not all follow hard links."""
    archive, image, _ = written(conf)
    found = Reading(archive)
    (item,) = found.json("manifest.json")
    assert item["RepoTags"] == ["test:1"]
    assert digest(found.members[item["Config"]]) == image.image_id
    assert not found.links.keys() & {item["Config"], *item["Layers"]}
    assert [digest(found.members[name]) for name in item["Layers"]] == (
        found.config["rootfs"]["diff_ids"]
    )


def test_order_and_owners(conf: dict[str, Any]) -> None:
    """Links follow their targets, manifest.json comes last, and nothing leaks from the host."""
    archive, image, _ = written(conf | {"mtime": "2001-02-03T04:05:06Z", "uid": 5, "uname": "u"})
    found = Reading(archive)
    names = list(found.members)
    assert names[-3:] == ["oci-layout", "index.json", "manifest.json"]
    assert all(names.index(target) < names.index(name) for name, target in found.links.items())
    for info in found.infos:
        facts = (info.mode, info.uid, info.gid, info.uname, info.gname, info.mtime)
        assert facts == (0o644, 0, 0, "", "", 981173106)
    assert archive.endswith(bytes(1024))
    assert len(archive) % 10240 == 0
    assert image.size == len(archive)


def test_same_image_in_both_formats(conf: dict[str, Any]) -> None:
    """The format is only packaging: image ID and layers are the same to the last byte."""
    oci, image, _ = written(conf)
    docker, other, _ = written(conf, "docker-archive")
    assert (image.image_id, image.layers) == (other.image_id, other.layers)
    with tarfile.open(fileobj=io.BytesIO(docker)) as tar:
        end = tar.getmember(other.image_id.removeprefix("sha256:") + ".json").offset
    assert oci[:end] == docker[:end]


def test_layer_listed_twice(conf: dict[str, Any]) -> None:
    """A layer that the image lists twice is written once, and so is its blob."""
    found = Reading(written(conf)[0])
    listed = [layer["digest"] for layer in found.manifest["layers"]]
    assert listed[0] == listed[2]
    assert sorted(found.links) == sorted({f"blobs/{name.replace(':', '/')}" for name in listed})
    assert len(set(found.links.values())) == 5


def test_equal_layers_of_different_names(store_dir: bytes, conf: dict[str, Any]) -> None:
    """Two members with the same bytes are one blob: a repeated name would break readers."""
    plain = conf | {"customisation_layer": None, "from_image": None}
    archive, image, _ = written(plain)
    layer = Reading(archive).members[image.layers[1].archive_name]
    top = customisation(f"{store_dir.decode()}/same", layer)
    archive, image, _ = written(plain | {"customisation_layer": top})
    found = Reading(archive)
    assert image.layers[1].diff_id == image.layers[2].diff_id
    assert len(found.manifest["layers"]) == 3
    assert len(found.links) == 2


def test_compressed_layer(tmp_path: Path) -> None:
    """A layer carried compressed has its own digest, size and type; its diff_id stays the same."""
    data = gzip.compress(FIRST, mtime=0)
    descriptor = Descriptor(
        media_type=f"{LAYER_TYPE}+gzip", digest=stream.Digest(digest(data)), size=len(data)
    )
    source = CarriedLayer(
        fingerprint="first", size=len(data), comment="", label="", compression="gzip",
        diff_id=stream.Digest(digest(FIRST)),
        opened=lambda: nullcontext(StreamBytes(io.BytesIO(data), "layer")),
    )  # fmt: skip
    with open(tmp_path / "x.tar", "wb") as file, OciArchive(file.fileno(), mtime=1) as sink:
        writer = sink.begin_layer(source, None)
        source.write_to(writer)
        writer.close()
        layer = writer.complete()
        assert (layer.archive_name, layer.size) == ("first/layer.tar.gz", len(FIRST))
        assert layer.descriptor == descriptor
        config = json.dumps({"rootfs": {"diff_ids": [layer.diff_id]}}).encode()
        image = ImageDocuments(
            config=config, repo_tags=("x:1",), layers=(layer,), architecture="amd64"
        )
        sink.add_image(image)
        sink.finish()
    found = Reading((tmp_path / "x.tar").read_bytes())
    (entry,) = found.manifest["layers"]
    assert entry["mediaType"] == f"{LAYER_TYPE}+gzip"
    assert gzip.decompress(found.blob(entry)) == FIRST
    assert found.config["rootfs"]["diff_ids"] == [digest(FIRST)]


def test_no_layers() -> None:
    """An image without layers is a valid layout."""
    found = Reading(written({"repo_tag": "x:1"})[0])
    assert found.manifest["layers"] == []
    assert "annotations" not in found.manifest


def test_command(
    conf: dict[str, Any],
    write_conf: Callable[[Mapping[str, object]], str],
    stream_image: Callable[..., "subprocess.CompletedProcess[bytes]"],
) -> None:
    """People select the format with --format; every run gives the same bytes."""
    path = write_conf(conf)
    done = stream_image("-q", path, "--format", "oci-archive")
    assert done.stderr == b""
    assert done.stdout == written(conf)[0]
    assert stream_image(path, "--format", "oci").returncode == 2


def test_annotations_of_a_docker_archive(
    conf: dict[str, Any],
    write_conf: Callable[[Mapping[str, object]], str],
    stream_image: Callable[..., "subprocess.CompletedProcess[bytes]"],
) -> None:
    """Annotations that the format cannot hold are left out with a warning, and change no byte."""
    without = {key: conf[key] for key in conf if key != "annotations"}
    archive, image, warnings = written(conf, "docker-archive")
    assert len(warnings) == 1
    assert "annotations" in warnings[0]
    assert written(without, "docker-archive") == (archive, image, [])
    assert written(conf)[2] == []
    done = stream_image("-q", write_conf(conf))
    assert (done.returncode, done.stdout) == (0, archive)
    assert b"annotations" in done.stderr


def test_failed_run(conf: dict[str, Any]) -> None:
    """A failed run leaves neither a layout nor a docker-archive."""
    Path(conf["customisation_layer"], "checksum").write_text("0" * 64, "ascii")
    out = io.BytesIO()
    with pytest.raises(stream.DigestMismatch):
        stream.write_image(stream.parse_conf(orjson.dumps(conf)), out, archive_format="oci-archive")
    for name in (b"manifest.json", b"index.json", b"oci-layout", b"blobs/"):
        assert name not in out.getvalue()


@pytest.mark.parametrize("compressor", handmade.COMPRESSORS)
def test_as_a_base(conf: dict[str, Any], tmp_path: Path, compressor: str) -> None:
    """Our archive is a base in any compression, and gives the docker-archive's image."""
    top = {"repo_tag": "top:1", "architecture": "amd64", "base_history": "keep"}
    ids = set()
    for archive_format in ("docker-archive", "oci-archive"):
        base = tmp_path / f"{archive_format}.tar"
        base.write_bytes(handmade.COMPRESSORS[compressor](written(conf, archive_format)[0]))
        archive, image, _ = written(top | {"from_image": f"{base}:test:1"})
        assert len(image.layers) == 6
        assert Reading(archive).config["rootfs"]["diff_ids"] == [x.diff_id for x in image.layers]
        ids.add(image.image_id)
    assert len(ids) == 1


def test_unpacked(conf: dict[str, Any], tmp_path: Path) -> None:
    """Unpacked by `tar -x`, the archive is a layout whose blobs take no extra space."""
    archive, image, _ = written(conf)
    layout = tmp_path / "layout"
    layout.mkdir()
    subprocess.run(["tar", "-x", "-C", layout], input=archive, check=True)
    for layer in image.layers:
        blob = layout / "blobs" / layer.diff_id.replace(":", "/")
        assert blob.samefile(layout / layer.archive_name)
        assert digest(blob.read_bytes()) == layer.diff_id
    (layout / "manifest.json").unlink()
    _, on_it, _ = written({"repo_tag": "top:1", "from_image": str(layout)})
    assert [x.diff_id for x in on_it.layers] == [x.diff_id for x in image.layers]


@pytest.mark.parametrize("name", ["a", "n" * 100, "n" * 101, "ü"])
@pytest.mark.parametrize("target", ["t", "t" * 100, "t" * 101, "ß"])
@pytest.mark.parametrize("mtime", [0, -1])
def test_link_header(name: str, target: str, mtime: int, tmp_path: Path) -> None:
    """A hard link's header is byte for byte the one that CPython's tarfile writes."""
    info = tarfile.TarInfo(name)
    info.type, info.linkname, info.mtime = tarfile.LNKTYPE, target, mtime
    with (
        open(tmp_path / "x.tar", "wb") as file,
        ArchiveWriter(file.fileno(), mtime=mtime) as archive,
    ):
        archive.write_link(name, target)
        archive.finish()
    expected = info.tobuf(tarfile.PAX_FORMAT)
    assert (tmp_path / "x.tar").read_bytes()[: len(expected)] == expected


def described(archive: bytes) -> str:
    """Return a readable listing of an archive: a line per member, documents in full."""
    lines = [f"archive {len(archive)} bytes sha256 {hashlib.sha256(archive).hexdigest()}"]
    found = Reading(archive)
    for info in found.infos:
        data = found.members[info.name]
        header = hashlib.sha256(archive[info.offset : info.offset_data]).hexdigest()[:16]
        link = f" -> {info.linkname}" if info.islnk() else ""
        lines += ["", f"{info.name}{link} {info.size} bytes {digest(data)} header {header}"]
        if data.startswith((b"{", b"[")):
            lines += json.dumps(json.loads(data), indent=2).splitlines()
    return "\n".join(lines) + "\n"


def test_golden(tmp_path: Path) -> None:
    """A change of any byte shows up in review as a line. To accept one: GOLDEN_UPDATE=1 pytest."""
    names = ["first/layer.tar", "second/layer.tar", "first/layer.tar"]
    (tmp_path / "base.tar").write_bytes(TWICE.docker_archive(names=names))
    conf = {
        "architecture": "arm64",
        "config": {"Cmd": ["/x"], "Labels": {"a": "config's", "b": "config's"}},
        "labels": {"b": "ours", "c": "ours"},
        "annotations": {"org.opencontainers.image.title": "grüße", "com.example.x": "y"},
        "created": "2024-05-17T08:30:00+02:00",
        "mtime": "2023-11-14T22:13:20Z",
        "repo_tag": "registry.example:5000/golden:v1",
        "from_image": str(tmp_path / "base.tar"),
        "base_config": "full",
    }
    found = described(written(conf)[0])
    golden = GOLDEN / "oci_archive.txt"
    if os.environ.get("GOLDEN_UPDATE"):
        golden.write_text(found, "utf-8")
    assert found == golden.read_text("utf-8")

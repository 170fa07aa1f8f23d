"""`stream-image merge`: many images in one archive."""

import gzip
import io
import json
import os
import tarfile
from pathlib import Path
from typing import Any

import handmade
import pytest
import pyzstd
from conftest import Run
from handmade import Base, digest, layer_tar
from support import Store

SHARED = layer_tar({"shared": os.urandom(30_000)})
ONE = Base(layers=[SHARED, layer_tar({"one": b"1"})], tags=["one:1", "both:latest"])
TWO = Base(
    layers=[layer_tar({"two": b"2" * 600}), SHARED, SHARED], tags=["both:latest"],
    config={"Cmd": ["two"]},
)  # fmt: skip
THREE = Base(layers=[SHARED], tags=None)


def _read(data: bytes) -> tuple[list[dict[str, Any]], dict[str, bytes]]:
    """Return the manifest and the members; every layer must match its config."""
    with tarfile.open(fileobj=io.BytesIO(data)) as tar:
        members = {info.name: tar.extractfile(info).read() for info in tar}  # type: ignore[union-attr]
        assert len(members) == len(tar.getnames())
        assert tar.getnames()[-1] == "manifest.json"
    manifest = json.loads(members["manifest.json"])
    for item in manifest:
        diff_ids = json.loads(members[item["Config"]])["rootfs"]["diff_ids"]
        assert [digest(members[name]) for name in item["Layers"]] == diff_ids
    return manifest, members


@pytest.fixture
def inputs(tmp_path: Path) -> list[str]:
    """Make three images in three ways: gzip, an OCI layout of zstd layers, plain."""
    (tmp_path / "one.tar.gz").write_bytes(gzip.compress(ONE.docker_archive()))
    stored = [pyzstd.compress(layer) for layer in TWO.layers]
    (tmp_path / "two.tar").write_bytes(handmade.tar_of([*TWO.oci_files(stored).items()]))
    (tmp_path / "three.tar").write_bytes(THREE.docker_archive())
    return [str(tmp_path / name) for name in ("one.tar.gz", "two.tar", "three.tar")]


def test_merge(inputs: list[str], stream_image: Run) -> None:
    """Every image is there with its tags, and shared layers are there once."""
    done = stream_image("merge", *inputs)
    assert done.returncode == 0, done.stderr
    manifest, members = _read(done.stdout)
    assert [item["RepoTags"] for item in manifest] == [["one:1"], ["both:latest"], None]
    for base, item in zip((ONE, TWO, THREE), manifest, strict=True):
        config = json.dumps(base.document()).encode()
        assert item["Config"] == f"{digest(config)[7:]}.json"
        assert members[item["Config"]] == config
        assert len(item["Layers"]) == len(base.layers)
    assert len([name for name in members if name.endswith("/layer.tar")]) == 3
    said = done.stderr.decode().splitlines()
    assert [line.split(" ")[0] for line in said[:3]] == ["layer"] * 3
    assert said[3].startswith("stream-image: warning: both:latest: is now sha256:")
    assert [line.split(" ")[0] for line in said[4:]] == ["one:1", "both:latest", "untagged"]


def test_oci_archive(inputs: list[str], stream_image: Run) -> None:
    """Without it merged images could not be used as OCI by podman or a registry."""
    done = stream_image("merge", *inputs, "--format", "oci-archive", "-q")
    assert done.returncode == 0, done.stderr
    with tarfile.open(fileobj=io.BytesIO(done.stdout)) as tar:
        assert tar.getnames()[-3:] == ["oci-layout", "index.json", "manifest.json"]
        read = {info.name: tar.extractfile(info).read() for info in tar if not info.isdir()}  # type: ignore[union-attr]
    blobs = {name: data for name, data in read.items() if name.startswith("blobs/")}
    assert all(name == f"blobs/sha256/{digest(data)[7:]}" for name, data in blobs.items())
    index = json.loads(read["index.json"])["manifests"]
    names = [
        entry.get("annotations", {}).get("io.containerd.image.name", "").rpartition("/")[2]
        for entry in index
    ]
    assert names == ["one:1", "both:latest", ""]
    kinds = []
    for base, entry in zip((ONE, TWO, THREE), index, strict=True):
        manifest = json.loads(blobs[f"blobs/sha256/{entry['digest'][7:]}"])
        config = blobs[f"blobs/sha256/{manifest['config']['digest'][7:]}"]
        assert config == json.dumps(base.document()).encode()
        for layer, described in zip(base.layers, manifest["layers"], strict=True):
            stored = blobs[f"blobs/sha256/{described['digest'][7:]}"]
            assert len(stored) == described["size"]
            packed = described["mediaType"].endswith("+zstd")
            assert (pyzstd.decompress(stored) if packed else stored) == layer
            kinds.append(packed)
    # The shared layer comes from the first archive; the others stay compressed as stored.
    assert kinds == [False, False, True, False, False, False]


def test_several_platforms_of_one_tag(stream_image: Run, tmp_path: Path) -> None:
    """Without it an archive for several machines would lose all images but the last; or our own
    tools would find only one of them there.
    """
    names = ["amd64", "arm64"]
    for name in names:
        base = Base(layers=[SHARED, layer_tar({name: b"x"})], tags=["x:1"], architecture=name)
        (tmp_path / name).write_bytes(base.docker_archive())
    inputs = [f"{tmp_path}/{name}" for name in names]
    out = tmp_path / "both.tar"
    done = stream_image("merge", *inputs, "--format", "oci-archive", "-o", out)
    assert done.returncode == 0, done.stderr
    assert b"warning" not in done.stderr
    with tarfile.open(out) as tar:
        read = {info.name: tar.extractfile(info).read() for info in tar if not info.isdir()}  # type: ignore[union-attr]
    (top,) = json.loads(read["index.json"])["manifests"]
    assert top["annotations"]["io.containerd.image.name"] == "docker.io/library/x:1"
    index = read[f"blobs/sha256/{top['digest'][7:]}"]
    assert (digest(index), len(index)) == (top["digest"], top["size"])
    platforms = [one["platform"] for one in json.loads(index)["manifests"]]
    assert platforms == [{"architecture": name, "os": "linux"} for name in names]
    assert stream_image("verify", out).returncode == 0
    again = stream_image("merge", "-q", out, "--format", "oci-archive")
    with tarfile.open(fileobj=io.BytesIO(again.stdout)) as tar:
        assert tar.extractfile("index.json").read() == read["index.json"]  # type: ignore[union-attr]
    conf = {"repo_tag": "y:1", "architecture": "arm64", "from_image": f"{out}:x:1"}
    built = stream_image("-", stdin=json.dumps(conf).encode())
    (item,), members = _read(built.stdout)
    assert b"warning" not in built.stderr
    assert digest(members[item["Layers"][1]]) == digest(layer_tar({"arm64": b"x"}))
    assert b"; the last image wins" in stream_image("merge", out).stderr


def test_same_image_twice(inputs: list[str], stream_image: Run, tmp_path: Path) -> None:
    """An image that is in two archives under two tags is one image with both."""
    again = Base(layers=ONE.layers, tags=["again:1"])
    (tmp_path / "again.tar").write_bytes(again.docker_archive())
    done = stream_image("merge", inputs[0], f"{tmp_path}/again.tar", "-q")
    assert (done.returncode, done.stderr) == (0, b"")
    (item,), _ = _read(done.stdout)
    assert item["RepoTags"] == ["one:1", "both:latest", "again:1"]


def test_one_of_several(inputs: list[str], stream_image: Run, tmp_path: Path) -> None:
    """Merged images can be extracted again by name."""
    merged = tmp_path / "merged.tar"
    merged.write_bytes(stream_image("merge", *inputs).stdout)
    done = stream_image("merge", f"{merged}:one:1")
    (item,), _ = _read(done.stdout)
    assert item["RepoTags"] == ["one:1"]


def test_more_archives_than_descriptors(stream_image: Run, tmp_path: Path) -> None:
    """A shell's usual limit of descriptors does not limit a merge."""
    for number in range(80):
        base = Base(layers=[SHARED], tags=[f"x:{number}"])
        (tmp_path / f"{number}.tar").write_bytes(base.docker_archive())
    archives = [f"{tmp_path}/{number}.tar" for number in range(80)]
    done = stream_image("merge", *archives, prefix=["sh", "-c", 'ulimit -Sn 64; exec "$@"', "sh"])
    assert done.returncode == 0, done.stderr
    assert len(_read(done.stdout)[0][0]["RepoTags"]) == 80


def test_lying_layer(stream_image: Run, tmp_path: Path) -> None:
    """A layer that does not match its config's diff_id ends the merge without an image."""
    lying = ONE.docker_archive(stored=[SHARED, layer_tar({"one": b"2"})])
    (tmp_path / "lying.tar").write_bytes(lying)
    done = stream_image("merge", f"{tmp_path}/lying.tar", "-o", f"{tmp_path}/out.tar", "-q")
    assert done.returncode == 1
    assert done.stderr.count(b"\n") == 1
    assert not (tmp_path / "out.tar").exists()


def test_compressed_output(inputs: list[str], stream_image: Run, tmp_path: Path) -> None:
    """The file's name selects the compression."""
    out = tmp_path / "out.tar.zst"
    assert stream_image("merge", *inputs, "-o", str(out)).returncode == 0
    assert len(_read(pyzstd.decompress(out.read_bytes()))[0]) == 3


def test_one_member_as_two_layers(stream_image: Run, tmp_path: Path) -> None:
    """Images that give a member two diff_ids are the archive's fault, and reported as such."""
    other = Base(layers=ONE.layers).document()
    other["rootfs"]["diff_ids"][0] = digest(b"another")
    members, item = ONE.docker_members()
    config = json.dumps(other).encode()
    items = [item, {**item, "Config": "other.json", "RepoTags": ["other:1"]}]
    manifest = json.dumps(items).encode()
    path = tmp_path / "image.tar"
    path.write_bytes(
        handmade.tar_of([*members, ("other.json", config), ("manifest.json", manifest)])
    )
    done = stream_image("merge", str(path))
    assert done.returncode == 1
    assert done.stderr.decode().splitlines() == [
        f"stream-image: {path}: 0/layer.tar: is listed with two diff_ids"
    ]


def test_confs(inputs: list[str], stream_image: Run, tmp_path: Path) -> None:
    """Without it an image could not be merged without a file of its archive first, or would
    be another one; and layers that confs share would be written twice.
    """
    store = Store.below(tmp_path)
    store.file("shared", b"shared")
    expected = []
    for name in ("one", "two"):
        store.file(name, name.encode())
        conf = store.conf(["shared"], [name], repo_tag=f"{name}:conf", from_image=inputs[0])
        conf.rename(tmp_path / f"{name}.json")
        expected += _read(stream_image(f"{tmp_path}/{name}.json").stdout)[0]
    program = f"{tmp_path}/stream-two"
    assert stream_image("wrap", f"{tmp_path}/two.json", "-o", program).returncode == 0
    done = stream_image(
        "merge", "-", inputs[1], program, stdin=(tmp_path / "one.json").read_bytes()
    )
    assert done.returncode == 0, done.stderr
    assert b"layer 6/6 " in done.stderr
    manifest, members = _read(done.stdout)
    assert [item["Config"] for item in (manifest[0], manifest[2])] == [
        item["Config"] for item in expected
    ]
    assert [item["RepoTags"] for item in manifest] == [["one:conf"], ["both:latest"], ["two:conf"]]
    # Two of the base image, of which one is the archive's, too; two of the archive; three.
    assert len([name for name in members if name.endswith("/layer.tar")]) == 6
    assert len({digest(members[name]) for item in manifest for name in item["Layers"]}) == 6


@pytest.mark.parametrize(
    ("arguments", "stdin", "wrong"),
    [
        (["-"], b"\0" * 1024, "standard input: is an archive, which must be read twice"),
        (["-", "-"], b"{}", "-: standard input can only be read once"),
        (["conf.json:x:1"], b"", "conf.json:x:1: is a conf, which has only one image"),
    ],
)  # fmt: skip
def test_wrong_inputs(
    stream_image: Run, tmp_path: Path, arguments: list[str], stdin: bytes, wrong: str
) -> None:
    """Without it the error would come late, or not say what to do."""
    store = Store.below(tmp_path)
    store.file("one", b"1")
    store.conf(["one"])
    done = stream_image("merge", *arguments, stdin=stdin, cwd=tmp_path)
    assert (done.returncode, done.stdout) == (2, b"")
    assert done.stderr.decode().splitlines()[0].startswith(f"stream-image: {wrong}")


EMPTY = {
    "docker-archive": lambda: handmade.tar_of([("manifest.json", b"[]")]),
    "OCI layout": lambda: handmade.Layout().tar(),
    "artifacts": lambda: _of_artifacts(),  # noqa: PLW0108 — defined below
}


def _of_artifacts() -> bytes:
    layout = handmade.Layout()
    layout.top = [*handmade.artifacts(layout).values()]
    return layout.tar()


@pytest.mark.parametrize("kind", EMPTY)
def test_no_image(stream_image: Run, inputs: list[str], tmp_path: Path, kind: str) -> None:
    """Without it an archive without images would be written, whole, that no consumer loads."""
    (tmp_path / "empty.tar").write_bytes(EMPTY[kind]())
    for archives in (["empty.tar"], [*inputs, "empty.tar"]):
        done = stream_image("merge", *archives, cwd=tmp_path)
        assert (done.returncode, done.stdout) == (1, b"")
        assert done.stderr == b"stream-image: empty.tar: contains no image\n"


def test_layer_that_is_not_a_tar(stream_image: Run, tmp_path: Path) -> None:
    """Without it a signature that an earlier merge took for an image would be handed on."""
    base = Base(layers=[SHARED, b"signature"])
    (tmp_path / "x.tar").write_bytes(base.docker_archive())
    done = stream_image("merge", "x.tar", cwd=tmp_path)
    assert (done.returncode, done.stdout) == (1, b"")
    assert done.stderr == b"stream-image: x.tar: 1/layer.tar: is not a tar, plain or compressed\n"


def test_artifacts_stay_behind(stream_image: Run, tmp_path: Path) -> None:
    """Without it an SBOM would become an image that no consumer loads."""
    layout = handmade.Layout()
    layout.top = [layout.image(ONE), *handmade.artifacts(layout).values()]
    (tmp_path / "x.tar").write_bytes(layout.tar())
    manifest, _ = _read(stream_image("merge", f"{tmp_path}/x.tar", "-q").stdout)
    assert len(manifest) == 1


def test_annotations_and_variant_stay(stream_image: Run, tmp_path: Path) -> None:
    """Without them a manifest would say less once it was merged, and arm/v6 pass for arm/v7."""
    base = Base(layers=[SHARED], tags=["x:1"])
    document = {**base.document(), "architecture": "arm", "variant": "v6"}
    files = base.oci_files([SHARED])
    old = f"blobs/sha256/{digest(json.dumps(base.document()).encode())[7:]}"
    config = json.dumps(document).encode()
    manifest_name = next(
        name
        for name, data in files.items()
        if name.startswith("blobs/") and b"schemaVersion" in data
    )
    manifest = json.loads(files.pop(manifest_name))
    files.pop(old)
    manifest["config"] |= {"digest": digest(config), "size": len(config)}
    manifest["annotations"] = {"org.opencontainers.image.title": "a title"}
    data = json.dumps(manifest).encode()
    index = json.loads(files["index.json"])
    index["manifests"][0] |= {"digest": digest(data), "size": len(data)}
    files |= {
        f"blobs/sha256/{digest(config)[7:]}": config, f"blobs/sha256/{digest(data)[7:]}": data,
        "index.json": json.dumps(index).encode(),
    }  # fmt: skip
    (tmp_path / "x.tar").write_bytes(handmade.tar_of([*files.items()]))
    done = stream_image("merge", f"{tmp_path}/x.tar", "--format", "oci-archive", "-q")
    assert done.returncode == 0, done.stderr
    with tarfile.open(fileobj=io.BytesIO(done.stdout)) as tar:
        (entry,) = json.loads(tar.extractfile("index.json").read())["manifests"]  # type: ignore[union-attr]
        blob = tar.extractfile(f"blobs/sha256/{entry['digest'][7:]}")
        assert blob
        assert json.loads(blob.read())["annotations"] == manifest["annotations"]
    assert entry["platform"] == {"architecture": "arm", "os": "linux", "variant": "v6"}

"""The images in an archive: which one is chosen, and what is left out."""

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import handmade
import pytest
from handmade import COMPRESSORS, Base, Layout, artifacts, digest, layer_tar, named, tar_of

from stream.archives.bytesource import ByteSource
from stream.archives.images import Archive, open_archive, read_archive
from stream.archives.sequential import Sequential, SequentialTar
from stream.archives.tarreader import read_members
from stream.errors import ArchiveError
from stream.oci.platform import Platform

AMD64 = Platform(os="linux", architecture="amd64")
ARM = Platform(os="linux", architecture="arm")
BASE = Base(layers=[layer_tar({"a": b"a" * 600})])

Open = Callable[[bytes], Archive[Any]]


@pytest.fixture
def opened(tmp_path: Path) -> Open:
    """Return a function that opens an archive of those bytes."""

    def opened(data: bytes) -> Archive[Any]:
        path = tmp_path / "archive"
        path.write_bytes(data)
        return open_archive(str(path))

    return opened


def of_platforms(*platforms: str, nested: bool = True) -> bytes:
    """Return a layout of one image for each platform, `os/architecture` or with a variant."""
    layout = Layout()
    descriptors = []
    for platform in platforms:
        keys = ("os", "architecture", "variant")
        stated = dict(zip(keys, platform.split("/"), strict=False))
        base = Base(layers=[layer_tar({platform.replace("/", "-"): b""})])
        descriptors.append(layout.image(base, **stated))
    layout.top = [layout.index(descriptors)] if nested else descriptors
    return layout.tar()


@pytest.mark.parametrize("data", [b'{"repo_tag": "x:1"}', b"{" * 600], ids=["short", "long"])
@pytest.mark.parametrize("outer", ["plain", "gzip"])
def test_conf_in_place_of_an_archive_or_a_layer(opened: Open, outer: str, data: bytes) -> None:
    """Without it the remedy for a conf in place of an archive would be offered for bad layers."""
    with pytest.raises(ArchiveError, match="looks like a conf"):
        opened(data)
    archive = COMPRESSORS[outer](Base(layers=[data]).docker_archive())
    with opened(archive) as image:
        (layer,) = image.images[0].layers
        with pytest.raises(ArchiveError) as caught, image.layer_content(layer) as content:
            list(read_members(content))
    assert "conf" not in caught.value.reason


@pytest.mark.parametrize("nested", [True, False])
@pytest.mark.parametrize(
    ("there", "wanted", "chosen"),
    [
        (["windows/amd64", "linux/amd64"], AMD64, "linux/amd64"),
        (["freebsd/amd64", "linux/arm64", "linux/amd64"], AMD64, "linux/amd64"),
        (["windows/amd64", "linux/arm64"], None, "linux/arm64"),
        (["linux/arm/v5", "linux/arm/v8", "linux/arm/v7", "linux/arm/v6"], ARM, "linux/arm/v7"),
        (["linux/arm/v5", "linux/arm/v6"], ARM, "linux/arm/v6"),
        (["linux/amd64/v3", "linux/amd64"], AMD64, "linux/amd64"),
        (["linux/amd64/v3"], AMD64, "linux/amd64/v3"),
        (["linux/s390x"], AMD64, "linux/s390x"),
    ],
)
def test_choice_by_platform(
    opened: Open, there: list[str], wanted: Platform | None, chosen: str, *, nested: bool
) -> None:
    """Without it the first image of the architecture would be taken, even one of Windows."""
    with opened(of_platforms(*there, nested=nested)) as archive:
        assert str(archive.choose(None, wanted).platform) == chosen


def test_platform_that_is_not_there(opened: Open) -> None:
    """Without it an image for another platform would be taken silently."""
    with (
        opened(of_platforms("windows/amd64", "linux/arm/v6")) as archive,
        pytest.raises(
            ArchiveError,
            match=r"has no image for linux/amd64 \(it has: windows/amd64, linux/arm/v6\)",
        ),
    ):
        archive.choose(None, AMD64)
    with (
        opened(of_platforms("windows/amd64")) as archive,
        pytest.raises(ArchiveError, match=r"linux/amd64 \(it has: windows/amd64\)"),
    ):
        archive.choose(None, AMD64)


def test_platform_of_an_image_that_states_none(opened: Open) -> None:
    """Consumers take such a config for one of their own platform."""
    config = {"rootfs": {"type": "layers", "diff_ids": [digest(BASE.layers[0])]}}
    layout = Layout()
    layout.top = [layout.image(BASE, json.dumps(config).encode())]
    with opened(layout.tar()) as archive:
        assert archive.choose(None, AMD64).platform == Platform()


@pytest.mark.parametrize("first", [True, False])
@pytest.mark.parametrize("kind", [*artifacts(Layout())])
def test_artifacts_beside_an_image(opened: Open, kind: str, *, first: bool) -> None:
    """Without it a signed image, or one with an SBOM, could not be read at all."""
    layout = Layout()
    image = named(layout.image(BASE), "x:1")
    artifact = artifacts(layout)[kind]
    layout.top = [artifact, image] if first else [image, artifact]
    with opened(layout.tar()) as archive:
        assert [image.repo_tags for image in archive.images] == [("docker.io/library/x:1",)]


def test_only_artifacts(opened: Open) -> None:
    """Without it there would be an internal error, or an image of a chart."""
    layout = Layout()
    layout.top = [*artifacts(layout).values()]
    with opened(layout.tar()) as archive, pytest.raises(ArchiveError, match="contains no image"):
        archive.choose(None)


def test_images_that_were_left_out(opened: Open) -> None:
    """`docker save` of one platform keeps the index of all; what is there must be usable."""
    layout = Layout()
    there = layout.image(BASE, os="linux", architecture="amd64")
    gone = {**there, "digest": "sha256:" + "a" * 64, "platform": {"architecture": "arm"}}
    layout.top = [layout.index([gone, there])]
    with opened(layout.tar()) as archive:
        assert archive.choose(None, AMD64).platform == AMD64
    layout.top = [gone]
    with pytest.raises(ArchiveError, match="is missing"):
        opened(layout.tar())


def write_files(files: dict[str, bytes], directory: Path) -> None:
    """Write files below a directory."""
    for name, content in files.items():
        path = directory / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)


def test_directory_of_links(tmp_path: Path) -> None:
    """Nix's linkFarm and Bazel's rules make layouts of links, which skopeo reads."""
    files = BASE.oci_files()
    write_files(files, tmp_path / "real")
    farm = tmp_path / "farm"
    for name in files:
        (farm / name).parent.mkdir(parents=True, exist_ok=True)
        (farm / name).symlink_to(tmp_path / "real" / name)
    partly = tmp_path / "partly"
    shutil.copytree(tmp_path / "real", partly)
    shutil.rmtree(partly / "blobs")
    (partly / "blobs").symlink_to("../real/blobs")
    for path in (farm, partly):
        with (
            open_archive(str(path)) as archive,
            archive.layer_content(archive.choose(None).layers[0]) as content,
        ):
            assert content.read(1 << 20) == BASE.layers[0]


@pytest.mark.parametrize("name", ["/etc/passwd", "../x", "a/../../x", ".."])
def test_names_out_of_a_directory(tmp_path: Path, name: str) -> None:
    """Without it a document could name any file of whoever reads it."""
    manifest = json.dumps([{"Config": name, "Layers": []}]).encode()
    (tmp_path / "x").write_bytes(b"{}")
    write_files({"manifest.json": manifest}, tmp_path / "image")
    with pytest.raises(ArchiveError, match="is outside the directory"):
        open_archive(str(tmp_path / "image"))


def dir_files(layout: Layout, manifest: dict[str, Any]) -> dict[str, bytes]:
    """Return the files of the directory that skopeo makes of an image or index."""
    files = {name.rpartition("/")[2]: data for name, data in layout.blobs.items()}
    manifests = {
        f"{digest_}.manifest.json": files.pop(digest_)
        for digest_ in [*files]
        if b'"schemaVersion"' in files[digest_]
    }
    top = manifests.pop(f"{manifest['digest'][7:]}.manifest.json")
    version = b"Directory Transport Version: 1.1\n"
    return {**files, **manifests, "manifest.json": top, "version": version}


@pytest.mark.parametrize("several", [True, False])
def test_directory_of_skopeo(tmp_path: Path, *, several: bool) -> None:
    """`skopeo copy … dir:` and `podman save --format docker-dir` write such directories."""
    layout = Layout()
    image = layout.image(BASE, os="linux", architecture="amd64")
    write_files(dir_files(layout, layout.index([image]) if several else image), tmp_path / "d")
    with open_archive(str(tmp_path / "d")) as archive:
        assert archive.kind == "dir"
        (layer,) = archive.choose(None, AMD64).layers
        with archive.layer_content(layer) as content:
            assert content.read(1 << 20) == BASE.layers[0]


def twice() -> dict[str, list[handmade.Entry]]:
    """Return archives that have a member twice, equal both times."""
    members, item = BASE.docker_members()
    manifest = ("manifest.json", json.dumps([item]).encode())
    blobs: list[handmade.Entry] = [*BASE.oci_files().items()]
    return {
        "layer": [*members, members[0], manifest],
        "config": [*members, members[-1], manifest],
        "manifest": [*members, manifest, manifest],
        "blob": [*blobs, blobs[-1], blobs[2]],
        "link": [*members, ("l", handmade.link("x")), ("l", handmade.link("x")), manifest],
    }


def changed(data: bytes) -> bytes:
    """Return `data` with another last byte."""
    return data[:-1] + bytes([data[-1] ^ 1])


@pytest.mark.parametrize("outer", ["plain", "gzip", "zstd-seekable", "pipe"])
@pytest.mark.parametrize("what", [*twice()])
def test_member_twice(opened: Open, what: str, outer: str, tmp_path: Path) -> None:
    """go-containerregistry and rules_docker wrote each layer once for each image. Consumers
    take equal members, and disagree on which one of different ones counts.
    """

    def read(members: list[handmade.Entry]) -> int:
        data = tar_of(members)
        if outer != "pipe":
            with opened(COMPRESSORS[outer](data)) as archive:
                return len(archive.images)
        (tmp_path / "stdin").write_bytes(data)
        with (tmp_path / "stdin").open("rb") as file:
            tar = SequentialTar(Sequential(file.fileno(), "x"))
            with read_archive(tar.scan(len_of)) as archive:
                return len(archive.images)

    members = twice()[what]
    assert read(members) == 1
    for index in (0, len(members) - 1):
        name, content = members[index]
        if isinstance(content, bytes):
            different = [*members, (name, changed(content))]
            with pytest.raises(ArchiveError, match="two members have this name"):
                read(different)


def len_of(content: ByteSource) -> int:
    """Peruse a layer."""
    return len(content.read(os.sysconf("SC_PAGE_SIZE")))

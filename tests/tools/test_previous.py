"""The previous build, wherever its image is."""

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import distribution
import pytest
from distribution import Fault, Registry
from handmade import COMPRESSORS, Base, Layout, digest, layer_tar, tar_of

import stream
from stream.errors import (
    ArchiveError,
    ArgumentError,
    ConfError,
    DigestMismatch,
    EngineError,
    RegistryError,
)
from stream.oci.platform import Platform
from stream.planning.previous import PreviousImage
from stream.tools.existing import ExistingImage
from stream.tools.previous import find_previous

AMD64 = Platform(os="linux", architecture="amd64")
ARM64 = Platform(os="linux", architecture="arm64")
LAYERS = [["/nix/store/a-glibc-2.40", "/nix/store/b-it's"], ["/nix/store/c-app"]]
TOP = "/nix/store/d-app-customisation-layer"


def made_by_dockertools(architecture: str = "amd64", prefix: str = "") -> Base:
    """Return an image with the history that nixpkgs' streamLayeredImage writes."""
    paths = [*([prefix + path for path in layer] for layer in LAYERS), [TOP]]
    layers = [layer_tar(dict.fromkeys(layer, b"")) for layer in paths]
    history = [
        {"created": "1970-01-01T00:00:01+00:00", "comment": f"store paths: {layer}"}
        for layer in paths
    ]
    return Base(layers=layers, tags=["app:v1"], history=history, architecture=architecture)


def layers_of(found: object) -> list[list[str]]:
    """Return the layers of a previous image, without the customisation layer."""
    assert isinstance(found, PreviousImage)
    *layers, last = found.above([])
    assert last == [TOP]
    return layers


class Warnings(list[str]):
    """The warnings of one call."""

    def find(self, place: str, platform: Platform = AMD64, **more: Any) -> object:
        """Call find_previous."""
        return find_previous(place, platform, warn=self.append, **more)


@pytest.fixture
def warnings() -> Warnings:
    """Return an empty list."""
    return Warnings()


# ---- files


@pytest.mark.parametrize("compressor", ["plain", "gzip", "zstd", "xz"])
@pytest.mark.parametrize("kind", ["docker-archive", "oci-archive"])
def test_archives_of_dockertools(
    tmp_path: Path, warnings: Warnings, kind: str, compressor: str
) -> None:
    """Without it a build could only follow one whose conf somebody has kept."""
    base, path = made_by_dockertools(), tmp_path / "old"
    data = (
        base.docker_archive() if kind == "docker-archive" else tar_of([*base.oci_files().items()])
    )
    path.write_bytes(COMPRESSORS[compressor](data))
    for place in (str(path), f"{kind}:{path}", f"{path}:app:v1"):
        assert layers_of(warnings.find(place)) == LAYERS
    assert warnings == []


def test_an_image_of_ours(tmp_path: Path, warnings: Warnings) -> None:
    """Without it only the images of dockerTools would be previous builds."""
    for name in ("a", "b", "c"):
        (tmp_path / "store").mkdir(exist_ok=True)
        (tmp_path / "store" / name).write_text(name)
    layers = [[f"{tmp_path}/store/a", f"{tmp_path}/store/b"], [f"{tmp_path}/store/c"]]
    document = {"repo_tag": "app:v1", "store_dir": f"{tmp_path}/store", "store_layers": layers}
    conf = stream.parse_conf(json.dumps({**document, "architecture": "amd64"}).encode())
    with (tmp_path / "old.tar").open("wb") as file:
        stream.write_image(conf, file)
    found = warnings.find(f"{tmp_path}/old.tar")
    assert isinstance(found, PreviousImage)
    assert found.above([]) == layers
    assert found.above([found.layers[0].diff_id]) == layers[1:]


def test_files_that_cannot_be_read(tmp_path: Path, warnings: Warnings) -> None:
    """Without it a typing error would change the layers of the next image."""
    with pytest.raises(ConfError, match="No such file"):
        warnings.find(f"{tmp_path}/missing.json")
    (tmp_path / "old.tar").write_bytes(made_by_dockertools().docker_archive()[:2000])
    with pytest.raises(ArchiveError):
        warnings.find(f"{tmp_path}/old.tar")
    for place in ("docker://no name", "docker://a/UPPER", "docker-daemon:", "containerd:a b"):
        with pytest.raises(ArgumentError):
            warnings.find(place)


def test_a_conf_for_several_platforms(tmp_path: Path, warnings: Warnings) -> None:
    """Without it one platform would keep the layers of another."""
    items = [
        {"architecture": name, "store_layers": [[f"/s/{name}"]]} for name in ("amd64", "arm64")
    ]
    path = tmp_path / "conf.json"
    path.write_text(json.dumps({"repo_tag": "app:v1", "platforms": items}))
    assert warnings.find(str(path), ARM64) == [["/s/arm64"]]
    assert warnings == []
    assert warnings.find(str(path), Platform(os="linux", architecture="s390x")) is None
    assert "has no image for linux/s390x" in warnings[0]


def test_an_archive_without_the_platform(tmp_path: Path, warnings: Warnings) -> None:
    """Without it no platform could be added to an image that has others."""
    layout, old = Layout(), tmp_path / "old.tar"
    for name in ("amd64", "arm64"):
        layout.top.append(layout.image(made_by_dockertools(name), os="linux", architecture=name))
    old.write_bytes(layout.tar())
    assert layers_of(warnings.find(str(old), ARM64)) == LAYERS
    assert warnings == []
    assert warnings.find(str(old), Platform(os="linux", architecture="s390x")) is None
    assert "has no image for linux/s390x" in warnings[0]
    with pytest.raises(ArchiveError, match="has no image other:1"):
        warnings.find(f"{old}:other:1")


@pytest.mark.parametrize("rootfs", [None, [], {"diff_ids": 7}, {"diff_ids": [{}, "x", None]}])
def test_an_earlier_image_that_nobody_made_here(rootfs: object) -> None:
    """Without it explain --against could end with a traceback."""
    assert ExistingImage(repo_tag="app:v1", config={"rootfs": rootfs}).diff_ids == frozenset()


# ---- registries


@pytest.fixture
def registry() -> Iterator[Registry]:
    """Run an empty registry."""
    with distribution.running() as running:
        yield running


def put(registry: Registry, tag: str, layout: Layout, descriptor: dict[str, Any]) -> None:
    """Put everything of a layout into the repository `app`, and tag a manifest."""
    repository = registry.repository("app")
    for name, data in layout.blobs.items():
        key = f"sha256:{name.rpartition('/')[2]}"
        kind = json.loads(data).get("mediaType", "") if data[:1] == b"{" else ""
        repository.blobs[key] = data
        repository.manifests[key] = (kind or descriptor["mediaType"], data)
    repository.tags[tag] = descriptor["digest"]


def test_images_in_a_registry(registry: Registry, warnings: Warnings) -> None:
    """Without it a machine that has never seen the image would lay it out in another way."""
    layout = Layout()
    one = layout.image(made_by_dockertools())
    several = layout.index(
        [
            layout.image(made_by_dockertools(), os="linux", architecture="amd64"),
            layout.image(made_by_dockertools("arm64", "/arm"), os="linux", architecture="arm64"),
        ]
    )
    put(registry, "v1", layout, one)
    put(registry, "all", layout, several)
    place = f"docker://{registry.address}/app"
    assert layers_of(warnings.find(f"{place}:v1")) == LAYERS
    assert layers_of(warnings.find(f"{place}:all")) == LAYERS
    assert layers_of(warnings.find(f"{place}@{several['digest']}")) == LAYERS
    in_arm = [["/arm" + path for path in layer] for layer in LAYERS]
    assert layers_of(warnings.find(f"{place}:all", ARM64)) == in_arm
    assert warnings == []
    assert not [line for line in registry.log if not line.startswith("GET ")]


def test_images_that_are_no_previous_build(registry: Registry, warnings: Warnings) -> None:
    """Without it the first push of an image, or one over somebody else's, would fail."""
    layout = Layout()
    place = f"docker://{registry.address}/app"
    put(registry, "foreign", layout, layout.image(Base(layers=[layer_tar({"a": b""})])))
    put(registry, "arm", layout, layout.image(made_by_dockertools("arm64")))
    chart = layout.manifest(layout.blob(b"{}", "application/vnd.cncf.helm.config.v1+json"), [])
    put(registry, "chart", layout, chart)
    put(registry, "list", layout, layout.blob(b"[1]", "application/json"))
    put(registry, "odd", layout, layout.blob(b'{"config": {"digest": 7}}', "application/json"))
    put(registry, "indexes", layout, layout.index([{"digest": "x", "platform": 7}]))
    for tag in ("foreign", "arm", "chart", "list", "odd", "indexes", "missing"):
        assert warnings.find(f"{place}:{tag}") is None
    assert warnings.find(f"docker://{registry.address}/never/seen:v1") is None
    assert len(warnings) == 8
    assert all("planned without the layers of a previous build" in line for line in warnings)
    warnings.clear()
    for tag in ("missing", "arm"):
        assert warnings.find(f"{place}:{tag}", is_expected=False) is None
    assert warnings == []


def test_registries_that_fail(registry: Registry, warnings: Warnings) -> None:
    """Without it a failure of the network would silently change the layers."""
    layout = Layout()
    put(registry, "v1", layout, layout.image(made_by_dockertools()))
    place = f"docker://{registry.address}/app:v1"
    registry.faults = [Fault(method="GET", path="/manifests/", status=401, times=9)]
    with pytest.raises(RegistryError):
        warnings.find(place)
    registry.faults = []
    repository = registry.repository("app")
    (config,) = (key for key, data in repository.blobs.items() if b'"history"' in data)
    repository.blobs[config] += b" "
    with pytest.raises(DigestMismatch):
        warnings.find(place)
    repository.blobs[config] = b" " * (9 << 20)
    with pytest.raises(RegistryError):
        warnings.find(place)
    del repository.blobs[config]
    assert warnings.find(place) is None
    with pytest.raises(RegistryError, match="Connection refused"):
        warnings.find("docker://127.0.0.1:1/app:v1")


# ---- engines


Script = Callable[[str, str], None]


@pytest.fixture
def script(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Script:
    """Return a function that makes a program, a shell script."""
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")

    def make(name: str, text: str) -> None:
        (tmp_path / name).write_text(f"#!/bin/sh\n{text}", "utf-8")
        (tmp_path / name).chmod(0o755)

    return make


def test_images_in_podman(script: Script, tmp_path: Path, warnings: Warnings) -> None:
    """Without it `load` would lay out an image in another way each time."""
    document = made_by_dockertools().document()
    answer = [document["rootfs"]["diff_ids"], document["history"], "linux", "amd64"]
    (tmp_path / "answer").write_text(json.dumps(answer), "utf-8")
    script(
        "podman",
        f'case "$*" in "image inspect"*" app:v1") cat {tmp_path}/answer;; images*);; *) exit 125;;'
        " esac\n",
    )
    assert layers_of(warnings.find("containers-storage:app:v1")) == LAYERS
    assert warnings == []
    assert warnings.find("containers-storage:app:v2") is None
    script("podman", "echo 'Error: no space' >&2; exit 125")
    with pytest.raises(EngineError, match="no space"):
        warnings.find("containers-storage:app:v1")


def test_images_in_containerd(
    script: Script, tmp_path: Path, warnings: Warnings, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without it `load` into containerd would lay out an image in another way each time."""
    monkeypatch.setattr("stream.engines.containerd.Containerd.__enter__", lambda self: self)
    layout = Layout()
    absent = {"digest": digest(b"absent"), "platform": {"os": "linux", "architecture": "arm64"}}
    index = layout.index(
        [layout.image(made_by_dockertools(), os="linux", architecture="amd64"), absent]
    )
    for name, data in layout.blobs.items():
        (tmp_path / f"sha256:{name.rpartition('/')[2]}").write_bytes(data)
    row = f"docker.io/library/app:v1 application/x {index['digest']} 1 KiB linux/amd64 -"
    script(
        "ctr",
        'case "$*" in "images ls name==docker.io/library/app:v1")'
        f" echo REF; echo '{row}';; 'images ls '*) echo REF;;"
        f' "content get "*) cat {tmp_path}/$3;; *) exit 1;; esac\n',
    )
    assert layers_of(warnings.find("containerd:app:v1")) == LAYERS
    assert warnings == []
    assert warnings.find("containerd:app:v2") is None
    for platform in (ARM64, Platform(os="linux", architecture="s390x")):
        assert warnings.find("containerd:app:v1", platform) is None
    config = digest(json.dumps(made_by_dockertools().document()).encode())
    (tmp_path / config).write_text("[]")
    with pytest.raises(EngineError, match="makes no sense"):
        warnings.find("containerd:app:v1")

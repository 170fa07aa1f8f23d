"""Pushing over HTTP: to a registry as it should be, and to those that are not."""

import gzip
import io
import json
import os
import tarfile
import threading
from collections.abc import Callable, Iterator
from copy import deepcopy
from dataclasses import replace
from itertools import product
from pathlib import Path
from typing import Any

import distribution
import orjson
import pytest
from distribution import Answer, Fault, Registry
from handmade import COMPRESSORS, INDEX_TYPE, LAYER_TYPE, Base, Layout, layer_tar
from registries import add_image
from repositories import digest_of

import stream
from stream.compression import Compression
from stream.config import parse_conf
from stream.digests.store import DigestCache
from stream.errors import ArgumentError, RegistryError, StreamImageError
from stream.model import ImageConf, Passage, Pushed
from stream.registry.client import Repository
from stream.tools.push import push

Script = Callable[[distribution.Request, distribution.Connection], Answer | None]
SIZES = {"libc": 60_000, "tool": 30_000, "note": 100}
PASSAGES: tuple[Passage, ...] = ("sent", "mounted", "held")
UNCHANGED = {"sent": 0, "mounted": 0, "held": 4}


@pytest.fixture(autouse=True)
def _patient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let layers of some kilobytes be large, files be old, and pauses short."""
    monkeypatch.setattr("stream.sinks.registry._SMALL", 20_000)
    monkeypatch.setattr("stream.digests.SETTLING_NS", -(10**10))
    monkeypatch.setattr("stream.retries.BACK_OFF", (0.0, 0.0, 0.0))
    monkeypatch.setitem(Repository.__init__.__kwdefaults__, "sleep", lambda _: None)  # type: ignore[arg-type]


@pytest.fixture
def registry() -> Iterator[Registry]:
    """Run an empty registry."""
    with distribution.running() as running:
        yield running


@pytest.fixture
def conf(store_dir: bytes) -> ImageConf:
    """Return the conf of an image with two large layers and a small one."""
    return make_conf(store_dir, SIZES)


def make_conf(store_dir: bytes, sizes: dict[str, int]) -> ImageConf:
    """Write a store with a path for each layer, and return its conf."""
    store = os.fsdecode(store_dir)
    for name, size in sizes.items():
        with open(f"{store}/{name}", "wb") as file:
            file.write(os.urandom(size))
    document = {
        "repo_tag": "app:1",
        "store_dir": store,
        "store_layers": [[f"{store}/{name}"] for name in sizes],
    }
    return parse_conf(orjson.dumps(document))


def push_to(
    registry: Registry, conf: ImageConf | list[ImageConf], name: str = "app:v1", **more: Any
) -> tuple[Pushed, dict[str, int]]:
    """Push, and return the record with the number of blobs by how they came there."""
    usual: dict[str, Any] = {"compression": Compression(codec="gzip", level=1), "jobs": 2}
    pushed = push(conf, f"{registry.address}/{name}", **(usual | more))
    return pushed, {passage: pushed.total(passage)[0] for passage in PASSAGES}


def complete(registry: Registry, reference: str = "v1", name: str = "app") -> dict[str, Any]:
    """Return a manifest, all of whose blobs are there."""
    repository = registry.repository(name)
    _, data = repository.manifests[repository.tags.get(reference, reference)]
    manifest: dict[str, Any] = json.loads(data)
    for one in [manifest["config"], *manifest["layers"]]:
        assert digest_of(repository.blobs[one["digest"]]) == one["digest"]
        assert len(repository.blobs[one["digest"]]) == one["size"]
    return manifest


def test_an_image_is_pushed(registry: Registry, conf: ImageConf) -> None:
    """Without it a registry would not have what the conf names."""
    pushed, counts = push_to(registry, conf, tags=["latest"])
    assert counts == {"sent": 4, "mounted": 0, "held": 0}
    repository = registry.repository("app")
    assert repository.tags == {"v1": pushed.digest, "latest": pushed.digest}
    assert pushed.reference == f"{registry.address}/app@{pushed.digest}"
    assert not repository.uploads
    config = json.loads(repository.blobs[complete(registry)["config"]["digest"]])
    for layer, diff_id, path in zip(
        complete(registry)["layers"], config["rootfs"]["diff_ids"], conf.store_layers, strict=True
    ):
        tar = gzip.decompress(repository.blobs[layer["digest"]])
        assert digest_of(tar) == diff_id
        with tarfile.open(fileobj=io.BytesIO(tar)) as opened:
            assert f"/{opened.getnames()[-1].lstrip('/')}".encode() == path.store_paths[0]


@pytest.mark.parametrize("login", ["", "tokens", "basic"])
def test_an_unchanged_image_is_two_requests(
    registry: Registry,
    conf: ImageConf,
    login: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Without it a push that changes nothing would take seconds over a slow link."""
    registry.tokens, registry.basic = login == "tokens", login == "basic"
    (tmp_path / "auth.json").write_text(json.dumps(registry.credentials()))
    access = stream.Access(authfile=str(tmp_path / "auth.json"))
    digests = DigestCache(str(tmp_path / "digests"))
    push_to(registry, conf, access=access, digests=digests)
    registry.requests.clear()
    monkeypatch.delattr("stream.sources.store.StoreLayer.write_to")
    _, counts = push_to(registry, conf, access=access, digests=digests)
    assert counts == UNCHANGED
    beyond = [one for one in registry.requests if one.path not in ("/v2/", "/token")]
    assert len(beyond) <= 2


def test_a_registry_that_lost_blobs_gets_them(
    registry: Registry, conf: ImageConf, tmp_path: Path
) -> None:
    """Without it a tag whose layers were removed could not be pushed to until it is deleted."""
    digests = DigestCache(str(tmp_path / "digests"))
    push_to(registry, conf, digests=digests)
    lost = complete(registry)["layers"][0]["digest"]
    del registry.repository("app").blobs[lost]
    _, counts = push_to(registry, conf, "app:v1-repaired", digests=digests)  # as docs/push.md says
    assert counts == {"sent": 1, "mounted": 0, "held": 3}
    complete(registry)
    del registry.repository("app").blobs[lost]
    conf = replace(conf, container_config={"Cmd": ["changed"]})
    _, counts = push_to(registry, conf, digests=digests)
    # The config was sent before the registry refused the manifest.
    assert counts == {"sent": 1, "mounted": 0, "held": 3}
    complete(registry)


def test_mounts(registry: Registry, conf: ImageConf, tmp_path: Path) -> None:
    """Without it `--from` would have no effect."""
    digests = DigestCache(str(tmp_path / "digests"))
    push_to(registry, conf, "base/os:1", digests=digests)
    for name, mounts in (("a", [f"{registry.address}/base/os"]), ("b", ["none", "base/os"])):
        _, counts = push_to(registry, conf, f"{name}:v1", digests=digests, mount_from=mounts)
        assert counts == {"sent": 0, "mounted": 4, "held": 0}
        complete(registry, name=name)
        assert not registry.repository(name).uploads
    registry.mounts = False
    _, counts = push_to(registry, conf, "c:v1", digests=digests, mount_from=["base/os"])
    assert counts == {"sent": 4, "mounted": 0, "held": 0}
    assert not registry.repository("c").uploads


def test_a_rehearsal_changes_nothing(registry: Registry, conf: ImageConf, tmp_path: Path) -> None:
    """Without it `--dry-run` would push, or report something else than the push does."""
    digests = DigestCache(str(tmp_path / "digests"))
    push_to(registry, conf, "base:1", digests=digests)
    before = deepcopy(registry.repositories)
    cases: dict[str, dict[str, Any]] = {
        "app:v1": {},
        "base:1": {"digests": digests},
        "base:2": {"digests": digests},
        "other:1": {"digests": digests, "mount_from": ["base"]},
    }
    for name, more in cases.items():
        registry.requests.clear()
        rehearsed, expected = push_to(registry, conf, name, rehearse=True, **more)
        assert {one.method for one in registry.requests} <= {"GET", "HEAD"}
        assert registry.repositories == before
        pushed, counts = push_to(registry, conf, name, **more)
        assert (expected, rehearsed.digest) == (counts, pushed.digest)
        registry.repositories = deepcopy(before)


@pytest.mark.parametrize("stored", ["plain", "gzip", "zstd"])
@pytest.mark.parametrize("codec", ["none", "zstd"])
def test_layers_of_a_base_image_are_carried_as_they_are(
    registry: Registry, store_dir: bytes, tmp_path: Path, stored: str, codec: str
) -> None:
    """Without it a base image's layers would be compressed again, and be new to every registry."""
    base = Base(layers=[layer_tar({"one": os.urandom(40_000)}), layer_tar({"two": b"2"})])
    layout = Layout()
    layout.top.append(add_image(layout, base, "oci", stored))
    (tmp_path / "base.tar").write_bytes(layout.tar())
    document = {"repo_tag": "app:1", "from_image": str(tmp_path / "base.tar"), "store_layers": []}
    conf = parse_conf(orjson.dumps(document | {"store_dir": os.fsdecode(store_dir)}))
    pushed, counts = push_to(registry, conf, compression=Compression(codec=codec))
    assert counts == {"sent": 3, "mounted": 0, "held": 0}
    kept = stored if stored != "plain" else codec
    for layer, tar in zip(complete(registry)["layers"], base.layers, strict=True):
        assert layer["mediaType"] == LAYER_TYPE + ("" if kept == "none" else f"+{kept}")
        if stored != "plain":
            assert layer["digest"] == digest_of(COMPRESSORS[stored](tar))
    assert [layer.diff_id for layer in pushed.image.layers] == [
        digest_of(one) for one in base.layers
    ]
    registry.requests.clear()
    _, counts = push_to(registry, conf, compression=Compression(codec=codec))
    if stored != "plain":
        assert counts == {"sent": 0, "mounted": 0, "held": 3}
        assert len(registry.requests) <= 3


@pytest.mark.slow
def test_every_request_may_fail_once(registry: Registry, conf: ImageConf) -> None:
    """Without it a connection lost in a large push would mean to begin again."""
    push_to(registry, conf)
    expected, total = registry.repositories, len(registry.requests)
    faults = [
        Fault(cut=0), Fault(cut=5000), Fault(status=503), Fault(loses_answer=True),
        Fault(cut_answer=20),
    ]  # fmt: skip
    for number, fault in product(range(total), faults):
        registry.repositories, registry.requests = {}, []
        registry.faults = [replace(fault, number=number)]
        push_to(registry, conf)
        assert registry.repositories["app"].tags == expected["app"].tags
        complete(registry)


def dying_at(number: int) -> Script:
    """Return the script of a registry that answers no request from that number on."""
    return lambda request, _: Answer(raw=b"") if request.number >= number else None


@pytest.mark.slow
def test_a_registry_that_dies_at_any_request(
    registry: Registry, conf: ImageConf, store_dir: bytes
) -> None:
    """Without it a push that ends in the middle could leave a tag that cannot be pulled."""
    push_to(registry, make_conf(store_dir, {**SIZES, "tool": 20_000}))
    conf = make_conf(store_dir, SIZES)
    older = deepcopy(registry.repositories)
    for number in range(40):
        registry.requests.clear()
        registry.script = dying_at(number)
        try:
            push_to(registry, conf)
        except StreamImageError:
            assert registry.repository("app").tags == older["app"].tags
            complete(registry)
            registry.script = None
            pushed, _ = push_to(registry, conf)
            assert registry.repository("app").tags == {"v1": pushed.digest}
            complete(registry)
            registry.repositories = deepcopy(older)
        else:
            break
    assert 10 < number < 39


@pytest.mark.slow
def test_an_index_on_a_registry_that_dies_at_any_request(
    registry: Registry, conf: ImageConf
) -> None:
    """Without it a tag could name an index with an image that is not there."""
    confs = [replace(conf, architecture=name) for name in ("amd64", "arm64")]
    push_to(registry, confs[:1])
    older = deepcopy(registry.repositories)
    for number in range(40):
        registry.requests.clear()
        registry.script = dying_at(number)
        try:
            push_to(registry, confs)
        except StreamImageError:
            assert registry.repository("app").tags == older["app"].tags
            registry.script = None
            pushed, _ = push_to(registry, confs)
            assert registry.repository("app").tags == {"v1": pushed.digest}
            for image in pushed.images:
                assert image.manifest is not None
                complete(registry, image.manifest.digest)
            registry.repositories = deepcopy(older)
        else:
            break
    assert 8 < number < 39


_HERE = {"Location": "/v2/app/blobs/uploads/u1"}


def answering(status: int, *methods: str, **headers: str) -> Script:
    """Return the script that answers requests of some methods with a status."""
    sent = {name.replace("_", "-"): value for name, value in headers.items()}
    return lambda request, _: (
        Answer(status=status, headers=sent) if request.method in methods else None
    )


@pytest.mark.parametrize(
    "script",
    [
        pytest.param(answering(200, "GET", "HEAD", "POST", "PATCH", "PUT"), id="200-to-everything"),
        pytest.param(
            answering(202, "HEAD", "POST", "PATCH", "PUT", **_HERE), id="202-to-everything"
        ),
        pytest.param(answering(201, "POST", "PATCH", "PUT", **_HERE), id="201-to-everything"),
        pytest.param(answering(413, "PATCH"), id="too-large"),
        pytest.param(answering(400, "PATCH"), id="4xx-while-sending"),
        pytest.param(answering(500, "PATCH"), id="5xx-while-sending"),
        pytest.param(answering(429, "PATCH", Retry_After="0"), id="always-busy"),
        pytest.param(answering(403, "POST"), id="denied"),
        pytest.param(answering(401, "POST"), id="logged-out"),
        pytest.param(
            answering(201, "PUT", Docker_Content_Digest=f"sha256:{'0' * 64}"), id="other-digest"
        ),
        pytest.param(answering(202, "POST", Location="http://10.0.0.1/x"), id="sent-elsewhere"),
        pytest.param(lambda *_: Answer(raw=b"\x15\x03\x01\x00\x02\x02F"), id="not-http"),
    ],
)
def test_what_a_registry_does_wrong_is_an_error(
    registry: Registry, conf: ImageConf, script: Script
) -> None:
    """Without it a tag could name what is not there, or the reason would be a closed pipe."""
    registry.script = script
    with pytest.raises(RegistryError) as caught:
        push_to(registry, conf)
    assert "\n" not in str(caught.value)
    assert f"{registry.address}/app" in str(caught.value)
    assert not registry.repository("app").tags


def test_bytes_that_vanish_are_an_error(registry: Registry, conf: ImageConf) -> None:
    """Without it a registry or proxy that truncates silently would have a blob that is not whole."""

    def truncate(_: distribution.Request, __: distribution.Connection) -> None:
        for begun in registry.repository("app").uploads.values():
            del begun[1000:]

    registry.script = truncate
    with pytest.raises(RegistryError, match="DIGEST_INVALID"):
        push_to(registry, conf)
    assert not registry.repository("app").tags


@pytest.mark.parametrize("platforms", [1, 2])
def test_two_pushes_of_one_tag(
    registry: Registry, conf: ImageConf, store_dir: bytes, platforms: int
) -> None:
    """Without it two builds at once could leave a tag with layers or images of both."""
    os.mkdir(store_dir + b"/other")
    other = make_conf(store_dir + b"/other", {"libc": 50_000, "tool": 40_000})
    found: list[Pushed] = []

    def run(one: ImageConf) -> None:
        names = ("amd64", "arm64")[:platforms]
        found.append(push_to(registry, [replace(one, architecture=name) for name in names])[0])

    threads = [threading.Thread(target=run, args=(one,)) for one in (conf, other, conf, other)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    digests = {pushed.digest for pushed in found}
    assert len(found) == 4
    assert len(digests) == 2
    assert registry.repository("app").tags["v1"] in digests
    for digest in {image.manifest.digest for one in found for image in one.images}:  # type: ignore[union-attr]
        complete(registry, digest)


@pytest.mark.parametrize(
    ("name", "more", "reason"),
    [
        ("app@sha256:" + "0" * 64, {}, "write name:tag"),
        ("App:v1", {}, "lower-case"),
        ("app:v1", {"tags": ["a b"]}, "is not a tag"),
        ("app:v1", {"mount_from": ["other.example/base"]}, "another registry"),
        ("app:v1", {"mount_from": ["docker.io/base"]}, "another registry"),
        ("app:v1", {"compression": Compression(codec="store")}, "gzip, zstd"),
        ("app:v1", {"jobs": 0}, "positive"),
    ],
)
def test_what_cannot_be_pushed(
    registry: Registry, conf: ImageConf, name: str, more: dict[str, Any], reason: str
) -> None:
    """Without it a mistake in the call would show after minutes, or in a registry."""
    with pytest.raises(ArgumentError, match=reason):
        push_to(registry, conf, name, **more)
    assert not registry.requests


def test_several_platforms_are_one_index(registry: Registry, conf: ImageConf) -> None:
    """Without it machines of two architectures could not pull one name."""
    other = replace(conf, architecture="arm", variant="v7", store_layers=conf.store_layers[1:])
    confs = [replace(conf, architecture="amd64"), other]
    pushed, counts = push_to(registry, confs, tags=["latest"])
    assert counts == {"sent": 5, "mounted": 0, "held": 0}
    repository = registry.repository("app")
    assert repository.tags == {"v1": pushed.digest, "latest": pushed.digest}
    kind, data = repository.manifests[pushed.digest]
    assert kind == json.loads(data)["mediaType"] == INDEX_TYPE
    for one, entry, image in zip(confs, json.loads(data)["manifests"], pushed.images, strict=True):
        assert image.manifest is not None
        assert (entry["digest"], entry["size"]) == (image.manifest.digest, image.manifest.size)
        config = complete(registry, entry["digest"])["config"]["digest"]
        document = json.loads(repository.blobs[config])
        stated = {
            key: document[key] for key in ("os", "architecture", "variant") if key in document
        }
        assert stated == entry["platform"]
        assert len(image.layers) == len(one.store_layers)
        alone, _ = push_to(registry, one, "alone:v1")
        assert alone.digest == entry["digest"]
    assert push_to(registry, confs, rehearse=True)[0].digest == pushed.digest


@pytest.mark.parametrize(
    ("names", "reason"),
    [
        ([], "is empty"),
        (["amd64", "arm64", "amd64"], "'linux/amd64' is the platform of several images"),
        (["amd64", "x86_64"], "'linux/x86_64' is the platform of several images"),
    ],
)
def test_platforms_that_cannot_be_one_index(
    registry: Registry, conf: ImageConf, names: list[str], reason: str
) -> None:
    """Without it one of two images would be there that no machine ever chooses."""
    with pytest.raises(ArgumentError, match=reason):
        push_to(registry, [replace(conf, architecture=name) for name in names])
    assert not registry.requests


def test_a_name_without_a_tag_and_images_with_several(registry: Registry, conf: ImageConf) -> None:
    """Without it an index would be pushed under the tag of one of its images."""
    confs = [replace(conf, architecture="amd64"), replace(conf, repo_tag="app:2")]
    confs[1] = replace(confs[1], architecture="arm64")
    with pytest.raises(ArgumentError, match="has no tag, and the images have several: 1, 2"):
        push_to(registry, confs, "app")
    assert not registry.requests


def test_a_name_without_a_tag_takes_the_confs(registry: Registry, conf: ImageConf) -> None:
    """Without it an image would be pushed under a tag that nobody chose."""
    pushed, _ = push_to(registry, conf, "app")
    assert pushed.tags == ("1",)

"""Pushing to a repository in memory: what is sent and what is not, and in which order."""

import gzip
import os
import threading
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import replace
from itertools import accumulate, count
from pathlib import Path

import orjson
import pytest
import zstandard
from repositories import KilledError, MemoryRepository, MemoryUpload, StoredManifest, digest_of

from stream.compression import UNCOMPRESSED, Compression
from stream.config import parse_conf
from stream.digests import NO_DIGESTS, Digests
from stream.digests.store import DigestCache
from stream.errors import RegistryError, SourceError
from stream.interfaces import ContentWriter
from stream.model import Blob, Digest, Image, ImageConf
from stream.observer import Observer
from stream.pipeline import write_images
from stream.sinks.registry import MAX_PLATFORMS, RegistrySink
from stream.sources.store import StoreLayer
from stream.tools.write import opened_sources

GZIP = Compression(codec="gzip", level=1)
ZSTD = Compression(codec="zstd", level=1)


def make_conf(store_dir: bytes, sizes: Mapping[str, int]) -> ImageConf:
    """Write a store with a path for each layer, and return its conf."""
    for name, size in sizes.items():
        path = os.path.join(store_dir, name.encode())
        with open(path, "wb") as file:
            file.write(name.encode() * (size // len(name)))
        os.utime(path, (1, 1))
    return conf_of(store_dir, [*sizes])


def conf_of(store_dir: bytes, names: Sequence[str]) -> ImageConf:
    """Return the conf of an image with a layer for each store path."""
    store = os.fsdecode(store_dir)
    document = {
        "repo_tag": "app:1",
        "store_dir": store,
        "store_layers": [[f"{store}/{name}"] for name in names],
    }
    return parse_conf(orjson.dumps(document))


def push(  # noqa: PLR0913 — each what a test varies
    conf: ImageConf,
    repository: MemoryRepository,
    *,
    compression: Compression = GZIP,
    digests: Digests = NO_DIGESTS,
    tags: Sequence[str] = ("v1",),
    mount_from: Sequence[str] = (),
    homes: dict[Digest, str] | None = None,
    trusting: bool = True,
) -> tuple[Image, dict[str, int]]:
    """Push, and return the image and the number of blobs by how they came there."""
    (image,), counts = push_index(
        [conf], repository, compression=compression, digests=digests, tags=tags,
        mount_from=mount_from, homes=homes, trusting=trusting,
    )  # fmt: skip
    return image, counts


def push_index(  # noqa: PLR0913 — each what a test varies
    confs: Sequence[ImageConf],
    repository: MemoryRepository,
    *,
    compression: Compression = GZIP,
    digests: Digests = NO_DIGESTS,
    tags: Sequence[str] = ("v1",),
    mount_from: Sequence[str] = (),
    homes: dict[Digest, str] | None = None,
    trusting: bool = True,
) -> tuple[list[Image], dict[str, int]]:
    """Push, and return the images and the number of blobs by how they came there."""
    passages: list[Blob] = []
    with (
        ExitStack() as stack,
        RegistrySink(
            lambda: repository, "registry.example/app", tags, compression=compression, jobs=2,
            mount_from=mount_from, homes=homes or {}, path="app", trusting=trusting,
            confirmed=passages.append,
        ) as sink,
    ):  # fmt: skip
        sources = [stack.enter_context(opened_sources(conf, Observer())) for conf in confs]
        images = write_images(sources, sink, Observer(), digests)
    counts = dict.fromkeys(("sent", "held", "mounted"), 0)
    for blob in passages:
        counts[blob.passage] += 1
    return images, counts


@pytest.fixture(autouse=True)
def _small(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let layers of some kilobytes be large, and files be old."""
    monkeypatch.setattr("stream.sinks.registry._SMALL", 20_000)
    monkeypatch.setattr("stream.digests.SETTLING_NS", -(10**10))


@pytest.fixture
def digests(tmp_path: Path) -> DigestCache:
    """Return an empty cache."""
    return DigestCache(str(tmp_path / "digests"))


DIGEST = f"sha256:{'0' * 64}"
SIZES = {"libc": 50_000, "tool": 30_000, "note": 100}


@pytest.fixture
def conf(store_dir: bytes) -> ImageConf:
    """Return the conf of an image with two large layers and a small one."""
    return make_conf(store_dir, SIZES)


def forbid_reading(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let every layer fail that is read."""

    def refuse(*_: object) -> None:
        raise AssertionError("a layer is read")

    monkeypatch.setattr("stream.sources.store.StoreLayer.write_to", refuse)


def test_tags_come_last_and_in_order(conf: ImageConf) -> None:
    """Without it a tag could name an image whose blobs are still on their way."""
    repository = MemoryRepository()
    image, counts = push(conf, repository, tags=["v1", "z", "a"])
    assert image.manifest is not None
    digest = image.manifest.digest
    puts = [what for what in repository.requests if what.startswith("PUT")]
    *blobs, first, second, third, fourth = puts
    assert len(blobs) == counts["sent"] == 4
    assert all(what.startswith("PUT blob") for what in blobs)
    assert [first, second, third, fourth] == [
        f"PUT manifest {name}" for name in (digest, "v1", "z", "a")
    ]
    assert repository.tags == dict.fromkeys(["v1", "z", "a"], digest)


def test_an_index_comes_after_its_images(conf: ImageConf) -> None:
    """Without it a tag could name an index whose images are still on their way."""
    repository = MemoryRepository()
    other = replace(conf, architecture="arm", variant="v6", container_config={"Cmd": ["/x"]})
    confs = [replace(conf, architecture="amd64"), other]
    images, counts = push_index(confs, repository, tags=["v1", "v2"])
    own = [image.manifest.digest for image in images if image.manifest]
    puts = [what.removeprefix("PUT ") for what in repository.requests if what.startswith("PUT")]
    assert [what for what in puts if what.startswith("manifest")] == puts[-5:]
    index = repository.tags["v1"]
    assert puts[-5:] == [f"manifest {name}" for name in (*own, index, "v1", "v2")]
    assert orjson.loads(repository.manifests[index].data) == {
        "schemaVersion": 2,
        "mediaType": "application/vnd.oci.image.index.v1+json",
        "manifests": [
            {
                "mediaType": "application/vnd.oci.image.manifest.v1+json",
                "digest": digest,
                "size": len(repository.manifests[digest].data),
                "platform": platform,
            }
            for digest, platform in zip(
                own,
                [
                    {"os": "linux", "architecture": "amd64"},
                    {"os": "linux", "architecture": "arm", "variant": "v6"},
                ],
                strict=True,
            )
        ],
    }
    # The store layers, which both have, were sent once.
    assert counts == {"sent": 5, "held": 0, "mounted": 0}
    alone, _ = push(confs[1], MemoryRepository())
    assert alone.manifest == images[1].manifest


def test_the_images_of_an_index_are_there(conf: ImageConf, digests: DigestCache) -> None:
    """Without it every push to a tag that names an index would ask for each blob again."""
    repository = MemoryRepository()
    confs = [replace(conf, architecture=name) for name in ("amd64", "arm64")]
    push_index(confs, repository, digests=digests)
    repository.requests.clear()
    _, counts = push_index(confs, repository, digests=digests)
    assert counts == {"sent": 0, "held": 5, "mounted": 0}
    assert [what.split()[:2] for what in repository.requests] == [["GET", "manifest"]] * 3
    repository.requests.clear()
    _, counts = push(confs[0], repository, digests=digests)
    assert counts == {"sent": 0, "held": 4, "mounted": 0}
    assert repository.requests[3:] == ["PUT manifest v1"]


def test_an_index_of_many_images(conf: ImageConf) -> None:
    """Without it whoever can write a tag could make every push to it take hours."""
    repository = MemoryRepository()
    listed = [{"digest": f"sha256:{number:064}"} for number in range(1000)]
    data = orjson.dumps({"schemaVersion": 2, "manifests": listed})
    digest = digest_of(data)
    repository.tags["v1"] = digest
    repository.manifests[digest] = StoredManifest(data=data, media_type="", digest=digest)
    push(conf, repository)
    assert repository.count("GET manifest") == 1 + MAX_PLATFORMS


@pytest.mark.parametrize(
    "listed", [7, [None, {}, {"digest": 1}, {"digest": "../x"}, {"digest": DIGEST}]]
)
def test_an_index_that_makes_no_sense(conf: ImageConf, listed: object) -> None:
    """Without it a broken index under the tag would keep every push from replacing it."""
    repository = MemoryRepository()
    data = orjson.dumps({"schemaVersion": 2, "manifests": listed})
    digest = digest_of(data)
    repository.tags["v1"] = digest
    repository.manifests[digest] = StoredManifest(data=data, media_type="", digest=digest)
    _, counts = push(conf, repository)
    assert counts == {"sent": 4, "held": 0, "mounted": 0}
    assert set(repository.requests[1:2]) <= {f"GET manifest {DIGEST}", "POST upload"}


def tar_of(blob: bytes, media_type: str) -> bytes:
    """Return what a layer's blob holds."""
    if media_type.endswith("+gzip"):
        return gzip.decompress(blob)
    if media_type.endswith("+zstd"):
        return zstandard.ZstdDecompressor().decompressobj().decompress(blob)
    return blob


@pytest.mark.parametrize("compression", [UNCOMPRESSED, GZIP, ZSTD], ids=lambda one: one.codec)
@pytest.mark.parametrize("large", [2, 40_000, 1 << 30])
def test_blobs_hold_the_layers(
    conf: ImageConf, compression: Compression, large: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without it a registry could hold other bytes than the image's config promises."""
    monkeypatch.setattr("stream.compression._LARGE_LAYER", large)
    repository = MemoryRepository()
    image, _ = push(conf, repository, compression=compression)
    layers = repository.image("v1")["layers"]
    assert len(layers) == 3
    for descriptor, layer in zip(layers, image.layers, strict=True):
        content = tar_of(repository.blobs[descriptor["digest"]], descriptor["mediaType"])
        assert digest_of(content) == layer.diff_id
        assert len(content) == layer.size
        assert (descriptor["digest"] == layer.diff_id) == (compression == UNCOMPRESSED)


@pytest.mark.parametrize("codec", ["gzip", "zstd"])
def test_threads_do_not_change_bytes(
    conf: ImageConf, codec: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without it the same image would be pushed again from a machine with more cores."""
    monkeypatch.setattr("stream.compression._LARGE_LAYER", 40_000)
    found = set()
    for cores in (1, 2, 5):
        monkeypatch.setattr("os.sched_getaffinity", lambda _, cores=cores: range(cores))
        image, _ = push(conf, MemoryRepository(), compression=Compression(codec=codec))
        assert image.manifest is not None
        found.add(image.manifest.digest)
    assert len(found) == 1


def test_sizes_known_beforehand_are_announced(
    conf: ImageConf, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without it a registry that takes no chunked coding could not be pushed to uncompressed."""
    sizes: list[int | None] = []
    commit = MemoryUpload.commit

    def observe(upload: MemoryUpload, digest: Digest) -> None:
        sizes.extend(upload.sizes)
        commit(upload, digest)

    monkeypatch.setattr("repositories.MemoryUpload.commit", observe)
    push(conf, MemoryRepository(), compression=UNCOMPRESSED)
    assert len(sizes) == 4
    assert None not in sizes


def test_unchanged_image_is_one_request(
    conf: ImageConf, digests: Digests, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without it an unchanged image would be read, or asked for layer by layer."""
    repository = MemoryRepository()
    first, _ = push(conf, repository, digests=digests)
    repository.requests.clear()
    forbid_reading(monkeypatch)
    second, counts = push(conf, repository, digests=digests)
    assert repository.requests == ["GET manifest v1"]
    assert second.manifest == first.manifest
    assert counts == {"sent": 0, "mounted": 0, "held": 4}


def test_new_tag_asks_for_each_blob(
    conf: ImageConf, digests: Digests, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without it a new tag would send everything again."""
    repository = MemoryRepository()
    push(conf, repository, digests=digests)
    repository.requests.clear()
    forbid_reading(monkeypatch)
    _, counts = push(conf, repository, digests=digests, tags=["v2"])
    assert counts == {"sent": 0, "mounted": 0, "held": 4}
    assert repository.count("HEAD blob") == 4
    assert repository.count("POST") == 0


def test_changed_layer_is_all_that_is_sent(
    conf: ImageConf, store_dir: bytes, digests: Digests
) -> None:
    """Without it a new file would cost the whole image."""
    repository = MemoryRepository()
    push(conf, repository, digests=digests)
    make_conf(store_dir, {"tool": 40_000})
    repository.requests.clear()
    _, counts = push(conf, repository, digests=digests)
    assert counts == {"sent": 2, "mounted": 0, "held": 2}
    assert repository.count("POST") == 2
    assert repository.image("v1")["layers"]


def test_small_layer_of_unknown_digest_is_looked_for(conf: ImageConf) -> None:
    """Without it what a machine without a cache has made would be sent again, even if small."""
    repository = MemoryRepository()
    first, _ = push(conf, repository)
    second, counts = push(conf, repository)
    assert counts == {"sent": 2, "mounted": 0, "held": 2}  # the config, and the small layer
    assert second.manifest == first.manifest


def test_cache_does_not_change_bytes(conf: ImageConf, digests: Digests) -> None:
    """Without it an image's digest would depend on what was pushed before."""
    images = [
        push(conf, MemoryRepository(), digests=digests)[0],
        push(conf, MemoryRepository(), digests=digests)[0],
        push(conf, MemoryRepository())[0],
    ]
    assert len({image.manifest for image in images}) == 1


def test_encodings_are_known_apart(conf: ImageConf, digests: Digests) -> None:
    """Without it a manifest could promise zstd and name a blob of gzip."""
    repository = MemoryRepository()
    for compression in (GZIP, ZSTD, UNCOMPRESSED, GZIP, ZSTD):
        push(conf, repository, compression=compression, digests=digests)
        suffix = "" if compression == UNCOMPRESSED else f"+{compression.codec}"
        for layer in repository.image("v1")["layers"]:
            assert layer["mediaType"].endswith(f"tar{suffix}")
            tar_of(repository.blobs[layer["digest"]], layer["mediaType"])


def test_blobs_of_other_repositories_are_mounted(
    conf: ImageConf, digests: Digests, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without it a repository for each branch would be sent every base layer."""
    other = MemoryRepository()
    push(conf, other, digests=digests)
    forbid_reading(monkeypatch)
    repository = MemoryRepository({"empty": {}, "base": other.blobs})
    _, counts = push(conf, repository, digests=digests, mount_from=["empty", "base"])
    assert counts == {"sent": 0, "mounted": 4, "held": 0}
    assert not repository.open, "sessions that were opened instead are cancelled"


def test_home_of_a_blob_is_asked_first(
    conf: ImageConf, digests: Digests, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without it the second of many images would ask for each layer before it mounts it."""
    other = MemoryRepository()
    push(conf, other, digests=digests)
    forbid_reading(monkeypatch)
    repository = MemoryRepository({"base": other.blobs})
    homes = dict.fromkeys(other.blobs, "base")
    _, counts = push(conf, repository, digests=digests, homes=homes, mount_from=["base"])
    assert counts == {"sent": 0, "mounted": 4, "held": 0}
    assert repository.count("HEAD blob") == 0


def test_home_of_a_blob_may_be_this_repository(
    conf: ImageConf, digests: Digests, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without it many tags of one repository would ask for all of its layers again and again."""
    repository = MemoryRepository()
    push(conf, repository, digests=digests)
    forbid_reading(monkeypatch)
    repository.requests.clear()
    homes = dict.fromkeys(repository.blobs, "app")
    _, counts = push(conf, repository, digests=digests, homes=homes, tags=["v2"])
    assert counts == {"sent": 0, "mounted": 0, "held": 4}
    assert repository.count("HEAD blob") == repository.count("POST") == 0


def test_home_that_has_lost_a_blob(conf: ImageConf, digests: Digests) -> None:
    """Without it a blob that a registry removes meanwhile would fail all the images after it."""
    other = MemoryRepository()
    push(conf, other, digests=digests)
    repository = MemoryRepository({"base": {}})
    homes = dict.fromkeys(other.blobs, "base")
    _, counts = push(conf, repository, digests=digests, homes=homes)
    assert counts == {"sent": 4, "mounted": 0, "held": 0}
    assert not repository.open


def test_session_opened_instead_of_a_mount_is_used(conf: ImageConf, digests: Digests) -> None:
    """Without it a registry that refuses mounts would be left with an open upload a layer."""
    push(conf, MemoryRepository(), digests=digests)
    repository = MemoryRepository({"base": {}})
    push(conf, repository, digests=digests, mount_from=["base"])
    assert not repository.open
    assert repository.count("POST upload") == 0
    assert repository.count("POST mount") == 4


def test_blobs_of_a_tag_can_be_distrusted(conf: ImageConf, digests: Digests) -> None:
    """Without it a registry that removed a layer below a manifest could never be pushed to."""
    repository = MemoryRepository()
    push(conf, repository, digests=digests)
    lost = repository.image("v1")["layers"][0]["digest"]
    del repository.blobs[lost]
    _, counts = push(conf, repository, digests=digests, trusting=False)
    assert counts == {"sent": 1, "mounted": 0, "held": 3}
    assert lost in repository.blobs


@pytest.mark.parametrize("compression", [UNCOMPRESSED, GZIP])
def test_changed_file_leaves_nothing(
    conf: ImageConf,
    store_dir: bytes,
    compression: Compression,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Without it half a file could become a blob."""
    repository = MemoryRepository()
    write_to = StoreLayer.write_to

    def change(layer: StoreLayer, writer: ContentWriter) -> None:
        make_conf(store_dir, {"tool": 31_000})
        write_to(layer, writer)

    monkeypatch.setattr("stream.sources.store.StoreLayer.write_to", change)
    with pytest.raises(SourceError, match="tool"):
        push(conf, repository, compression=compression)
    assert not repository.tags
    assert not repository.open
    assert repository.count("PUT manifest") == 0


def test_failure_of_the_registry_is_reported_as_its_own(conf: ImageConf) -> None:
    """Without it a refused layer would be reported as a closed pipe."""
    repository = MemoryRepository()
    repository.fails_after = 10
    repository.failure = RegistryError("registry.example/app", "too large", status=413)
    with pytest.raises(RegistryError, match="too large"):
        push(conf, repository)
    assert not repository.tags
    assert not repository.open


@pytest.fixture
def older(store_dir: bytes) -> MemoryRepository:
    """Return a repository with an older image under the tag."""
    repository = MemoryRepository()
    push(make_conf(store_dir, {**SIZES, "tool": 20_000}), repository)
    make_conf(store_dir, SIZES)
    repository.revive()
    return repository


def killed(
    conf: ImageConf, older: MemoryRepository, compression: Compression, digests: Digests
) -> bool:
    """Push to a repository that may fail, and return whether it did. Then the tag names the older
    image, and once the repository works again, the new one.
    """
    before = older.blobs.copy(), older.manifests.copy(), older.tags.copy()
    try:
        push(conf, older, compression=compression, digests=digests)
    except KilledError:
        assert older.tags == before[2]
        older.image("v1")
        older.revive()
        image, _ = push(conf, older, compression=compression, digests=digests)
        assert image.manifest is not None
        assert older.tags == {"v1": image.manifest.digest}
        older.image("v1")
        return True
    finally:
        older.blobs, older.manifests, older.tags = before
        older.revive()
    return False


@pytest.mark.parametrize("compression", [UNCOMPRESSED, GZIP], ids=lambda one: one.codec)
@pytest.mark.parametrize("is_shared", [False, True], ids=["cold", "warm"])
def test_kill_at_every_request(
    conf: ImageConf,
    older: MemoryRepository,
    compression: Compression,
    tmp_path: Path,
    *,
    is_shared: bool,
) -> None:
    """Without it a push that ends in the middle could leave a tag that cannot be pulled."""
    for number in count():
        older.fails_at = number
        cache = DigestCache(str(tmp_path / ("shared" if is_shared else str(number))))
        if not killed(conf, older, compression, cache):
            break
    assert number > 5


@pytest.mark.parametrize("compression", [UNCOMPRESSED, GZIP], ids=lambda one: one.codec)
def test_kill_at_every_byte(
    conf: ImageConf, older: MemoryRepository, compression: Compression
) -> None:
    """Without it a connection that ends in a layer could leave a blob that is not whole."""
    before = older.blobs.copy(), older.manifests.copy(), older.tags.copy()
    push(conf, older, compression=compression)
    sent = [len(blob) for digest, blob in older.blobs.items() if digest not in before[0]]
    older.blobs, older.manifests, older.tags = before
    ends = list(accumulate(sent))
    near = (end + distance for end in ends for distance in (-2, -1, 0))
    for number in sorted({*range(0, ends[-1], max(1, ends[-1] // 30)), *near} - {ends[-1]}):
        older.fails_after = number
        assert killed(conf, older, compression, NO_DIGESTS)


def test_two_pushes_of_one_tag(conf: ImageConf, store_dir: bytes) -> None:
    """Without it two builds at once could leave a tag with layers of both."""
    repository = MemoryRepository()
    images = []

    def run(one: ImageConf) -> None:
        images.append(push(one, repository)[0])

    confs = [conf, conf_of(store_dir, ["note", "libc"])] * 2
    threads = [threading.Thread(target=run, args=(one,)) for one in confs]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    manifests = {image.manifest.digest for image in images if image.manifest is not None}
    assert len(manifests) == 2
    assert repository.tags["v1"] in manifests
    repository.image("v1")

"""What a registry remembers of layers: a machine that has never seen an image sends what is new,
and whatever is written there, never publishes anything but what it has.
"""

import gzip
import hashlib
import json
import os
import threading
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import distribution
import orjson
import pytest
from distribution import Answer, Registry, digest_of
from handmade import Base, Layout, layer_tar
from hypothesis import given, settings
from hypothesis import strategies as st
from registries import add_image
from remembered import Remembered

import stream
from stream.compression import Compression
from stream.config import parse_conf
from stream.digests.annotations import PREFIX, AnnotatedDigests
from stream.digests.store import DigestCache
from stream.errors import ArgumentError, RegistryError
from stream.model import ImageConf, Passage, Permission, Pushed, Recipe
from stream.observer import Observer
from stream.sources.store import StoreLayer
from stream.tools.push import push
from stream.tools.remembered import RegistryCache

GZIP = Compression(codec="gzip", level=1)
SIZES = {"libc": 60_000, "tool": 30_000, "note": 30_000}
PASSAGES: tuple[Passage, ...] = ("sent", "mounted", "held")
SECRET = RegistryCache(secret=b"0123456789abcdef")
OPEN = RegistryCache()

Change = Callable[[dict[str, Any]], object]


@pytest.fixture(autouse=True)
def _hurried(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let layers of some kilobytes be large, files be old, and no time pass between tries."""
    monkeypatch.setattr("stream.sinks.registry._SMALL", 20_000)
    monkeypatch.setattr("stream.digests.SETTLING_NS", -(10**10))
    monkeypatch.setattr("stream.retries.BACK_OFF", (0.0, 0.0, 0.0))


@pytest.fixture
def registry() -> Iterator[Registry]:
    """Run an empty registry."""
    with distribution.running() as running:
        yield running


@pytest.fixture
def conf(store_dir: bytes) -> ImageConf:
    """Return the conf of an image of three layers of store paths, whose hashes are known."""
    return make_conf(store_dir, SIZES)


def make_conf(store_dir: bytes, sizes: Mapping[str, int], **more: object) -> ImageConf:
    """Write a store with a path for each layer that is not there yet, and return its conf."""
    store = os.fsdecode(store_dir)
    hashes = {}
    for name, size in sizes.items():
        digest = hashlib.sha256(f"{name} {size}".encode())
        path = Path(store, f"{digest.hexdigest()[:31].replace('e', 'z')}0-{name}")
        if not path.exists():
            path.write_bytes(os.urandom(size))
        hashes[str(path)] = f"sha256:{digest.hexdigest()}"
    document = {
        "repo_tag": "app:1",
        "store_dir": store,
        "store_layers": [[path] for path in hashes],
        "store_path_hashes": hashes,
    }
    return parse_conf(orjson.dumps(document | more))


class Warnings(Observer):
    """Keeps what people are told."""

    def __init__(self) -> None:
        self.texts: list[str] = []

    def warning(self, message: str) -> None:
        """Keep a message."""
        self.texts.append(message)


def push_to(
    registry: Registry,
    conf: ImageConf | list[ImageConf],
    name: str = "app:v1",
    cache: RegistryCache | None = OPEN,
    **more: Any,
) -> tuple[Pushed, dict[str, int]]:
    """Push, and return the record with the number of blobs by how they came there."""
    usual: dict[str, Any] = {"compression": GZIP, "jobs": 2}
    address = f"{registry.address}/{name}"
    pushed = push(conf, address, registry_cache=cache, **(usual | more))
    return pushed, {passage: pushed.total(passage)[0] for passage in PASSAGES}


def manifest_of(registry: Registry, name: str = "app", reference: str = "v1") -> dict[str, Any]:
    """Return a manifest, all of whose blobs are there."""
    repository = registry.repository(name)
    _, data = repository.manifests[repository.tags.get(reference, reference)]
    manifest: dict[str, Any] = json.loads(data)
    for one in [manifest["config"], *manifest["layers"]]:
        assert digest_of(repository.blobs[one["digest"]]) == one["digest"]
        assert len(repository.blobs[one["digest"]]) == one["size"]
    return manifest


def plain(manifest: Mapping[str, Any]) -> dict[str, Any]:
    """Return a manifest without what it remembers of layers."""
    layers = [
        {name: value for name, value in layer.items() if name != "annotations"}
        for layer in manifest["layers"]
    ]
    return {**manifest, "layers": layers}


def put(registry: Registry, document: object, name: str = "app", tag: str = "v1") -> None:
    """Put whatever it is under a tag, without the checks of a registry."""
    data = document if isinstance(document, bytes) else json.dumps(document).encode()
    repository = registry.repository(name)
    repository.tags[tag] = digest_of(data)
    kind = "application/vnd.oci.image.manifest.v1+json"
    repository.manifests[digest_of(data)] = kind, data


@pytest.fixture
def expected(conf: ImageConf) -> dict[str, Any]:
    """Return the manifest of a push without any memory."""
    with distribution.running() as other:
        push_to(other, conf, cache=None)
        return manifest_of(other)


# ---- what it is good for


@pytest.mark.parametrize(("codec", "cache"), [("none", OPEN), ("gzip", SECRET), ("zstd", OPEN)])
def test_another_machine_sends_what_is_new(  # noqa: PLR0913, PLR0917 — fixtures
    registry: Registry, store_dir: bytes, codec: str, cache: RegistryCache, tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    """Without it a new machine would read, compress and send all of an image."""
    conf = make_conf(store_dir, SIZES)
    compression = Compression(codec=codec)
    ours = DigestCache(str(tmp_path / "ours"))
    first, _ = push_to(registry, conf, cache=cache, compression=compression, digests=ours)
    written = []
    write_to = StoreLayer.write_to

    def noted(layer: StoreLayer, writer: Any) -> None:
        written.append(layer.label)
        write_to(layer, writer)

    monkeypatch.setattr("stream.sources.store.StoreLayer.write_to", noted)
    for digests in stream.digests.NO_DIGESTS, DigestCache(str(tmp_path / "theirs")):
        again, counts = push_to(
            registry, conf, cache=cache, compression=compression, digests=digests
        )
        assert counts == {"sent": 0, "mounted": 0, "held": 4}
        assert again.digest == first.digest
    assert not written
    assert DigestCache(str(tmp_path / "theirs")).extent().layers == 0
    changed = make_conf(store_dir, {**SIZES, "tool": 31_000})
    there, counts = push_to(registry, changed, cache=cache, compression=compression)
    assert counts == {"sent": 2, "mounted": 0, "held": 2}
    assert len(written) == 1
    here, _ = push_to(registry, changed, cache=cache, compression=compression, digests=ours)
    assert here.digest == there.digest
    # The same as a push that remembers nothing.
    other, _ = push_to(registry, changed, "plain:v1", cache=None, compression=compression)
    assert other.images[0].config == here.images[0].config
    assert manifest_of(registry, "plain") == plain(manifest_of(registry))


def test_few_requests_with_a_secret(registry: Registry, conf: ImageConf) -> None:
    """Without it each layer would cost a request, over a slow link half a second in all."""
    push_to(registry, conf, cache=SECRET)
    registry.requests.clear()
    push_to(registry, conf, cache=SECRET)
    assert registry.log == ["GET /v2/", "GET /v2/app/manifests/v1"]


def test_a_push_without_the_option_is_as_ever(registry: Registry, conf: ImageConf) -> None:
    """Without it the annotations in a registry could change what others push."""
    push_to(registry, conf)
    remembering = manifest_of(registry)
    logs = []
    for manifest in (remembering, plain(remembering)):
        put(registry, manifest)
        registry.requests.clear()
        pushed, counts = push_to(registry, conf, cache=None)
        assert counts["sent"] == 3  # all layers, as nothing is known of them; but the config
        logs.append((sorted(one.partition("uploads/")[0] for one in registry.log), pushed.digest))
    assert logs[0] == logs[1]
    assert manifest_of(registry) == plain(remembering)


def test_layers_that_are_known_by_their_digest(
    registry: Registry, store_dir: bytes, tmp_path: Path
) -> None:
    """Without it a base image, and a layer that Nix has made, would be compressed and sent again."""
    base = Base(layers=[layer_tar({"one": os.urandom(40_000)}), layer_tar({"two": b"2"})])
    layout = Layout()
    layout.top.append(add_image(layout, base, "oci", "plain"))
    (tmp_path / "base.tar").write_bytes(layout.tar())
    tar = layer_tar({"three": os.urandom(50_000)})
    (tmp_path / "ready").mkdir()
    (tmp_path / "ready" / "layer.tar").write_bytes(tar)
    (tmp_path / "ready" / "checksum").write_text(hashlib.sha256(tar).hexdigest())
    more = {"from_image": str(tmp_path / "base.tar"), "customisation_layer": f"{tmp_path}/ready"}
    conf = make_conf(store_dir, {"tool": 30_000}, **more)
    first, _ = push_to(registry, conf)
    again, counts = push_to(registry, conf)
    assert counts == {"sent": 0, "mounted": 0, "held": 5}
    assert again.digest == first.digest


def test_layers_made_of_links_and_store_paths(
    registry: Registry, store_dir: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without it the layer on top would be made and sent by every new machine."""
    monkeypatch.setattr("stream.known.SMALL", 0)
    conf = make_conf(store_dir, {"tool": 30_000, "rest": 40_000})
    lower, upper = conf.store_layers
    recipe = Recipe(permissions=(Permission(path=b"/tmp", create=True, mode=0o1777),))
    conf = replace(
        conf, store_layers=(lower,), customisation_store_paths=upper.store_paths,
        customisation_layer=recipe,
    )  # fmt: skip
    first, _ = push_to(registry, conf)
    monkeypatch.delattr("stream.sources.store.StoreLayer.write_to")
    again, counts = push_to(registry, conf)
    assert counts == {"sent": 0, "mounted": 0, "held": 3}
    assert again.digest == first.digest


def test_no_more_is_asked_for_than_to_read_there(registry: Registry, conf: ImageConf) -> None:
    """Without it a token service could refuse one who may not push to where the cache is."""
    registry.tokens = True
    with pytest.raises(RegistryError):  # without a login, nobody may push
        push_to(registry, conf, cache=RegistryCache(read_from=(f"{registry.address}/other:v1",)))
    asked = [scope for one in registry.requests for scope in one.query.get("scope", ())]
    assert not any("repository:other:" in scope and "push" in scope for scope in asked)


@pytest.mark.parametrize("believing", [OPEN, SECRET])
def test_another_tag_is_read(
    registry: Registry, conf: ImageConf, store_dir: bytes, believing: RegistryCache
) -> None:
    """Without it the first push of a branch would send all of an image."""
    main, _ = push_to(registry, conf, "app:main", cache=believing)
    changed = make_conf(store_dir, {**SIZES, "tool": 31_000})
    ways = {
        "app:pr-1": ":main",
        "app:pr-2": f"{registry.address}/app:main",
        "app:pr-3": f"{registry.address}/app@{main.digest}",
        "fork:pr-4": f"{registry.address}/app:main",
    }
    moving: dict[str, dict[str, int]] = {}
    for name, way in ways.items():
        for rehearse in (True, False):
            cache = replace(believing, read_from=(":none", way))
            observer = Warnings()
            one = conf if name == "app:pr-1" else changed
            _, counts = push_to(registry, one, name, cache, observer=observer, rehearse=rehearse)
            passage = "mounted" if name.startswith("fork") else "held"
            assert counts[passage] >= (4 if one is conf else 2)
            assert counts["sent"] <= 2
            assert counts == moving.setdefault(name, counts)  # as the dry run said
            assert len(observer.texts) == 1
            assert ":none: no layers are known from there" in observer.texts[0]
        path, _, tag = name.partition(":")
        manifest_of(registry, path, tag)


def send_gigabytes(connection: distribution.Connection) -> None:
    """Answer with as much as somebody reads."""
    connection.sock.sendall(b"HTTP/1.1 200 OK\r\n\r\n")
    for _ in range(1 << 16):
        connection.sock.sendall(b" " * (1 << 16))


@pytest.mark.parametrize("cache", [None, OPEN])
def test_an_endless_manifest_is_not_read(
    registry: Registry, conf: ImageConf, cache: RegistryCache | None
) -> None:
    """Without it one who can write a tag could fill the memory of those who push to it."""
    registry.script = lambda request, connection: (
        send_gigabytes(connection) if request.path.endswith("manifests/v1") else None
    )
    with pytest.raises(RegistryError, match="more than 4194304 bytes"):
        push_to(registry, conf, cache=cache)


@pytest.mark.parametrize("status", [401, 403, 404, 500, "endless", "no HTTP"])
def test_another_tag_that_cannot_be_read(
    registry: Registry, conf: ImageConf, expected: dict[str, Any], status: int | str
) -> None:
    """Without it a cache that is away would keep an image from being pushed."""

    def script(request: distribution.Request, connection: distribution.Connection) -> Answer | None:
        if request.path != "/v2/other/manifests/main":
            return None
        if status == "endless":
            send_gigabytes(connection)
        if isinstance(status, str):
            return Answer(raw=b"SSH-2.0\r\n")
        return Answer(status=status)

    registry.script = script
    observer = Warnings()
    cache = RegistryCache(read_from=(f"{registry.address}/other:main",))
    push_to(registry, conf, cache=cache, observer=observer)
    assert plain(manifest_of(registry)) == expected
    assert len(observer.texts) == 1
    assert f"{registry.address}/other:main: no layers" in observer.texts[0]


def test_an_index_is_looked_into(registry: Registry, conf: ImageConf) -> None:
    """Without it an index could end a push, or cost a request for each of its many entries."""
    push_to(registry, conf)
    own = registry.repository("app").tags["v1"]
    entries: list[object] = [{"digest": f"sha256:{'0' * 64}"}, 7, {}, {"digest": own}]
    entries += [{"digest": f"sha256:{number:064}"} for number in range(1, 1000)]
    put(registry, {"schemaVersion": 2, "manifests": entries})
    registry.requests.clear()
    pushed, counts = push_to(registry, conf)
    assert counts == {"sent": 0, "mounted": 0, "held": 4}
    assert pushed.digest == own
    assert len(registry.requests) < 100


def test_several_platforms(registry: Registry, conf: ImageConf, store_dir: bytes) -> None:
    """Without it an image of several platforms would be sent again by every new machine."""
    other = make_conf(store_dir, {"libc": 61_000, "note": 30_000}, architecture="s390x")
    confs = [conf, other]
    first, _ = push_to(registry, confs)
    again, counts = push_to(registry, confs)
    assert counts == {"sent": 0, "mounted": 0, "held": 6}
    assert again.digest == first.digest


def test_two_machines_at_once(registry: Registry, conf: ImageConf, store_dir: bytes) -> None:
    """Without it two builds at once could leave a tag with layers of both, or one that lies."""
    push_to(registry, conf, cache=SECRET)
    other = make_conf(store_dir, {**SIZES, "tool": 31_000})
    found: list[Pushed] = []

    def run(one: ImageConf) -> None:
        found.append(push_to(registry, one, cache=SECRET)[0])

    threads = [threading.Thread(target=run, args=(one,)) for one in (conf, other) * 3]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(found) == 6
    assert len({pushed.digest for pushed in found}) == 2
    assert registry.repository("app").tags["v1"] in {pushed.digest for pushed in found}
    for pushed in found:
        manifest = manifest_of(registry, reference=pushed.digest)
        for layer, known in zip(manifest["layers"], pushed.images[0].layers, strict=True):
            assert layer["annotations"][f"{PREFIX}diff-id"] == known.diff_id
            tar = gzip.decompress(registry.repository("app").blobs[layer["digest"]])
            assert digest_of(tar) == known.diff_id


def test_other_verbs_read_such_images(registry: Registry, conf: ImageConf, tmp_path: Path) -> None:
    """Without it an image in a registry could be found faulty for what it remembers."""
    seen = []
    for cache in OPEN, None:
        push_to(registry, conf, cache=cache)
        _, data = registry.repository("app").manifests[registry.repository("app").tags["v1"]]
        layout = Layout()
        for blob in registry.repository("app").blobs.values():
            layout.blob(blob, "")
        layout.top.append(layout.blob(data, "application/vnd.oci.image.manifest.v1+json"))
        (tmp_path / "image.tar").write_bytes(layout.tar())
        checked = stream.verify(str(tmp_path / "image.tar"))
        assert not checked.faults
        (image,) = stream.inspect(str(tmp_path / "image.tar")).images
        seen.append((checked.findings, [layer.diff_id for layer in image.layers], image.image_id))
    assert seen[0] == seen[1]


# ---- what it must not be taken in by


def layers_of(manifest: dict[str, Any]) -> list[dict[str, Any]]:
    """Return the descriptors of its layers."""
    layers: list[dict[str, Any]] = manifest["layers"]
    return layers


def seal(descriptor: dict[str, Any], cache: RegistryCache = OPEN) -> dict[str, Any]:
    """Return the annotations that say of a layer what `descriptor` does, as anybody can write."""
    given = descriptor["annotations"]
    annotated = AnnotatedDigests(
        stream.digests.NO_DIGESTS, lambda: (), media_type=descriptor["mediaType"],
        encoding=given[f"{PREFIX}encoding"], secret=cache.secret,
    )  # fmt: skip
    blob = stream.Descriptor(
        media_type=descriptor["mediaType"], digest=descriptor["digest"], size=descriptor["size"]
    )
    key, diff_id, size = (given[f"{PREFIX}{name}"] for name in ("key", "diff-id", "size"))
    return {**descriptor, "annotations": annotated.sealed(key, diff_id, size, blob)}


def say(number: int, name: str, value: object, *, sealed: bool = False) -> Change:
    """Return what changes an annotation of a layer."""

    def change(manifest: dict[str, Any]) -> None:
        layer = layers_of(manifest)[number]
        layer["annotations"][f"{PREFIX}{name}"] = value
        if sealed:
            manifest["layers"][number] = seal(layer)

    return change


def describe(number: int, name: str, value: object, *, sealed: bool = True) -> Change:
    """Return what changes a layer's descriptor, with annotations that say so as well."""

    def change(manifest: dict[str, Any]) -> None:
        manifest["layers"][number][name] = value
        if sealed:
            manifest["layers"][number] = seal(layers_of(manifest)[number])

    return change


def exchange(manifest: dict[str, Any]) -> None:
    """Put the keys of two layers on each other's blobs, with sizes that fit."""
    one, two = layers_of(manifest)[1:]
    for name in ("key", "size"):
        first, second = one["annotations"], two["annotations"]
        full = f"{PREFIX}{name}"
        first[full], second[full] = second[full], first[full]
    manifest["layers"][1:] = [seal(one), seal(two)]


def contradict(manifest: dict[str, Any]) -> None:
    """Say of each key that it is every blob."""
    layers = layers_of(manifest)
    keys = [layer["annotations"][f"{PREFIX}key"] for layer in layers]
    for key in keys:
        for layer in [*layers]:
            annotations = {**layer["annotations"], f"{PREFIX}key": key}
            manifest["layers"].append(seal({**layer, "annotations": annotations}))


ABSENT = f"sha256:{'a' * 64}"
# Nothing of this may be believed, whoever wrote it.
LIES: dict[str, Change] = {
    "a digest that is not there": describe(0, "digest", ABSENT),
    "two of them": lambda one: [describe(n, "digest", ABSENT[:-1] + str(n))(one) for n in (0, 1)],
    "a blob of another size": describe(0, "size", 7),
    "a layer of another size": say(0, "size", "7", sealed=True),
    "contradictions": contradict,
    "another encoding": say(0, "encoding", "gzip:9 of another library"),
    "half a character": say(0, "seal", "\ud800"),
    "recompressed": describe(0, "digest", ABSENT, sealed=False),
    "layers that are not any": lambda manifest: manifest.update(layers={"0": 1}),
    "an index of nonsense": lambda manifest: manifest.update(manifests=7),
}


@pytest.mark.parametrize("lie", LIES)
def test_lies_change_nothing(
    registry: Registry, conf: ImageConf, expected: dict[str, Any], lie: str
) -> None:
    """Without it whoever can write a tag could break what others push, or keep them from it."""
    push_to(registry, conf)
    manifest = manifest_of(registry)
    LIES[lie](manifest)
    put(registry, manifest)
    pushed, _ = push_to(registry, conf)
    assert plain(manifest_of(registry)) == expected
    # Nor is it handed on.
    push_to(registry, conf)
    assert registry.repository("app").tags["v1"] == pushed.digest


@pytest.mark.parametrize(
    "data",
    [b"", b"\xff", b"[]", b"7", b'{"layers":' + b"[" * 5000, b'{"layers":[' + b"{}," * 400_000 + b"{}]}"],
)  # fmt: skip
def test_what_is_not_a_manifest(
    registry: Registry, conf: ImageConf, expected: dict[str, Any], data: bytes
) -> None:
    """Without it a tag with anything else under it could not be pushed to."""
    put(registry, data)
    push_to(registry, conf)
    assert plain(manifest_of(registry)) == expected


def test_a_wrong_digest_is_found_when_the_layer_is_made(
    registry: Registry, conf: ImageConf, expected: dict[str, Any], tmp_path: Path
) -> None:
    """Without it the push would fail, as it does for a wrong entry of the cache on this machine."""
    push_to(registry, conf)
    manifest = manifest_of(registry)
    annotations = manifest["layers"][0]["annotations"]
    annotations[f"{PREFIX}diff-id"] = ABSENT
    manifest["layers"][0] = seal({**manifest["layers"][0], "digest": ABSENT})
    put(registry, manifest)
    observer = Warnings()
    cache = DigestCache(str(tmp_path / "digests"))
    push_to(registry, conf, observer=observer, digests=cache)
    assert plain(manifest_of(registry)) == expected
    assert len(observer.texts) == 1
    assert f"app:v1: the annotations of {ABSENT} are not those" in observer.texts[0]
    # What is known here now is the layer that was made.
    _, counts = push_to(registry, conf, "app:v1", None, digests=cache)
    assert counts == {"sent": 2, "mounted": 0, "held": 2}


def test_what_is_known_here_is_not_asked(
    registry: Registry, conf: ImageConf, expected: dict[str, Any], tmp_path: Path
) -> None:
    """Without it the one who built an image would believe others about it."""
    cache = DigestCache(str(tmp_path / "digests"))
    push_to(registry, conf, digests=cache)
    manifest = manifest_of(registry)
    exchange(manifest)
    put(registry, manifest)
    push_to(registry, conf, digests=cache)
    assert plain(manifest_of(registry)) == expected


def test_a_diff_id_that_is_known_here_is_not_overruled(
    registry: Registry, conf: ImageConf, expected: dict[str, Any], tmp_path: Path
) -> None:
    """Without it digests from a binary cache would be no help against one who can write the tag."""
    cache = DigestCache(str(tmp_path / "digests"))
    stream.compute_digests(conf, cache)
    for lies, counted in ((False, 4), (True, 2)):
        push_to(registry, conf)
        manifest = manifest_of(registry)
        if lies:
            exchange(manifest)
            put(registry, manifest)
        _, counts = push_to(registry, conf, digests=cache)
        assert counts["held"] == counted
        assert plain(manifest_of(registry)) == expected
        cache.clear()
        stream.compute_digests(conf, cache)


@pytest.mark.parametrize("other", [OPEN, RegistryCache(secret=b"another secret ")])
def test_only_those_with_the_secret_are_believed(
    registry: Registry, conf: ImageConf, expected: dict[str, Any], other: RegistryCache
) -> None:  # fmt: skip
    """Without it whoever can write the tag could put a blob of theirs into our images."""
    push_to(registry, conf, cache=other)
    manifest = manifest_of(registry)
    exchange(manifest)
    put(registry, manifest)
    push_to(registry, conf, cache=SECRET)
    assert plain(manifest_of(registry)) == expected


def test_lost_blobs_are_sent_again(
    registry: Registry, conf: ImageConf, expected: dict[str, Any]
) -> None:
    """Without it a registry that has removed layers below a tag could not be pushed to."""
    for cache in OPEN, SECRET:
        push_to(registry, conf, cache=cache)
        blobs = registry.repository("app").blobs
        for layer in expected["layers"][:2]:
            del blobs[layer["digest"]]
        changed = replace(conf, container_config={"Cmd": [str(cache)]})
        push_to(registry, changed, cache=cache)
        assert plain(manifest_of(registry))["layers"] == expected["layers"]


@pytest.mark.parametrize("wrong", ["", ":", ":a b", "App:v1", "other.example/app:v1", "a@sha256:1"])
def test_images_that_cannot_be_read_from(registry: Registry, conf: ImageConf, wrong: str) -> None:
    """Without it a mistake would show as a cache that never helps."""
    with pytest.raises(ArgumentError, match="read_from"):
        push_to(registry, conf, cache=RegistryCache(read_from=(wrong,)))
    assert not registry.requests


def test_a_registry_that_fails_is_reported_once(registry: Registry, conf: ImageConf) -> None:
    """Without it the error of a push would hide behind warnings about its cache."""
    registry.script = lambda request, _: Answer(status=401) if "manifests" in request.path else None
    observer = Warnings()
    with pytest.raises(RegistryError):
        push_to(registry, conf, observer=observer)
    assert not observer.texts


STEPS = st.lists(
    st.tuples(
        st.sampled_from(["builder", "fresh", "plain"]),
        st.lists(st.sampled_from("abcde"), min_size=1, max_size=4),
        st.sampled_from(["none", "gzip", "zstd"]),
        st.integers(0, 1),
    ),
    min_size=2,
    max_size=6,
)


@pytest.mark.slow
@settings(max_examples=15)
@given(steps=STEPS)
def test_any_history_of_pushes(
    store_dir: bytes, steps: list[tuple[str, list[str], str, int]]
) -> None:
    """Without it what a registry remembers of one push could make another image of the next."""
    known = Remembered()
    with distribution.running() as registry, distribution.running() as other:
        for machine, names, codec, which in steps:
            conf = make_conf(store_dir, {name: 30_000 + ord(name) for name in names})
            more: dict[str, Any] = {"compression": Compression(codec=codec)}
            wanted, _ = push_to(other, conf, cache=None, **more)
            more["digests"] = known if machine == "builder" else stream.digests.NO_DIGESTS
            cache = None if machine == "plain" else (OPEN, SECRET)[which]
            pushed, _ = push_to(registry, conf, cache=cache, **more)
            assert plain(manifest_of(registry)) == manifest_of(other)
            assert (pushed.digest == wanted.digest) == (cache is None)

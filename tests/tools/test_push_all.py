"""Pushing many images in one process: what is read and sent once, and what a failure leaves."""

import json
import os
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from copy import deepcopy
from dataclasses import replace
from pathlib import Path
from typing import Any

import distribution
import orjson
import pytest
from distribution import Fault, Registry
from handmade import Base, Layout, layer_tar
from registries import add_image
from repositories import digest_of

from stream.compression import Compression
from stream.config import parse_conf
from stream.digests.store import DigestCache
from stream.errors import ArgumentError, ConfError, RegistryError, SourceError
from stream.model import ImageConf, Pushed
from stream.observer import Observer
from stream.registry.client import Repository
from stream.registry.trust import Access
from stream.sources import walked
from stream.sources.store import StoreLayer, walk
from stream.tools.push_all import ImageToPush, NotPushed, Outcome, push_all

GZIP = Compression(codec="gzip", level=1)
SHARED = {"libc": 60_000, "runtime": 30_000}


class Killed(BaseException):
    """Ctrl-C."""


@pytest.fixture(autouse=True)
def _patient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let layers of some kilobytes be large, and pauses short."""
    monkeypatch.setattr("stream.sinks.registry._SMALL", 20_000)
    monkeypatch.setattr("stream.retries.BACK_OFF", (0.0, 0.0, 0.0))
    monkeypatch.setitem(Repository.__init__.__kwdefaults__, "sleep", lambda _: None)  # type: ignore[arg-type]


@pytest.fixture
def registry() -> Iterator[Registry]:
    """Run an empty registry."""
    with distribution.running() as running:
        yield running


Make = Callable[..., ImageToPush]


@pytest.fixture
def item(store_dir: bytes) -> Make:
    """Return a function that makes an image: the shared layers, and one of its own."""
    store = os.fsdecode(store_dir)

    def make(name: str, reference: str | None = None, **more: Any) -> ImageToPush:
        for path, size in {**SHARED, name: 40_000}.items():
            if not os.path.exists(f"{store}/{path}"):
                Path(store, path).write_bytes(os.urandom(size))
        layers = [[f"{store}/{path}"] for path in (*SHARED, name)]
        document = {"repo_tag": f"{name}:v1", "store_dir": store, "store_layers": layers, **more}
        conf = parse_conf(orjson.dumps(document))
        return ImageToPush(name=f"{name}.json", load=lambda: [conf], reference=reference)

    return make


def push_to(registry: Registry, items: Sequence[ImageToPush], **more: Any) -> list[Outcome]:
    """Push below `team`."""
    prefix = more.pop("prefix", f"{registry.address}/team")
    return [*push_all(items, prefix, compression=GZIP, jobs=2, **more)]


def complete(registry: Registry, name: str, tag: str = "v1") -> dict[str, Any]:
    """Return an image's manifest, all of whose blobs are there."""
    repository = registry.repository(name)
    _, data = repository.manifests[repository.tags[tag]]
    manifest: dict[str, Any] = json.loads(data)
    for one in [manifest["config"], *manifest["layers"]]:
        assert digest_of(repository.blobs[one["digest"]]) == one["digest"]
    return manifest


def uploads(registry: Registry) -> Counter[str]:
    """Return how often each blob was uploaded."""
    puts = (one for one in registry.requests if one.method == "PUT" and "digest" in one.query)
    return Counter(one.query["digest"][0] for one in puts)


@pytest.mark.parametrize("is_kept", [True, False], ids=["cache", "no-cache"])
def test_each_layer_is_walked_read_and_sent_once(
    registry: Registry,
    item: Make,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    *,
    is_kept: bool,
) -> None:
    """Without it a fleet of images would cost as much as if each were the only one."""
    walks: list[tuple[bytes, ...]] = []
    reads: list[tuple[bytes, ...]] = []
    write_to = StoreLayer.write_to

    def count_walk(conf: ImageConf, plan: Any) -> StoreLayer:
        walks.append(plan.store_paths)
        return walk(conf, plan)

    def count_read(layer: StoreLayer, writer: Any) -> None:
        reads.append(layer.store_paths)
        write_to(layer, writer)

    monkeypatch.setattr(walked, "walk", count_walk)
    monkeypatch.setattr(StoreLayer, "write_to", count_read)
    names = [f"app{number}" for number in range(4)]
    digests = {"digests": DigestCache(str(tmp_path / "digests"))} if is_kept else {}
    outcomes = push_to(registry, [item(name) for name in names], **digests)
    assert [type(one) for one in outcomes] == [Pushed] * 4
    assert len(walks) == len(set(walks)) == len(SHARED) + 4
    assert sorted(reads) == sorted(walks)
    assert set(uploads(registry).values()) == {1}
    assert len(uploads(registry)) == len(SHARED) + 2 * 4
    for name in names:
        assert len(complete(registry, f"team/{name}")["layers"]) == 3
        assert not registry.repository(f"team/{name}").uploads
    assert [one.total("mounted")[0] for one in outcomes if isinstance(one, Pushed)] == [0, 2, 2, 2]


def test_tags_of_one_repository_ask_for_nothing(registry: Registry, item: Make) -> None:
    """Without it a hundred tags of a repository would ask a hundred times for each layer."""
    name = f"{registry.address}/app"
    outcomes = push_to(registry, [item("a", f"{name}:a"), item("b", f"{name}:b")])
    assert [one.total("held")[0] for one in outcomes if isinstance(one, Pushed)] == [0, 2]
    asked = [one for one in registry.requests if one.method == "HEAD" and "blobs" in one.path]
    assert len(asked) == 2, "for the configs"
    complete(registry, "app", "a")
    complete(registry, "app", "b")


def test_mounts_are_authorized(registry: Registry, item: Make, tmp_path: Path) -> None:
    """Without it a registry with logins would be sent every layer again for each image."""
    registry.tokens, registry.anonymous = True, False
    (tmp_path / "auth.json").write_text(json.dumps(registry.credentials()))
    access = Access(authfile=str(tmp_path / "auth.json"))
    outcomes = push_to(registry, [item(name) for name in ("a", "b", "c")], access=access)
    assert [one.total("mounted")[0] for one in outcomes if isinstance(one, Pushed)] == [0, 2, 2]
    assert set(uploads(registry).values()) == {1}
    tokens = [one for one in registry.requests if one.path == "/token"]
    assert len(tokens) <= 1 + 2 * 2, "one for each repository, and one for where it mounts from"


def test_images_are_those_of_a_push_alone(registry: Registry, item: Make) -> None:
    """Without it an image's digest would depend on what was pushed before it."""
    items = [item(name) for name in ("a", "b")]
    together = push_to(registry, items)
    registry.repositories.clear()
    alone = [push_to(registry, [one])[0] for one in items]
    assert [one.digest for one in together if isinstance(one, Pushed)] == [
        one.digest for one in alone if isinstance(one, Pushed)
    ]


def refuse(error: Exception) -> Callable[[], list[ImageConf]]:
    """Return what a conf that cannot be read is loaded with."""

    def load() -> list[ImageConf]:
        raise error

    return load


def test_one_failure_does_not_stop_the_others(
    registry: Registry, item: Make, store_dir: bytes
) -> None:
    """Without it the first bad conf of three hundred would leave the rest unpushed."""
    gone = item("gone")
    os.unlink(store_dir + b"/gone")
    registry.faults = [Fault(method="PUT", path="team/refused/manifests", status=403, times=9)]
    observed: list[tuple[int, str]] = []

    class Watching(Observer):
        def image_failed(self, number: int, name: str, error: Exception) -> None:
            observed.append((number, name))

    items = [
        item("a"),
        gone,
        ImageToPush(name="bad.json", load=refuse(ConfError("bad.json", []))),
        item("refused"),
        item("b"),
    ]
    outcomes = push_to(registry, items, observer=Watching())
    kinds = [type(one.error) if isinstance(one, NotPushed) else None for one in outcomes]
    assert kinds == [None, SourceError, ConfError, RegistryError, None]
    assert observed == [(2, "gone.json"), (3, "bad.json"), (4, "refused.json")]
    complete(registry, "team/a")
    complete(registry, "team/b")
    for name in ("gone", "refused"):
        assert not registry.repository(f"team/{name}").tags


def test_layer_of_an_image_that_failed_is_sent_by_the_next(registry: Registry, item: Make) -> None:
    """Without it an image could be taken to have a layer whose upload was broken off."""
    registry.faults = [Fault(method="PATCH", status=400, times=1)]
    first, second = push_to(registry, [item("a"), item("b")])
    assert isinstance(first, NotPushed)
    assert isinstance(second, Pushed)
    complete(registry, "team/b")


def test_interruption_leaves_whole_images(registry: Registry, item: Make) -> None:
    """Without it Ctrl-C could leave a tag that cannot be pulled."""

    class Interrupting(Observer):
        def image_started(self, number: int, name: str) -> None:
            self.number = number

        def layer_started(self, *_: object) -> None:
            if self.number == 2:
                raise Killed

    with pytest.raises(Killed):
        push_to(registry, [item("a"), item("b"), item("c")], observer=Interrupting())
    complete(registry, "team/a")
    assert not registry.repository("team/b").tags
    assert "team/c" not in registry.repositories


@pytest.mark.parametrize("stored", ["plain", "gzip"])
def test_layers_of_a_base_image_are_mounted(
    registry: Registry, item: Make, tmp_path: Path, stored: str
) -> None:
    """Without it each image of many would send the base that they have in common."""
    base = Base(layers=[layer_tar({"one": os.urandom(40_000)}), layer_tar({"two": b"2"})])
    layout = Layout()
    layout.top.append(add_image(layout, base, "oci", stored))
    (tmp_path / "base.tar").write_bytes(layout.tar())
    items = [item(name, from_image=str(tmp_path / "base.tar")) for name in ("a", "b")]
    first, second = push_to(registry, items)
    assert isinstance(first, Pushed)
    assert isinstance(second, Pushed)
    assert (first.total("sent")[0], second.total("sent")[0]) == (6, 2)
    assert second.total("mounted")[0] == 4
    assert set(uploads(registry).values()) == {1}
    complete(registry, "team/b")


def test_registry_without_mounts_gets_everything(registry: Registry, item: Make) -> None:
    """Without it a registry that refuses mounts could not be pushed many images to."""
    registry.mounts = False
    outcomes = push_to(registry, [item("a"), item("b")])
    assert [one.total("sent")[0] for one in outcomes if isinstance(one, Pushed)] == [4, 4]
    complete(registry, "team/b")
    assert not registry.repository("team/b").uploads


def test_mounted_blob_that_is_gone_is_sent(registry: Registry, item: Make) -> None:
    """Without it a registry that cleans up meanwhile would fail every image that follows."""

    class Cleaning(Observer):
        def pushed(self, pushed: Pushed) -> None:
            registry.repositories.clear()

    _, second = push_to(registry, [item("a"), item("b")], observer=Cleaning())
    assert isinstance(second, Pushed)
    assert second.total("sent")[0] == 4


def test_rehearsal_changes_nothing(registry: Registry, item: Make) -> None:
    """Without it a dry run would report each shared layer as sent by each image."""
    items = [item("a"), item("b")]
    rehearsed = push_to(registry, items, rehearse=True)
    assert registry.repositories == {}
    pushed = push_to(registry, items)
    for one, other in zip(rehearsed, pushed, strict=True):
        assert isinstance(one, Pushed)
        assert isinstance(other, Pushed)
        assert one.digest == other.digest
        for passage in ("sent", "mounted", "held"):
            assert one.total(passage) == other.total(passage)


@pytest.mark.parametrize(
    ("repo_tag", "prefix", "expected"),
    [
        ("web:1", "team", "team/web"),
        ("registry.example/web:1", "team/", "team/web"),
        ("registry.example:5000/group/web:1", "team", "team/group/web"),
    ],
)
def test_images_go_below_the_prefix(
    registry: Registry, item: Make, repo_tag: str, prefix: str, expected: str
) -> None:
    """Without it an image could go to the registry that its conf happens to name."""
    image = item("a", repo_tag=repo_tag)
    (pushed,) = push_to(registry, [image], prefix=f"{registry.address}/{prefix}")
    assert isinstance(pushed, Pushed), pushed.error
    assert (pushed.name, pushed.tags) == (f"{registry.address}/{expected}", ("1",))


def test_names_are_given_once(registry: Registry, item: Make) -> None:
    """Without it the last of two images would silently take the other's name."""
    name = f"{registry.address}/app"
    (conf,) = item("c").load()
    nameless = ImageToPush(name="c.json", load=lambda: [replace(conf, repo_tag=None)])
    items = [item("a", f"{name}:1"), item("b", f"{name}:1"), nameless]
    before = deepcopy(registry.repositories)
    first, *others = push_to(registry, items)
    assert isinstance(first, Pushed)
    for one, reason in zip(others, ("earlier image", "names no repository"), strict=True):
        assert isinstance(one, NotPushed)
        assert isinstance(one.error, ArgumentError)
        assert reason in str(one.error)
    assert registry.repository("app").tags == {"1": first.digest}
    assert before == {}

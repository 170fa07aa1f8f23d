"""Store layers that many images have."""

import os
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import orjson
import pytest

from stream.config import parse_conf
from stream.errors import SourceError
from stream.model import ImageConf, LayerPlan, Owner
from stream.sources import walked
from stream.sources.store import walk
from stream.sources.walked import Walks
from stream.tarwriter import hash_layer


@pytest.fixture
def conf(store_dir: bytes) -> ImageConf:
    """Return the conf of an image with a store path of one file."""
    with open(store_dir + b"/tool", "wb") as file:
        file.write(b"content")
    store = os.fsdecode(store_dir)
    document = {"repo_tag": "a:1", "store_dir": store, "store_layers": [[f"{store}/tool"]]}
    return parse_conf(orjson.dumps(document))


@pytest.fixture
def counted(monkeypatch: pytest.MonkeyPatch) -> list[LayerPlan]:
    """Return the list of walks."""
    walks: list[LayerPlan] = []

    def count(conf: ImageConf, plan: LayerPlan) -> Any:
        walks.append(plan)
        return walk(conf, plan)

    monkeypatch.setattr(walked, "walk", count)
    return walks


def test_layer_is_walked_once(conf: ImageConf, counted: list[LayerPlan]) -> None:
    """Without it each of many images would look at every file of a layer that they share."""
    walks, plan = Walks(), conf.store_layers[0]
    first, second = walks(conf, plan), walks(replace(conf, repo_tag="other:1"), plan)
    assert len(counted) == 1
    for name in ("label", "comment", "fingerprint", "size", "keys", "repeatable"):
        assert getattr(first, name) == getattr(second, name)
    assert second.entry_count == 0, "entries are not kept"
    assert hash_layer(second.size, second.write_to) == hash_layer(first.size, first.write_to)


@pytest.mark.parametrize(
    "change",
    [
        lambda conf: replace(conf, mtime=2),
        lambda conf: replace(conf, owner=Owner(uid=1)),
        lambda conf: replace(conf, store_path_hashes={conf.store_layers[0].store_paths[0]: "h"}),
    ],
)
def test_layers_of_different_bytes_are_different(
    conf: ImageConf, counted: list[LayerPlan], change: Callable[[ImageConf], ImageConf]
) -> None:
    """Without it an image could get the owner or the time of another image's files."""
    walks, plan = Walks(), conf.store_layers[0]
    walks(conf, plan)
    other = change(conf)
    assert walks(other, plan).keys == walk(other, plan).keys
    assert len(counted) == 2


def test_files_that_changed_are_not_written(conf: ImageConf, store_dir: bytes) -> None:
    """Without it a layer could have other bytes than its size and digest promise."""
    walks, plan = Walks(), conf.store_layers[0]
    walks(conf, plan)
    layer = walks(conf, plan)
    os.symlink(b"x", store_dir + b"/new")
    os.replace(store_dir + b"/new", store_dir + b"/tool")
    with pytest.raises(SourceError, match="tool: changed"):
        hash_layer(layer.size, layer.write_to)


def test_memory_is_bounded(
    conf: ImageConf, counted: list[LayerPlan], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without it a run over any number of images would grow without an end."""
    monkeypatch.setattr(walked, "_MOST", 1)
    walks, plan = Walks(), conf.store_layers[0]
    for mtime in (1, 2, 2, 1):
        walks(replace(conf, mtime=mtime), plan)
    assert len(counted) == 3

"""An image that is hashed and written nowhere."""

import hashlib
import io
import json
import os
from dataclasses import replace
from pathlib import Path

import pytest
from handmade import Base, digest, layer_tar
from parity import conf_of, streamed, subdirectory
from trees import File, build

import stream
from stream.digests.store import DigestCache
from stream.model import Digest, KnownLayer, Recipe
from stream.sinks.nowhere import TAKES, Nowhere
from stream.sources import image
from stream.tools.digests import compute_digests

HASH = "0123456789abcdfghijklmnpqrsvwxyz"
NAMES = [f"{HASH}-one", f"{HASH}-two"]


@pytest.fixture
def conf(store_dir: bytes) -> dict[str, object]:
    """Make two store paths; return a conf of both, with NAR hashes."""
    directory = subdirectory(store_dir)
    for number, name in enumerate(NAMES):
        build(directory + b"/" + name.encode(), File(0o444, 5, number))
    return conf_of(directory, *NAMES)


def test_digests_are_those_of_the_stream(conf: dict[str, object]) -> None:
    """Without it what is served or compared would not be what is streamed."""
    _, streamed_image = streamed(conf)
    image = compute_digests(stream.parse_conf(json.dumps(conf).encode()))
    assert (image.image_id, image.config) == (streamed_image.image_id, streamed_image.config)
    assert image.layers == streamed_image.layers


def test_the_manifest_is_that_of_an_oci_archive(conf: dict[str, object]) -> None:
    """Without it a reference by digest would name nothing."""
    parsed = stream.parse_conf(json.dumps({**conf, "annotations": {"a": "b"}}).encode())
    expected = stream.write_image(parsed, io.BytesIO(), archive_format="oci-archive")
    assert compute_digests(parsed).manifest == expected.manifest


def test_an_image_without_a_tag_has_digests(conf: dict[str, object]) -> None:
    """Without it one that is only served or compared would need a name."""
    parsed = stream.parse_conf(json.dumps(conf).encode())
    assert compute_digests(replace(parsed, repo_tag=None)).repo_tags == ()


def test_a_layer_of_known_size_is_held() -> None:
    """Without it an image that has not changed would be read to learn what is known."""
    diff_id = Digest("sha256:" + hashlib.sha256(b"x").hexdigest())
    with Nowhere() as sink:
        held = sink.holds(KnownLayer(diff_id=diff_id, size=1))
        assert held is not None
        assert (held.diff_id, held.size, held.descriptor.digest) == (diff_id, 1, diff_id)
        assert sink.holds(KnownLayer(diff_id=diff_id)) is None


def test_what_is_known_is_not_read(conf: dict[str, object], tmp_path: Path) -> None:
    """Without it digests of an unchanged image would cost the time to read all of it."""
    cache = DigestCache(str(tmp_path / "cache"))
    directory = str(conf["store_dir"])
    hashes = {
        f"{directory}/{name}".encode(): f"sha256:{number}" for number, name in enumerate(NAMES)
    }
    parsed = replace(stream.parse_conf(json.dumps(conf).encode()), store_path_hashes=hashes)
    image = compute_digests(parsed, cache)
    os.chmod(f"{directory}/{NAMES[0]}", 0o644)
    (Path(directory) / NAMES[0]).write_bytes(b"other")  # as its NAR hash says, it has not changed
    os.chmod(f"{directory}/{NAMES[0]}", 0o444)
    assert compute_digests(parsed, cache) == replace(image, size=0)
    inspected = stream.inspect(parsed, digests=cache).images[0]
    assert inspected.image_id == image.image_id
    assert [layer.diff_id for layer in inspected.layers] == [
        layer.diff_id for layer in image.layers
    ]
    assert stream.inspect(parsed).images[0].image_id is None
    assert compute_digests(parsed).image_id != image.image_id


def test_layers_known_from_bottom_to_top(conf: dict[str, object], tmp_path: Path) -> None:
    """Without it an engine could be taken to hold a layer that it does not have."""
    base = Base(layers=[layer_tar({"a": b"a"}), layer_tar({"b": b"b"})])
    (tmp_path / "base.tar").write_bytes(base.docker_archive())
    document = {**conf, "from_image": str(tmp_path / "base.tar")}
    parsed = replace(
        stream.parse_conf(json.dumps(document).encode()),
        store_path_hashes={f"{conf['store_dir']}/{name}".encode(): "sha256:0" for name in NAMES},
        customisation_layer=Recipe(owner=(1, 1)),
    )
    below = [*map(digest, base.layers)]
    cache = DigestCache(str(tmp_path / "cache"))
    assert known_diff_ids(parsed, cache) == [*below, None, None]
    made = [layer.diff_id for layer in compute_digests(parsed, cache).layers]
    assert known_diff_ids(parsed, cache) == made
    assert made[:2] == below
    commands = replace(parsed, customisation_layer=Recipe(extra_commands="x"), commands="skipped")
    assert known_diff_ids(commands, cache) == [*made[:3], None]


def known_diff_ids(conf: stream.ImageConf, cache: DigestCache) -> list[str | None]:
    """Return what is known of each layer of `conf`."""
    with image.opened(conf, lambda _: None) as sources:
        return [one.diff_id if one else None for one in sources.known(cache, TAKES)]

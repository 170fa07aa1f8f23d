"""An image that is hashed and written nowhere."""

import hashlib
import io
import json
import os
from dataclasses import replace
from pathlib import Path

import pytest
from parity import conf_of, streamed, subdirectory
from trees import File, build

import stream
from stream.digests.store import DigestCache
from stream.model import Digest, KnownLayer
from stream.sinks.nowhere import Nowhere
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

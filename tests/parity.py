"""Compare the image of one conf made by the package with the oracle's, byte for byte."""

import hashlib
import io
import os
import tempfile
from collections.abc import Mapping
from typing import Any

import oracle
import orjson

import stream


def conf_of(store_dir: bytes, *names: str, **more: object) -> dict[str, Any]:
    """Return a conf with one layer, of the store paths called `names`."""
    directory = store_dir.decode()
    return {
        "architecture": "amd64",
        "repo_tag": "test:1",
        "store_dir": directory,
        "store_layers": [[f"{directory}/{name}" for name in names]],
        **more,
    }


def streamed(conf: Mapping[str, Any]) -> tuple[bytes, stream.Image]:
    """Return the archive of `conf`, and its record."""
    file = io.BytesIO()
    image = stream.write_image(stream.parse_conf(orjson.dumps(conf)), file)
    return file.getvalue(), image


def assert_same(conf: Mapping[str, Any]) -> None:
    """Check that the archive is the oracle's, given its layers' names, and matches the record."""
    data, image = streamed(conf)
    contents = oracle.layers(conf)
    for layer, content in zip(image.layers, contents, strict=True):
        assert layer.size == len(content)
        assert layer.diff_id == "sha256:" + hashlib.sha256(content).hexdigest()
    config = oracle.image_config(conf, contents)
    assert image.image_id == "sha256:" + hashlib.sha256(config).hexdigest()
    assert image.size == len(data)
    # Not `data == expected` alone: pytest would print all of both.
    expected = oracle.archive(conf, [layer.archive_name for layer in image.layers])
    different = [
        at for at in range(0, len(data), 512) if data[at : at + 512] != expected[at : at + 512]
    ]
    assert not different, f"first in block {different[0] // 512}: {data[different[0] :][:512]!r}"
    assert len(data) == len(expected)


def subdirectory(store_dir: bytes) -> bytes:
    """Make a store directory inside another, so that each example of a property has its own."""
    return os.fsencode(tempfile.mkdtemp(dir=os.fsdecode(store_dir), prefix=""))

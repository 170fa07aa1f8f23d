"""Archives of layers whose digests are known: the same bytes, without hashing."""

import io
import os
from collections.abc import Sequence
from pathlib import Path

import pytest
from support import MIB, Store

import stream
from stream.compression import Compression
from stream.model import Digest, KnownLayer, Layer, LayerKey


class _Memory:
    """Digests in memory, of files however young. `promised` stands for whatever is recorded."""

    def __init__(self, promised: Digest | None = None) -> None:
        self._layers: dict[str, KnownLayer] = {}
        self._promised = promised
        self.hits = 0

    def lookup(self, keys: Sequence[LayerKey], encoding: str) -> KnownLayer | None:
        found = [self._layers[key.value] for key in keys if key.value in self._layers]
        self.hits += bool(found)
        return found[0] if found else None

    def record(self, keys: Sequence[LayerKey], layer: Layer, encoding: str) -> None:
        known = KnownLayer(diff_id=self._promised or layer.diff_id, size=layer.size)
        self._layers |= {key.value: known for key in keys}

    def forget(self, keys: Sequence[LayerKey]) -> str | None:
        raise AssertionError(keys)


@pytest.fixture
def conf(tmp_path: Path) -> stream.ImageConf:
    """Return a conf with files on both sides of the size from which on they are sent."""
    store = Store.below(tmp_path)
    store.file("one/a", os.urandom(2 * MIB + 1))
    store.file("one/b", b"content")
    store.file("one/c", os.urandom(20_000))
    store.file("two", b"")
    store.path("three").symlink_to("one/b")
    return stream.load_conf(store.conf(["one"], ["two", "three"]))


def _written(conf: stream.ImageConf, **options: object) -> tuple[bytes, stream.Image]:
    output = io.BytesIO()
    image = stream.write_image(conf, output, **options)  # type: ignore[arg-type]
    return output.getvalue(), image


@pytest.mark.parametrize("form", ["docker-archive", "docker-archive-legacy", "oci-archive"])
@pytest.mark.parametrize("codec", ["none", "zstd"])
def test_same_archive(conf: stream.ImageConf, form: str, codec: str) -> None:
    """An image would depend on whether it was streamed before."""
    digests = _Memory()
    options: dict[str, object] = {"archive_format": form, "compression": Compression(codec=codec)}
    plain = _written(conf, **options)
    assert _written(conf, digests=digests, **options) == plain
    assert digests.hits == 0
    assert _written(conf, digests=digests, **options) == plain
    assert digests.hits == 2


def test_a_known_digest_is_believed(conf: stream.ImageConf) -> None:
    """All bytes would be hashed although nobody needs to know the result."""
    promised = Digest(f"sha256:{'5' * 64}")
    digests = _Memory(promised)
    _written(conf, digests=digests)
    _, image = _written(conf, digests=digests)
    assert {layer.diff_id for layer in image.layers} == {promised}

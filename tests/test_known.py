"""What is known of a layer before its bytes pass, and what is learnt of it."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import pytest

from stream.digests import NO_DIGESTS
from stream.errors import StaleDigest
from stream.interfaces import Takes
from stream.known import SMALL, Known
from stream.model import Descriptor, Digest, KnownLayer, Layer, LayerKey
from stream.oci.documents import uncompressed

KEY = LayerKey(value="k" * 64)
CONTENT = b"x"
DIFF_ID = Digest("sha256:" + hashlib.sha256(CONTENT).hexdigest())
PLAIN = uncompressed(DIFF_ID, len(CONTENT))
BLOB = Descriptor(media_type="zstd", digest=Digest("sha256:blob"), size=9)
HOLDING = Takes(held_layers=True)


@dataclass(frozen=True, kw_only=True)
class Source:
    """A layer of one byte, which counts how often it is written."""

    keys: tuple[LayerKey, ...] = (KEY,)
    size: int = 1
    diff_id: Digest | None = None
    compression: str | None = None
    repeatable: bool = True
    comment: str = ""
    written: list[int] = field(default_factory=list)

    def write_to(self, writer: Any) -> None:
        """Write the layer."""
        self.written.append(1)
        writer.write(CONTENT)


class Digests:
    """Records in memory, of layers and blobs, by the values of keys and encodings."""

    def __init__(self) -> None:
        self.records: dict[tuple[str, str], Layer] = {}

    def lookup(self, keys: Sequence[LayerKey], encoding: str) -> KnownLayer | None:
        """See stream.digests.Digests."""
        for key in keys:
            for (value, of), layer in self.records.items():
                if value == key.value:
                    blob = layer.descriptor if of == encoding else None
                    return KnownLayer(diff_id=layer.diff_id, size=layer.size, descriptor=blob)
        return None

    def record(self, keys: Sequence[LayerKey], layer: Layer, encoding: str) -> None:
        """See stream.digests.Digests."""
        self.records.update({(key.value, encoding): layer for key in keys})

    def forget(self, keys: Sequence[LayerKey]) -> str | None:
        """See stream.digests.Digests."""
        gone = {key.value for key in keys}
        self.records = {key: layer for key, layer in self.records.items() if key[0] not in gone}
        return "/entry"


def layer(blob: Descriptor = PLAIN, **more: Any) -> Layer:
    """Return the record of the layer."""
    return replace(
        Layer(archive_name="", diff_id=DIFF_ID, size=1, comment="", descriptor=blob), **more
    )


def known_of(source: Source, digests: Any, takes: Takes = HOLDING) -> KnownLayer | None:
    """Return what is known of a source."""
    return Known(digests, takes).of_source(source)  # type: ignore[arg-type]


def learn(source: Source, digests: Any, found: Layer, encoding: str = "") -> None:
    """Have the digests of a layer recorded."""
    Known(digests, Takes(encoding=encoding)).learn(source, None, found)  # type: ignore[arg-type]


def test_what_was_learnt_is_known() -> None:
    """Without it a layer would be hashed in each run."""
    digests, source = Digests(), Source()
    assert known_of(source, digests) is None
    learn(source, digests, layer())
    assert known_of(source, digests) == KnownLayer(diff_id=DIFF_ID, size=1, descriptor=PLAIN)
    assert not source.written


def test_a_blob_is_known_in_the_encoding_in_which_it_was_learnt() -> None:
    """Without it a registry would be asked for a blob that it never got."""
    digests, source = Digests(), Source()
    learn(source, digests, layer(BLOB), "zstd:1")
    found = known_of(source, digests, Takes(encoding="zstd:1"))
    assert found is not None
    assert found.descriptor == BLOB
    found = known_of(source, digests, Takes(encoding="zstd:2"))
    assert found == KnownLayer(diff_id=DIFF_ID, size=1)
    found = known_of(source, digests)
    assert found is not None
    assert found.descriptor == PLAIN


def test_a_layer_that_was_carried_compressed_is_not_learnt() -> None:
    """Without it the same image would have other blobs once the cache is warm."""
    digests = Digests()
    learn(Source(compression="gzip"), digests, layer(BLOB), "zstd:1")
    assert not digests.records


def test_a_small_layer_without_keys_is_hashed_where_it_may_be_held() -> None:
    """Without it a layer that commands make would be sent in each push."""
    source = Source(keys=())
    digests = Digests()
    found = known_of(source, digests)
    assert found == KnownLayer(diff_id=DIFF_ID, size=1, descriptor=PLAIN)
    learn(source, digests, layer(BLOB), "zstd:1")
    found = known_of(source, digests, replace(HOLDING, encoding="zstd:1"))
    assert found is not None
    assert found.descriptor == BLOB


@pytest.mark.parametrize(
    ("source", "takes", "digests"),
    [
        (Source(keys=()), Takes(), Digests()),
        (Source(keys=()), HOLDING, NO_DIGESTS),
        (Source(keys=(), size=SMALL + 1), HOLDING, Digests()),
        (Source(keys=(), repeatable=False), HOLDING, Digests()),
        (Source(), HOLDING, Digests()),
    ],
    ids=["an-archive", "no-cache", "large", "passes-once", "with-keys"],
)
def test_other_layers_are_read_once(source: Source, takes: Takes, digests: Any) -> None:
    """Without it a first run would read everything twice."""
    assert known_of(source, digests, takes) is None
    assert not source.written


def test_a_stale_digest_is_forgotten() -> None:
    """Without it a wrong record would end every run."""
    digests, source = Digests(), Source()
    learn(source, digests, layer(diff_id=Digest("sha256:other")))
    with pytest.raises(StaleDigest, match="/entry"):
        Known(digests, Takes()).learn(source, known_of(source, digests), layer())  # type: ignore[arg-type]
    assert not digests.records


def test_a_digest_that_is_asked_for_is_computed_once() -> None:
    """Without it comparing with an earlier image would read everything each time."""
    digests, source = Digests(), Source()
    known = Known(digests, Takes())
    assert [known.diff_id(source) for _ in range(2)] == [DIFF_ID] * 2  # type: ignore[arg-type]
    assert source.written == [1]


def test_a_blob_of_another_size_is_not_that_of_the_layer() -> None:
    """Without it what a registry says of a layer's size would be believed against the layer's own."""
    digests = Digests()
    key = LayerKey(value=DIFF_ID.removeprefix("sha256:"))
    digests.record([key], layer(BLOB, size=2), "zstd")
    known = Known(digests, Takes(encoding="zstd"))
    for size, blob in ((1, None), (2, BLOB), (None, BLOB)):
        assert known.of_layer(KnownLayer(diff_id=DIFF_ID, size=size)).descriptor == blob

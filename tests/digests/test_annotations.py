"""What is believed of the annotations in a manifest, and what is not."""

import json
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stream.digests import NO_DIGESTS, content_key
from stream.digests.annotations import PREFIX, AnnotatedDigests
from stream.model import Descriptor, Digest, KnownLayer, Layer, LayerKey
from stream.oci.documents import LAYER_TYPE, oci_manifest

SECRET = b"0123456789abcdef"
ENCODING = "gzip:6 of a library"
GZIP = f"{LAYER_TYPE}+gzip"
KEYS = [LayerKey(value=digit * 64, portable=True) for digit in "12"]
LOCAL = LayerKey(value="9" * 64)


def layer(digit: str, diff_id: str | None = None) -> Layer:
    """Return the record of a layer."""
    blob = Descriptor(media_type=GZIP, digest=Digest(f"sha256:{digit * 64}"), size=40)
    named = Digest(diff_id or f"sha256:{digit.upper().replace(digit, 'cdef'[int(digit)]) * 64}")
    return Layer(archive_name="", diff_id=named, size=1024, comment="", descriptor=blob)


LAYERS = [layer("1"), layer("2"), layer("3")]  # the last one without a key


def reader(
    *manifests: object, secret: bytes = SECRET, warn: Callable[[str], None] = lambda _: None
) -> AnnotatedDigests:
    """Return the digests that manifests remember."""
    named: Any = [(f"m{number}", manifest) for number, manifest in enumerate(manifests)]
    return AnnotatedDigests(
        NO_DIGESTS, lambda: named, media_type=GZIP, encoding=ENCODING, secret=secret, warn=warn
    )


def written(secret: bytes = SECRET) -> dict[str, Any]:
    """Return a manifest that remembers layers."""
    memory = reader(secret=secret)
    for keys, one in zip(([LOCAL, KEYS[0]], [KEYS[1]], [LOCAL]), LAYERS, strict=True):
        memory.record(keys, one, ENCODING)
    document: dict[str, Any] = json.loads(oci_manifest(b"{}", LAYERS, {}, memory.annotations))
    return document


def known(memory: AnnotatedDigests) -> list[Digest | None]:
    """Return the diff_ids that are known of layers."""
    keys = [[LOCAL, KEYS[0]], [KEYS[1]], [content_key(LAYERS[2].diff_id)]]
    found = [memory.lookup(one, ENCODING) for one in keys]
    return [one.diff_id if one else None for one in found]


def test_what_is_written_is_read() -> None:
    """Without it nothing would be remembered."""
    memory = reader(written())
    assert known(memory) == [one.diff_id for one in LAYERS]
    claimed = KnownLayer(
        diff_id=LAYERS[0].diff_id, size=1024, descriptor=LAYERS[0].descriptor, claimed=True
    )
    assert memory.lookup([KEYS[0]], ENCODING) == claimed
    assert memory.lookup([content_key(LAYERS[0].diff_id)], ENCODING) == claimed
    assert memory.lookup([LOCAL], ENCODING) is None
    assert json.loads(oci_manifest(b"{}", LAYERS, {}, memory.annotations)) == written()


def test_layers_that_are_not_ours_have_no_annotations() -> None:
    """Without it a base image's layer would be said to be compressed as ours are."""
    assert not reader().annotations(LAYERS[0])


def set_to(name: str, value: object) -> Callable[[dict[str, Any]], object]:
    """Return what sets an annotation."""
    return lambda one: one["annotations"].update({f"{PREFIX}{name}": value})


BAD: dict[str, Callable[[dict[str, Any]], object]] = {
    "no key": lambda one: one["annotations"].pop(f"{PREFIX}key"),
    "not a key": set_to("key", "x" * 64),
    "a long key": set_to("key", "1" * 100_000),
    "a number for a key": set_to("key", 7),
    "a list for a key": set_to("key", [["x"]]),
    "null for a key": set_to("key", None),
    "another diff ID": set_to("diff-id", f"sha256:{'0' * 64}"),
    "a bare diff ID": set_to("diff-id", "c" * 64),
    "a number for a size": set_to("size", 1024),
    "a negative size": set_to("size", "-1"),
    "a size with zeros": set_to("size", "01024"),
    "a huge size": set_to("size", "9" * 5000),
    "foreign digits": set_to("size", "١٠٢٤"),
    "no size": lambda one: one["annotations"].pop(f"{PREFIX}size"),
    "another encoding": set_to("encoding", "gzip:6 of a newer library"),
    "no encoding": set_to("encoding", ""),
    "no seal": set_to("seal", ""),
    "a forged seal": set_to("seal", "0" * 64),
    "half a character": set_to("seal", "\ud800"),
    "recompressed": lambda one: one.update(digest=f"sha256:{'0' * 64}"),
    "another kind of digest": lambda one: one.update(digest=f"sha512:{'0' * 128}"),
    "a path for a digest": lambda one: one.update(digest="../../x"),
    "another media type": lambda one: one.update(mediaType=LAYER_TYPE),
    "no media type": lambda one: one.pop("mediaType"),
    "another size of the blob": lambda one: one.update(size=41),
    "a boolean size": lambda one: one.update(size=True),
    "a negative size of the blob": lambda one: one.update(size=-1),
    "a huge size of the blob": lambda one: one.update(size=10**4000),
    "a float for a size": lambda one: one.update(size=40.0),
    "null for annotations": lambda one: one.update(annotations=None),
    "a list of annotations": lambda one: one.update(annotations=[]),
    "nothing": lambda one: one.clear(),
}


@pytest.mark.parametrize("bad", BAD)
def test_what_is_not_as_we_write_it_is_not_there(bad: str) -> None:
    """Without it something malformed could end a push, or be taken for a layer."""
    manifest = written()
    BAD[bad](manifest["layers"][0])
    manifest["layers"] += [None, 7, [], {"annotations": {}}]
    assert known(reader(manifest)) == [None, *(one.diff_id for one in LAYERS[1:])]


@pytest.mark.parametrize("manifest", [{}, {"layers": 7}, {"layers": {"0": 1}}, {"layers": None}])
def test_what_is_not_an_image_remembers_nothing(manifest: dict[str, Any]) -> None:
    """Without it an index or an artifact under the tag would end a push."""
    assert known(reader(manifest)) == [None] * 3


@settings(max_examples=100)
@given(
    name=st.sampled_from(["key", "diff-id", "size", "encoding", "seal", "digest"]),
    at=st.integers(0, 70),
    to=st.characters() | st.just(""),
)
def test_the_seal_covers_everything(name: str, at: int, to: str) -> None:
    """Without it what is sealed could be turned into something else."""
    manifest = written()
    one = manifest["layers"][0]
    where, name = (one, name) if name == "digest" else (one["annotations"], f"{PREFIX}{name}")
    text = where[name]
    where[name] = text[:at] + to + text[at + 1 :]
    is_same = where[name] == text
    assert known(reader(manifest))[0] == (LAYERS[0].diff_id if is_same else None)


def test_only_what_is_sealed_with_the_secret_counts() -> None:
    """Without it whoever can write a tag could name blobs of theirs for our layers."""
    for theirs, ours in ((b"", SECRET), (SECRET, b""), (b"another secret of", SECRET)):
        assert known(reader(written(theirs), secret=ours)) == [None] * 3
    assert known(reader(written(b""), secret=b"")) == [one.diff_id for one in LAYERS]


def test_without_compression_the_blob_is_the_layer() -> None:
    """Without it a blob could be named that every reader sees is another."""
    for diff_id, believed in ((LAYERS[0].descriptor.digest, True), (LAYERS[0].diff_id, False)):
        memory = AnnotatedDigests(
            NO_DIGESTS, lambda: [("m", document)], media_type=GZIP, encoding=""  # noqa: B023 — used in the same turn
        )  # fmt: skip
        blob = LAYERS[0].descriptor
        document: dict[str, Any] = {
            "layers": [
                {
                    "mediaType": blob.media_type,
                    "digest": blob.digest,
                    "size": blob.size,
                    "annotations": memory.sealed(KEYS[0].value, diff_id, blob.size, blob),
                }
            ]
        }
        assert (memory.lookup([KEYS[0]], "") is not None) == believed


def test_contradictions_count_for_neither() -> None:
    """Without it one who lies would win over one who does not, if he is read first."""
    lying = reader()
    lying.record([KEYS[0]], layer("2", LAYERS[0].diff_id), ENCODING)
    lie = json.loads(oci_manifest(b"{}", [layer("2", LAYERS[0].diff_id)], {}, lying.annotations))
    for manifests in ([lie, written()], [written(), lie], [lie, written(), written(), lie]):
        texts: list[str] = []
        memory = reader(*manifests, warn=texts.append)
        assert known(memory) == [None, *(one.diff_id for one in LAYERS[1:])]
        assert texts
    assert known(reader(written(), written())) == [one.diff_id for one in LAYERS]


def test_what_turns_out_wrong_is_ignored_from_then_on() -> None:
    """Without it a lie would be handed on with our seal."""
    for reject in ("record", "forget"):
        texts: list[str] = []
        memory = reader(written(), warn=texts.append)
        assert memory.lookup([KEYS[0]], ENCODING) is not None
        made = layer("3", f"sha256:{'0' * 64}")
        if reject == "forget":
            memory.forget([KEYS[0]])
            assert memory.lookup([KEYS[0]], ENCODING) is None
        memory.record([KEYS[0]], made, ENCODING)
        assert len(texts) == 1
        assert memory.lookup([KEYS[0]], ENCODING) is None
        assert memory.annotations(made)[f"{PREFIX}key"] == KEYS[0].value
        assert f"{PREFIX}key" not in memory.annotations(LAYERS[0])


def test_manifests_are_fetched_once_and_only_if_needed() -> None:
    """Without it each layer would cost a request, or an image without such layers one."""
    calls = []
    memory = AnnotatedDigests(
        NO_DIGESTS, lambda: calls.append(1) or (), media_type=GZIP, encoding=ENCODING  # type: ignore[func-returns-value]
    )  # fmt: skip
    memory.lookup([LOCAL], ENCODING)
    assert not calls
    for _ in range(3):
        memory.lookup([KEYS[0]], ENCODING)
    assert len(calls) == 1

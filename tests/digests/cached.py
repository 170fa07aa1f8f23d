"""Layers for the tests of the cache, without pytest: processes that are killed import it too."""

from stream.model import Descriptor, Digest, KnownLayer, Layer, LayerKey

ONE, TWO = (LayerKey(value=digit * 64) for digit in "12")


def layer(diff_id: str = "a", blob: str = "b") -> Layer:
    """Return a layer whose digests consist of these digits."""
    return Layer(
        archive_name="name/layer.tar",
        diff_id=Digest(f"sha256:{diff_id * 64}"),
        size=10240,
        comment="",
        descriptor=Descriptor(
            media_type="application/vnd.oci.image.layer.v1.tar",
            digest=Digest(f"sha256:{blob * 64}"),
            size=4096,
        ),
    )


def known(diff_id: str = "a", blob: str | None = "b") -> KnownLayer:
    """Return what is known of that layer; without `blob`, not how it is stored."""
    like = layer(diff_id, blob or "b")
    return KnownLayer(
        diff_id=like.diff_id, size=like.size, descriptor=like.descriptor if blob else None
    )

"""Layers known before their bytes pass: what a cache of digests knows of a source, and what a
source then adds to it.

Knows sources by their interface alone; neither where digests are kept nor where layers go.
"""

from __future__ import annotations

from typing import cast

from stream.digests import NO_DIGESTS, Digests, content_key
from stream.errors import StaleDigest
from stream.interfaces import LayerSource, LayerWriter, Takes
from stream.model import Digest, KnownLayer, Layer
from stream.oci.documents import uncompressed
from stream.tarwriter import hash_layer
from stream.values import replace

# Bytes of a layer that is hashed to be known: some milliseconds.
SMALL = 16 << 20


class Known:
    """The layers that `digests` knows, each with its blob in a sink that `takes` this."""

    def __init__(self, digests: Digests, takes: Takes) -> None:
        self._digests = digests
        self._encoding = takes.encoding
        self._hashes = takes.held_layers and digests is not NO_DIGESTS

    def of_source(self, source: LayerSource) -> KnownLayer | None:
        """Return what is known of `source`, None if that is nothing. A small layer without keys
        is hashed, if the sink may hold it. A record that cannot be right is removed. Raises
        SourceError.
        """
        if source.diff_id is not None:
            return self.of_layer(KnownLayer(diff_id=source.diff_id, size=source.size))
        found = self._digests.lookup(source.keys, self._encoding)
        if found is not None and found.size == source.size:
            return self._with_blob(found)
        if found is not None:
            self._digests.forget(source.keys)
        if not self._hashes or not _is_for_hashing(source):
            return None
        return self.of_layer(KnownLayer(diff_id=_hashed(source), size=source.size))

    def of_layer(self, known: KnownLayer) -> KnownLayer:
        """Return `known` with its blob, if there is a record of that."""
        if known.descriptor is None:
            found = self._digests.lookup([content_key(known.diff_id)], self._encoding)
            is_same = found is not None and found.diff_id == known.diff_id
            if found is not None and is_same and known.size in (None, found.size):
                return self._with_blob(found)
        return self._with_blob(known)

    def diff_id(self, source: LayerSource) -> Digest:
        """Return the digest of the tar of `source`, which is repeatable; it is hashed and recorded
        if it is not known. Raises SourceError.
        """
        known = self.of_source(source)
        if known is not None:
            return known.diff_id
        diff_id = _hashed(source)
        blob = uncompressed(diff_id, source.size)
        layer = Layer(
            archive_name="", diff_id=diff_id, size=source.size, comment="", descriptor=blob
        )
        self.learn(source, None, layer)
        return diff_id

    def learn(self, source: LayerSource, known: KnownLayer | None, layer: Layer) -> None:
        """Record `layer`, which `source` has become. Raises StaleDigest if that is not what was
        `known` of it.
        """
        if known is not None and known.diff_id != layer.diff_id:
            entry = self._digests.forget(source.keys)
            raise StaleDigest(source.comment, known.diff_id, layer.diff_id, entry)
        if source.compression is not None or (known and known.descriptor == layer.descriptor):
            return
        keys = source.keys
        if not keys and self._encoding:  # its blob is all that there is to know
            keys = (content_key(layer.diff_id),)
        self._digests.record(keys, layer, self._encoding)

    def _with_blob(self, known: KnownLayer) -> KnownLayer:
        if known.descriptor is None and known.size is not None and not self._encoding:
            return replace(known, descriptor=uncompressed(known.diff_id, known.size))
        return known


def _hashed(source: LayerSource) -> Digest:
    return hash_layer(source.size, lambda tar: source.write_to(cast("LayerWriter", tar)))


def _is_for_hashing(source: LayerSource) -> bool:
    is_plain = source.repeatable and source.compression is None
    return is_plain and not source.keys and source.size <= SMALL

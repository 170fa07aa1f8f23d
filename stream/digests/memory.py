"""What one run has learnt of layers, in memory: for the images that follow in it.

Must not know where `digests` are kept.
"""

from __future__ import annotations

from collections.abc import Sequence

from stream.digests import Digests
from stream.model import KnownLayer, Layer, LayerKey
from stream.recent import Recent

_MOST = 20_000  # records, some 20 MB


class Learnt(Recent[tuple[str, str], KnownLayer]):
    """Layers by the values of their keys and the encoding of their blobs."""

    def __init__(self) -> None:
        super().__init__(_MOST)


class RunDigests:
    """The digests that `digests` has, and those `learnt` in this run, which grow: under keys too
    that allow nothing to be kept, as a layer is within a run what it was when it was first read.
    See `stream.digests.Digests`.
    """

    def __init__(self, digests: Digests, learnt: Learnt) -> None:
        self._digests = digests
        self._known = learnt

    def lookup(self, keys: Sequence[LayerKey], encoding: str) -> KnownLayer | None:
        """See Digests."""
        for key in keys:
            if (known := self._known.get((key.value, encoding))) is not None:
                return known
        found = self._digests.lookup(keys, encoding)
        if found is not None and found.descriptor is not None:
            self._keep(keys, encoding, found)
        return found

    def record(self, keys: Sequence[LayerKey], layer: Layer, encoding: str) -> None:
        """See Digests."""
        known = KnownLayer(diff_id=layer.diff_id, size=layer.size, descriptor=layer.descriptor)
        self._keep(keys, encoding, known)
        self._digests.record(keys, layer, encoding)

    def forget(self, keys: Sequence[LayerKey]) -> str | None:
        """See Digests."""
        gone = {key.value for key in keys}
        for known in [one for one in self._known if one[0] in gone]:
            self._known.pop(known, None)
        return self._digests.forget(keys)

    def _keep(self, keys: Sequence[LayerKey], encoding: str, known: KnownLayer) -> None:
        for key in keys:
            self._known[key.value, encoding] = known

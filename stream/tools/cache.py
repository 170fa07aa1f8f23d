"""The cache of digests, for its owner: whether its entries are right, and digests from elsewhere.
Knows neither argv nor how entries are kept.
"""

from __future__ import annotations

import errno
import os
import re
from collections.abc import Iterator, Sequence

from stream.digests.store import BadEntry, DigestCache
from stream.errors import ConfError, Fault, OutputError
from stream.faults import kind
from stream.limits import MAX_SIZE
from stream.model import Digest, ImageConf, KnownLayer, Layer, LayerKey
from stream.observer import Observer
from stream.oci.documents import uncompressed
from stream.schema.reading import conf_name, load_object
from stream.tools.digests import compute_digests

_KEY = re.compile("[0-9a-f]{64}")
_DIGEST = re.compile("sha256:[0-9a-f]{64}")


def find_bad_entries(
    cache: DigestCache, conf: ImageConf | None = None, observer: Observer | None = None
) -> Iterator[BadEntry]:
    """Yield each entry of `cache` that is of no use, and remove it: those that cannot be read, are
    malformed or could have been written by others, then, with `conf`, those whose diff_id is not
    that of the layer, for which every layer of its image is hashed. Raises StreamImageError.
    """
    for bad in cache.bad_entries():
        yield _removed(bad)
    if conf is not None:
        comparison = _Comparison(cache)
        compute_digests(conf, comparison, observer)
        for bad in comparison.wrong:
            yield _removed(bad)


def _removed(bad: BadEntry) -> BadEntry:
    try:
        os.unlink(bad.path)
    except OSError as error:
        return BadEntry(path=bad.path, reason=f"{bad.reason}; cannot be removed: {error.strerror}")
    return BadEntry(path=bad.path, reason=f"{bad.reason}; removed")


class _Comparison:
    """Known digests that are not used but compared. See Digests."""

    def __init__(self, cache: DigestCache) -> None:
        self.wrong: list[BadEntry] = []
        self._cache = cache

    def lookup(self, keys: Sequence[LayerKey], encoding: str) -> KnownLayer | None:
        """See Digests: nothing is known, so that every layer is hashed."""
        return None

    def record(self, keys: Sequence[LayerKey], layer: Layer, encoding: str) -> None:
        """See Digests."""
        for key in keys:
            known = self._cache.lookup((key,), encoding)
            if known is not None and known.diff_id != layer.diff_id:
                reason = f"has {known.diff_id}, the layer is {layer.diff_id}"
                self.wrong.append(BadEntry(path=self._cache.path(key.value), reason=reason))

    def forget(self, keys: Sequence[LayerKey]) -> str | None:
        """See Digests."""
        return None


def import_digests(cache: DigestCache, source: str) -> tuple[int, int]:
    """Record in `cache` what `stream-image digests` printed into the file `source` (`-`: standard
    input), on any machine. Return the number of layers that are known by it, those with a key, and
    that of the others.
    Raises ConfError, and OutputError if they cannot be kept.
    """
    name = conf_name(source)
    layers = load_object(source).get("layers")
    if not isinstance(layers, list):
        wrong = f"must be a list, not {kind(layers)}; give the output of stream-image digests"
        raise ConfError(name, [Fault("layers", wrong)])
    faults = [
        Fault(f"layers[{n}]", w) for n, one in enumerate(layers) if (w := _why_not_layer(one))
    ]
    if faults:
        raise ConfError(name, faults)
    keyed = [layer for layer in layers if layer.get("key") is not None]
    for layer in keyed:
        key = LayerKey(value=layer["key"], portable=True)
        diff_id, size = Digest(layer["diff_id"]), layer["size"]
        blob = uncompressed(diff_id, size)
        record = Layer(archive_name="", diff_id=diff_id, size=size, comment="", descriptor=blob)
        cache.record((key,), record, "")
        if cache.lookup((key,), "") is None:
            why = cache.why_unused() or "cannot be written"
            raise OutputError(errno.EACCES, f"{cache.directory}: {why}")
    return len(keyed), len(layers) - len(keyed)


def _why_not_layer(layer: object) -> str | None:
    if not isinstance(layer, dict):
        return f"must be an object, not {kind(layer)}"
    diff_id, size, key = (layer.get(name) for name in ("diff_id", "size", "key"))
    if not isinstance(diff_id, str) or not _DIGEST.fullmatch(diff_id):
        return "diff_id must be 'sha256:' and 64 digits from 0 to f"
    if type(size) is not int or not 0 <= size <= MAX_SIZE:
        return "size must be a number of bytes"
    if key is not None and not (isinstance(key, str) and _KEY.fullmatch(key)):
        return "key must be 64 digits from 0 to f"
    return None

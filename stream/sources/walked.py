"""Store layers that a run has walked before: one that many images have is walked once.

Keeps what a layer is known by, not its entries. Knows neither what is in a layer nor where it goes.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable

from stream.errors import SourceError
from stream.interfaces import ContentWriter
from stream.model import ImageConf, LayerKey, LayerPlan
from stream.recent import Recent
from stream.sources.layer import ReadableLayer
from stream.sources.store import StoreLayer, comment, label, walk
from stream.values import dataclass, field

_MOST = 10_000  # layers, some 10 MB


@dataclass(frozen=True, slots=True, kw_only=True)
class _Outline:
    """What a walk has found out about a layer."""

    fingerprint: str
    size: int
    keys: tuple[LayerKey, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class WalkedLayer(ReadableLayer):
    """A store layer that was walked for an earlier image. Its entries are listed again only if it
    must be written again.
    """

    walk: Callable[[], StoreLayer] = field(repr=False)

    def write_to(self, writer: ContentWriter) -> None:
        """Write every entry. Raises SourceError if the files are not as they were."""
        layer = self.walk()
        if layer.fingerprint != self.fingerprint:
            raise SourceError(layer.store_paths[0], "changed since it was read for another image")
        layer.write_to(writer)


class Walks:
    """Walks store layers, each once, as long as there are not too many. Several threads may use it."""

    def __init__(self) -> None:
        self._outlines: Recent[bytes, _Outline] = Recent(_MOST)

    def __call__(self, conf: ImageConf, plan: LayerPlan) -> ReadableLayer:
        """Return the layer of `plan`, without its entries if it was walked before. Raises
        SourceError.
        """
        identity = _identity(conf, plan)
        found = self._outlines.get(identity)
        if found is not None:
            return WalkedLayer(
                label=label(plan),
                comment=comment(plan),
                fingerprint=found.fingerprint,
                size=found.size,
                keys=found.keys,
                walk=lambda: walk(conf, plan),
            )
        layer = walk(conf, plan)
        self._outlines[identity] = _Outline(
            fingerprint=layer.fingerprint, size=layer.size, keys=layer.keys
        )
        return layer


def _identity(conf: ImageConf, plan: LayerPlan) -> bytes:
    """Return a digest of everything in a conf that the layer of `plan` depends on."""
    hashes = [conf.store_path_hashes.get(path) for path in plan.store_paths]
    parts = (plan.store_paths, conf.owner, conf.mtime, conf.store_root, conf.store_dir, hashes)
    return hashlib.sha256(repr(parts).encode()).digest()

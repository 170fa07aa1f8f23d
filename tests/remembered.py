"""Known digests in memory, for files that are too young for a cache to keep them."""

from collections.abc import Sequence

from stream.model import KnownLayer, Layer, LayerKey


class Remembered:
    """Known digests in memory. See `stream.digests.Digests`."""

    def __init__(self) -> None:
        self.layers: dict[tuple[str, str], Layer] = {}

    def lookup(self, keys: Sequence[LayerKey], encoding: str) -> KnownLayer | None:
        """Return what was recorded."""
        for key in keys:
            if (layer := self.layers.get((key.value, encoding))) is not None:
                return KnownLayer(
                    diff_id=layer.diff_id, size=layer.size, descriptor=layer.descriptor
                )
        return None

    def record(self, keys: Sequence[LayerKey], layer: Layer, encoding: str) -> None:
        """Record a layer. Unlike users' files, those of tests may be as young as they are."""
        self.layers.update({(key.value, encoding): layer for key in keys})

    def forget(self, keys: Sequence[LayerKey]) -> str | None:
        """Remove records."""
        values = {key.value for key in keys}
        self.layers = {at: layer for at, layer in self.layers.items() if at[0] not in values}
        return None

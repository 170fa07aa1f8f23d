"""The digests of an image that is not written. Knows neither argv nor how layers are made."""

from __future__ import annotations

from collections.abc import Sequence

from stream.digests import NO_DIGESTS, Digests
from stream.errors import ArgumentError
from stream.model import Digest, Image, ImageConf, KnownLayer, Layer, LayerKey
from stream.observer import Observer
from stream.pipeline import write_images
from stream.sinks.nowhere import Nowhere
from stream.tools.write import opened_sources


class PortableKeys:
    """Known `digests`, which are used as they are. Notes the keys of layers that are the same on all
    machines. See Digests.
    """

    def __init__(self, digests: Digests) -> None:
        self._digests = digests
        self._diff_ids: dict[str, Digest] = {}

    def by_diff_id(self) -> dict[Digest, str]:
        """Return the key of each layer that has one besides its diff_id, by that."""
        return {
            diff_id: key for key, diff_id in self._diff_ids.items() if not diff_id.endswith(key)
        }

    def lookup(self, keys: Sequence[LayerKey], encoding: str) -> KnownLayer | None:
        """See Digests."""
        known = self._digests.lookup(keys, encoding)
        if known is not None:
            self._note(keys, known.diff_id)
        return known

    def record(self, keys: Sequence[LayerKey], layer: Layer, encoding: str) -> None:
        """See Digests."""
        self._note(keys, layer.diff_id)
        self._digests.record(keys, layer, encoding)

    def forget(self, keys: Sequence[LayerKey]) -> str | None:
        """See Digests."""
        return self._digests.forget(keys)

    def _note(self, keys: Sequence[LayerKey], diff_id: Digest) -> None:
        self._diff_ids.update((key.value, diff_id) for key in keys if key.portable)


def compute_digests(
    conf: ImageConf, digests: Digests = NO_DIGESTS, observer: Observer | None = None
) -> Image:
    """Return the record of the image of `conf`: the bytes of its config, its layers, and the
    descriptor of its OCI manifest, whose layers are uncompressed. Only layers whose digests are
    not known are read; `digests` has those that are, and gets the others. A base image's are
    believed.

    Raises ArgumentError, RecipeError, SourceError, ArchiveError, DigestMismatch or SizeMismatch.
    """
    ArgumentError.require("conf", conf, ImageConf)
    observer = observer or Observer()
    with opened_sources(conf, observer) as sources, Nowhere() as sink:
        for warning in sources.warnings:
            observer.warning(warning)
        (image,) = write_images([sources], sink, observer, digests)
    observer.finished(image)
    return image

"""The pipeline: writes the layers and documents of images to a sink. The only orchestrator.

Knows neither argv, nor JSON keys, nor header bytes, nor which sink it writes to.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import replace
from itertools import count

from stream.digests import NO_DIGESTS, Digests, content_key
from stream.errors import DigestMismatch, StaleDigest
from stream.interfaces import ImageSources, LayerSource, LayerWriter, Sink, Takes
from stream.model import Digest, Image, KnownLayer, Layer
from stream.observer import Observer
from stream.oci.documents import uncompressed
from stream.oci.tags import distinct_images


def write_images(
    images: Sequence[ImageSources],
    sink: Sink,
    observer: Observer,
    digests: Digests = NO_DIGESTS,
) -> list[Image]:
    """Write `images` to `sink`: each layer that it does not hold once, then the documents of
    all. An image that occurs more than once is written once, with all its tags; of several
    images with one tag, the last one keeps it. Return the record of each image. The digests of
    layers are taken from `digests`, and recorded there.
    """
    layers = _LayerWriting(sink, observer, _Known(digests, sink.takes.encoding))
    left = _LayersLeft(images, layers, sink.takes)
    observer.started(left.count(), left.sizes, lambda: sink.position)
    written = []
    for sources in images:
        skip = {known.diff_id for known in sources.known_layers(sink.takes) if layers.has(known)}
        with closing(sources.layers(sink.takes, skip)) as each:
            written.append([layers.write(source) for source in each])
    known = layers.complete()
    documents = [
        one
        for sources, numbers in zip(images, written, strict=True)
        for one in sources.documents([layers.records[n] for n in numbers], known)
    ]
    added = [sink.add_image(one) for one in distinct_images(documents, observer.warning)]
    size = sink.finish()
    return [replace(one, size=size) for one in added]


class _LayersLeft:
    """The layers of images that the sink does not hold."""

    def __init__(self, images: Sequence[ImageSources], layers: _LayerWriting, takes: Takes) -> None:
        each = (known for sources in images for known in sources.known_layers(takes))
        known = {layer.diff_id: layer for layer in each}
        self._known = [layer for layer in known.values() if not layers.has(layer)]
        self._images = images

    def count(self) -> int:
        """Return how many they are."""
        keys = {key for sources in self._images for key in sources.unknown_layers()}
        return len(self._known) + len(keys)

    def sizes(self) -> Iterator[int | None]:
        """Yield the size of each in bytes, None where it is unknown. Raises SourceError."""
        yield from (layer.size for layer in self._known)
        seen = set()
        for sources in self._images:
            for key, size in zip(sources.unknown_layers(), sources.unknown_sizes(), strict=True):
                if key not in seen:
                    seen.add(key)
                    yield size


class _Known:
    """The digests known of layers, and of their blobs in `encoding`."""

    def __init__(self, digests: Digests, encoding: str) -> None:
        self._digests = digests
        self._encoding = encoding

    def of_source(self, source: LayerSource) -> KnownLayer | None:
        """Return what is known of `source`. A record that cannot be right is removed."""
        found = self._digests.lookup(source.keys, self._encoding)
        if found is not None and found.size != source.size:
            self._digests.forget(source.keys)
            return None
        return found and self._with_blob(found)

    def of_layer(self, known: KnownLayer) -> KnownLayer:
        """Return `known` with its blob, if that is known."""
        if known.descriptor is not None:
            return known
        found = self._digests.lookup((content_key(known.diff_id),), self._encoding)
        if found is not None and found.diff_id == known.diff_id:
            return self._with_blob(found)
        return self._with_blob(known)

    def _with_blob(self, known: KnownLayer) -> KnownLayer:
        if known.descriptor is None and known.size is not None and not self._encoding:
            return replace(known, descriptor=uncompressed(known.diff_id, known.size))
        return known

    def learn(self, source: LayerSource, known: KnownLayer | None, layer: Layer) -> None:
        """Record `layer`, which `source` has become. Raises StaleDigest if it is not what was
        `known` of it.
        """
        if known is None or known.descriptor != layer.descriptor:
            if known is not None and known.diff_id != layer.diff_id:
                entry = self._digests.forget(source.keys)
                raise StaleDigest(source.comment, known.diff_id, layer.diff_id, entry)
            self._digests.record(source.keys, layer, self._encoding)


class _LayerWriting:
    """Writes layers one after the other, each once. A layer is completed when it is hashed;
    writing never waits for that.
    """

    def __init__(self, sink: Sink, observer: Observer, known: _Known) -> None:
        self.records: dict[int, Layer] = {}  # by the numbers that `write` returns
        self._sink = sink
        self._observer = observer
        self._digests = known
        self._known: dict[Digest, Layer] = {}
        self._missing: set[Digest] = set()  # diff_ids that the sink does not hold
        self._passed: set[Digest] = set()  # diff_ids of layers that were begun or are held
        self._first: dict[str, int] = {}  # numbers, by the fingerprints of other layers
        self._repeated: dict[int, tuple[Digest | int, str]] = {}  # which layer, and the comment
        self._open: deque[tuple[int, LayerSource, KnownLayer | None, LayerWriter]] = deque()
        self._numbers = count()
        self._completed = count(1)
        self._begun = 0

    def has(self, known: KnownLayer) -> bool:
        """Return True if `known` need not be written: it was, or the sink holds it."""
        if known.diff_id in self._passed:
            return True
        if known.diff_id in self._missing:
            return False
        held = self._sink.holds(self._digests.of_layer(known))
        if held is None:
            self._missing.add(known.diff_id)
            return False
        self._known[known.diff_id] = held
        self._passed.add(known.diff_id)
        return True

    def write(self, source: LayerSource) -> int:
        """Write `source` unless its layer was written before. Return the number of its record."""
        number = next(self._numbers)
        if source.diff_id is None:
            first = self._first.setdefault(source.fingerprint, number)
            if first != number:
                self._repeated[number] = first, source.comment
                return number
        elif source.diff_id in self._passed:
            self._repeated[number] = source.diff_id, source.comment
            return number
        else:
            self._passed.add(source.diff_id)
        # A promised digest is checked, so it is not taken for the one of the bytes.
        known = self._digests.of_source(source) if source.diff_id is None else None
        self._begun += 1
        name = self._sink.layer_name(source)
        if known is not None and (held := self._sink.holds(known)) is not None:
            held = replace(held, archive_name=name, comment=source.comment)
            self.records[number] = self._known.setdefault(held.diff_id, held)
            self._observer.layer_held(self._begun, source.label, held)
            return number
        self._observer.layer_started(self._begun, source.label, name, source.size)
        writer = self._sink.begin_layer(source, known)
        source.write_to(writer)
        writer.close()
        self._observer.layer_written(self._begun)
        self._open.append((number, source, known, writer))
        while self._open and self._open[0][-1].is_hashed():
            self._complete_oldest()
        return number

    def complete(self) -> Mapping[Digest, Layer]:
        """Wait until all layers are hashed. Return them and those held, by diff_id."""
        while self._open:
            self._complete_oldest()
        for number, (which, comment) in self._repeated.items():
            layer = self.records[which] if isinstance(which, int) else self._known[which]
            self.records[number] = replace(layer, comment=comment)
        return self._known

    def _complete_oldest(self) -> None:
        number, source, known, writer = self._open.popleft()
        layer = self.records[number] = writer.complete()
        for promised, found in (
            (source.diff_id, layer.diff_id),
            (source.digest, layer.descriptor.digest),
        ):
            if promised is not None and found != promised:
                raise DigestMismatch(source.comment, promised, found)
        self._digests.learn(source, known, layer)
        self._known.setdefault(layer.diff_id, layer)
        self._observer.layer_completed(next(self._completed), layer)

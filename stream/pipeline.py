"""The pipeline: writes the layers and documents of images to a sink. The only orchestrator.

Knows neither argv, nor JSON keys, nor header bytes, nor which sink it writes to.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import closing
from itertools import count
from typing import Self

from stream.digests import NO_DIGESTS, Digests
from stream.errors import DigestMismatch
from stream.interfaces import ImageSources, LayerSource, Sink, Takes
from stream.known import Known
from stream.model import Digest, Image, KnownLayer, Layer
from stream.observer import Observer
from stream.oci.tags import distinct_images
from stream.transfers import Ended, Sleep, Transfer, ask_for, transfers_into
from stream.values import replace


def write_images(
    images: Sequence[ImageSources],
    sink: Sink,
    observer: Observer,
    digests: Digests = NO_DIGESTS,
    sleep: Sleep | None = None,
) -> list[Image]:
    """Write `images` to `sink`: each layer that it does not hold once, then the documents of
    all. An image that occurs more than once is written once, with all its tags; of several
    images with one tag, the last one keeps it, for each platform if the sink takes indexes. Return
    the record of each image. The digests of layers are taken from `digests`, and recorded there.
    `sleep` waits for some seconds before a layer is written again.
    """
    with _LayerWriting(sink, observer, Known(digests, sink.takes), sleep) as layers:
        left = _LayersLeft(images, layers, sink.takes)
        observer.started(left.count(), left.sizes, lambda: sink.position)
        written = []
        for sources in images:
            held = {one.diff_id for one in sources.known_layers(sink.takes) if layers.has(one)}
            with closing(sources.layers(sink.takes, held)) as each:
                written.append([layers.write(source) for source in each])
        known = layers.complete()
    documents = [
        one
        for sources, numbers in zip(images, written, strict=True)
        for one in sources.documents([layers.records[n] for n in numbers], known)
    ]
    distinct = distinct_images(documents, observer.warning, indexes=sink.takes.indexes)
    added = [sink.add_image(one) for one in distinct]
    size = sink.finish()
    return [replace(one, size=size) for one in added]


class _LayersLeft:
    """The layers of images that the sink does not hold."""

    def __init__(self, images: Sequence[ImageSources], layers: _LayerWriting, takes: Takes) -> None:
        each = (known for sources in images for known in sources.known_layers(takes))
        known = {layer.diff_id: layer for layer in each}
        layers.ask_for(known.values())
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


class _LayerWriting:
    """Writes layers, each once. A layer is completed when it is hashed; writing never waits for
    that.
    """

    def __init__(self, sink: Sink, observer: Observer, known: Known, sleep: Sleep | None) -> None:
        self.records: dict[int, Layer] = {}  # by the numbers that `write` returns
        self._sink = sink
        self._observer = observer
        self._digests = known
        self._sleep = sleep
        self._known: dict[Digest, Layer] = {}
        self._passed: set[Digest] = set()  # diff_ids of layers that were begun or are held
        self._first: dict[str, int] = {}  # numbers, by the fingerprints of other layers
        self._repeated: dict[int, tuple[Digest | int, str]] = {}  # which layer, and the comment
        self._begun: dict[int, int] = {}  # by number, counted from 1 as an observer does
        self._numbers = count()
        self._transfers = transfers_into(sink)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self._transfers.__exit__(*exc_info)

    def ask_for(self, known: Iterable[KnownLayer]) -> None:
        """Learn which of the layers `known` the sink holds: before the first is written."""
        distinct = [self._digests.of_layer(one) for one in known]
        for one, held in zip(distinct, ask_for(distinct, self._sink), strict=True):
            if held is not None:
                self._known[one.diff_id] = held
                self._passed.add(one.diff_id)

    def has(self, known: KnownLayer) -> bool:
        """Return True if `known` need not be written: it was, or the sink holds it."""
        return known.diff_id in self._passed

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
        begun = self._begun[number] = len(self._begun) + 1
        name = self._sink.layer_name(source)
        self._observer.layer_started(begun, source.label, name, source.size)
        # A promised digest is checked, so it is not taken for the one of the bytes.
        known = self._digests.of_source(source) if source.diff_id is None else None
        self._transfers.add(Transfer(number, source, known, self._sink, self._sleep))
        self._take(self._transfers.ended())
        return number

    def complete(self) -> Mapping[Digest, Layer]:
        """Wait until all layers are hashed. Return them and those held, by diff_id."""
        self._take(self._transfers.rest())
        for number, (which, comment) in self._repeated.items():
            layer = self.records[which] if isinstance(which, int) else self._known[which]
            self.records[number] = replace(layer, comment=comment)
        return self._known

    def _take(self, ended: Iterator[Ended]) -> None:
        for transfer, layer in ended:
            number, source = transfer.number, transfer.source
            if transfer.is_held:
                name = self._sink.layer_name(source)
                record = replace(layer, archive_name=name, comment=source.comment)
                self._observer.layer_held(self._begun[number], record)
            else:
                record = layer
                _check_promises(source, layer)
                self._digests.learn(source, transfer.known, layer)
                self._observer.layer_completed(self._begun[number], layer)
            self.records[number] = record
            self._known.setdefault(layer.diff_id, record)


def _check_promises(source: LayerSource, layer: Layer) -> None:
    """Raise DigestMismatch if `layer` is not what `source` promised."""
    for promised, found in (
        (source.diff_id, layer.diff_id),
        (source.digest, layer.descriptor.digest),
    ):
        if promised is not None and found != promised:
            raise DigestMismatch(source.comment, promised, found)

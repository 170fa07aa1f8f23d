"""The pipeline: writes the layers and documents of images to a sink. The only orchestrator.

Knows neither argv, nor JSON keys, nor header bytes, nor which sink it writes to.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import replace
from itertools import count
from typing import BinaryIO

from stream.compression import UNCOMPRESSED, Compression
from stream.config import require_tag
from stream.errors import ArgumentError
from stream.interfaces import ImageSources, LayerSource, LayerWriter, Sink
from stream.model import Digest, Image, ImageConf, KnownLayer, Layer
from stream.observer import Observer
from stream.sinks import ArchiveFormat, check_format, check_output, opened_archive
from stream.sources import image


def write_image(  # noqa: PLR0913 — the options of the command, each of its own
    conf: ImageConf,
    output: int | BinaryIO,
    observer: Observer | None = None,
    *,
    archive_format: ArchiveFormat = "docker-archive",
    compression: Compression = UNCOMPRESSED,
    threads: int | None = None,
) -> Image:
    """Write the image of `conf` to a file descriptor or binary file object, compressed by
    `threads` threads (default: one per core).

    Return the image's record. Raises ArgumentError, or ConfError if `conf` has
    no tag, before anything is read; SourceError, ArchiveError, DigestMismatch or
    OutputError: then the archive has no `manifest.json` and no trailer, and its reader sees
    that it is truncated. `output` is not closed.
    """
    ArgumentError.require("conf", conf, ImageConf)
    check_format(archive_format)
    check_output(output, observer, compression, threads)
    require_tag(conf)
    observer = observer or Observer()
    with (
        image.opened(conf, observer.warning) as sources,
        opened_archive(
            output, archive_format, mtime=conf.mtime, compression=compression, threads=threads
        ) as sink,
    ):
        for warning in sources.warnings:
            observer.warning(warning)
        if conf.annotations and not sink.takes.annotations:
            observer.warning(f"annotations: left out, {archive_format} does not support them")
        (written,) = write_images([sources], sink, observer)
    observer.finished(written)
    return written


def write_images(images: Sequence[ImageSources], sink: Sink, observer: Observer) -> list[Image]:
    """Write `images` to `sink`: each layer that it does not hold once, then the documents of
    all. Return the record of each image.
    """
    layers = _LayerWriting(sink, observer)
    observer.started(_count(images), lambda: _sizes(images), lambda: sink.position)
    written = []
    for sources in images:
        skip = {known.diff_id for known in sources.known_layers() if layers.has(known)}
        with closing(sources.layers(sink.takes, skip)) as left:
            written.append([layers.write(source) for source in left])
    known = layers.complete()
    added = [
        sink.add_image(documents)
        for sources, numbers in zip(images, written, strict=True)
        for documents in sources.documents([layers.records[n] for n in numbers], known)
    ]
    size = sink.finish()
    return [replace(one, size=size) for one in added]


def _count(images: Sequence[ImageSources]) -> int:
    known = {layer.diff_id for sources in images for layer in sources.known_layers()}
    return len(known) + sum(sources.unknown_count() for sources in images)


def _sizes(images: Sequence[ImageSources]) -> Iterator[int | None]:
    known = {layer.diff_id: layer for sources in images for layer in sources.known_layers()}
    yield from (layer.size for layer in known.values())
    for sources in images:
        yield from sources.unknown_sizes()


class _LayerWriting:
    """Writes layers one after the other, each once. A layer is completed when it is hashed;
    writing never waits for that.
    """

    def __init__(self, sink: Sink, observer: Observer) -> None:
        self.records: dict[int, Layer] = {}  # by the numbers that `write` returns
        self._sink = sink
        self._observer = observer
        self._known: dict[Digest, Layer] = {}
        self._passed: set[Digest] = set()  # diff_ids of layers that were begun or are held
        self._repeated: dict[int, LayerSource] = {}
        self._open: deque[tuple[int, LayerWriter]] = deque()
        self._numbers = count()
        self._completed = count(1)
        self._begun = 0

    def has(self, known: KnownLayer) -> bool:
        """Return True if `known` need not be written: it was, or the sink holds it."""
        if known.diff_id not in self._passed:
            held = self._sink.holds(known)
            if held is None:
                return False
            self._known[known.diff_id] = held
            self._passed.add(known.diff_id)
        return True

    def write(self, source: LayerSource) -> int:
        """Write `source` unless its layer was written before. Return the number of its record."""
        number = next(self._numbers)
        if source.diff_id in self._passed:
            self._repeated[number] = source
            return number
        if source.diff_id is not None:
            self._passed.add(source.diff_id)
        writer = self._sink.begin_layer(source)
        self._begun += 1
        self._observer.layer_started(self._begun, source.label, writer.archive_name, source.size)
        source.write_to(writer)
        writer.close()
        self._observer.layer_written(self._begun)
        self._open.append((number, writer))
        while self._open and self._open[0][1].is_hashed():
            self._complete_oldest()
        return number

    def complete(self) -> Mapping[Digest, Layer]:
        """Wait until all layers are hashed. Return them and those held, by diff_id."""
        while self._open:
            self._complete_oldest()
        for number, source in self._repeated.items():
            assert source.diff_id is not None
            self.records[number] = replace(self._known[source.diff_id], comment=source.comment)
        return self._known

    def _complete_oldest(self) -> None:
        number, writer = self._open.popleft()
        layer = self.records[number] = writer.complete()
        self._known.setdefault(layer.diff_id, layer)
        self._observer.layer_completed(next(self._completed), layer)

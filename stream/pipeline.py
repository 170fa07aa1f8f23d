"""The way of an image: sources, in order, into a sink. The only orchestrator.

Knows neither argv, nor JSON keys, nor header bytes.
"""

from __future__ import annotations

import io
import os
import threading
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, closing, contextmanager
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, BinaryIO, Protocol

from stream.compression import UNCOMPRESSED, Compression, compressed
from stream.errors import OutputError
from stream.model import Image, ImageConf, Layer
from stream.observer import Observer
from stream.sinks import ARCHIVE_FORMATS, ArchiveFormat
from stream.sinks.docker_archive import DockerArchive
from stream.sources import opened_base, store
from stream.sources.ahead import Ahead
from stream.sources.customisation import layer as customisation
from stream.sources.layer import SourceLayer
from stream.tarwriter import LayerWriter

if TYPE_CHECKING:
    from stream.sources.base.image import BaseImage


def _sources(conf: ImageConf, top: SourceLayer | None) -> list[Callable[[], SourceLayer]]:
    """What makes each layer's source, bottom to top: called when its turn comes,
    so that only the metadata at hand is in memory.
    """
    makers: list[Callable[[], SourceLayer]] = [
        partial(store.walk, conf, plan) for plan in conf.store_layers
    ]
    if top is not None:
        makers.append(lambda: top)
    return makers


class LayerSink(Protocol):
    """Takes layers."""

    def begin_layer(self, archive_name: str, size: int) -> LayerWriter:
        """Begin the next layer."""


class LayerWriting:
    """Writes layers one by one. A layer is completed when its hashing has caught
    up, which never holds up the writing.
    """

    def __init__(self, sink: LayerSink, observer: Observer) -> None:
        self.layers: list[Layer] = []
        self._sink = sink
        self._observer = observer
        self._started = 0
        self._open: deque[tuple[SourceLayer, LayerWriter]] = deque()

    def write(self, source: SourceLayer) -> None:
        """Write the bytes of `source`."""
        self._started += 1
        self._observer.layer_started(self._started, source)
        writer = self._sink.begin_layer(source.archive_name, source.size)
        source.write_to(writer)
        writer.close()
        self._observer.layer_written(self._started, source)
        self._open.append((source, writer))
        while self._open and self._open[0][1].is_hashed():
            self._complete_oldest()

    def complete(self) -> list[Layer]:
        """The record of all that was written so far; waits for it."""
        while self._open:
            self._complete_oldest()
        return self.layers

    def _complete_oldest(self) -> None:
        source, writer = self._open.popleft()
        self.layers.append(source.record(writer.complete()))
        self._observer.layer_completed(len(self.layers), self.layers[-1])


def _write_layers(
    sources: Sequence[Callable[[], SourceLayer]],
    base: BaseImage | None,
    sink: DockerArchive,
    observer: Observer,
) -> list[Layer]:
    """Write every layer, the base image's before what `sources` make. Returns them bottom
    to top.
    """
    writing = LayerWriting(sink, observer)
    below: list[Layer] = []
    if base is not None:
        for layer in base.sources(carry_compressed=sink.carries_compressed):
            writing.write(layer)
        below = base.in_order(writing.complete())
    written = len(writing.layers)
    known = {layer.diff_id: layer for layer in below}
    repeated: dict[int, Layer] = {}  # ours that the base has already, by their place
    count = 0
    with closing(Ahead(sources)) as ahead:
        for count, source in enumerate(ahead, 1):
            if source.expected in known:
                repeated[count] = replace(known[source.expected], comment=source.comment)
            else:
                writing.write(source)
    ours = iter(writing.complete()[written:])
    return below + [repeated.get(place) or next(ours) for place in range(1, count + 1)]


# dockerd's limit for the layers of one image; overlay file systems take three more
MAX_LAYERS = 125


def write_image(  # noqa: PLR0913 — the options of the command, each of its own
    conf: ImageConf,
    output: int | BinaryIO,
    observer: Observer | None = None,
    *,
    archive_format: ArchiveFormat = "docker-archive",
    compression: Compression = UNCOMPRESSED,
    threads: int | None = None,
) -> Image:
    """Write the image of `conf` to a file descriptor or binary file object, compressed
    by as many `threads` (default: all cores).

    Returns the record of what was written. Raises SourceError, ArchiveError,
    DigestMismatch or OutputError; then the archive has no `manifest.json` and no
    trailer, and its reader sees that it is cut short. `output` is not closed.
    """
    observer = observer or Observer()
    with ExitStack() as stack:
        base = stack.enter_context(opened_base(conf))
        if base is not None:
            if base.architecture != conf.architecture:
                observer.warning(
                    f"the base image is for {base.architecture}, this one for {conf.architecture}"
                )
            conf = base.without_held(conf)
        top = stack.enter_context(customisation.opened(conf, base, observer.warning))
        sources = _sources(conf, top)
        fd = stack.enter_context(_descriptor(output))
        fd = stack.enter_context(compressed(fd, compression, threads=threads))
        sink = stack.enter_context(ARCHIVE_FORMATS[archive_format](fd, conf))
        if conf.annotations and not sink.carries_annotations:
            observer.warning(f"annotations: {archive_format} has no place for them, left out")
        total = len(sources) + (len(base.layers) if base else 0)
        if total > MAX_LAYERS:
            observer.warning(
                f"{total} layers: docker takes at most {MAX_LAYERS}, podman and buildah 128"
            )
        written = len(sources) + (base.distinct_layer_count() if base else 0)
        observer.started(written, partial(_sizes, sources, base), lambda: sink.position)
        image = sink.finish(
            _write_layers(sources, base, sink, observer), base.document if base else None
        )
    observer.finished(image)
    return image


def _sizes(
    sources: Sequence[Callable[[], SourceLayer]], base: BaseImage | None
) -> Iterator[int | None]:
    if base is not None:
        yield from base.sizes()
    for make in sources:
        yield make().size


def _write_all(output: BinaryIO, data: bytes) -> None:
    """Write all of `data`: a raw object may take a part, or nothing yet (None)."""
    rest = memoryview(data)
    while rest:
        rest = rest[output.write(rest) or 0 :]


@contextmanager
def _descriptor(output: int | BinaryIO) -> Iterator[int]:
    """A file descriptor whose bytes reach `output`: its own where it has one,
    else a pipe that a thread empties into it.
    """
    if isinstance(output, int):
        yield output
        return
    # Of these alone the descriptor is where their bytes go: others have one too
    # (gzip.GzipFile) and do more than write to it.
    if isinstance(output, (io.FileIO, io.BufferedWriter, io.BufferedRandom)):
        output.flush()
        yield output.fileno()
        return

    read_end, write_end = os.pipe()
    failure: list[BaseException] = []

    def pump() -> None:
        with open(read_end, "rb", buffering=0) as pipe:
            try:
                while data := pipe.read(1 << 18):
                    _write_all(output, data)
            except BaseException as error:  # noqa: BLE001 — raised again below
                failure.append(error)

    thread = threading.Thread(target=pump, name="pump", daemon=True)
    thread.start()
    try:
        yield write_end
    except OutputError:
        # The pump closed its end because the object failed: that is the cause.
        os.close(write_end)
        write_end = -1
        thread.join()
        if failure:
            raise failure[0] from None
        raise
    finally:
        if write_end >= 0:
            os.close(write_end)
            thread.join()
    if failure:
        raise failure[0]

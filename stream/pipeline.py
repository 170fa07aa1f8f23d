"""The way of an image: sources, in order, into a sink. The only orchestrator.

Knows neither argv, nor JSON keys, nor header bytes.
"""

from __future__ import annotations

import os
import threading
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager
from functools import partial
from typing import BinaryIO, Protocol

from stream.errors import DigestMismatch, OutputError
from stream.model import Digest, Image, ImageConf, Layer
from stream.sinks.docker_archive import DockerArchive
from stream.sources import customisation, store
from stream.tarwriter import LayerWriter


class LayerSource(Protocol):
    """A layer whose size is known and whose bytes are to come. If `expected` is
    set, the bytes must have that digest.
    """

    @property
    def archive_name(self) -> str: ...
    @property
    def size(self) -> int: ...
    @property
    def comment(self) -> str: ...
    @property
    def entry_count(self) -> int: ...
    @property
    def expected(self) -> Digest | None: ...
    def write_to(self, layer: LayerWriter) -> None: ...


class Observer:
    """Is told what happens while an image is written; does nothing by itself."""

    def started(self, conf: ImageConf, layers: int, position: Callable[[], int]) -> None:
        """`layers` will be written; `position()` is the archive's bytes so far."""

    def layer_started(self, number: int, source: LayerSource) -> None:
        """Layer `number`, from 1, begins."""

    def layer_written(self, number: int, source: LayerSource) -> None:
        """All bytes of layer `number` are on their way."""

    def layer_completed(self, number: int, layer: Layer) -> None:
        """Layer `number` has its digest."""

    def finished(self, image: Image) -> None:
        """The archive is complete."""


def _sources(conf: ImageConf) -> list[Callable[[], LayerSource]]:
    """What makes each layer's source, bottom to top: called when its turn comes,
    so that only the metadata at hand is in memory.
    """
    makers: list[Callable[[], LayerSource]] = [
        partial(store.walk, conf, plan) for plan in conf.store_layers
    ]
    if conf.customisation_layer:
        makers.append(partial(customisation.ready_layer, conf.customisation_layer))
    return makers


class _Ahead:
    """Makes sources in the background, in order, ahead of the writing by a
    bounded number of entries: walking costs the writing no time, and memory does
    not grow with the image.

    The thread is a daemon: a run that fails does not wait for a walk nobody
    needs any more.
    """

    MAX_ENTRIES = 16_384  # some 2 MB

    def __init__(self, makers: Sequence[Callable[[], LayerSource]]) -> None:
        self._makers = makers
        self._made: deque[LayerSource | BaseException] = deque()
        self._entries = 0
        self._closed = False
        self._changed = threading.Condition()
        threading.Thread(target=self._run, name="walk-ahead", daemon=True).start()

    def _run(self) -> None:
        for make in self._makers:
            with self._changed:
                self._changed.wait_for(lambda: self._closed or self._entries < self.MAX_ENTRIES)
                if self._closed:
                    return
            made: LayerSource | BaseException
            try:
                made = make()
                count = made.entry_count
            except BaseException as error:  # noqa: BLE001 — raised again in __iter__
                made, count = error, self.MAX_ENTRIES
            with self._changed:
                self._made.append(made)
                self._entries += count
                self._changed.notify_all()

    def __iter__(self) -> Iterator[LayerSource]:
        for _ in self._makers:
            with self._changed:
                self._changed.wait_for(lambda: self._made)
                made = self._made.popleft()
                if isinstance(made, BaseException):
                    raise made
                self._entries -= made.entry_count
                self._changed.notify_all()
            yield made

    def close(self) -> None:
        """Make no more."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()


def _complete(source: LayerSource, writer: LayerWriter) -> Layer:
    diff_id = writer.complete()
    if source.expected is not None and diff_id != source.expected:
        raise DigestMismatch(source.comment, source.expected, diff_id)
    return Layer(
        archive_name=source.archive_name,
        diff_id=diff_id,
        size=source.size,
        comment=source.comment,
    )


def _write_layers(conf: ImageConf, sink: DockerArchive, observer: Observer) -> list[Layer]:
    """Write every layer. A layer is completed when its hashing has caught up,
    which never holds up the writing.
    """
    layers: list[Layer] = []
    open_layers: deque[tuple[LayerSource, LayerWriter]] = deque()

    def complete_oldest() -> None:
        layers.append(_complete(*open_layers.popleft()))
        observer.layer_completed(len(layers), layers[-1])

    with closing(_Ahead(_sources(conf))) as sources:
        for number, source in enumerate(sources, 1):
            observer.layer_started(number, source)
            writer = sink.begin_layer(source.archive_name, source.size)
            source.write_to(writer)
            writer.close()
            observer.layer_written(number, source)
            open_layers.append((source, writer))
            while open_layers and open_layers[0][1].is_hashed():
                complete_oldest()
    while open_layers:
        complete_oldest()
    return layers


def write_image(conf: ImageConf, output: int | BinaryIO, observer: Observer | None = None) -> Image:
    """Write the image of `conf` to a file descriptor or binary file object.

    Returns the record of what was written. Raises SourceError, DigestMismatch
    or OutputError; then the archive has no manifest and no trailer, and nothing
    loads it. `output` is not closed.
    """
    observer = observer or Observer()
    with _descriptor(output) as fd, DockerArchive(fd, conf) as sink:
        layer_count = len(conf.store_layers) + (conf.customisation_layer is not None)
        observer.started(conf, layer_count, lambda: sink.position)
        image = sink.finish(_write_layers(conf, sink, observer))
    observer.finished(image)
    return image


def measure(conf: ImageConf) -> Iterator[int]:
    """The size of each layer in bytes, bottom to top, from metadata alone."""
    for make in _sources(conf):
        yield make().size


@contextmanager
def _descriptor(output: int | BinaryIO) -> Iterator[int]:
    """A file descriptor whose bytes reach `output`: its own where it has one,
    else a pipe that a thread empties into it.
    """
    if isinstance(output, int):
        yield output
        return
    try:
        fd = output.fileno()
    except (AttributeError, OSError):
        pass
    else:
        output.flush()
        yield fd
        return

    read_end, write_end = os.pipe()
    failure: list[BaseException] = []

    def pump() -> None:
        with open(read_end, "rb", buffering=0) as pipe:
            try:
                while data := pipe.read(1 << 18):
                    output.write(data)
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

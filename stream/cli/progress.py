"""Progress, warnings and errors on stderr: for a person, a log or a program.

Receives the observer's events. Must not know where they come from.
"""

from __future__ import annotations

import io
import os
import threading
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import IO, TYPE_CHECKING, Any, cast

from stream.cli.output import printable_json, say, write_error
from stream.errors import StreamImageError, ThreadError
from stream.model import Blob, Digest, Image, Layer, Loaded, Passage, Pushed
from stream.observer import Observer, Sizes
from stream.text import one_line
from stream.threads import starting
from stream.values import replace

if TYPE_CHECKING:
    from rich.progress import Progress, TaskID

MODES = ("auto", "bar", "plain", "json", "none")
REFRESH_SECONDS = 0.1
MAX_COMMENT = 80  # characters, of a layer
# Columns of a terminal:
_WIDTH_FOR_RATE = 55  # "layer 10/100 123.4 MB of 123.4 MB  123.4 MB/s 1:23:45"
_MIN_BAR, _MAX_BAR = 10, 40


def readable_size(size: float) -> str:
    """Return `size`, in bytes, in decimal units: `12.3 MB`."""
    for unit in ("B", "kB", "MB", "GB"):
        if size < 1000:
            return f"{size:.0f} B" if unit == "B" else f"{size:.1f} {unit}"
        size /= 1000
    return f"{size:.1f} TB"


def _image_line(image: Image) -> str:
    layers = "1 layer" if len(image.layers) == 1 else f"{len(image.layers)} layers"
    manifest = f", manifest {image.manifest.digest}" if image.manifest else ""
    return f"{' '.join(image.repo_tags) or 'untagged'} {image.image_id}: {layers}{manifest}"


def _platform_line(platform: str, image: Image) -> str:
    """Return the line for one image of an index."""
    return _image_line(replace(image, repo_tags=(platform,)))


_PASSAGES: tuple[Passage, ...] = ("sent", "mounted", "held")
_REHEARSED: dict[Passage, str] = {"sent": "would send", "mounted": "would mount", "held": "held"}


def _word(passage: Passage, *, rehearsed: bool) -> str:
    """Return the word for how something came where it is, or would in a dry run."""
    return _REHEARSED[passage] if rehearsed else passage


def _moved(noun: str, totals: Iterable[tuple[Passage, tuple[int, int]]], *, rehearsed: bool) -> str:
    """Return the words for how many of what a `noun` names came how, with their size in bytes."""
    parts = ["dry run"] if rehearsed else []
    for passage, (number, size) in totals:
        word = _word(passage, rehearsed=rehearsed)
        if number:
            what = f"1 {noun}" if number == 1 else f"{number} {noun}s"
            parts.append(f"{word} {what} ({readable_size(size)})")
        elif passage == "sent":
            parts.append(f"{word} nothing")
    return ", ".join(parts)


def _pushed_line(pushed: Pushed) -> str:
    """Return the line for an image in a registry, with how its blobs came there."""
    totals = [(passage, pushed.total(passage)) for passage in _PASSAGES]
    what = _image_line(pushed.image)
    if len(pushed.images) > 1:
        named = " ".join(pushed.image.repo_tags)
        what = f"{named} {pushed.digest}: index of {len(pushed.images)} images"
    if pushed.sboms:
        what += ", with SBOM" if len(pushed.sboms) == 1 else f", with {len(pushed.sboms)} SBOMs"
    return f"{what}, {_moved('blob', totals, rehearsed=pushed.rehearsed)}"


def _loaded_line(loaded: Loaded) -> str:
    """Return the line for an image in an engine, with how its layers came there."""
    totals: list[tuple[Passage, tuple[int, int]]] = [
        ("sent", loaded.total(held=False)), ("held", loaded.total(held=True)),
    ]  # fmt: skip
    moved = _moved("layer", totals, rehearsed=loaded.rehearsed)
    return f"{_image_line(loaded.image)}, in {loaded.engine}, {moved}"


class Reporter(Observer):
    """Messages and a final summary as plain lines, without progress."""

    rehearsing = False  # True for a run that shows what would be, and changes nothing
    count: int | None = None  # of many images, if it is known beforehand
    _image = 0  # the number of the one at hand, 0 if there is only one

    def __init__(self) -> None:
        self._start = time.monotonic()

    def warning(self, message: str) -> None:
        say(f"stream-image: warning: {message}")

    def error(self, message: str, _error: BaseException | None = None) -> None:
        for line in message.split("\n"):  # a conf may have several faults
            say(f"stream-image: {line}")

    def finished(self, *images: Image) -> None:
        *others, last = (_image_line(image) for image in images)
        for line in others:
            say(line)
        self._summary(last, images[-1].size)

    def image_started(self, number: int, name: str) -> None:
        self._image = number

    @property
    def _place(self) -> str:
        """Which of many images is at hand."""
        return f"image {self._image}" + (f"/{self.count}" if self.count else "")

    def image_failed(self, number: int, name: str, error: StreamImageError) -> None:
        text = str(error)
        self.error(text if text.startswith(name) else f"{name}: {text}", error)

    def all_pushed(
        self, pushed: int, failed: int, totals: Mapping[Passage, tuple[int, int]]
    ) -> None:
        images = f"pushed {pushed} of {pushed + failed} images"
        moved = _moved("blob", totals.items(), rehearsed=self.rehearsing)
        self._summary(f"{images}, {moved}", totals["sent"][1])

    def pushed(self, pushed: Pushed) -> None:
        if self._image:
            say(f"{self._place} {_pushed_line(pushed)}")
            return
        if pushed.rehearsed:
            passages = {blob.descriptor.digest: blob.passage for blob in pushed.blobs}
            self._say_what_would_move(pushed.images, passages)
        if len(pushed.images) > 1:
            for platform, image in zip(pushed.platforms, pushed.images, strict=True):
                say(_platform_line(platform, image))
        self._summary(_pushed_line(pushed), pushed.image.size)

    def _say_what_would_move(
        self, images: Sequence[Image], passages: dict[Digest, Passage]
    ) -> None:
        """Print a line for each layer, by its digest, that would not be held."""
        for image in images:
            for number, layer in enumerate(image.layers, 1):
                blob = layer.descriptor
                if (passage := passages.pop(blob.digest, "held")) != "held":
                    comment = one_line(layer.comment[:MAX_COMMENT])
                    place = f"layer {number}/{len(image.layers)}"
                    word = _word(passage, rehearsed=True)
                    say(f"{place} {readable_size(blob.size):>9} {word}  {comment}")

    def loaded(self, loaded: Loaded) -> None:
        if loaded.rehearsed:
            image = loaded.image
            passages: dict[Digest, Passage] = {
                layer.descriptor.digest: "sent"
                for layer in image.layers
                if layer.diff_id not in loaded.held
            }
            self._say_what_would_move([image], passages)
        self._summary(_loaded_line(loaded), loaded.image.size)

    def exported(self, entries: int, size: int) -> None:
        self._summary(f"{entries:,} entries", size)

    def _summary(self, what: str, size: int) -> None:
        seconds = max(time.monotonic() - self._start, 1e-6)
        rate = f" ({readable_size(size / seconds)}/s)" if size else ""
        moved = f"{readable_size(size)} " if size else ""
        say(f"{what}, {moved}in {seconds:.1f} s{rate}")

    def close(self) -> None:
        """Remove the bar from the screen. May be called more than once."""


class Quiet(Reporter):
    """Only warnings and errors."""

    def all_pushed(
        self, pushed: int, failed: int, totals: Mapping[Passage, tuple[int, int]]
    ) -> None:
        pass

    def finished(self, *images: Image) -> None:
        pass

    def pushed(self, pushed: Pushed) -> None:
        pass

    def loaded(self, loaded: Loaded) -> None:
        pass

    def exported(self, entries: int, size: int) -> None:
        pass


class Plain(Reporter):
    """For logs: one line for each layer, or for each of many images."""

    _layers: int

    def __init__(self) -> None:
        super().__init__()
        self._labels: dict[int, str] = {}
        self._blobs: dict[Digest, Blob] = {}  # in a registry

    def image_started(self, number: int, name: str) -> None:
        super().image_started(number, name)
        self._labels.clear()
        self._blobs.clear()

    def started(self, layers: int, sizes: Sizes, position: Callable[[], int]) -> None:
        self._layers = layers

    def layer_started(self, number: int, label: str, archive_name: str, size: int) -> None:
        self._labels[number] = label

    def blob_confirmed(self, blob: Blob) -> None:
        self._blobs[blob.descriptor.digest] = blob

    def _say_what_would_move(
        self, images: Sequence[Image], passages: dict[Digest, Passage]
    ) -> None:
        """Print nothing: each layer has a line."""

    def layer_held(self, number: int, layer: Layer) -> None:
        blob = self._blobs.get(layer.descriptor.digest)
        if blob is not None and blob.passage == "mounted":
            self.layer_completed(number, layer)
        self._labels.pop(number, None)

    def layer_completed(self, number: int, layer: Layer) -> None:
        if self._image:
            return
        passage = ""
        if blob := self._blobs.get(layer.descriptor.digest):
            word = _word(blob.passage, rehearsed=self.rehearsing)
            passage = f", {word} ({readable_size(blob.descriptor.size)})"
        say(
            f"layer {number}/{self._layers} {layer.diff_id[:19]} "
            f"{readable_size(layer.size):>9}  {self._labels.pop(number)}{passage}"
        )

    def answered(
        self, client: str, request: str, status: int, size: int | None, seconds: float
    ) -> None:
        sent = "broken off after" if size is None else f"{readable_size(size)} in"
        say(f"{client} {request}: {status}, {sent} {seconds:.2f} s")


def _image_event(platform: str, image: Image) -> dict[str, Any]:
    manifest = {"manifest": image.manifest.digest} if image.manifest else {}
    described = {"platform": platform, "image_id": image.image_id, "layers": len(image.layers)}
    return {**described, **manifest}


class JsonLines(Reporter):
    """For programs: one JSON object on each line; `event` is its kind (docs/progress.md)."""

    _layers: int
    _position: Callable[[], int]

    def _emit(self, event: str, **data: Any) -> None:
        seconds = round(time.monotonic() - self._start, 3)
        say(printable_json({"event": event, "seconds": seconds, **data}))

    def warning(self, message: str) -> None:
        self._emit("warning", message=message)

    def error(self, message: str, error: BaseException | None = None) -> None:
        kind = type(error).__name__ if isinstance(error, StreamImageError) else "Error"
        self._emit("error", kind=kind, message=message)

    def started(self, layers: int, sizes: Sizes, position: Callable[[], int]) -> None:
        self._layers, self._position = layers, position
        self._emit("start", layers=layers)

    def layer_started(self, number: int, label: str, archive_name: str, size: int) -> None:
        self._emit(
            "layer-start", layer=number, archive_name=archive_name, size=size,
            position=self._position(),
        )  # fmt: skip

    def layer_completed(self, number: int, layer: Layer) -> None:
        self._emit(
            "layer", layer=number, archive_name=layer.archive_name, size=layer.size,
            diff_id=layer.diff_id, position=self._position(),
        )  # fmt: skip

    def finished(self, *images: Image) -> None:
        for image in images:
            manifest = {"manifest": image.manifest.digest} if image.manifest else {}
            self._emit(
                "done", repo_tags=image.repo_tags, image_id=image.image_id,
                layers=len(image.layers), size=image.size, **manifest,
            )  # fmt: skip

    def blob_confirmed(self, blob: Blob) -> None:
        described = blob.descriptor
        self._emit("blob", passage=blob.passage, digest=described.digest, size=described.size)

    def layer_held(self, number: int, layer: Layer) -> None:
        self._emit("layer-held", layer=number, size=layer.size, diff_id=layer.diff_id)

    def image_started(self, number: int, name: str) -> None:
        self._emit("image-start", image=number, images=self.count, name=name)

    def image_failed(self, number: int, name: str, error: StreamImageError) -> None:
        kind = type(error).__name__
        self._emit("image-failed", image=number, name=name, kind=kind, message=str(error))

    def all_pushed(
        self, pushed: int, failed: int, totals: Mapping[Passage, tuple[int, int]]
    ) -> None:
        self._emit(
            "all-pushed", pushed=pushed, failed=failed, dry_run=self.rehearsing,
            **{name: {"blobs": count, "size": size} for name, (count, size) in totals.items()},
        )  # fmt: skip

    def loaded(self, loaded: Loaded) -> None:
        totals = {"sent": loaded.total(held=False), "held": loaded.total(held=True)}
        self._emit(
            "loaded", engine=loaded.engine, name=loaded.name, image_id=loaded.image.image_id,
            layers=len(loaded.image.layers), size=loaded.image.size, dry_run=loaded.rehearsed,
            **{name: {"layers": count, "size": size} for name, (count, size) in totals.items()},
        )  # fmt: skip

    def pushed(self, pushed: Pushed) -> None:
        totals = {passage: pushed.total(passage) for passage in _PASSAGES}
        self._emit(
            "pushed", reference=pushed.reference, tags=pushed.tags,
            image_id=pushed.image.image_id, layers=len(pushed.image.layers),
            images=[
                _image_event(platform, image)
                for platform, image in zip(pushed.platforms, pushed.images, strict=True)
            ],
            sboms=[one.digest for one in pushed.sboms],
            dry_run=pushed.rehearsed,
            **{name: {"blobs": count, "size": size} for name, (count, size) in totals.items()},
        )  # fmt: skip

    def exported(self, entries: int, size: int) -> None:
        self._emit("exported", entries=entries, size=size)

    def serving(self, *references: str) -> None:
        self._emit("serving", references=references)

    def answered(
        self, client: str, request: str, status: int, size: int | None, seconds: float
    ) -> None:
        self._emit(
            "answered", client=client, request=request, status=status, size=size,
            took=round(seconds, 3),
        )  # fmt: skip


class _Terminal(io.TextIOBase):
    """Standard error for rich. A terminal that is gone is not an error."""

    encoding = "utf-8"

    def write(self, text: str, /) -> int:
        write_error(text)
        return len(text)

    def isatty(self) -> bool:
        return True

    def fileno(self) -> int:
        return 2


class Bar(Reporter):
    """For terminals: layer n/N, bytes, rate, time left. The total size is measured in the
    background, from metadata, while the first layers are written. Layers that are held do not
    count. Of many images also: image n/N.
    """

    _measured: int | None = None  # the size of all layers
    _held: int = 0
    _has_rate = True

    def __init__(self) -> None:
        super().__init__()
        self._progress: Progress | None = None
        self._ended = threading.Event()
        self._thread: threading.Thread | None = None

    def started(self, layers: int, sizes: Sizes, position: Callable[[], int]) -> None:
        from rich.console import Console
        from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

        self._ended = threading.Event()  # writing may begin a second time, after a warning
        self._measured, self._held = None, 0
        self._layers = layers
        console = Console(file=cast(IO[str], _Terminal()))
        self._has_rate = console.width >= _WIDTH_FOR_RATE
        width = min(console.width - _WIDTH_FOR_RATE, _MAX_BAR)
        self._progress = Progress(
            TextColumn("{task.description}"),
            *([BarColumn(bar_width=width)] if width >= _MIN_BAR else []),
            TextColumn("{task.fields[moved]}"),
            TimeRemainingColumn(compact=True),
            console=console,
            transient=True,
            auto_refresh=False,
            redirect_stdout=False,
            redirect_stderr=False,
        )
        task = self._progress.add_task("", total=None, moved="")
        self._task = task
        self._progress.start()
        try:
            self._thread = _start("bar", self._refresh, self._progress, task, position)
            if not self._image:  # many images have layers in common, each of which is walked once
                _start("measure", self._measure, self._ended, sizes)
        except ThreadError:
            self.close()  # the image does not need the bar

    def _refresh(self, progress: Progress, task: TaskID, position: Callable[[], int]) -> None:
        while not self._ended.wait(REFRESH_SECONDS):
            total = None if self._measured is None else self._measured - self._held
            completed, rate = position(), progress.tasks[0].speed
            moved = readable_size(completed)
            if total is not None:
                moved += f" of {readable_size(total)}"
            if rate and self._has_rate:
                moved += f"  {readable_size(rate)}/s"
            progress.update(task, completed=completed, total=total, moved=moved, refresh=True)

    def _measure(self, ended: threading.Event, sizes: Sizes) -> None:
        total = 0
        try:
            for size in sizes():
                if size is None or ended.is_set():
                    return
                total += size
        except StreamImageError:
            return  # writing the layer meets the same error and reports it
        self._measured = total

    def layer_held(self, number: int, layer: Layer) -> None:
        self._held += layer.size

    def layer_started(self, number: int, label: str, archive_name: str, size: int) -> None:
        if self._progress:
            image = f"{self._place}, " if self._image else ""
            self._progress.update(self._task, description=f"{image}layer {number}/{self._layers}")

    def close(self) -> None:
        self._ended.set()
        if self._thread:
            self._thread.join()
            self._thread = None
        if self._progress:
            self._progress.stop()
            self._progress = None

    def warning(self, message: str) -> None:
        self.close()
        super().warning(message)

    def error(self, message: str, error: BaseException | None = None) -> None:
        self.close()
        super().error(message, error)

    def finished(self, *images: Image) -> None:
        self.close()
        super().finished(*images)

    def pushed(self, pushed: Pushed) -> None:
        self.close()
        super().pushed(pushed)

    def loaded(self, loaded: Loaded) -> None:
        self.close()
        super().loaded(loaded)

    def exported(self, entries: int, size: int) -> None:
        self.close()
        super().exported(entries, size)

    def serving(self, *references: str) -> None:
        self.close()


def _start(name: str, target: Callable[..., None], *args: object) -> threading.Thread:
    """Start a thread that does not keep the program running. Raises ThreadError."""
    thread = threading.Thread(name=name, target=target, args=args, daemon=True)
    with starting():
        thread.start()
    return thread


def reporter(mode: str, *, quiet: bool) -> Reporter:
    """Return the reporter for `--progress MODE` and `--quiet`."""
    if mode in ("auto", "bar"):
        # Even `bar` falls back: in a log it would be a heap of escape sequences.
        mode = "bar" if os.isatty(2) else "plain"
    if mode == "json":
        return JsonLines()
    if quiet:
        return Quiet()
    return {"bar": Bar, "plain": Plain, "none": Reporter}[mode]()

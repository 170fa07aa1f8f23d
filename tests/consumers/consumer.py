"""The interface of all consumers: they load an image from a pipe, list it, and may run it.

A consumer starts with a cold store: one that has held an image before hides faults of the next, because it skips
layers that it believes it has. Must not know how the archive that it loads is made.
"""

import subprocess
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from .isolation import Isolation
from .pipe import Ended, Stage, run_pipe


@dataclass(frozen=True, slots=True, kw_only=True)
class Loaded:
    """The consumer accepted the archive: the images that it now holds, and the exit of the producer, if any."""

    images: Mapping[str, str]
    """Image IDs (beginning with `sha256:`) by reference."""
    producer: Ended | None


class LoadError(Exception):
    """The consumer refused the archive."""

    def __init__(self, consumer: Ended, producer: Ended | None) -> None:
        """Keep the messages of both ends. A regular file has no producer."""
        super().__init__(
            f"{' '.join(consumer.argv)} ended with {consumer.status}: {consumer.stderr}"
        )
        self.consumer = consumer
        self.producer = producer


class Consumer(ABC):
    """A tool with a cold store, in the namespaces of one test."""

    programs: ClassVar[Sequence[str]]
    """The programs that must be installed."""
    filters: ClassVar[Sequence[Sequence[str]]] = ()
    """Commands between the producer and this consumer, for consumers that cannot read a plain pipe."""

    def __init__(self, isolation: Isolation) -> None:
        """Start with an empty store."""
        self.isolation = isolation
        self.environment: dict[str, str] = {}

    def load(self, producer: Sequence[str]) -> Loaded:
        """Load the archive that the producer writes to its standard output."""
        return self._load(Stage(argv=producer), *(Stage(argv=argv) for argv in self.filters))

    def load_unfiltered(self, producer: Sequence[str]) -> Loaded:
        """Load the archive that the producer writes, with no command in between."""
        return self._load(Stage(argv=producer))

    def load_file(self, archive: Path) -> Loaded:
        """Load a regular file, opened as standard input."""
        return self._load(source=archive)

    def image_id(self, tag: str) -> str | None:
        """Return the ID under which the image is held, or None if no usable image has that tag."""
        return self.images().get(self.reference(tag))

    def reference(self, tag: str) -> str:
        """Return the name that this consumer gives to an image with that tag."""
        return tag

    @abstractmethod
    def images(self) -> Mapping[str, str]:
        """Return the usable images in the store: image IDs by reference."""

    @abstractmethod
    def load_command(self) -> Sequence[str]:
        """Return the command that loads an archive from standard input."""

    def command(self, *argv: str) -> subprocess.CompletedProcess[str]:
        """Run a command of this consumer."""
        return self.isolation.run(argv, self.environment)

    def output(self, *argv: str) -> str:
        """Return the standard output of a command of this consumer, which must succeed."""
        ended = self.command(*argv)
        assert ended.returncode == 0, (
            f"{' '.join(argv)} ended with {ended.returncode}: {ended.stderr}"
        )
        return ended.stdout

    def _load(self, *before: Stage, source: Path | None = None) -> Loaded:
        load = self.isolation.stage(self.load_command(), self.environment)
        *earlier, consumer = run_pipe(*before, load, source=source)
        producer = earlier[0] if earlier else None
        if consumer.status != 0:
            raise LoadError(consumer, producer)
        return Loaded(images=self.images(), producer=producer)


class Runner(Consumer):
    """A consumer that also runs containers."""

    @abstractmethod
    def run(self, tag: str, *argv: str) -> subprocess.CompletedProcess[str]:
        """Run a container with the image's own command, unless another one is given."""


def pairs(listing: str) -> dict[str, str]:
    """Parse lines of an image ID and a reference."""
    split = (line.split(maxsplit=1) for line in listing.splitlines())
    return {reference: image_id for image_id, reference in split}

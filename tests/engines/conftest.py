"""Fixtures: a scripted docker with each of its stores, and an image to load into it."""

import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from remembered import Remembered
from support import Store

import stream

from .scripted import ScriptedDocker, running


class Watched(stream.Observer):
    """Keeps warnings."""

    def __init__(self) -> None:
        self.warnings: list[str] = []

    def warning(self, message: str) -> None:
        """Keep one."""
        self.warnings.append(message)


@dataclass(frozen=True, kw_only=True)
class Workshop:
    """A store with three layers, `a`, `b` and `c` from bottom to top, and what is known of them."""

    store: Store
    digests: Remembered = field(default_factory=Remembered)
    observer: Watched = field(default_factory=Watched)

    def conf(self) -> stream.ImageConf:
        """Return the image's conf."""
        return stream.load_conf(str(self.store.conf("a", "b", "c")))

    def change(self, name: str) -> None:
        """Give a layer another content."""
        path = self.store.path(name)
        path.write_bytes(path.read_bytes() + b"!")

    def load(self, docker: ScriptedDocker) -> stream.Loaded:
        """Load the image."""
        return stream.load(
            self.conf(), self.observer, engine="docker", host=docker.url,
            digests=self.digests,
        )  # fmt: skip


@pytest.fixture
def workshop(tmp_path: Path) -> Workshop:
    """Make the store."""
    store = Store.below(tmp_path)
    for name in ("a", "b", "c"):
        store.file(name, name.encode() * 1000)
    return Workshop(store=store)


@pytest.fixture(params=["classic", "containerd"])
def docker(request: pytest.FixtureRequest) -> Iterator[ScriptedDocker]:
    """Run a docker with each of its stores."""
    containerd = request.param == "containerd"
    with tempfile.TemporaryDirectory(prefix="d") as directory:
        version = "1.48" if containerd else "1.41"
        daemon = ScriptedDocker(socket=Path(directory, "s"), containerd=containerd, version=version)
        with running(daemon):
            yield daemon

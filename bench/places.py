"""Places to move images to: namespaces of their own, with a registry or an engine in them, all empty.

They are started as the tests of consumers start them. Knows what was used there; must not know what
is compared.
"""

from __future__ import annotations

import os
import shutil
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from bench.measure import CommandError, Run, run

_ROOT = Path(__file__).resolve().parents[1]
sys.path.append(str(_ROOT / "tests"))

from consumers.daemonless import Podman  # noqa: E402 — found only with the path above
from consumers.daemons import Containerd, Docker, Registry  # noqa: E402 — likewise
from consumers.isolation import Isolation, IsolationError, isolated  # noqa: E402 — likewise
from consumers.requirements import PATH  # noqa: E402 — likewise

_ENGINES: Mapping[str, type[Docker | Podman | Containerd]] = {
    "docker": Docker,
    "podman": Podman,
    "containerd": Containerd,
}
ENGINES = tuple(_ENGINES)
_TICKS = os.sysconf("SC_CLK_TCK")


@dataclass(frozen=True, slots=True, kw_only=True)
class Moved:
    """One run, with the bytes over loopback in both directions (0 through a Unix socket), the
    requests that the registry answered, and the processor time of what was running before.
    """

    run: Run
    network_bytes: int
    requests: int
    daemon_cpu_seconds: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """Namespaces in which commands find the registry at `address`, or the engine by `environment`.

    Caches and temporary files are in memory, and go with it.
    """

    isolation: Isolation
    address: str = ""
    environment: Mapping[str, str] = field(default_factory=dict)

    def move(self, argv: Sequence[str]) -> Moved:
        """Run a command here. Raises CommandError."""
        stage = self.isolation.stage(argv, self.environment)
        assert stage.environment is not None
        environment = [f"{name}={value}" for name, value in stage.environment.items()]
        before = self._used()
        done = run((("env", "-i", *environment, *stage.argv),))
        sent, requests, seconds = (
            now - then for now, then in zip(self._used(), before, strict=True)
        )
        return Moved(
            run=done,
            network_bytes=round(sent),
            requests=round(requests),
            daemon_cpu_seconds=seconds,
        )

    def forget(self) -> None:
        """Remove what commands have cached here: the registry or engine stays. Raises CommandError."""
        self.move(("rm", "-rf", "/run/home", "/var/lib/containers/cache"))

    def _used(self) -> tuple[float, float, float]:
        """Return the totals of bytes over loopback, requests and processor time."""
        counters = Path(f"/proc/{self.isolation.pid}/net/dev").read_text("ascii")
        received = counters.partition("lo:")[2].split()[0]
        log = self.isolation.logs / "docker-registry.log"
        answers = log.read_text(errors="replace").count("response completed") if self.address else 0
        return int(received), answers, sum(map(_seconds, self._processes()))

    def _processes(self) -> Iterator[Path]:
        inside = os.readlink(f"/proc/{self.isolation.pid}/ns/pid_for_children")
        for process in Path("/proc").glob("[0-9]*"):
            try:
                if os.readlink(process / "ns" / "pid") == inside:
                    yield process
            except OSError:
                continue  # it has ended


def _seconds(process: Path) -> float:
    """Return the processor time of a process and of its children that have ended."""
    try:
        fields = (process / "stat").read_text(errors="replace").rpartition(")")[2].split()
    except OSError:
        return 0
    return sum(map(int, fields[11:15])) / _TICKS


@contextmanager
def opened_registry() -> Iterator[Place]:
    """Start an empty registry. Raises CommandError."""
    with _opened(Registry.programs) as isolation:
        yield Place(isolation=isolation, address=Registry(isolation).address)


@contextmanager
def opened_engine(name: str) -> Iterator[Place]:
    """Start an engine without images, one of ENGINES. Raises CommandError."""
    start = _ENGINES[name]
    with _opened(start.programs) as isolation:
        engine = start(isolation)
        environment = {
            **engine.environment,
            "CONTAINERD_ADDRESS": "/run/containerd/grpc.sock",
            "CONTAINERD_NAMESPACE": "default",
        }
        yield Place(isolation=isolation, environment=environment)


@contextmanager
def _opened(programs: Sequence[str]) -> Iterator[Isolation]:
    if missing := [name for name in programs if not shutil.which(name, path=PATH)]:
        raise CommandError(f"not installed: {', '.join(missing)}")
    try:
        with tempfile.TemporaryDirectory(prefix="bench") as logs, isolated(Path(logs)) as isolation:
            yield isolation
    except IsolationError as error:
        raise CommandError(str(error)) from None

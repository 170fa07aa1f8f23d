"""Private mount, network, process and IPC namespaces for one test.

Everything that a consumer starts, mounts or writes disappears with them: loopback is the only network, `/run` is an
empty tmpfs, and `/etc`, `/opt` and `/var` are covered by temporary overlays. Must not know images, or which consumers
there are.
"""

import os
import secrets
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from .pipe import Stage

SECONDS: Final = 60
"""The time limit for a command. Ordinary ones take well under a second."""

_PATH: Final = "/usr/sbin:/usr/bin:/sbin:/bin:/usr/local/sbin:/usr/local/bin"
_HOLDER: Final = Path(__file__).with_name("holder.py")


class IsolationError(Exception):
    """The machine or the user does not support the namespaces."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Isolation:
    """Namespaces that exist as long as the process that made them."""

    pid: int
    logs: Path
    cgroup: str
    """The name of the top-level cgroup for consumers, which is removed at the end."""
    daemons: list[subprocess.Popen[bytes]] = field(default_factory=list)

    def path(self, inside: str) -> Path:
        """Return the path of a file in the namespaces for the test outside."""
        return Path(f"/proc/{self.pid}/root{inside}")

    def directory(self, inside: str) -> str:
        """Create a directory with its parents, and return its path."""
        self.path(inside).mkdir(parents=True, exist_ok=True)
        return inside

    def stage(self, argv: Sequence[str], environment: Mapping[str, str] | None = None) -> Stage:
        """Return a command that runs inside, without the caller's environment."""
        # Not the namespaces of unshare's child, whose process ID is not known, but those that unshare made for it.
        enter = (
            f"--target={self.pid}",
            "--mount",
            "--net",
            "--ipc",
            f"--pid=/proc/{self.pid}/ns/pid_for_children",
        )
        base = {
            "PATH": _PATH,
            "LANG": "C.UTF-8",
            "HOME": self.directory("/run/home"),
            "TMPDIR": self.directory("/run/tmp"),
        }
        return Stage(
            argv=("nsenter", *enter, "--", *argv), environment=base | dict(environment or {})
        )

    def run(
        self, argv: Sequence[str], environment: Mapping[str, str] | None = None
    ) -> subprocess.CompletedProcess[str]:
        """Run a command inside and wait for it."""
        stage = self.stage(argv, environment)
        return subprocess.run(
            stage.argv,
            env=stage.environment,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            check=False,
            timeout=SECONDS,
        )

    def start(self, argv: Sequence[str], ready: Callable[[], bool]) -> Path:
        """Start a daemon inside, wait until it is ready, and return the file with its messages."""
        log = self.logs / f"{argv[0]}.log"
        stage = self.stage(argv)
        with log.open("wb") as output:
            daemon = subprocess.Popen(
                stage.argv,
                env=stage.environment,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
            )
        self.daemons.append(daemon)
        deadline = time.monotonic() + SECONDS
        while not ready():
            if daemon.poll() is not None or time.monotonic() > deadline:
                message = f"{argv[0]} did not start:\n{log.read_text(errors='replace')}"
                raise RuntimeError(message)
            time.sleep(0.02)
        return log


@contextmanager
def isolated(logs: Path) -> Iterator[Isolation]:
    """Make the namespaces; afterwards end all processes in them."""
    if os.geteuid() != 0:
        message = "consumers run in namespaces that only root can make"
        raise IsolationError(message)
    unshare = (
        "unshare",
        "--mount",
        "--net",
        "--pid",
        "--ipc",
        "--fork",
        "--mount-proc",
        "--kill-child",
    )
    cgroup = f"stream-image-{secrets.token_hex(4)}"
    holder = subprocess.Popen(
        [*unshare, sys.executable, "-I", "-S", str(_HOLDER), cgroup],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    assert holder.stdin is not None
    assert holder.stdout is not None
    assert holder.stderr is not None
    isolation = Isolation(pid=holder.pid, logs=logs, cgroup=cgroup)
    with holder:
        if holder.stdout.readline() != b"ready\n":
            message = f"no namespaces for consumers: {holder.stderr.read().decode(errors='replace').strip()}"
            raise IsolationError(message)
        try:
            yield isolation
        finally:
            # Process 1 of the namespaces ends at end of input, and ends all others first.
            holder.stdin.close()
            status = holder.wait(SECONDS)
            for daemon in isolation.daemons:
                daemon.wait(SECONDS)
            if status != 0:
                complaint = holder.stderr.read().decode(errors="replace")
                message = f"the namespaces were not cleared: {complaint}"
                raise RuntimeError(message)

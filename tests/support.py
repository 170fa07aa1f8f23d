"""Stores and confs made in one line, and `stream-image` as a process: its output pipe can be
stalled, and its standard streams can be replaced.

Knows only the command line, nothing of the package.
"""

import fcntl
import io
import json
import os
import select
import signal
import subprocess
import sys
import tarfile
import tempfile
import threading
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Self

COMMAND = (sys.executable, "-m", "stream")
MIB = 1 << 20
BALLAST = 32 * MIB  # more than the buffers between a file and the reader of the pipe hold
PATIENCE = 60.0  # seconds until a test gives up waiting, on a busy machine


@dataclass(frozen=True, slots=True, kw_only=True)
class Store:
    """A store directory, initially empty."""

    directory: Path

    @classmethod
    def below(cls, directory: Path) -> Self:
        """Make an empty store in `directory`."""
        path = directory / "store"
        path.mkdir()
        return cls(directory=path)

    def path(self, name: str) -> Path:
        """Return the path called `name`, or one below it."""
        return self.directory / name

    def file(self, name: str, content: bytes | int) -> Path:
        """Make a file with this content, or a sparse one of so many zeros."""
        path = self.path(name)
        path.parent.mkdir(parents=True, exist_ok=True)
        if isinstance(content, bytes):
            path.write_bytes(content)
        else:
            path.touch()
            os.truncate(path, content)
        return path

    def conf(self, *layers: Iterable[str], **more: object) -> Path:
        """Write a conf of these layers beside the store."""
        document = {
            "architecture": "amd64",
            "repo_tag": "test:1",
            "store_dir": str(self.directory),
            "store_layers": [[str(self.path(name)) for name in names] for names in layers],
            **more,
        }
        path = self.directory.parent / "conf.json"
        path.write_text(json.dumps(document), "utf-8")
        return path


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """The result of a run."""

    status: int
    stdout: bytes
    stderr: str


class Run:
    """A running `stream-image`. Its standard output is a pipe that is read only on request; its
    standard error is kept.
    """

    def __init__(
        self,
        *args: str | Path,
        prefix: Sequence[str] = (),
        env: Mapping[str, str] | None = None,
        stdout: int | None = None,
        command: Sequence[str] = COMMAND,
    ) -> None:
        self._received: list[bytes] = []
        self._stderr = tempfile.TemporaryFile()  # noqa: SIM115 — closed in __exit__
        self._pipe, write_end = os.pipe()
        fcntl.fcntl(write_end, fcntl.F_SETPIPE_SZ, 4096)
        self.process = subprocess.Popen(
            [*prefix, *command, *map(str, args)],
            stdin=subprocess.DEVNULL,
            stdout=write_end if stdout is None else stdout,
            stderr=self._stderr,
            env={**os.environ, **(env or {})},
        )
        os.close(write_end)
        self._watchdog = threading.Timer(PATIENCE, self.process.kill)
        self._watchdog.start()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._watchdog.cancel()
        self.process.kill()
        self.process.wait()
        self.close_pipe()
        self._stderr.close()

    def close_pipe(self) -> None:
        """Close the reader's end of the pipe."""
        if self._pipe >= 0:
            os.close(self._pipe)
            self._pipe = -1

    def read(self, count: int) -> None:
        """Receive `count` bytes of the archive."""
        while count and (data := os.read(self._pipe, min(count, MIB))):
            self._received.append(data)
            count -= len(data)

    def stall(self) -> None:
        """Let the program fill the pipe and block, as nobody reads it."""
        probe = os.open(f"/proc/self/fd/{self._pipe}", os.O_WRONLY | os.O_NONBLOCK)
        try:
            poll = select.poll()
            poll.register(probe, select.POLLOUT)
            until(lambda: not poll.poll(0) and self._sleeps())
        finally:
            os.close(probe)

    def _sleeps(self) -> bool:
        assert self.process.poll() is None, self.stderr()
        status = Path(f"/proc/{self.process.pid}/stat").read_text("ascii")
        return status.rpartition(")")[2].split()[0] == "S"

    def stderr(self) -> str:
        """Return the program's standard error so far."""
        self._stderr.seek(0)
        return self._stderr.read().decode()

    def finish(self) -> Outcome:
        """Receive the archive to its end and wait for the program to exit."""
        while data := os.read(self._pipe, MIB):
            self._received.append(data)
        return self.wait()

    def wait(self) -> Outcome:
        """Wait for the program to exit, without receiving more."""
        status = self.process.wait(PATIENCE)
        stdout = b"".join(self._received)
        return Outcome(status=status, stdout=stdout, stderr=self.stderr())

    def stopped_by(self, signum: signal.Signals) -> tuple[Outcome, float]:
        """Send a signal; return the outcome, and the seconds until the program exited."""
        start = time.monotonic()
        self.process.send_signal(signum)
        return self.wait(), time.monotonic() - start


def until(condition: Callable[[], object]) -> None:
    """Wait until `condition` holds."""
    deadline = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.002)


def unpack(tar: tarfile.TarFile, directory: Path) -> None:
    """Extract a tar that the tests made: Debian 12's Python has no argument for its filter."""
    tar.extraction_filter = lambda member, _: member
    tar.extractall(directory)


def members(archive: bytes) -> list[str]:
    """Return the members of a complete archive."""
    with tarfile.open(fileobj=io.BytesIO(archive)) as tar:
        names = tar.getnames()
    assert archive.endswith(bytes(1024))
    return names


def assert_unfinished(archive: bytes) -> None:
    """Check that the archive has no manifest, and is truncated at the end of a member or within one."""
    names, end = [], 0
    while end + 512 <= len(archive):
        info = tarfile.TarInfo.frombuf(archive[end : end + 512], "utf-8", "strict")
        names.append(info.name)
        end += 512 + (info.size + 511) // 512 * 512
    assert all(name.endswith("/layer.tar") for name in names), names


def assert_failed(outcome: Outcome, *said: str) -> None:
    """Check that the run failed, reported it in one line, and left nothing that can be loaded."""
    assert outcome.status == 1, outcome.stderr
    lines = outcome.stderr.splitlines()
    assert len(lines) == 1, outcome.stderr
    assert lines[0].startswith("stream-image: ")
    for words in said:
        assert words in lines[0]
    assert_unfinished(outcome.stdout)


def leftovers(directory: Path) -> list[str]:
    """Return the files in a directory, including hidden ones."""
    return sorted(os.listdir(directory))

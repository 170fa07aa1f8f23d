"""`stream-image` as a program that runs to its end, many times faster than from a shell.

Knows only how to start it. `support.Run` is for a program that a test interferes with.
"""

import atexit
import marshal
import os
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Mapping, Sequence
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import Any

from support import COMMAND

_PREFIX = len(COMMAND)
_OPTIONS = {
    *("input", "stdin", "stdout", "stderr", "capture_output"),
    *("check", "timeout", "cwd", "env"),
}
# Beginnings of names that the interpreter or the loader reads when a program starts.
_READ_AT_START = (b"PYTHON", b"LC_", b"LANG", b"LD_", b"MALLOC", b"TZ", b"COVERAGE")
_PATIENCE = 120.0  # seconds, where a test names none


def run(
    argv: Sequence[str | bytes | os.PathLike[str]], **options: Any
) -> "subprocess.CompletedProcess[bytes]":
    """Do as `subprocess.run` does, but let a process that has done its imports run COMMAND.

    A test can tell no difference: it has its own process, environment and standard streams.
    Where it could, by other options or by variables that matter when an interpreter starts, a
    new interpreter runs the program, as it does any other program.
    """
    environment = _in_bytes(options["env"]) if options.get("env") else dict(os.environb)
    if (
        (*argv[:_PREFIX],) == COMMAND
        and _OPTIONS.issuperset(options)
        and _at_start(environment) == _server().environment
    ):
        return _run_forked(argv, environment, options)
    options.setdefault("check", False)
    return subprocess.run(argv, **options)  # noqa: PLW1510 — it is an option


def _run_forked(
    argv: Sequence[str | bytes | os.PathLike[str]],
    environment: Mapping[bytes, bytes],
    options: Mapping[str, Any],
) -> "subprocess.CompletedProcess[bytes]":
    captured = subprocess.PIPE if options.get("capture_output") else None
    streams = []
    readers: list[_Reader | None] = []
    if options.get("input") is not None:
        read_end, write_end = os.pipe()
        streams.append(read_end)
        _Feeder(write_end, options["input"])
    else:
        streams.append(_duplicate(options.get("stdin"), 0))
    for number, name in ((1, "stdout"), (2, "stderr")):
        target = options.get(name, captured)
        reader = None
        if target == subprocess.PIPE:
            read_end, write_end = os.pipe()
            streams.append(write_end)
            reader = _Reader(read_end)
        elif target == subprocess.STDOUT:
            streams.append(os.dup(streams[1]))
        else:
            streams.append(_duplicate(target, number))
        readers.append(reader)
    timeout = options.get("timeout") or _PATIENCE
    request = (
        [*map(os.fsencode, argv[_PREFIX:])],
        os.path.join(os.getcwdb(), os.fsencode(options.get("cwd") or "")),
        environment,
    )
    try:
        status = _server().run(request, streams, timeout)
    except TimeoutError:
        raise subprocess.TimeoutExpired(argv, timeout) from None
    output: list[Any] = [reader.result() if reader else None for reader in readers]
    done = subprocess.CompletedProcess(argv, status, *output)
    if options.get("check"):
        done.check_returncode()
    return done


def _in_bytes(environment: Mapping[Any, Any]) -> dict[bytes, bytes]:
    return {os.fsencode(name): os.fsencode(value) for name, value in environment.items()}


def _at_start(environment: Mapping[bytes, bytes]) -> dict[bytes, bytes]:
    return {name: environment[name] for name in environment if name.startswith(_READ_AT_START)}


def _duplicate(target: Any, number: int) -> int:
    """Return a descriptor of what `subprocess` would use for `target`, None being our own."""
    if target == subprocess.DEVNULL:
        return os.open(os.devnull, os.O_RDWR)
    if target is None:
        return os.dup(number)
    return os.dup(target if isinstance(target, int) else target.fileno())


class _Feeder(threading.Thread):
    """Writes to a pipe as long as somebody reads it, and closes it."""

    def __init__(self, fd: int, data: bytes) -> None:
        super().__init__(daemon=True)
        self._fd = fd
        self._data = data
        self.start()

    def run(self) -> None:
        with suppress(BrokenPipeError), open(self._fd, "wb", buffering=0) as pipe:
            view = memoryview(self._data)
            while view:
                view = view[pipe.write(view) :]


class _Reader(threading.Thread):
    """Reads a pipe to its end, and closes it."""

    def __init__(self, fd: int) -> None:
        super().__init__(daemon=True)
        self._fd = fd
        self._data = b""
        self.start()

    def run(self) -> None:
        with open(self._fd, "rb") as pipe:
            self._data = pipe.read()

    def result(self) -> bytes:
        self.join()
        return self._data


class _Server:
    """The process of `forkserver`, which ends with this one."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self.environment = _at_start(os.environb)
        self._socket, theirs = socket.socketpair()
        with theirs:
            self._process = subprocess.Popen(
                [sys.executable, str(Path(__file__).with_name("forkserver.py"))],
                stdin=theirs.fileno(),
                stdout=subprocess.DEVNULL,
            )
        atexit.register(self._stop)

    def _stop(self) -> None:
        self._socket.close()
        self._process.wait()

    def run(self, request: tuple[Any, ...], streams: Sequence[int], timeout: float) -> int:
        """Run a process with these standard streams, and close them here. Return its status.

        Raises TimeoutError once it has killed a process that takes longer than `timeout` seconds.
        """
        data = marshal.dumps(request)
        with self._lock:
            try:
                socket.send_fds(self._socket, [len(data).to_bytes(8, "little")], streams)
            finally:
                for fd in streams:
                    os.close(fd)
            self._socket.sendall(data)
            process = self._receive()
            self._socket.settimeout(timeout)
            try:
                return self._receive()
            except TimeoutError:
                os.kill(process, signal.SIGKILL)
                self._socket.settimeout(None)
                self._receive()
                raise
            finally:
                self._socket.settimeout(None)

    def _receive(self) -> int:
        data = self._socket.recv(8, socket.MSG_WAITALL)
        assert len(data) == 8, "the fork server has died"
        return int.from_bytes(data, "little", signed=True)


_server = cache(_Server)

"""The server of `commandline.run`: forks a process for each request, in which `stream-image` then
runs as it would in a new interpreter, which would spend 0.1 s on imports alone.

Its standard input is a socket. A request is the size of the rest, with the descriptors of the
three standard streams, then `marshal`'s form of arguments, working directory and environment, all
in bytes. The answer to each is the process's ID, then its exit status, once it has one: eight bytes
each.
"""

import atexit
import gc
import importlib
import marshal
import os
import pkgutil
import runpy
import socket
import sys
import threading
from typing import Any, NoReturn

import stream

RICH = ("rich.console", "rich.progress", "rich.table", "rich.text")


def _import_everything() -> None:
    """Import the package, and what it imports only when it is needed."""
    for module in pkgutil.walk_packages(stream.__path__, "stream."):
        if not module.name.endswith("__main__"):
            importlib.import_module(module.name)
    for name in ("deflate", "isal.igzip", "isal.isal_zlib", "pyzstd", "zstandard", *RICH):
        importlib.import_module(name)


class _Measured:
    """The lines that coverage counts, if it does.

    It takes each process 0.05 s to save them, several times what it runs for: a forked one gives its
    own to the server, which saves them all in the end.
    """

    def __init__(self) -> None:
        coverage = sys.modules.get("coverage")
        self._coverage: Any = coverage and coverage.Coverage.current()
        self._lines: dict[str, set[Any]] = self._coverage._collector.data if self._coverage else {}
        self._file = os.memfd_create("lines") if self._coverage else -1

    def begin(self) -> None:
        """Count from here on, in the forked process."""
        for lines in self._lines.values():
            lines.clear()
        if self._coverage:
            self._coverage._auto_save = False

    def give(self) -> None:
        """Give the lines to the server, as the last thing in the forked process."""
        if self._coverage:
            given = {name: lines for name, lines in self._lines.copy().items() if lines}
            os.write(self._file, marshal.dumps(given))

    def take(self) -> None:
        """Add what the process that has ended gave, if it did."""
        if self._coverage and (size := os.fstat(self._file).st_size):
            for name, lines in marshal.loads(os.pread(self._file, size, 0)).items():
                self._lines.setdefault(name, set()).update(lines)
            os.ftruncate(self._file, 0)
            os.lseek(self._file, 0, os.SEEK_SET)


def _become(arguments: list[bytes], directory: bytes, environment: dict[bytes, bytes]) -> None:
    """Make this process one that was started with these."""
    os.chdir(directory)
    os.environb.clear()
    os.environb.update(environment)
    sys.argv[:] = [stream.__name__, *map(os.fsdecode, arguments)]


def serve(requests: socket.socket, measured: _Measured) -> bool:
    """Answer requests. Returns twice: true in each forked process, false at the end."""
    while header := socket.recv_fds(requests, 8, 3):
        data, streams, _, _ = header
        if not data:
            return False
        size = int.from_bytes(data, "little")
        request = marshal.loads(requests.recv(size, socket.MSG_WAITALL))
        process = os.fork()
        if process == 0:
            measured.begin()
            requests.close()
            for target, fd in enumerate(streams):
                os.dup2(fd, target)
                os.close(fd)
            _become(*request)
            return True
        for fd in streams:
            os.close(fd)
        requests.sendall(process.to_bytes(8, "little"))
        status = os.waitstatus_to_exitcode(os.waitpid(process, 0)[1])
        measured.take()
        requests.sendall(status.to_bytes(8, "little", signed=True))
    return False


def _exit(status: object, measured: _Measured) -> NoReturn:
    """Exit as the interpreter does, except that it does not free each object: that costs more than
    a run of the program.
    """
    threading._shutdown()  # type: ignore[attr-defined]
    atexit._run_exitfuncs()
    try:
        sys.stdout.flush()
        sys.stderr.flush()
    except OSError:
        status = 120
    measured.give()
    os._exit(status if isinstance(status, int) else int(status is not None))


if __name__ == "__main__":
    _import_everything()
    gc.freeze()  # collections in the processes would copy its pages
    measured = _Measured()
    if serve(socket.socket(fileno=os.dup(0)), measured):
        try:
            runpy.run_module("stream", run_name="__main__", alter_sys=True)
        except SystemExit as exit_:
            _exit(exit_.code, measured)

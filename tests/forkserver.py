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
from typing import NoReturn

import stream

RICH = ("rich.console", "rich.progress", "rich.table", "rich.text")


def _import_everything() -> None:
    """Import the package, and what it imports only when it is needed."""
    for module in pkgutil.walk_packages(stream.__path__, "stream."):
        if not module.name.endswith("__main__"):
            importlib.import_module(module.name)
    for name in ("deflate", "isal.igzip", "isal.isal_zlib", "pyzstd", "zstandard", *RICH):
        importlib.import_module(name)


def _become(arguments: list[bytes], directory: bytes, environment: dict[bytes, bytes]) -> None:
    """Make this process one that was started with these."""
    os.chdir(directory)
    os.environb.clear()
    os.environb.update(environment)
    sys.argv[:] = [stream.__name__, *map(os.fsdecode, arguments)]


def serve(requests: socket.socket) -> bool:
    """Answer requests. Returns twice: true in each forked process, false at the end."""
    while header := socket.recv_fds(requests, 8, 3):
        data, streams, _, _ = header
        if not data:
            return False
        size = int.from_bytes(data, "little")
        request = marshal.loads(requests.recv(size, socket.MSG_WAITALL))
        process = os.fork()
        if process == 0:
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
        requests.sendall(status.to_bytes(8, "little", signed=True))
    return False


def _exit(status: object) -> NoReturn:
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
    os._exit(status if isinstance(status, int) else int(status is not None))


if __name__ == "__main__":
    _import_everything()
    gc.freeze()  # collections in the processes would copy its pages
    if serve(socket.socket(fileno=os.dup(0))):
        try:
            runpy.run_module("stream", run_name="__main__", alter_sys=True)
        except SystemExit as exit_:
            _exit(exit_.code)

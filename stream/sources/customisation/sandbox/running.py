"""A program that runs apart from us, with a request, a report, and output that we pass on.

Of our descriptors it has only pipes: through our standard error it could change the file that
this is. Its session is its own, and no signal that the caller ignores is ignored in it. Knows
neither what it runs nor what the report says.
"""

from __future__ import annotations

import fcntl
import os
import resource
import select
import selectors
import signal
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, closing, contextmanager, suppress
from io import FileIO

from stream.pipes import write_all
from stream.text import printable
from stream.values import dataclass

REPORT = 3  # the program's descriptor for the report
DATA = 4  # and that for data
MAX_REPORT = 1 << 28  # bytes
PATIENCE = 5.0  # seconds until a program that is no longer wanted is killed
_PIECE = 1 << 16
_SIGNALLED = 128
_FREE = 10  # descriptors from here on are none of the program's
_DEFAULT = frozenset(signal.valid_signals()) - {signal.SIGKILL, signal.SIGSTOP}


@dataclass(frozen=True, slots=True, kw_only=True)
class Ended:
    """How a program ended: its `report`, the last line of its output, and a description of its
    exit status. Unless it ended `orderly`, by itself and successfully, others may have written
    the report, and processes may still be ending.
    """

    report: bytes
    orderly: bool
    last_words: str
    description: str


def run(command: Sequence[str], environment: Mapping[str, str], request: str, data: bytes) -> Ended:
    """Run `command` with `request` as the first line of its standard input; the other end stays
    open for as long as the program is wanted. It can read `data`, which fits into a pipe, from
    the descriptor DATA. Its output and standard error go to our standard
    error once it has begun to report. However this ends, the program has ended, too. Raises
    OSError.
    """
    with (
        _pipe() as (theirs, ours), _pipe() as (output, said), _pipe() as (report, reported),
        _pipe() as (given, giving),
    ):  # fmt: skip
        giving.write(data)
        giving.close()
        pid = os.posix_spawnp(
            command[0], list(command), environment,
            file_actions=[
                *((os.POSIX_SPAWN_CLOSE, fd) for fd in _inherited()),
                *(
                    (os.POSIX_SPAWN_DUP2, file.fileno(), target)
                    for target, file in enumerate((theirs, said, said, reported, given))
                ),
            ],
            setsigmask=(), setsigdef=_DEFAULT, setsid=True,
        )  # fmt: skip
        try:
            for file in (theirs, said, reported, given):
                file.close()
            talk = _Talk(ours, output, report, request.encode("ascii") + b"\n")
            talk.hold()
        finally:
            ours.close()
            status, killed = _wait(pid)
        talk.pass_on_the_rest()
    lines = [line for line in bytes(talk.words).splitlines() if line.strip()]
    return Ended(
        report=bytes(talk.report),
        orderly=not killed and not status and len(talk.report) <= MAX_REPORT,
        last_words=printable(lines[-1].strip()) if lines else "",
        description=_describe(status),
    )


def _inherited() -> list[int]:
    """Return the descriptors that the caller of our program left to all its children. Those
    beyond the limit, which can be lowered later, no child is told to close: none inherits them
    any more.
    """
    found = []
    limit = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    for fd in map(int, os.listdir("/proc/self/fd")):
        with suppress(OSError):  # the one with which we listed them
            if os.get_inheritable(fd):
                if fd < limit:
                    found.append(fd)
                else:
                    os.set_inheritable(fd, False)  # noqa: FBT003 — its only parameter
    return found


@contextmanager
def _pipe() -> Iterator[tuple[FileIO, FileIO]]:
    """Make a pipe whose descriptors are none of a program's first."""
    with ExitStack() as stack:
        ends = []
        for fd, mode in zip(os.pipe(), ("rb", "wb"), strict=True):
            with closing(FileIO(fd, mode)):
                moved = fcntl.fcntl(fd, fcntl.F_DUPFD_CLOEXEC, _FREE)
            ends.append(stack.enter_context(FileIO(moved, mode)))
        yield ends[0], ends[1]


class _Talk:
    """What is sent to the program, and what it says. `words` is the end of its output, which is
    passed on once the report has begun.
    """

    def __init__(self, ours: FileIO, output: FileIO, report: FileIO, request: bytes) -> None:
        self.report = bytearray()
        self.words = bytearray()
        self._ours = ours
        self._output = output
        self._report = report
        self._left = memoryview(request)
        for file in (ours, output, report):
            os.set_blocking(file.fileno(), False)

    def hold(self) -> None:
        """Talk until the report ends, or gets too long."""
        with selectors.DefaultSelector() as selector:
            selector.register(self._ours, selectors.EVENT_WRITE)
            selector.register(self._output, selectors.EVENT_READ)
            selector.register(self._report, selectors.EVENT_READ)
            while self._report in selector.get_map() and len(self.report) <= MAX_REPORT:
                for key, _ in selector.select():
                    going_on = (
                        self._send() if key.fileobj is self._ours else self._take(key.fileobj)
                    )
                    if not going_on:
                        selector.unregister(key.fileobj)

    def _send(self) -> bool:
        """Send a piece of the request. Return False if it is complete, or not wanted."""
        with suppress(BlockingIOError):
            try:
                self._left = self._left[os.write(self._ours.fileno(), self._left[:_PIECE]) :]
            except BrokenPipeError:  # the program has ended: its report says why
                return False
        return bool(self._left)

    def _take(self, file: object) -> bool:
        """Take what the program says. Return False at the end."""
        assert isinstance(file, FileIO)
        piece = file.read(_PIECE)
        if piece is None:  # nothing there yet
            return True
        if file is self._report:
            if piece and not self.report:
                _pass_on(self.words)
            self.report += piece
        else:
            if self.report:
                _pass_on(piece)
            self.words += piece
            del self.words[:-_PIECE]
        return bool(piece)

    def pass_on_the_rest(self) -> None:
        """Pass on what the program said before it ended."""
        while self._take(self._output) and select.select([self._output], [], [], 0)[0]:
            pass


def _pass_on(data: bytes | bytearray) -> None:
    with suppress(OSError):  # nobody listens: no reason to fail
        write_all(2, data)


def _wait(pid: int) -> tuple[int | None, bool]:
    """Wait for our child; kill it if it takes too long. Return its wait status, or None if the
    system has forgotten it, as SIGCHLD is ignored; and True if it was killed.
    """
    begun = time.monotonic()
    killed = False
    with suppress(ChildProcessError):
        while True:
            ended, status = os.waitpid(pid, os.WNOHANG)
            if ended:
                return status, killed
            if not killed and time.monotonic() - begun > PATIENCE:
                os.kill(pid, signal.SIGKILL)
                killed = True
            time.sleep(0.002)
    return None, killed


def _describe(status: int | None) -> str:
    if status is None:
        return "ended without a report"
    code = os.waitstatus_to_exitcode(status)
    if code < 0 or code > _SIGNALLED:  # as a shell, and bubblewrap, report a signal
        number = -code if code < 0 else code - _SIGNALLED
        name = signal.Signals(number).name if number in set(signal.Signals) else str(number)
        return f"was killed by signal {name}"
    return f"ended with status {code}"

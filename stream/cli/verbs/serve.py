"""`stream-image serve`: a registry on this machine with the images of confs, made as they are
pulled.
"""

from __future__ import annotations

import argparse
import os
import signal
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import suppress
from typing import Any, Self

from stream.cli.options import (
    add_digest_arguments,
    add_sandbox_argument,
    add_tag_argument,
    given_digests,
    given_tag,
)
from stream.cli.output import say_lines
from stream.cli.planned import add_previous_arguments, given_confs, given_planning
from stream.cli.progress import Reporter
from stream.cli.usage import UsageError
from stream.text import one_line
from stream.tools.serve import LOOPBACK, serve

SUMMARY = "serve the images of confs from a registry on this machine"
DESCRIPTION = """\
Serve the images of confs from a registry on this machine that can only be read. A client fetches
the layers that it lacks; they are made from the store files as they are fetched, and staged
nowhere. Prints the name of each image, and serves until it is interrupted or CMD ends."""
EPILOG = """\
Examples: stream-image serve conf.json
          stream-image serve conf.json --run docker pull '$STREAM_IMAGE_REF'
          stream-image serve conf.json --run 'podman pull --tls-verify=false $STREAM_IMAGE_REF'
"""
HAS_PROGRESS = True

VARIABLE = "STREAM_IMAGE_REF"
NOT_STARTED, NOT_FOUND = 126, 127  # exit statuses, as of env(1)
_ENDING = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT)
_FROM_TERMINALS = (signal.SIGINT, signal.SIGQUIT)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the verb's own arguments."""
    parser.add_argument(
        "confs",
        metavar="CONF|SPEC",
        nargs="+",
        help="a conf, or a specification; - for standard input",
    )
    add_tag_argument(parser, "name:tag, replacing the conf's; of one CONF only")
    parser.add_argument(
        "--listen", metavar="ADDRESS:PORT", default=LOOPBACK,
        help=f"where to listen (default: {LOOPBACK}, a port that is free)",
    )  # fmt: skip
    parser.add_argument(
        "--allow-remote", action="store_true",
        help="allow an ADDRESS that other machines reach: whoever does can read the images",
    )  # fmt: skip
    add_previous_arguments(parser)
    add_digest_arguments(parser)
    add_sandbox_argument(parser)
    parser.add_argument(
        "--run", metavar="CMD", nargs=argparse.REMAINDER,
        help=f"run the rest of the command line with the image's name in ${VARIABLE}, and end with"
        " its exit status; a single word is a command line for sh",
    )  # fmt: skip


def run(args: argparse.Namespace, reporter: Reporter) -> int:
    """Serve. Raises StreamImageError."""
    if args.run == []:
        raise UsageError("--run: give the command to run after it")
    repo_tag = given_tag(args)
    if repo_tag is not None and len(args.confs) > 1:
        raise UsageError("--repo-tag: names one image, and there are several confs")
    digests = given_digests(args, reporter.warning)
    planning = given_planning(args, reporter, digests)
    confs = given_confs(args, args.confs, reporter, planning, repo_tag=repo_tag)
    with (
        serve(
            confs,
            reporter,
            listen=args.listen,
            allow_remote=args.allow_remote,
            digests=digests,
        ) as served,
        # Running transfers are completed after the first signal; the next one ends them as well.
        _Signals() as signals,
    ):
        if args.run is not None:
            return _run(args.run, served.references, signals, reporter)
        say_lines(served.references)
        return 128 + signals.wait()


def _run(
    words: Sequence[str], references: Sequence[str], signals: _Signals, reporter: Reporter
) -> int:
    """Run a command until it ends. Return its exit status."""
    value = " ".join(references)
    shell = ["/bin/sh", "-c", *words]
    words = shell if len(words) == 1 else [word.replace(f"${VARIABLE}", value) for word in words]
    try:
        process = subprocess.Popen(words, env={**os.environ, VARIABLE: value})  # noqa: S603 — the user gave the command
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else "contains a NUL character"
        reporter.error(one_line(f"--run: {words[0]}: cannot be started: {reason}"))
        return NOT_FOUND if isinstance(error, FileNotFoundError) else NOT_STARTED
    for signum in signals.arriving():
        if process.poll() is not None:
            break
        if signum != signal.SIGCHLD and not (signum in _FROM_TERMINALS and _is_in_foreground()):
            process.send_signal(signum)
    return process.returncode if process.returncode >= 0 else 128 - process.returncode


class _Signals:
    """Signals that ask for the end, and SIGCHLD: from now until the context ends they do nothing
    but arrive here.
    """

    def __init__(self) -> None:
        self._before: dict[int, Any] = {}

    def __enter__(self) -> Self:
        # A handler in Python can be too late for a call that waits: it runs between two
        # instructions. The number is written to the pipe at once.
        self._read_end, self._write_end = os.pipe()
        os.set_blocking(self._write_end, False)
        self._wakeup = signal.set_wakeup_fd(self._write_end, warn_on_full_buffer=False)
        for signum in (*_ENDING, signal.SIGCHLD):
            if signum == signal.SIGCHLD or signal.getsignal(signum) is not signal.SIG_IGN:
                self._before[signum] = signal.signal(signum, lambda *_: None)
        return self

    def __exit__(self, *exc_info: object) -> None:
        for signum, handler in self._before.items():
            signal.signal(signum, handler)
        signal.set_wakeup_fd(self._wakeup)
        os.close(self._read_end)
        os.close(self._write_end)

    def arriving(self) -> Iterator[int]:
        """Yield each signal, waiting for the next."""
        while True:
            yield from os.read(self._read_end, 64)

    def wait(self) -> int:
        """Wait for the first that asks for the end, and return it."""
        return next(signum for signum in self.arriving() if signum in _ENDING)


def _is_in_foreground() -> bool:
    """Return True if a terminal sends its signals to us, and so to a program that we started."""
    for fd in (0, 1, 2):
        with suppress(OSError):
            return os.tcgetpgrp(fd) == os.getpgrp()
    return False

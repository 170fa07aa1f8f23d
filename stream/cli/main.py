"""The command line: argv, exit statuses, signals, and what a person sees.

Exit status: 0 done, 1 failed, 2 bad usage or conf; 128 + n if signal n ended it.
Knows neither tar, nor JSON keys, nor hashes.
"""

from __future__ import annotations

import argparse
import importlib
import os
import signal
import sys
import traceback
from collections.abc import Sequence
from types import FrameType
from typing import Any, NoReturn

import stream
from stream.cli.output import hold_standard_descriptors
from stream.cli.progress import MODES, Reporter, reporter
from stream.errors import ConfError, ReaderClosedError, StreamImageError, UsageError

DONE, FAILED, BAD_USAGE = 0, 1, 2
MAX_WORD = 30

# Each is a module of stream.cli.verbs: DESCRIPTION, EPILOG, HAS_PROGRESS, add_arguments(parser)
# and run(args, reporter), which returns an exit status if it is not 0. What is no
# verb is the conf of the main job, `stream`.
VERBS = frozenset({"explain", "export", "inspect", "merge", "plan", "tarsum", "verify", "wrap"})


class _Stopped(BaseException):
    """A signal asks us to end."""

    def __init__(self, signum: int) -> None:
        self.signum = signum


_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


def _stop(signum: int, _frame: FrameType | None) -> None:
    # One is enough: the next would stop the stopping.
    if _SIGNALS[0] not in signal.pthread_sigmask(signal.SIG_BLOCK, _SIGNALS):
        raise _Stopped(signum)


class _Parser(argparse.ArgumentParser):
    """One whose errors are one line, like all others."""

    def error(self, message: str) -> NoReturn:
        self.exit(BAD_USAGE, f"stream-image: {message} ({self.prog} --help tells more)\n")


def main_parser(verb: str | None = None) -> argparse.ArgumentParser:
    """The parser of the command line: of `stream-image VERB`, or of the main job."""
    command = _command(verb)
    parser = _Parser(
        prog=f"stream-image {verb}" if verb else "stream-image",
        description=command.DESCRIPTION,
        epilog=command.EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    command.add_arguments(parser)
    if command.HAS_PROGRESS:
        parser.add_argument(
            "--progress", choices=MODES, default="auto", metavar="MODE",
            help="on stderr: auto (bar on a terminal, else plain), bar, plain, json, none",
        )  # fmt: skip
    else:
        parser.set_defaults(progress="none")
    parser.add_argument("-q", "--quiet", action="store_true", help="only warnings and errors")
    parser.add_argument("--debug", action="store_true", help="show a traceback with an error")
    parser.add_argument("--version", action="version", version=f"%(prog)s {stream.__version__}")
    return parser


def _meant(word: str) -> str | None:
    """The verb that `word`, which is none and no file, looks like."""
    if word.startswith("-") or os.path.lexists(word):
        return None
    from difflib import get_close_matches

    return next(iter(get_close_matches(word[:MAX_WORD], VERBS, n=1)), None)


def _command(verb: str | None) -> Any:
    """The module that carries out `verb`, imported when it is wanted."""
    return importlib.import_module(f"stream.cli.verbs.{verb or 'stream'}")


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line `argv` (default: the process's). Returns the exit status."""
    hold_standard_descriptors()
    argv = sys.argv[1:] if argv is None else argv
    verb = argv[0] if argv and argv[0] in VERBS else None
    parser = main_parser(verb)
    if verb is None and argv and (meant := _meant(argv[0])):
        parser.error(f"there is no file {argv[0]!r}: is '{parser.prog} {meant}' meant?")
    args = parser.parse_args(argv[1:] if verb else argv)
    for signum in _SIGNALS:
        if signal.getsignal(signum) is not signal.SIG_IGN:
            signal.signal(signum, _stop)
    report = reporter(args.progress, quiet=args.quiet)
    try:
        status: int | None = _command(verb).run(args, report)
    except _Stopped as stopped:
        report.close()
        return 128 + stopped.signum
    except ReaderClosedError:
        report.close()
        return FAILED
    except (StreamImageError, MemoryError) as error:
        return _failed(args, report, error, str(error) or "out of memory")
    except Exception as error:  # noqa: BLE001 — no traceback reaches a user
        message = f"internal error: {type(error).__name__}: {error} (--debug shows where)"
        return _failed(args, report, error, message)
    finally:
        report.close()
    return status or DONE


def _failed(args: argparse.Namespace, report: Reporter, error: BaseException, message: str) -> int:
    report.error(message, error)
    if args.debug:
        traceback.print_exception(error, file=sys.stderr)
    return BAD_USAGE if isinstance(error, (ConfError, UsageError)) else FAILED

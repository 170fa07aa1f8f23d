"""The command line: argv, exit statuses, signals, and what a person sees.

Exit status: 0 done, 1 failed, 2 bad usage or conf; 128 + n if signal n ended it.
Knows neither tar, nor JSON keys, nor hashes.
"""

from __future__ import annotations

import argparse
import signal
import sys
import traceback
from collections.abc import Sequence
from types import FrameType

import stream
from stream.commands import stream as stream_command
from stream.errors import ConfError, ReaderClosedError, StreamImageError, UsageError
from stream.progress import MODES, Reporter, reporter

DONE, FAILED, BAD_USAGE = 0, 1, 2


class _Stopped(BaseException):
    """A signal asks us to end."""

    def __init__(self, signum: int) -> None:
        self.signum = signum


def _stop(signum: int, _frame: FrameType | None) -> None:
    raise _Stopped(signum)


def main_parser() -> argparse.ArgumentParser:
    """The parser of the command line."""
    parser = argparse.ArgumentParser(
        prog="stream-image",
        description="Stream a container image, made from store paths in one pass.",
        epilog="Example: stream-image conf.json | docker load",
    )
    stream_command.add_arguments(parser)
    parser.add_argument(
        "--progress", choices=MODES, default="auto", metavar="MODE",
        help="on stderr: auto (bar on a terminal, else plain), bar, plain, json, none",
    )  # fmt: skip
    parser.add_argument("-q", "--quiet", action="store_true", help="only warnings and errors")
    parser.add_argument("--debug", action="store_true", help="show a traceback with an error")
    parser.add_argument("--version", action="version", version=f"%(prog)s {stream.__version__}")
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line `argv` (default: the process's). Returns the exit status."""
    args = main_parser().parse_args(argv)
    for signum in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        if signal.getsignal(signum) is not signal.SIG_IGN:
            signal.signal(signum, _stop)
    report = reporter(args.progress, quiet=args.quiet)
    try:
        stream_command.run(args, report)
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
    return DONE


def _failed(args: argparse.Namespace, report: Reporter, error: BaseException, message: str) -> int:
    report.error(message, error)
    if args.debug:
        traceback.print_exception(error, file=sys.stderr)
    return BAD_USAGE if isinstance(error, (ConfError, UsageError)) else FAILED

"""The command line: argv, exit statuses, signals, and messages for people.

Exit status: 0 success, 1 failure, 2 bad usage or conf; 128 + n when ended by signal n.
Must not know tar, JSON keys, hashes, or any one verb.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence

from stream.cli import verbs
from stream.cli.output import hold_standard_descriptors, say
from stream.cli.parsers import BAD_USAGE, closest, make_parser
from stream.cli.progress import Reporter, reporter
from stream.cli.signals import Stopped, StopSignals
from stream.cli.usage import UsageError
from stream.errors import (
    ArgumentError,
    ConfError,
    InstallationError,
    ReaderClosedError,
    StreamImageError,
)
from stream.text import one_line, printable

DONE, FAILED = 0, 1

_BAD_USAGE_ERRORS = (ArgumentError, ConfError, InstallationError, UsageError)


def _closest_verb(word: str) -> str | None:
    """Return the verb that `word` resembles, or None if it is an option or a file's name."""
    if word.startswith("-") or os.path.lexists(word):
        return None
    return closest(word, verbs.names())


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line `argv` (default: that of the process). Return the exit status."""
    try:
        with StopSignals() as signals:
            return _main(sys.argv[1:] if argv is None else argv, signals)
    except Stopped as stopped:
        return 128 + stopped.signum


def _main(argv: Sequence[str], signals: StopSignals) -> int:
    report, debug = Reporter(), False
    try:
        hold_standard_descriptors()
        verb, args = _read_arguments(argv)
        signals.catch()
        report, debug = reporter(args.progress, quiet=args.quiet), args.debug
        return verb.run(args, report) or DONE
    except ReaderClosedError:
        return FAILED
    except Exception as error:  # noqa: BLE001 — users never see a traceback
        report.error(_message(error), error)
        if debug:
            import traceback

            for text in traceback.format_exception(error):
                for line in text.splitlines():
                    say(line)
        return BAD_USAGE if isinstance(error, _BAD_USAGE_ERRORS) else FAILED
    finally:
        report.close()


def _read_arguments(argv: Sequence[str]) -> tuple[verbs.Verb, argparse.Namespace]:
    name = argv[0] if argv and argv[0] in verbs.names() else None
    verb = verbs.import_verb(name)
    parser = make_parser(name, verb)
    if name is None and argv and (meant := _closest_verb(argv[0])):
        parser.refuse(f"{argv[0]!r}: no such file; did you mean '{parser.prog} {meant}'?")
    args, unknown = parser.parse_known_args(argv[1:] if name else argv)
    if unknown:
        words = f"unrecognized arguments: {' '.join(unknown)}"
        late = (one for one in unknown if one in verbs.names() and not parser.has_option(one))
        if name is None and (one := next(late, None)):
            # An executable made by `wrap` puts its conf before the words that it is given.
            words = f"the verb comes first: write '{parser.prog} {one} {args.conf} …'"
        elif meant := parser.closest_option(unknown):
            parser.refuse(one_line(f"{words}; did you mean '{meant}'?"))
        parser.refuse(f"{one_line(words)}.")
    return verb, args


def _message(error: Exception) -> str:
    """Return the message for `error`: one line, or one for each fault of a conf."""
    match error:
        case ArgumentError():
            # The name of the argument means nothing to a person; the value is what was typed.
            return one_line(f"{error.value}: {error.reason}")
        case StreamImageError():
            return str(error)
        case MemoryError():
            return "out of memory"
        case OSError() if error.errno:
            # A failure of the system in a place that does not report it better.
            name = error.filename
            named = isinstance(name, (str, bytes))
            where = printable(os.fsencode(name)) if named else "a call to the system failed"
            return one_line(f"{where}: {error.strerror} (--debug shows where)")
        case ImportError():  # it needs memory and descriptors, too
            return one_line(f"cannot import a part of the program: {error}")
    text = f"{type(error).__name__}: {error}"
    return one_line(f"internal error: {text} (--debug shows the traceback)")

"""`stream-image help [VERB]`: print what `--help` prints."""

from __future__ import annotations

import argparse

from stream.cli import verbs
from stream.cli.parsers import closest, main_parser
from stream.cli.progress import Reporter
from stream.cli.usage import UsageError
from stream.text import one_line

SUMMARY = "print this help, or that of a verb"
DESCRIPTION = "Print the help of stream-image, or of a verb, as --help does."
EPILOG = """\
Example: stream-image help push
"""
HAS_PROGRESS = False


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the verb's own arguments."""
    parser.add_argument("verb", nargs="?", metavar="VERB")


def run(args: argparse.Namespace, _reporter: Reporter) -> None:
    """Print the help. Raises UsageError for an unknown verb, and OutputError."""
    names = verbs.names()
    if args.verb is not None and args.verb not in names:
        meant = closest(args.verb, names)
        hint = f"did you mean '{meant}'?" if meant else "'stream-image help' lists them"
        raise UsageError(one_line(f"{args.verb!r}: no such verb; {hint}"))
    main_parser(args.verb).print_help()

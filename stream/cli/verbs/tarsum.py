"""`stream-image tarsum`: Docker's checksum of a tar."""

from __future__ import annotations

import argparse
import os

from stream.archives.sequential import STANDARD_INPUT, Sequential
from stream.cli.output import say_text
from stream.cli.progress import Reporter
from stream.errors import UsageError
from stream.tools.tarsum import tarsum

DESCRIPTION = """\
Print the TarSum (version 1) of a tar on standard input, plain or compressed: a
checksum that depends neither on the order of the members nor on their times."""
EPILOG = """\
Example: stream-image tarsum < layer.tar
"""
HAS_PROGRESS = False


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Nothing but what all verbs have."""


def run(_args: argparse.Namespace, _reporter: Reporter) -> None:
    """Sum and say. Raises StreamImageError."""
    if os.isatty(0):
        raise UsageError(
            "standard input is a terminal: give it a tar, as in 'stream-image tarsum < layer.tar'"
        )
    say_text(tarsum(Sequential(0, STANDARD_INPUT).content()))

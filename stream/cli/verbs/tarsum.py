"""`stream-image tarsum`: print Docker's TarSum of a tar."""

from __future__ import annotations

import argparse
import os

from stream.cli.output import say_lines
from stream.cli.progress import Reporter
from stream.cli.usage import UsageError
from stream.tools.tarsum import tarsum

SUMMARY = "print Docker's TarSum of a tar on standard input"
DESCRIPTION = """\
Print the TarSum (version 1) of a tar on standard input, plain or compressed. This
checksum does not depend on the order of the members or their times."""
EPILOG = """\
Example: stream-image tarsum < layer.tar
"""
HAS_PROGRESS = False


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add nothing: the tar is standard input."""


def run(_args: argparse.Namespace, _reporter: Reporter) -> None:
    """Print the TarSum of standard input. Raises StreamImageError."""
    if os.isatty(0):
        raise UsageError(
            "standard input is a terminal; redirect a tar, as in 'stream-image tarsum < layer.tar'"
        )
    say_lines([tarsum("-")])

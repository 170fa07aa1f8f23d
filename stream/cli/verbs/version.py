"""`stream-image version`: print what `--version` prints."""

from __future__ import annotations

import argparse

import stream
from stream.cli.output import say_lines
from stream.cli.progress import Reporter

SUMMARY = "print the version"
DESCRIPTION = "Print the version of stream-image, as --version does."
EPILOG = ""
HAS_PROGRESS = False


def add_arguments(_parser: argparse.ArgumentParser) -> None:
    """It has no arguments of its own."""


def run(_args: argparse.Namespace, _reporter: Reporter) -> None:
    """Print the version. Raises OutputError."""
    say_lines([f"stream-image {stream.__version__}"])

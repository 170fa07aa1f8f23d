"""`stream-image CONF`: write the image of a conf to standard output or a file."""

from __future__ import annotations

import argparse
import os

from stream.config import load_conf
from stream.errors import UsageError
from stream.output import output_file, standard_output
from stream.pipeline import write_image
from stream.progress import Reporter


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The arguments of this verb."""
    parser.add_argument("conf", metavar="CONF", help="the conf JSON; - for standard input")
    parser.add_argument(
        "-t", "--repo-tag", "--repo_tag", metavar="TAG", help="name:tag, instead of the conf's"
    )
    parser.add_argument(
        "-o", "--output", metavar="FILE", default="-",
        help="write to FILE, which appears when it is complete (default: standard output)",
    )  # fmt: skip


def run(args: argparse.Namespace, reporter: Reporter) -> None:
    """Write the image. Raises StreamImageError."""
    to_stdout = args.output == "-"
    if to_stdout and os.isatty(1):
        raise UsageError(
            "standard output is a terminal: pipe the image on, as in"
            f" 'stream-image {args.conf} | docker load', or give -o FILE"
        )
    conf = load_conf(args.conf, repo_tag=args.repo_tag, warn=reporter.warning)
    with standard_output() if to_stdout else output_file(args.output) as fd:
        write_image(conf, fd, reporter)

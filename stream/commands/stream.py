"""`stream-image CONF`: write the image of a conf to standard output or a file."""

from __future__ import annotations

import argparse

from stream import compression
from stream.config import load_conf
from stream.errors import UsageError
from stream.output import is_terminal, output_file, standard_output
from stream.pipeline import write_image
from stream.progress import Reporter
from stream.sinks import ARCHIVE_FORMATS

DESCRIPTION = "Stream a container image, made from store paths in one pass."
EPILOG = """\
Example: stream-image conf.json | docker load
"""


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
    parser.add_argument(
        "--format", choices=ARCHIVE_FORMATS, default="docker-archive",
        help="docker-archive (default), or oci-archive, which is an OCI image layout as well",
    )  # fmt: skip
    parser.add_argument(
        "--compress", metavar="CODEC[:LEVEL]",
        help=f"compress the whole output: {', '.join(compression.CHOICES)}"
        " (default: what the name of FILE says, else none)",
    )  # fmt: skip
    parser.add_argument(
        "--threads", type=_count, metavar="N", help="threads that compress (default: all cores)"
    )


def _count(text: str) -> int:
    try:
        count = int(text)
    except ValueError:
        count = 0
    if count < 1:
        raise argparse.ArgumentTypeError("a whole number, at least 1")
    return count


def run(args: argparse.Namespace, reporter: Reporter) -> None:
    """Write the image. Raises StreamImageError."""
    to_stdout = args.output == "-"
    if is_terminal(args.output):
        raise UsageError(
            "standard output is a terminal: pipe the image on, as in"
            f" 'stream-image {args.conf} | docker load', or give -o FILE"
        )
    chosen = (
        compression.for_name(args.output)
        if args.compress is None
        else compression.parse(args.compress)
    )
    conf = load_conf(args.conf, repo_tag=args.repo_tag, warn=reporter.warning)
    with standard_output() if to_stdout else output_file(args.output) as fd:
        write_image(
            conf,
            fd,
            reporter,
            archive_format=args.format,
            compression=chosen,
            threads=args.threads,
        )

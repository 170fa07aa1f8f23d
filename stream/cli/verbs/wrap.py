"""`stream-image wrap CONF -o FILE`: an executable that streams the image of a conf."""

from __future__ import annotations

import argparse
import os

from stream.cli.options import add_tag_argument, given_tag
from stream.cli.output import output_file, standard_output, write_all
from stream.cli.progress import Reporter
from stream.cli.usage import UsageError
from stream.cli.wrapper import wrap
from stream.errors import ArgumentError
from stream.schema.reading import conf_name
from stream.text import one_line

SUMMARY = "make an executable that streams the image of a conf"
DESCRIPTION = """\
Write an executable that streams the image of a conf with this stream-image, from any
working directory and environment. It passes its arguments on. The conf is validated
now, not at run time."""
EPILOG = """\
Examples: stream-image wrap conf.json -o stream-hello
          ./stream-hello | docker load
          ./stream-hello --repo-tag hello:v2 --compress zstd -o hello.tar.zst

Every verb accepts the executable as a conf: stream-image inspect ./stream-hello. It refers
to the conf by absolute path, symlinks kept; with --embed it contains the conf.
"""
HAS_PROGRESS = False


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the verb's own arguments."""
    parser.add_argument(
        "conf", metavar="CONF", help="the conf JSON; with --embed, - for standard input"
    )
    parser.add_argument(
        "-o", "--output", metavar="FILE", required=True,
        help="the executable (created only when complete); - for standard output",
    )  # fmt: skip
    parser.add_argument(
        "--embed", action="store_true", help="put the conf itself into the executable"
    )
    add_tag_argument(parser)


def run(args: argparse.Namespace, reporter: Reporter) -> None:
    """Write the executable. Raises StreamImageError."""
    repo_tag = given_tag(args)
    try:
        script = wrap(args.conf, repo_tag=repo_tag, embed=args.embed, warn=reporter.warning)
    except ArgumentError as error:
        remedy = "leave out --embed" if args.embed else "give --embed"
        message = f"{conf_name(args.conf)}: {error.reason}; {remedy}"
        raise UsageError(one_line(message)) from None
    if not args.embed and args.output != "-" and _is_same_file(args.output, args.conf):
        raise UsageError(one_line(f"-o {args.output}: is the conf; choose another file"))
    with standard_output() if args.output == "-" else output_file(args.output, mode=0o755) as fd:
        write_all(fd, script, "standard output" if args.output == "-" else args.output)


def _is_same_file(one: str, other: str) -> bool:
    return os.path.realpath(one) == os.path.realpath(other)

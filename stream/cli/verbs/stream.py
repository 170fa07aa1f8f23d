"""`stream-image CONF`, the main job: write the image of a conf to standard output or a file."""

from __future__ import annotations

import argparse

from stream.cli.options import (
    add_digest_arguments,
    add_format_argument,
    add_output_arguments,
    add_sandbox_argument,
    add_tag_argument,
    given_digests,
    given_format,
    given_tag,
    opened_output,
)
from stream.cli.planned import add_previous_arguments, given_confs, given_planning
from stream.cli.progress import Reporter
from stream.cli.results import Result, add_result_arguments, opened_results
from stream.tools.write import find_named, write_index

SUMMARY = "stream the image of a conf"
DESCRIPTION = "Stream a container image from store paths, in one pass."
EPILOG = """\
Examples: stream-image spec.json | docker load
          stream-image conf.json -o image.tar.zst

A specification says what goes into an image; a conf lists the store paths of each layer.
'stream-image plan' makes a conf of a specification, which is done on the way here.
"""
HAS_PROGRESS = True


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the verb's own arguments."""
    parser.add_argument(
        "conf", metavar="CONF|SPEC",
        help="a conf, or a specification; - for standard input. One of several platforms becomes an"
        " oci-archive",
    )  # fmt: skip
    add_tag_argument(parser)
    add_previous_arguments(parser)
    add_format_argument(parser)
    add_output_arguments(parser)
    add_result_arguments(parser)
    add_sandbox_argument(parser)
    add_digest_arguments(parser)


def run(args: argparse.Namespace, reporter: Reporter) -> None:
    """Write the image. Raises StreamImageError."""
    digests = given_digests(args, reporter.warning)
    planning = given_planning(args, reporter, digests)
    confs = given_confs(args, [args.conf], reporter, planning, repo_tag=given_tag(args))
    with (
        opened_results(args) as report,
        opened_output(args, f"{args.conf} | docker load") as target,
    ):
        images = write_index(
            confs,
            target.fd,
            reporter,
            archive_format=given_format(args, len(confs)),
            compression=target.compression,
            threads=args.threads,
            digests=digests,
        )
        names = list(dict.fromkeys(tag for image in images for tag in image.repo_tags))
        report(Result(images=images, names=names, named=find_named(confs, images)))

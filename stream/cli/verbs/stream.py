"""`stream-image CONF`: write the image of a conf to standard output or a file."""

from __future__ import annotations

import argparse

from stream.cli.options import (
    add_format_argument,
    add_output_arguments,
    add_tag_argument,
    given_tag,
    opened_output,
)
from stream.cli.progress import Reporter
from stream.config import load_conf
from stream.pipeline import write_image

DESCRIPTION = "Stream a container image, made from store paths in one pass."
EPILOG = """\
Examples: stream-image plan spec.json | stream-image - | docker load
          stream-image conf.json -o image.tar.zst

A conf says which store paths are in which layer. Other commands, as in
'stream-image plan', each with its own --help:
  plan      the conf of a specification, which says what goes into an image
  explain   the layers of a conf or specification, and which of them move
  wrap      an executable that streams the image of a conf
  inspect   what is in an archive, or would be in that of a conf
  verify    whether an archive is whole, and what a conf yields
  merge     the images of several archives in one
  export    the file system of an image as one tar
  tarsum    Docker's checksum of a tar
"""
HAS_PROGRESS = True


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The arguments of this verb."""
    parser.add_argument("conf", metavar="CONF", help="the conf JSON; - for standard input")
    add_tag_argument(parser)
    add_format_argument(parser)
    add_output_arguments(parser)


def run(args: argparse.Namespace, reporter: Reporter) -> None:
    """Write the image. Raises StreamImageError."""
    conf = load_conf(args.conf, repo_tag=given_tag(args), warn=reporter.warning)
    with opened_output(args, f"{args.conf} | docker load") as target:
        write_image(
            conf,
            target.fd,
            reporter,
            archive_format=args.format,
            compression=target.compression,
            threads=args.threads,
        )

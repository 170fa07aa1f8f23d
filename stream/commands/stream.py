"""`stream-image CONF`: write the image of a conf to standard output or a file."""

from __future__ import annotations

import argparse

from stream.commands.output import (
    add_output_arguments,
    add_tag_argument,
    given_tag,
    opened_output,
)
from stream.config import load_conf
from stream.pipeline import write_image
from stream.progress import Reporter
from stream.sinks import ARCHIVE_FORMATS

DESCRIPTION = "Stream a container image, made from store paths in one pass."
EPILOG = """\
Example: stream-image conf.json | docker load

The conf of a specification, and what is in its layers, each with its own --help:
  stream-image plan | explain

Tools for archives:
  stream-image inspect | verify | merge | export | tarsum

An executable that streams the image:
  stream-image wrap
"""
HAS_PROGRESS = True


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The arguments of this verb."""
    parser.add_argument("conf", metavar="CONF", help="the conf JSON; - for standard input")
    add_tag_argument(parser)
    parser.add_argument(
        "--format", choices=ARCHIVE_FORMATS, default="docker-archive",
        help="docker-archive (default), or oci-archive, which is an OCI image layout as well",
    )  # fmt: skip
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

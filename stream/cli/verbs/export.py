"""`stream-image export`: the root file system of an image as one tar."""

from __future__ import annotations

import argparse

from stream.cli.options import add_output_arguments, opened_output
from stream.cli.progress import Reporter
from stream.tools.export import export

DESCRIPTION = """\
Write the file system that the layers of an image make together as one tar:
whiteouts are honoured; owners, modes, hard links, devices and extended attributes
kept. Layers are verified while they pass."""
EPILOG = """\
Examples: stream-image export image.tar.zst | tar -x -C root
          stream-image export conf.json -o root.tar
"""
HAS_PROGRESS = True


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The arguments of this verb."""
    parser.add_argument(
        "target", metavar="ARCHIVE|CONF",
        help="a docker-archive or OCI layout, however compressed (FILE:name:tag for one of"
        " several images), or a conf; a conf may be - for standard input",
    )  # fmt: skip
    add_output_arguments(parser)


def run(args: argparse.Namespace, reporter: Reporter) -> None:
    """Export. Raises StreamImageError."""
    with opened_output(args, f"export {args.target} | tar -x -C root") as target:
        export(
            args.target,
            target.fd,
            reporter,
            compression=target.compression,
            threads=args.threads,
        )

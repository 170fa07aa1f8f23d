"""`stream-image export`: write the root file system of an image as one tar."""

from __future__ import annotations

import argparse

from stream.cli.options import (
    add_output_arguments,
    add_sandbox_argument,
    given_commands,
    opened_output,
)
from stream.cli.progress import Reporter
from stream.model import ImageConf
from stream.tools.export import export_found, find_target
from stream.values import replace

SUMMARY = "write the root file system of an image as one tar"
DESCRIPTION = """\
Write the root file system of an image, with all its layers applied, as one tar.
Whiteouts are applied; owners, modes, hard links, devices and extended attributes are
preserved. The digest of every layer is verified."""
EPILOG = """\
Examples: stream-image export image.tar.zst | tar -x -C root
          stream-image export conf.json -o root.tar
"""
HAS_PROGRESS = True


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the verb's own arguments."""
    parser.add_argument(
        "target", metavar="ARCHIVE|CONF",
        help="a docker-archive or OCI layout in any compression, FILE:name:tag for one of several"
        " images, or a conf (- for standard input)",
    )  # fmt: skip
    add_output_arguments(parser)
    add_sandbox_argument(parser)


def run(args: argparse.Namespace, reporter: Reporter) -> None:
    """Export. Raises StreamImageError."""
    found = find_target(args.target, reporter)
    if isinstance(found, ImageConf):
        found = replace(found, commands=given_commands(args))
    with opened_output(args, f"export {args.target} | tar -x -C root") as target:
        export_found(
            found,
            target.fd,
            reporter,
            compression=target.compression,
            threads=args.threads,
        )

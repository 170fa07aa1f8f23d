"""`stream-image export`: write the root file system of an image as one tar."""

from __future__ import annotations

import argparse

from stream.cli.options import (
    add_output_arguments,
    add_sandbox_argument,
    opened_output,
)
from stream.cli.planned import given_planning
from stream.cli.progress import Reporter
from stream.digests import NO_DIGESTS
from stream.tools.export import export_found, find_target

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
        "target", metavar="ARCHIVE|CONF|SPEC",
        help="a docker-archive or OCI layout in any compression, FILE:name:tag for one of several"
        " images, a conf, or a specification (- for standard input)",
    )  # fmt: skip
    add_output_arguments(parser)
    add_sandbox_argument(parser)


def run(args: argparse.Namespace, reporter: Reporter) -> None:
    """Export. Raises StreamImageError."""
    found = find_target(args.target, reporter, given_planning(args, reporter, NO_DIGESTS))
    with opened_output(args, f"export {args.target} | tar -x -C root") as target:
        export_found(
            found,
            target.fd,
            reporter,
            compression=target.compression,
            threads=args.threads,
        )

"""`stream-image merge A B …`: combine the images of several archives into one."""

from __future__ import annotations

import argparse
import resource
from contextlib import suppress

from stream.cli.options import add_format_argument, add_output_arguments, opened_output
from stream.cli.progress import Reporter
from stream.cli.usage import UsageError
from stream.tools.merge import merge

SUMMARY = "combine the images of several archives into one"
DESCRIPTION = """\
Write one archive with the images of all archives, writing each layer once. An archive
is a docker-archive or an OCI layout, in any compression."""
EPILOG = """\
Examples: stream-image merge image.tar other.tar | docker load
          stream-image merge a.tar.zst b.tar:name:tag -o both.tar
          stream-image merge a.tar b.tar --format oci-archive -o both.oci.tar

If several images have the same tag, the last one wins.
"""
HAS_PROGRESS = True


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the verb's own arguments."""
    parser.add_argument(
        "archives", metavar="ARCHIVE", nargs="+",
        help="FILE for all its images, or FILE:name:tag for one of them",
    )  # fmt: skip
    add_format_argument(parser)
    add_output_arguments(parser)


def run(args: argparse.Namespace, reporter: Reporter) -> None:
    """Write the merged archive. Raises StreamImageError."""
    if "-" in args.archives:
        raise UsageError(
            "an archive to merge must be read twice, and a pipe cannot be; save it to a file"
        )
    _allow_many_files()
    with opened_output(args, f"merge {' '.join(args.archives)} | docker load") as target:
        merge(
            args.archives,
            target.fd,
            reporter,
            archive_format=args.format,
            compression=target.compression,
            threads=args.threads,
        )


def _allow_many_files() -> None:
    """Raise the limit of open files as far as allowed: all archives are open at once."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != hard:
        with suppress(ValueError, OSError):
            resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))

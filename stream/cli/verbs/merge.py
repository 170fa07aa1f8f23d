"""`stream-image merge A B …`: combine several images into one archive."""

from __future__ import annotations

import argparse
import resource
from contextlib import suppress

from stream.cli.options import (
    add_digest_arguments,
    add_format_argument,
    add_output_arguments,
    add_sandbox_argument,
    given_digests,
    given_format,
    opened_output,
)
from stream.cli.planned import given_planning
from stream.cli.progress import Reporter
from stream.cli.usage import UsageError
from stream.errors import ArgumentError
from stream.text import one_line
from stream.tools.merge import find_inputs, merge_inputs

SUMMARY = "combine the images of several archives and confs into one archive"
DESCRIPTION = """\
Write one archive with the images of all archives and confs, writing each layer once. An
archive is a docker-archive or an OCI layout, in any compression. The image of a conf is
streamed into the result."""
EPILOG = """\
Examples: stream-image merge image.tar other.tar | docker load
          stream-image merge a.tar.zst b.tar:name:tag -o both.tar
          stream-image merge a.tar b.tar --format oci-archive -o both.oci.tar
          stream-image merge conf.json ./stream-hello base.tar.gz | docker load

If several images have the same tag, the last one wins; in an oci-archive, the last one
for each platform.
"""
HAS_PROGRESS = True


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the verb's own arguments."""
    parser.add_argument(
        "targets", metavar="ARCHIVE|CONF|SPEC", nargs="+",
        help="FILE for all images of an archive, FILE:name:tag for one of them, a conf, or a"
        " specification (- for standard input)",
    )  # fmt: skip
    add_format_argument(parser)
    add_output_arguments(parser)
    add_sandbox_argument(parser)
    add_digest_arguments(parser)


def run(args: argparse.Namespace, reporter: Reporter) -> None:
    """Write the merged archive. Raises StreamImageError."""
    digests = given_digests(args, reporter.warning)
    try:
        inputs = find_inputs(args.targets, reporter, given_planning(args, reporter, digests))
    except ArgumentError as error:
        raise UsageError(one_line(f"{error.value}: {error.reason}")) from None
    _allow_many_files()
    with opened_output(args, f"merge {' '.join(args.targets)} | docker load") as target:
        merge_inputs(
            inputs,
            target.fd,
            reporter,
            archive_format=given_format(args),
            compression=target.compression,
            threads=args.threads,
            digests=digests,
        )


def _allow_many_files() -> None:
    """Raise the limit of open files as far as allowed: all archives are open at once."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != hard:
        with suppress(ValueError, OSError):
            resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))

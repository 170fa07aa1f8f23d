"""`stream-image merge A B …`: one archive with the images of all."""

from __future__ import annotations

import argparse
import resource
from collections.abc import Sequence
from contextlib import ExitStack, suppress

from stream import compression
from stream.archives.images import Archive, ArchiveImage, open_archive
from stream.archives.target import split_archive
from stream.cli.options import add_output_arguments, opened_output
from stream.cli.progress import Reporter
from stream.errors import UsageError
from stream.tools.merge import merge

DESCRIPTION = """\
Write one docker-archive that holds the images of all archives, each layer once.
An archive is a docker-archive or an OCI layout, however compressed."""
EPILOG = """\
Examples: stream-image merge image.tar other.tar | docker load
          stream-image merge a.tar.zst b.tar:name:tag -o both.tar
Of images that share a tag the last one has it.
"""
HAS_PROGRESS = True


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The arguments of this verb."""
    parser.add_argument(
        "archives", metavar="ARCHIVE", nargs="+",
        help="FILE for all its images, or FILE:name:tag for one of them",
    )  # fmt: skip
    add_output_arguments(parser)


def run(args: argparse.Namespace, reporter: Reporter) -> None:
    """Merge. Raises StreamImageError."""
    _allow_many_files()
    example = f"merge {' '.join(args.archives)} | docker load"
    with opened_output(args, example) as target, ExitStack() as stack:
        inputs: list[tuple[Archive, Sequence[ArchiveImage]]] = []
        for text in args.archives:
            if text == "-":
                raise UsageError("an archive to merge is read twice: put it in a file")
            path, repo_tag = split_archive(text)
            archive = stack.enter_context(open_archive(path))
            chosen = archive.images if repo_tag is None else [archive.choose(repo_tag)]
            inputs.append((archive, chosen))
        with compression.compressed(target.fd, target.compression, threads=args.threads) as fd:
            merge(inputs, fd, reporter)


def _allow_many_files() -> None:
    """All archives are open at once: take what descriptors may be had."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != hard:
        with suppress(ValueError, OSError):
            resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))

"""`stream-image export`: the root file system of an image as one tar."""

from __future__ import annotations

import argparse

from stream import compression
from stream.archives.bytesource import StreamBytes, pieces
from stream.archives.flatten import lister
from stream.archives.images import open_archive
from stream.archives.sequential import STANDARD_INPUT, Sequential
from stream.archives.target import split_archive
from stream.cli.options import add_output_arguments, opened_output
from stream.cli.progress import Reporter
from stream.config import load_conf, parse_conf
from stream.errors import UsageError
from stream.schema.reading import HEAD, begins_conf, is_conf
from stream.tools.export import export_archive, export_conf

DESCRIPTION = """\
Write the file system that the layers of an image make together as one tar:
whiteouts are honoured; owners, modes, hard links, devices and extended attributes
kept. Layers are verified while they pass."""
EPILOG = """\
Examples: stream-image export image.tar.zst | tar -x -C root
          stream-image export conf.json -o root.tar
"""
HAS_PROGRESS = True

_ANY = "any:latest"  # a root file system has no tag


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
    path, repo_tag = split_archive(args.target)
    conf = None
    if path == "-":
        file = Sequential(0, STANDARD_INPUT)
        if not begins_conf(file.peek(HEAD)):
            raise UsageError("an archive to export is read twice: put it in a file")
        data = b"".join(pieces(StreamBytes(file, file.name)))
        conf = parse_conf(data, name=file.name, repo_tag=_ANY, warn=reporter.warning)
    elif is_conf(path):
        if repo_tag is not None:
            raise UsageError(f"{path} is a conf: there are no images in it to choose from")
        conf = load_conf(path, repo_tag=_ANY, warn=reporter.warning)
    with opened_output(args, f"export {args.target} | tar -x -C root") as target:
        chosen, threads = target.compression, args.threads
        with compression.compressed(target.fd, chosen, threads=threads) as fd:
            if conf is not None:
                export_conf(conf, fd, reporter)
                return
            with open_archive(path, lister()) as archive:
                export_archive(archive, archive.choose(repo_tag), fd, reporter)

"""`stream-image digests CONF`: print the digests of an image's layers, without the image."""

from __future__ import annotations

import argparse

from stream.cli.options import (
    add_digest_arguments,
    add_sandbox_argument,
    given_digests,
)
from stream.cli.output import say_json
from stream.cli.planned import add_previous_arguments, given_conf, given_planning
from stream.cli.progress import Reporter
from stream.tools.digests import PortableKeys, compute_digests

SUMMARY = "print the digests of an image's layers, without the image"
DESCRIPTION = """\
Hash every layer of a conf's image, and print one JSON object: the image ID, and for each layer,
from bottom to top, its name in an archive, its diff ID, its size, and its key if it has the same
one on all machines. It names no store path."""
EPILOG = """\
Example: stream-image digests conf.json > digests.json
         stream-image cache --import digests.json    # there or on another machine
The JSON is described in docs/inspect.md.
"""
HAS_PROGRESS = True


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the verb's own arguments."""
    parser.add_argument(
        "conf", metavar="CONF|SPEC", help="a conf, or a specification; - for standard input"
    )
    add_previous_arguments(parser)
    add_sandbox_argument(parser)
    add_digest_arguments(parser)


def run(args: argparse.Namespace, reporter: Reporter) -> None:
    """Hash the layers and print. Raises StreamImageError."""
    digests = PortableKeys(given_digests(args, reporter.warning))
    conf = given_conf(args, args.conf, reporter, given_planning(args, reporter, digests))
    image = compute_digests(conf, digests, reporter)
    keys = digests.by_diff_id()
    layers = [
        {
            "name": layer.archive_name,
            "diff_id": layer.diff_id,
            "size": layer.size,
            "key": keys.get(layer.diff_id),
        }
        for layer in image.layers
    ]
    say_json({"image_id": image.image_id, "layers": layers})

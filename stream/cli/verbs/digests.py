"""`stream-image digests CONF`: print the digests of an image's layers, without the image."""

from __future__ import annotations

import argparse
import os
from dataclasses import replace

from stream.cli.options import add_sandbox_argument, given_commands
from stream.cli.output import say_json
from stream.cli.progress import Reporter
from stream.config import load_conf
from stream.tools.write import write_image

SUMMARY = "print the digests of an image's layers, without the image"
DESCRIPTION = """\
Hash every layer of a conf's image, and print one JSON object: the image ID, and for each layer,
from bottom to top, its name in an archive, its diff ID and its size. It names no store path."""
EPILOG = """\
Example: stream-image digests conf.json
The JSON is described in docs/inspect.md.
"""
HAS_PROGRESS = True


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the verb's own arguments."""
    parser.add_argument("conf", metavar="CONF", help="the conf JSON; - for standard input")
    add_sandbox_argument(parser)


def run(args: argparse.Namespace, reporter: Reporter) -> None:
    """Hash the layers and print. Raises StreamImageError."""
    conf = load_conf(args.conf, warn=reporter.warning)
    with open(os.devnull, "wb") as nowhere:
        image = write_image(replace(conf, commands=given_commands(args)), nowhere, reporter)
    layers = [
        {"name": layer.archive_name, "diff_id": layer.diff_id, "size": layer.size}
        for layer in image.layers
    ]
    say_json({"image_id": image.image_id, "layers": layers})

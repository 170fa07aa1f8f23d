"""`stream-image customise SPEC|CONF -o DIR`: make the customisation layer, as a directory."""

from __future__ import annotations

import argparse

from stream.cli.options import add_sandbox_argument, given_commands
from stream.cli.output import output_directory
from stream.cli.progress import Reporter
from stream.config import is_spec, read_conf_document
from stream.model import ImageConf
from stream.planning.plan import plan
from stream.planning.spec import read_spec_document
from stream.schema.reading import conf_name, directory_of, load_object
from stream.tools.customise import write_customisation_layer
from stream.values import replace

SUMMARY = "make the customisation layer, so that its commands run only once"
DESCRIPTION = """\
Make the customisation layer of an image: its contents are joined and its commands run, above
the base image. The result is a directory that a conf or a specification names as its
customisation_layer; then nothing is run when the image is streamed, and the image is the same."""
EPILOG = """\
Examples: stream-image customise spec.json -o layer
          stream-image customise conf.json -o layer

The directory appears only when complete. It has layer.tar, its SHA-256 in checksum, and in
comment the layer's line in the image's history.
"""
HAS_PROGRESS = False


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the verb's own arguments."""
    parser.add_argument(
        "target", metavar="SPEC|CONF", help="a specification, or a conf; - for standard input"
    )
    parser.add_argument(
        "-o", "--output", metavar="DIR", required=True,
        help="the directory to make (must not exist; created only when complete)",
    )  # fmt: skip
    add_sandbox_argument(parser)


def run(args: argparse.Namespace, reporter: Reporter) -> None:
    """Make the layer. Raises StreamImageError."""
    name = conf_name(args.target)
    make_directory(_read(args, name, reporter), args.output, name=name, reporter=reporter)


def make_directory(conf: ImageConf, path: str, *, name: str, reporter: Reporter) -> None:
    """Make the directory `path` with the customisation layer of `conf`, which messages call `name`.
    Raises StreamImageError.
    """
    with output_directory(path, "layer.tar") as made:
        layer = write_customisation_layer(conf, made.fd, name=name, warn=reporter.warning)
        made.small["checksum"] = layer.checksum.removeprefix("sha256:") + "\n"
        made.small["comment"] = layer.comment + "\n"


def _read(args: argparse.Namespace, name: str, reporter: Reporter) -> ImageConf:
    document = load_object(args.target)
    commands = given_commands(args)
    if not is_spec(document):
        conf = read_conf_document(document, name=name, need_tag=False, warn=reporter.warning)
        return replace(conf, commands=commands)
    directory = directory_of(args.target)
    spec = read_spec_document(document, name=name, warn=reporter.warning, directory=directory)
    spec = replace(spec, conf=replace(spec.conf, commands=commands))
    # Only the database is made from the closure, which the contents and commands determine.
    return plan(spec, warn=reporter.warning).conf if spec.include_nix_database else spec.conf

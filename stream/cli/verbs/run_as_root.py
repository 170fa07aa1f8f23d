"""`stream-image run-as-root BASE [SCRIPT] -o DIR`: run commands in an image, and keep what they
change as a layer.
"""

from __future__ import annotations

import argparse
import sys

from stream.cli.progress import Reporter
from stream.cli.usage import UsageError
from stream.cli.verbs.customise import make_directory
from stream.errors import SourceError
from stream.planning.spec import read_spec_document

SUMMARY = "run commands in an image, and keep what they change as a layer"
DESCRIPTION = """\
Run commands with a base image as their root directory, and make a layer of what they change: the
customisation layer of a specification with fromImage and runAsRoot. Needs no privileges and no
virtual machine."""
EPILOG = """\
Examples: echo 'rm -r /usr/share/doc' | stream-image run-as-root debian.tar - -o layer
          stream-image run-as-root debian.tar --post-mount 'cp -r site mnt/srv' -o layer

The directory appears only when complete. It has layer.tar, its SHA-256 in checksum, and in
comment the layer's line in the image's history. A specification with the same fromImage names it
as its customisation_layer. docs/plan.md says more about runAsRoot and the hooks.
"""
HAS_PROGRESS = False
_HOOKS = {
    "pre_mount": "before the image is there",
    "post_mount": "before the script, with the image in mnt",
    "post_umount": "after the script, with what has changed in layer",
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the verb's own arguments."""
    parser.add_argument(
        "base", metavar="BASE", help="the image: an archive, FILE or FILE:name:tag, or a directory"
    )
    parser.add_argument(
        "script", metavar="SCRIPT", nargs="?",
        help="a file with the commands, for bash; - for standard input",
    )  # fmt: skip
    parser.add_argument(
        "-o", "--output", metavar="DIR", required=True,
        help="the directory to make (must not exist; created only when complete)",
    )  # fmt: skip
    for hook, meaning in _HOOKS.items():
        option = f"--{hook.replace('_', '-')}"
        parser.add_argument(
            option, metavar="COMMANDS", default="", help=f"commands to run as root {meaning}"
        )
    parser.add_argument(
        "--mtime", metavar="TIME",
        help="the modification time of all files in the layer, such as @315532800 (default: @1)",
    )  # fmt: skip
    parser.add_argument("--network", action="store_true", help="let commands use the network")


def run(args: argparse.Namespace, reporter: Reporter) -> None:
    """Make the layer. Raises StreamImageError."""
    document = {
        "name": "layer",
        "fromImage": args.base,
        "customisation_mtime": args.mtime,
        "network": args.network,
        "preMount": args.pre_mount,
        "postMount": args.post_mount,
        "runAsRoot": _read(args.script),
        "postUmount": args.post_umount,
    }
    name = "run-as-root"
    spec = read_spec_document(document, name=name, warn=reporter.warning)
    if not spec.recipe.changes_image:
        raise UsageError("run-as-root: nothing to run; give a SCRIPT, or a hook.")
    make_directory(spec.conf, args.output, name=name, reporter=reporter)


def _read(script: str | None) -> str:
    """Return the content of the file `script`, whatever its encoding. Raises SourceError."""
    if script is None:
        return ""
    try:
        if script == "-":
            return sys.stdin.buffer.read().decode("utf-8", "surrogateescape")
        with open(script, encoding="utf-8", errors="surrogateescape") as file:
            return file.read()
    except OSError as error:
        raise SourceError.unreadable(script.encode("utf-8", "surrogateescape"), error) from error

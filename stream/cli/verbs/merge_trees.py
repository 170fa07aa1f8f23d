"""`stream-image merge-trees A B … -o DIR`: merge directories and tars into one directory."""

from __future__ import annotations

import argparse

from stream.cli.output import new_tree
from stream.cli.progress import Reporter
from stream.tools.trees import merge_trees

SUMMARY = "merge directories and tars into one directory"
DESCRIPTION = """\
Make a directory with the files of all trees: directories, or tars in any compression. Of
two files or links with one path, the last one stays. Links are kept as they are, files keep
their permissions."""
EPILOG = """\
Examples: stream-image merge-trees result-a result-b -o both
          stream-image export image.tar | stream-image merge-trees - more -o root

The directory appears only when complete. This is mergeDrvs of nixpkgs' dockerTools.
"""
HAS_PROGRESS = False


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the verb's own arguments."""
    parser.add_argument(
        "trees", metavar="DIR|TAR", nargs="+", help="a directory, or a tar (- for standard input)"
    )
    parser.add_argument(
        "-o", "--output", metavar="DIR", required=True,
        help="the directory to make (must not exist; created only when complete)",
    )  # fmt: skip


def run(args: argparse.Namespace, _reporter: Reporter) -> None:
    """Merge. Raises StreamImageError."""
    with new_tree(args.output) as directory:
        merge_trees(args.trees, directory)

"""`stream-image push-all DIR|- [PREFIX]`: push many images to registries."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from functools import partial

from stream.cli.output import say_lines
from stream.cli.planned import given_confs
from stream.cli.progress import Reporter
from stream.cli.pushing import add_pushing_arguments, given_push_planning, given_pushing, has_tag
from stream.cli.usage import UsageError
from stream.model import ImageConf
from stream.oci.reference import BadReference, below, check_name
from stream.text import one_line
from stream.tools.push_all import ImageToPush, NotPushed, push_all

SUMMARY = "push the images of many confs to a registry"
DESCRIPTION = """\
Push the images of all confs in a directory, or of a list on standard input, in one process: a layer
that several have is read, hashed and sent for the first, and mounted by the others. An image that
fails does not stop the others; then the exit status is 1. Prints each image's reference by digest."""
EPILOG = """\
Examples: stream-image push-all confs/ registry.example/team
          stream-image push-all - < list
          ls confs/*.json | stream-image push-all - registry.example/team --compress zstd:1

With PREFIX, or for a directory, each image goes by the repo_tag of its conf, below PREFIX; a line of
the list has the conf, or one for each platform. Without PREFIX, the image's name comes last on a
line. More in docs/fleet.md.
"""
HAS_PROGRESS = True

_MAX_LINE = 1 << 16  # bytes


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the verb's own arguments."""
    parser.add_argument(
        "where", metavar="DIR|-",
        help="a directory, of which all *.json are pushed; - for a list on standard input, a line for"
        " each image",
    )  # fmt: skip
    parser.add_argument(
        "prefix", nargs="?", metavar="PREFIX",
        help="the registry, or a part of it, that all images go to",
    )  # fmt: skip
    add_pushing_arguments(parser)


def run(args: argparse.Namespace, reporter: Reporter) -> int:
    """Push the images. Raises StreamImageError, but not for one of many."""
    pushing = given_pushing(args, reporter)
    if args.prefix is not None:
        _check_prefix(args.prefix)

    def load(names: Sequence[str], reference: str | None = None) -> list[ImageConf]:
        planning = given_push_planning(args, reporter, pushing, reference)
        need_tag = not has_tag(reference)
        return given_confs(args, names, reporter, planning, need_tag=need_tag)

    if args.where == "-":
        items = _listed(load, has_names=args.prefix is None)
    else:
        names = _confs_in(args.where)
        reporter.count = len(names)
        items = (ImageToPush(name=name, load=partial(load, [name])) for name in names)
    has_failed = False
    for outcome in push_all(items, args.prefix, reporter, **pushing):
        if isinstance(outcome, NotPushed):
            has_failed = True
        else:
            say_lines([outcome.reference])
    return int(has_failed)


def _check_prefix(prefix: str) -> None:
    """Raises UsageError if no image can be below `prefix`, rather than say so of each."""
    try:
        check_name(below(prefix, "image"))
    except BadReference as wrong:
        raise UsageError(one_line(f"{prefix}: cannot be a PREFIX: {wrong}")) from None


def _confs_in(directory: str) -> list[str]:
    """Return the confs in a directory, in the order of their names. Raises UsageError."""
    try:
        names = sorted(name for name in os.listdir(directory) if name.endswith(".json"))
    except NotADirectoryError:
        reason = "is not a directory; use 'push' for one image, or - for a list on standard input"
        raise UsageError(one_line(f"{directory}: {reason}")) from None
    except OSError as error:
        raise UsageError(one_line(f"{directory}: {error.strerror}")) from None
    if not names:
        raise UsageError(one_line(f"{directory}: no *.json in it; is it the directory of confs?"))
    return [os.path.join(directory, name) for name in names]


def _listed(
    load: Callable[[Sequence[str], str | None], list[ImageConf]], *, has_names: bool
) -> Iterator[ImageToPush]:
    """Yield the images of the list on standard input as its lines come. Raises UsageError."""
    number = 0
    while line := sys.stdin.buffer.readline(_MAX_LINE + 1):
        number += 1
        if len(line) > _MAX_LINE:
            raise UsageError(f"standard input: line {number} is too long for a list of confs")
        words = [os.fsdecode(word) for word in line.split()]
        if not words or words[0].startswith("#"):
            continue
        if "-" in words:
            raise UsageError(f"standard input: line {number}: - is the list; name a file")
        if has_names and len(words) == 1:
            reason = "has one word; write CONF NAME[:TAG], or give a PREFIX for all images"
            raise UsageError(f"standard input: line {number} {reason}")
        reference = words.pop() if has_names else None
        yield ImageToPush(name=words[0], load=partial(load, words, reference), reference=reference)

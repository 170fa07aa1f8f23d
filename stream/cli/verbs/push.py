"""`stream-image push CONF… REFERENCE`: push the image of a conf, or an index, to a registry."""

from __future__ import annotations

import argparse

from stream.cli.output import say_lines
from stream.cli.planned import given_confs
from stream.cli.progress import Reporter
from stream.cli.pushing import add_pushing_arguments, given_push_planning, given_pushing, has_tag
from stream.cli.results import Result, add_result_arguments, opened_results
from stream.tools.push import push

SUMMARY = "push the image of a conf to a registry"
DESCRIPTION = """\
Push the image of a conf, or of several confs for a platform each, to a registry, straight from the
files: each layer is read once, and hashed, compressed and sent as it is read. What the registry
has is neither read nor sent. Tags change only when everything is there. Prints the image's
reference by digest."""
EPILOG = """\
Examples: stream-image push conf.json registry.example/app:v2
          stream-image push conf.json registry.example/app:v2 --tag latest --compress zstd:1
          stream-image push amd64.json arm64.json registry.example/app:v2
          stream-image push conf.json 127.0.0.1:5000/app:v2 --compress none --dry-run
          stream-image push conf.json registry.example/app:pr-7 --cache-from :main

Credentials are those of 'skopeo login', 'podman login' and 'docker login'. Without a tag,
the conf's is taken. More in docs/push.md.
"""
HAS_PROGRESS = True


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the verb's own arguments."""
    parser.add_argument(
        "confs", nargs="+", metavar="CONF|SPEC",
        help="a conf, or a specification; - for standard input. Several become one index",
    )  # fmt: skip
    parser.add_argument("reference", metavar="NAME[:TAG]", help="the image's name in the registry")
    parser.add_argument(
        "-t", "--tag", action="append", default=[], metavar="TAG", dest="tags",
        help="another tag of the image; repeatable",
    )  # fmt: skip
    parser.add_argument(
        "--digest-file",
        metavar="FILE",
        help="write the digest of the image's manifest, or index, to FILE",
    )
    add_result_arguments(parser)
    add_pushing_arguments(parser)


def run(args: argparse.Namespace, reporter: Reporter) -> None:
    """Push the image. Raises StreamImageError."""
    pushing = given_pushing(args, reporter)
    planning = given_push_planning(args, reporter, pushing, args.reference)
    need_tag = not has_tag(args.reference)
    confs = given_confs(args, args.confs, reporter, planning, need_tag=need_tag)
    with opened_results(args, rehearse=args.dry_run) as report:
        pushed = push(confs, args.reference, reporter, tags=args.tags, **pushing)
        names = [f"{pushed.name}:{tag}" for tag in pushed.tags]
        report(Result(images=pushed.images, names=names, named=pushed.named))
    say_lines([pushed.reference])

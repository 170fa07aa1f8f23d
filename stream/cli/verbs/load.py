"""`stream-image load CONF…`: load the image of a conf into docker, podman or containerd."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

from stream.cli.options import (
    add_digest_arguments,
    add_sandbox_argument,
    add_tag_argument,
    given_digests,
    given_tag,
)
from stream.cli.output import say_lines
from stream.cli.planned import add_previous_arguments, given_confs, given_planning
from stream.cli.progress import Reporter
from stream.cli.results import Result, add_result_arguments, opened_results
from stream.engines.engine import ENGINES
from stream.tools.load import load

if TYPE_CHECKING:
    from stream.planning.spec import Spec
    from stream.tools.existing import Place

SUMMARY = "load the image of a conf into a container engine"
DESCRIPTION = """\
Load the image of a conf into docker, podman or containerd. Only layers that the engine does not
have are read and sent. The image gets its tag once the engine has all of it. Prints its name."""
EPILOG = """\
Examples: stream-image load conf.json && docker run --rm app:v1
          stream-image load conf.json --host ssh://root@server.example
          stream-image load conf.json --engine containerd --namespace k8s.io

Without --engine, it is docker if that answers at DOCKER_HOST, in the current context or at its
usual socket, else podman. See docs/load.md.
"""
HAS_PROGRESS = True


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the verb's own arguments."""
    parser.add_argument(
        "confs", nargs="+", metavar="CONF|SPEC",
        help="a conf, or a specification; - for standard input. Of several, the one for the engine's"
        " platform is loaded",
    )  # fmt: skip
    add_tag_argument(parser)
    parser.add_argument("--engine", choices=ENGINES, help="default: docker, else podman")
    parser.add_argument(
        "--host", metavar="URL",
        help="where the engine is: ssh://[USER@]HOST[:PORT], unix://PATH, or tcp://HOST:PORT",
    )  # fmt: skip
    parser.add_argument(
        "--namespace", metavar="NAME", help="containerd's namespace, such as k8s.io"
    )
    parser.add_argument(
        "--dry-run", action="store_true", help="show what would be sent; change nothing there"
    )
    add_result_arguments(parser)
    add_previous_arguments(parser, usual="what has the tag in the engine")
    add_sandbox_argument(parser)
    add_digest_arguments(parser)


def run(args: argparse.Namespace, reporter: Reporter) -> None:
    """Load the image and print its name. Raises StreamImageError."""
    digests = given_digests(args, reporter.warning)
    planning = given_planning(
        args, reporter, digests, destination=lambda spec: _destination(args, spec)
    )
    confs = given_confs(args, args.confs, reporter, planning, repo_tag=given_tag(args))
    reporter.rehearsing = args.dry_run
    with opened_results(args, rehearse=args.dry_run) as report:
        loaded = load(
            confs,
            reporter,
            engine=args.engine,
            host=args.host,
            namespace=args.namespace,
            digests=digests,
            rehearse=args.dry_run,
        )
        report(Result(images=[loaded.image], names=[loaded.name]))
    say_lines([loaded.name])


def _destination(args: argparse.Namespace, spec: Spec) -> Place:
    """Return the image in the engine that has the tag of this one. A tag that is yet to be derived
    will be a new one; there, it is `latest`.
    """
    from stream.tools.existing import Place

    return Place(
        kind="engine",
        reference=spec.conf.repo_tag or f"{spec.repository}:latest",
        engine=args.engine,
        host=args.host,
        namespace=args.namespace,
    )

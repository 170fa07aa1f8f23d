"""`stream-image push CONF… REFERENCE`: push the image of a conf, or an index, to a registry."""

from __future__ import annotations

import argparse
import os
from collections.abc import Callable
from contextlib import ExitStack

from stream.cli.options import (
    add_digest_arguments,
    add_sandbox_argument,
    count,
    given_digests,
    parse_compression,
)
from stream.cli.output import output_file, say_lines, write_all
from stream.cli.planned import given_confs
from stream.cli.progress import Reporter
from stream.cli.registries import add_target_arguments, given_target_access
from stream.compression import LAYER_CODECS
from stream.tools.push import DEFAULT_JOBS, push
from stream.tools.remembered import RegistryCache

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

_SECRET = "STREAM_IMAGE_REGISTRY_CACHE_SECRET"  # noqa: S105 — the name of a variable
_MIN_SECRET = 16  # bytes; whoever sees an image can try short ones


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
        "--compress", default="gzip", metavar="CODEC[:LEVEL]",
        help="of each layer: gzip (default), zstd or none",
    )  # fmt: skip
    parser.add_argument(
        "--jobs", type=count, default=DEFAULT_JOBS, metavar="N",
        help="layers sent at once (default: %(default)s)",
    )  # fmt: skip
    parser.add_argument(
        "--from", action="append", default=[], metavar="REPO", dest="mount_from",
        help="a repository of the same registry, whose blobs are not sent again; repeatable",
    )  # fmt: skip
    parser.add_argument(
        "--dry-run", action="store_true", help="show what would be sent; change nothing there"
    )
    parser.add_argument(
        "--digest-file",
        metavar="FILE",
        help="write the digest of the image's manifest, or index, to FILE",
    )
    _add_cache_arguments(parser)
    add_target_arguments(parser)
    add_digest_arguments(parser)
    add_sandbox_argument(parser)


def run(args: argparse.Namespace, reporter: Reporter) -> None:
    """Push the image. Raises StreamImageError."""
    compression = parse_compression(args.compress, LAYER_CODECS)
    access = given_target_access(args)
    digests = given_digests(args, reporter.warning)
    confs = given_confs(args, args.confs, reporter, digests)
    reporter.rehearsing = args.dry_run
    with ExitStack() as stack:
        output = None
        if args.digest_file is not None and not args.dry_run:
            output = stack.enter_context(output_file(args.digest_file))
        pushed = push(
            confs,
            args.reference,
            reporter,
            tags=args.tags,
            compression=compression,
            jobs=args.jobs,
            mount_from=args.mount_from,
            registry_cache=_given_registry_cache(args, reporter.warning),
            access=access,
            digests=digests,
            rehearse=args.dry_run,
        )
        if output is not None:
            write_all(output, f"{pushed.digest}\n".encode(), args.digest_file)
    say_lines([pushed.reference])


def _add_cache_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options for what a registry remembers of layers."""
    parser.add_argument(
        "--registry-cache", action="store_true",
        help="let the registry remember the layers, for machines that have never seen the image,"
        " and believe what the tag's image remembers",
    )  # fmt: skip
    parser.add_argument(
        "--cache-from", action="append", default=[], metavar="IMAGE",
        help="believe what another image of the registry remembers, as well; :TAG is one of the same"
        " repository; repeatable",
    )  # fmt: skip


def _given_registry_cache(
    args: argparse.Namespace, warn: Callable[[str], None]
) -> RegistryCache | None:
    """Return what the options ask a registry to remember; None for nothing. `warn` is called if
    the secret is too short to be one: then whoever can write a tag would be believed.
    """
    if not args.registry_cache and not args.cache_from:
        return None
    secret = os.environb.get(_SECRET.encode())
    if secret is not None and len(secret) < _MIN_SECRET:
        problem = f"has {len(secret)} bytes and needs {_MIN_SECRET}" if secret else "is empty"
        warn(f"the registry's cache is not used, because ${_SECRET} {problem}")
        return None
    return RegistryCache(read_from=tuple(args.cache_from), secret=secret or b"")

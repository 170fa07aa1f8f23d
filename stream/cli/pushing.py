"""The options of verbs that push: compression, mounts, what the registry remembers, its address."""

from __future__ import annotations

import argparse
import os
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, TypedDict

from stream.cli.options import (
    add_digest_arguments,
    add_sandbox_argument,
    count,
    given_digests,
    parse_compression,
)
from stream.cli.planned import add_previous_arguments, given_planning
from stream.cli.progress import Reporter
from stream.cli.registries import add_target_arguments, given_target_access
from stream.compression import LAYER_CODECS, Compression
from stream.digests import Digests
from stream.oci.reference import BadReference, Location, below, qualified, split
from stream.registry.trust import Access
from stream.sbom import FORMATS, Format
from stream.tools.push import DEFAULT_JOBS
from stream.tools.remembered import RegistryCache
from stream.values import replace

if TYPE_CHECKING:
    from stream.planning.spec import Spec
    from stream.tools.existing import Place
    from stream.tools.planned import Planning

_SECRET = "STREAM_IMAGE_REGISTRY_CACHE_SECRET"  # noqa: S105 — the name of a variable
_MIN_SECRET = 16  # bytes; whoever sees an image can try short ones


class Pushing(TypedDict):
    """The arguments that `stream.tools.push.push` gets from these options."""

    compression: Compression
    jobs: int
    mount_from: list[str]
    registry_cache: RegistryCache | None
    access: Access
    digests: Digests
    sbom: Format | None
    rehearse: bool


def add_pushing_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options for how images are pushed."""
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
        "--sbom", choices=FORMATS, help="keep a bill of materials of each image beside it"
    )
    add_previous_arguments(parser, usual="what has the tag in the registry")
    _add_cache_arguments(parser)
    add_target_arguments(parser)
    add_digest_arguments(parser)
    add_sandbox_argument(parser)


def given_pushing(args: argparse.Namespace, reporter: Reporter) -> Pushing:
    """Return what those options ask for. Raises UsageError."""
    reporter.rehearsing = args.dry_run
    return Pushing(
        compression=parse_compression(args.compress, LAYER_CODECS),
        jobs=args.jobs,
        mount_from=args.mount_from,
        registry_cache=_given_registry_cache(args, reporter.warning),
        access=given_target_access(args),
        digests=given_digests(args, reporter.warning),
        sbom=args.sbom,
        rehearse=args.dry_run,
    )


def given_push_planning(
    args: argparse.Namespace, reporter: Reporter, pushing: Pushing, reference: str | None
) -> Planning:
    """Return how to plan specifications whose images are pushed as `reference`, or without one by
    their own names. Unless the options name another, the previous build is what has the tag now. A
    tag that is yet to be derived will be a new one; then it is the first of the others, or `latest`.
    """
    target = _location(reference)
    prefix: str | None = getattr(args, "prefix", None)
    tags: Sequence[str] = getattr(args, "tags", ())

    def destination(spec: Spec) -> Place | None:
        from stream.tools.existing import Place

        own = spec.conf.repo_tag or f"{spec.repository}:{next(iter(tags), 'latest')}"
        if reference is None:
            found = _location(own if prefix is None else below(prefix, own))
        else:
            found = target and replace(target, tag=target.tag or split(own)[1])
        return None if found is None else Place(kind="registry", reference=str(found))

    def access(place: Place) -> Access:
        # --insecure is for the registry that is pushed to.
        name = prefix if target is None else target.name
        is_target = name is not None and _domain(place.reference) == _domain(f"{name}/")
        return pushing["access"] if is_target else Access(authfile=args.authfile)

    return given_planning(
        args, reporter, pushing["digests"], destination=destination, access=access
    )


def has_tag(reference: str | None) -> bool:
    """Tell whether `reference` says under which tag an image is pushed: then none need be derived."""
    target = _location(reference)
    return target is not None and target.tag is not None


def _location(reference: str | None) -> Location | None:
    """Return what a reference names; None if nothing can be pushed there, which push() reports."""
    try:
        location = None if reference is None else Location.parse(reference)
    except BadReference:
        return None
    return None if location is None or location.digest else location


def _domain(reference: str) -> str:
    return qualified(reference).partition("/")[0]


def _add_cache_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options for what a registry remembers of layers."""
    parser.add_argument(
        "--registry-cache", action="store_true",
        help="let the registry remember the layers, for machines that have never seen the image,"
        " and believe what the tag's image remembers",
    )  # fmt: skip
    parser.add_argument(
        "--cache-from", action="append", default=[], metavar="IMAGE",
        help="believe what another image of the registry remembers, as well (:TAG: of the same"
        " repository); implies --registry-cache; repeatable",
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

"""`stream-image pull NAME@DIGEST`: fetch an image from a registry, as a docker-archive."""

from __future__ import annotations

import argparse

from stream.cli.options import add_output_arguments, add_tag_argument, given_tag, opened_output
from stream.cli.progress import Reporter
from stream.cli.registries import (
    add_access_arguments,
    add_platform_arguments,
    given_access,
    given_platform,
    shown_progress,
)
from stream.oci.platform import Platform
from stream.tools.pull import pull

SUMMARY = "fetch an image from a registry by its digest"
DESCRIPTION = """\
Fetch an image from a registry with skopeo, and write it as a docker-archive whose bytes depend
on the image alone: not on skopeo's version, nor on how the registry compresses layers. Everything
is verified, from the digest to the content of each layer."""
EPILOG = """\
Examples: stream-image pull registry.example/alpine@sha256:… | docker load
          stream-image pull registry.example/app:v2@sha256:… --arch arm64 -o base.tar.zst

The digest is that of an image's manifest, or of an index of several platforms. Credentials are
those of 'skopeo login', 'podman login' and 'docker login'. stream-image prefetch finds the digest
of a tag.
"""
HAS_PROGRESS = True


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the verb's own arguments."""
    parser.add_argument("reference", metavar="NAME[:TAG]@DIGEST", help="the image")
    add_tag_argument(parser, "name:tag of the image in the archive (default: NAME:TAG, or latest)")
    add_platform_arguments(parser, arch=None)
    add_access_arguments(parser)
    add_output_arguments(parser)


def run(args: argparse.Namespace, reporter: Reporter) -> None:
    """Fetch the image. Raises StreamImageError."""
    access, repo_tag = given_access(args), given_tag(args)
    # Without options, an image for another platform that the digest names is what is wanted.
    asked = args.os or args.arch or args.variant
    platform = given_platform(args, Platform.of_this_machine()) if asked else None
    with opened_output(args, f"pull {args.reference} | docker load") as target:
        pull(
            args.reference,
            target.fd,
            reporter,
            repo_tag=repo_tag,
            platform=platform,
            access=access,
            compression=target.compression,
            threads=args.threads,
            progress=shown_progress(args),
        )

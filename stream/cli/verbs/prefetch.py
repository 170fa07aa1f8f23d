"""`stream-image prefetch NAME [TAG|DIGEST]`: the arguments of `pullImage` for an image."""

from __future__ import annotations

import argparse
import os

from stream.cli.output import say, say_json, say_lines
from stream.cli.progress import Reporter
from stream.cli.registries import (
    add_access_arguments,
    add_platform_arguments,
    given_access,
    given_platform,
    shown_progress,
)
from stream.cli.usage import UsageError
from stream.oci.platform import Platform
from stream.oci.reference import BadReference, Location, Reference, parse_digest
from stream.text import one_line
from stream.tools.prefetch import ALGORITHMS, Prefetched, prefetch
from stream.values import replace

SUMMARY = "print the arguments of Nix's pullImage for an image"
DESCRIPTION = """\
Fetch an image from a registry, add it to the Nix store, where pullImage finds it without a network,
and print pullImage's arguments. Options and output are those of nix-prefetch-docker, but the digest
is that of the chosen platform's image, also where the registry has an index of several."""
EPILOG = """\
Examples: stream-image prefetch nixos/nix 2.20.0
          stream-image prefetch --json --arch arm64 registry.example/app sha256:…

NIX_HASH_ALGO chooses the hash: sha256 (default), sha512, sha1 or md5.
"""
HAS_PROGRESS = True
_USUAL = Platform(os="linux", architecture="amd64")  # whatever this machine is, as there


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the verb's own arguments."""
    parser.add_argument("name", metavar="NAME", nargs="?", help="the image's name, or name:tag")
    parser.add_argument(
        "version", metavar="TAG|DIGEST", nargs="?", help="its tag (default: latest) or digest"
    )
    parser.add_argument("--image-name", metavar="NAME", help="the same as NAME")
    parser.add_argument("--image-tag", metavar="TAG", help="the same as TAG")
    parser.add_argument("--image-digest", metavar="DIGEST", help="the same as DIGEST")
    parser.add_argument(
        "--final-image-name", metavar="NAME", help="its name in the archive (default: NAME)"
    )
    parser.add_argument(
        "--final-image-tag", metavar="TAG", help="its tag there (default: TAG, or latest)"
    )
    add_platform_arguments(parser, arch=_USUAL.architecture)
    add_access_arguments(parser)
    parser.add_argument("--json", action="store_true", help="print JSON, not a Nix expression")


def run(args: argparse.Namespace, reporter: Reporter) -> None:
    """Fetch the image and print. Raises StreamImageError."""
    location, final = _given(args)
    algorithm = os.environ.get("NIX_HASH_ALGO") or "sha256"
    if algorithm not in ALGORITHMS:
        raise UsageError(one_line(f"NIX_HASH_ALGO: {algorithm!r} is not {', '.join(ALGORITHMS)}"))
    access = given_access(args)
    found = prefetch(
        location,
        final,
        given_platform(args, _USUAL),
        access=access,
        algorithm=algorithm,
        observer=reporter,
        progress=shown_progress(args),
    )
    if not args.quiet:
        _explain(found)
    members: dict[str, str | bool] = {
        "imageName": location.name,
        "imageDigest": str(found.location.digest),
        "hash": found.hash,
        "finalImageName": final.name,
        "finalImageTag": final.tag,
        **_unusual(args),
    }
    if args.json:
        say_json(members)
    else:
        say_lines(_nix_lines(members))


def _given(args: argparse.Namespace) -> tuple[Location, Reference]:
    """Return what to fetch, and the final name and tag. Raises UsageError."""
    name = args.image_name or args.name
    if not name:
        raise UsageError("no image; write stream-image prefetch NAME [TAG|DIGEST]")
    # A name given by the option leaves only the version to write.
    version = args.version if not args.image_name or args.version else args.name
    tag, digest = (None, version) if "sha256" in (version or "") else (version, None)
    try:
        location = Location.parse(name)
        if tag := args.image_tag or tag:
            location = Location(name=location.name, tag=tag, digest=location.digest)
            Location.parse(f"{location.name}:{tag}")
        if digest := args.image_digest or digest:
            location = replace(location, digest=parse_digest(digest))
        final = f"{args.final_image_name or location.name}:{args.final_image_tag or location.tag or 'latest'}"
        return location, Reference.parse(final)
    except BadReference as wrong:
        raise UsageError(one_line(str(wrong))) from None


def _unusual(args: argparse.Namespace) -> dict[str, str | bool]:
    """Return the arguments of pullImage that are not its defaults on amd64."""
    asked = given_platform(args, _USUAL)
    settings = (
        ("os", asked.os, _USUAL.os),
        ("arch", asked.architecture, _USUAL.architecture),
        ("variant", asked.variant, _USUAL.variant),
        ("tlsVerify", given_access(args).tls_verify, True),
    )
    return {name: value for name, value, usual in settings if value != usual}


def _explain(found: Prefetched) -> None:
    for label, value in (
        ("ImageName", found.location.name),
        ("ImageDigest", found.location.digest),
        ("FinalImageName", found.final.name),
        ("FinalImageTag", found.final.tag),
        ("ImagePath", found.store_path),
        ("ImageHash", found.hash),
    ):
        if value is not None:
            say(f"-> {label}: {value}")


def _nix_lines(members: dict[str, str | bool]) -> list[str]:
    """Return `members` as a Nix attribute set."""
    return ["{", *(f"  {name} = {_nix(value)};" for name, value in members.items()), "}"]


def _nix(value: str | bool) -> str:  # noqa: FBT001 — a value, not a switch
    if isinstance(value, bool):
        return "true" if value else "false"
    for special in ("\\", '"', "${"):
        value = value.replace(special, f"\\{special}")
    return f'"{value}"'

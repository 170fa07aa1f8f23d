"""The options of verbs that use registries: platform, credentials, TLS."""

from __future__ import annotations

import argparse

from stream.oci.platform import Platform
from stream.registry.trust import Access

_STDERR = 2


def add_platform_arguments(parser: argparse.ArgumentParser, arch: str | None) -> None:
    """Add the options that choose an image of an index. `arch` is the default, None for this
    machine's.
    """
    usual = arch or "this machine's"
    parser.add_argument("--os", metavar="OS", help="the operating system (default: linux)")
    parser.add_argument("--arch", metavar="ARCH", help=f"as Go names it (default: {usual})")
    parser.add_argument("--variant", metavar="V", help="the architecture's variant, such as v7")


def given_platform(args: argparse.Namespace, default: Platform) -> Platform:
    """Return the platform that the options ask for; `default` has what they leave out."""
    return Platform(
        os=args.os or default.os,
        architecture=args.arch or default.architecture,
        variant=args.variant or default.variant,
    )


def add_access_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options for how a registry is reached."""
    parser.add_argument(
        "--tls-verify", choices=("true", "false"), default="true",
        help="with false, plain HTTP and any certificate will do",
    )  # fmt: skip
    _add_authfile_argument(parser)


def add_target_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options for how the registry is reached that an image is pushed to."""
    parser.add_argument(
        "--insecure", action="store_true",
        help="plain HTTP, or any certificate, for the registry that is named",
    )  # fmt: skip
    _add_authfile_argument(parser)


def _add_authfile_argument(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--authfile", metavar="FILE",
        help="the registries' credentials (default: $REGISTRY_AUTH_FILE, or those of podman,"
        " skopeo and docker)",
    )  # fmt: skip


def given_access(args: argparse.Namespace) -> Access:
    """Return how the options ask to reach a registry."""
    return Access(tls_verify=args.tls_verify == "true", authfile=args.authfile)


def given_target_access(args: argparse.Namespace) -> Access:
    """Return how the options ask to reach the registry that an image is pushed to."""
    return Access(tls_verify=not args.insecure, authfile=args.authfile)


def shown_progress(args: argparse.Namespace) -> int | None:
    """Return the descriptor for the progress of another program; None if it is not wanted."""
    return None if args.quiet or args.progress in ("json", "none") else _STDERR

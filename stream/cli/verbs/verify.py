"""`stream-image verify`: check an archive, optionally against a conf."""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from typing import Any

from stream.cli.options import add_sandbox_argument, add_tag_argument
from stream.cli.output import say_json, say_lines
from stream.cli.planned import add_previous_arguments, given_conf, given_planning
from stream.cli.progress import Reporter, readable_size
from stream.cli.registries import add_access_arguments, given_access
from stream.cli.usage import UsageError
from stream.digests import NO_DIGESTS
from stream.errors import RegistryError
from stream.model import ImageConf
from stream.oci.platform import Platform
from stream.oci.start import RULES as START_RULES
from stream.text import one_line
from stream.tools.sbom import load_sbom
from stream.tools.verify import Finding, Verification, verify

SUMMARY = "check an archive, optionally against a conf"
DESCRIPTION = """\
Check an archive's integrity, and report the tools that would reject it. Every digest
is recomputed; documents, layers and their tars are checked. All faults are reported."""
EPILOG = """\
Examples: stream-image verify image.tar.zst
          stream-image verify image.tar --conf conf.json
          stream-image conf.json | stream-image verify -
          stream-image verify image.tar --sbom image.spdx.json

Exit status: 0 if the archive has no fault, 1 if it has any.
The rules and the JSON are described in docs/verify.md.
"""
HAS_PROGRESS = False

FAULTY = 1
_REGISTRY = "docker://"  # before the name of an image in a registry, as for skopeo
_FORMATS = frozenset({"no-index", "no-manifest"})


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the verb's own arguments."""
    parser.add_argument(
        "archive", metavar="ARCHIVE",
        help="a docker-archive or OCI layout, in any compression; - for standard input",
    )  # fmt: skip
    parser.add_argument(
        "--conf",
        metavar="CONF|SPEC",
        help="also check that it is exactly the image of this conf or specification",
    )
    parser.add_argument(
        "--sbom", metavar="FILE|docker://NAME",
        help="also check that this SBOM, or that of an image in a registry, lists what is in it",
    )  # fmt: skip
    add_tag_argument(parser)
    add_access_arguments(parser)
    add_previous_arguments(parser)
    add_sandbox_argument(parser)
    parser.add_argument("--json", action="store_true", help="print one JSON object, for programs")


def run(args: argparse.Namespace, reporter: Reporter) -> int:
    """Verify the archive and print the findings. Raises StreamImageError."""
    if args.archive == args.conf == "-":
        raise UsageError(
            "ARCHIVE and --conf: only one can be standard input; name a file for the other"
        )
    conf = (
        None
        if args.conf is None
        else given_conf(
            args,
            args.conf,
            reporter,
            given_planning(args, reporter, NO_DIGESTS),
            repo_tag=args.repo_tag,
        )
    )
    sboms = _given_sboms(args, conf)
    verification = verify(args.archive, conf, sboms=sboms)
    if args.json:
        say_json(_document(verification))
    elif verification.faults or not args.quiet:
        say_lines(_lines(verification, args.conf, args.sbom))
    return FAULTY if verification.faults else 0


def _given_sboms(args: argparse.Namespace, conf: ImageConf | None) -> list[bytes]:
    """Return the SBOMs that `--sbom` names: in a registry, an image can have several. Raises
    StreamImageError.
    """
    source: str | None = args.sbom
    if source is None:
        return []
    if not source.startswith(_REGISTRY):
        return [load_sbom(source)]
    from stream.tools.registry_image import look_around

    platform = Platform.of_conf(conf) if conf else None
    found = look_around(source.removeprefix(_REGISTRY), platform, given_access(args))
    if not found.sboms:
        raise RegistryError(found.reference, "has no SBOM; push it with --sbom")
    return [sbom.data for sbom in found.sboms]


# ---- for programs


def _document(verification: Verification) -> dict[str, Any]:
    return {
        "name": verification.name,
        "sound": not verification.faults,
        "compression": verification.compression,
        "size": verification.size,
        "layers": verification.layers,
        "entries": verification.entries,
        "images": [
            {
                "image_id": image.image_id,
                "repo_tags": list(image.repo_tags),
                "diff_ids": [layer.diff_id for layer in image.layers],
            }
            for image in verification.images
        ],
        "findings": [
            {
                "rule": finding.rule,
                "fault": finding.fault,
                "place": finding.place,
                "message": finding.message,
                "refused_by": list(finding.refused_by),
                "count": finding.count,
            }
            for finding in verification.findings
        ],
        "refused_by": [name for name, why in verification.refusals.items() if why],
    }


# ---- for people


def _lines(verification: Verification, conf: str | None, sbom: str | None) -> Iterator[str]:
    name = one_line(verification.name)
    if not verification.faults:
        sound = "sound" if conf is None else f"sound and identical to the image of {one_line(conf)}"
        sound += "" if sbom is None else f", as {one_line(sbom)} says"
        yield f"{name}: {sound}: {_summary(verification)}{_not_for(verification)}"
        yield from _starts(verification)
        return
    yield f"{name}: {_counted(sum(f.count for f in verification.faults), 'fault')}"
    for finding in verification.faults:
        yield f"  {finding}"
        if finding.refused_by:
            yield f"    refused by {', '.join(finding.refused_by)}"
    for finding in verification.findings:
        if finding.refused_by and not finding.fault:
            yield f"  not a fault, but refused by {', '.join(finding.refused_by)}: {finding}"
    yield from _starts(verification)


def _starts(verification: Verification) -> Iterator[str]:
    """Yield why containers of the images do not start."""
    for finding in verification.findings:
        if finding.rule in START_RULES:
            yield f"  not a fault, but: {finding}"


def _counted(count: int, what: str) -> str:
    many = f"{what[:-1]}ies" if what.endswith("y") else f"{what}s"
    return f"{count:,} {what if count == 1 else many}"


def _summary(verification: Verification) -> str:
    counts = (
        _counted(len(verification.images), "image"),
        _counted(verification.layers, "layer"),
        _counted(verification.entries, "entry"),
    )
    return ", ".join((*counts, readable_size(verification.size)))


def _not_for(verification: Verification) -> str:
    """Return the consumers that refuse a sound archive, each with its first reason."""
    reasons: dict[Finding, list[str]] = {}
    for consumer, refusals in verification.refusals.items():
        # A docker-archive need not be an OCI layout as well, nor the other way round.
        why = [finding for finding in refusals if finding.rule not in _FORMATS]
        if why:
            reasons.setdefault(why[0], []).append(consumer)
    if not reasons:
        return ""
    return "; refused by " + "; ".join(
        f"{', '.join(consumers)}: {finding}" for finding, consumers in reasons.items()
    )

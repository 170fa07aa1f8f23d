"""`stream-image sbom SPEC|CONF`: print the software bill of materials of an image."""

from __future__ import annotations

import argparse

from stream.cli.options import (
    add_digest_arguments,
    add_sandbox_argument,
    add_tag_argument,
    given_digests,
    given_tag,
)
from stream.cli.output import output_file, standard_output, write_all
from stream.cli.planned import given_planning
from stream.cli.progress import Reporter
from stream.cli.registries import add_platform_arguments, given_platform
from stream.cli.usage import UsageError
from stream.config import is_spec
from stream.model import ImageConf
from stream.oci.platform import Platform
from stream.sbom import FORMATS
from stream.schema.reading import conf_name, directory_of, load_object
from stream.tools.planned import read_confs
from stream.tools.sbom import make_sbom

SUMMARY = "list the packages in an image for scanners (SPDX, CycloneDX)"
DESCRIPTION = """\
Print the software bill of materials of an image: its store paths with names, versions, hashes,
package URLs and references. The references of a specification's image are complete; a conf alone
does not have them, and the document says so."""
EPILOG = """\
Examples: stream-image sbom spec.json -o image.spdx.json
          stream-image sbom conf.json --format cyclonedx

What the documents hold is described in docs/sbom.md.
"""
HAS_PROGRESS = False


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the verb's own arguments."""
    parser.add_argument(
        "target", metavar="SPEC|CONF", help="a specification or a conf; - for standard input"
    )
    parser.add_argument(
        "--format", choices=FORMATS, default=FORMATS[0],
        help="spdx (2.3, default) or cyclonedx (1.5), both in JSON",
    )  # fmt: skip
    parser.add_argument(
        "-o", "--output", metavar="FILE", default="-",
        help="write to FILE (created only when complete; default: standard output)",
    )  # fmt: skip
    add_tag_argument(parser)
    add_platform_arguments(parser, None)
    add_sandbox_argument(parser)
    add_digest_arguments(parser)


def run(args: argparse.Namespace, reporter: Reporter) -> None:
    """Write the SBOM. Raises StreamImageError."""
    name = conf_name(args.target)
    with standard_output() if args.output == "-" else output_file(args.output) as fd:
        document = load_object(args.target)
        confs = read_confs(
            document,
            name=name,
            directory=directory_of(args.target),
            repo_tag=given_tag(args),
            need_tag=is_spec(document),
            warn=reporter.warning,
            planning=given_planning(args, reporter, given_digests(args, reporter.warning)),
        )
        conf = _chosen(confs, args, name)
        data = make_sbom(conf, args.format, lambda line: reporter.warning(f"{name}: {line}"))
        write_all(fd, data, "standard output" if args.output == "-" else args.output)


def _chosen(confs: list[ImageConf], args: argparse.Namespace, name: str) -> ImageConf:
    """Return the conf that fits the given platform best, which need not be given if there is only
    one. Raises UsageError.
    """
    there = ", ".join(str(Platform.of_conf(conf)) for conf in confs)
    if not (args.os or args.arch or args.variant):
        if len(confs) > 1:
            raise UsageError(
                f"{name}: has several images ({there}); choose one with --arch and --variant"
            )
        return confs[0]
    platform = given_platform(args, Platform.of_this_machine())
    closest = platform.closest(map(Platform.of_conf, confs))
    if closest is None:
        raise UsageError(f"{name}: has no image for {platform} (it has: {there})")
    return confs[closest]

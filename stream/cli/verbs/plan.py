"""`stream-image plan SPEC`: make a conf, or one of several platforms, from a specification of the image."""

from __future__ import annotations

import argparse
import gc
import json

from stream.cli.options import (
    add_digest_arguments,
    add_sandbox_argument,
    add_tag_argument,
    given_commands,
    given_digests,
    given_tag,
)
from stream.cli.output import (
    is_standard_output,
    output_file,
    say_lines,
    standard_output,
    write_all,
)
from stream.cli.planned import add_previous_arguments, given_previous
from stream.cli.progress import Reporter
from stream.cli.usage import UsageError
from stream.planning.plan import plan
from stream.planning.platforms import with_one_tag
from stream.planning.spec import read_spec_document
from stream.schema.platforms import join_platforms, split_platforms
from stream.schema.reading import conf_name, directory_of, load_object
from stream.values import replace

SUMMARY = "make a conf from a specification of the image"
DESCRIPTION = """\
Make a conf from a specification: find the closure, assign it to layers, derive the tag.
With -o, prints the tag. The keys of SPEC are the arguments of dockerTools.streamLayeredImage, in JSON."""
EPILOG = """\
Examples: stream-image plan spec.json | stream-image - | docker load
          stream-image plan spec.json --previous old.json -o conf.json

          stream-image plan spec.json --previous docker://registry.example/app:v1

With --previous, the layers of that image or conf are kept where that saves transfer.

A specification:
  {"name": "hello", "contents": ["/nix/store/...-hello", "/nix/store/...-bash"],
   "config": {"Cmd": ["/bin/hello"]}}
platforms is a list of objects, each of which replaces keys for one platform.
Its keys, described in docs/plan.md:
  annotations, architecture, base_config, base_history, config, conflicts,
  contents, copyToRoot, created, customisation_layer, customisation_mtime,
  directories, enableFakechroot, extraCommands, fakeRootCommands, files,
  fromImage, fromImageName, fromImageTag, gid, gname, groups,
  includeNixDB, includeStorePaths, keepContentsDirlinks, labels, layering,
  layeringPipeline, maxLayers, mtime, name, network, nix_store, os, owner,
  perms, postMount, postUmount, preMount, references_graph, roots, runAsRoot,
  skip_base_paths, store_dir, store_root, tag, uid, uname, unshipped, users,
  variant
"""
HAS_PROGRESS = False


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the verb's own arguments."""
    parser.add_argument("spec", metavar="SPEC", help="the specification; - for standard input")
    add_previous_arguments(parser)
    parser.add_argument(
        "-o", "--output", metavar="FILE", default="-",
        help="write to FILE (created only when complete; default: standard output)",
    )  # fmt: skip
    add_tag_argument(parser)
    add_sandbox_argument(parser)
    add_digest_arguments(parser)


def run(args: argparse.Namespace, reporter: Reporter) -> None:
    """Plan the image and write its conf. Raises StreamImageError."""
    # Planning makes many small objects that all live to its end: searching them for cycles
    # would take a tenth of the time.
    gc.disable()
    if args.spec == args.previous == "-":
        raise UsageError(
            "SPEC and --previous: only one can be standard input; name a file for the other"
        )
    repo_tag = given_tag(args)
    commands = given_commands(args)
    specs = []
    directory = directory_of(args.spec)
    for place, one in split_platforms(load_object(args.spec), conf_name(args.spec)):
        spec = read_spec_document(one, name=place, warn=reporter.warning, directory=directory)
        tag = spec.conf.repo_tag if repo_tag is None else repo_tag
        specs.append(replace(spec, conf=replace(spec.conf, commands=commands, repo_tag=tag)))
    digests = given_digests(args, reporter.warning)
    find_previous = given_previous(args, reporter)
    with standard_output() if args.output == "-" else output_file(args.output) as fd:
        plans = [
            plan(spec, find_previous(spec), warn=reporter.warning, digests=digests)
            for spec in specs
        ]
        tagged = with_one_tag(specs, [one.conf for one in plans])
        document = join_platforms(
            [
                {**one.document, "repo_tag": conf.repo_tag}
                for one, conf in zip(plans, tagged, strict=True)
            ]
        )
        data = json.dumps(document, indent=2).encode() + b"\n"
        write_all(fd, data, "standard output" if args.output == "-" else args.output)
    if not is_standard_output(args.output):
        say_lines(dict.fromkeys(conf.repo_tag for conf in tagged if conf.repo_tag is not None))

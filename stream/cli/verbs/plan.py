"""`stream-image plan SPEC`: the conf of a specification."""

from __future__ import annotations

import argparse
import gc
import json

from stream.cli.output import output_file, standard_output, write_all
from stream.cli.progress import Reporter
from stream.errors import UsageError
from stream.planning.plan import plan
from stream.planning.previous import read_previous
from stream.planning.spec import parse_spec
from stream.schema.reading import conf_name, read_conf

DESCRIPTION = """\
Print the conf of a specification: closure, layers, tag. The keys of SPEC are the
arguments of dockerTools.streamLayeredImage, in JSON."""
EPILOG = """\
Examples: stream-image plan spec.json | stream-image - | docker load
          stream-image plan spec.json --previous old.json -o conf.json
With --previous, layers of that conf stay as they are where that pays: less is
pushed again.

A specification:
  {"name": "hello", "contents": ["/nix/store/...-hello", "/nix/store/...-bash"],
   "config": {"Cmd": ["/bin/hello"]}}
Its keys, which docs/plan.md describes:
  annotations, architecture, base_config, base_history, config, conflicts,
  contents, copyToRoot, created, customisation_layer, directories,
  enableFakechroot, extraCommands, fakeRootCommands, fromImage, fromImageName,
  fromImageTag, gid, gname, includeNixDB, includeStorePaths, keepContentsDirlinks,
  labels, layering, layeringPipeline, maxLayers, mtime, name, nix_store, os,
  owner, perms, references_graph, skip_base_paths, store_dir, store_root, tag,
  uid, uname
"""
HAS_PROGRESS = False


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The arguments of this verb."""
    parser.add_argument("spec", metavar="SPEC", help="the specification; - for standard input")
    parser.add_argument(
        "--previous", metavar="CONF", help="the conf of the build before, whose layers are kept"
    )
    parser.add_argument(
        "-o", "--output", metavar="FILE", default="-",
        help="write to FILE, which appears when it is complete (default: standard output)",
    )  # fmt: skip


def run(args: argparse.Namespace, reporter: Reporter) -> None:
    """Plan. Raises StreamImageError."""
    # A burst of small objects that all live to its end: looking for cycles among them
    # takes a tenth of the time.
    gc.disable()
    if args.spec == args.previous == "-":
        raise UsageError("standard input can be only one of the two: name a file for the other")
    name = conf_name(args.spec)
    spec = parse_spec(read_conf(args.spec), name=name, warn=reporter.warning)
    previous = read_previous(args.previous).store_layers if args.previous else None
    with standard_output() if args.output == "-" else output_file(args.output) as fd:
        document = plan(spec, previous, warn=reporter.warning)
        data = json.dumps(document, indent=2).encode() + b"\n"
        write_all(fd, data, "standard output" if args.output == "-" else args.output)

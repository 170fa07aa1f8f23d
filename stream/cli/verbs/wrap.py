"""`stream-image wrap CONF -o FILE`: an executable that streams the image of a conf."""

from __future__ import annotations

import argparse
import os

from stream.cli import wrapper
from stream.cli.installation import this_installation
from stream.cli.options import add_tag_argument, given_tag
from stream.cli.output import output_file, standard_output, write_all
from stream.cli.progress import Reporter
from stream.config import parse_conf
from stream.errors import UsageError
from stream.schema.reading import MAX_CONF, conf_in, conf_name, read_conf
from stream.text import one_line

DESCRIPTION = """\
Write an executable that streams the image of a conf, wherever and in whatever
environment it is started, with this stream-image. It passes its flags on. A wrong
conf yields no executable."""
EPILOG = """\
Examples: stream-image wrap conf.json -o stream-hello
          ./stream-hello | docker load
          ./stream-hello --repo-tag hello:v2 --compress zstd -o hello.tar.zst
The conf is named by its absolute path, links in it as they are. With --embed it is
in the executable, which is a conf as well: stream-image inspect ./stream-hello
"""
HAS_PROGRESS = False


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The arguments of this verb."""
    parser.add_argument(
        "conf", metavar="CONF", help="the conf JSON; with --embed, - for standard input"
    )
    parser.add_argument(
        "-o", "--output", metavar="FILE", required=True,
        help="the executable, which appears when it is complete; - for standard output",
    )  # fmt: skip
    parser.add_argument(
        "--embed", action="store_true", help="put the conf into the executable, not its path"
    )
    add_tag_argument(parser)


def run(args: argparse.Namespace, reporter: Reporter) -> None:
    """Wrap. Raises StreamImageError."""
    repo_tag = given_tag(args)
    data, name = read_conf(args.conf), conf_name(args.conf)
    conf = parse_conf(data, name=name, repo_tag=repo_tag, warn=reporter.warning)
    wrapper.check(conf, name)
    if args.embed:
        script = wrapper.embedding(this_installation(), conf_in(data, name), repo_tag)
        if len(script) > MAX_CONF:  # it will be read as a conf is
            raise UsageError(one_line(f"{name} is too large to embed: leave out --embed"))
    else:
        path = os.fsencode(_lasting_path(args.conf, args.output))
        script = wrapper.named(this_installation(), path, repo_tag)
    with standard_output() if args.output == "-" else output_file(args.output, mode=0o755) as fd:
        write_all(fd, script, "standard output" if args.output == "-" else args.output)


def _lasting_path(conf: str, output: str) -> str:
    """The absolute path of `conf`, links kept: what they lead to then is meant.

    Raises UsageError if nothing can be expected there later.
    """
    # Only where `..` follows a link do names alone not tell.
    path = os.path.abspath(conf)
    if os.path.realpath(path) != os.path.realpath(conf):
        path = os.path.realpath(conf)
    if conf == "-" or path.startswith(("/dev/", "/proc/")) or not os.path.isfile(path):
        raise UsageError(one_line(f"{conf_name(conf)} will not be there later: give --embed"))
    if output != "-" and os.path.realpath(output) == os.path.realpath(path):
        raise UsageError(one_line(f"-o: {output} is the conf: write elsewhere, or give --embed"))
    return path

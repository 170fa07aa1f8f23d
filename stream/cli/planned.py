"""The images of the confs and specifications on a command line."""

from __future__ import annotations

import argparse
from collections.abc import Sequence

from stream.cli.options import given_commands
from stream.cli.progress import Reporter
from stream.cli.usage import UsageError
from stream.digests import Digests
from stream.model import ImageConf
from stream.schema.reading import conf_name
from stream.tools.planned import Planning, load_confs, only_one


def given_planning(args: argparse.Namespace, digests: Digests) -> Planning:
    """Return how the options ask to plan a specification."""
    return Planning(commands=given_commands(args), digests=digests)


def given_confs(
    args: argparse.Namespace,
    sources: Sequence[str],
    reporter: Reporter,
    digests: Digests,
    *,
    repo_tag: str | None = None,
) -> list[ImageConf]:
    """Return the images of the confs and specifications `sources`, words of the command line: of
    each, one for each of its platforms. `repo_tag` replaces their tags. Raises UsageError if
    standard input is given twice, and StreamImageError.
    """
    if [*sources].count("-") > 1:
        raise UsageError("-: standard input can only be read once")
    planning = given_planning(args, digests)
    return [
        conf
        for source in sources
        for conf in load_confs(source, repo_tag=repo_tag, warn=reporter.warning, planning=planning)
    ]


def given_conf(
    args: argparse.Namespace,
    source: str,
    reporter: Reporter,
    digests: Digests,
    *,
    repo_tag: str | None = None,
) -> ImageConf:
    """Return the image of a conf or specification for one platform. See `given_confs`."""
    confs = given_confs(args, [source], reporter, digests, repo_tag=repo_tag)
    return only_one(confs, conf_name(source))

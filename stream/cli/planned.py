"""The images of the confs and specifications on a command line."""

from __future__ import annotations

import argparse

from stream.cli.options import given_commands
from stream.cli.progress import Reporter
from stream.digests import Digests
from stream.model import ImageConf
from stream.schema.reading import conf_name
from stream.tools.planned import Planning, load_confs, only_one


def given_planning(args: argparse.Namespace, digests: Digests) -> Planning:
    """Return how the options ask to plan a specification."""
    return Planning(commands=given_commands(args), digests=digests)


def given_confs(
    args: argparse.Namespace,
    source: str,
    reporter: Reporter,
    digests: Digests,
    *,
    repo_tag: str | None = None,
) -> list[ImageConf]:
    """Return the images of the conf or specification `source`, a word of the command line: one for
    each of its platforms. `repo_tag` replaces its tag. Raises StreamImageError.
    """
    planning = given_planning(args, digests)
    return load_confs(source, repo_tag=repo_tag, warn=reporter.warning, planning=planning)


def given_conf(
    args: argparse.Namespace,
    source: str,
    reporter: Reporter,
    digests: Digests,
    *,
    repo_tag: str | None = None,
) -> ImageConf:
    """Return the image of a conf or specification for one platform. See `given_confs`."""
    confs = given_confs(args, source, reporter, digests, repo_tag=repo_tag)
    return only_one(confs, conf_name(source))

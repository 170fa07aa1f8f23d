"""The images of the confs and specifications on a command line, and the previous builds that
specifications are planned with.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from stream.cli.options import given_commands
from stream.cli.progress import Reporter
from stream.cli.usage import UsageError
from stream.digests import Digests
from stream.model import ImageConf
from stream.schema.reading import conf_name
from stream.text import one_line
from stream.tools.planned import Planning, load_confs, only_one
from stream.values import replace

if TYPE_CHECKING:
    from stream.planning.spec import Spec
    from stream.registry.trust import Access
    from stream.tools.existing import Place
    from stream.tools.planned import Previous

_NONE = ""  # the value of --no-previous


def add_previous_arguments(parser: argparse.ArgumentParser, *, usual: str | None = None) -> None:
    """Add `--previous` and `--no-previous`, the last of which takes effect. `usual` says which image
    it is by default, if there is one.
    """
    default = f" (default: {usual})" if usual else ""
    parser.add_argument(
        "--previous", metavar="IMAGE|CONF",
        help="of a specification: keep the layers of the previous build where that saves transfer. It"
        " is an archive, a conf, docker://NAME:TAG in a registry, docker-daemon:, containers-storage:"
        f" or containerd:NAME:TAG{default}",
    )  # fmt: skip
    parser.add_argument(
        "--no-previous", action="store_const", const=_NONE, dest="previous",
        help="keep no layers of a previous build",
    )  # fmt: skip


def given_planning(
    args: argparse.Namespace,
    reporter: Reporter,
    digests: Digests,
    *,
    destination: Callable[[Spec], Place | None] | None = None,
    access: Callable[[Place], Access] | None = None,
) -> Planning:
    """Return how the options ask to plan a specification. See `given_previous`."""
    previous = given_previous(args, reporter, destination=destination, access=access)
    return Planning(commands=given_commands(args), digests=digests, previous=previous)


def given_previous(
    args: argparse.Namespace,
    reporter: Reporter,
    *,
    destination: Callable[[Spec], Place | None] | None = None,
    access: Callable[[Place], Access] | None = None,
) -> Callable[[Spec], Previous]:
    """Return what finds the previous build of a specification: unless the options name one, it is at
    the `destination` of the image, if the specification keeps layers at all. `access` says how the
    registry of a place is reached.
    """
    previous: str | None = getattr(args, "previous", None)

    def find(spec: Spec) -> Previous:
        is_usual = previous is None
        if previous == _NONE or (is_usual and (destination is None or not spec.keeps_layers)):
            return None
        from stream.oci.platform import Platform
        from stream.registry.trust import Access
        from stream.tools.existing import Place
        from stream.tools.previous import find_previous

        place = Place.parse(previous) if previous else destination and destination(spec)
        if place is None:
            return None
        return find_previous(
            place,
            Platform.of_conf(spec.conf),
            access=access(place) if access else Access(),
            is_expected=not is_usual,
            warn=reporter.warning,
        )

    return find


def given_confs(  # noqa: PLR0913 — each is for one part of reading
    args: argparse.Namespace,
    sources: Sequence[str],
    reporter: Reporter,
    planning: Planning,
    *,
    repo_tag: str | None = None,
    need_tag: bool = True,
) -> list[ImageConf]:
    """Return the images of the confs and specifications `sources`, words of the command line: of
    each, one for each of its platforms. `repo_tag` replaces their tags. Without `need_tag`,
    one that is not there is not derived. Raises UsageError if standard input is given twice, and
    StreamImageError.
    """
    previous: str | None = getattr(args, "previous", None)
    words = [*sources, *filter(None, [previous])]
    if words.count("-") > 1:
        raise UsageError("-: standard input can only be read once")
    planned: list[Spec] = []

    def find(spec: Spec) -> Previous:
        planned.append(spec)
        return planning.previous(spec) if planning.previous else None

    noting = replace(planning, previous=find)
    confs = [
        conf
        for source in sources
        for conf in load_confs(
            source, repo_tag=repo_tag, need_tag=need_tag, warn=reporter.warning, planning=noting
        )
    ]
    if previous and not planned:
        reporter.warning(f"--previous {one_line(previous)}: not used, as a conf has its layers")
    return confs


def given_conf(
    args: argparse.Namespace,
    source: str,
    reporter: Reporter,
    planning: Planning,
    *,
    repo_tag: str | None = None,
) -> ImageConf:
    """Return the image of a conf or specification for one platform. See `given_confs`."""
    confs = given_confs(args, [source], reporter, planning, repo_tag=repo_tag)
    return only_one(confs, conf_name(source))

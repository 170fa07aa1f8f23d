"""The images that a tool is pointed at: that of a conf, or of a specification, which is planned on
the way. A conf is distinguished from a specification by its keys. Must not know archives or argv.
"""

from __future__ import annotations

import gc
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, TypeAlias

from stream.config import is_spec, read_conf_document
from stream.digests import NO_DIGESTS, Digests
from stream.errors import ConfError, Fault
from stream.model import Commands, ImageConf
from stream.schema.platforms import KEY, TOO_MANY, split_platforms
from stream.schema.reading import conf_name, directory_of, ignore, load_object
from stream.values import dataclass, replace

if TYPE_CHECKING:
    from stream.planning.previous import PreviousImage
    from stream.planning.spec import Spec

    Previous: TypeAlias = Sequence[Sequence[str]] | PreviousImage | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Planning:
    """How a specification is planned: the way to run a recipe's `commands`, `digests` with those of
    files on which a derived tag depends, and what finds the `previous` build, for `plan`.
    """

    commands: Commands = "sandboxed"
    digests: Digests = NO_DIGESTS
    previous: Callable[[Spec], Previous] | None = None


PLANNING = Planning()


def load_confs(
    source: str | os.PathLike[str],
    *,
    repo_tag: str | None = None,
    need_tag: bool = True,
    warn: Callable[[str], None] = ignore,
    planning: Planning = PLANNING,
) -> list[ImageConf]:
    """Read the conf or specification at the path `source`, or from standard input if that is `-`.
    See `read_confs`.
    """
    return read_confs(
        load_object(source),
        name=conf_name(source),
        directory=directory_of(source),
        repo_tag=repo_tag,
        need_tag=need_tag,
        warn=warn,
        planning=planning,
    )


def read_confs(  # noqa: PLR0913 — each is for one part of reading
    document: dict[str, Any],
    *,
    name: str,
    directory: str = "",
    repo_tag: str | None = None,
    need_tag: bool = True,
    warn: Callable[[str], None] = ignore,
    planning: Planning = PLANNING,
) -> list[ImageConf]:
    """Return the images of a conf, or of a specification, as JSON; messages call it `name`.
    Relative paths in a specification start from `directory`, or the current one. `repo_tag` replaces
    the document's own tag. Without `need_tag`, one that a conf does not have is None, and one that a
    specification does not have is not derived, either. `warn` is called with each warning, a line.
    Raises StreamImageError.
    """
    confs: list[ImageConf] = []
    specs: list[Spec] = []
    for place, one in split_platforms(document, name):
        if is_spec(one):
            from stream.planning.spec import read_spec_document

            spec = read_spec_document(one, name=place, warn=warn, directory=directory)
            if repo_tag is not None:
                spec = replace(spec, conf=replace(spec.conf, repo_tag=repo_tag))
            specs.append(spec)
            conf = _planned(spec, warn, planning, need_tag=need_tag)
        else:
            conf = read_conf_document(
                one, name=place, repo_tag=repo_tag, need_tag=need_tag, warn=warn
            )
        confs.append(replace(conf, commands=planning.commands))
    if len(confs) == len(specs) > 1 and need_tag:
        from stream.planning.platforms import with_one_tag

        return with_one_tag(specs, confs)
    return confs


def only_one(confs: Sequence[ImageConf], name: str) -> ImageConf:
    """Return the only one of `confs`, which are those of the document `name`. Raises ConfError if
    there are several.
    """
    if len(confs) > 1:
        raise ConfError(name, [Fault(KEY, TOO_MANY)])
    return confs[0]


def _planned(
    spec: Spec, warn: Callable[[str], None], planning: Planning, *, need_tag: bool
) -> ImageConf:
    from stream.planning.plan import plan

    own = spec.conf.repo_tag
    # To derive a tag that nobody needs could take reading files.
    stand_in = None if need_tag else f"{spec.repository}:untagged"
    conf = replace(spec.conf, commands=planning.commands, repo_tag=own or stand_in)
    spec = replace(spec, conf=conf)
    previous = planning.previous(spec) if planning.previous else None
    with _without_garbage():
        planned = plan(spec, previous, warn=warn, digests=planning.digests).conf
    return planned if own or need_tag else replace(planned, repo_tag=None)


@contextmanager
def _without_garbage() -> Iterator[None]:
    """Collect no garbage: planning makes many small objects that all live to its end, and searching
    them for cycles would take a tenth of the time.
    """
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()

"""The target of a tool: a conf, a specification or an archive, in a file or on standard input."""

from __future__ import annotations

import os
from collections.abc import Callable

from stream.archives.bytesource import StreamBytes, pieces
from stream.archives.sequential import STANDARD_INPUT, Sequential
from stream.archives.target import split_archive
from stream.errors import ArgumentError
from stream.model import ImageConf
from stream.schema.reading import (
    HEAD,
    begins_conf,
    conf_in,
    directory_of,
    is_conf,
    load_object,
    parse_object,
)
from stream.tools.planned import PLANNING, Planning, only_one, read_confs
from stream.values import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class ArchiveFile:
    """An archive at `path`; `repo_tag` chooses one of its images."""

    path: str
    repo_tag: str | None

    def __str__(self) -> str:
        """Return what names it."""
        return self.path if self.repo_tag is None else f"{self.path}:{self.repo_tag}"


def read_target(
    target: str | os.PathLike[str],
    *,
    repo_tag: str | None = None,
    tagged: bool = True,
    warn: Callable[[str], None],
    planning: Planning = PLANNING,
) -> ImageConf | ArchiveFile | Sequential:
    """Return the conf or the archive that `target` names (`-`: standard input), or the conf of a
    specification. `repo_tag` replaces a conf's; without `tagged`, a conf's is ignored. An archive
    on standard input is returned as `Sequential`, since it can only be read once.

    Raises ConfError, also for a conf of several platforms, ArgumentError for an image of a conf,
    ArchiveError if standard input cannot be read, or the errors of planning.
    """
    found = read_targets(target, repo_tag=repo_tag, tagged=tagged, warn=warn, planning=planning)
    if isinstance(found, list):
        name = STANDARD_INPUT if target == "-" else os.fspath(target)
        return only_one(found, name)
    return found


def read_targets(
    target: str | os.PathLike[str],
    *,
    repo_tag: str | None = None,
    tagged: bool = True,
    warn: Callable[[str], None],
    planning: Planning = PLANNING,
) -> list[ImageConf] | ArchiveFile | Sequential:
    """Return the archive that `target` names, or the confs, one for each platform. See
    `read_target`.
    """
    ArgumentError.require("target", target, str, os.PathLike)
    if target == "-":
        file = Sequential(0, STANDARD_INPUT)
        if not begins_conf(file.peek(HEAD)):
            return file
        name = file.name
        data = b"".join(pieces(StreamBytes(file, name)))
        document = parse_object(conf_in(data, name), name)
    else:
        name, chosen = split_archive(os.fspath(target))
        if not is_conf(name):
            return ArchiveFile(path=name, repo_tag=chosen)
        if chosen is not None:
            reason = "is a conf, which has only one image; leave out its tag"
            raise ArgumentError("target", os.fspath(target), reason)
        document = load_object(name)
    if not tagged and "repo_tag" in document:
        document = {**document, "repo_tag": None}
    return read_confs(
        document,
        name=name,
        directory="" if target == "-" else directory_of(name),
        repo_tag=repo_tag,
        need_tag=tagged,
        warn=warn,
        planning=planning,
    )

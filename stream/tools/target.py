"""What a tool is pointed at: a conf, or an archive, in a file or on standard input."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass

from stream.archives.bytesource import StreamBytes, pieces
from stream.archives.sequential import STANDARD_INPUT, Sequential
from stream.archives.target import split_archive
from stream.config import load_conf, parse_conf
from stream.errors import ArgumentError
from stream.model import ImageConf
from stream.schema.reading import HEAD, begins_conf, is_conf


@dataclass(frozen=True, slots=True, kw_only=True)
class ArchiveFile:
    """An archive at `path`; `repo_tag` chooses one of its images."""

    path: str
    repo_tag: str | None


def read_target(
    target: str | os.PathLike[str],
    *,
    repo_tag: str | None = None,
    warn: Callable[[str], None],
) -> ImageConf | ArchiveFile | Sequential:
    """Return the conf that `target` names (`-`: standard input), or the archive. `repo_tag`
    replaces a conf's. An archive on standard input passes once, as `Sequential`.

    Raises ConfError, ArgumentError for an image of a conf, or ArchiveError if standard input cannot be read.
    """
    if target == "-":
        file = Sequential(0, STANDARD_INPUT)
        if not begins_conf(file.peek(HEAD)):
            return file
        data = b"".join(pieces(StreamBytes(file, file.name)))
        return parse_conf(data, name=STANDARD_INPUT, repo_tag=repo_tag, warn=warn)
    path, chosen = split_archive(os.fspath(target))
    if not is_conf(path):
        return ArchiveFile(path=path, repo_tag=chosen)
    if chosen is not None:
        reason = "names an image in a conf, which has only one"
        raise ArgumentError("target", os.fspath(target), reason)
    return load_conf(path, repo_tag=repo_tag, warn=warn)

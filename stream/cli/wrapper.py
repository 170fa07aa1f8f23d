"""`wrap`: an executable that streams the image of one conf. It is a short shell script that
refers to the conf by path, or has it appended.

It is a shell script because the kernel limits `#!` interpreters to 127 bytes without spaces.
It uses only what any POSIX shell has built in, and replaces its process by the interpreter,
so exit statuses and signals are those of stream-image. Must not know argv, nor where the
script goes.
"""

from __future__ import annotations

import os
from collections.abc import Callable

from stream.cli.installation import Installation, this_installation
from stream.config import read_conf_document
from stream.errors import ArgumentError, ConfError, Fault
from stream.model import CustomisationLayer, ImageConf
from stream.schema.platforms import split_platforms
from stream.schema.reading import (
    EMBEDDED,
    MAX_CONF,
    conf_in,
    conf_name,
    ignore,
    parse_object,
    path_after,
    read_conf,
)
from stream.text import printable

_HEAD = b"""\
#!/bin/sh
# Made by 'stream-image wrap': streams a container image. Passes its arguments to stream-image.
gone() {
    printf 'stream-image: %s\\n' "$1: missing or not accessible; wrap the conf again" >&2
    exit 1
}
"""
# With a slash in it, the path cannot be mistaken for an option or a verb.
_SELF = b"case $0 in */*) conf=$0 ;; *) conf=./$0 ;; esac\n"


def wrap(
    conf: str | os.PathLike[str],
    *,
    repo_tag: str | None = None,
    embed: bool = False,
    warn: Callable[[str], None] = ignore,
) -> bytes:
    """Return an executable that streams the image of the conf at path `conf` (`-`: standard
    input), with this installation, from any working directory and environment.

    It refers to the conf by its absolute path, with symlinks kept, or with `embed` contains
    it. `repo_tag` replaces the conf's own. `warn` is called with one line for each oddity.
    Raises ConfError for the conf, ArgumentError if it has no lasting path or is too large to
    embed, and InstallationError.
    """
    ArgumentError.require("conf", conf, str, os.PathLike)
    data, name = read_conf(conf), conf_name(conf)
    for place, one in split_platforms(parse_object(conf_in(data, name), name), name):
        check(read_conf_document(one, name=place, repo_tag=repo_tag, warn=warn), place)
    if not embed:
        path = os.fsencode(_lasting_path(os.fspath(conf)))
        return referring(this_installation(), path, repo_tag)
    script = embedding(this_installation(), conf_in(data, name), repo_tag)
    if len(script) > MAX_CONF:  # the limit for reading it as a conf
        raise ArgumentError("conf", name, "is too large to embed")
    return script


def referring(installation: Installation, path: bytes, repo_tag: str | None = None) -> bytes:
    """Return the executable that streams the conf at the absolute `path`.

    `repo_tag`, if given, replaces the conf's own.
    """
    call = _call(installation, _quoted(path), repo_tag)
    return _head(installation) + call.removesuffix(b"\n") + path_after(path)


def embedding(installation: Installation, conf: bytes, repo_tag: str | None = None) -> bytes:
    """Return the executable that contains `conf`, a JSON document, and streams its image.

    It reads itself: here-documents need room for temporary files, arguments and environment
    are limited in size, and standard input stays the caller's.
    """
    call = _call(installation, b'"$conf"', repo_tag)
    return _head(installation) + _SELF + call.removesuffix(b"\n") + EMBEDDED + conf


def check(conf: ImageConf, name: str) -> None:
    """Raise ConfError if `conf` has paths that depend on the working directory."""
    paths = {}
    if conf.base is not None:
        paths["from_image"] = conf.base.path
    if isinstance(conf.customisation_layer, CustomisationLayer):  # a recipe's are absolute
        paths["customisation_layer"] = conf.customisation_layer.path
    faults = [
        Fault(key, f"{path} is relative to the working directory; write an absolute path")
        for key, path in paths.items()
        if not os.path.isabs(path)
    ]
    if faults:
        raise ConfError(name, faults)


def _lasting_path(conf: str) -> str:
    """Return the absolute path of `conf`, symlinks kept, so that they may be redirected later.

    Raises ArgumentError if no file can be expected there later.
    """
    # Names alone do not tell where `..` after a symlink leads.
    path = os.path.abspath(conf)
    if os.path.realpath(path) != os.path.realpath(conf):
        path = os.path.realpath(conf)
    if conf == "-" or path.startswith(("/dev/", "/proc/")) or not os.path.isfile(path):
        raise ArgumentError("conf", conf_name(conf), "does not last as a file")
    return path


def _head(installation: Installation) -> bytes:
    lines = [_HEAD]
    for test, path in ((b"-x", installation.python), (b"-r", installation.package)):
        shown = _quoted(printable(path).encode())
        lines.append(b"test %s %s || gone %s\n" % (test, _quoted(path), shown))
    return b"".join(lines)


def _call(installation: Installation, conf: bytes, repo_tag: str | None) -> bytes:
    words = [b"exec", *map(_quoted, installation.command()), conf]
    if repo_tag is not None:
        words += [b"--repo-tag", _quoted(repo_tag.encode())]
    return b" ".join([*words, b'"$@"']) + b"\n"


def _quoted(word: bytes) -> bytes:
    """Return `word` quoted for the shell, whatever bytes it has."""
    return b"'" + word.replace(b"'", b"'\\''") + b"'"

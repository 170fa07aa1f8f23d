"""An executable that streams the image of one conf: a short shell script, the conf
named in it by its path, or behind it as a whole.

A script of the shell, because the kernel takes no interpreter of more than 127 bytes
or with a space in it. It uses nothing but what is built into any POSIX shell, and its
process becomes the interpreter: exit statuses and signals are those of stream-image.
Opens no file; knows neither argv nor where the script goes.
"""

from __future__ import annotations

import os

from stream.cli.installation import Installation
from stream.errors import ConfError, Fault
from stream.model import CustomisationLayer, ImageConf
from stream.schema.reading import EMBEDDED
from stream.text import printable

_HEAD = b"""\
#!/bin/sh
# Made by 'stream-image wrap': streams a container image. Further flags are stream-image's.
gone() {
    printf 'stream-image: %s\\n' "$1: is gone, or closed to this user: wrap the conf again" >&2
    exit 1
}
"""
# With a slash in it nothing takes it for a flag or a verb.
_SELF = b"case $0 in */*) conf=$0 ;; *) conf=./$0 ;; esac\n"


def named(installation: Installation, path: bytes, repo_tag: str | None = None) -> bytes:
    """The executable that streams the conf at `path`, which is absolute.

    `repo_tag`, if given, takes the place of the conf's own.
    """
    return _head(installation) + _call(installation, _quoted(path), repo_tag)


def embedding(installation: Installation, conf: bytes, repo_tag: str | None = None) -> bytes:
    """The executable that streams `conf`, a JSON document that it holds.

    It reads itself: here-documents need a place for temporary files, arguments and
    environment have limits, and standard input stays the caller's.
    """
    call = _call(installation, b'"$conf"', repo_tag)
    return _head(installation) + _SELF + call.removesuffix(b"\n") + EMBEDDED + conf


def check(conf: ImageConf, name: str) -> None:
    """Raise ConfError if `conf` means another image in another working directory."""
    paths = {}
    if conf.base is not None:
        paths["from_image"] = conf.base.path
    if isinstance(conf.customisation_layer, CustomisationLayer):  # a recipe's are absolute
        paths["customisation_layer"] = conf.customisation_layer.path
    faults = [
        Fault(key, f"{path} is relative to the working directory: write an absolute path")
        for key, path in paths.items()
        if not os.path.isabs(path)
    ]
    if faults:
        raise ConfError(name, faults)


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
    """`word` for the shell, whatever its bytes are."""
    return b"'" + word.replace(b"'", b"'\\''") + b"'"

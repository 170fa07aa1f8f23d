"""Read files that contain a JSON object: a conf, a specification, or an executable that embeds
a conf or refers to one.

Must not know any keys.
"""

from __future__ import annotations

import json
import os
import re
from contextlib import suppress
from typing import Any

from stream.errors import ArgumentError, ConfError, Fault
from stream.faults import kind
from stream.limits import MAX_LINKS
from stream.parsing import parse_json

HEAD = 512  # bytes; enough to distinguish a conf from an archive
# Precedes the conf in an executable; cannot occur in a JSON document.
EMBEDDED = b"\nexit 126 # the conf follows\n"
# Precedes the conf's absolute path in an executable that refers to it; a JSON string.
REFERRED = b"\nexit 126 # the path of the conf follows\n"
MAX_CONF = 1 << 27  # bytes; a conf of 10,000 store paths has about a million
PEEKED = 4096  # bytes; in an archive, one of them is NUL; in JSON, none is
_SMALL = 1 << 18  # bytes
# A match inside a string does no harm.
_LARGE_NUMBER = re.compile(rb"[\s:,\[-][0-9]{19}")


def ignore(_message: str) -> None:
    """Discard a message."""


def conf_name(source: str | os.PathLike[str]) -> str:
    """Return the name of `source` in messages. See `load_conf`."""
    return "standard input" if source == "-" else os.fspath(source)


def directory_of(source: str | os.PathLike[str]) -> str:
    """Return the directory in which relative paths in the file `source` start; empty for the
    current one, where those of standard input start, and of any other pipe.
    """
    path = os.fspath(source)
    return os.path.dirname(path) if path != "-" and os.path.isfile(path) else ""


def read_conf(source: str | os.PathLike[str]) -> bytes:
    """Read the bytes that `load_conf` parses. Raises ConfError."""
    try:
        with open(0 if source == "-" else source, "rb", closefd=source != "-") as file:
            data = file.read(MAX_CONF + 1)
    except OSError as error:
        fault = Fault("", f"cannot be read: {error.strerror}")
        raise ConfError(conf_name(source), [fault]) from error
    if len(data) > MAX_CONF:
        fault = Fault("", f"is too large for a conf (more than {MAX_CONF} bytes)")
        raise ConfError(conf_name(source), [fault])
    if not data:
        hint = " (did the command before the pipe fail?)" if source == "-" else ""
        raise ConfError(conf_name(source), [Fault("", f"is empty{hint}")])
    return data


def conf_in(data: bytes, name: str) -> bytes:
    """Return the conf of `data` if it is an executable, in it or in the file that it refers to,
    otherwise `data` itself. Messages call it `name`. Raises ConfError for an executable without
    a conf.
    """
    for _ in range(MAX_LINKS):
        if not data.startswith(b"#!"):
            return data
        # The last one: paths before it can contain anything.
        head, found, conf = data.rpartition(EMBEDDED)
        _, referred, path = data[len(head) :].rpartition(REFERRED)
        if referred:
            data = read_conf(_parse_path(path, name))
        elif found:
            return conf
        else:
            reason = "is an executable without a conf; give the conf itself"
            raise ConfError(name, [Fault("", reason)])
    raise ConfError(name, [Fault("", "is an executable that refers to itself")])


def path_after(path: bytes) -> bytes:
    """Return what refers to the conf at the absolute `path`, for the end of an executable."""
    return REFERRED + json.dumps(os.fsdecode(path)).encode() + b"\n"


def _parse_path(data: bytes, name: str) -> str:
    try:
        path = json.loads(data)
    except ValueError:
        path = None
    if not isinstance(path, str) or not path.startswith("/") or "\0" in path:
        raise ConfError(name, [Fault("", "is an executable with a malformed path of its conf")])
    return path


def load_object(source: str | os.PathLike[str]) -> dict[str, Any]:
    """Return the JSON object in the file `source`, or on standard input if that is `-`. For an
    executable, return the conf in it. Raises ConfError.
    """
    ArgumentError.require("source", source, str, os.PathLike)
    name = conf_name(source)
    return parse_object(conf_in(read_conf(source), name), name)


def load_value(path: str) -> Any:
    """Return the JSON value in the file at `path`. Raises ConfError."""
    return _parse(read_conf(path), path)


def parse_object(data: bytes, name: str) -> dict[str, Any]:
    """Parse `data`, a JSON object that messages call `name`. Integers of any size are exact.
    Raises ConfError.
    """
    document = _parse(data, name)
    if not isinstance(document, dict):
        raise ConfError(name, [Fault("", f"must be an object, not {kind(document)}")])
    return document


def _parse(data: bytes, name: str) -> Any:
    # Importing orjson takes as long as it saves on a document of this size. It decides all doubtful
    # cases: it refuses escaped surrogates and numbers that no float can hold, and says at which line
    # a document is wrong.
    if len(data) <= _SMALL and b"\\u" not in data and not _LARGE_NUMBER.search(data):
        with suppress(ValueError):
            return parse_json(data)
    import orjson

    try:
        document = orjson.loads(data)
    except orjson.JSONDecodeError as error:
        if b"\0" in data[:PEEKED]:
            fault = Fault("", "is binary, not JSON (is it an archive?)")
        else:
            place = f"line {error.lineno} column {error.colno}"
            fault = Fault(place, f"not JSON: {error.msg}")
        raise ConfError(name, [fault]) from None
    if _LARGE_NUMBER.search(data):
        # orjson turns integers of more than 64 bits into floats: a different image ID.
        try:
            return json.loads(data)
        except (RecursionError, ValueError) as error:
            raise ConfError(name, [Fault("", f"cannot be read: {error}")]) from None
    return document


def begins_conf(head: bytes) -> bool:
    """Return True if a file that begins with `head` is a JSON object or an executable. Neither
    contains a NUL; every tar header does.
    """
    return (head.lstrip()[:1] == b"{" or head[:2] == b"#!") and b"\0" not in head


def head_of(path: str) -> bytes:
    """Return the first HEAD bytes of the file at `path`; none if it cannot be read at offsets."""
    try:
        fd = os.open(os.fsencode(path), os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
        try:
            return os.pread(fd, HEAD, 0)
        finally:
            os.close(fd)
    except (OSError, ValueError):
        return b""  # reported when the file is opened for reading


def is_conf(path: str) -> bool:
    """Return True if the file at `path` is a conf rather than an archive."""
    return begins_conf(head_of(path))

"""Files that hold a JSON object: a conf, a specification, or an executable with a conf in it.

Knows no keys.
"""

from __future__ import annotations

import json
import os
import re
from typing import Any

import orjson

from stream.errors import ArgumentError, ConfError, Fault
from stream.faults import kind

HEAD = 512  # bytes that tell a conf from an archive
# In an executable with a conf, what stands before it: no line of a JSON document.
EMBEDDED = b"\nexit 126 # the conf follows\n"
MAX_CONF = 1 << 27  # bytes; a conf of 10,000 store paths is one of a megabyte
PEEKED = 4096  # bytes; an archive has a NUL among them, no JSON has one
# Also in a string, where it does no harm.
_LARGE_NUMBER = re.compile(rb"[\s:,\[-][0-9]{19}")


def ignore(_message: str) -> None:
    """Tell nobody."""


def conf_name(source: str | os.PathLike[str]) -> str:
    """What stands for `source` in messages: see `load_conf`."""
    return "standard input" if source == "-" else os.fspath(source)


def read_conf(source: str | os.PathLike[str]) -> bytes:
    """The bytes that `load_conf` parses. Raises ConfError."""
    try:
        with open(0 if source == "-" else source, "rb", closefd=source != "-") as file:
            data = file.read(MAX_CONF + 1)
    except OSError as error:
        fault = Fault("", f"cannot be read: {error.strerror}")
        raise ConfError(conf_name(source), [fault]) from error
    if len(data) > MAX_CONF:
        fault = Fault("", f"has more than {MAX_CONF} bytes: is it a conf?")
        raise ConfError(conf_name(source), [fault])
    if not data:
        hint = ": what writes it has failed?" if source == "-" else ""
        raise ConfError(conf_name(source), [Fault("", f"is empty{hint}")])
    return data


def conf_in(data: bytes, name: str) -> bytes:
    """The conf that an executable holds; anything else as it is. Raises ConfError for
    an executable that holds none. `name` stands for `data` in messages.
    """
    if not data.startswith(b"#!"):
        return data
    # The last one: paths before it can hold anything.
    _, found, conf = data.rpartition(EMBEDDED)
    if not found:
        raise ConfError(name, [Fault("", "is an executable that holds no conf: give the conf")])
    return conf


def load_object(source: str | os.PathLike[str]) -> dict[str, Any]:
    """Return the JSON object at the path `source`, or on standard input if that is `-`; of an
    executable, the conf in it. Raises ConfError.
    """
    ArgumentError.require("source", source, str, os.PathLike)
    name = conf_name(source)
    return parse_object(conf_in(read_conf(source), name), name)


def parse_object(data: bytes, name: str) -> dict[str, Any]:
    """Return the JSON object that `data` is, integers of any size exactly. `name` stands for
    `data` in messages. Raises ConfError.
    """
    try:
        document = orjson.loads(data)
    except orjson.JSONDecodeError as error:
        if b"\0" in data[:PEEKED]:
            fault = Fault("", "is binary, not JSON: is it an archive?")
        else:
            place = f"line {error.lineno} column {error.colno}"
            fault = Fault(place, f"not JSON: {error.msg}")
        raise ConfError(name, [fault]) from None
    if not isinstance(document, dict):
        raise ConfError(name, [Fault("", f"must be an object, not {kind(document)}")])
    if _LARGE_NUMBER.search(data):
        # Of integers that have more than 64 bits orjson makes floats: another image ID.
        try:
            exact: dict[str, Any] = json.loads(data)
        except (RecursionError, ValueError) as error:
            raise ConfError(name, [Fault("", f"cannot be read: {error}")]) from None
        return exact
    return document


def begins_conf(head: bytes) -> bool:
    """Whether what begins so is a document, or an executable with one: neither has a
    NUL, and no tar's header has none.
    """
    return (head.lstrip()[:1] == b"{" or head[:2] == b"#!") and b"\0" not in head


def head_of(path: str) -> bytes:
    """The first HEAD bytes of a regular file; none of what is not one."""
    try:
        fd = os.open(os.fsencode(path), os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
        try:
            return os.pread(fd, HEAD, 0)
        finally:
            os.close(fd)
    except (OSError, ValueError):
        return b""  # opening it will tell


def is_conf(path: str) -> bool:
    """Whether the file at `path` is a conf, and no archive."""
    return begins_conf(head_of(path))

"""The output: standard output, standard error, or a file that appears when it is complete.

All text for people leaves here, with what could control a terminal escaped. Must not know
what the bytes or the text mean.
"""

from __future__ import annotations

import errno
import fcntl
import json
import os
import re
import secrets
import stat
import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from typing import Any, TextIO

from stream import pipes
from stream.cli.usage import UsageError
from stream.errors import OutputError, StreamImageError
from stream.text import one_line


def _umask() -> int:
    mask = os.umask(0o077)
    os.umask(mask)
    return mask


def _failed(path: str, error: OSError) -> OutputError:
    return OutputError(error.errno, f"{path}: cannot be written: {error.strerror}")


# Paths that name descriptors of this process; the file behind one may even be deleted.
_DESCRIPTORS = re.compile(r"/dev/stdout|/dev/stderr|(?:/dev|/proc/self)/fd/(\d{1,9})", re.ASCII)


def _own_descriptor(path: str) -> int | None:
    """Return the descriptor that `path` names, or None."""
    if not (match := _DESCRIPTORS.fullmatch(path)):
        return None
    return {"/dev/stdout": 1, "/dev/stderr": 2}.get(path) or int(match[1] or 1)


def is_terminal(path: str) -> bool:
    """Return whether `path` (`-`: standard output) is a terminal."""
    descriptor = 1 if path == "-" else _own_descriptor(path)
    try:
        if descriptor is not None:
            return os.isatty(descriptor)
        if not stat.S_ISCHR(os.stat(path).st_mode):
            return False
        fd = os.open(path, os.O_WRONLY | os.O_NOCTTY | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError:
        return False  # opening it for writing reports the error
    try:
        return os.isatty(fd)
    finally:
        os.close(fd)


def _is_special(path: str) -> bool:
    """Return whether `path` exists and is not a regular file. Raises UsageError or
    OutputError for a path at which no file can be created.
    """
    if not path:
        raise UsageError("-o: the file name is empty")
    try:
        mode = os.stat(path).st_mode
    except FileNotFoundError:
        if path.endswith("/"):
            raise OutputError(errno.EISDIR, f"{path}: names a directory") from None
        return False
    except OSError as error:
        raise _failed(path, error) from error
    if stat.S_ISDIR(mode):
        raise OutputError(errno.EISDIR, f"{path}: is a directory")
    return not stat.S_ISREG(mode)


@contextmanager
def output_file(path: str, *, mode: int = 0o666) -> Iterator[int]:
    """Return a descriptor to write the file `path` with.

    A regular file is written beside its place and renamed on success; a failure leaves the
    existing file as it was. A device, a FIFO or an open descriptor (`/dev/stdout`) is written
    to directly. A regular file gets the permissions `mode` less the umask. Raises
    UsageError and OutputError.
    """
    descriptor = _own_descriptor(path)
    special = descriptor is not None or _is_special(path)
    try:
        target = os.path.realpath(path)
    except OSError as error:  # a relative path in a deleted working directory
        raise _failed(path, error) from error
    # Named before it exists: a signal may arrive before open() returns.
    part = f".stream-image.{secrets.token_hex(8)}.part"
    beside = None if special else os.path.join(os.path.dirname(target), part)
    try:
        fd = _open_output(path, descriptor, beside)
        try:
            yield fd
            if beside is not None:
                os.fchmod(fd, mode & ~_umask())
        finally:
            os.close(fd)
        if beside is not None:
            os.replace(beside, target)
    except BaseException as error:
        if beside is not None:
            with suppress(OSError):
                os.unlink(beside)
        # An error with one file name is about another file; only os.replace here gives two.
        if (
            isinstance(error, OSError)
            and not isinstance(error, StreamImageError)
            and (error.filename is None or error.filename2 is not None)
        ):
            raise _failed(path, error) from error
        raise


def _open_output(path: str, descriptor: int | None, beside: str | None) -> int:
    try:
        if descriptor is not None:
            return os.dup(descriptor)
        if beside is None:
            return os.open(path, os.O_WRONLY | os.O_CLOEXEC)
        return os.open(beside, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    except OSError as error:
        raise _failed(path, error) from error


@contextmanager
def standard_output() -> Iterator[int]:
    """Return the descriptor of standard output, which carries the output and nothing else.

    Raises OutputError if it is closed.
    """
    try:
        mode = fcntl.fcntl(1, fcntl.F_GETFL) & os.O_ACCMODE
    except OSError as error:
        raise OutputError(error.errno, "standard output is closed") from error
    if mode == os.O_RDONLY:
        raise OutputError(errno.EBADF, "standard output is closed")
    yield 1


def write_all(fd: int, data: bytes, name: str) -> None:
    """Write all of `data`, even if another process has made `fd` non-blocking.

    Unbuffered: data left in a buffer when the reader has gone would fail again at exit.
    `name` stands for `fd` in messages. Raises OutputError.
    """
    try:
        pipes.write_all(fd, data)
    except OSError as error:
        raise OutputError.unwritable(error, f"{name} cannot be written") from error


def hold_standard_descriptors() -> None:
    """Open the descriptors of standard streams that are closed, which the next files opened
    would otherwise get. Each is opened in the wrong direction, so that using it still fails.
    """
    for fd, mode in ((0, os.O_WRONLY), (1, os.O_RDONLY), (2, os.O_RDONLY)):
        try:
            os.fstat(fd)
        except OSError:
            os.open(os.devnull, mode)  # gets the lowest free number, which is `fd`


def say_lines(lines: Iterable[str]) -> None:
    """Write each of `lines` on a line of standard output, escaped. Raises OutputError."""
    say_rendered("\n".join(map(one_line, lines)))


def say_rendered(text: str) -> None:
    """Write `text` and a newline to standard output as they are: it is escaped already, and
    may have colours. Raises OutputError.
    """
    with standard_output() as fd:
        write_all(fd, _encoded(text + "\n", sys.stdout), "standard output")


def say_json(document: Any) -> None:
    """Write `document` to standard output as indented ASCII. Raises OutputError."""
    say_rendered(printable_json(document, indent=2))


def printable_json(document: Any, indent: int | None = None) -> str:
    """Return `document` as JSON of printable ASCII, on one line unless it is indented."""
    return json.dumps(document, indent=indent).replace("\x7f", "\\u007f")


def say(text: str) -> None:
    """Write `text` to standard error, on one line, escaped. An error is not reported: there
    is nowhere to report it, and the output is what matters.
    """
    write_error(one_line(text) + "\n")


def write_error(text: str) -> None:
    """Write `text` to standard error as it is. Errors are not reported.

    Not through sys.stderr, which would keep what it could not write, fail again when Python
    exits, and change the exit status.
    """
    with suppress(OSError):
        pipes.write_all(2, _encoded(text, sys.stderr))


def _encoded(text: str, stream: TextIO | None) -> bytes:
    """Return `text` in the encoding of `stream`; what that lacks is escaped."""
    return text.encode(stream.encoding if stream else "utf-8", "backslashreplace")

"""Where the archive's bytes go: standard output, or a file that appears whole.

Knows nothing of what the bytes are.
"""

from __future__ import annotations

import errno
import fcntl
import json
import os
import re
import secrets
import select
import stat
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any

from stream.errors import OutputError, ReaderClosedError, StreamImageError, UsageError


def _umask() -> int:
    mask = os.umask(0o077)
    os.umask(mask)
    return mask


def _failed(path: str, error: OSError) -> OutputError:
    return OutputError(error.errno, f"{path}: cannot be written: {error.strerror}")


# Names of descriptors of our own: what they lead to can be anything, even deleted.
_DESCRIPTORS = re.compile(r"/dev/stdout|/dev/stderr|(?:/dev|/proc/self)/fd/(\d{1,9})", re.ASCII)


def _own_descriptor(path: str) -> int | None:
    """The descriptor that `path` names, or None."""
    if not (match := _DESCRIPTORS.fullmatch(path)):
        return None
    return {"/dev/stdout": 1, "/dev/stderr": 2}.get(path) or int(match[1] or 1)


def is_terminal(path: str) -> bool:
    """Whether what is written to `path` (`-`: standard output) is for a screen."""
    descriptor = 1 if path == "-" else _own_descriptor(path)
    try:
        if descriptor is not None:
            return os.isatty(descriptor)
        if not stat.S_ISCHR(os.stat(path).st_mode):
            return False
        fd = os.open(path, os.O_WRONLY | os.O_NOCTTY | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError:
        return False  # writing to it will tell
    try:
        return os.isatty(fd)
    finally:
        os.close(fd)


def _is_special(path: str) -> bool:
    """Whether `path` exists and is no regular file. Raises OutputError for what no
    file can be made of.
    """
    if not path:
        raise UsageError("-o: the name of the file is empty")
    try:
        mode = os.stat(path).st_mode
    except FileNotFoundError:
        if path.endswith("/"):
            raise OutputError(errno.EISDIR, f"{path}: is the name of a directory") from None
        return False
    except OSError as error:
        raise _failed(path, error) from error
    if stat.S_ISDIR(mode):
        raise OutputError(errno.EISDIR, f"{path}: is a directory")
    return not stat.S_ISREG(mode)


@contextmanager
def output_file(path: str, *, mode: int = 0o666) -> Iterator[int]:
    """A descriptor to write what shall be in the file `path`.

    A regular file is written beside its place and renamed when all went well:
    whatever happens before leaves what was there. What exists and is no regular
    file (a device, a FIFO), or is open already (`/dev/stdout`), is written to as
    it is. A regular file has the permissions `mode` less the umask. Raises OutputError.
    """
    descriptor = _own_descriptor(path)
    special = descriptor is not None or _is_special(path)
    try:
        target = os.path.realpath(path)
    except OSError as error:  # of a relative name, where the directory is gone
        raise _failed(path, error) from error
    # Named before it is there: a signal may come before its descriptor does.
    part = f".stream-image.{secrets.token_hex(8)}.part"
    beside = None if special else os.path.join(os.path.dirname(target), part)
    try:
        fd = _opened(path, descriptor, beside)
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
        # Another's file has one name, the two of a renaming are ours.
        if (
            isinstance(error, OSError)
            and not isinstance(error, StreamImageError)
            and (error.filename is None or error.filename2 is not None)
        ):
            raise _failed(path, error) from error
        raise


def _opened(path: str, descriptor: int | None, beside: str | None) -> int:
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
    """Standard output, for the archive alone.

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
    """Write all of `data`, also where others have made `fd` non-blocking.

    Unbuffered: what a buffer still holds when the reader has gone would be an error
    again at exit. `name` stands for `fd` in messages. Raises OutputError.
    """
    left = memoryview(data)
    while left:
        try:
            left = left[os.write(fd, left) :]
        except BlockingIOError:
            select.select([], [fd], [])
        except BrokenPipeError as error:
            raise ReaderClosedError(error.errno, "the reader closed the pipe") from error
        except OSError as error:
            raise OutputError(error.errno, f"{name} cannot be written: {error.strerror}") from error


def hold_standard_descriptors() -> None:
    """Put something in the place of standard streams that are closed, or the next
    file opened would be taken for one of them: what fails to be used the way the
    stream would be, so that nothing succeeds unseen.
    """
    for fd, mode in ((0, os.O_WRONLY), (1, os.O_RDONLY), (2, os.O_RDONLY)):
        try:
            os.fstat(fd)
        except OSError:
            os.open(os.devnull, mode)  # the lowest number that is free: this one


def say_text(text: str) -> None:
    """Write `text` and a newline. Raises OutputError.

    In a locale that cannot write a character it stands escaped.
    """
    encoding = sys.stdout.encoding if sys.stdout is not None else "utf-8"
    data = (text + "\n").encode(encoding, "backslashreplace")
    with standard_output() as fd:
        write_all(fd, data, "standard output")


def say_json(document: Any) -> None:
    """Write `document`, in ASCII and indented. Raises OutputError."""
    say_text(json.dumps(document, indent=2))

"""Where the archive's bytes go: standard output, or a file that appears whole.

Knows nothing of what the bytes are.
"""

from __future__ import annotations

import os
import stat
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress

from stream.errors import OutputError


def _umask() -> int:
    mask = os.umask(0o077)
    os.umask(mask)
    return mask


def _failed(path: str, error: OSError) -> OutputError:
    return OutputError(error.errno, f"{path}: cannot be written: {error.strerror}")


@contextmanager
def output_file(path: str) -> Iterator[int]:
    """A descriptor to write what shall be in the file `path`.

    A regular file is written beside its place and renamed when all went well:
    whatever happens before leaves what was there. What exists and is no regular
    file (a device, a FIFO) is written to as it is. Raises OutputError.
    """
    target = os.path.realpath(path)
    try:
        special = not stat.S_ISREG(os.stat(path).st_mode)
    except FileNotFoundError:
        special = False
    except OSError as error:
        raise _failed(path, error) from error

    try:
        if special:
            fd, beside = os.open(path, os.O_WRONLY | os.O_CLOEXEC), None
        else:
            directory, name = os.path.split(target)
            fd, beside = tempfile.mkstemp(prefix=f".{name[:200]}.", suffix=".part", dir=directory)
    except OSError as error:
        raise _failed(path, error) from error

    try:
        try:
            yield fd
            if beside is not None:
                os.fchmod(fd, 0o666 & ~_umask())
        finally:
            os.close(fd)
        if beside is not None:
            os.replace(beside, target)
    except BaseException as error:
        if beside is not None:
            with suppress(OSError):
                os.unlink(beside)
        if (
            isinstance(error, OSError)
            and not isinstance(error, OutputError)
            and error.filename is None
        ):
            raise _failed(path, error) from error
        raise


@contextmanager
def standard_output() -> Iterator[int]:
    """Standard output, for the archive alone.

    Raises OutputError if it is closed.
    """
    try:
        os.fstat(1)
    except OSError as error:
        raise OutputError(error.errno, "standard output is closed") from error
    yield 1

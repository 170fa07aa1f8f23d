"""A private directory for temporary files, which is removed at the end even if this process is killed.

Must not know what it is for.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager

from stream.errors import SourceError
from stream.temporary import removal


@contextmanager
def private_directory(above: str | None = None) -> Iterator[bytes]:
    """Make a private directory in the directory `above`, by default TMPDIR; remove it at the end
    with everything in it, even if this process is killed.

    Raises SourceError.
    """
    above = above or _temporary()
    name = f"stream-image.{os.urandom(8).hex()}"
    path = os.fsencode(os.path.join(above, name))
    with _removed_at_the_end(above, name):
        with translate_errors(path):
            make_directory(path)
        yield path


def make_directory(path: bytes) -> None:
    """Make a directory that only we can use, whatever our umask is. Raises OSError."""
    os.mkdir(path, 0o700)
    os.chmod(path, 0o700)


def _temporary() -> str:
    try:
        return tempfile.gettempdir()
    except FileNotFoundError as error:
        raise SourceError(
            b"TMPDIR", "no writable directory for temporary files; set TMPDIR to one"
        ) from error


@contextmanager
def _removed_at_the_end(above: str, name: str) -> Iterator[None]:
    """Remove the directory `name` of `above` at the end. A program of its own does that, since
    it outlives us if we are killed; if it is killed, we do it. Raises SourceError.
    """
    with translate_errors(os.fsencode(above)):
        parent = os.open(above, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        with translate_errors(os.fsencode(above)):
            # Before the directory exists: without this program, none would be made.
            process = subprocess.Popen(  # noqa: S603 — a program of this package
                [sys.executable, "-I", "-S", removal.__file__, str(parent), name],
                stdin=subprocess.PIPE,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                pass_fds=[parent],
                start_new_session=True,
                cwd="/",
            )
        assert process.stdin is not None
        try:
            yield
        finally:
            process.stdin.close()
            process.wait()
            removal.remove(parent, os.fsencode(name))
    finally:
        os.close(parent)


@contextmanager
def translate_errors(path: bytes) -> Iterator[None]:
    """Raise a failure of the system in the body, which writes `path`, as SourceError."""
    try:
        yield
    except SourceError:
        raise
    except OSError as error:
        raise SourceError(path, f"cannot be written: {error.strerror}") from error

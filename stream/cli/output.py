"""The output: standard output, standard error, or a file or directory that appears when it is
complete.

All text for people leaves here, with what could control a terminal escaped. Must not know
what the bytes or the text mean.
"""

from __future__ import annotations

import errno
import fcntl
import json
import os
import re
import stat
import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from typing import Any, TextIO

from stream import pipes
from stream.cli.usage import UsageError
from stream.errors import OutputError
from stream.text import one_line
from stream.values import dataclass, field


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


def is_standard_output(path: str) -> bool:
    """Return whether `path`, the value of -o, is standard output, `-` or by a name such as /dev/stdout."""
    return path == "-" or _own_descriptor(path) == 1


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

    A regular file gets its name on success; a failure leaves the existing file as it was. A
    device, a FIFO or an open descriptor (`/dev/stdout`) is written to directly. A regular
    file gets the permissions `mode` less the umask. Raises UsageError and OutputError.
    """
    descriptor = _own_descriptor(path)
    if descriptor is None and not _is_special(path):
        with _new_file(path, mode) as fd:
            yield fd
        return
    with _writing(path):
        # Opened anew, a descriptor would begin at the start of its file.
        fd = os.open(path, os.O_WRONLY | os.O_CLOEXEC) if descriptor is None else os.dup(descriptor)
    try:
        yield fd
    finally:
        with _writing(path):
            os.close(fd)


@contextmanager
def _writing(path: str) -> Iterator[None]:
    """Raise an OSError of the body as OutputError for `path`."""
    try:
        yield
    except OSError as error:
        raise _failed(path, error) from error


@contextmanager
def _new_file(path: str, mode: int) -> Iterator[int]:
    """Return a descriptor to write a regular file with, which becomes `path` at the end.

    Where the file system allows it, the file has no name until then, so that not even
    SIGKILL leaves anything. Elsewhere it is written beside its place and renamed.
    """
    with _writing(path):
        target = os.path.realpath(path)  # fails in a deleted working directory
    directory = os.path.dirname(target)
    # Named before it exists: a signal may arrive before open() returns.
    beside = os.path.join(directory, f".stream-image.{os.urandom(8).hex()}.part")
    try:
        with _writing(path):
            fd, is_named = _open_new(directory, beside)
        try:
            yield fd
            with _writing(path):
                os.fchmod(fd, mode & ~_umask())
                os.close(os.dup(fd))  # some file systems report a failed write on close only
                if not is_named:
                    is_named = not _link_new(fd, target) and _link_new(fd, beside)
        finally:
            os.close(fd)
        if is_named:
            with _writing(path):
                os.replace(beside, target)
    except BaseException:
        with suppress(OSError):
            os.unlink(beside)
        raise


@dataclass(frozen=True, slots=True, kw_only=True)
class NewDirectory:
    """A directory being made: `fd` is the descriptor to write its large file with, `small` has
    the text of each other file by name.
    """

    fd: int
    small: dict[str, str] = field(default_factory=dict)


@contextmanager
def output_directory(path: str, large: str) -> Iterator[NewDirectory]:
    """Return a new directory to be filled, with a file called `large`. It appears at `path`,
    where nothing may be yet, on success; a failure or a signal leaves nothing.

    Where the file system allows it, nothing has a name until the large file is complete, so
    that not even SIGKILL before that leaves anything. Raises UsageError and OutputError.
    """
    target, beside = _new_place(path)
    above = os.path.dirname(target)
    file, directory = f"{beside}.file.part", f"{beside}.part"
    made = {large: ""}
    try:
        with _writing(path):
            fd, is_named = _open_new(above, file)
        try:
            new = NewDirectory(fd=fd)
            yield new
            made |= new.small
            with _writing(path):
                os.fchmod(fd, 0o666 & ~_umask())
                os.close(os.dup(fd))  # as in _new_file
                os.mkdir(directory)
                if is_named:
                    os.rename(file, os.path.join(directory, large))
                else:
                    _link_new(fd, os.path.join(directory, large))
        finally:
            os.close(fd)
        with _writing(path):
            for name, text in new.small.items():
                with open(os.path.join(directory, name), "x", encoding="utf-8") as small:
                    small.write(text)
            os.rename(directory, target)
    except BaseException:
        for name in (file, *(os.path.join(directory, name) for name in made)):
            with suppress(OSError):
                os.unlink(name)
        with suppress(OSError):
            os.rmdir(directory)
        raise


@contextmanager
def new_tree(path: str) -> Iterator[str]:
    """Return the path of a new directory to be filled. It appears at `path`, where nothing may
    be yet, on success; a failure or a signal leaves nothing. Raises UsageError and OutputError.
    """
    target, beside = _new_place(path)
    directory = f"{beside}.part"
    try:
        with _writing(path):
            os.mkdir(directory)
        yield directory
        with _writing(path):
            os.rename(directory, target)
    except BaseException:
        import shutil  # it imports all of the standard library's codecs

        shutil.rmtree(directory, ignore_errors=True)
        raise


def _new_place(path: str) -> tuple[str, str]:
    """Return the absolute path of a directory to be made at `path`, and one beside it for what
    is not complete. Raises UsageError and OutputError.
    """
    if path in ("", "-"):
        raise UsageError("-o: give the name of a directory, which will be made")
    with _writing(path):
        target = os.path.abspath(path)  # fails in a deleted working directory
    if os.path.lexists(target):
        raise OutputError(
            errno.EEXIST, f"{path}: exists already; remove it, or choose another name"
        )
    return target, os.path.join(os.path.dirname(target), f".stream-image.{os.urandom(8).hex()}")


def _open_new(directory: str, beside: str) -> tuple[int, bool]:
    """Open a new file in `directory` for writing. Return its descriptor, and whether it is
    called `beside` or has no name yet.
    """
    with suppress(OSError):  # some file systems have only files with names
        fd = os.open(directory, os.O_RDWR | os.O_TMPFILE | os.O_CLOEXEC, 0o600)
        if os.path.exists(_entry_of(fd)):
            return fd, False
        os.close(fd)  # no /proc: it could not be named later
    return os.open(beside, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600), True


def _link_new(fd: int, name: str) -> bool:
    """Call the file behind `fd`, which has no name, `name`. Return False if that exists."""
    try:
        # Only with a descriptor does Python call linkat, which follows the entry's symlink.
        os.link(_entry_of(fd), name, src_dir_fd=fd, follow_symlinks=True)
    except FileExistsError:
        return False
    return True


def _entry_of(fd: int) -> str:
    return f"/proc/self/fd/{fd}"


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
        write_all(fd, _encoded(text + "\n", sys.__stdout__), "standard output")


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
        pipes.write_all(2, _encoded(text, sys.__stderr__))


def _encoded(text: str, stream: TextIO | None) -> bytes:
    """Return `text` in the encoding of `stream`; what that lacks is escaped."""
    return text.encode(stream.encoding if stream else "utf-8", "backslashreplace")

"""Removes a directory with everything in it, of any mode and any depth, by descriptors only.

Also a separate program that does so when the process that started it ends, however it ends:
nobody else is left after SIGKILL. Must follow no name that a recipe's commands could have made.
Runs standalone: must not import the rest of the package.
"""

from __future__ import annotations

import itertools
import os
import resource
import stat
import sys
import time
from collections.abc import Iterator
from contextlib import suppress

_DIRECTORY = os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
PATIENCE = 5.0  # seconds for processes that still make files to die


def remove(parent: int, name: bytes) -> None:
    """Remove the directory `name` of the directory `parent`, a descriptor. What cannot be
    removed stays.
    """
    top = _open(name, parent)
    if top is None:
        return
    try:
        # Each directory is moved to the top before it is read, so that no path gets too long.
        names = (f".{os.urandom(8).hex()}".encode() for _ in itertools.count())
        waiting = [_detach_all(top, names, top)]
        while waiting:
            for below in waiting.pop():
                if (fd := _open(below, top)) is not None:
                    try:
                        waiting.append(_detach_all(fd, names, top))
                    finally:
                        os.close(fd)
                with suppress(OSError):
                    os.rmdir(below, dir_fd=top)
    finally:
        os.close(top)
    with suppress(OSError):
        os.rmdir(name, dir_fd=parent)


def _open(name: bytes, parent: int) -> int | None:
    """Open a directory, made accessible first; None if that is not possible."""
    try:
        closed = os.open(name, os.O_PATH | _DIRECTORY, dir_fd=parent)
    except OSError:
        return None
    try:
        with suppress(OSError):  # leads to the directory itself, whatever its name is now
            os.chmod(f"/proc/self/fd/{closed}", 0o700)
        return os.open(b".", os.O_RDONLY | _DIRECTORY, dir_fd=closed)
    except OSError:
        return None
    finally:
        os.close(closed)


def _detach_all(directory: int, names: Iterator[bytes], top: int) -> list[bytes]:
    """Unlink the files in `directory`, and move the directories to `top`. Return their names
    there.
    """
    moved = []
    for child in map(os.fsencode, os.listdir(directory)):
        with suppress(OSError):
            if not stat.S_ISDIR(os.lstat(child, dir_fd=directory).st_mode):
                os.unlink(child, dir_fd=directory)
                continue
            # A directory can be moved only if it can be written to: its `..` changes.
            if (fd := _open(child, directory)) is not None:
                os.close(fd)
            name = next(names)
            os.rename(child, name, src_dir_fd=directory, dst_dir_fd=top)
            moved.append(name)
    return moved


def main(argv: list[str]) -> int:
    """Carry out `PARENT NAME`: wait until nobody holds the other end of standard input, then
    remove the directory NAME of PARENT, a descriptor. Needs few descriptors, as we may be allowed
    only few.
    """
    parent = 1
    os.dup2(int(argv[0]), parent)
    os.closerange(parent + 1, resource.getrlimit(resource.RLIMIT_NOFILE)[1])
    while os.read(0, 1):
        pass
    os.close(0)
    name = os.fsencode(argv[1])
    begun = time.monotonic()
    while True:
        remove(parent, name)
        try:
            os.stat(name, dir_fd=parent, follow_symlinks=False)
        except OSError:
            return 0
        if time.monotonic() - begun > PATIENCE:
            return 1
        time.sleep(0.05)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

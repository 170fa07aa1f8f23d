"""The size of a store path as Nix counts it: that of its NAR, computed without writing one.

Nix manual, "Nix Archive (NAR) format": every word is preceded by its length in 8 bytes and
padded to a multiple of 8.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Mapping

from stream.errors import SourceError


def _word(length: int) -> int:
    return 8 + (length + 7) // 8 * 8


def _words(text: str) -> int:
    return sum(_word(len(word)) for word in text.split())


_MAGIC = _words("nix-archive-1")
_REGULAR = _words("( type regular contents )")
_EXECUTABLE = _words("executable") + _word(0)
_LINK = _words("( type symlink target )")
_DIRECTORY = _words("( type directory )")
_ENTRY = _words("entry ( name node )")


def nar_size(path: bytes) -> int:
    """Return the size in bytes of the NAR of `path`. Links are not followed; devices, which
    a NAR cannot hold, count nothing. Raises SourceError.
    """
    try:
        found = os.lstat(path)
        total = _MAGIC + _size_of(found)
        waiting = [path] if stat.S_ISDIR(found.st_mode) else []
        while waiting:
            path = waiting.pop()
            with os.scandir(path) as entries:
                for entry in entries:
                    total += _ENTRY + _word(len(entry.name))
                    total += _size_of(entry.stat(follow_symlinks=False))
                    if entry.is_dir(follow_symlinks=False):
                        waiting.append(entry.path)
    except OSError as error:
        raise SourceError.unreadable(path, error) from error
    return total


def directory_nar_size(files: Mapping[str, int]) -> int:
    """Return the size in bytes of the NAR of a directory with only `files`: names with sizes."""
    entries = (_ENTRY + _word(len(name)) + _REGULAR + _word(size) for name, size in files.items())
    return _MAGIC + _DIRECTORY + sum(entries)


def _size_of(found: os.stat_result) -> int:
    """Return the bytes that a file, a link, or a directory without its entries takes."""
    if stat.S_ISREG(found.st_mode):
        executable = _EXECUTABLE if found.st_mode & stat.S_IXUSR else 0
        return _REGULAR + executable + _word(found.st_size)
    if stat.S_ISLNK(found.st_mode):
        return _LINK + _word(found.st_size)
    return _DIRECTORY if stat.S_ISDIR(found.st_mode) else 0

"""Archives as a command line or a conf names them: `FILE` or `FILE:name:tag`."""

from __future__ import annotations

import os


def split_archive(text: str) -> tuple[str, str | None]:
    """`FILE` or `FILE:name:tag` as the file and the tag. What exists as a whole is
    a file, whatever colons are in its name.
    """
    at = -1
    while not _exists(text) and (at := text.find(":", at + 1)) >= 0:
        if _exists(text[:at]):
            return text[:at], text[at + 1 :]
    return text, None


def _exists(path: str) -> bool:
    return os.path.lexists(path.encode("utf-8", "surrogateescape"))


def why_unreadable(path: str) -> str | None:
    """Why nothing can be read at `path`, or None."""
    name = path.encode()
    if not os.path.exists(name):
        return "does not exist"
    return None if os.access(name, os.R_OK) else "cannot be read: Permission denied"

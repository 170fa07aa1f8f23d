"""Archive names as in a command line or a conf: `FILE` or `FILE:name:tag`."""

from __future__ import annotations

import os


def split_archive(text: str) -> tuple[str, str | None]:
    """Return the file and the tag of `FILE` or `FILE:name:tag`; the tag is None for `FILE`.

    If all of `text` is the path of an existing file, its colons are part of the path.
    """
    at = -1
    while not _exists(text) and (at := text.find(":", at + 1)) >= 0:
        if _exists(text[:at]):
            return text[:at], text[at + 1 :]
    return text, None


def _exists(path: str) -> bool:
    return os.path.lexists(path.encode("utf-8", "surrogateescape"))


def why_unreadable(path: str) -> str | None:
    """Return the reason why `path` cannot be read, or None if it can."""
    name = path.encode()
    if not os.path.exists(name):
        return "does not exist"
    return None if os.access(name, os.R_OK) else "cannot be read: Permission denied"

"""Parse the notation for archives in command lines and confs: `FILE` or `FILE:name:tag`."""

from __future__ import annotations

import os


def split_archive(text: str) -> tuple[str, str | None]:
    """Split `FILE` or `FILE:name:tag` into the file and the tag. If all of `text` names an
    existing file, colons are part of its name.
    """
    at = -1
    while not _exists(text) and (at := text.find(":", at + 1)) >= 0:
        if _exists(text[:at]):
            return text[:at], text[at + 1 :]
    return text, None


def _exists(path: str) -> bool:
    return os.path.lexists(path.encode("utf-8", "surrogateescape"))


def why_unreadable(path: str) -> str | None:
    """Return why the file at `path` cannot be read, or None if it can."""
    name = path.encode()
    if not os.path.exists(name):
        return "no such file"
    return None if os.access(name, os.R_OK) else "cannot be read: Permission denied"

"""Patterns for files that are left out, in the language of .gitignore (gitignore(5)).

Owns that language, which pathspec reads. Must not know what the files are for.
"""

from __future__ import annotations

import os
import re
from collections.abc import Sequence

from stream.faults import is_text
from stream.values import dataclass

# The patterns are lines, and a dot in pathspec's expressions does not match the end of one. No name
# has a NUL, so that it can stand for a line break in names.
_LINE_BREAK, _STAND_IN = "\n", "\0"


class Exclusions:
    """A list of patterns, of which the last that matches decides. A directory that is excluded is
    excluded with everything in it, as in git: nothing in it is asked about. Raises ValueError for
    what is not a pattern.
    """

    def __init__(self, patterns: Sequence[str]) -> None:
        parsed = map(_parse, patterns)
        self._patterns = [pattern for pattern in parsed if pattern is not None]
        self._patterns.reverse()

    def match(self, path: bytes, *, is_directory: bool) -> bool:
        """Return True if the entry at `path` is excluded. The path has no leading slash, and begins
        below the directory that the patterns are for.
        """
        name = os.fsdecode(path).replace(_LINE_BREAK, _STAND_IN)
        for pattern in self._patterns:
            if (is_directory or not pattern.for_directories) and pattern.match(name):
                return not pattern.is_negated
        return False


@dataclass(frozen=True, slots=True, kw_only=True)
class _Pattern:
    """A pattern without what applies to it as a whole. pathspec's own lists of patterns differ from
    git where a directory matches several, as it does with `*` and `!*/`.
    """

    expression: re.Pattern[str] | None
    is_negated: bool
    for_directories: bool

    def match(self, name: str) -> bool:
        if self.expression is None:  # nothing but asterisks
            return True
        found = self.expression.search(name)
        # What is in a directory matches as well; then the slash is marked.
        return found is not None and not found.groupdict().get("ps_d")


def _parse(line: str) -> _Pattern | None:
    """Parse a line of a .gitignore; None if it is blank or a comment. Raises ValueError."""
    while line.endswith(" ") and not line.endswith("\\ "):
        line = line[:-1]
    if line.startswith("#"):
        return None
    is_negated = line.startswith("!")
    bare = line[is_negated:]
    for_directories = bare.endswith("/")
    bare = bare.removesuffix("/")
    if not bare:
        return None
    expression = None
    if bare.strip("*"):
        from pathspec import GitIgnoreSpec  # imported for those who have patterns

        escaped = "\\" if bare.startswith(("#", "!")) else ""
        (pattern,) = GitIgnoreSpec.from_lines([escaped + bare]).patterns
        expression = pattern.regex
        if expression is None:
            return None  # as in git, it matches nothing
    return _Pattern(expression=expression, is_negated=is_negated, for_directories=for_directories)


def why_not_pattern(pattern: str) -> str | None:
    """Return why `pattern` is not a pattern, or None if it is."""
    if _LINE_BREAK in pattern or _STAND_IN in pattern:
        return "contains a line break or a NUL character; write one pattern per item"
    if not is_text(pattern):
        return "contains an unpaired UTF-16 surrogate"
    try:
        Exclusions([pattern])
    except ValueError as error:
        return f"is not a pattern of .gitignore: {error}"
    return None

"""How this installation is started again, whatever the surroundings: with the same
interpreter and package, and none of the caller's environment.

Knows nothing of what it is started for.
"""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import dataclass

import stream
from stream.errors import UsageError
from stream.text import one_line

# All that streaming needs, from the very file.
_PROBE = "import os, stream, stream.cli.verbs.stream; sys.exit(not os.path.samefile(stream.__file__, sys.argv[1]))"


@dataclass(frozen=True, slots=True, kw_only=True)
class Installation:
    """An interpreter and the package's `__init__.py`, by absolute paths.

    `search_path` takes the place of Python's own; None where that has the package.
    """

    python: bytes
    package: bytes
    search_path: tuple[bytes, ...] | None = None

    def command(self) -> tuple[bytes, ...]:
        """The arguments that start the command line; its own follow them."""
        if self.search_path is None:
            return self.python, b"-I", b"-m", b"stream"
        code = f"{self._prelude()}from stream.__main__ import main; sys.exit(main())"
        return self.python, b"-I", b"-c", code.encode()

    def works(self) -> bool:
        """Whether the interpreter starts and finds this very package and all it needs."""
        code = (self._prelude() + _PROBE).encode()
        try:
            return not subprocess.run(  # noqa: S603 — our own interpreter
                [self.python, b"-I", b"-c", code, self.package],
                check=False,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
            ).returncode
        except OSError:
            return False

    def _prelude(self) -> str:
        if self.search_path is None:
            return "import sys; "
        # Bytes: what they are as text depends on the locale.
        return f"import os, sys; sys.path[:] = map(os.fsdecode, {list(self.search_path)!r}); "


def this_installation() -> Installation:
    """The one that runs. Raises UsageError if it cannot be started again.

    An interpreter that finds the package by itself is left to it. Otherwise (a
    PYTHONPATH, a user's site, a wrapper's script) this process's search path goes along.
    """
    # Links stay: a virtual environment is known by the name of its interpreter.
    python = os.fsencode(os.path.abspath(sys.executable)) if sys.executable else b""
    package = os.path.abspath(stream.__file__)
    for search_path in (None, _search_path(os.path.dirname(os.path.dirname(package)))):
        found = Installation(python=python, package=os.fsencode(package), search_path=search_path)
        if found.works():
            return found
    raise UsageError(
        one_line(
            f"{sys.executable or 'this Python'} does not find stream-image when it is started"
            " anew: install it there, as with 'pip install'"
        )
    )


def _search_path(parent: str) -> tuple[bytes, ...]:
    """The search path of this process, and `parent`, which the package is in."""
    entries = [os.path.abspath(entry) for entry in sys.path]
    # The first is where we were started, or the script is: no place for others' modules.
    if not sys.flags.safe_path and entries and entries[0] != parent:
        del entries[0]
    return tuple(os.fsencode(entry) for entry in dict.fromkeys([*entries, parent]))

"""The command that starts this installation again from any directory and environment, with the
same interpreter and package, and nothing of the caller's environment.

Must not know what is started.
"""

from __future__ import annotations

import os
import subprocess
import sys

import stream
from stream.errors import InstallationError
from stream.values import dataclass

# Imports all that streaming needs, and checks that it is from the very same file.
_PROBE = "import os, stream, stream.cli.verbs.stream; sys.exit(not os.path.samefile(stream.__file__, sys.argv[1]))"


@dataclass(frozen=True, slots=True, kw_only=True)
class Installation:
    """An interpreter and the package's `__init__.py`, as absolute paths.

    `search_path` replaces the interpreter's own; None if that finds the package.
    """

    python: bytes
    package: bytes
    search_path: tuple[bytes, ...] | None = None

    def command(self) -> tuple[bytes, ...]:
        """Return the argv that starts the command line, to be followed by its arguments."""
        if self.search_path is None:
            return self.python, b"-I", b"-m", b"stream"
        code = f"{self._prelude()}from stream.__main__ import main; sys.exit(main())"
        return self.python, b"-I", b"-c", code.encode()

    def works(self) -> bool:
        """Return whether the interpreter starts and finds this package and its dependencies."""
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
        # As bytes: decoding them depends on the locale.
        return f"import os, sys; sys.path[:] = map(os.fsdecode, {list(self.search_path)!r}); "


def this_installation() -> Installation:
    """Return the running installation. Raises InstallationError if it cannot be restarted.

    An interpreter that finds the package by itself is left to it. Otherwise (PYTHONPATH, a
    user's site-packages, a wrapper script) this process's search path is part of the result.
    """
    # Symlinks stay: Python finds a virtual environment by the interpreter's path.
    python = os.fsencode(os.path.abspath(sys.executable)) if sys.executable else b""
    package = os.path.abspath(stream.__file__)
    for search_path in (None, _search_path(os.path.dirname(os.path.dirname(package)))):
        found = Installation(python=python, package=os.fsencode(package), search_path=search_path)
        if found.works():
            return found
    raise InstallationError(
        sys.executable or "", "cannot import stream-image when restarted; install it with pip"
    )


def _search_path(parent: str) -> tuple[bytes, ...]:
    """Return the search path of this process, and `parent`, the package's directory."""
    entries = [os.path.abspath(entry) for entry in sys.path]
    # The first is the script's or the working directory, whose modules must not shadow others.
    if not sys.flags.safe_path and entries and entries[0] != parent:
        del entries[0]
    return tuple(os.fsencode(entry) for entry in dict.fromkeys([*entries, parent]))

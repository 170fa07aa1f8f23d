"""stream-image as its users have it: this checkout, installed into an environment of its own.

An editable install and the tools for development add 0.02 s to each start.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

_ROOT = Path(__file__).resolve().parents[1]
_ENVIRONMENT = _ROOT / ".bench" / "installed"
STREAM_IMAGE = str(_ENVIRONMENT / "bin" / "stream-image")


def install() -> None:
    """Install what is in this checkout now."""
    if not _ENVIRONMENT.exists():
        subprocess.run((sys.executable, "-m", "venv", _ENVIRONMENT), check=True)
    pip = (_ENVIRONMENT / "bin" / "python", "-m", "pip", "install", "--quiet")
    subprocess.run((*pip, "--disable-pip-version-check", _ROOT), check=True)
    # The version stays the same from commit to commit, and with it the install.
    again = ("--disable-pip-version-check", "--force-reinstall", "--no-deps", _ROOT)
    subprocess.run((*pip, *again), check=True)


def beside(python: str) -> str:
    """Return the command that is installed where the interpreter `python` is."""
    return str(Path(python).with_name("stream-image"))

"""Signals that ask the command line to end."""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

PATIENCE = 60.0  # seconds
# The signal arrives after the last instruction of Python and before the call that waits.
_LATE = """\
#include <signal.h>
#include <unistd.h>

int raise_and_wait(int signum) { raise(signum); return pause(); }
"""
_CODE = """\
import ctypes, signal, sys
from stream.cli.signals import Stopped, stop_on_signals
late = ctypes.CDLL(sys.argv[1])
stop_on_signals()
try:
    late.raise_and_wait(signal.SIGTERM)
except Stopped as stopped:
    print(stopped.signum)
"""


def test_signal_just_before_a_wait(tmp_path: Path) -> None:
    """Ctrl-C in the wrong microsecond would do nothing until what is waited for ends by itself."""
    if not shutil.which("gcc"):
        pytest.skip("needs gcc")
    source, library = tmp_path / "late.c", tmp_path / "late.so"
    source.write_text(_LATE, "utf-8")
    subprocess.run(["gcc", "-shared", "-fPIC", "-o", library, source], check=True)
    command = [sys.executable, "-c", _CODE, str(library)]
    done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=PATIENCE)
    assert done.stdout == "15\n"

"""`commandline.run` and `subprocess.run` are the same to a test."""

import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import commandline
import pytest
from support import COMMAND, Store

CASES: Mapping[str, tuple[list[str], dict[str, Any]]] = {
    "output": (["-q", "conf.json"], {}),
    "output-of-megabytes": (["-q", "large.json"], {}),
    "standard-input": (["-q", "-"], {"input": b'{"repo_tag": "x:1"}'}),
    "input-nobody-reads": (["-q", "conf.json"], {"input": bytes(1 << 20)}),
    "nothing-to-read": (["-q", "-"], {"stdin": subprocess.DEVNULL}),
    "one-stream": (["-q", "conf.json"], {"stderr": subprocess.STDOUT}),
    "failure": (["inspect", "none"], {}),
    "usage": (["--bad"], {}),
    "environment": (["inspect", "conf.json"], {"env": {"COLUMNS": "30"}}),
    "locale": (["inspect", "conf.json"], {"env": {"LC_ALL": "C", "PYTHONUTF8": "0"}}),
}


# The others' share in what can differ is small.
FIRST = {"output-of-megabytes", "standard-input", "failure", "environment"}


@pytest.mark.parametrize(
    "case",
    [pytest.param(case, marks=[] if case in FIRST else [pytest.mark.slow]) for case in CASES],
)
def test_same(case: str, tmp_path: Path) -> None:
    """Tests would hold for the forked program only."""
    store = Store.below(tmp_path)
    store.file("large", 4 << 20)
    store.conf(["large"]).rename(tmp_path / "large.json")
    store.file("small", b"content")
    store.conf(["small"])
    arguments, given = CASES[case]
    options = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "cwd": tmp_path, **given}
    if "input" not in options:
        options.setdefault("stdin", subprocess.DEVNULL)
    results = [
        run([*COMMAND, *arguments], check=False, **options)
        for run in (commandline.run, subprocess.run)
    ]
    forked, started = [(done.returncode, done.stdout, done.stderr) for done in results]
    assert forked == started


def test_process_of_its_own(tmp_path: Path) -> None:
    """A program that changes its directory or environment would change those of later tests."""
    before = (os.getpid(), os.getcwd(), dict(os.environ))
    done = commandline.run([*COMMAND, "--version"], cwd=tmp_path, env={"A": "b"}, check=True)
    assert done.returncode == 0
    assert (os.getpid(), os.getcwd(), dict(os.environ)) == before


def test_patience_ends(tmp_path: Path) -> None:
    """A program that hangs would stop the tests, and the next run would get its answer."""
    fifo = tmp_path / "pipe"
    os.mkfifo(fifo)
    keeps_it_open = os.open(fifo, os.O_RDWR)
    with open(fifo, "rb") as pipe, pytest.raises(subprocess.TimeoutExpired):
        commandline.run([*COMMAND, "-"], stdin=pipe, capture_output=True, timeout=0.2, check=False)
    os.close(keeps_it_open)
    done = commandline.run([*COMMAND, "--version"], capture_output=True, check=True)
    assert done.stdout.startswith(b"stream-image ")


def test_other_programs() -> None:
    """Helpers of tests pass any program."""
    done = commandline.run([sys.executable, "-c", "exit(3)"])
    assert done.returncode == 3
    with pytest.raises(subprocess.CalledProcessError):
        commandline.run([*COMMAND, "--bad"], stderr=subprocess.DEVNULL, check=True)

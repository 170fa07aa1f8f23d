"""Signals in the middle of a layer: the program stops immediately, and leaves nothing."""

import os
import signal
import subprocess
import time
from pathlib import Path

import pytest
from support import BALLAST, MIB, Run, Store, assert_unfinished, leftovers, until

from faults.conftest import World

SIGNALS = [signal.SIGINT, signal.SIGTERM, signal.SIGHUP]
# Their default is to end a process without clean-up: `ulimit -t`, a shell's Ctrl-\\, timers.
OTHERS = [signal.SIGQUIT, signal.SIGXCPU, signal.SIGALRM, signal.SIGUSR1, signal.SIGUSR2]
AT_ONCE = 1.0  # seconds
LARGE = 1 << 30  # more than is received before the signal arrives


@pytest.mark.parametrize("signum", SIGNALS)
def test_while_the_pipe_is_full(store: Store, signum: signal.Signals) -> None:
    """Without it a program whose reader hangs could be stopped only by SIGKILL."""
    store.file("one/ballast", BALLAST)
    with Run(store.conf(["one"]), "--progress", "none") as run:
        run.read(MIB)
        run.stall()
        outcome, seconds = run.stopped_by(signum)
        data = run.finish().stdout
    assert (outcome.status, outcome.stderr) == (128 + signum, "")
    assert seconds < AT_ONCE
    assert_unfinished(data)


def _written(process: "subprocess.Popen[bytes]", directory: Path) -> int:
    """Return the size of the unfinished output in `directory`: 0 before it is created."""
    for link in Path(f"/proc/{process.pid}/fd").iterdir():
        path = Path(_target(link))
        if path.parent == directory and path.name.endswith((".part", " (deleted)")):
            return link.stat().st_size
    return 0


@pytest.mark.parametrize(
    "signum", [*SIGNALS, *(pytest.param(other, marks=pytest.mark.slow) for other in OTHERS)]
)
def test_while_busy(store: Store, signum: signal.Signals, tmp_path: Path) -> None:
    """Without it a signal could take effect only at the layer's end, or leave a partial file."""
    store.file("one/large", LARGE)
    target = tmp_path / "image.tar"
    target.write_bytes(b"older")
    conf = store.conf(["one"])
    before = leftovers(tmp_path)

    with Run(conf, "-o", target, "--progress", "none") as run:
        until(lambda: _written(run.process, tmp_path) > MIB)
        outcome, seconds = run.stopped_by(signum)
    assert (outcome.status, outcome.stderr) == (128 + signum, "")
    assert seconds < AT_ONCE
    assert leftovers(tmp_path) == before
    assert target.read_bytes() == b"older"


def test_killed(store: Store, tmp_path: Path) -> None:
    """Without it a program that is killed, as for its memory, could leave gigabytes behind."""
    try:
        os.close(os.open(tmp_path, os.O_WRONLY | os.O_TMPFILE))
    except OSError:
        pytest.skip("this file system has only files with names")
    store.file("one/large", LARGE)
    conf = store.conf(["one"])
    before = leftovers(tmp_path)
    with Run(conf, "-o", tmp_path / "image.tar", "--progress", "none") as run:
        until(lambda: _written(run.process, tmp_path) > MIB)
        outcome, _ = run.stopped_by(signal.SIGKILL)
    assert outcome.status == -signal.SIGKILL
    assert leftovers(tmp_path) == before


def test_while_walking(store: Store, world: World) -> None:
    """Without it Ctrl-C could be ignored while a large tree on a slow disk is walked."""
    for number in range(200):
        store.file(f"one/{number}", b"")
    with Run(store.conf(["one"]), "--progress", "none", env=world(walk="delay:50")) as run:
        until(lambda: _in_walk(run.process))
        outcome, seconds = run.stopped_by(signal.SIGINT)
    assert (outcome.status, outcome.stderr) == (128 + signal.SIGINT, "")
    assert seconds < AT_ONCE


def _in_walk(process: "subprocess.Popen[bytes]") -> bool:
    """Return whether a directory of the store is open."""
    links = Path(f"/proc/{process.pid}/fd").iterdir()
    return any("/store/one" in _target(link) for link in links)


def _target(link: Path) -> str:
    """Return the target of a link; a descriptor may be closed before it is read."""
    try:
        return os.readlink(link)
    except OSError:
        return ""


def _is_caught(signum: signal.Signals, process: "subprocess.Popen[bytes]") -> bool:
    """Return whether the program has a handler for a signal, so that it has started up."""
    status = Path(f"/proc/{process.pid}/status").read_text()
    caught = int(status.split("SigCgt:", 1)[1].split(None, 1)[0], 16)
    return bool(caught >> (signum - 1) & 1)


def test_while_waiting_for_a_fifo(store: Store, tmp_path: Path) -> None:
    """Without it `-o FIFO` without a reader could be stopped only by SIGKILL."""
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo)
    store.file("one", b"")
    with Run(store.conf(["one"]), "-o", fifo, "--progress", "none") as run:
        until(lambda: _is_caught(signal.SIGTERM, run.process))
        time.sleep(0.5)  # its wait cannot be seen from outside: /proc would need privileges
        outcome, seconds = run.stopped_by(signal.SIGTERM)
    assert (outcome.status, outcome.stderr) == (128 + signal.SIGTERM, "")
    assert seconds < AT_ONCE


def test_just_before_a_wait(store: Store, world: World) -> None:
    """Without it Ctrl-C in the wrong microsecond would do nothing until what is waited for ends."""
    store.file("one", b"")
    fifo = store.directory / "fifo"
    os.mkfifo(fifo)
    with Run(store.conf(["one"]), "-o", fifo, env=world(signal=str(int(signal.SIGTERM)))) as run:
        outcome = run.wait()
    assert (outcome.status, outcome.stderr) == (128 + signal.SIGTERM, "")


@pytest.mark.slow
def test_many_at_once(store: Store, tmp_path: Path) -> None:
    """Without it a second signal, sent while the first one ends the run, could show a traceback
    or leave the partial file.
    """
    store.file("one/large", LARGE)
    conf = store.conf(["one"])
    target = tmp_path / "image.tar"
    before = leftovers(tmp_path)
    for _ in range(5):
        with Run(conf, "-o", target, "--progress", "plain") as run:
            until(lambda: _written(run.process, tmp_path))
            while run.process.poll() is None:
                for signum in SIGNALS:
                    run.process.send_signal(signum)
                time.sleep(0.0002)
            outcome = run.wait()
        assert outcome.status in [128 + signum for signum in SIGNALS], outcome.stderr
        assert outcome.stderr == ""
        assert leftovers(tmp_path) == before


def test_ignored_signal_stays_ignored(store: Store) -> None:
    """Without it `nohup stream-image` could end with the terminal."""
    store.file("one/ballast", BALLAST)
    prefix = ["env", "--ignore-signal=HUP"]
    with Run(store.conf(["one"]), "--progress", "none", prefix=prefix) as run:
        run.stall()
        run.process.send_signal(signal.SIGHUP)
        assert run.finish().status == 0

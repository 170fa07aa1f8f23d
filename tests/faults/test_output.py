"""Readers that close early, and outputs that cannot be written."""

import os
import subprocess
from pathlib import Path

import pytest
from support import BALLAST, MIB, Run, Store, assert_failed, assert_unfinished, leftovers


@pytest.fixture
def conf(store: Store) -> Path:
    """Return a conf of one large layer and one small one."""
    store.file("one/ballast", BALLAST)
    store.file("two/file", b"content")
    return store.conf(["one"], ["two"])


@pytest.mark.parametrize("count", [0, 100, 5000, 2 * MIB])
def test_reader_closes_early(conf: Path, count: int) -> None:
    """Without it `stream-image conf.json | head` could print a traceback, or succeed."""
    with Run(conf, "--progress", "none") as run:
        run.read(count)
        run.close_pipe()
        outcome = run.wait()
    assert outcome.status == 1
    assert outcome.stderr == ""
    assert_unfinished(outcome.stdout)


def test_reader_closes_before_the_manifest(store: Store) -> None:
    """Without it an image of one buffer, whose first write is its last, could count as read."""
    store.file("one", b"content")
    conf = store.conf(["one"])
    with Run(conf, "--progress", "none") as run:
        run.close_pipe()
        outcome = run.wait()
    assert (outcome.status, outcome.stderr) == (1, "")


def test_reader_of_a_fifo_closes_early(conf: Path, tmp_path: Path) -> None:
    """Without it `-o FIFO` could behave differently from standard output."""
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo)
    with Run(conf, "-o", fifo, "--progress", "none") as run:
        with fifo.open("rb") as reader:
            reader.read(1000)
        outcome = run.wait()
    assert (outcome.status, outcome.stderr) == (1, "")
    assert fifo.is_fifo()


@pytest.mark.parametrize("how", ["-o", "stdout"])
def test_full_device(conf: Path, how: str) -> None:
    """Without it an image on a full disk could count as written, or end in a traceback."""
    with open("/dev/full", "wb") as full:
        if how == "stdout":
            run = Run(conf, "--progress", "none", stdout=full.fileno())
        else:
            run = Run(conf, "--progress", "none", "-o", "/dev/full")
        with run:
            outcome = run.wait()
    assert_failed(outcome, "No space left on device")
    assert "Errno" not in outcome.stderr


@pytest.mark.skipif(os.geteuid() != 0, reason="only root mounts")
def test_full_file_system(conf: Path, tmp_path: Path) -> None:
    """Without it a partial file could remain on a file system that is full."""
    mount = tmp_path / "small"
    mount.mkdir()
    mounted = ["mount", "-t", "tmpfs", "-o", "size=8m", "tmpfs", str(mount)]
    if subprocess.run(mounted, check=False, capture_output=True).returncode:
        pytest.skip("no leave to mount")
    try:
        target = mount / "image.tar"
        target.write_bytes(b"older")
        with Run(conf, "-o", target, "--progress", "none") as run:
            assert_failed(run.wait(), "No space left on device")
        assert target.read_bytes() == b"older"
        assert leftovers(mount) == ["image.tar"]
    finally:
        subprocess.run(["umount", mount], check=True)


def test_file_size_limit(conf: Path, tmp_path: Path) -> None:
    """Without it a limit on file sizes could kill the program, and leave the partial file."""
    target = tmp_path / "image.tar"
    before = leftovers(tmp_path)
    with Run(
        conf, "-o", target, "--progress", "none", prefix=["prlimit", "--fsize=1000000"]
    ) as run:
        assert_failed(run.wait(), "File too large")
    assert leftovers(tmp_path) == before

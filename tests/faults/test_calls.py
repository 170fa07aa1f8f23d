"""System calls that transfer less than requested, are interrupted, or fail, injected by world.c."""

import os
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest
from support import MIB, Run, Store, assert_failed, members

from faults.conftest import World

CONTENT = bytes(range(251)) * 5000


def _filled(store: Store) -> Path:
    store.file("one/d/file", CONTENT)
    store.file("one/d/empty", b"")
    store.file("two", CONTENT * 3)
    store.path("one/link").symlink_to("d/file")
    return store.conf(["one"], ["two"])


def _archive(conf: Path, env: dict[str, str] | None = None) -> bytes:
    with Run(conf, "--progress", "none", env=env) as run:
        outcome = run.finish()
    assert outcome.status == 0, outcome.stderr
    assert len(outcome.stderr.splitlines()) == 1
    return outcome.stdout


@pytest.mark.parametrize(
    "how",
    [
        {"read": "short:1000"},
        {"read": "eintr"},
        {"write": "short:4000"},
        {"write": "eintr"},
        {"write": "eagain"},
        {"read": "short:777", "write": "short:333"},
    ],
    ids=lambda how: "-".join(f"{call}-{fault.replace(':', '-')}" for call, fault in how.items()),
)
def test_same_bytes(store: Store, world: World, how: dict[str, str]) -> None:
    """Without it bytes could be lost or doubled when a call transfers only a part of them."""
    conf = _filled(store)
    assert _archive(conf, world(**how)) == _archive(conf)


@pytest.mark.parametrize("number", [1, 2, 3])
def test_read_error(store: Store, world: World, number: int) -> None:
    """Without it a bad disk could give a file of zeros."""
    with Run(_filled(store), "--progress", "none", env=world(read=f"eio:{number}")) as run:
        assert_failed(run.finish(), str(store.directory), "Input/output error")


@pytest.mark.parametrize("room", [0, 100, 300_000, 3 * MIB])
def test_disk_full(store: Store, world: World, tmp_path: Path, room: int) -> None:
    """Without it a full disk could replace the previous image by a partial one."""
    target = tmp_path / "image.tar"
    target.write_bytes(b"older")
    with open(os.devnull, "rb") as spare:
        # The descriptor that the next open returns, in a program with three of its own.
        number = 3
        assert spare.fileno() >= number
    conf = _filled(store)
    before = sorted(os.listdir(tmp_path))
    env = world(write=f"enospc:{max(room, 1)}", fd=str(number))
    with Run(conf, "-o", target, "--progress", "none", env=env) as run:
        outcome = run.wait()
    assert_failed(outcome, "No space left on device")
    assert target.read_bytes() == b"older"
    assert sorted(os.listdir(tmp_path)) == before


@pytest.mark.parametrize("extra", [[], ["--format", "oci-archive"]], ids=["docker", "oci"])
def test_hashing_thread_that_cannot_be_started(
    store: Store, world: World, extra: list[str]
) -> None:
    """Without it a container's limit of processes could look like a lack of memory."""
    env = world(thread="_tarhash")
    with Run(_filled(store), *extra, "--progress", "none", env=env) as run:
        assert_failed(run.finish(), "cannot start a thread: ", "limit of processes")


def test_each_file_opened_and_read_once(store: Store, world: World, tmp_path: Path) -> None:
    """Without it the content hashed could come from one read and the content written from another."""
    conf = _filled(store)
    log = tmp_path / "log"
    _archive(conf, world(log=str(log)))
    opened: Counter[str] = Counter()
    read: Counter[str] = Counter()
    for line in log.read_text().splitlines():
        kind, _, rest = line.partition(" ")
        if kind == "open":
            opened[rest] += 1
        else:
            count, _, path = rest.partition(" ")
            read[path] += int(count)
    one = str(store.path("one"))
    # A directory is opened once to be walked, and once to open the files in it.
    assert opened == {one: 1, f"{one}/d": 2, str(store.directory): 1} | dict.fromkeys(
        [f"{one}/d/file", f"{one}/d/empty", str(store.path("two"))], 1
    )
    assert read == {f"{one}/d/file": len(CONTENT), str(store.path("two")): 3 * len(CONTENT)}


# Write the tree in argv to standard output as a layer that is not hashed.
UNHASHED = """
import os, sys
from stream.errors import StreamImageError
from stream.model import Owner
from stream.tarwriter import Entries, write_layer

entries = Entries(owner=Owner(), mtime=1)
entries.walk(os.fsencode(sys.argv[1]))
try:
    write_layer(1, entries.layer_size, lambda content: content.write_entries(entries))
except StreamImageError as error:
    sys.exit(str(error))
"""


def _unhashed(
    store: Store, env: dict[str, str] | None = None
) -> subprocess.CompletedProcess[bytes]:
    return subprocess.run(
        [sys.executable, "-c", UNHASHED, store.directory],
        check=False, capture_output=True, env={**os.environ, **(env or {})},
    )  # fmt: skip


def test_same_bytes_unhashed(store: Store, world: World) -> None:
    """Without it bytes could be lost or doubled when the system sends only a part of a file."""
    _filled(store)
    usual = _unhashed(store)
    assert (usual.returncode, usual.stderr) == (0, b"")
    assert len(usual.stdout) > len(CONTENT) * 4
    for how in (
        {"send": "short:5000"},
        {"send": "short:1000000", "write": "short:4000"},
        {"send": "eintr"},
        {"send": "eagain", "write": "eagain"},
        {"send": "einval", "read": "short:1000"},
        {"send": "eio"},
        {"thread": "_tarhash"},  # nothing is hashed
    ):
        odd = _unhashed(store, world(**how))
        assert (odd.returncode, odd.stderr) == (0, b""), how
        assert odd.stdout == usual.stdout, how


def test_failures_of_a_file_that_is_sent(store: Store, world: World) -> None:
    """Without it a bad disk could look like a bad output, as one call reads and writes."""
    _filled(store)
    failed = _unhashed(store, world(send="eio", read="eio:1"))
    assert failed.returncode == 1
    assert str(store.directory).encode() in failed.stderr
    assert b"Input/output error" in failed.stderr
    failed = _unhashed(store, world(send="eio", write="enospc:100000"))
    assert failed.returncode == 1
    assert b"No space left on device" in failed.stderr
    assert str(store.directory).encode() not in failed.stderr


def test_unhashed_files_are_sent(store: Store, world: World, tmp_path: Path) -> None:
    """Without it a layer whose digest is known could cost as much as one whose is not."""
    _filled(store)
    store.file("small", b"gathered with the headers")
    log = tmp_path / "log"
    assert _unhashed(store, world(log=str(log))).returncode == 0
    moved: Counter[tuple[str, str]] = Counter()
    for line in log.read_text().splitlines():
        kind, _, rest = line.partition(" ")
        if kind != "open":
            count, _, path = rest.partition(" ")
            moved[kind, path.removeprefix(str(store.directory))] += int(count)
    tails = {path: moved.pop(("read", path), 0) for path in ("/one/d/file", "/two")}
    assert max(tails.values()) < MIB // 64  # what is left after a part was sent
    assert moved == {
        ("send", "/one/d/file"): len(CONTENT) - tails["/one/d/file"],
        ("send", "/two"): 3 * len(CONTENT) - tails["/two"],
        ("read", "/small"): 25,
    }


def test_file_vanishes_between_walk_and_read(store: Store, world: World, tmp_path: Path) -> None:
    """Without it the error could name the previous file, or none."""
    first = store.file("one/a", b"first")
    victim = store.file("one/b", b"second")
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo)
    os.mkfifo(f"{fifo}.back")
    env = world(pause=f"{fifo}:1:{first}")
    with Run(store.conf(["one"]), "--progress", "none", env=env) as run:
        fifo.read_bytes()  # the program stops before the first read of `a`
        victim.unlink()
        Path(f"{fifo}.back").write_bytes(b"\n")
        assert_failed(run.finish(), str(victim), "no such file")


def test_members_of_a_whole_run(store: Store) -> None:
    """Without it the helper that checks for a missing manifest could itself be broken."""
    assert members(_archive(_filled(store)))[-1] == "manifest.json"

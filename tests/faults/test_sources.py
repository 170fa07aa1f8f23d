"""Files that change while they are read, and files that a layer cannot contain.

Where the position matters, the reader stalls: the program then waits in the middle of the
first file of the layer, and has yet to reach the file that is changed.
"""

import os
import socket
import stat
from collections.abc import Callable
from pathlib import Path

import pytest
from support import BALLAST, MIB, Outcome, Run, Store, assert_failed, members

Change = Callable[[Path], None]
CONTENT = b"what the walk saw" * 1000


def _shrink(path: Path) -> None:
    os.truncate(path, 100)


def _empty(path: Path) -> None:
    os.truncate(path, 0)


def _grow(path: Path) -> None:
    with path.open("ab") as file:
        file.write(b"more")


def _rewrite(path: Path) -> None:
    path.write_bytes(CONTENT[::-1])


def _rewrite_and_put_back(path: Path) -> None:
    status = path.stat()
    with path.open("r+b") as file:
        file.write(CONTENT[::-1])
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))


def _replace(path: Path) -> None:
    other = path.with_name("other")
    other.write_bytes(CONTENT[::-1])
    status = path.stat()
    os.utime(other, ns=(status.st_atime_ns, status.st_mtime_ns))
    other.replace(path)


def _symlink(path: Path) -> None:
    other = path.rename(path.with_name("other"))
    path.symlink_to(other)


def _directory(path: Path) -> None:
    path.unlink()
    path.mkdir()


def _fifo(path: Path) -> None:
    path.unlink()
    os.mkfifo(path)


def _socket(path: Path) -> None:
    path.unlink()
    with socket.socket(socket.AF_UNIX) as listener:
        # A socket's path must be short, and tmp_path is not.
        directory = os.open(path.parent, os.O_PATH)
        listener.bind(f"/proc/self/fd/{directory}/{path.name}")
        os.close(directory)


def _device(path: Path) -> None:
    if os.geteuid() != 0:
        pytest.skip("only root makes devices")
    path.unlink()
    os.mknod(path, stat.S_IFCHR | 0o666, os.makedev(1, 5))  # /dev/zero never ends


def _vanish(path: Path) -> None:
    path.unlink()


def _parent_to_link(path: Path) -> None:
    """Replace a directory by a link to another one that looks the same."""
    parent = path.parent
    moved = parent.rename(parent.with_name("moved"))
    twin = parent.with_name("twin")
    twin.mkdir()
    (twin / path.name).write_bytes((moved / path.name).read_bytes())
    parent.symlink_to(twin)


CHANGES = [
    _shrink, _empty, _grow, _rewrite, _rewrite_and_put_back, _replace, _symlink, _directory, _fifo, _socket, _device,
    _vanish, _parent_to_link,
]  # fmt: skip


def _changed_behind_ballast(store: Store, change: Change, victim: Path, *prefix: str) -> Outcome:
    store.file("one/a-ballast", BALLAST)
    with Run(store.conf(["one"], ["two"]), "--progress", "none", prefix=prefix) as run:
        run.read(MIB)
        run.stall()
        change(victim)
        return run.finish()


@pytest.mark.parametrize("change", CHANGES, ids=lambda change: change.__name__.strip("_"))
def test_file_changed_before_it_is_read(store: Store, change: Change) -> None:
    """Without it a layer could mix two states, under a digest that is right for neither."""
    store.file("two/file", b"")
    victim = store.file("one/d/victim", CONTENT)
    assert_failed(_changed_behind_ballast(store, change, victim), str(victim))


@pytest.mark.parametrize("change", [_grow, _fifo, _vanish, _replace, _symlink])
def test_empty_file_changed_before_it_is_read(store: Store, change: Change) -> None:
    """Without it a change of an empty file could be missed, as there is nothing to read."""
    store.file("two/file", b"")
    victim = store.file("one/d/victim", b"")
    assert_failed(_changed_behind_ballast(store, change, victim), str(victim))


def test_file_made_unreadable_before_it_is_read(store: Store, without_privilege: list[str]) -> None:
    """Without it a layer could be truncated where a file is unreadable."""
    store.file("two/file", b"")
    victim = store.file("one/z-victim", CONTENT)
    outcome = _changed_behind_ballast(store, lambda path: path.chmod(0), victim, *without_privilege)
    assert_failed(outcome, str(victim), "Permission denied")


@pytest.mark.parametrize("change", [_shrink, _empty, _grow, _rewrite])
def test_file_changed_while_it_is_read(store: Store, change: Change) -> None:
    """Without it a layer could combine the first half of one version of a file and the second of another."""
    victim = store.file("one/victim", BALLAST)
    with Run(store.conf(["one"]), "--progress", "none") as run:
        run.read(MIB)
        run.stall()
        change(victim)
        if change is _rewrite:
            os.truncate(victim, BALLAST)
        assert_failed(run.finish(), str(victim))


def test_store_path_vanishes_before_its_layer(store: Store) -> None:
    """Without it a path checked at the start could be missing from the image."""
    store.file("one/ballast", BALLAST)
    store.file("two/file", b"")
    victim = store.file("three", CONTENT)
    with Run(store.conf(["one"], ["two"], ["three"]), "--progress", "none") as run:
        run.stall()
        victim.unlink()
        assert_failed(run.finish(), str(victim), "no such file")


def test_changes_that_do_not_matter(store: Store) -> None:
    """Without it a run could fail for a change that does not affect its image: access times, link counts."""
    store.file("one/a-ballast", BALLAST)
    victim = store.file("one/z-victim", CONTENT)
    with Run(store.conf(["one"]), "--progress", "none") as run:
        run.stall()
        os.utime(victim, ns=(0, victim.stat().st_mtime_ns))
        os.link(victim, store.path("linked-elsewhere"))
        outcome = run.finish()
    assert outcome.status == 0, outcome.stderr
    assert members(outcome.stdout)[-1] == "manifest.json"


@pytest.mark.parametrize(
    ("make", "said"), [(_fifo, "FIFO"), (_socket, "socket"), (_device, "device")]
)
def test_what_no_layer_holds(store: Store, make: Change, said: str) -> None:
    """Without it an image could contain what exists only on its host, or the run wait for ever."""
    odd = store.file("one/d/odd", b"")
    make(odd)
    with Run(store.conf(["one"]), "--progress", "none") as run:
        assert_failed(run.finish(), str(odd), said)


@pytest.mark.parametrize("kind", ["file", "directory"])
def test_unreadable_below_a_store_path(
    store: Store, kind: str, without_privilege: list[str]
) -> None:
    """Without it an unreadable file could be omitted, or end in a traceback."""
    victim = store.file("one/d/file", CONTENT)
    if kind == "directory":
        victim = victim.parent
    victim.chmod(0)
    with Run(store.conf(["one"]), "--progress", "none", prefix=without_privilege) as run:
        outcome = run.finish()
    victim.chmod(0o755)
    assert_failed(outcome, str(victim), "Permission denied")

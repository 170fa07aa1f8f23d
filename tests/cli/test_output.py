"""`-o`: a file that appears when it is complete, or a special file that is written to directly."""

import errno
import os
import stat
import subprocess
import threading
from pathlib import Path
from typing import Any

import commandline
import pytest
from support import COMMAND, Store, leftovers, members

import stream
from stream.cli.output import output_file
from stream.errors import NixError, OutputError, SourceError, StreamImageError


@pytest.fixture
def conf(tmp_path: Path) -> Path:
    """Return a conf of one small layer."""
    store = Store.below(tmp_path)
    store.file("one", b"content")
    return store.conf(["one"])


def _run(*args: str | Path, **options: Any) -> "subprocess.CompletedProcess[bytes]":
    return commandline.run(
        [*COMMAND, *map(str, args)], stderr=subprocess.PIPE, check=False, timeout=30, **options
    )


def _streamed(conf: Path) -> bytes:
    return bytes(_run(conf, stdout=subprocess.PIPE).stdout)


def test_new_file(conf: Path, tmp_path: Path) -> None:
    """Without it -o and standard output could differ, or the file have the mode of a temporary one."""
    target = tmp_path / "image.tar"
    assert _run(conf, "-o", target, umask=0o027).returncode == 0
    assert target.read_bytes() == _streamed(conf)
    assert stat.S_IMODE(target.stat().st_mode) == 0o640


def test_existing_file_is_replaced(conf: Path, tmp_path: Path) -> None:
    """Without it a program that has the older file open could see it change."""
    target = tmp_path / "image.tar"
    target.write_bytes(b"older")
    with target.open("rb") as older:
        assert _run(conf, "-o", target).returncode == 0
        assert older.read() == b"older"
    assert members(target.read_bytes())[-1] == "manifest.json"


@pytest.mark.parametrize("existing", [True, False])
def test_link_is_kept(conf: Path, tmp_path: Path, existing: bool) -> None:  # noqa: FBT001 — a parameter of the test
    """Without it a symlink at the output path could be replaced by a file."""
    target = tmp_path / "elsewhere" / "image.tar"
    target.parent.mkdir()
    if existing:
        target.write_bytes(b"older")
    link = tmp_path / "link"
    link.symlink_to(target)
    assert _run(conf, "-o", link).returncode == 0
    assert link.readlink() == target
    assert target.read_bytes() == _streamed(conf)


def test_fifo(conf: Path, tmp_path: Path) -> None:
    """Without it `-o FIFO` could replace the FIFO by a file, and its reader wait for ever."""
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo)
    received: list[bytes] = []
    reader = threading.Thread(target=lambda: received.append(fifo.read_bytes()))
    reader.start()
    assert _run(conf, "-o", fifo).returncode == 0
    reader.join()
    assert received == [_streamed(conf)]
    assert fifo.is_fifo()


@pytest.mark.parametrize("name", ["/dev/stdout", "/proc/self/fd/1", "-"])
def test_names_of_standard_output(conf: Path, name: str) -> None:
    """Without it `-o /dev/stdout | docker load` could load nothing."""
    assert _run(conf, "-o", name, stdout=subprocess.PIPE).stdout == _streamed(conf)


def test_standard_output_without_a_name(conf: Path, tmp_path: Path) -> None:
    """Without it -o /dev/stdout into a deleted file could create a file named "… (deleted)"."""
    path = tmp_path / "deleted"
    before = leftovers(tmp_path)
    with path.open("w+b") as file:
        path.unlink()
        assert _run(conf, "-o", "/dev/stdout", stdout=file.fileno()).returncode == 0
        file.seek(0)
        assert file.read() == _streamed(conf)
    assert leftovers(tmp_path) == before


@pytest.mark.parametrize(
    "name", ["", ".", "no-such/image.tar", "file/image.tar", "new/", "loop", "/dev/fd/9999999999"]
)
def test_impossible_targets(conf: Path, tmp_path: Path, name: str) -> None:
    """Without it an impossible target could be reported only after the last byte, or a directory's
    name become a file's.
    """
    (tmp_path / "file").touch()
    (tmp_path / "loop").symlink_to("loop")
    before = leftovers(tmp_path)
    done = _run(conf, "-o", name, "--progress", "plain", cwd=tmp_path)
    assert done.returncode in (1, 2)
    said = done.stderr.decode()
    assert said.startswith("stream-image: "), said  # and no layer has been written before
    assert said.count("\n") == 1
    assert "internal error" not in said
    assert "Errno" not in said
    assert leftovers(tmp_path) == before


@pytest.mark.parametrize("name", ["a" * 255, "€" * 85, os.fsdecode(b"\xff" * 255)])
def test_longest_names(conf: Path, tmp_path: Path, name: str) -> None:
    """Without it a name of maximal length could become too long with our suffix."""
    assert _run(conf, "-o", tmp_path / name).returncode == 0
    assert (tmp_path / name).is_file()


def test_failure_leaves_nothing(conf: Path, tmp_path: Path) -> None:
    """Without it each failed run could leave its partial file behind."""
    os.mkfifo(tmp_path / "store" / "fifo")
    conf = Store(directory=tmp_path / "store").conf(["one"], ["fifo"])
    before = leftovers(tmp_path)
    assert _run(conf, "-o", tmp_path / "image.tar").returncode == 1
    assert leftovers(tmp_path) == before


@pytest.mark.parametrize(
    "failure", [SourceError(b"/store/fifo", "a FIFO"), NixError("nix-store", "no daemon")]
)
def test_failure_says_why(tmp_path: Path, failure: StreamImageError) -> None:
    """Without it an error in the input could be reported as one of the output file."""
    with pytest.raises(type(failure)) as error, output_file(str(tmp_path / "image.tar")):
        raise failure
    assert error.value is failure


@pytest.fixture(params=["unnamed", "named", "no-proc"])
def _file_system(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Run a test as on a file system that has files without names, and one that does not."""
    opened, exists = os.open, os.path.exists

    def refuse(path: str, flags: int, mode: int = 0o777) -> int:
        if flags & os.O_TMPFILE == os.O_TMPFILE:
            raise OSError(errno.EOPNOTSUPP, "Operation not supported", path)
        return opened(path, flags, mode)

    if request.param == "named":
        monkeypatch.setattr(os, "open", refuse)
    elif request.param == "no-proc":
        monkeypatch.setattr(
            os.path, "exists", lambda path: exists(path) and not str(path).startswith("/proc/")
        )


@pytest.mark.usefixtures("_file_system")
@pytest.mark.parametrize("existing", [True, False])
def test_file_appears_when_complete(tmp_path: Path, existing: bool) -> None:  # noqa: FBT001 — a parameter of the test
    """Without it half an image could be loaded, or a good one be lost to a run that fails."""
    path = tmp_path / "image.tar"
    if existing:
        path.write_bytes(b"older")

    def write(*, fail: bool) -> None:
        with output_file(str(path)) as fd:
            os.write(fd, b"newer")
            assert path.exists() == existing
            if fail:
                raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write(fail=True)
    assert leftovers(tmp_path) == ["image.tar"] * existing
    write(fail=False)
    assert leftovers(tmp_path) == ["image.tar"]
    assert path.read_bytes() == b"newer"


def test_target_that_cannot_be_replaced(tmp_path: Path) -> None:
    """A mount point, or another user's file in a sticky directory: found only at the end, still an error."""
    path = tmp_path / "image.tar"
    with pytest.raises(OutputError, match=r"image\.tar: cannot be written"), output_file(str(path)):
        path.mkdir()
    assert leftovers(tmp_path) == ["image.tar"]


def test_current_directory_that_is_gone(conf: Path, tmp_path: Path) -> None:
    """A relative path in a deleted working directory is an error, not a bug."""
    (tmp_path / "gone").mkdir()
    done = subprocess.run(
        ["sh", "-c", 'rmdir "$PWD" && exec "$@"', "sh", *COMMAND, str(conf), "-o", "image.tar"],
        cwd=tmp_path / "gone", env={**os.environ, "PYTHONPATH": str(Path(stream.__file__).parents[1])},
        stderr=subprocess.PIPE, check=False, timeout=30,
    )  # fmt: skip
    assert done.returncode == 1
    assert done.stderr == b"stream-image: image.tar: cannot be written: No such file or directory\n"


def test_signal_as_the_file_comes_to_be(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A signal between the creation of the file and the next line leaves no partial file behind."""
    opened = os.open

    def interrupted(path: str, flags: int, mode: int = 0o777) -> int:
        os.close(opened(path, flags, mode))
        raise KeyboardInterrupt

    monkeypatch.setattr(os, "open", interrupted)
    with pytest.raises(KeyboardInterrupt), output_file(str(tmp_path / "image.tar")):
        pass
    assert not list(tmp_path.iterdir())

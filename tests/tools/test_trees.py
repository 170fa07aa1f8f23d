"""`stream-image merge-trees`: directories and tars in one directory."""

import io
import os
import shutil
import stat
import subprocess
import tarfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from conftest import Run
from support import leftovers

import stream


def _listing(top: Path) -> Iterator[tuple[str, str, bytes]]:
    """Yield the path, mode, and content or target of everything in a directory."""
    for path in sorted(top.rglob("*")):
        mode = path.lstat().st_mode
        data = path.read_bytes() if stat.S_ISREG(mode) else b""
        if stat.S_ISLNK(mode):
            data = os.readlink(bytes(path))
        yield str(path.relative_to(top)), stat.filemode(mode), data


def _tar(path: Path, *members: tuple[str, bytes, str | bytes]) -> Path:
    """Write a tar of members: name, type, and content or target."""
    with tarfile.open(path, "w") as tar:
        for name, kind, content in members:
            info = tarfile.TarInfo(name)
            info.type, info.mode = kind, 0o755 if kind == tarfile.DIRTYPE else 0o644
            info.linkname, data = (content, b"") if isinstance(content, str) else ("", content)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    return path


@pytest.fixture
def trees(tmp_path: Path) -> list[Path]:
    """Make three trees: two directories, as they are in a store, and a compressed tar."""
    for name in ("one", "two", "three"):
        top = tmp_path / name
        (top / "bin").mkdir(parents=True)
        (top / ".hidden").mkdir()
        (top / "bin" / name).write_text(name)
        (top / "bin" / name).chmod(0o555)
        (top / "bin" / "sh").write_text(f"sh of {name}")
        (top / ".hidden" / ".file").write_text(name)
        (top / f"to-{name}").symlink_to("bin")
    (tmp_path / "two" / "bin" / "sh").chmod(0o600)
    (tmp_path / "one" / "empty").mkdir()
    (tmp_path / "one" / "link").symlink_to("/nowhere")
    (tmp_path / "two" / "link").write_text("a file")
    (tmp_path / "three" / "link").symlink_to("bin/sh")
    os.link(tmp_path / "three" / "bin" / "sh", tmp_path / "three" / "hard")
    subprocess.run(["tar", "-czf", "three.tar.gz", "-C", "three", "."], check=True, cwd=tmp_path)
    return [tmp_path / "one", tmp_path / "two", tmp_path / "three.tar.gz"]


def test_same_as_cp_and_tar(trees: list[Path], stream_image: Run, tmp_path: Path) -> None:
    """Without it a tree that dockerTools' users merge could differ in a file, mode or link."""
    expected = tmp_path / "expected"
    expected.mkdir()
    for tree in trees[:2]:
        copy = ["cp", "-dRf", "--remove-destination", "--preserve=mode", f"{tree}/.", str(expected)]
        subprocess.run(copy, check=True)
    subprocess.run(["tar", "-xpf", str(trees[2]), "-C", str(expected)], check=True)
    for directory in (*trees[:2], *(tree / "bin" for tree in trees[:2])):
        directory.chmod(0o555)
    done = stream_image("merge-trees", *map(str, trees), "-o", str(tmp_path / "out"))
    assert (done.returncode, done.stdout, done.stderr) == (0, b"", b"")
    assert [*_listing(tmp_path / "out")] == [*_listing(expected)]
    assert (tmp_path / "out" / "hard").stat().st_nlink == 2


def test_standard_input(trees: list[Path], stream_image: Run, tmp_path: Path) -> None:
    """Without it an exported file system would need a file first."""
    out = tmp_path / "out"
    tar = trees[2].read_bytes()
    assert stream_image("merge-trees", "-", "-o", str(out), stdin=tar).returncode == 0
    assert [*_listing(out)] == [*_listing(tmp_path / "three")]


def test_one_name_of_a_file_is_replaced(tmp_path: Path) -> None:
    """Without it a file would change under its other name as well."""
    first = _tar(
        tmp_path / "first.tar", ("a", tarfile.REGTYPE, b"old"), ("b", tarfile.LNKTYPE, "a")
    )
    second = _tar(tmp_path / "second.tar", ("./b", tarfile.REGTYPE, b"new"))
    out = tmp_path / "out"
    out.mkdir()
    stream.merge_trees([first, second], out)
    assert [(out / name).read_bytes() for name in "ab"] == [b"old", b"new"]


OUT = "leads out of the tree"
CLASH = "is a directory here or in another tree"
HOSTILE: dict[str, tuple[list[tuple[str, bytes, str | bytes]], str]] = {
    "above": ([("../x", tarfile.REGTYPE, b"")], OUT),
    "above, later": ([("a/../../x", tarfile.DIRTYPE, b"")], OUT),
    "through a link": ([("a", tarfile.SYMTYPE, ".."), ("a/x", tarfile.REGTYPE, b"x")], CLASH),
    "through a link to a directory": ([("a", tarfile.SYMTYPE, "/"), ("a", tarfile.DIRTYPE, b"")], CLASH),
    "hard link above": ([("a", tarfile.LNKTYPE, "../secret")], OUT),
    "hard link through a link": ([("a", tarfile.SYMTYPE, ".."), ("b", tarfile.LNKTYPE, "a/secret")], CLASH),
    "hard link to nothing": ([("a", tarfile.LNKTYPE, "b")], "which is not there"),
    "hard link to the root": ([("a", tarfile.LNKTYPE, ".")], ""),
    "file as the root": ([("./", tarfile.REGTYPE, b"x")], ""),
    "device": ([("a", tarfile.CHRTYPE, b"")], "is neither a file"),
    "FIFO": ([("a", tarfile.FIFOTYPE, b"")], "is neither a file"),
    "file over a directory": ([("a/b", tarfile.REGTYPE, b""), ("a", tarfile.REGTYPE, b"")], CLASH),
}  # fmt: skip


@pytest.mark.parametrize("kind", HOSTILE)
def test_hostile_tar(stream_image: Run, tmp_path: Path, kind: str) -> None:
    """Without it a tar could write where it pleases, or read what it should not."""
    (tmp_path / "secret").write_text("secret")
    members, wrong = HOSTILE[kind]
    _tar(tmp_path / "x.tar", *members)
    before = [*_listing(tmp_path)]
    done = stream_image("merge-trees", "x.tar", "-o", "out", cwd=tmp_path)
    assert done.returncode == 1
    assert done.stderr.startswith(b"stream-image: x.tar: ")
    assert wrong.encode() in done.stderr
    assert done.stderr.count(b"\n") == 1
    assert [*_listing(tmp_path)] == before


def test_absolute_names_are_the_tree_s(tmp_path: Path) -> None:
    """Without it a tar made with absolute names would be refused, or written to the machine."""
    tar = _tar(
        tmp_path / "x.tar", ("/etc/x", tarfile.REGTYPE, b"x"), ("y", tarfile.LNKTYPE, "/etc/x")
    )
    out = tmp_path / "out"
    out.mkdir()
    stream.merge_trees([tar], out)
    assert (out / "y").read_bytes() == (out / "etc" / "x").read_bytes() == b"x"


@pytest.mark.parametrize(
    ("arguments", "wrong"),
    [
        (["one", "nothing"], "nothing: cannot be read: No such file or directory"),
        (["one", "no-tar"], "no-tar: is not a tar, plain or compressed"),
        (["one", "fifo"], "fifo/x: is neither a file, a directory nor a link; remove it"),
        (["one", "clash"], "clash/bin: is a directory here or in another tree, and something else"),
        (["clash", "one"], "one/bin: is a directory here or in another tree, and something else"),
        (["."], ".: exists already"),
    ],
)
@pytest.mark.usefixtures("trees")
def test_faults(stream_image: Run, tmp_path: Path, arguments: list[str], wrong: str) -> None:
    """Without it half a tree could be taken for a whole one."""
    (tmp_path / "no-tar").write_text("no tar" * 200)
    for name in ("fifo", "clash"):
        (tmp_path / name).mkdir()
    os.mkfifo(tmp_path / "fifo" / "x")
    (tmp_path / "clash" / "bin").write_text("a file")
    out = "." if arguments == ["."] else "out"
    before = leftovers(tmp_path)
    done = stream_image("merge-trees", *arguments, "-o", out, cwd=tmp_path)
    assert done.returncode == 1
    assert done.stderr.decode().startswith(f"stream-image: {wrong}")
    assert leftovers(tmp_path) == before


def test_made_in_one_of_them(trees: list[Path], stream_image: Run) -> None:
    """Without it the tree would be copied into itself until the disk is full."""
    done = stream_image("merge-trees", ".", "-o", "out", cwd=trees[0])
    assert done.returncode == 1
    assert done.stderr.endswith(b": is being made; choose a place outside of the trees\n")
    assert not (trees[0] / "out").exists()


def test_no_space(trees: list[Path], stream_image: Run, tmp_path: Path) -> None:
    """Without it a tree that is cut short could appear, or what is there be left."""
    shutil.rmtree(trees[1])
    (trees[0] / "large").touch()
    os.truncate(trees[0] / "large", 1 << 26)
    limit = ["sh", "-c", 'ulimit -f 20000; exec "$@"', "sh"]
    done = stream_image("merge-trees", str(trees[0]), "-o", str(tmp_path / "out"), prefix=limit)
    assert done.returncode == 1
    assert done.stderr == b"stream-image: cannot write the tree: File too large\n"
    assert {path.name for path in tmp_path.iterdir()} == {"one", "three", "three.tar.gz"}

"""Containers: opening, scanning and closing, whatever they contain."""

import errno
import io
import os
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pytest
import pyzstd
from handmade import COMPRESSORS, Base, layer_tar, tar_of

from stream.archives.bytesource import ByteSource, pieces
from stream.archives.container import Container
from stream.archives.directory import Directory
from stream.archives.images import open_archive, open_container
from stream.archives.sequential import Sequential, SequentialTar
from stream.archives.tars import CompressedTar, PlainTar
from stream.errors import ArchiveError

LAYER = layer_tar({"etc/file": os.urandom(40_000)})
MEMBERS = [("layer.tar", LAYER), ("layer.tar.gz", COMPRESSORS["gzip"](LAYER)), ("x.json", b"{}")]
KINDS = ["plain", "gzip", "zstd", "seekable", "directory"]


def seekable(data: bytes) -> bytes:
    """Return `data` as seekable zstd of several frames."""
    file = io.BytesIO()
    with pyzstd.SeekableZstdFile(file, "w", max_frame_content_size=10_000) as seekable_file:
        seekable_file.write(data)
    return file.getvalue()


def container_at(path: Path, kind: str) -> Path:
    """Write a container of MEMBERS."""
    if kind == "directory":
        path.mkdir()
        for name, content in MEMBERS:
            (path / name).write_bytes(content)
    else:
        compress = seekable if kind == "seekable" else COMPRESSORS[kind]
        path.write_bytes(compress(tar_of(MEMBERS)))
    return path


def size_of(content: ByteSource) -> int:
    """Return the size of the perused content."""
    return sum(map(len, pieces(content)))


@pytest.fixture
def opened(tmp_path: Path) -> Callable[[str], Container[int]]:
    """Open a container of a kind."""
    return lambda kind: open_container(str(container_at(tmp_path / "archive", kind)), size_of)


@pytest.mark.parametrize("kind", KINDS)
def test_all_containers_answer_alike(opened: Callable[[str], Container[int]], kind: str) -> None:
    """Without it the kind of archive a base image comes in could change the resulting image."""
    container = opened(kind)
    for name, content in MEMBERS:
        blob = container.find(name)
        assert blob is not None
        expected = len(LAYER) if name.startswith("layer") else len(content)
        assert blob.size == len(content)
        assert container.measure(blob).content_size == expected
        assert container.peruse(blob) == expected
        assert [b"".join(pieces(source)) for _, source in container.read([blob, blob])] == [content]
    document = container.find("x.json")
    assert document is not None
    assert container.document(document) == b"{}"
    container.close()


def test_nothing_is_read_before_a_scan() -> None:
    """Without it a container that fails to open could leave its file open, or fail far from its cause."""
    PlainTar(-1, "x")
    CompressedTar(-1, "x", "gzip")
    SequentialTar(Sequential(-1, "x"))
    Directory("x", b"/does/not/exist", None)


def test_perused_without_a_function(tmp_path: Path) -> None:
    """Without it an archive opened without a function could return nothing as a layer's listing."""
    path = tmp_path / "image.tar"
    path.write_bytes(Base(layers=[LAYER]).docker_archive())
    with (
        open_archive(str(path)) as archive,
        pytest.raises(ValueError, match="without a function"),
    ):
        archive.container.peruse(archive.images[0].layers[0].blob)


BROKEN: dict[str, bytes] = {
    "no tar": b"x" * 5000,
    "no archive": tar_of([("x", b"x")]),
    "gzip cut short": COMPRESSORS["gzip"](tar_of(MEMBERS))[:-2000],
    "seek table of zeros": seekable(tar_of(MEMBERS))[:-40] + bytes(36) + b"\xb1\xea\x92\x8f",
    "manifest of another kind": tar_of([("manifest.json", b'{"a": ')]),
}


@pytest.mark.parametrize("case", [*BROKEN, "directory", "fifo"])
def test_no_descriptor_is_left(tmp_path: Path, case: str) -> None:
    """Without it a program that opens many archives could run out of descriptors on the broken ones."""
    path = tmp_path / "archive"
    if case == "directory":
        path.mkdir()
    elif case == "fifo":
        os.mkfifo(path)
    else:
        path.write_bytes(BROKEN[case])
    before = len(os.listdir("/proc/self/fd"))
    for peruse in (None, size_of):
        with pytest.raises(ArchiveError):
            open_archive(str(path), peruse)
    assert len(os.listdir("/proc/self/fd")) <= before


@pytest.mark.parametrize("kind", KINDS)
def test_closing_leaves_no_descriptor(opened: Callable[[str], Container[int]], kind: str) -> None:
    """Without it a program that reads many archives could run out of descriptors."""
    before = len(os.listdir("/proc/self/fd"))
    opened(kind).close()
    assert len(os.listdir("/proc/self/fd")) <= before


@pytest.mark.parametrize("kind", ["plain", "gzip", "seekable", "directory"])
def test_a_disk_that_fails(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str) -> None:
    """Without it a bad disk could pass for a bug, or for a malformed archive."""
    path = container_at(tmp_path / "archive", kind)
    pread, left = os.pread, [0]

    def failing(fd: int, count: int, offset: int) -> bytes:
        left[0] -= 1
        if left[0] < 0:
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        return pread(fd, count, offset)

    monkeypatch.setattr(os, "pread", failing)
    for allowed in range(20):
        left[0] = allowed
        try:
            with closing(open_container(str(path), size_of)) as container:
                blob = container.find("layer.tar.gz")
                assert blob is not None
                container.peruse(blob)
        except ArchiveError as error:
            assert error.reason == "cannot be read: Input/output error"  # noqa: PT017 — not each time
        else:
            break
    assert 0 < allowed < 19

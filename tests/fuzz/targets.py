"""The targets in Python: functions that take any bytes and raise nothing.

Each has an oracle: the package raises no exception but StreamImageError, and where another reader
is at hand, it agrees. The fast suite calls them with the corpus. Must not know the fuzzer.
"""

from __future__ import annotations

import hashlib
import io
import json
import os
import tarfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress

import pyzstd

from stream.archives.bytesource import Budget, StreamBytes, pieces
from stream.archives.decompress import MAGIC_SIZE, compression_of, decompress
from stream.archives.images import open_archive
from stream.archives.seekable import FrameBytes, read_seek_table
from stream.archives.tarreader import read_members
from stream.config import conf_document, parse_conf
from stream.errors import StreamImageError
from stream.layering import STRATEGIES, split_into_layers
from stream.nix.references import parse_references
from stream.planning.spec import parse_spec
from stream.tools.export import export
from stream.tools.inspect import inspect
from stream.tools.merge import merge
from stream.tools.tarsum import sum_tar
from stream.tools.verify import verify

BLOCK = 512
SEPARATOR = b"\n--layer--\n"  # between the layers of an image in the corpus


@contextmanager
def file_of(data: bytes) -> Iterator[tuple[int, str]]:
    """Yield a descriptor and a path of a file in memory that contains `data`."""
    fd = os.memfd_create("input", os.MFD_CLOEXEC)
    try:
        with open(fd, "wb", closefd=False) as file:
            file.write(data)
        yield fd, f"/proc/self/fd/{fd}"
    finally:
        os.close(fd)


def mend(data: bytes, depth: int = 0) -> bytes:
    """Return the tar `data` with right checksums, also of tars in it: a fuzzer never guesses one.
    Sizes stay as they are.
    """
    found = bytearray(data)
    at = 0
    while at + BLOCK <= len(found) and any(found[at : at + BLOCK]):
        found[at + 148 : at + 156] = b" " * 8
        found[at + 148 : at + 156] = b"%06o\0 " % sum(found[at : at + BLOCK])
        digits = bytes(found[at + 124 : at + 136]).strip(b"\0 ")
        size = int(digits, 8) if digits and not digits.strip(b"01234567") else 0
        start, at = at + BLOCK, at + BLOCK + size + -size % BLOCK
        if depth < 2 and found[start + 257 : start + 262] == b"ustar":
            found[start : start + size] = mend(bytes(found[start : start + size]), depth + 1)
    return bytes(found)


def fuzz_tar(data: bytes) -> None:
    """Read a tar, with the content of its files."""
    source = StreamBytes(io.BytesIO(mend(data)), "tar")
    with suppress(StreamImageError):
        for member in read_members(source):
            assert b"\0" not in member.name + member.link
            for _ in pieces(source, member.size):
                pass
    with suppress(StreamImageError):
        sum_tar(StreamBytes(io.BytesIO(mend(data)), "tar"))


def fuzz_archive(data: bytes) -> None:
    """Inspect and merge an archive: as it is, and with right checksums."""
    for archive in (data, mend(data)):
        with file_of(archive) as (_, path):
            with suppress(StreamImageError):
                inspect(path)
            with suppress(StreamImageError), open(os.devnull, "wb") as null:
                merge([path], null)


def fuzz_verify(data: bytes) -> None:
    """Verify an archive. One without faults can be inspected."""
    with file_of(mend(data)) as (_, path):
        try:
            found = verify(path)
        except StreamImageError:
            return
        if not found.faults:
            inspect(path)


def image_of(layers: list[bytes]) -> bytes:
    """Return a docker-archive of `layers`."""
    ids = [f"sha256:{hashlib.sha256(layer).hexdigest()}" for layer in layers]
    config = {"architecture": "amd64", "os": "linux", "rootfs": {"type": "layers", "diff_ids": ids}}
    names = [f"{number}.tar" for number in range(len(layers))]
    manifest = [{"Config": "config.json", "RepoTags": [], "Layers": names}]
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w") as tar:
        for name, content in [
            *zip(names, layers, strict=True),
            ("config.json", json.dumps(config).encode()),
            ("manifest.json", json.dumps(manifest).encode()),
        ]:
            info = tarfile.TarInfo(name)
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
    return file.getvalue()


def fuzz_export(data: bytes) -> None:
    """Export an image of any layers. CPython reads the result, and finds each path once."""
    image = image_of([mend(layer) for layer in data.split(SEPARATOR)])
    out = io.BytesIO()
    with file_of(image) as (_, path):
        try:
            exported = export(path, out)
        except StreamImageError:
            return
    assert len(out.getvalue()) == exported.size
    with tarfile.open(fileobj=io.BytesIO(out.getvalue()), errorlevel=2) as tar:
        names = [member.name for member in tar.getmembers()]
    assert len(names) == len(set(names)) == exported.entries, names


def fuzz_decompression(data: bytes) -> None:
    """Decompress anything. CPython and libzstd agree about what is valid."""
    compression = compression_of(data[:MAGIC_SIZE])
    if compression is None:
        return
    try:
        found = b"".join(pieces(decompress(StreamBytes(io.BytesIO(data), "x"), compression)))
    except StreamImageError:
        return
    if compression == "zstd":
        assert found == pyzstd.decompress(data)


def fuzz_seek_table(data: bytes) -> None:
    """Read a zstd file by its seek table. It holds what libzstd finds from the front."""
    with file_of(data) as (fd, _):
        frames = read_seek_table(fd)
        if frames is None:
            return
        source = FrameBytes(frames, "zstd", Budget())
        try:
            found = b"".join(pieces(source))
        except StreamImageError:
            return
    assert len(found) == frames.size
    assert found == pyzstd.decompress(data)


def fuzz_conf(data: bytes) -> None:
    """Read a conf. What it means can be written and read again."""
    try:
        conf = parse_conf(data)
    except StreamImageError:
        return
    again = parse_conf(json.dumps(conf_document(conf)).encode())
    assert again == conf


def fuzz_specification(data: bytes) -> None:
    """Read a specification."""
    with suppress(StreamImageError):
        parse_spec(data)


def fuzz_references(data: bytes) -> None:
    """Read a references graph, and layer it. Each path is in one layer."""
    try:
        references = parse_references(data, "graph")
    except StreamImageError:
        return
    graph = references.graph
    if not 0 < len(graph) <= 100:
        return
    for strategy in STRATEGIES:
        layers = split_into_layers(graph, [], 5, strategy)
        assert sorted(path for layer in layers for path in layer) == sorted(graph)


def fuzz_base(data: bytes) -> None:
    """Open an archive as a base image and list its layers' entries."""
    with (
        file_of(mend(data)) as (_, path),
        suppress(StreamImageError),
        open_archive(path) as archive,
    ):
        for image in archive.images:
            for layer in image.layers:
                with suppress(StreamImageError), archive.layer_content(layer) as content:
                    for _ in read_members(content):
                        pass


TARGETS: dict[str, Callable[[bytes], None]] = {
    name.removeprefix("fuzz_"): target
    for name, target in list(globals().items())
    if name.startswith("fuzz_")
}

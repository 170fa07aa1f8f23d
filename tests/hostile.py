"""Inputs of at most a megabyte that are made to cost as much as they can.

Each is an image archive, whole or compressed. Must not know the package.
"""

import bz2
import gzip
import hashlib
import io
import itertools
import json
import lzma
import struct
import tarfile
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import pyzstd

MAX_SIZE = 1_000_000  # bytes of an input
MIB = 1 << 20


_MODE_AND_OWNER = b"0000755\0" + b"0000000\0" * 2
_TIME = b"00000000000\0"
_REST = b"ustar\x0000".ljust(255, b"\0")
_CONSTANT = sum(_MODE_AND_OWNER + _TIME + b" " * 8 + _REST)


def header(name: bytes, typeflag: bytes = b"0", size: int = 0, link: bytes = b"") -> bytes:
    """Return one header block. There are millions: its checksum adds only bytes that vary."""
    name, link, digits = name[:100], link[:100], b"%011o\0" % size
    checksum = b"%06o\0 " % (_CONSTANT + sum(name) + sum(digits) + sum(typeflag) + sum(link))
    parts = (name.ljust(100, b"\0"), _MODE_AND_OWNER, digits, _TIME, checksum, typeflag)
    return b"".join(parts) + link.ljust(100, b"\0") + _REST


def extended(typeflag: bytes, data: bytes) -> bytes:
    """Return an extended header, such as GNU's long name."""
    return header(b"x", typeflag, len(data)) + data + bytes(-len(data) % 512)


def record(key: bytes, value: bytes) -> bytes:
    """Return a record of a pax header."""
    rest = b" " + key + b"=" + value + b"\n"
    size = len(rest)
    while size != len(rest) + len(str(size)):
        size = len(rest) + len(str(size))
    return str(size).encode() + rest


class Squeezed:
    """A compressor that stops when its output is `limit` bytes."""

    def __init__(self, compressor: Any, limit: int = MAX_SIZE - 4096) -> None:
        self._compressor = compressor
        self._limit = limit

    def __call__(self, pieces: Iterable[bytes], end: bytes = bytes(1024)) -> bytes:
        """Return as many of `pieces` as fit, and `end`, compressed."""
        out = bytearray()
        batch = bytearray()
        for piece in pieces:
            batch += piece
            if len(batch) > MIB:
                out += self._compressor.compress(bytes(batch))
                batch.clear()
            if len(out) > self._limit:
                break
        out += self._compressor.compress(bytes(batch) + end)
        return bytes(out + self._compressor.flush())


def zstd(window: int | None = None, limit: int = MAX_SIZE - 4096) -> Squeezed:
    """Return a compressor, whose window is 1 << `window` bytes."""
    options: dict[int, int] = {pyzstd.CParameter.compressionLevel: 3}
    if window is not None:
        options[pyzstd.CParameter.windowLog] = window
        options[pyzstd.CParameter.enableLongDistanceMatching] = 1
    return Squeezed(pyzstd.ZstdCompressor(options), limit)


def large_file(compress: Callable[[bytes], bytes], mebibytes: int, content: bytes) -> bytes:
    """Return a tar of one file that repeats `content`, compressed as many streams in a row."""
    piece = (content * (8 * MIB // len(content) + 1))[: 8 * MIB]
    count = mebibytes // 8
    return compress(header(b"large", size=count * len(piece))) + compress(piece) * count


def archive(
    *layers: bytes, members: Iterable[tuple[str, bytes]] = (), manifest: Any = None
) -> bytes:
    """Return a docker-archive of `layers`, as stored. The diff_ids are wrong."""
    names = [f"{number}.tar" for number in range(len(layers))]
    ids = [f"sha256:{hashlib.sha256(name.encode()).hexdigest()}" for name in names]
    config = {"architecture": "amd64", "os": "linux", "rootfs": {"type": "layers"}}
    config["rootfs"]["diff_ids"] = ids  # type: ignore[index]
    item = {"Config": "c.json", "RepoTags": ["a:1"], "Layers": names}
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w") as tar:
        for name, data in [
            *zip(names, layers, strict=True),
            ("c.json", json.dumps(config).encode()),
            *members,
            ("manifest.json", json.dumps([item]).encode() if manifest is None else manifest),
        ]:
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    return file.getvalue()


def entries() -> Iterator[bytes]:
    """Yield empty files with short names, without end."""
    for number in itertools.count():
        yield header(b"%x" % number)


def directories() -> Iterator[bytes]:
    """Yield directories, each in the one before, up to a depth, without end."""
    for number in itertools.count():
        yield header(b"%x" % (number // 60) + b"/d" * (number % 40) + b"/", b"5")


def long_names(typeflag: bytes = b"0") -> Iterator[bytes]:
    """Yield empty files with names as long as possible, without end."""
    for number in itertools.count():
        name = (b"%07d" % number).ljust(4090, b"x")
        yield extended(b"L", name + b"\0") + header(name, typeflag)


def implied() -> Iterator[bytes]:
    """Yield files in directories that have no entry, as many as possible, without end."""
    for number in itertools.count():
        name = b"%07d" % number + b"/d" * 2000
        yield extended(b"L", name + b"\0") + header(name)


def many_records() -> Iterator[bytes]:
    """Yield directories, each with a record more than the global header's, without end."""
    yield extended(b"g", b"".join(record(b"%x" % number, b"") for number in range(600)))
    for number in itertools.count():
        yield extended(b"x", record(b"SCHILY.xattr.user.a", b"%d" % number))
        yield header(b"%x/" % number, b"5")


def hard_links() -> Iterator[bytes]:
    """Yield hard links, each to the one before, without end."""
    yield header(b"0")
    for number in itertools.count(1):
        yield header(b"%x" % number, b"1", link=b"%x" % (number - 1))


def symlinks() -> Iterator[bytes]:
    """Yield symlinks, each to the one before, and files below the last, without end."""
    yield header(b"0/", b"5")
    for number in range(1, 40):
        yield header(b"%d" % number, b"2", link=b"%d" % (number - 1) + b"/." * 20)
    for number in itertools.count():
        yield header(b"39/%x" % number)


def bad_entries() -> Iterator[bytes]:
    """Yield entries that break several rules each, without end."""
    for number in itertools.count():
        yield header(b"/../a//%x" % number, b"1", link=b"../%x" % number)


def documents() -> Iterator[bytes]:
    """Yield members of an archive that look like documents, far more than are kept."""
    for number in range(300):
        yield header(b"%d.json" % number, size=MIB) + b"[" * MIB


def _oci_of_one_manifest() -> bytes:
    """Return an OCI layout with as many images as allowed, all the same, of many layers."""
    ids = [f"sha256:{number:064x}" for number in range(9000)]
    config = json.dumps({"architecture": "a", "os": "b", "rootfs": {"diff_ids": ids}}).encode()
    digest = hashlib.sha256(config).hexdigest()
    layer = {"digest": f"sha256:{0:064x}", "size": 0}
    manifest = json.dumps(
        {"config": {"digest": f"sha256:{digest}", "size": len(config)}, "layers": [layer] * 9000}
    ).encode()
    name = hashlib.sha256(manifest).hexdigest()
    index = {"manifests": [{"digest": f"sha256:{name}", "size": len(manifest)}] * 1000}
    members = {
        "oci-layout": b'{"imageLayoutVersion": "1.0.0"}',
        "index.json": json.dumps(index).encode(),
        f"blobs/sha256/{digest}": config,
        f"blobs/sha256/{name}": manifest,
        f"blobs/sha256/{0:064x}": b"",
    }
    pieces = (
        header(key.encode(), size=len(data)) + data + bytes(-len(data) % 512)
        for key, data in members.items()
    )
    return gzip.compress(b"".join(pieces))


def _many_configs() -> bytes:
    """Return an archive whose configs are large, and all different."""

    def pieces() -> Iterator[bytes]:
        items = []
        for number in range(60):
            config = b'{"rootfs":{"diff_ids":[]},"%d":[' % number + b"{}," * 330_000 + b"{}]}"
            items.append({"Config": f"{number}", "RepoTags": [], "Layers": []})
            yield header(b"%d" % number, size=len(config)) + config + bytes(-len(config) % 512)
        data = json.dumps(items).encode()
        yield header(b"manifest.json", size=len(data)) + data + bytes(-len(data) % 512)

    return gzip.compress(b"".join(pieces()))


def _seekable() -> bytes:
    """Return a seekable zstd with large frames, and documents that are far from each other."""
    frame = pyzstd.compress(bytes(16 * MIB))
    table = struct.pack("<II", len(frame), 16 * MIB) * 600
    table += struct.pack("<IBI", 600, 0, 0x8F92EAB1)
    head = pyzstd.compress(header(b"zeros", size=600 * 16 * MIB - 512).ljust(16 * MIB, b"\0"))
    table = struct.pack("<II", len(head), 16 * MIB) + table[8:]
    return head + frame * 599 + struct.pack("<II", 0x184D2A5E, len(table)) + table


def _windows() -> bytes:
    """Return zstd in zstd, both with a window as large as possible."""

    def compress(window: int, pieces: Iterable[bytes]) -> bytes:
        options: dict[int, int] = {
            pyzstd.CParameter.compressionLevel: 1,
            pyzstd.CParameter.windowLog: window,
        }
        frame = pyzstd.ZstdCompressor(options)  # streaming, so that the size is not known
        return b"".join([*map(frame.compress, pieces), frame.flush()])

    inner = compress(25, [header(b"zeros", size=400 * MIB), *[bytes(MIB)] * 400])
    outer = header(b"layer", size=len(inner)) + inner + bytes(-len(inner) % 512)
    return compress(27, [outer, header(b"zeros", size=400 * MIB), *[bytes(MIB)] * 400])


HOSTILE: dict[str, Callable[[], bytes]] = {
    "gzip of zeros": lambda: large_file(gzip.compress, 960, b"\0"),
    "gzip layer of zeros": lambda: archive(large_file(gzip.compress, 928, b"\0")),
    "xz layers of zeros": lambda: archive(*[large_file(lzma.compress, 992, b"\0")] * 5),
    "bzip2 layers of zeros": lambda: archive(*[large_file(bz2.compress, 992, b"\0")] * 40),
    "bzip2 layers of a period": lambda: archive(*[large_file(bz2.compress, 992, b"ab")] * 20),
    "zstd in zstd, large windows": _windows,
    "xz of many streams": lambda: archive(
        lzma.compress(b"x", filters=[{"id": lzma.FILTER_LZMA2, "dict_size": 64 * MIB}]) * 15_000
    ),
    "bzip2 of many streams": lambda: archive(bz2.compress(b"x") * 25_000),
    "gzip of many members": lambda: archive(gzip.compress(b"") * 49_000),
    "zstd of many frames": lambda: archive(pyzstd.compress(b"") * 100_000),
    "seekable zstd of large frames": _seekable,
    "entries": lambda: archive(zstd()(entries())),
    "entries of the archive": lambda: zstd()(entries()),
    "directories": lambda: archive(zstd()(directories())),
    "implied directories": lambda: archive(zstd()(implied())),
    "long names": lambda: archive(zstd()(long_names())),
    "long names of the archive": lambda: zstd()(long_names()),
    "pax records": lambda: archive(zstd()(many_records())),
    "hard links": lambda: archive(zstd()(hard_links())),
    "symlinks": lambda: archive(zstd()(symlinks())),
    "bad entries": lambda: archive(zstd()(bad_entries())),
    "documents": lambda: zstd()(documents()),
    "manifest of empty objects": lambda: archive(manifest=b"[" + b"{}," * 300_000 + b"{}]"),
    "manifest of small objects": lambda: gzip.compress(
        b"".join(
            [header(b"manifest.json", size=8 * MIB), (b"[" + b'{"":0},' * 1_198_000).ljust(8 * MIB)]
        )
    ),
    "manifest of strings": lambda: gzip.compress(
        b"".join(
            [header(b"manifest.json", size=8 * MIB), (b"[" + b'"ab",' * 1_670_000).ljust(8 * MIB)]
        )
    ),
    "deep manifest": lambda: archive(manifest=b"[" * 450_000 + b"]" * 450_000),
    "images of one manifest": _oci_of_one_manifest,
    "large configs": _many_configs,
}

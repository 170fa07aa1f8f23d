"""Export: the layers of an archive or of a conf as one tar, written while they pass.

Takes two passes: the first lists entries, the second writes those that are not hidden. A
layer with a wrong digest ends the export, and the tar has no trailer. Nothing is staged on
disk. Knows archives, sources and tar; flatten.py knows which entries hide others.
"""

from __future__ import annotations

import math
import os
import threading
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack, closing
from itertools import zip_longest
from typing import BinaryIO, NamedTuple, Protocol, Self

from stream.archives.bytesource import PIECE, ByteSource, FileBytes, HashedBytes, pieces
from stream.archives.container import Blob, range_of, where
from stream.archives.decompress import decompress
from stream.archives.flatten import (
    Budget,
    Listing,
    VisibleEntries,
    collect_entries,
    flatten,
    list_members,
    make_lister,
    parts_of,
)
from stream.archives.images import Archive, ArchiveImage, open_archive
from stream.archives.sequential import Sequential
from stream.archives.sparse import NAME
from stream.archives.tarreader import Member, read_members
from stream.compression import UNCOMPRESSED, Compression, opened_compressor
from stream.errors import ArchiveError, ArgumentError, DigestMismatch
from stream.model import Digest, ImageConf
from stream.observer import Observer
from stream.pipes import descriptor_of
from stream.sinks import check_output
from stream.sources.base.layers import check_listing
from stream.sources.image import opened
from stream.sources.layer import ListedLayer
from stream.sources.store import StoreLayer
from stream.tarwriter import TarWriter, encode_header, encode_record
from stream.text import printable
from stream.threads import starting
from stream.tools.planned import PLANNING, Planning
from stream.tools.target import ArchiveFile, read_target
from stream.typeflags import DIRECTORY, HARD_LINK
from stream.values import dataclass, replace

# The keys of an extended header that repeat the header, or that no tool restores. Others, such
# as extended attributes, are kept.
_FIELDS = frozenset(
    ["path", "linkpath", "size", "uid", "gid", "uname", "gname", "mtime"]
    + ["atime", "ctime", "comment", "charset", "hdrcharset"]
)
# A directory that has no entry, although other entries are in it.
_IMPLIED = Member(b"", DIRECTORY, 0, 0o755, 0, 0, b"", b"", 0, b"", (0, 0), 0, {})


class Exported(NamedTuple):
    """The result of an export: the number of entries, and the tar's size in bytes."""

    entries: int
    size: int


def export(
    target: ImageConf | str | os.PathLike[str],
    output: int | BinaryIO,
    observer: Observer | None = None,
    *,
    compression: Compression = UNCOMPRESSED,
    threads: int | None = None,
) -> Exported:
    """Write the root file system of an image as one tar to a file descriptor or binary file
    object. `target` is a conf, parsed, in a file or on standard input (`-`), a specification,
    or an archive, `FILE` or `FILE:name:tag`.

    Raises ArgumentError, ConfError, RecipeError, SourceError, ArchiveError, DigestMismatch
    or OutputError; then the tar has no trailer. `output` is not closed.
    """
    check_output(output, observer, compression, threads)
    observer = observer or Observer()
    found = find_target(target, observer)
    return export_found(found, output, observer, compression=compression, threads=threads)


def find_target(
    target: ImageConf | str | os.PathLike[str],
    observer: Observer,
    planning: Planning = PLANNING,
) -> ImageConf | ArchiveFile:
    """Return the conf or the archive that `target` names, before any output is opened. See
    `read_target`.
    """
    if isinstance(target, ImageConf):
        return target
    found = read_target(target, tagged=False, warn=observer.warning, planning=planning)
    if isinstance(found, Sequential):
        reason = "is an archive, which must be read twice, and a pipe cannot be; save it to a file"
        raise ArgumentError("target", found.name, reason)
    return found


def export_found(
    found: ImageConf | ArchiveFile,
    output: int | BinaryIO,
    observer: Observer,
    *,
    compression: Compression,
    threads: int | None,
) -> Exported:
    """Write the root file system of what `find_target` found. See `export`."""
    with ExitStack() as stack:
        fd = stack.enter_context(descriptor_of(output))
        fd = stack.enter_context(opened_compressor(fd, compression, threads=threads))
        if isinstance(found, ImageConf):
            return _export_conf(found, fd, observer)
        archive = stack.enter_context(open_archive(found.path, make_lister()))
        return _export_archive(archive, archive.choose(found.repo_tag), fd, observer)


def _export_archive(
    archive: Archive[Listing], image: ArchiveImage, fd: int, observer: Observer
) -> Exported:
    check_listing(archive.name, image)
    blobs = dict.fromkeys(layer.blob for layer in image.layers)
    listings = {blob: archive.container.peruse(blob) for blob in blobs}
    return _export([_ArchiveLayers(archive, image, listings)], fd, observer)


def _export_conf(conf: ImageConf, fd: int, observer: Observer) -> Exported:
    with opened(conf, observer.warning, entries=True) as sources:
        groups: list[_Layers] = []
        if (base := sources.base) is not None:
            listings = {blob: listing.entries for blob, listing in base.listings.items()}
            groups.append(_ArchiveLayers(base.archive, base.image, listings))
        groups += [_StoreLayer(layer) for layer in sources.walk_store_layers()]
        if sources.customisation is not None:
            groups.append(_CustomisationLayer(sources.customisation))
        return _export(groups, fd, observer)


# ---- layers


@dataclass(frozen=True, slots=True, kw_only=True)
class _Layer:
    """A layer's entries. `expected` is the digest that its tar must have, or None for a
    layer that is made here.
    """

    name: str
    size: int | None
    listing: Listing
    expected: Digest | None


class _Layers(Protocol):
    """Layers that are read together."""

    layers: list[_Layer]  # bottom to top; a layer may occur twice

    def read(self) -> Iterator[tuple[_Layer, ByteSource]]:
        """Yield each distinct layer with its tar, in any order."""


class _ArchiveLayers:
    """The layers of an image in an archive."""

    def __init__(
        self, archive: Archive[object], image: ArchiveImage, listings: Mapping[Blob, Listing]
    ) -> None:
        self._container = archive.container
        self._by_blob: dict[Blob, _Layer] = {}
        for layer in image.layers:
            if layer.blob not in self._by_blob:
                self._by_blob[layer.blob] = _Layer(
                    name=where(archive.name, layer.name),
                    size=layer.blob.content_size,
                    listing=listings[layer.blob],
                    expected=layer.diff_id,
                )
        self.layers = [self._by_blob[layer.blob] for layer in image.layers]

    def read(self) -> Iterator[tuple[_Layer, ByteSource]]:
        with closing(self._container.read(list(self._by_blob))) as reading:
            for blob, source in reading:
                content = source
                if blob.compression:
                    content = decompress(source, blob.compression)
                yield self._by_blob[blob], content


class _StoreLayer:
    """A store layer, written into a pipe."""

    def __init__(self, source: StoreLayer) -> None:
        self._source = source
        listing = Listing()
        for member in source.members():
            listing.add(member)
        self._layer = _Layer(
            name=self._source.label, size=self._source.size, listing=listing, expected=None
        )
        self.layers = [self._layer]

    def read(self) -> Iterator[tuple[_Layer, ByteSource]]:
        with self._source.content() as content:
            yield self._layer, content


class _CustomisationLayer:
    """The customisation layer."""

    def __init__(self, source: ListedLayer) -> None:
        self._source = source
        self._layer = _Layer(
            name=source.label,
            size=source.size,
            listing=list_members(source.members(), source.label, Budget()),
            expected=source.diff_id,
        )
        self.layers = [self._layer]

    def read(self) -> Iterator[tuple[_Layer, ByteSource]]:
        with self._source.content() as content:
            yield self._layer, content


# ---- digests


class _Check:
    """Computes the digests of layers in plain files while they are written."""

    def __init__(self) -> None:
        self._pool = ThreadPoolExecutor(1, "check")
        self._stopped = threading.Event()
        self._results: list[Future[None]] = []

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self._stopped.set()
        self._pool.shutdown(cancel_futures=True)

    def begin(self, layer: _Layer, source: FileBytes) -> None:
        """Start checking `source`, the tar of `layer`."""
        shared, offset = source.range
        fd = os.dup(shared)
        mine = FileBytes(fd, source.name, offset=offset, size=source.size)
        try:
            with starting():
                result = self._pool.submit(self._run, layer, mine)
        except BaseException:
            os.close(fd)
            raise
        result.add_done_callback(lambda _: os.close(fd))  # also of one cancelled before it ran
        self._results.append(result)

    def _run(self, layer: _Layer, source: FileBytes) -> None:
        content = HashedBytes(source)
        while content.read(PIECE):
            if self._stopped.is_set():
                return
        _compare(layer, content)

    def finish(self) -> None:
        """Wait for all. Raises DigestMismatch."""
        for result in self._results:
            result.result()


def _compare(layer: _Layer, content: HashedBytes) -> None:
    found = content.finish()
    if layer.expected is not None and found != layer.expected:
        raise DigestMismatch(layer.name, layer.expected, found)


# ---- writing


def _export(groups: Sequence[_Layers], fd: int, observer: Observer) -> Exported:
    layers = [layer for group in groups for layer in group.layers]
    numbers = {id(layer): number for number, layer in enumerate(layers)}
    tree = flatten((numbers[id(layer)], layer.listing, layer.name) for layer in layers)
    with TarWriter(fd) as writer, _Check() as check:
        observer.started(
            len(numbers), lambda: (layer.size for layer in layers), lambda: writer.position
        )
        output = _Output(collect_entries(tree), writer)
        for count, (layer, source) in enumerate(_readings(groups), 1):
            observer.layer_started(count, layer.name, layer.name, layer.size or 0)
            number = numbers[id(layer)]
            if isinstance(source, FileBytes):
                check.begin(layer, source)
                output.write_layer(number, layer.listing, source)
            elif layer.expected is not None:
                content = HashedBytes(source)
                output.write_layer(number, layer.listing, content)
                _compare(layer, content)
            else:
                output.write_layer(number, layer.listing, source)
        check.finish()
        exported = Exported(*output.finish())
    observer.exported(*exported)
    return exported


def _readings(groups: Sequence[_Layers]) -> Iterator[tuple[_Layer, ByteSource]]:
    for group in groups:
        yield from group.read()


class _Output:
    """The tar: directories before their entries, hard links after their targets. An empty
    directory comes right after its parent, because tar makes the parent read-only once it goes
    on to another directory.
    """

    def __init__(self, entries: VisibleEntries, writer: TarWriter) -> None:
        self._directories = entries.directories
        self._leaves = entries.leaves
        self._hollow = entries.hollow
        self._writer = writer
        self._entries = 0
        if entries.root is not None:
            self._write_header(entries.root, b"./")
        self._write_hollow(b"")

    def write_layer(self, number: int, listing: Listing, source: ByteSource) -> None:
        """Write the entries of a layer that are not hidden; its tar is `source`."""
        leaves = self._leaves.pop(number, {})
        if not leaves:
            return
        for index, (member, before) in enumerate(
            zip_longest(read_members(source), listing.entries)
        ):
            if member is None or before != (member.name, member.typeflag, member.link):
                raise ArchiveError(source.name, "changed between two readings")
            if paths := leaves.get(index):
                self._write(member, paths, source)

    def finish(self) -> tuple[int, int]:
        """Write the trailer. Return the number of entries and of bytes."""
        return self._entries, self._writer.finish()

    def _write(self, member: Member, paths: list[bytes], source: ByteSource) -> None:
        own = b"/".join(parts_of(member.name))
        paths.sort(key=lambda path: path != own)
        for path in paths:
            self._write_parents(path)
            if path is paths[0]:
                self._write_header(member, path)
                self._write_content(member, source)
            else:
                link = replace(
                    member, typeflag=HARD_LINK, size=0, link=paths[0], pax={}, is_sparse=False
                )
                self._write_header(link, path)

    def _write_content(self, member: Member, source: ByteSource) -> None:
        if not member.size:
            return
        if (place := range_of(source)) is not None:
            fd, offset = place
            path = source.name.encode("utf-8", "surrogateescape")
            self._writer.copy(fd, member.size, path, offset + member.offset)
        else:
            for piece in pieces(source, member.size):
                self._writer.write(piece)
        self._writer.pad()

    def _write_parents(self, path: bytes) -> None:
        missing = []
        while path := path.rpartition(b"/")[0]:
            if path not in self._directories:
                break
            missing.append(path)
        for directory in reversed(missing):
            self._write_directory(directory)

    def _write_directory(self, path: bytes) -> None:
        self._write_header(self._directories.pop(path) or _IMPLIED, path + b"/")
        self._write_hollow(path)

    def _write_hollow(self, path: bytes) -> None:
        """Write the directories in `path` that hold nothing, or only directories like them."""
        waiting = self._hollow.pop(path, [])[::-1]
        while waiting:
            path = waiting.pop()
            self._write_header(self._directories.pop(path) or _IMPLIED, path + b"/")
            waiting += self._hollow.pop(path, [])[::-1]

    def _write_header(self, member: Member, path: bytes) -> None:
        self._entries += 1
        try:
            header = encode_header(
                path,
                member.mode,
                member.size,
                math.floor(member.mtime),
                typeflag=member.typeflag,
                link=member.link,
                uid=member.uid,
                gid=member.gid,
                uname=member.uname,
                gname=member.gname,
                device=member.device,
                records=_records(member, path) if member.pax else b"",
            )
        except (OverflowError, ValueError) as error:
            raise ArchiveError(printable(path), f"cannot be written as tar: {error}") from None
        self._writer.write(header)


def _records(member: Member, path: bytes) -> bytes:
    """Return the records of the extended header that are not fields of the header. A sparse
    file stays one, so that a file of many terabytes, which is mostly a hole, costs no more
    than what is stored of it; its name is in a record, too.
    """
    encoded = b""
    records = {**member.pax, NAME: path} if member.is_sparse else member.pax
    for key, value in records.items():
        if key not in _FIELDS or (key == "mtime" and b"." in value):
            encoded += encode_record(key.encode("utf-8", "surrogateescape"), value)
    return encoded

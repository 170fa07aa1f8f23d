"""A base image as a tree with its files on disk, as commands need it that run in the image.

Everything that its layers hold is in the tree, with times and hard links; each layer is verified.
Knows layers and nodes; not what happens in the tree.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from contextlib import closing

import xxhash

from stream.archives.bytesource import ByteSource, HashedBytes, pieces
from stream.archives.container import content_of
from stream.archives.flatten import Listing, VisibleEntries, collect_entries
from stream.archives.sparse import read_map
from stream.archives.tarreader import XATTR, Member, read_members
from stream.errors import ArchiveError, DigestMismatch
from stream.pipes import write_all
from stream.sources.base.image import BaseImage
from stream.sources.customisation.content import pieces as content_pieces
from stream.sources.customisation.tree import Identity, Node, Tree
from stream.temporary.directory import translate_errors
from stream.text import printable
from stream.typeflags import FILE
from stream.values import dataclass, field, replace

_MAX_TIME = 1 << 33  # seconds: what every file system can hold


@dataclass(frozen=True, slots=True, kw_only=True)
class Unpacked:
    """The `tree` of a base image, and a `digest` of the content of each file by its path."""

    tree: Tree = field(default_factory=Tree)
    digests: Mapping[bytes, bytes] = field(default_factory=dict)


def digest_content(node: Node) -> bytes:
    """Return the digest of a file's content, as `Unpacked` has it. Raises SourceError."""
    digest = xxhash.xxh3_128()
    for piece in content_pieces(node):
        digest.update(piece)
    return digest.digest()


def unpack(image: BaseImage, directory: bytes) -> Unpacked:
    """Return the file system of `image`, whose entries were listed; its files are put into
    `directory`. Raises ArchiveError, DigestMismatch and SourceError.
    """
    unpacking = _Unpacking(collect_entries(image.tree().root), directory)
    diff_ids = {layer.blob: (layer.diff_id, layer.name) for layer in image.layers}
    numbers = {blob: number for number, blob in enumerate(image.listings)}
    with closing(image.archive.container.read([*numbers])) as reading:
        for blob, source in reading:
            content = HashedBytes(content_of(source, blob))
            unpacking.add(numbers[blob], image.listings[blob].entries, content)
            expected, name = diff_ids[blob]
            if (found := content.finish()) != expected:
                raise DigestMismatch(f"{image.name}: {name}", expected, found)
    return Unpacked(tree=unpacking.tree, digests=unpacking.digests)


class _Unpacking:
    def __init__(self, entries: VisibleEntries, directory: bytes) -> None:
        self.tree = Tree()
        self.digests: dict[bytes, bytes] = {}
        self._leaves = entries.leaves
        self._directory = directory
        if entries.root is not None:
            self.tree.root = _node(entries.root)
        for path, member in entries.directories.items():
            made = self.tree.make_directory(path)
            if member is not None:
                _describe(made, member)

    def add(self, number: int, listing: Listing, content: ByteSource) -> None:
        """Add the entries of a layer that are not hidden; `content` is its tar."""
        leaves = self._leaves.get(number, {})
        before = listing.entries
        for index, member in enumerate(read_members(content)):
            if before[index : index + 1] != [(member.name, member.typeflag, member.link)]:
                raise ArchiveError(content.name, "changed between two readings")
            if paths := leaves.get(index):
                self._put(sorted(paths), member, content)

    def _put(self, paths: list[bytes], member: Member, content: ByteSource) -> None:
        node = _node(member)
        for path in paths:
            self.tree.put(path, node if node.typeflag == FILE else replace(node))
        if node.typeflag != FILE:
            return
        node.source = self._directory + b"/%d" % len(self.digests)
        with translate_errors(node.source):
            digest = _write(node.source, member, content)
            found = os.stat(node.source)
        node.size = found.st_size
        node.identity = Identity.of(found)
        self.digests |= dict.fromkeys(paths, digest)


def _node(member: Member) -> Node:
    node = Node(
        typeflag=member.typeflag,
        mode=0,
        link=member.link,
        device=member.device,
        origin=b"the base image",
    )
    _describe(node, member)
    return node


def _describe(node: Node, member: Member) -> None:
    node.mode, node.uid, node.gid = member.mode & 0o7777, member.uid, member.gid
    node.xattrs = {
        key.removeprefix(XATTR).encode("utf-8", "surrogateescape"): value
        for key, value in member.pax.items()
        if key.startswith(XATTR)
    } or None
    node.mtime_ns = int(min(max(member.mtime, 0), _MAX_TIME) * 10**9)


def _write(path: bytes, member: Member, content: ByteSource) -> bytes:
    """Write the file `member`, whose content is next in `content`. Return its digest."""
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    try:
        digest = xxhash.xxh3_128()

        def write(data: bytes) -> None:
            digest.update(data)
            write_all(fd, data)

        if member.is_sparse:
            _fill(member, content, write)
        else:
            for piece in pieces(content, member.size):
                write(piece)
        return digest.digest()
    finally:
        os.close(fd)


def _fill(member: Member, content: ByteSource, write: Callable[[bytes], None]) -> None:
    """Write a sparse file with its holes filled."""
    try:
        size, data = read_map(member.pax, member.size, content)
    except ValueError as error:
        shown = printable(member.name)
        raise ArchiveError(content.name, f"{shown}: is a sparse file, but {error}") from None
    content.budget.take(size, content.name, "has a sparse file that is too large")
    position = 0
    for offset, length in [*data, (size, 0)]:
        while position < offset:
            hole = min(offset - position, 1 << 18)
            write(bytes(hole))
            position += hole
        for piece in pieces(content, length):
            write(piece)
        position += length

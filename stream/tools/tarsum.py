"""TarSum, version 1: Docker's checksum of a tar. It depends neither on the order of
the members nor on their times, so the same files have the same sum.

The TarSum Checksum Specification, as Docker implements it: user and group names are
hashed as if they were empty, and members are those that Go's archive/tar finds. Must not
know files or images.
"""

from __future__ import annotations

import hashlib
import os
import posixpath
from bisect import bisect_left

from stream.archives.bytesource import ByteSource, pieces
from stream.archives.sequential import opened_file
from stream.archives.tarreader import (
    MAX_EXTENSION,
    XATTR,
    Member,
    RawFields,
    parse_raw_fields,
    read_members,
)
from stream.errors import ArchiveError, ArgumentError
from stream.text import printable

_LABEL = "tarsum.v1+sha256"
_SHOWN = 200  # bytes of a name that are kept for an error


def tarsum(tar: str | os.PathLike[str]) -> str:
    """Return the TarSum of the tar in a file, which may be compressed, or on standard input
    (`-`): `tarsum.v1+sha256:` and 64 hexadecimal digits.

    Raises ArchiveError if it cannot be read or its TarSum is undefined.
    """
    ArgumentError.require("tar", tar, str, os.PathLike)
    with opened_file(tar) as file:
        return sum_tar(file.content())


def sum_tar(source: ByteSource) -> str:
    """Return the TarSum of the tar in `source`, which is read to its end. Memory grows with
    the number of members alone. Raises ArchiveError as `tarsum` does.
    """
    sums = _Sums(source.name)
    for member in read_members(
        source, global_members=True, max_name=MAX_EXTENSION, is_argument=True
    ):
        if member.is_sparse:
            reason = f"{printable(member.name)}: is a sparse file, for which no TarSum is computed"
            raise ArchiveError(source.name, reason)
        checksum = hashlib.sha256(_header(member, parse_raw_fields(member, source)))
        for piece in pieces(source, member.size):
            checksum.update(piece)
        sums.add(member.name, checksum.digest())
    if not source.position:
        raise ArchiveError(source.name, "is empty")
    # A writer of padding after the tar's end would otherwise block, or see a closed pipe.
    for _ in pieces(source):
        pass
    total = hashlib.sha256()
    for digest in sums.in_order():
        total.update(digest.hex().encode())
    return f"{_LABEL}:{total.hexdigest()}"


def _header(member: Member, header: RawFields) -> bytes:
    """Return the bytes hashed before a member's content: its keys and values, joined."""
    # Go keeps the type of a contiguous file, and takes a member without a type for a file.
    typeflag = member.typeflag if header.typeflag == b"\0" else header.typeflag
    fields: list[tuple[bytes, bytes | int]] = [
        (b"name", member.name),
        (b"mode", header.mode),
        (b"uid", header.uid),
        (b"gid", header.gid),
        (b"size", header.size),
        (b"typeflag", typeflag),
        (b"linkname", member.link),
        (b"uname", b""),
        (b"gname", b""),
        (b"devmajor", header.device[0]),
        (b"devminor", header.device[1]),
    ]
    fields += sorted(
        (key.removeprefix(XATTR).encode("utf-8", "surrogateescape"), value)
        for key, value in member.pax.items()
        if key.startswith(XATTR)
    )
    return b"".join(
        key + (value if isinstance(value, bytes) else b"%d" % value) for key, value in fields
    )


class _Sums:
    """The sums of all members. Paths are kept as digests, as they can be long."""

    def __init__(self, source: str) -> None:
        self._source = source
        self._sums: list[bytes] = []
        self._paths: list[bytes] = []
        self._seen: set[bytes] = set()
        self._repeated: dict[bytes, bytes] = {}  # digest of a path: beginning of its name

    def add(self, name: bytes, digest: bytes) -> None:
        """Add the sum `digest` of the next member, called `name`."""
        normal = posixpath.normpath(b"/" + name.lstrip(b"/"))
        path = hashlib.blake2b(normal, digest_size=16).digest()
        if path in self._seen:
            self._repeated[path] = name[:_SHOWN]
        self._seen.add(path)
        self._sums.append(digest)
        self._paths.append(path)

    def in_order(self) -> list[bytes]:
        """Return all sums, sorted, except that those of one path stay in the order of
        their members. Raises ArchiveError if no such order exists.
        """
        order = sorted(self._sums)
        result = order.copy()
        groups: dict[bytes, list[bytes]] = {path: [] for path in self._repeated}
        for path, digest in zip(self._paths, self._sums, strict=True):
            if path in groups:
                groups[path].append(digest)
        for path, group in groups.items():
            ascending = sorted(group)
            if group == ascending:
                continue
            # With another member's sum between them, they would have to be both before and
            # after it; Docker's result then depends on its sorting algorithm.
            start = bisect_left(order, ascending[0])
            if order[start : start + len(group)] != ascending:
                name = printable(self._repeated[path])
                raise ArchiveError(
                    self._source, f"{name}: occurs more than once; TarSum is undefined for this tar"
                )
            result[start : start + len(group)] = group
        return result

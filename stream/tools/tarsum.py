"""TarSum, version 1: Docker's checksum of a tar. It depends neither on the order of
the members nor on their times, so that the same files give the same sum.

The TarSum Checksum Specification, as Docker's program carries it out: of user and
group names it hashes only that there are such, and members are what Go's
archive/tar takes for them. Knows neither files nor images.
"""

from __future__ import annotations

import hashlib
import posixpath
from bisect import bisect_left

from stream.archives.bytesource import ByteSource, pieces
from stream.archives.tarreader import MAX_EXTENSION, XATTR, Member, Stated, read_members, stated
from stream.errors import ArchiveError
from stream.text import printable

_LABEL = "tarsum.v1+sha256"
_SHOWN = 200  # bytes of a name that are kept for an error


def tarsum(source: ByteSource) -> str:
    """The TarSum of the tar in `source`, which is read to its end:
    `tarsum.v1+sha256:` and 64 hexadecimal digits. Memory grows with the number of
    members alone. Raises ArchiveError, also for a tar whose sum is not defined.
    """
    sums = _Sums(source.name)
    for member in read_members(source, global_members=True, max_name=MAX_EXTENSION):
        checksum = hashlib.sha256(_header(member, stated(member, source)))
        for piece in pieces(source, member.size):
            checksum.update(piece)
        sums.add(member.name, checksum.digest())
    # Who writes what is behind the tar's end waits for a reader.
    for _ in pieces(source):
        pass
    total = hashlib.sha256()
    for digest in sums.in_order():
        total.update(digest.hex().encode())
    return f"{_LABEL}:{total.hexdigest()}"


def _header(member: Member, header: Stated) -> bytes:
    """What is hashed of a member before its content: keys and values, one by one."""
    # To Go a contiguous file is of a type of its own; what states no type is a file.
    typeflag = member.typeflag if header.typeflag == b"\0" else header.typeflag
    fields: list[tuple[bytes, bytes | int]] = [
        (b"name", member.name),
        (b"mode", header.mode),
        (b"uid", member.uid),
        (b"gid", member.gid),
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
    """The members' sums. Of names it keeps digests, for they can be long."""

    def __init__(self, source: str) -> None:
        self._source = source
        self._sums: list[bytes] = []
        self._paths: list[bytes] = []
        self._seen: set[bytes] = set()
        self._repeated: dict[bytes, bytes] = {}  # path and the beginning of its name

    def add(self, name: bytes, digest: bytes) -> None:
        """The next member's."""
        normal = posixpath.normpath(b"/" + name.lstrip(b"/"))
        path = hashlib.blake2b(normal, digest_size=16).digest()
        if path in self._seen:
            self._repeated[path] = name[:_SHOWN]
        self._seen.add(path)
        self._sums.append(digest)
        self._paths.append(path)

    def in_order(self) -> list[bytes]:
        """All of them, sorted, but those of one path as they came. Raises
        ArchiveError where that cannot be had.
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
            # With another member's sum between them they would have to come both before
            # and after it: what Docker makes of that differs by its sorting algorithm.
            start = bisect_left(order, ascending[0])
            if order[start : start + len(group)] != ascending:
                name = printable(self._repeated[path])
                raise ArchiveError(
                    self._source, f"{name}: is in it more than once, so that it has no TarSum"
                )
            result[start : start + len(group)] = group
        return result

"""Tar, read from the front: members with what their headers say, content as bytes.

POSIX.1-2008 (ustar and pax) and the GNU names for long names. Knows neither
images nor files; trusts nothing that it reads: what a header announces is never
allocated unless it is small.
"""

from __future__ import annotations

import tarfile
from collections.abc import Iterator
from dataclasses import dataclass, field

from stream.archives.bytesource import ByteSource, read_exactly
from stream.errors import ArchiveError, printable

BLOCK = 512
MAX_EXTENSION = 1 << 20  # bytes of a pax header, or of a GNU long name
MAX_SIZE = 1 << 62

FILE, HARD_LINK, LINK, CHARACTER, BLOCK_DEVICE, DIRECTORY, FIFO = (b"%d" % n for n in range(7))
TYPES = frozenset({FILE, HARD_LINK, LINK, CHARACTER, BLOCK_DEVICE, DIRECTORY, FIFO})
_FILE_TYPES = frozenset({b"0", b"\0", b"7"})
_PAX, _PAX_GLOBAL, _GNU_NAME, _GNU_LINK = b"x", b"g", b"L", b"K"
_EXTENSIONS = frozenset({_PAX, _PAX_GLOBAL, _GNU_NAME, _GNU_LINK})


@dataclass(slots=True, kw_only=True)
class Member:
    """A member as its headers describe it. `offset` is where its content begins,
    `header_offset` where its first header does; `pax` holds the extended header's
    records, raw. Names are bytes as they stand in the archive.
    """

    name: bytes
    typeflag: bytes
    size: int
    mode: int
    uid: int
    gid: int
    uname: str
    gname: str
    mtime: float
    link: bytes
    device: tuple[int, int]
    offset: int
    header_offset: int
    pax: dict[str, bytes] = field(default_factory=dict)


def read_members(source: ByteSource) -> Iterator[Member]:
    """The members of the tar in `source`, in order.

    Between two of them, no more than the member's content may be read from
    `source`. Raises ArchiveError for what is no tar, is cut short or lies.
    """
    extensions = _Extensions(source)
    empty = True
    while (block := _next_block(source)) is not None:
        info = _parse(block, source)
        empty = False
        if info.type in _EXTENSIONS:
            extensions.read(info)
            continue
        member = _member(info, source, extensions.start)
        extensions.apply(member)
        end = member.offset + member.size
        yield member
        if source.position > end:
            raise ValueError("more was read than the member's content")
        source.skip(end - source.position + -member.size % BLOCK)
        extensions.start = source.position
    if empty and not source.position:
        raise ArchiveError(source.name, "is empty")
    extensions.end()


def _next_block(source: ByteSource) -> bytes | None:
    """The next header, or None at the end: zeros, or nothing at all."""
    block = source.read(BLOCK)
    if not block or (len(block) == BLOCK and not any(block)):
        return None
    if len(block) != BLOCK:
        raise ArchiveError(source.name, "is cut short")
    return block


def _parse(block: bytes, source: ByteSource) -> tarfile.TarInfo:
    try:
        return tarfile.TarInfo.frombuf(block, "utf-8", "surrogateescape")
    except tarfile.HeaderError as error:
        raise ArchiveError(
            source.name, f"is not a tar at byte {source.position - BLOCK}: {error}"
        ) from None


def _member(info: tarfile.TarInfo, source: ByteSource, header_offset: int) -> Member:
    name = info.name.encode("utf-8", "surrogateescape")
    kind = FILE if info.type in _FILE_TYPES else info.type
    if kind == FILE and info.type == b"\0" and name.endswith(b"/"):
        kind = DIRECTORY
    return Member(
        name=name,
        typeflag=kind,
        size=info.size if kind == FILE else 0,
        mode=info.mode & 0o7777,
        uid=info.uid,
        gid=info.gid,
        uname=info.uname,
        gname=info.gname,
        mtime=info.mtime,
        link=info.linkname.encode("utf-8", "surrogateescape"),
        device=(info.devmajor, info.devminor),
        offset=source.position,
        header_offset=header_offset,
    )


class _Extensions:
    """What extended headers say of the members behind them."""

    def __init__(self, source: ByteSource) -> None:
        self._source = source
        self._globals: dict[str, bytes] = {}
        self._records: dict[str, bytes] = {}
        self._name: bytes | None = None
        self._link: bytes | None = None
        self.start = source.position  # of the headers at hand

    def read(self, info: tarfile.TarInfo) -> None:
        """Take the extended header `info`, whose content is next."""
        source = self._source
        if not 0 <= info.size <= MAX_EXTENSION:
            raise ArchiveError(source.name, f"an extended header of {info.size} bytes is too large")
        data = read_exactly(source, info.size)
        source.skip(-info.size % BLOCK)
        if info.type == _PAX:
            self._records = _records(data, source)
        elif info.type == _PAX_GLOBAL:
            self._globals.update(_records(data, source))
            if sum(map(len, self._globals.values())) > MAX_EXTENSION:
                raise ArchiveError(source.name, "its global headers are too large")
        elif info.type == _GNU_NAME:
            self._name = data.split(b"\0", 1)[0]
        else:
            self._link = data.split(b"\0", 1)[0]

    def apply(self, member: Member) -> None:
        """Let what was read have its way with `member`, and forget it."""
        if self._name is not None:
            member.name = self._name
        if self._link is not None:
            member.link = self._link
        _apply(member, {**self._globals, **self._records}, self._source)
        self._records, self._name, self._link = {}, None, None

    def end(self) -> None:
        """Raise ArchiveError if there is a header without a member."""
        if self._records or self._name or self._link:
            raise ArchiveError(self._source.name, "is cut short behind an extended header")


def _apply(member: Member, records: dict[str, bytes], source: ByteSource) -> None:
    """Let the extended header's records have their way."""
    member.pax = records
    try:
        if "path" in records:
            member.name = records["path"]
        if "linkpath" in records:
            member.link = records["linkpath"]
        if "size" in records and member.typeflag == FILE:
            member.size = int(records["size"])
        if "uid" in records:
            member.uid = int(records["uid"])
        if "gid" in records:
            member.gid = int(records["gid"])
        if "uname" in records:
            member.uname = records["uname"].decode("utf-8", "surrogateescape")
        if "gname" in records:
            member.gname = records["gname"].decode("utf-8", "surrogateescape")
        if "mtime" in records:
            member.mtime = float(records["mtime"])
    except ValueError:
        raise ArchiveError(
            source.name, f"{printable(member.name)}: its extended header holds no number"
        ) from None
    if any(key.startswith("GNU.sparse.") for key in records) or member.typeflag not in TYPES:
        raise ArchiveError(
            source.name,
            f"{printable(member.name)}: is of a type that no image has ({member.typeflag!r})",
        )
    if not 0 <= member.size <= MAX_SIZE:
        raise ArchiveError(
            source.name, f"{printable(member.name)}: a size of {member.size} bytes cannot be"
        )
    if b"\0" in member.name or b"\0" in member.link:
        raise ArchiveError(source.name, f"{printable(member.name)}: has a NUL in its name")


def _records(data: bytes, source: ByteSource) -> dict[str, bytes]:
    """The records of a pax extended header: `length key=value newline`."""
    records: dict[str, bytes] = {}
    at = 0
    while at < len(data) and data[at]:
        digits, space, _ = data[at : at + 20].partition(b" ")
        if not space or not digits.isdigit():
            raise ArchiveError(source.name, "an extended header is malformed")
        end = at + int(digits)
        key, equals, value = data[at + len(digits) + 1 : end - 1].partition(b"=")
        if end > len(data) or data[end - 1 : end] != b"\n" or not equals or end <= at:
            raise ArchiveError(source.name, "an extended header is malformed")
        records[key.decode("utf-8", "surrogateescape")] = value
        at = end
    return records

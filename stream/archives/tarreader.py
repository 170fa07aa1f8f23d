"""A forward-only tar reader: members with their metadata, content as bytes.

Formats: POSIX.1-2008 (ustar and pax), GNU's long names, and GNU's sparse files in pax
headers. Lenient where Go's archive/tar is, with which docker, podman and containerd read
layers: a tar may have no bytes, and its last member no padding. Must not know images or
files. Trusts nothing that it reads: memory is never allocated by a size in a header
unless that is small.
"""

from __future__ import annotations

import math
import struct
import zlib
from collections.abc import Iterator
from typing import NamedTuple

from stream.archives.bytesource import ByteSource, read_exactly
from stream.archives.sparse import NUMBERS, is_sparse, join_numbers, parse_decimal, sparse_name
from stream.errors import ArchiveError
from stream.limits import ENTRY_COST, NAME_COST, RECORD_COST
from stream.schema.reading import begins_conf
from stream.text import printable
from stream.typeflags import BLOCK_DEVICE, CHARACTER_DEVICE, DIRECTORY, FIFO, FILE, HARD_LINK, LINK
from stream.values import dataclass

BLOCK = 512
MAX_EXTENSION = 1 << 20  # bytes of a pax header, or of a GNU long name
MAX_GLOBALS = 1 << 12  # bytes of all global headers, which apply to every member
MAX_NAME = 1 << 12  # bytes of a name or a link's target; no path in Linux is longer
MAX_SIZE = 1 << 62

TYPES = frozenset({FILE, HARD_LINK, LINK, CHARACTER_DEVICE, BLOCK_DEVICE, DIRECTORY, FIFO})
_DEVICES = frozenset({CHARACTER_DEVICE, BLOCK_DEVICE})
_OLD_FILE, _CONTIGUOUS_FILE = b"\0", b"7"
GLOBAL = b"g"
_GNU_SPARSE = b"S"  # a sparse file in GNU's older format, which docker refuses
XATTR = "SCHILY.xattr."  # begins a pax record's name, as GNU tar and Go's archive/tar write it
_PAX, _GNU_NAME, _GNU_LINK = b"x", b"L", b"K"
_EXTENSIONS = frozenset({_PAX, GLOBAL, _GNU_NAME, _GNU_LINK})

# name, mode, uid, gid, size, mtime, checksum, typeflag, link, magic and version, uname,
# gname, device's major and minor number, prefix
_FIELDS = struct.Struct("100s8s8s8s12s12s8sc100s8s32s32s8s8s155s12x")
_CHECKSUM, _TYPEFLAG = slice(148, 156), slice(156, 157)
_MAGIC, _GNU_MAGIC = b"ustar\x00", b"ustar  \x00"
_NO_TAR = "is not a tar, plain or compressed"
_CONF = " (it looks like a conf; write its image to a file first: stream-image CONF -o FILE)"
_SHOWN = 80  # bytes of a name that is too long
_NO_CHANGE = 2**32 - 1  # (uid_t)-1


@dataclass(slots=True)
class Member:
    """A member as described by its headers. Its content begins at `offset`. `pax` has the
    raw records of its extended header, and `header` is its own header block. Names are the
    bytes in the archive. Owners are as Linux sets them, in 32 bits.

    If `is_sparse`, the content as stored, `size` bytes, is that of the file without its
    holes, which its map describes (see sparse.py).
    """

    name: bytes
    typeflag: bytes
    size: int
    mode: int
    uid: int
    gid: int
    uname: bytes
    gname: bytes
    mtime: float
    link: bytes
    device: tuple[int, int]
    offset: int
    pax: dict[str, bytes]
    header: bytes = b""
    is_sparse: bool = False


class RawFields(NamedTuple):
    """The fields of a header that Member normalizes: it reduces modes to permissions and
    owners to 32 bits, unifies the typeflags of files, and has sizes only for files, device
    numbers only for devices.
    """

    mode: int
    uid: int
    gid: int
    typeflag: bytes
    size: int
    device: tuple[int, int]


def read_members(
    source: ByteSource,
    *,
    global_members: bool = False,
    max_name: int = MAX_NAME,
    is_argument: bool = False,
) -> Iterator[Member]:
    """Yield the members of the tar `source`, in order. Names and link targets may have at
    most `max_name` bytes.

    With `global_members`, a global extended header is a member of the type GLOBAL, with
    only a name and records, which do not apply to other members.

    If `is_argument`, `source` is what a person named, and the error for a conf says what to do.

    Between two members, the caller may read at most the content of the first from
    `source`. Raises ArchiveError for a tar that is malformed, truncated or inconsistent.
    """
    extensions = _Extensions(source)
    padding = 0  # bytes, of the member before; the last one of a tar may lack it
    while (block := _next_block(source, padding, is_argument=is_argument)) is not None:
        padding = 0
        member = _parse(block, source, is_argument=is_argument)
        if member.typeflag == GLOBAL and global_members:
            yield _global_member(member, source)
            extensions = _Extensions(source)
            continue
        if member.typeflag in _EXTENSIONS:
            extensions.read(member)
            continue
        extensions.apply(member)
        for name in (member.name, member.link):
            if len(name) > max_name:
                shown = printable(name[:_SHOWN])
                raise ArchiveError(
                    source.name, f"{shown}…: a name of {len(name)} bytes; the limit is {max_name}"
                )
        source.budget.take(_cost(member), source.name, "has too many entries for its size")
        size, end = member.size, member.offset + member.size
        yield member
        if source.position > end:
            raise ValueError("more was read than the member's content")
        source.skip(end - source.position)
        padding = -size % BLOCK
    extensions.end()


def _cost(member: Member) -> int:
    """Return what `member` costs those who list members, in bytes of output."""
    names = len(member.name) + len(member.link)
    cost = ENTRY_COST + NAME_COST * names
    if member.pax:
        cost += RECORD_COST * len(member.pax) + NAME_COST * sum(map(len, member.pax.values()))
    return cost


def _next_block(source: ByteSource, padding: int, *, is_argument: bool) -> bytes | None:
    """Return the header block after `padding` bytes, or None at the end: two blocks of zeros,
    or no bytes.
    """
    data = source.read(padding + BLOCK)
    if len(data) <= padding:
        return None
    block = data[padding:]
    if len(block) != BLOCK:
        if source.position < BLOCK and _MAGIC[:5] not in block:
            raise _no_tar(block, source, is_argument=is_argument)
        raise ArchiveError(source.name, "is cut short")
    if not block[0] and not any(block):
        # After a single one, some tools continue, some stop, and some refuse the tar.
        if any(source.read(BLOCK)):
            raise ArchiveError(source.name, "continues after a block of zeros, which marks its end")
        return None
    return block


def _no_tar(block: bytes, source: ByteSource, *, is_argument: bool) -> ArchiveError:
    """Return the error for a file that begins with `block`."""
    is_conf = is_argument and begins_conf(block)
    return ArchiveError(source.name, _NO_TAR + _CONF if is_conf else _NO_TAR)


def _parse(block: bytes, source: ByteSource, *, is_argument: bool) -> Member:
    """Return the member described by a header block alone, without extended headers."""
    try:
        fields = _FIELDS.unpack(block)
        name, mode, uid, gid, size, mtime, checksum, kind, link, magic, uname, gname = fields[:12]
        _check(block, checksum)
        name = _text(name)
        # Only POSIX's format has a prefix; others use its place for something else.
        if fields[14][0] and (magic.startswith(_MAGIC) or _is_misplaced(fields[14], magic)):
            name = _text(fields[14]) + b"/" + name
        if kind in (_OLD_FILE, _CONTIGUOUS_FILE):
            kind = FILE
        has_content = kind == FILE or kind in _EXTENSIONS
        return Member(
            name,
            kind,
            _number(size) if has_content else 0,
            _number(mode) & 0o7777,
            _owner(_number(uid)),
            _owner(_number(gid)),
            _text(uname),
            _text(gname),
            _number(mtime),
            _text(link),
            (_number(fields[12]), _number(fields[13])) if kind in _DEVICES else (0, 0),
            source.position,
            {},
            block,
        )
    except ValueError as error:
        at = source.position - BLOCK
        # If the file is not a tar at all, the faulty field is of no interest.
        if not at and _MAGIC[:5] not in block:
            raise _no_tar(block, source, is_argument=is_argument) from None
        raise ArchiveError(source.name, f"is not a tar at byte {at}: {error}") from None


def _is_misplaced(prefix: bytes, magic: bytes) -> bool:
    """Return whether a header in GNU's format has a prefix, as Go wrote it up to version 1.7,
    in place of the times that belong there.
    """
    text = _text(prefix)
    return magic.startswith(_GNU_MAGIC) and text.isascii() and not text.strip().isdigit()


def _global_member(header: Member, source: ByteSource) -> Member:
    records = _records(_extension(header, source), source)
    name = records.get("path") or header.name
    return Member(
        name, GLOBAL, 0, 0, 0, 0, b"", b"", 0, b"", (0, 0), source.position, records, bytes(BLOCK)
    )


def _extension(header: Member, source: ByteSource) -> bytes:
    """Read the content of the extended header `header`, which is next in `source`."""
    if not 0 <= header.size <= MAX_EXTENSION:
        raise ArchiveError(source.name, f"an extended header of {header.size} bytes is too large")
    data = read_exactly(source, header.size)
    source.skip(-header.size % BLOCK)
    return data


def parse_raw_fields(member: Member, source: ByteSource) -> RawFields:
    """Return the raw fields of `member`'s header; its extended header overrides the size.
    Raises ArchiveError, which names `source`, for a field that is not a number.
    """
    fields = _FIELDS.unpack(member.header)
    records = {} if member.typeflag == GLOBAL else member.pax
    try:
        has_device = fields[9].startswith((_MAGIC, _GNU_MAGIC))
        return RawFields(
            mode=_number(fields[1]),
            uid=int(records.get("uid") or _number(fields[2])),
            gid=int(records.get("gid") or _number(fields[3])),
            typeflag=fields[7],
            size=int(records.get("size") or _number(fields[4])),
            device=(_number(fields[12]), _number(fields[13])) if has_device else (0, 0),
        )
    except ValueError as error:
        raise ArchiveError(source.name, f"{printable(member.name)}: {error}") from None


def _owner(number: int) -> int:
    """Return the ID that Linux sets for the owner `number`: chown takes 32 bits, so that -2 is
    4294967294, and -1 means "no change", which leaves the file to root.
    """
    number &= _NO_CHANGE
    return 0 if number == _NO_CHANGE else number


def _text(field: bytes) -> bytes:
    return field.partition(b"\0")[0]


def _number(field: bytes) -> int:
    """Return the number in `field`: octal digits, or GNU's binary form for larger numbers."""
    if field[0] & 0x80:
        value = int.from_bytes(field, "big", signed=True)
        return value if field[0] & 0x40 else value + (1 << (8 * len(field) - 1))
    digits = field.partition(b"\0")[0].strip()
    if not digits:
        return 0
    if digits.strip(b"01234567"):
        raise ValueError(f"{printable(digits)} is not a number")
    return int(digits, 8)


def _check(block: bytes, checksum: bytes) -> None:
    """Raise ValueError if `checksum`, a field of `block`, is wrong."""
    expected = _number(checksum) + sum(checksum) - len(checksum) * ord(" ")
    # The lower half of Adler-32 is 1 + the sum of all bytes, modulo 65521, in a tenth of
    # the time that sum() takes.
    if ((zlib.adler32(block) & 0xFFFF) - 1 - expected) % 65521 == 0:
        return
    # Some old tars add up signed bytes.
    rest = block[: _CHECKSUM.start] + block[_CHECKSUM.stop :]
    if expected - sum(checksum) != sum(struct.unpack(f"{len(rest)}b", rest)):
        raise ValueError("bad checksum")


class _Extensions:
    """The extended headers that apply to the members after them."""

    def __init__(self, source: ByteSource) -> None:
        self._source = source
        self._globals: dict[str, bytes] = {}
        self._records: dict[str, bytes] = {}
        self._name = b""
        self._link = b""

    def read(self, header: Member) -> None:
        """Read the content of the extended header `header`, which is next."""
        source = self._source
        data = _extension(header, source)
        if header.typeflag == _PAX:
            self._records = _records(data, source)
        elif header.typeflag == GLOBAL:
            # A new dictionary, because members refer to the old one.
            self._globals = {**self._globals, **_records(data, source)}
            if sum(len(key) + len(value) for key, value in self._globals.items()) > MAX_GLOBALS:
                raise ArchiveError(source.name, "its global headers are too large")
        elif header.typeflag == _GNU_NAME:
            self._name = _text(data)
        else:
            self._link = _text(data)

    def apply(self, member: Member) -> None:
        """Apply the pending extended headers to `member` and clear them."""
        member.name = self._name or member.name
        member.link = self._link or member.link
        records = {**self._globals, **self._records} if self._records else self._globals
        _apply(member, records, self._source)
        self._records, self._name, self._link = {}, b"", b""

    def end(self) -> None:
        """Raise ArchiveError if an extended header has no member."""
        if self._records or self._name or self._link:
            raise ArchiveError(self._source.name, "is cut short after an extended header")


def _apply(member: Member, records: dict[str, bytes], source: ByteSource) -> None:
    """Apply the records of extended headers to `member`. Raises ArchiveError."""
    member.pax = records
    try:
        member.is_sparse = is_sparse(records)
        member.name = sparse_name(records) or records.get("path") or member.name
        member.link = records.get("linkpath") or member.link
        if member.name.endswith(b"/") and member.header[_TYPEFLAG] == _OLD_FILE:
            member.typeflag, member.size = DIRECTORY, 0
        if "size" in records and member.typeflag == FILE:
            member.size = parse_decimal(records["size"])
        if "uid" in records:
            member.uid = _owner(parse_decimal(records["uid"]))
        if "gid" in records:
            member.gid = _owner(parse_decimal(records["gid"]))
        if "uname" in records:
            member.uname = records["uname"]
        if "gname" in records:
            member.gname = records["gname"]
        if "mtime" in records:
            member.mtime = _finite(records["mtime"])
    except ValueError:
        raise ArchiveError(
            source.name,
            f"{printable(member.name)}: an extended header has a value that is not a number",
        ) from None
    if member.typeflag not in TYPES or (member.is_sparse and member.typeflag != FILE):
        reason = f"has a type that images cannot contain ({member.typeflag!r})"
        if member.typeflag == _GNU_SPARSE:
            reason = "is a sparse file in GNU's old format, which images cannot contain"
        raise ArchiveError(source.name, f"{printable(member.name)}: {reason}")
    if not 0 <= member.size <= MAX_SIZE:
        raise ArchiveError(
            source.name, f"{printable(member.name)}: has an impossible size ({member.size} bytes)"
        )
    if b"\0" in member.name or b"\0" in member.link:
        raise ArchiveError(
            source.name, f"{printable(member.name)}: contains a NUL in its name or link target"
        )


def _finite(text: bytes) -> float:
    value = float(text)
    if not math.isfinite(value):
        raise ValueError(text)
    return value


def _records(data: bytes, source: ByteSource) -> dict[str, bytes]:
    """Return the records of a pax extended header, each `length key=value newline`."""
    records: dict[str, bytes] = {}
    sparse: list[tuple[bytes, bytes]] = []
    at = 0
    while at < len(data) and data[at]:
        digits, space, _ = data[at : at + 20].partition(b" ")
        if not space or not digits.isdigit():
            raise ArchiveError(source.name, "an extended header is malformed")
        end = at + int(digits)
        key, equals, value = data[at + len(digits) + 1 : end - 1].partition(b"=")
        if end > len(data) or data[end - 1 : end] != b"\n" or not equals or end <= at:
            raise ArchiveError(source.name, "an extended header is malformed")
        if key in NUMBERS:
            sparse.append((key, value))
        records[key.decode("utf-8", "surrogateescape")] = value
        at = end
    if sparse:
        join_numbers(records, sparse)
    return records

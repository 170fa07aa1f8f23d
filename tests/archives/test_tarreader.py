"""Reading tars written by other programs."""

import io
import math
import tarfile
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stream.archives.bytesource import StreamBytes
from stream.archives.sparse import read_map
from stream.archives.tarreader import Member, parse_raw_fields, read_members
from stream.errors import ArchiveError
from stream.tarwriter import encode_header, encode_record

FORMATS = [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT]
TYPES = [
    tarfile.REGTYPE, tarfile.AREGTYPE, tarfile.CONTTYPE, tarfile.LNKTYPE, tarfile.SYMTYPE,
    tarfile.CHRTYPE, tarfile.BLKTYPE, tarfile.DIRTYPE, tarfile.FIFOTYPE,
]  # fmt: skip

texts = st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), max_size=40)
names = st.one_of(
    texts.filter(bool),
    st.lists(st.sampled_from(["a", "bc" * 20, "ü", "d e"]), min_size=1, max_size=8).map("/".join),
)
numbers = st.one_of(st.integers(0, 0o7777777), st.integers(0, 1 << 33))


@st.composite
def infos(draw: st.DrawFn) -> tarfile.TarInfo:
    """A member of any kind."""
    info = tarfile.TarInfo(draw(names))
    info.type = draw(st.sampled_from(TYPES))
    info.mode = draw(st.integers(0, 0o7777))
    info.uid, info.gid = draw(numbers), draw(numbers)
    info.mtime = draw(st.one_of(st.integers(-(1 << 34), 1 << 34), st.just(1.5)))
    info.uname, info.gname = draw(texts), draw(texts)
    if info.isreg():
        info.size = draw(st.integers(0, 1500))
    if info.type in (tarfile.LNKTYPE, tarfile.SYMTYPE):
        info.linkname = draw(names)
    if info.isdev():
        info.devmajor, info.devminor = draw(st.tuples(st.integers(0, 255), st.integers(0, 255)))
    return info


def tar_of(members: list[tarfile.TarInfo], form: int) -> bytes | None:
    """Return a tar written by the standard library, or None if the format cannot represent it."""
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w", format=form) as tar:
        for info in members:
            try:
                tar.addfile(info, io.BytesIO(b"x" * info.size) if info.isreg() else None)
            except ValueError:
                return None
    return file.getvalue()


def read(data: bytes) -> list[Member]:
    """Return all members."""
    return list(read_members(StreamBytes(io.BytesIO(data), "x")))


def encoded(text: str) -> bytes:
    """Return the text as bytes in a tar."""
    return text.encode("utf-8", "surrogateescape")


def owner(number: int) -> int:
    """Return the owner that Linux sets: chown takes 32 bits, and does not set (uid_t)-1."""
    return number % 2**32 % (2**32 - 1)


@given(members=st.lists(infos(), max_size=4), form=st.sampled_from(FORMATS))
def test_as_the_standard_library_reads(members: list[tarfile.TarInfo], form: int) -> None:
    """Whatever program wrote a layer, its entries are those that every other tool sees."""
    data = tar_of(members, form)
    if data is None:
        return
    with tarfile.open(fileobj=io.BytesIO(data)) as tar:
        expected = tar.getmembers()
    found = read(data)
    assert len(found) == len(expected)
    for member, info in zip(found, expected, strict=True):
        kind = {b"\0": b"0", b"7": b"0"}.get(info.type, info.type)
        assert member.typeflag == kind
        assert member.name.rstrip(b"/") == encoded(info.name).rstrip(b"/")
        assert member.link == encoded(info.linkname)
        assert (member.uname, member.gname) == (encoded(info.uname), encoded(info.gname))
        assert member.mode == info.mode
        assert (member.uid, member.gid) == (owner(info.uid), owner(info.gid))
        assert (member.mtime, member.offset) == (info.mtime, info.offset_data)
        assert member.size == (info.size if kind == b"0" else 0)
        assert member.device == ((info.devmajor, info.devminor) if info.isdev() else (0, 0))


def header(**fields: Any) -> bytearray:
    """Return a header block, to be modified."""
    info = tarfile.TarInfo("name")
    for field, value in fields.items():
        setattr(info, field, value)
    return bytearray(info.tobuf(tarfile.GNU_FORMAT))


def with_checksum(block: bytearray, *, signed: bool = False) -> bytes:
    """Return the block with a correct checksum."""
    block[148:156] = b" " * 8
    total = sum(byte - 256 if signed and byte > 127 else byte for byte in block)
    block[148:156] = b"%06o\0 " % total
    return bytes(block)


def test_checksums() -> None:
    """A damaged header is rejected; the checksum variant of old tools is accepted."""
    block = header(name="n\xfc" * 20)
    for signed in (False, True):
        assert read(with_checksum(block, signed=signed) + bytes(1024))
    for at in (0, 99, 124, 156, 400):
        spoilt = bytearray(with_checksum(block))
        spoilt[at] ^= 1
        with pytest.raises(ArchiveError, match="bad checksum"):
            read(bytes(spoilt) + bytes(1024))


@pytest.mark.parametrize(
    ("at", "field", "value"),
    [
        (108, b"0000017 ", 15),
        (108, b"     17\0", 15),
        (108, b"\0" * 8, 0),
        (108, b" " * 8, 0),
        (108, b"\x80" + bytes(5) + b"\x01\x02", 258),
        (108, b"\xff" * 8, -1),
        (108, b"\xc0" + bytes(6) + b"\x02", -(1 << 62) + 2),
        (108, b"0000018\0", None),
        (108, b"0x00017\0", None),
        (108, b"1_00000\0", None),
        (108, b"-000001\0", None),
    ],
)
def test_numbers(at: int, field: bytes, value: int | None) -> None:
    """Every way in which tools write numbers is read; a field that tools disagree on is rejected."""
    block = header()
    block[at : at + 8] = field
    data = with_checksum(block) + bytes(1024)
    if value is None:
        with pytest.raises(ArchiveError, match="is not a number"):
            read(data)
    else:
        (member,) = read(data)
        assert parse_raw_fields(member, StreamBytes(io.BytesIO(), "x")).uid == value


def test_prefix_only_where_it_is_one() -> None:
    """GNU tar keeps times where POSIX has the first half of a long name."""
    block = header()
    block[345:357] = b"14000000000\0"
    assert read(with_checksum(block) + bytes(1024))[0].name == b"name"
    block[257:265] = b"ustar\x0000"
    assert read(with_checksum(block) + bytes(1024))[0].name == b"14000000000/name"


@pytest.mark.parametrize("value", [b"nan", b"inf", b"", b"x"])
def test_times_that_are_none(value: bytes) -> None:
    """A value that is not a time is rejected."""
    info = tarfile.TarInfo("name")
    info.pax_headers = {"mtime": value.decode()}
    with pytest.raises(ArchiveError, match="value that is not a number"):
        read(info.tobuf(tarfile.PAX_FORMAT) + bytes(1024))


def test_times_in_parts_of_seconds() -> None:
    """Headers are read back as they were written."""
    info = tarfile.TarInfo("name")
    info.pax_headers = {"mtime": "-1.25"}
    (member,) = read(info.tobuf(tarfile.PAX_FORMAT) + bytes(1024))
    assert math.isclose(member.mtime, -1.25)


@given(info=infos())
def test_headers_as_the_standard_library_writes_them(info: tarfile.TarInfo) -> None:
    """Entries passed on are those that every tool writes."""
    info.mtime = int(info.mtime)
    if info.uid > 0o7777777 and info.gid > 0o7777777:
        info.gid = 0  # tarfile writes their records in the order of a set
    info.name = info.name.rstrip("/") or "x"
    name = info.name + "/" * info.isdir()
    header = encode_header(
        encoded(name), info.mode, info.size, info.mtime, typeflag=info.type, uid=info.uid,
        gid=info.gid, link=encoded(info.linkname), uname=encoded(info.uname),
        gname=encoded(info.gname), device=(info.devmajor, info.devminor),
    )  # fmt: skip
    assert header == info.tobuf(tarfile.PAX_FORMAT, "utf-8", "surrogateescape")


# Records that override fields of the member; only some of their values are valid.
MEMBER_RECORDS = ("path", "linkpath", "size", "uid", "gid", "mtime")


@given(
    records=st.dictionaries(
        st.text(
            st.characters(exclude_characters="=\0", codec="ascii"), min_size=1, max_size=9
        ).filter(lambda key: key not in MEMBER_RECORDS),
        st.binary(max_size=1100),
        max_size=3,
    )
)
def test_more_records(records: dict[str, bytes]) -> None:
    """Extended attributes keep all of their bytes."""
    data = b"".join(encode_record(key.encode(), value) for key, value in records.items())
    (member,) = read(encode_header(b"x", 0o644, 0, 0, records=data))
    member.pax.pop("hdrcharset", None)
    assert member.pax == {**records}


def test_headers_that_cannot_be() -> None:
    """A value that a header cannot hold is an error, not another number."""
    for fields in ({"device": (1 << 21, 0)}, {"uid": -1}, {"uid": 1 << 64}, {"uname": b"a\0b"}):
        with pytest.raises((ValueError, OverflowError)):
            encode_header(b"x", 0, 0, 0, typeflag=b"3", **fields)


def pax(kind: bytes, records: dict[bytes, bytes]) -> bytes:
    """Return an extended header with these records."""
    data = b"".join(encode_record(key, value) for key, value in records.items())
    info = tarfile.TarInfo("pax")
    info.type, info.size = kind, len(data)
    return info.tobuf(tarfile.USTAR_FORMAT) + data + bytes(-len(data) % 512)


FILE = tarfile.TarInfo("x").tobuf(tarfile.USTAR_FORMAT)
END = bytes(1024)


def test_global_headers_cost_nothing_a_member() -> None:
    """A copy of them for each member would turn a tar of kilobytes into gigabytes."""
    header = pax(tarfile.XGLTYPE, {b"comment": b"c", b"uname": b"u"})
    first, second = read(header + FILE + FILE + END)
    assert first.pax is second.pax
    assert first.pax == {"comment": b"c", "uname": b"u"}


def test_global_headers_are_small() -> None:
    """They apply to every member: many, even without values, would cost too much time and memory."""
    records = {b"key%d" % number: b"" for number in range(10_000)}
    with pytest.raises(ArchiveError, match="global headers are too large"):
        read(pax(tarfile.XGLTYPE, records) + FILE + END)


@pytest.mark.parametrize("key", [b"path", b"linkpath"])
def test_names_longer_than_any_path(key: bytes) -> None:
    """No system can create them, and each costs time and memory for its many parents."""
    with pytest.raises(ArchiveError, match="a/…: a name of 4097 bytes"):
        read(pax(tarfile.XHDTYPE, {key: b"a/" * 2048 + b"a"}) + FILE + END)
    assert read(pax(tarfile.XHDTYPE, {key: b"a/" * 2048}) + FILE + END)


@pytest.mark.parametrize("key", [b"size", b"uid", b"gid"])
@pytest.mark.parametrize("value", [b"1_0", b" 10", b"10 ", b"+-1", b""])
def test_numbers_that_python_alone_reads(key: bytes, value: bytes) -> None:
    """Without it an archive that Docker rejects could pass for sound, or be read differently."""
    with pytest.raises(ArchiveError, match="not a number"):
        read(pax(tarfile.XHDTYPE, {key: value}) + FILE + END)


@pytest.mark.parametrize("missing", [1, 400, 511])
def test_last_member_without_padding(missing: int) -> None:
    """`umoci insert` writes layers so, and Go reads them; content or a header cut short is not."""
    info = tarfile.TarInfo("x")
    info.size = 1
    data = info.tobuf(tarfile.USTAR_FORMAT) + b"x" + bytes(511)
    assert [member.name for member in read(FILE + data[:-missing])] == [b"x", b"x"]
    for cut in (data[:512], data[:500], data + FILE[:384]):
        with pytest.raises(ArchiveError, match="is cut short"):
            read(cut)


def test_no_bytes() -> None:
    """A layer that changes nothing may have no bytes at all, as older dockers wrote it."""
    assert read(b"") == []


def sparse(records: dict[bytes, bytes], content: bytes) -> tuple[Member, StreamBytes]:
    """Return the only member of a tar, which is a sparse file, and its content."""
    info = tarfile.TarInfo("x")
    info.size = len(content)
    header = pax(tarfile.XHDTYPE, {b"GNU.sparse." + key: records[key] for key in records})
    data = header + info.tobuf(tarfile.USTAR_FORMAT) + content + bytes(-len(content) % 512) + END
    source = StreamBytes(io.BytesIO(data), "x")
    return next(read_members(source)), source


OLD = {b"size": b"9", b"numblocks": b"2", b"map": b"0,1,8,1"}
NEW = {b"major": b"1", b"minor": b"0", b"realsize": b"9", b"name": b"y"}
MAP = b"2\n0\n1\n8\n1\n".ljust(512, b"\0")


def test_sparse_files() -> None:
    """Their names and maps are in records, or in the content; other readers follow these."""
    for records, content, name in ((OLD, b"ab", b"x"), (NEW, MAP + b"ab", b"y")):
        member, source = sparse(records, content)
        assert (member.name, member.is_sparse, member.size) == (name, True, len(content))
        read_map(member.pax, member.size, source)
    unknown, _ = sparse({**NEW, b"major": b"2"}, b"")
    assert (unknown.name, unknown.is_sparse) == (b"x", False)


@pytest.mark.parametrize(
    ("records", "content"),
    [
        ({**OLD, b"map": b"0,1,8"}, b"ab"),
        ({**OLD, b"numblocks": b"3"}, b"ab"),
        ({**OLD, b"map": b"8,1,0,1"}, b"ab"),
        ({**OLD, b"size": b"8"}, b"ab"),
        ({**OLD, b"map": b"0,1,x,1"}, b"ab"),
        (OLD, b"abc"),
        (NEW, MAP),
        (NEW, MAP.replace(b"2", b"3", 1) + b"ab"),
        (NEW, b"9" * 512),
        (NEW, b"1\n"),
    ],
)
def test_sparse_files_with_a_bad_map(records: dict[bytes, bytes], content: bytes) -> None:
    """Docker refuses them; without it they would pass for sound."""
    member, source = sparse(records, content)
    with pytest.raises(ValueError, match=r"its map|is not a number"):
        read_map(member.pax, member.size, source)


def test_map_without_lines() -> None:
    """Without it a megabyte of digits would be read again for each of its blocks."""
    member, source = sparse(NEW, b"1" * (1 << 20))
    with pytest.raises(ValueError, match="no end"):
        read_map(member.pax, member.size, source)
    assert source.position < member.offset + 2048


def test_single_block_of_zeros() -> None:
    """A reader that continues after it sees other members than one that stops; Docker rejects it."""
    with pytest.raises(ArchiveError, match="continues after a block of zeros"):
        read(FILE + bytes(512) + FILE + END)
    assert len(read(FILE + bytes(512))) == 1

"""`stream-image tarsum`, compared with Docker's own sums and a plain algorithm over tarfile."""

import gzip
import hashlib
import io
import os
import random
import subprocess
import tarfile
import tracemalloc
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Literal

import commandline
import handmade
import pytest
from handmade import layer_tar
from hypothesis import given
from hypothesis import strategies as st
from support import COMMAND, MIB

from stream.archives.bytesource import StreamBytes
from stream.errors import ArchiveError
from stream.tools.tarsum import sum_tar, tarsum

XATTR = "SCHILY.xattr."
NOTHING = "tarsum.v1+sha256:" + hashlib.sha256().hexdigest()
Entry = tuple[tarfile.TarInfo, bytes]
Format = Literal[0, 1, 2]  # of tarfile's
FORMATS: list[Format] = [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT]


def ours(data: bytes) -> str:
    """Return our sum of a tar."""
    source = StreamBytes(io.BytesIO(data), "layer")
    found = sum_tar(source)
    assert source.position == len(data), "the tar's writer would meet a closed pipe"
    return found


def member(name: str, content: bytes = b"", kind: bytes = tarfile.REGTYPE, **more: object) -> Entry:
    """Return a member to write; `more` are attributes of its TarInfo."""
    info = tarfile.TarInfo(name)
    info.type, info.size = kind, len(content)
    for key, value in more.items():
        setattr(info, key, value)
    return info, content


def written(*entries: Entry, form: Format = tarfile.PAX_FORMAT, **pax: str) -> bytes:
    """Return a tar of these members; `pax` are the records of a global header."""
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w", format=form, pax_headers=pax) as tar:
        for info, content in entries:
            file.write(info.tobuf(form, "utf-8", "surrogateescape"))
            file.write(content + bytes(-len(content) % 512))
            tar.offset = file.tell()
    return file.getvalue()


def patched(data: bytes, *patches: tuple[int, bytes]) -> bytes:
    """Return `data` with bytes of its first header replaced and the checksum corrected."""
    block = bytearray(data[:512])
    for at, value in patches:
        block[at : at + len(value)] = value
    block[148:156] = b" " * 8
    block[148:156] = b"%06o\0 " % sum(block)
    return bytes(block) + data[512:]


# ---- Docker's own


def golden_tars() -> dict[str, bytes]:
    """Return tars of every kind that common writers produce."""
    gnu: Format = tarfile.GNU_FORMAT
    ustar: Format = tarfile.USTAR_FORMAT
    small = member("file", b"content")
    long = "long/" * 30
    oldest = [(257, bytes(243))]
    return {
        "empty": written(),
        "file": written(small),
        "absolute": written(member("/nix/store/x", b"x"), member("./y", b"y"), member("../z")),
        "directory": written(member("d", kind=tarfile.DIRTYPE, mode=0o755)),
        "owner": written(member("x", uid=1000, gid=100, uname="jürgen", gname="wheel", mtime=1.5)),
        "large-ids-gnu": written(member("x", uid=3_000_000_000, gid=1 << 33), form=gnu),
        "large-ids-pax": written(member("x", uid=3_000_000_000, gid=1 << 33)),
        "mode-with-type": patched(written(small), (100, b"0100644\0")),
        "links": written(
            small,
            member("link", kind=tarfile.SYMTYPE, linkname="file"),
            member("hard", kind=tarfile.LNKTYPE, linkname="file"),
        ),
        "hard-link-with-size": patched(
            written(member("hard", kind=tarfile.LNKTYPE, linkname="file"), small),
            (124, b"00000000077\0"),
        ),
        "hard-link-with-large-size": written(
            member("hard", kind=tarfile.LNKTYPE, pax_headers={"size": "8589934592"})
        ),
        "devices": written(
            member("null", kind=tarfile.CHRTYPE, devmajor=1, devminor=3),
            member("sda", kind=tarfile.BLKTYPE, devmajor=8, devminor=0),
            member("fifo", kind=tarfile.FIFOTYPE),
        ),
        "contiguous": written(member("file", b"content", tarfile.CONTTYPE)),
        "untyped": written(member("file", b"content", tarfile.AREGTYPE), form=ustar),
        "v7": patched(written(small, form=ustar), *oldest, (156, b"\0")),
        "v7-directory": patched(written(member("d/"), form=ustar), *oldest, (156, b"\0")),
        "v7-with-something-behind": patched(
            written(small, form=ustar), *oldest, (156, b"\0"), (329, b"0000007\0")
        ),
        "untyped-long-directory": written(member(long, kind=tarfile.AREGTYPE)),
        "untyped-long-file": written(member("d" * 99 + "/file", b"x", tarfile.AREGTYPE)),
        "long-name-of-nothing": written(member("././@LongLink", kind=b"L"), small),
        "long-ustar": written(member(f"{long}x"), member(long, kind=tarfile.DIRTYPE), form=ustar),
        "long-gnu": written(
            member(f"{long}x", b"x"),
            member(long, kind=tarfile.DIRTYPE),
            member("link", kind=tarfile.SYMTYPE, linkname=long),
            form=gnu,
        ),
        "long-pax": written(
            member(f"{long}ü", b"x"),
            member(long, kind=tarfile.DIRTYPE),
            member("link", kind=tarfile.SYMTYPE, linkname=long),
        ),
        "not-utf8": written(member("n\udcff", b"x"), form=gnu),
        "gnu-times": patched(
            written(small, form=gnu), (345, b"14360254413\0"), (357, b"14360254413\0")
        ),
        "gnu-prefix": patched(written(small, form=gnu), (345, b"some/where\0")),
        "xattrs": written(
            member("x", pax_headers={f"{XATTR}user.b": "2\n", f"{XATTR}user.a": "ü", "comment": "c"}),
            member("y", pax_headers={f"{XATTR}security.capability": "\1\0\0\2"}),
        ),
        "empty-records": written(member("x", pax_headers={"path": "", "linkpath": "", "gname": ""})),
        "global": written(small, uid="77", comment="0123456789abcdef"),
        "same-directory-twice": written(
            *(member(name, kind=tarfile.DIRTYPE, mode=0o755) for name in ("d", "e", "d"))
        ),
        "same-file-absolute": written(member("x", b"2"), member("/x", b"1")),
        "same-file-absolute-first": written(member("/x", b"1"), member("x", b"2")),
        "same-file-twice": written(member("x", b"1"), member("x", b"2")),
        "same-file-twice-the-other-way": written(member("x", b"2"), member("x", b"1")),
    }  # fmt: skip


GOLDEN_TARS = golden_tars()
GOLDEN = dict(
    line.split()
    for line in (Path(__file__).parents[1] / "golden/tarsum.txt").read_text("utf-8").splitlines()
    if not line.startswith("#")
)


@pytest.mark.parametrize("name", GOLDEN_TARS)
def test_docker_gives_the_same(name: str) -> None:
    """Without it a sum could follow the specification and still differ from Docker's."""
    assert ours(GOLDEN_TARS[name]) == GOLDEN[name]


def test_every_golden_sum_is_used() -> None:
    """Without it a lost case would go unnoticed."""
    assert GOLDEN.keys() == GOLDEN_TARS.keys()


# ---- the plain algorithm


def plainly(data: bytes) -> str:
    """Return the sum of a tar without duplicate paths, by the specification."""
    sums = []
    with tarfile.open(fileobj=io.BytesIO(data), errors="surrogateescape") as tar:
        for info in tar:
            name = info.name + "/" * info.isdir()
            text = (
                f"name{name}mode{info.mode}uid{info.uid}gid{info.gid}size{info.size}"
                f"typeflag{info.type.decode()}linkname{info.linkname}unamegname"
                f"devmajor{info.devmajor}devminor{info.devminor}"
            )
            xattrs = {key: value for key, value in info.pax_headers.items() if XATTR in key}
            for key in sorted(xattrs):
                text += key.removeprefix(XATTR) + xattrs[key]
            file = tar.extractfile(info) if info.isreg() else None
            header = text.encode("utf-8", "surrogateescape")
            sums.append(hashlib.sha256(header + (file.read() if file else b"")).hexdigest())
    return "tarsum.v1+sha256:" + hashlib.sha256("".join(sorted(sums)).encode()).hexdigest()


NAMES = st.text(st.sampled_from("ab-.ü\udcff"), min_size=1, max_size=12).map(
    lambda text: f"{text}x"
)
LINKS = st.integers(0, 150).map(lambda count: "t" * count + "/")
KINDS = st.sampled_from(b"0 1 2 3 4 5 6".split())


@st.composite
def trees(draw: st.DrawFn) -> tuple[Format, list[Entry]]:
    """Draw a format and members, each with a path of its own."""
    form = draw(st.sampled_from(FORMATS))
    largest = (1 << 21) - 1 if form == tarfile.USTAR_FORMAT else 1 << 32
    entries = []
    for number in range(draw(st.integers(0, 9))):
        depth = draw(st.integers(0, 40))
        name = f"{draw(st.sampled_from(['', '/', './']))}{number}/{'dir/' * depth}{draw(NAMES)}"
        kind = draw(KINDS)
        content = draw(st.binary(max_size=1030)) if kind == tarfile.REGTYPE else b""
        info, _ = member(
            name, content, kind,
            mode=draw(st.integers(0, 0o7777)),
            uid=draw(st.integers(0, largest)),
            gid=draw(st.integers(0, 1000)),
            mtime=draw(st.integers(0, 1 << 31)),
            uname=draw(st.sampled_from(["", "root", "jürgen"])),
        )  # fmt: skip
        if kind in (tarfile.SYMTYPE, tarfile.LNKTYPE):
            longest = 100 if form == tarfile.USTAR_FORMAT else None
            info.linkname = draw(LINKS)[:longest]
        if kind in (tarfile.CHRTYPE, tarfile.BLKTYPE):
            info.devmajor, info.devminor = draw(st.tuples(*[st.integers(0, 0o7777777)] * 2))
        if form == tarfile.PAX_FORMAT:
            keys = st.sampled_from(["user.a", "user.b", "security.capability", "user.ü"])
            xattrs = draw(st.dictionaries(keys, st.text("v\n=ü\0\udcfe", max_size=5)))
            info.pax_headers = {XATTR + key: value for key, value in xattrs.items()}
        entries.append((info, content))
    return form, entries


@given(trees(), st.randoms(use_true_random=False))
def test_every_format(tree: tuple[Format, list[Entry]], shuffler: random.Random) -> None:
    """Without it a sum could depend on the header's format or the order of the members."""
    form, entries = tree
    data = written(*entries, form=form)
    found = ours(data)
    assert found == plainly(data)
    shuffler.shuffle(entries)
    assert ours(written(*entries, form=form)) == found


def test_order_of_one_path() -> None:
    """Extraction keeps the last of two: without it either order would give one sum."""
    one, other = member("x", b"1"), member("./x", b"2")
    assert ours(written(one, other)) != ours(written(other, one))


def test_a_path_twice_around_another() -> None:
    """Without it we would print a sum that in Docker depends on the sorting algorithm."""
    pair = [member("d/x", b"1"), member("./d//x", b"2")]
    others = [member(str(number), b"") for number in range(40)]
    tars = [written(*pair, *others), written(*reversed(pair), *others)]
    with pytest.raises(ArchiveError, match="x: occurs more than once; TarSum is undefined"):
        list(map(ours, tars))  # in one order of the two the sums ascend


# ---- the command


def command(data: bytes) -> "subprocess.CompletedProcess[bytes]":
    """Run `stream-image tarsum` with `data` on its standard input."""
    return commandline.run([*COMMAND, "tarsum"], input=data, capture_output=True, check=False)


@pytest.mark.parametrize("compressor", handmade.COMPRESSORS)
def test_every_compression(compressor: str) -> None:
    """Without it the sum of a layer could depend on how it is compressed."""
    done = command(handmade.COMPRESSORS[compressor](GOLDEN_TARS["long-pax"]))
    assert (done.stdout.decode(), done.stderr) == (GOLDEN["long-pax"] + "\n", b"")
    assert done.returncode == 0


WHOLE = written(member("long" * 300, b"c" * 5000), form=tarfile.GNU_FORMAT)
FAULTS = {
    "empty": (b"", "is empty"),
    "text": (b"no tar\n" * 200, "is not a tar, plain or compressed"),
    "short-text": (b"no tar\n", "is not a tar, plain or compressed"),
    "conf": (b'{"repo_tag": "x:1"}', "plain or compressed (it looks like a conf; "),
    "long-conf": (
        b'{"repo_tag": "x:1"}' + b" " * 600,
        "plain or compressed (it looks like a conf; ",
    ),
    "in-header": (WHOLE[:300], "is cut short"),
    "in-long-name": (WHOLE[:1100], "is cut short"),
    "behind-long-name": (WHOLE[:2048], "is cut short"),
    "in-content": (WHOLE[:4000], "is cut short"),
    "in-gzip": (handmade.COMPRESSORS["gzip"](WHOLE)[:-4], "is cut short"),
    "damaged-xz": (handmade.COMPRESSORS["xz"](WHOLE)[:40] + bytes(40), "is not valid xz"),
    "sparse": (patched(WHOLE, (156, b"S")), "is a sparse file in GNU's old format"),
    "huge-extension": (patched(WHOLE, (124, b"77777777777\0")), "is too large"),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_no_sum_of_what_is_no_tar(fault: str) -> None:
    """Without it the sum of half a layer would pass for that of another layer."""
    data, reason = FAULTS[fault]
    done = command(data)
    assert (done.returncode, done.stdout) == (1, b"")
    (line,) = done.stderr.decode().splitlines()
    assert line.startswith("stream-image: standard input: ")
    assert reason in line


def test_a_terminal_is_refused() -> None:
    """Without it a forgotten redirection would wait forever."""
    master, terminal = os.openpty()
    done = commandline.run(
        [*COMMAND, "tarsum"], stdin=terminal, capture_output=True, check=False, timeout=60
    )
    os.close(master)
    os.close(terminal)
    assert (done.returncode, done.stdout) == (2, b"")
    assert b"stream-image tarsum < layer.tar" in done.stderr


@given(
    st.sampled_from([*GOLDEN_TARS.values()]),
    st.lists(st.tuples(st.integers(0, 4095), st.integers(0, 255)), max_size=4),
    st.integers(0, 1023),
)
def test_damage_is_met_with_a_sum_or_an_error(
    data: bytes, changes: list[tuple[int, int]], at: int
) -> None:
    """Without it a damaged tar could end in a traceback."""
    damaged = bytearray(data)
    for place, value in changes:
        damaged[place % len(data)] = value
    # With a correct checksum, or nothing but that fault would be found.
    start = at * 512 % len(data)
    end = bytes(damaged[start:])
    try:
        sum_tar(StreamBytes(io.BytesIO(bytes(damaged[:start]) + patched(end)), "layer"))
    except ArchiveError as error:
        assert "\n" not in str(error)  # noqa: PT017


class Pieces:
    """A file generated while it is read."""

    def __init__(self, pieces: Iterator[bytes]) -> None:
        self._pieces = pieces
        self._data = b""

    def read(self, count: int, /) -> bytes:
        """See Readable."""
        self._data = self._data or next(self._pieces, b"")
        data, self._data = self._data[:count], self._data[count:]
        return data


def large_file() -> Iterator[bytes]:
    """Yield a tar of one large file."""
    info = tarfile.TarInfo("large")
    info.size = 300 * MIB
    yield info.tobuf(tarfile.GNU_FORMAT)
    for _ in range(300):
        yield bytes(MIB)
    yield bytes(1024)


def long_names() -> Iterator[bytes]:
    """Yield a tar whose names are as long as allowed."""
    for number in range(100):
        info = tarfile.TarInfo(f"{number}/" + "n" * (MIB - 100))
        yield info.tobuf(tarfile.GNU_FORMAT)
    yield bytes(1024)


def long_repeated_names() -> Iterator[bytes]:
    """Yield the same tar with each name twice."""
    for number in range(100):
        info = tarfile.TarInfo(f"{number // 2}/" + "n" * (MIB - 100))
        yield info.tobuf(tarfile.GNU_FORMAT)
    yield bytes(1024)


@pytest.mark.slow
@pytest.mark.parametrize("tar", [large_file, long_names, long_repeated_names])
def test_memory(tar: Callable[[], Iterator[bytes]]) -> None:
    """Without it a large or hostile layer could exhaust memory."""
    source = StreamBytes(Pieces(tar()), "layer")
    tracemalloc.start()
    try:
        assert sum_tar(source) != NOTHING
        assert tracemalloc.get_traced_memory()[1] < 16 * MIB
    finally:
        tracemalloc.stop()


def test_a_file_by_its_path(tmp_path: Path) -> None:
    """Without it a program would have to open a tar, and undo its compression, to sum it."""
    data = layer_tar({"a": b"1"})
    for name, content in (("a.tar", data), ("a.tar.gz", gzip.compress(data))):
        (tmp_path / name).write_bytes(content)
        assert tarsum(tmp_path / name) == sum_tar(StreamBytes(io.BytesIO(data), "tar"))
    with pytest.raises(ArchiveError, match="cannot be read: No such file"):
        tarsum(tmp_path / "none")
    with pytest.raises(ArchiveError, match="cannot be read: Is a directory"):
        tarsum(tmp_path)

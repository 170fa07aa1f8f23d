"""Layers: byte for byte what CPython's tarfile writes for the same files."""

import fcntl
import hashlib
import io
import os
import socket
import tarfile
import threading
from contextlib import suppress
from typing import Any, Self

import oracle
import orjson
import pytest
import trees
from hypothesis import given
from hypothesis import strategies as st
from parity import assert_same, conf_of, streamed, subdirectory

import stream

SLOT = trees.SLOT
EDGES = [98, 99, 100, 101, 102, 255, 256, 257, 260, 511, 512, 4093, 4094, 4095]
NODES: dict[str, trees.Node] = {
    "file": trees.File(0o444, 5, 1),
    "directory": trees.Directory(0o755, ()),
    "link": trees.Link(b"x"),
}
INSTANTS = [
    "1970-01-01T00:00:01Z",
    "1970-01-01T00:00:00Z",
    "1969-12-31T23:59:59Z",
    "1969-12-31T23:59:58.5Z",
    "2242-03-16T12:56:31Z",  # 2**33 - 1, the last that an octal field holds
    "2242-03-16T12:56:32Z",
    "0001-01-01T00:00:00+23:59",
    "9999-12-31T23:59:59.999999-23:59",
]


@given(st.dictionaries(trees.store_names, trees.store_paths, min_size=1, max_size=3), st.booleans())
def test_trees(store_dir: bytes, store: dict[str, trees.Node], linked: bool) -> None:  # noqa: FBT001 — a parameter of the test
    """Holds for any tree: one different byte makes a new layer for every registry and daemon."""
    directory = subdirectory(store_dir)
    for name, node in store.items():
        trees.build(directory + b"/" + name.encode(), node, linked=linked)
    assert_same(conf_of(directory, *store))


owner_names = st.one_of(
    st.just("root"),
    st.integers(30, 34).map(lambda length: "u" * length),
    st.text(st.characters(exclude_characters="\0", codec="utf-8"), max_size=40),
)
owner_ids = st.sampled_from([0, 1, 1000, 2**21 - 1, 2**21, 2**31, 2**32 - 2])


@given(owner_ids, owner_ids, owner_names, owner_names, st.sampled_from(INSTANTS))
def test_owners_and_times(  # noqa: PLR0913, PLR0917 — drawn by hypothesis
    store_dir: bytes, uid: int, gid: int, uname: str, gname: str, mtime: str
) -> None:
    """Numbers and names that do not fit a header field go into PAX records, in the right order."""
    directory = subdirectory(store_dir)
    trees.build(directory + b"/0", trees.File(0o444, 5, 1))
    os.symlink(b"\xff" * 101, directory + b"/1")
    assert_same(
        conf_of(directory, "0", "1", uid=uid, gid=str(gid), uname=uname, gname=gname, mtime=mtime)
    )


def path_of_length(store_dir: bytes, length: int) -> bytes:
    """Make and return a path of `length` bytes in the store path `0`."""
    path = store_dir + b"/0"
    while length - len(path) > 256:
        path += b"/" + b"d" * min(200, length - len(path) - 3)
    os.makedirs(path)
    return path + b"/" + b"n" * (length - len(path) - 1)


@pytest.mark.parametrize("kind", NODES)
@pytest.mark.parametrize("length", EDGES)
def test_name_lengths(store_dir: bytes, length: int, kind: str) -> None:
    """Names above 100 bytes, including a directory's slash, are PAX records; PATH_MAX is 4095."""
    path = path_of_length(store_dir, length)
    trees.build(path, NODES[kind])
    data, _ = streamed(conf_of(store_dir, "0"))
    assert path in data
    assert_same(conf_of(store_dir, "0"))


@pytest.mark.parametrize("length", [1, 99, 100, 101, 255, 256, 512, 4092, 4095])
@pytest.mark.parametrize("character", [b"t", b"\xff", "\xe9".encode(), "\U0001f600".encode()])
def test_link_targets(store_dir: bytes, length: int, character: bytes) -> None:
    """A target becomes a PAX record depending on its own length and characters, and is not cut."""
    os.symlink((character * length)[:length], store_dir + b"/0")
    assert_same(conf_of(store_dir, "0"))


def test_record_lengths(store_dir: bytes) -> None:
    """A PAX record counts the digits of its own length: errors show at 99 and 999 bytes."""
    lengths = [*range(60, 130), *range(970, 1000)]
    trees.build(
        store_dir + b"/0",
        trees.Directory(
            0o755,
            tuple((b"%d" % n, trees.Link(b"\xc3" * n)) for n in lengths),
        ),
    )
    assert_same(conf_of(store_dir, "0"))


@pytest.mark.parametrize(
    "size",
    [edge + off for edge in (512, 10240, SLOT, 2 * SLOT, 64 * SLOT) for off in (-1, 0, 1)],
)
def test_sizes(store_dir: bytes, size: int) -> None:
    """Content ends at, before and after the ends of blocks, records, slots and the pool."""
    trees.build(store_dir + b"/0", trees.File(0o444, size, size))
    trees.build(store_dir + b"/1", NODES["link"])
    assert_same(conf_of(store_dir, "0", "1"))


@pytest.mark.parametrize("links", range(1, 21))
@pytest.mark.parametrize("name", ["1", "1" + "n" * 101])
def test_slot_edges(store_dir: bytes, links: int, name: str) -> None:
    """A header of one or three blocks that straddles the end of a slot is written whole."""
    size = SLOT - 512 * (links + 3 + len(store_dir.split(b"/")))
    trees.build(store_dir + b"/0", trees.File(0o444, size, links))
    os.mkdir(store_dir + b"/" + name.encode())
    for number in range(2 * links):
        trees.build(store_dir + b"/%s/%02d" % (name.encode(), number), trees.File(0o444, 9, number))
    assert_same(conf_of(store_dir, "0", name))


@pytest.mark.parametrize("count", range(1, 21))
def test_trailer(store_dir: bytes, count: int) -> None:
    """At every length modulo 10,240 the two zero blocks come before the padding."""
    for number in range(count):
        os.symlink(b"x", store_dir + b"/%d" % number)
    assert_same(conf_of(store_dir, *map(str, range(count))))


@pytest.mark.slow
def test_modes(store_dir: bytes) -> None:
    """All twelve permission bits of files and directories are kept, and no other bit."""
    items: list[tuple[bytes, trees.Node]] = [
        *((b"f%04o" % mode, trees.File(mode, 0, 0)) for mode in range(0o10000)),
        *((b"d%04o" % mode, trees.Directory(mode, ())) for mode in range(0, 0o10000, 11)),
    ]
    trees.build(store_dir + b"/0", trees.Directory(0o755, tuple(items)))
    assert_same(conf_of(store_dir, "0"))


def names_in(archive: bytes) -> list[bytes]:
    """Return the entry names of an archive's first layer, as tarfile reads them."""
    with tarfile.open(fileobj=io.BytesIO(archive)) as outer:
        layer = outer.extractfile(outer.getmembers()[0])
        assert layer is not None
        with tarfile.open(fileobj=layer, encoding="utf-8", errors="surrogateescape") as tar:
            return [info.name.encode("utf-8", "surrogateescape") for info in tar]


@pytest.mark.parametrize(
    "names",
    [
        [b"a", b"a/b", b"a-b"],
        [b"a", b"a/b", b"a/b/c", b"a/b c", b"a b", b"a!", b"a.b"],
        [b"\xef\xbf\xbf", b"\xf0\x90\x80\x80"],  # code points, not UTF-16
        [b"\xed\x9f\xbf", b"\x80", b"\xff", b"\xee\x80\x80"],  # U+D7FF, U+DC80, U+DCFF, U+E000
        [b"z", b"\xc3\xa9", b"\xff", b"\xef\xbf\xbd"],
        [b"\xe0\x80\x80", b"\xc3\xa9"],  # an overlong NUL is three bytes, each alone
        [b"\xc3", b"\xe2\x82", b"\xed\xa0\x80", b"\xf5", b"\xf0\x9f\x98\x80"],
    ],
)
def test_order(store_dir: bytes, names: list[bytes]) -> None:
    """Pre-order by components compared as Python text: a parent, its children, its siblings."""
    parents = {os.path.dirname(name) for name in names}
    root = store_dir + b"/0"
    os.mkdir(root)
    for name in sorted(names, key=len):
        if name in parents:
            os.mkdir(root + b"/" + name)
        else:
            os.symlink(b"x", root + b"/" + name)
    expected = sorted(names, key=lambda name: oracle.text(name).split("/"))
    found = names_in(streamed(conf_of(store_dir, "0"))[0])
    assert [
        name.removeprefix(root + b"/") for name in found if name.startswith(root + b"/")
    ] == expected
    assert_same(conf_of(store_dir, "0"))


def test_links_are_not_entered(store_dir: bytes) -> None:
    """A link to a directory, nothing, itself or its parent stays a link, even as a store path."""
    items: tuple[tuple[bytes, trees.Node], ...] = (
        (b"dir", trees.Directory(0o755, ((b"file", NODES["file"]),))),
        (b"todir", trees.Link(b"dir")),
        (b"dangling", trees.Link(b"/no/such/file")),
        (b"self", trees.Link(b"self")),
        (b"up", trees.Link(b"..")),
    )
    trees.build(store_dir + b"/0", trees.Directory(0o755, items))
    for name, node in items[1:]:
        trees.build(store_dir + b"/" + name, node)
    conf = conf_of(store_dir, "0", "todir", "dangling", "self", "up")
    assert len(names_in(streamed(conf)[0])) == store_dir.count(b"/") + 7 + 4
    assert_same(conf)


def test_store_path_is_a_file(store_dir: bytes) -> None:
    """A regular file, empty or not, is a store path like any other."""
    trees.build(store_dir + b"/empty", trees.File(0o444, 0, 0))
    trees.build(store_dir + b"/full", trees.File(0o555, 513, 0))
    assert_same(conf_of(store_dir, "empty", "full"))


def test_hard_links_are_files(store_dir: bytes) -> None:
    """Each name of an inode is written in full: hard links would make layers depend on the host."""
    os.mkdir(store_dir + b"/0")
    trees.build(store_dir + b"/0/a", trees.File(0o444, 700, 1))
    os.link(store_dir + b"/0/a", store_dir + b"/0/b")
    os.link(store_dir + b"/0/a", store_dir + b"/1")
    data, _ = streamed(conf_of(store_dir, "0", "1"))
    assert data.count(trees.File(0o444, 700, 1).content()) == 3
    assert_same(conf_of(store_dir, "0", "1"))


@pytest.mark.parametrize(
    "deep", [b"x", b"x/y/z", b"p" * 90 + b"/" + b"q" * 90, "é/ü".encode(), b"a b/c\nd"]
)
def test_store_directories(store_dir: bytes, deep: bytes) -> None:
    """Every ancestor has an entry of mode 0755, whatever its own mode, name and depth."""
    directory = store_dir + b"/" + deep
    os.makedirs(directory, mode=0o711)
    trees.build(directory + b"/0", NODES["file"])
    conf = conf_of(directory, "0")
    names = names_in(streamed(conf)[0])
    parts = directory[1:].split(b"/")
    assert names[:-1] == [b"/" + b"/".join(parts[: n + 1]) for n in range(len(parts))]
    assert_same(conf)


@pytest.mark.slow
def test_deep_tree(store_dir: bytes) -> None:
    """As deep as PATH_MAX allows: no recursion limit, no overflow, no descriptor per level."""
    path = store_dir + b"/0"
    depth = (4095 - len(path)) // 2
    for _ in range(depth):
        os.mkdir(path)
        path += b"/d"
    assert_same(conf_of(store_dir, "0"))


def make_deep(path: bytes, depth: int, name: bytes) -> None:
    """Make `depth` directories below `path`, each relative to the last, beyond PATH_MAX."""
    os.mkdir(path)
    above = os.open(path, os.O_RDONLY)
    for _ in range(depth):
        os.mkdir(name, dir_fd=above)
        below = os.open(name, os.O_RDONLY, dir_fd=above)
        os.close(above)
        above = below
    os.close(above)


@pytest.mark.parametrize(
    ("depth", "name"),
    [
        pytest.param(10_000, b"d", marks=pytest.mark.slow),
        (20, b"n" * 255),
        (20, b"\n\xff" * 127),
    ],
)
def test_beyond_path_max(store_dir: bytes, depth: int, name: bytes) -> None:
    """A path too long for any system call gives an error of one line, not a crash or a cut name."""
    make_deep(store_dir + b"/0", depth, name)
    with pytest.raises(stream.SourceError, match="File name too long") as caught:
        streamed(conf_of(store_dir, "0"))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("kind", ["fifo", "socket", "device"])
def test_no_devices(store_dir: bytes, kind: str) -> None:
    """A file of another type ends the run with its path in the message, and is never opened."""
    path = store_dir + b"/0"
    if kind == "fifo":
        os.mkfifo(path)
    elif kind == "socket":
        with socket.socket(socket.AF_UNIX) as unix:
            unix.bind(path)
    else:
        try:
            os.mknod(path, 0o20600, os.makedev(1, 3))
        except PermissionError:
            pytest.skip("device nodes need root")
    with pytest.raises(stream.SourceError, match=r"is a (FIFO|socket|device node)$") as caught:
        streamed(conf_of(store_dir, "0"))
    assert caught.value.path == path


@pytest.mark.parametrize("name", [b".wh.foo", b".wh.", b".wh..wh..opq", b"share/.wh.d/file"])
def test_no_whiteouts(store_dir: bytes, name: bytes) -> None:
    """Without it a file called .wh.foo would delete foo of the layers below, and be lost itself."""
    path = store_dir + b"/0/" + name
    os.makedirs(os.path.dirname(path))
    with open(path, "wb"), pytest.raises(stream.SourceError, match=r"begins with \.wh\.") as caught:
        streamed(conf_of(store_dir, "0"))
    assert path.startswith(caught.value.path)


def test_names_like_whiteouts(store_dir: bytes) -> None:
    """Without it files that no consumer takes for whiteouts could not be in an image."""
    os.mkdir(store_dir + b"/0")
    for name in (b".wh", b".whole", b"a.wh.b", b".WH.x"):
        os.mkdir(store_dir + b"/0/" + name)
    assert_same(conf_of(store_dir, "0"))


@pytest.mark.slow
def test_many_in_a_directory(store_dir: bytes) -> None:
    """Items of one directory that take several calls to list are sorted and written, and none is lost."""
    os.mkdir(store_dir + b"/0")
    for number in range(20_000):
        os.symlink(b"x", store_dir + b"/0/%d" % (number * 7919 % 20_000))
    assert_same(conf_of(store_dir, "0"))


class Reading:
    """Streams a conf in a thread, and reads the archive's first layer."""

    def __init__(self, conf: dict[str, Any]) -> None:
        read_end, write_end = os.pipe()
        fcntl.fcntl(write_end, fcntl.F_SETPIPE_SZ, 1 << 20)
        self.image: stream.Image | None = None
        self._conf = conf
        self._out = io.FileIO(write_end, "wb")
        self.file = io.BufferedReader(io.FileIO(read_end), 1 << 20)
        self._thread = threading.Thread(target=self._write)
        self._thread.start()

    def _write(self) -> None:
        with self._out, suppress(stream.ReaderClosedError):
            self.image = stream.write_image(stream.parse_conf(orjson.dumps(self._conf)), self._out)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.file.close()
        self._thread.join()

    def layer_size(self) -> int:
        """Return the size in the header of the first member."""
        header = self.file.read(512)
        if header[156:157] == tarfile.XHDTYPE:
            size = int(self.file.read(512).split(b" size=")[1].split(b"\n")[0])
            self.file.read(512)
            return size
        return tarfile.TarInfo.frombuf(header, "utf-8", "strict").size


def sparse(store_dir: bytes, size: int) -> tuple[dict[str, Any], bytes, int]:
    """Return a conf with one sparse file of `size` zeros, and its layer's headers and size."""
    with open(store_dir + b"/0", "wb") as file:
        file.truncate(size)
    conf = conf_of(store_dir, "0")
    head = oracle.headers(conf, [store_dir + b"/0"])
    padded = -(-size // 512) * 512
    return conf, head, -(-(len(head) + padded + 1024) // 10240) * 10240


@pytest.mark.parametrize("size", [2**31 + 1, 2**32 + 1, 2**33 - 1, 2**33, 2**33 + 1, 2**42])
def test_huge_headers(store_dir: bytes, size: int) -> None:
    """From 8 GiB on, a size is a PAX record, both of the file and of the layer's member."""
    conf, head, layer_size = sparse(store_dir, size)
    with Reading(conf) as reading:
        assert reading.layer_size() == layer_size
        assert reading.file.read(len(head)) == head
    assert reading.image is None


@pytest.mark.slow
def test_huge_file(store_dir: bytes) -> None:
    """More than any 32-bit count are written and hashed correctly."""
    conf, head, layer_size = sparse(store_dir, 2**32 + 1)
    digest = hashlib.sha256(head)
    buffer, zeros = bytearray(1 << 20), bytes(1 << 20)
    with Reading(conf) as reading:
        assert reading.layer_size() == layer_size
        assert reading.file.read(len(head)) == head
        left = layer_size - len(head)
        while left:
            view = memoryview(buffer)[: min(left, len(buffer))]
            assert reading.file.readinto(view) == len(view)
            assert view == zeros[: len(view)] if len(view) < len(zeros) else buffer == zeros
            digest.update(view)
            left -= len(view)
        while reading.file.readinto(buffer):
            pass
    assert reading.image is not None
    assert reading.image.layers[0].size == layer_size
    assert reading.image.layers[0].diff_id == f"sha256:{digest.hexdigest()}"

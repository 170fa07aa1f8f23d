"""File trees as values: hypothesis strategies that generate them, and a builder.

A description does not contain the tree's location, so that the same tree can be built in
several places, orders and ways.
"""

import os
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from hypothesis import strategies as st

SLOT = 256 * 1024  # of the pool in native/pool.c


@dataclass(frozen=True, slots=True)
class File:
    """A regular file; its `size` bytes follow from `seed`."""

    mode: int
    size: int
    seed: int

    def content(self) -> bytes:
        """Return the file's bytes."""
        return random.Random(self.seed).randbytes(self.size)


@dataclass(frozen=True, slots=True)
class Link:
    """A symbolic link."""

    target: bytes


@dataclass(frozen=True, slots=True)
class Directory:
    """A directory and its entries."""

    mode: int
    items: tuple[tuple[bytes, "Node"], ...]


Node = File | Link | Directory
Order = Callable[[Sequence[tuple[bytes, Node]]], Sequence[tuple[bytes, Node]]]


def in_order(items: Sequence[tuple[bytes, Node]]) -> Sequence[tuple[bytes, Node]]:
    """Return the items in their order in the description."""
    return items


def build(path: bytes, node: Node, *, order: Order = in_order, linked: bool = False) -> None:
    """Build `node` at `path`, the items of a directory in `order`.

    If `linked`, equal files are hard links to one inode. For an ordinary user, modes are
    widened so that the tree can be read.
    """
    _build(path, node, order, {} if linked else None)


def _build(path: bytes, node: Node, order: Order, made: dict[File, bytes] | None) -> None:
    root = os.geteuid() == 0
    if isinstance(node, Link):
        os.symlink(node.target, path)
    elif isinstance(node, Directory):
        os.mkdir(path)
        for name, item in order(node.items):
            _build(path + b"/" + name, item, order, made)
        os.chmod(path, node.mode if root else node.mode | 0o500)
    elif made is not None and node in made:
        os.link(made[node], path)
    else:
        with open(path, "wb") as file:
            file.write(node.content())
        os.chmod(path, node.mode if root else node.mode | 0o400)
        if made is not None:
            made[node] = path


# ---- strategies ----------------------------------------------------------

modes = st.integers(0, 0o7777)
sizes = st.one_of(
    st.sampled_from([0, 1, 511, 512, 513, 1023, 1024, 1025, 10239, 10240, 10241]),
    st.integers(0, 3000),
)
large_sizes = st.builds(int.__add__, st.sampled_from([SLOT, 2 * SLOT]), st.integers(-2049, 2049))

_HIGH = "\x7f\x80\xe9\u0fff\ud7ff\ue000\ufffd\uffff\U00010000\U0010ffff"
_BAD = [
    b"\x80",
    b"\xbf",
    b"\xc0\x80",
    b"\xc3",
    b"\xe2\x82",
    b"\xed\xa0\x80",
    b"\xe0\x80\x80",
    b"\xf0\x80\x80\x80",
    b"\xf4\x90\x80\x80",
    b"\xff",
]
_pieces = st.one_of(
    st.sampled_from([b"a", b"b", b"-", b".", b" ", b"\n", b"+", b"0", b"A", b"\\", b"?"]),
    st.sampled_from(_HIGH).map(str.encode),
    st.sampled_from(_BAD),
    st.binary(min_size=1, max_size=3),
)


def _clean(name: bytes) -> bytes:
    name = name.replace(b"/", b"_").replace(b"\0", b"0")[:255]
    return b"dot" if name in {b"", b".", b".."} else name


names = st.one_of(
    st.sampled_from([b"a", b"b", b"a-b", b"a.b", b"a b", b"ab", b"a\n", b"A"]),
    st.lists(_pieces, min_size=1, max_size=6).map(b"".join).map(_clean),
    st.builds(  # long ones: 60 to 255 bytes
        lambda piece, length: _clean((piece * length)[:length]), _pieces, st.integers(60, 255)
    ),
)

targets = st.one_of(
    st.sampled_from([b".", b"..", b"/", b"a", b"../a", b"/nowhere", b"a/b", b"\xff"]),
    names,
    st.builds(
        lambda piece, length: (piece * length)[:length].replace(b"\0", b"0"),
        _pieces,
        st.sampled_from([98, 99, 100, 101, 102, 255, 256, 260, 1000, 4094]),
    ),
)

files = st.builds(File, modes, sizes, st.integers(0, 3))
twins = st.sampled_from([File(0o644, 700, 1), File(0o755, 0, 1)])  # often equal: hard links
leaves = st.one_of(files, twins, st.builds(Link, targets))


def _directories(items: st.SearchStrategy[Node]) -> st.SearchStrategy[Directory]:
    return st.builds(
        lambda mode, found: Directory(mode, tuple(found.items())),
        modes,
        st.dictionaries(names, items, max_size=6),
    )


directories = st.recursive(leaves, _directories, max_leaves=20).flatmap(
    lambda node: st.just(node) if isinstance(node, Directory) else _directories(st.just(node))
)
store_paths = st.one_of(directories, files, st.builds(Link, targets))
"""A possible store path: usually a directory, sometimes a file or a link."""

# JSON contains the names of store paths, so they are text, always valid UTF-8.
store_names = st.one_of(
    st.text("abXY09+-._?= \n\xe9\U0001f600", max_size=40),
    st.text("ab-", min_size=60, max_size=200),
).map("0{}".format)

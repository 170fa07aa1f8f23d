"""The customisation layer made from a tree, compared with GNU tar's own bytes."""

import io
import itertools
import os
import stat
import subprocess
import tarfile
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import pytest
import trees
from hypothesis import example, given
from hypothesis import strategies as st

from stream.errors import RecipeError, SourceError
from stream.model import LayerKey, Recipe
from stream.sources.customisation.made import made_layer
from stream.sources.customisation.tree import Identity, Node, Tree, directory, file, link
from stream.tarwriter import TarContent, encode_header, write_layer
from stream.typeflags import CHARACTER_DEVICE, DIRECTORY, FILE

RECIPE = Recipe()
MTIME = 1
SHORT = 1000  # bytes of a path that every system call accepts
as_root = pytest.mark.skipif(os.geteuid() != 0, reason="owners and devices are root's to make")


def layer_bytes(tree: Tree, mtime: int = MTIME) -> bytes:
    """Return the layer made from `tree`."""
    source = made_layer(tree, RECIPE, mtime=mtime)
    with tempfile.TemporaryFile() as output:
        write_layer(output.fileno(), source.size, source.write_to)
        output.seek(0)
        data = output.read()
    assert len(data) == source.size
    return data


def gnu_tar(path: str, mtime: int = MTIME) -> bytes:
    """Return the tar that dockerTools makes of the directory at `path`."""
    return subprocess.run(
        [
            "tar", "--sort=name", "--numeric-owner", f"--mtime=@{mtime}", "--hard-dereference",
            "--format=gnu", "-cf", "-", "-C", path, ".",
        ],
        check=True, capture_output=True,
    ).stdout  # fmt: skip


def mirrored(path: bytes) -> Tree:
    """Return the directory at `path`, of any depth, as a tree in memory. Files are read from
    disk, or held in memory if their path is too long for that.
    """
    tree = Tree()
    opened = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        tree.root = _node(path, opened, os.fstat(opened))
    finally:
        os.close(opened)
    return tree


def _node(path: bytes, parent: int, status: os.stat_result) -> Node:
    """Return the node for `path`, whose name is in the directory `parent`; for a directory,
    `parent` is the directory itself.
    """
    name = os.path.basename(path)
    kind, mode = stat.S_IFMT(status.st_mode), stat.S_IMODE(status.st_mode)
    typeflags = dict(
        zip(
            (stat.S_IFREG, stat.S_IFLNK, stat.S_IFCHR, stat.S_IFBLK, stat.S_IFDIR, stat.S_IFIFO),
            (b"0", b"2", b"3", b"4", b"5", b"6"),
            strict=True,
        )
    )
    node = Node(typeflag=typeflags[kind], mode=mode, uid=status.st_uid, gid=status.st_gid)
    if kind == stat.S_IFDIR:
        for child in os.listdir(parent):
            below = os.fsencode(child)
            child_status = os.lstat(child, dir_fd=parent)
            if stat.S_ISDIR(child_status.st_mode):
                opened = os.open(child, os.O_RDONLY | os.O_DIRECTORY, dir_fd=parent)
                node.children[below] = _node(path + b"/" + below, opened, child_status)
                os.close(opened)
            else:
                node.children[below] = _node(path + b"/" + below, parent, child_status)
    elif kind == stat.S_IFLNK:
        node.link = os.readlink(name, dir_fd=parent)
    elif kind in (stat.S_IFCHR, stat.S_IFBLK):
        node.device = (os.major(status.st_rdev), os.minor(status.st_rdev))
    elif kind == stat.S_IFREG:
        node.size = status.st_size
        if len(path) < SHORT:
            node.source, node.identity = path, Identity.of(status)
        else:
            with open(os.open(name, os.O_RDONLY, dir_fd=parent), "rb") as content:
                node.data = content.read()
    return node


def source_node(path: Path) -> Node:
    """Return the node of a file that is read from disk."""
    status = path.stat()
    return Node(
        typeflag=FILE, mode=0o644, size=status.st_size, source=bytes(path),
        identity=Identity.of(status),
    )  # fmt: skip


@contextmanager
def built(node: trees.Directory) -> Iterator[str]:
    """Build `node` on disk."""
    above = tempfile.mkdtemp()
    path = f"{above}/tree"
    try:
        trees.build(os.fsencode(path), node)
        yield path
    finally:
        if os.geteuid() != 0:
            subprocess.run(["chmod", "-R", "u+rwX", above], check=True)
        subprocess.run(["rm", "-rf", above], check=True)


ids = st.one_of(
    st.sampled_from([0, 1, 0o7777777, 0o7777777 + 1, 2**31, 2**32 - 2]), st.integers(0, 2**32 - 2)
)
mtimes = st.one_of(
    st.sampled_from([0, 1, -1, -5, 2**31, 2**33 - 1, 2**33, 2**40, -(2**35)]),
    st.integers(-(2**40), 2**40),
)


@given(trees.directories, mtimes, st.lists(st.tuples(ids, ids), min_size=1, max_size=4))
def test_bytes_are_gnu_tars(
    node: trees.Directory, mtime: int, owners: Sequence[tuple[int, int]]
) -> None:
    """Without it layers would have other digests than dockerTools', and not be shared."""
    with built(node) as path:
        if os.geteuid() == 0:
            give_away(path, owners)
        assert layer_bytes(mirrored(os.fsencode(path)), mtime) == gnu_tar(path, mtime)


def give_away(path: str, owners: Sequence[tuple[int, int]]) -> None:
    """Give the file at `path` to each of `owners` in turn, keeping its mode."""
    # Not with pathlib, which follows links, and fails if a target's name is too long.
    found = [path]
    for above, directories, files in os.walk(path):
        found += (os.path.join(above, name) for name in directories + files)
    for number, name in enumerate(found):
        mode = os.lstat(name).st_mode
        os.chown(name, *owners[number % len(owners)], follow_symlinks=False)
        if not stat.S_ISLNK(mode):
            os.chmod(name, stat.S_IMODE(mode))


def _chain(length: int, leaf: trees.Node) -> trees.Directory:
    """Return `leaf` under a name such that its path from the root, `./`, has `length` bytes."""
    depth = -(-(length - 2) // 100)
    names = [b"d" * 99] * (depth - 1)
    names.append(b"n" * (length - 2 - 100 * (depth - 1)))
    node = leaf
    for name in reversed(names):
        node = trees.Directory(0o755, ((name, node),))
    assert isinstance(node, trees.Directory)
    return node


@pytest.mark.parametrize("length", [98, 99, 100, 101, 102, 155, 156, 256, 511, 512, 513, 1023])
@pytest.mark.parametrize(
    "leaf",
    [
        trees.File(0o7777, 5, 1),
        trees.Directory(0o1777, ((b"x", trees.File(0o644, 0, 1)),)),
        trees.Link(b"t" * 99),
        trees.Link(b"t" * 100),
        trees.Link(b"t" * 101),
        trees.Link(b"\xff\xc3\xa9" * 171),
        trees.Link(b"t" * 4095),
    ],
    ids=lambda leaf: type(leaf).__name__,
)
def test_lengths_of_names(length: int, leaf: trees.Node) -> None:
    """Without it a name at the limit of its field would be cut, or occur twice."""
    with built(_chain(length, leaf)) as path:
        assert layer_bytes(mirrored(os.fsencode(path))) == gnu_tar(path)


def test_path_that_no_system_call_takes(tmp_path: Path) -> None:
    """Without it a tree that GNU tar packs, step by step, could not be made."""
    tree = tmp_path / "tree"
    tree.mkdir()
    at = os.open(tree, os.O_RDONLY)
    for _ in range(25):
        os.mkdir("d" * 200, dir_fd=at)
        below = os.open("d" * 200, os.O_RDONLY, dir_fd=at)
        os.close(at)
        at = below
    with open(os.open("deep", os.O_CREAT | os.O_WRONLY, 0o644, dir_fd=at), "wb") as content:
        content.write(b"content")
    os.close(at)
    assert layer_bytes(mirrored(bytes(tree))) == gnu_tar(str(tree))


@as_root
def test_devices_and_fifos(tmp_path: Path) -> None:
    """Without it devices that fakeRootCommands made would be lost, or differ."""
    os.mkfifo(tmp_path / "fifo", 0o640)
    for name, kind in (("c", stat.S_IFCHR), ("b", stat.S_IFBLK)):
        for major, minor in ((1, 3), (4095, 0), (8, 2**20 - 1)):
            path = tmp_path / f"{name}-{major}-{minor}"
            os.mknod(path, kind | 0o606, os.makedev(major, minor))
            os.chmod(path, 0o6606)
    assert layer_bytes(mirrored(bytes(tmp_path))) == gnu_tar(str(tmp_path))


def test_hard_links_are_files(tmp_path: Path) -> None:
    """Without it a layer would depend on whether the store is optimised."""
    (tmp_path / "a").write_bytes(b"one file")
    os.link(tmp_path / "a", tmp_path / "b")
    data = layer_bytes(mirrored(bytes(tmp_path)))
    assert data == gnu_tar(str(tmp_path))
    assert data.count(b"one file") == 2


@given(st.integers(0, 2**64 - 1), st.integers(0, 2**56 - 1), st.integers(-(2**63), 2**63 - 1))
@example(2**33 - 1, 0o7777777, 2**33 - 1)
@example(2**33, 0o7777777 + 1, 2**33)
@example(2**64 - 1, 2**56 - 1, -(2**63))
def test_numbers_of_any_size(size: int, owner: int, mtime: int) -> None:
    """Without it a file of 8 GiB, which no test makes, would have a wrong size."""
    found = encode_header(b"./x", 0o644, size, mtime, uid=owner, gid=owner, gnu=True)
    info = tarfile.TarInfo("./x")
    info.size, info.mtime, info.uid, info.gid = size, mtime, owner, owner
    expected = bytearray(info.tobuf(tarfile.GNU_FORMAT))
    for device in (329, 337):  # CPython has zeros there, GNU tar nothing
        expected[device : device + 8] = bytes(8)
    expected[148:156] = b"%06o\0 " % (sum(expected) - sum(expected[148:156]) + 8 * 32)
    assert found == bytes(expected)


@pytest.mark.parametrize(("uid", "gid"), [(2**56, 0), (0, 2**64 - 1)])
def test_owner_that_no_tar_can_hold(uid: int, gid: int) -> None:
    """Without it the entry would belong to another user."""
    with pytest.raises(ValueError, match="an owner's number that no tar can hold"):
        encode_header(b"x", 0o644, 0, 0, gnu=True, uid=uid, gid=gid)


# ---- extended attributes

ATTRIBUTES = {
    b"user.note": b"two\nlines, \xff and a \0",
    b"security.capability": bytes.fromhex("0100000200040000000000000000000000000000"),
    b"user.empty": b"",
}


def with_attributes() -> Tree:
    """Return a tree with extended attributes on entries of several kinds."""
    tree = Tree()
    tree.root.xattrs = {b"user.root": b"1"}
    tree.make_directory(b"etc").xattrs = {b"user.directory": b"2"}
    for name in (b"bin/ping", b"bin/" + b"long-" * 30):
        node = file(b"#!", 0o755)
        node.xattrs = dict(ATTRIBUTES)
        tree.put(name, node)
    tree.put(b"plain", link(b"bin/ping"))
    return tree


def test_extended_attributes_as_tarfile_reads_them() -> None:
    """Without it capabilities would be lost, or assigned to another file."""
    with tarfile.open(fileobj=io.BytesIO(layer_bytes(with_attributes()))) as tar:
        found = {info.name: (info.pax_headers, info.size) for info in tar}
    attributes = {
        f"SCHILY.xattr.{key.decode()}": value.decode("utf-8", "surrogateescape")
        for key, value in ATTRIBUTES.items()
    }
    assert found == {
        ".": ({"SCHILY.xattr.user.root": "1"}, 0),
        "./bin": ({}, 0),
        "./bin/ping": (attributes, 2),
        "./bin/" + "long-" * 30: (attributes, 2),
        "./etc": ({"SCHILY.xattr.user.directory": "2"}, 0),
        "./plain": ({}, 0),
    }


@as_root
def test_extended_attributes_as_gnu_tar_restores_them(tmp_path: Path) -> None:
    """Without it the program whose format the layer has could not read it."""
    probe = tmp_path / "probe"
    probe.touch()
    try:
        os.setxattr(probe, "user.probe", b"")
    except OSError as error:
        pytest.skip(f"no extended attributes here: {error.strerror}")
    root = tmp_path / "root"
    root.mkdir()
    done = subprocess.run(
        ["tar", "-xp", "--xattrs", "--xattrs-include=*", "-C", root],
        input=layer_bytes(with_attributes()), check=True, capture_output=True,
    )  # fmt: skip
    assert done.stderr == b""
    for name in ("bin/ping", "bin/" + "long-" * 30):
        found = {key.encode(): os.getxattr(root / name, key) for key in os.listxattr(root / name)}
        assert found == ATTRIBUTES
    assert os.listxattr(root / "etc") == ["user.directory"]


def test_order_of_attributes_is_fixed() -> None:
    """Without it a layer would depend on the order in which a recipe names them."""
    one, other = with_attributes(), with_attributes()
    node = other.find(b"bin/ping")
    assert node is not None
    node.xattrs = dict(reversed(ATTRIBUTES.items()))
    assert layer_bytes(one) == layer_bytes(other)


# ---- files that change


def _tree_of(path: Path) -> Tree:
    tree = Tree()
    tree.put(b"file", source_node(path))
    return tree


def _replace(path: Path) -> None:
    other = path.with_name("other")
    other.write_bytes(path.read_bytes())
    other.rename(path)


def _rewrite(path: Path) -> None:
    path.write_bytes(b"CONTENT")
    os.utime(path, ns=(0, 0))


def _rewrite_unseen(path: Path) -> None:
    status = path.stat()
    while path.stat().st_ctime_ns == status.st_ctime_ns:  # the clock of files ticks slowly
        with path.open("r+b") as file:
            file.write(b"CONTENT")
        os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))


def _become_a_link(path: Path) -> None:
    path.rename(path.with_name("moved"))
    path.symlink_to("moved")


def _become_a_fifo(path: Path) -> None:
    path.unlink()
    os.mkfifo(path)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (_replace, "changed since it was walked"),
        (_rewrite, "changed since it was walked"),
        (_rewrite_unseen, "changed since it was walked"),
        (lambda path: path.write_bytes(b"longer than it was"), "changed since it was walked"),
        (lambda path: path.write_bytes(b""), "changed since it was walked"),
        (_become_a_link, "changed since it was walked"),
        (_become_a_fifo, "changed since it was walked"),
        (Path.unlink, "no such file"),
    ],
    ids=["replaced", "rewritten", "put-back", "longer", "empty", "link", "fifo", "gone"],
)  # fmt: skip
def test_file_that_changed(tmp_path: Path, change: Callable[[Path], object], said: str) -> None:
    """Without it another file's content would be in the image, or the program would hang."""
    path = tmp_path / "file"
    path.write_bytes(b"content")
    tree = _tree_of(path)
    change(path)
    with pytest.raises(SourceError, match=said) as caught:
        layer_bytes(tree)
    assert caught.value.path == bytes(path)


def test_file_linked_elsewhere(tmp_path: Path) -> None:
    """Without it `nix-store --optimise` or a garbage collection would end every run."""
    path = tmp_path / "file"
    path.write_bytes(b"content")
    tree = _tree_of(path)
    before = layer_bytes(tree)
    changed = path.stat().st_ctime_ns
    for number in itertools.count():
        os.link(path, tmp_path / str(number))
        if path.stat().st_ctime_ns != changed:
            break
    assert layer_bytes(tree) == before


def test_file_rewritten_while_it_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without it a file could be a mixture of two versions."""
    path = tmp_path / "file"
    path.write_bytes(b"content")
    tree = _tree_of(path)
    copy = TarContent.copy

    def copy_and_rewrite(self: TarContent, fd: int, count: int, name: bytes) -> None:
        copy(self, fd, count, name)
        _rewrite(path)

    monkeypatch.setattr(TarContent, "copy", copy_and_rewrite)
    with pytest.raises(SourceError, match="changed since it was walked"):
        layer_bytes(tree)


def test_size_of_entries_without_content() -> None:
    """Without it a directory's size on disk would make a tar that cannot be read."""
    tree, plain = Tree(), Tree()
    tree.put(b"directory", Node(typeflag=DIRECTORY, mode=0o755, size=4096))
    plain.put(b"directory", directory())
    assert layer_bytes(tree) == layer_bytes(plain)


@pytest.mark.parametrize(
    ("path", "node"),
    [
        (b".wh.sbin", file(b"", origin=b"/here")),
        (b"lib/.wh..wh..opq", directory(origin=b"/here")),
        (b"d/.wh.x/file", file(b"", origin=b"/here")),
        (b".wh.link", link(b"x", origin=b"/here")),
        (b"null", Node(typeflag=CHARACTER_DEVICE, mode=0o644, origin=b"/here")),
    ],
)
def test_no_whiteouts(path: bytes, node: Node) -> None:
    """Without it an entry would delete a file of the base image, or all of a directory's."""
    with pytest.raises(RecipeError, match=r"marks a deleted file.*; rename or remove it") as caught:
        made_layer(_tree_with(path, node), RECIPE, mtime=0)
    assert caught.value.where == f"/{path.decode().removesuffix('/file')} (from /here)"


# ---- names in an archive


def _named(tree: Tree, recipe: Recipe = RECIPE, mtime: int = 0) -> str:
    return made_layer(tree, recipe, mtime=mtime).fingerprint


def _tree_with(path: bytes, node: Node) -> Tree:
    tree = Tree()
    tree.put(path, node)
    return tree


def test_different_layers_have_different_names() -> None:
    """Without it tools that merge archives by member name would mix up images."""
    owned = file(b"a")
    owned.uid = 1
    names = [
        _named(Tree()),
        _named(Tree(), mtime=1),
        _named(Tree(), Recipe(extra_commands="date > x")),
        _named(_tree_with(b"x", file(b"a"))),
        _named(_tree_with(b"x", file(b"b"))),
        _named(_tree_with(b"y", file(b"a"))),
        _named(_tree_with(b"x", file(b"a", 0o755))),
        _named(_tree_with(b"x", owned)),
        _named(_tree_with(b"x", link(b"a"))),
        _named(_tree_with(b"x", link(b"b"))),
        _named(_tree_with(b"x", directory())),
    ]
    assert len(set(names)) == len(names)


def test_name_does_not_depend_on_the_machine(tmp_path: Path) -> None:
    """Without it the same conf would give other bytes, as inodes and scratch paths differ."""
    names = set()
    for where in ("one", "two"):
        path = tmp_path / where / "scratch"
        path.parent.mkdir()
        path.write_bytes(b"content")
        names.add(_named(_tree_of(path)))
    assert len(names) == 1


# ---- keys


def _on_disk(ctime_ns: int | None = 1, **more: int) -> Node:
    """Return the node of a file on disk with this identity."""
    numbers = {"device": 1, "inode": 2, "size": 3, "mtime_ns": 4, **more}
    identity = Identity(**numbers, ctime_ns=ctime_ns)
    return Node(typeflag=FILE, mode=0o644, size=3, source=b"/x", identity=identity)


def _keys(node: Node, *, began_ns: int = 10**18, complete: bool = True) -> tuple[LayerKey, ...]:
    tree = _tree_with(b"x", node)
    return made_layer(tree, RECIPE, mtime=0, began_ns=began_ns, complete=complete).keys


def test_different_layers_have_different_keys() -> None:
    """Without it a layer would be shipped under the digest of another."""
    headed = _on_disk()
    headed.head = b"a"
    nodes = [
        file(b"a"), file(b"b"), link(b"a"), file(b"a", 0o755), headed,
        *(_on_disk(**more) for more in ({}, {"device": 9}, {"inode": 9}, {"mtime_ns": 9})),
        _on_disk(9),
    ]  # fmt: skip
    keys = [_keys(node) for node in nodes]
    assert len({key.value for each in keys for key in each}) == len(nodes)
    assert all(key.recordable for each in keys for key in each)
    assert keys == [_keys(node) for node in nodes]


def test_what_is_new_or_not_whole_has_no_lasting_key() -> None:
    """Without it files that may still change, or that nobody made yet, would have a digest."""
    assert _keys(_on_disk(None)) == ()
    assert _keys(file(b"a"), complete=False) == ()
    (key,) = _keys(_on_disk(10), began_ns=11)
    assert not key.recordable


def test_a_layer_without_files_from_disk_has_the_same_key_everywhere() -> None:
    """Without it a registry could not remember a layer of links for other machines."""
    for node, portable in ((link(b"a"), True), (file(b"a"), True), (_on_disk(), False)):
        assert [key.portable for key in _keys(node)] == [portable]

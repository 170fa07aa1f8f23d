"""Contents joined and copied into one tree."""

import os
import shutil
import stat
import struct
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence

import pytest
import trees
from hypothesis import given, reject
from hypothesis import strategies as st
from trees import Directory, File, Link

from stream.errors import ContentConflict, SourceError
from stream.model import Builtin, Conflicts, Recipe
from stream.sources.customisation import join as joining
from stream.sources.customisation.join import make_tree
from stream.sources.customisation.tree import Identity, Tree
from stream.typeflags import DIRECTORY, FILE, LINK

Shown = dict[bytes, str]
Make = Callable[..., bytes]

NAMES = [b"a", b"b", b"c", b"d"]
HELLO = File(0o644, 5, 1)
OTHER = File(0o644, 5, 2)
LOCKED = File(0o600, 5, 1)


@pytest.fixture
def make(store_dir: bytes) -> Make:
    """Return a function that makes a content, named and described as nested dictionaries."""

    def built(name: bytes, items: dict[bytes, object]) -> bytes:
        path = store_dir + b"/" + name
        trees.build(path, described(items))
        return path

    return built


def described(items: dict[bytes, object]) -> Directory:
    """Return a tree for nested dictionaries, in which bytes are a link's target."""
    nodes: list[tuple[bytes, trees.Node]] = []
    for name, item in items.items():
        if isinstance(item, dict):
            nodes.append((name, described(item)))
        elif isinstance(item, bytes):
            nodes.append((name, Link(item)))
        else:
            assert isinstance(item, File)
            nodes.append((name, item))
    return Directory(0o755, tuple(nodes))


def shown(tree: Tree) -> Shown:
    """Return a readable form of every path of a tree except its root."""
    return {
        path: f"-> {os.fsdecode(node.link)}" if node.typeflag == LINK
        else f"{'d' if node.is_directory else '-'}{node.mode:04o} {os.fsdecode(node.source)}".strip()
        for path, node in tree.entries() if path
    }  # fmt: skip


def joined(*contents: bytes, conflicts: Conflicts = "error") -> Shown:
    """Return the tree of joined contents."""
    return shown(make_tree(Recipe(contents=contents, conflicts=conflicts)))


def copied(*contents: bytes, conflicts: Conflicts = "error", keep_dirlinks: bool = False) -> Shown:
    """Return the tree of copied contents."""
    recipe = Recipe(copy_to_root=contents, conflicts=conflicts, keep_dirlinks=keep_dirlinks)
    return shown(make_tree(recipe))


# Links among contents, for a store with `c0`, `c1` and `c2`.
LINKS = st.sampled_from(
    [b"a", b"b", b"c", b"../a", b"../b/c", b"nowhere", b"{}/c0/a", b"{}/c1/b", b"{}/c2/a/b"]
)
FILES = st.builds(File, st.sampled_from([0o644, 0o755]), st.sampled_from([0, 3]), st.integers(0, 1))
NODES: st.SearchStrategy[trees.Node] = st.recursive(
    st.one_of(FILES, LINKS.map(Link)),
    lambda inner: st.builds(
        Directory,
        st.sampled_from([0o755, 0o555, 0o700]),
        st.dictionaries(st.sampled_from(NAMES), inner, max_size=4).map(lambda d: tuple(d.items())),
    ),
    max_leaves=12,
)
CONTENTS = st.lists(
    st.dictionaries(st.sampled_from(NAMES), NODES, max_size=4).map(
        lambda items: Directory(0o755, tuple(items.items()))
    ),
    min_size=1,
    max_size=3,
)


def built(store_dir: bytes, contents: Sequence[trees.Node]) -> list[bytes]:
    """Build contents in a new store, `c0` and so on; their links lead into that store."""
    store = tempfile.mkdtemp(dir=store_dir)

    def placed(node: trees.Node) -> trees.Node:
        if isinstance(node, Link):
            return Link(node.target.replace(b"{}", store))
        if isinstance(node, Directory):
            return Directory(node.mode, tuple((name, placed(item)) for name, item in node.items))
        return node

    paths = [store + b"/c%d" % number for number in range(len(contents))]
    for path, content in zip(paths, contents, strict=True):
        trees.build(path, placed(content))
    return paths


def link_on_disk(out: bytes, candidates: Sequence[tuple[bytes, bool]]) -> None:
    """Join directories as links below the directory `out`, on disk. The first that has a path
    wins; if it is a directory or a link to one, all of those are merged, unless all are the
    same link. Each candidate comes with a flag: reached through a link.
    """
    for name in sorted({name for path, _ in candidates for name in os.listdir(path)}):
        items = [(path + b"/" + name, behind) for path, behind in candidates]
        found = [(path, behind) for path, behind in items if os.path.lexists(path)]
        texts = [text_on_disk(path, behind=behind) for path, behind in found]
        merged = [(path, behind) for path, behind in found if os.path.isdir(path)]
        links = [text for text, item in zip(texts, found, strict=True) if item in merged]
        if found[0] in merged and (len(set(links)) > 1 or links[0] is None):
            os.mkdir(out + b"/" + name)
            behind_now = [(path, behind or os.path.islink(path)) for path, behind in merged]
            link_on_disk(out + b"/" + name, behind_now)
        else:
            os.symlink(texts[0] or found[0][0], out + b"/" + name)


def text_on_disk(path: bytes, *, behind: bool) -> bytes | None:
    """Return the target of the link that a link becomes; None if it is not a link."""
    if not os.path.islink(path):
        return None
    text = os.readlink(path)
    return path if behind and not text.startswith(b"/") else text


def on_disk(out: bytes) -> Shown:
    """Return a readable form of every path below a directory."""
    found: Shown = {}
    for above, directories, files in os.walk(out):
        for name in directories + files:
            path = above + b"/" + name
            found[os.path.relpath(path, out)] = (
                f"-> {os.fsdecode(os.readlink(path))}" if os.path.islink(path) else "d0755"
            )
    return found


@given(contents=CONTENTS)
def test_join_equals_links_made_on_disk(store_dir: bytes, contents: list[Directory]) -> None:
    """Any content gets the files that it would get from tools that make links."""
    paths = built(store_dir, contents)
    out = tempfile.mkdtemp(dir=store_dir)
    try:
        found = joined(*paths, conflicts="first")
    except SourceError:
        reject()  # a cycle
    link_on_disk(out, [(path, False) for path in paths])
    assert found == on_disk(out)


@given(contents=CONTENTS)
def test_no_conflict_is_the_same_as_the_first(store_dir: bytes, contents: list[Directory]) -> None:
    """Without conflicts, the option for conflicts must not change anything."""
    paths = built(store_dir, contents)
    try:
        found = joined(*paths)
    except (SourceError, ContentConflict):
        reject()
    assert found == joined(*paths, conflicts="first")


def followed(content: bytes) -> Shown:
    """Return the copy of a content, with its links to directories followed."""
    found: Shown = {}
    for above, directories, files in os.walk(content, followlinks=True):
        for name in directories:
            path = above + b"/" + name
            mode = stat.S_IMODE(os.stat(path).st_mode) | 0o200
            found[os.path.relpath(path, content)] = f"d{mode:04o}"
        for name in files:
            path = above + b"/" + name
            found[os.path.relpath(path, content)] = (
                f"-> {os.fsdecode(os.readlink(path))}"
                if os.path.islink(path)
                else f"-{stat.S_IMODE(os.stat(path).st_mode):04o} {os.fsdecode(path)}"
            )
    return found


@given(contents=CONTENTS)
def test_copy_equals_a_walk_that_follows_directories(
    store_dir: bytes, contents: list[Directory]
) -> None:
    """Copies to the root are the same as with `rsync -ak`."""
    paths = built(store_dir, contents)
    for path in paths:
        try:
            found = copied(path)
        except SourceError:
            continue  # a cycle
        assert found == followed(path)


@given(contents=CONTENTS)
def test_copies_of_several_contents_lie_over_each_other(
    store_dir: bytes, contents: list[Directory]
) -> None:
    """A content must not lose a file, or a directory its mode, to the previous one."""
    paths = built(store_dir, contents)
    try:
        found = copied(*paths)
    except (SourceError, ContentConflict):
        reject()
    expected: Shown = {}
    for path in reversed(paths):
        expected |= {k: v for k, v in followed(path).items() if k not in expected or v[0] != "d"}
    assert found == expected


def test_nodes_of_a_copy_name_their_files(make: Make) -> None:
    """The layer's writer needs the size beforehand, and checks that the file is the same."""
    content = make(b"c", {b"bin": {b"tool": File(0o4755, 7, 1)}})
    tree = make_tree(Recipe(copy_to_root=(content,)))
    facts = os.lstat(content + b"/bin/tool")
    node = tree.find(b"bin/tool")
    assert node is not None
    assert (node.typeflag, node.mode, node.size) == (FILE, 0o4755, 7)
    assert (node.uid, node.gid, node.origin) == (0, 0, content)
    assert node.source == content + b"/bin/tool"
    assert node.identity == Identity.of(facts)


NOBODY = 2**32 - 1  # the ID of entries that name nobody
PING = bytes.fromhex("0100000200200000000000000000000000000000")  # cap_net_raw+ep
# acl(5): user::rw-, user:1000:rw-, group::---, mask::rw-, other::---
ACCESS_LIST = struct.pack("<I" + "HHI" * 5, 2, 1, 6, NOBODY, 2, 6, 1000, 4, 0, NOBODY, 16, 6, NOBODY,
                          32, 0, NOBODY)  # fmt: skip


def set_attribute(path: bytes, name: str, value: bytes) -> None:
    """Set an extended attribute, or skip the test where that is not allowed."""
    try:
        os.setxattr(path, name, value)
    except OSError as error:
        pytest.skip(f"{name}: {error.strerror}")


def test_copies_keep_capabilities_alone(make: Make) -> None:
    """Without it a copied ping would not run; with more, two machines would make two layers."""
    content = make(b"c", {b"bin": {b"ping": HELLO, b"other": File(0o644, 9, 2)}})
    set_attribute(content + b"/bin/ping", "security.capability", PING)
    set_attribute(content + b"/bin/other", "user.note", b"mine")
    warned: list[str] = []
    tree = make_tree(Recipe(copy_to_root=(content,)), warn=warned.append)
    attributes = {path: node.xattrs for path, node in tree.entries() if node.xattrs}
    assert attributes == {b"bin/ping": {b"security.capability": PING}}
    assert not warned


def test_files_of_other_capabilities_differ(make: Make) -> None:
    """Without it the order of two contents would decide whether a program may do its work."""
    one, two = (make(name, {b"ping": HELLO}) for name in (b"one", b"two"))
    assert make_tree(Recipe(copy_to_root=(one, two)))
    set_attribute(two + b"/ping", "security.capability", PING)
    with pytest.raises(ContentConflict):
        make_tree(Recipe(copy_to_root=(one, two)))


def test_access_control_lists_are_reported(make: Make) -> None:
    """Without it the group could get the rights of a list's mask, and nobody would know."""
    content = make(b"c", {b"a": HELLO, b"b": {b"c": HELLO}})
    set_attribute(content + b"/a", "system.posix_acl_access", ACCESS_LIST)
    set_attribute(content + b"/b", "system.posix_acl_default", ACCESS_LIST)
    warned: list[str] = []
    assert make_tree(Recipe(copy_to_root=(content,)), warn=warned.append)
    (line,) = warned
    assert line.startswith(f"{os.fsdecode(content)}/a (and 1 more): its access control list is not")


def test_only_files_have_something_to_read(make: Make) -> None:
    """The layer's writer opens every node that has a source."""
    content = make(b"c", {b"f": HELLO, b"link": b"f", b"d": {}})
    tree = make_tree(Recipe(contents=(content,), copy_to_root=(content,)))
    assert not any(node.source or node.size for _, node in tree.entries())
    copies = make_tree(Recipe(copy_to_root=(content,)))
    assert [path for path, node in copies.entries() if node.source] == [b"f"]


def test_copied_directories_are_writable_by_their_owner(make: Make) -> None:
    """Store directories are read-only, but commands and users of the image write into them."""
    content = make(b"c", {b"a": {b"b": HELLO}})
    os.chmod(content + b"/a", 0o555)
    assert copied(content)[b"a"] == "d0755"


def test_the_root_keeps_its_mode(make: Make) -> None:
    """A content made by mktemp is 0700; an image's root of that mode is only accessible to root."""
    content = make(b"c", {b"a": HELLO})
    os.chmod(content, 0o700)
    tree = make_tree(Recipe(copy_to_root=(content,)))
    assert tree.root.mode == 0o755


CONFLICTS: dict[str, tuple[dict[bytes, object], dict[bytes, object], bytes]] = {
    "content": ({b"a": {b"f": HELLO}}, {b"a": {b"f": OTHER}}, b"a/f"),
    "mode": ({b"f": HELLO}, {b"f": LOCKED}, b"f"),
    "size": ({b"f": HELLO}, {b"f": File(0o644, 6, 1)}, b"f"),
    "link text": ({b"f": b"x"}, {b"f": b"y"}, b"f"),
    "directory, file": ({b"a": {b"f": HELLO}}, {b"a": HELLO}, b"a"),
    "file, directory": ({b"a": HELLO}, {b"a": {b"f": HELLO}}, b"a"),
    "directory, dangling link": ({b"a": {}}, {b"a": b"x"}, b"a"),
    "dangling link, directory": ({b"a": b"x"}, {b"a": {}}, b"a"),
    "link to a directory, file": ({b"a": b"d", b"d": {}}, {b"a": HELLO}, b"a"),
    "file, link to a directory": ({b"a": HELLO}, {b"a": b"d", b"d": {}}, b"a"),
    "link to a file, directory": ({b"a": b"d", b"d": HELLO}, {b"a": {}}, b"a"),
}


@pytest.mark.parametrize("lay", [joined, copied])
@pytest.mark.parametrize("conflict", CONFLICTS)
def test_a_conflict_names_both_contents(
    make: Make, lay: Callable[..., Shown], conflict: str
) -> None:
    """A silent choice would only be found in production; the person must know what to remove."""
    one, other, path = CONFLICTS[conflict]
    first, second = make(b"one", one), make(b"other", other)
    with pytest.raises(ContentConflict) as caught:
        lay(first, second)
    assert (caught.value.where, caught.value.first, caught.value.second) == (
        f"/{path.decode()}",
        first,
        second,
    )
    assert str(caught.value).startswith(
        f"/{path.decode()}: {first.decode()} and {second.decode()} differ here"
    )


@pytest.mark.parametrize("lay", [joined, copied])
@pytest.mark.parametrize("conflict", CONFLICTS)
def test_first_wins_if_asked(make: Make, lay: Callable[..., Shown], conflict: str) -> None:
    """Packages that are known to overlap can be joined all the same."""
    one, other, path = CONFLICTS[conflict]
    first, second = make(b"one", one), make(b"other", other | {b"more": HELLO})
    alone, both = lay(first), lay(first, second, conflicts="first")
    assert {name: both[name] for name in alone} == alone
    assert path in alone
    assert b"more" in both


@pytest.mark.parametrize("lay", [joined, copied])
@pytest.mark.parametrize("conflict", CONFLICTS)
def test_last_wins_if_asked(make: Make, lay: Callable[..., Shown], conflict: str) -> None:
    """Without it a package could not replace a file of the one before, as with dockerTools."""
    one, other, path = CONFLICTS[conflict]
    first, second = make(b"one", one | {b"more": HELLO}), make(b"other", other)
    alone, both = lay(second), lay(first, second, conflicts="last")
    assert {name: both[name] for name in alone} == alone
    assert path in alone
    assert b"more" in both
    below = {name for name in both if name.startswith(path + b"/")}
    assert below == {name for name in alone if name.startswith(path + b"/")}


def test_the_last_content_wins_whatever_its_kind(make: Make) -> None:
    """Without it a copy would not replace a link, nor a content a file of fakeNss."""
    etc = make(b"etc", {b"etc": {b"passwd": HELLO, b"group": b"../gone"}})
    nss = Builtin(name="fakeNss")
    tree = make_tree(Recipe(contents=(nss, etc), conflicts="last"))
    assert shown(tree)[b"etc/passwd"] == f"-> {os.fsdecode(etc)}/etc/passwd"
    tree = make_tree(Recipe(contents=(etc, nss), conflicts="last"))
    assert shown(tree)[b"etc/passwd"] == shown(tree)[b"etc/group"] == "-0644"
    tree = make_tree(Recipe(contents=(etc,), copy_to_root=(etc,), conflicts="last"))
    assert shown(tree)[b"etc/passwd"] == f"-0644 {os.fsdecode(etc)}/etc/passwd"
    over = make(b"over", {b"etc": HELLO})
    tree = make_tree(Recipe(copy_to_root=(over, nss), conflicts="last"))
    assert shown(tree)[b"etc/passwd"] == "-0644"
    assert shown(tree)[b"etc"] == "d0755"


def test_nothing_of_a_replaced_directory_comes_back(make: Make) -> None:
    """Without it links that were equal in a directory long gone would be merged into a new one."""
    for name in (b"x", b"y"):
        make(name, {name: HELLO})
    store = os.path.dirname(make(b"z", {}))
    one = make(b"one", {b"d": {b"e": b"../../x"}})
    two = make(b"two", {b"d": {b"e": b"../../x"}})
    file = make(b"three", {b"d": HELLO})
    four = make(b"four", {b"d": {b"e": store + b"/y"}})
    five = make(b"five", {b"d": {b"e": {b"own": HELLO}}})
    found = joined(one, two, file, four, five, conflicts="last")
    assert {path for path in found if path.startswith(b"d/e/")} == {b"d/e/y", b"d/e/own"}


def modes_and_bytes(out: bytes) -> dict[bytes, object]:
    """Return the kind, mode and content of every path below a directory."""
    found: dict[bytes, object] = {}
    for above, directories, files in os.walk(out):
        for name in directories + files:
            path = above + b"/" + name
            facts = os.lstat(path)
            content: bytes = b""
            if stat.S_ISLNK(facts.st_mode):
                content = os.readlink(path)
            elif stat.S_ISREG(facts.st_mode):
                with open(path, "rb") as file:
                    content = file.read()
            mode = facts.st_mode | (stat.S_IWUSR if stat.S_ISDIR(facts.st_mode) else 0)
            found[os.path.relpath(path, out)] = (oct(mode), content)
    return found


@pytest.mark.slow
@pytest.mark.skipif(not shutil.which("rsync"), reason="needs rsync")
@given(contents=CONTENTS, keep_dirlinks=st.booleans())
def test_the_last_copy_is_that_of_rsync(
    store_dir: bytes,
    contents: list[Directory],
    keep_dirlinks: bool,  # noqa: FBT001 — hypothesis names what it gives
) -> None:
    """Without it an image of several contents would differ from dockerTools' buildImage."""
    paths = built(store_dir, contents)
    try:
        recipe = Recipe(copy_to_root=(*paths,), conflicts="last", keep_dirlinks=keep_dirlinks)
        tree = make_tree(recipe)
    except SourceError:
        reject()  # a cycle, in which rsync would not end
    out = tempfile.mkdtemp(dir=store_dir)
    for path in paths:
        # -I: every file is copied, even if size and time are those of the one that is there.
        command = ["rsync", "-aIK" if keep_dirlinks else "-aIk", path + b"/", out]
        if subprocess.run(command, capture_output=True, check=False, timeout=10).returncode:
            reject()  # a file after a directory
    found: dict[bytes, object] = {}
    for path, node in tree.entries():
        if path:
            kind = {DIRECTORY: stat.S_IFDIR, FILE: stat.S_IFREG, LINK: stat.S_IFLNK}[node.typeflag]
            content = node.link
            if node.typeflag == FILE:
                with open(node.source, "rb") as file:
                    content = file.read()
            found[path] = (oct(kind | node.mode), content)
    assert found == modes_and_bytes(out)


AGREEMENTS: dict[str, tuple[dict[bytes, object], dict[bytes, object]]] = {
    "bytes": ({b"f": HELLO}, {b"f": HELLO}),
    "nothing": ({b"f": File(0o644, 0, 1)}, {b"f": File(0o644, 0, 2)}),
    "more than a chunk": ({b"f": File(0o644, 5 << 19, 1)}, {b"f": File(0o644, 5 << 19, 1)}),
    "link text": ({b"f": b"x"}, {b"f": b"x"}),
    "a link to the same bytes": ({b"f": b"x", b"x": HELLO}, {b"f": HELLO}),
    "the same bytes behind a link": ({b"f": HELLO}, {b"f": b"x", b"x": HELLO}),
}


@pytest.mark.parametrize("lay", [joined, copied])
@pytest.mark.parametrize("agreement", AGREEMENTS)
def test_equal_files_agree(make: Make, lay: Callable[..., Shown], agreement: str) -> None:
    """The same licence file in two packages is not a reason to refuse an image."""
    one, other = AGREEMENTS[agreement]
    first = make(b"one", one)
    assert lay(first, make(b"other", other))[b"f"] == lay(first)[b"f"]


def test_the_last_byte_of_a_large_file_counts(make: Make) -> None:
    """Files are compared to their end."""
    size = joining.CHUNK + 1
    paths = [make(name, {b"f": File(0o644, size, 1)}) for name in (b"one", b"other")]
    with open(paths[1] + b"/f", "r+b") as file:
        file.seek(-1, os.SEEK_END)
        last = file.read(1)
        file.seek(-1, os.SEEK_END)
        file.write(bytes([last[0] ^ 1]))
    with pytest.raises(ContentConflict):
        joined(*paths)


def test_joined_and_copied_meet_like_others(make: Make) -> None:
    """A file copied over a link to another file would replace it."""
    first, equal = make(b"one", {b"f": HELLO}), make(b"equal", {b"f": HELLO})
    other = make(b"other", {b"f": OTHER})
    tree = make_tree(Recipe(contents=(first,), copy_to_root=(equal,)))
    assert shown(tree) == joined(first)
    with pytest.raises(ContentConflict, match=r"one and .*other differ here"):
        make_tree(Recipe(contents=(first,), copy_to_root=(other,)))


@pytest.mark.parametrize("order", [(0, 1), (1, 0)])
@pytest.mark.parametrize("absolute", [True, False])
def test_a_link_to_a_directory_is_merged_with_a_directory(
    make: Make, order: tuple[int, int], *, absolute: bool
) -> None:
    """`bin` or `lib64` is a link in one package and a directory in another."""
    target = make(b"target", {b"bin": {b"x": HELLO}})
    inside: dict[bytes, object] = {b"usr": {b"bin": {b"x": HELLO}}}
    linked = make(
        b"linked",
        {b"bin": target + b"/bin"} if absolute else {b"bin": b"usr/bin", **inside},
    )
    plain = make(b"plain", {b"bin": {b"y": HELLO}})
    found = joined(*[(linked, plain)[index] for index in order])
    assert found[b"bin"] == "d0755"
    assert found[b"bin/x"] == f"-> {linked.decode()}/bin/x"
    assert found[b"bin/y"] == f"-> {plain.decode()}/bin/y"


def test_two_links_to_directories_are_merged(make: Make) -> None:
    """Neither of two packages may lose its programs because both keep them elsewhere."""
    one = make(b"one", {b"bin": b"x", b"x": {b"one": HELLO}})
    other = make(b"other", {b"bin": b"y", b"y": {b"other": HELLO}})
    assert {path for path in joined(one, other) if path.startswith(b"bin")} == {
        b"bin", b"bin/one", b"bin/other",
    }  # fmt: skip


def test_equal_links_stay_until_a_directory_comes(make: Make) -> None:
    """Every entry visible through a link is still there when the link becomes a directory."""
    one = make(b"one", {b"lib64": b"lib", b"lib": {b"1": HELLO}})
    other = make(b"other", {b"lib64": b"lib", b"lib": {b"2": HELLO}})
    third = make(b"third", {b"lib64": {b"3": HELLO}})
    assert joined(one, other)[b"lib64"] == "-> lib"
    assert {b"lib64/1", b"lib64/2", b"lib64/3"} < joined(one, other, third).keys()


def test_relative_links_lead_to_the_same_from_a_merged_link(make: Make) -> None:
    """The target of a relative link is wrong in another directory."""
    one = make(
        b"one", {b"bin": b"usr/bin", b"usr": {b"bin": {b"x": b"../lib/x"}, b"lib": {b"x": HELLO}}}
    )
    other = make(b"other", {b"bin": {b"y": HELLO}})
    found = joined(one, other)
    assert found[b"usr/bin/x"] == "-> ../lib/x"
    assert found[b"bin/x"] == f"-> {one.decode()}/bin/x"


@pytest.mark.parametrize("lay", [joined, copied])
def test_links_out_of_the_store_are_the_images(make: Make, lay: Callable[..., Shown]) -> None:
    """`/run` of the machine that makes the image must not be in it."""
    assert os.path.isdir("/usr/bin")
    one = make(b"one", {b"run": b"/usr/bin", b"up": b"..", b"etc": b"/usr/../etc"})
    assert lay(one) == {b"run": "-> /usr/bin", b"up": "-> ..", b"etc": "-> /usr/../etc"}
    other = make(b"other", {b"run": {b"x": HELLO}})
    with pytest.raises(ContentConflict):
        lay(one, other)


def test_a_link_to_a_file_of_this_machine_agrees_with_none(make: Make) -> None:
    """The result must not depend on this machine's /etc."""
    one = make(b"one", {b"f": os.fsencode(__file__)})
    shutil.copy2(os.fsencode(__file__), make(b"other", {}) + b"/f")
    with pytest.raises(ContentConflict):
        joined(one, os.path.dirname(one) + b"/other")


@pytest.mark.parametrize("target", [b".", b"..", b"../../c/a", b"../e"])
def test_a_loop_is_refused(make: Make, target: bytes) -> None:
    """An endless copy fills memory."""
    content = make(b"c", {b"a": {b"b": target}, b"e": {b"f": b"../a"}})
    if target == b"..":
        os.unlink(content + b"/e/f")
    with pytest.raises(SourceError, match=r"symlink cycle: .*; remove the link, or keep links"):
        copied(content)


@pytest.mark.parametrize("order", [b"xyz", b"zxy", b"xzy"])
def test_a_directory_that_two_links_lead_to_agrees_with_itself(make: Make, order: bytes) -> None:
    """Its links would conflict with themselves, or become directories, due to another content."""
    make(b"shared", {b"gone": b"nowhere", b"again": b"sub", b"sub": {b"file": HELLO}})
    link = {b"l": b"../shared"}
    made = {b"x": make(b"x", link), b"y": make(b"y", link), b"z": make(b"z", {b"l": {b"z": HELLO}})}
    contents = [made[bytes([name])] for name in order]
    first = next(path for path in contents if path != made[b"z"])
    assert joined(*contents) == joined(first, made[b"z"])


@pytest.mark.slow
def test_links_that_double_at_each_step_are_refused(
    make: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Thirty directories with two links each make a thousand million files, without any cycle."""
    monkeypatch.setattr(joining, "MAX_AGAIN", 5000)
    levels: dict[bytes, object] = {
        b"%d" % level: {b"x": b"../%d" % (level + 1), b"y": b"../%d" % (level + 1)}
        for level in range(14)
    }
    content = make(b"c", levels | {b"14": {}})
    with pytest.raises(SourceError, match="reach more than 5000 files repeatedly"):
        copied(content)


def test_a_chain_of_links_without_end_is_only_a_link(make: Make) -> None:
    """Links that no system follows are neither a directory nor a deep recursion."""
    chain: dict[bytes, object] = {b"%d" % number: b"%d" % (number + 1) for number in range(1100)}
    one = make(b"one", chain | {b"1100": {}})
    for other in make(b"directory", {b"0": {}}), make(b"file", {b"0": HELLO}):
        with pytest.raises(ContentConflict):
            joined(one, other)


@pytest.mark.slow
def test_deep_directories(make: Make) -> None:
    """Python's recursion limit does not apply to the depth of contents."""
    content = path = make(b"c", {})
    for _ in range(1100):
        path += b"/d"
        os.mkdir(path)
    assert len(joined(content)) == len(copied(content)) == 1100


@pytest.mark.parametrize("lay", [joined, copied])
def test_sockets_and_fifos_are_refused(make: Make, lay: Callable[..., Shown]) -> None:
    """Nothing answers at a socket in an image."""
    content = make(b"c", {b"run": {}})
    os.mkfifo(content + b"/run/fifo")
    with pytest.raises(SourceError, match="run/fifo: contents can only hold files"):
        lay(content)


@pytest.mark.parametrize("lay", [joined, copied])
def test_a_content_is_a_directory_or_a_link_to_one(make: Make, lay: Callable[..., Shown]) -> None:
    """A file has no path in the image, so the message says what to do."""
    content = make(b"c", {b"f": HELLO})
    with pytest.raises(
        SourceError, match="/c/f: is not a directory; `contents` and `copyToRoot` take directories"
    ):
        lay(content + b"/f")
    with pytest.raises(SourceError, match="/c/g: no such file"):
        lay(content + b"/g")
    os.symlink(content, content + b"-link")
    assert lay(content + b"-link").keys() == {b"f"}


@pytest.mark.parametrize("lay", [joined, copied])
def test_any_name_is_taken(make: Make, lay: Callable[..., Shown]) -> None:
    """Names are bytes, not text."""
    content = make(b"c", {b"\xff \n": HELLO, b"-": b"\xfe"})
    assert lay(content).keys() == {b"\xff \n", b"-"}


def test_a_directory_that_may_not_be_read(make: Make, without_privilege: list[str]) -> None:
    """A partially read content must be an error."""
    content = make(b"c", {b"secret": {b"f": HELLO}})
    os.chmod(content + b"/secret", 0)
    code = (
        "import os, sys; from stream.sources.customisation.join import make_tree; "
        "from stream.model import Recipe; "
        "make_tree(Recipe(contents=(os.fsencode(sys.argv[1]),), conflicts='first'))"
    )
    done = subprocess.run(
        [*without_privilege, sys.executable, "-c", code, content],
        check=False, capture_output=True, text=True,
    )  # fmt: skip
    assert done.stderr.endswith(
        f"SourceError: {content.decode()}/secret: cannot be read: Permission denied\n"
    )


def test_kept_links_stay_and_are_merged_into(make: Make) -> None:
    """A distribution's root has `/bin` as a link, and later contents must not replace it."""
    base = make(
        b"base", {b"bin": b"usr/bin", b"lib": b"./usr/../usr/lib", b"usr": {b"bin": {b"x": HELLO}, b"lib": {}}}
    )  # fmt: skip
    more = make(b"more", {b"bin": {b"y": HELLO}, b"lib": {b"sub": {b"z": OTHER}}})
    found = copied(base, more, keep_dirlinks=True)
    assert found[b"bin"] == "-> usr/bin"
    assert found[b"usr/bin/y"] == f"-0644 {more.decode()}/bin/y"
    assert found[b"usr/lib/sub/z"] == f"-0644 {more.decode()}/lib/sub/z"
    assert b"bin/y" not in found


@pytest.mark.parametrize(
    "target", [b"/usr/bin", b"../../usr/bin", b"hop", b"/hop", b"usr/bin/../../hop/../bin"]
)
def test_kept_links_are_resolved_in_the_image(make: Make, target: bytes) -> None:
    """An absolute link in a root refers to that root."""
    base = make(b"base", {b"bin": target, b"hop": b"./usr//bin/", b"usr": {b"bin": {}}})
    more = make(b"more", {b"bin": {b"y": HELLO}})
    assert b"usr/bin/y" in copied(base, more, keep_dirlinks=True)


@pytest.mark.parametrize("target", [b"bin", b"/bin", b"hop", b"nowhere", b"usr/file/x"])
def test_kept_links_that_lead_nowhere_are_in_conflict(make: Make, target: bytes) -> None:
    """A directory cannot be merged into a dangling link."""
    base = make(b"base", {b"bin": target, b"hop": b"bin", b"usr": {b"file": HELLO}})
    more = make(b"more", {b"bin": {b"y": HELLO}})
    with pytest.raises(ContentConflict):
        copied(base, more, keep_dirlinks=True)


def test_different_kept_links_are_in_conflict(make: Make) -> None:
    """One version's files must not go into the other's directory."""
    one = make(b"one", {b"now": b"1", b"1": {b"f": HELLO}})
    other = make(b"other", {b"now": b"2", b"2": {b"f": OTHER}})
    with pytest.raises(ContentConflict, match=r"^/now: "):
        copied(one, other, keep_dirlinks=True)


def test_kept_links_deep_in_the_tree(make: Make) -> None:
    """A link is resolved relative to its directory, or to the root."""
    base = make(
        b"base",
        {b"a": {b"b": {b"up": b"../c", b"root": b"/usr"}, b"c": {}}, b"usr": {}, b"c": {}},
    )
    more = make(b"more", {b"a": {b"b": {b"up": {b"1": HELLO}, b"root": {b"2": HELLO}}}})
    assert {b"a/c/1", b"usr/2"} < copied(base, more, keep_dirlinks=True).keys()


def test_only_copies_keep_links(make: Make) -> None:
    """Joined contents do not depend on the option for copies."""
    one = make(b"one", {b"bin": b"usr", b"usr": {b"x": HELLO}})
    other = make(b"other", {b"bin": {b"y": HELLO}})
    recipe = Recipe(contents=(one, other), keep_dirlinks=True)
    assert shown(make_tree(recipe)) == joined(one, other)


def test_the_last_copy_of_a_directory_gives_its_mode(make: Make) -> None:
    """A content with mode 1777 for `/tmp` comes after packages with any other mode."""
    one, other = make(b"one", {b"tmp": {b"1": HELLO}}), make(b"other", {b"tmp": {b"2": HELLO}})
    os.chmod(other + b"/tmp", 0o1777)
    assert copied(one, other)[b"tmp"] == "d1777"
    tree = make_tree(Recipe(contents=(one,), copy_to_root=(other,)))
    assert shown(tree)[b"tmp"] == "d1777"


@pytest.mark.parametrize("lay", [joined, copied])
def test_the_first_conflict_is_reported(make: Make, lay: Callable[..., Shown]) -> None:
    """Any machine reports the same conflict first, whatever the order of its directories."""
    names = [b"%d" % number for number in range(20)]
    one = make(b"one", {name: {b"f": HELLO} for name in names})
    other = make(b"other", {name: {b"f": OTHER} for name in reversed(names)})
    with pytest.raises(ContentConflict, match=r"^/0/f: "):
        lay(one, other)


def test_a_recipe_in_its_order(make: Make) -> None:
    """Paths and built-in contents are one list, and the first one in it wins."""
    mine = make(b"mine", {b"etc": {b"passwd": HELLO}})
    nss = Builtin(name="fakeNss")
    recipe = Recipe(contents=(nss, mine), conflicts="first")
    node = make_tree(recipe).find(b"etc/passwd")
    assert node is not None
    assert node.origin == b"fakeNss"
    node = make_tree(Recipe(contents=(mine, nss), conflicts="first")).find(b"etc/passwd")
    assert node is not None
    assert node.origin == mine


@pytest.mark.parametrize("field", ["contents", "copy_to_root"])
def test_built_in_contents_conflict_like_others(make: Make, field: str) -> None:
    """A passwd of one's own and fakeNss: one of them has to go."""
    mine = make(b"mine", {b"etc": {b"passwd": HELLO}})
    with pytest.raises(ContentConflict, match=r"^/etc/passwd: .*mine and fakeNss differ here"):
        make_tree(Recipe(**{field: (mine, Builtin(name="fakeNss"))}))  # type: ignore[arg-type]


def test_built_in_contents_follow_links(make: Make) -> None:
    """/bin/sh works with a `/bin` that is a link, joined or kept."""
    sh = Builtin(name="binSh", path=make(b"bash", {b"bin": {b"bash": HELLO}}))
    package = make(b"package", {b"bin": b"usr/bin", b"usr": {b"bin": {b"x": HELLO}}})
    joined_tree = shown(make_tree(Recipe(contents=(package, sh))))
    assert joined_tree[b"bin/x"] == f"-> {package.decode()}/bin/x"
    assert joined_tree[b"bin/sh"] == f"-> {sh.path.decode()}/bin/bash"
    kept = shown(make_tree(Recipe(copy_to_root=(package, sh), keep_dirlinks=True)))
    assert kept[b"bin"] == "-> usr/bin"
    assert kept[b"usr/bin/sh"] == f"-> {sh.path.decode()}/bin/bash"


def test_directories_of_built_in_contents_are_merged(make: Make) -> None:
    """A content with its own /var/empty is not a conflict."""
    mine = make(b"mine", {b"var": {b"empty": {}}})
    linked = make(b"linked", {b"var": {b"empty": b"../none"}, b"none": {}})
    for content in mine, linked:
        tree = make_tree(Recipe(contents=(content, Builtin(name="fakeNss"))))
        assert shown(tree)[b"var/empty"] == "d0755"


def test_the_same_program_agrees_with_built_in_contents(make: Make) -> None:
    """Bash among the contents has its own /bin/sh."""
    bash = make(b"bash", {b"bin": {b"bash": HELLO, b"sh": b"bash"}})
    tree = make_tree(Recipe(contents=(bash, Builtin(name="binSh", path=bash))))
    assert shown(tree) == joined(bash)


def test_shadow_setup_adds_missing_files(make: Make) -> None:
    """It comes last wherever it is listed, and overwrites neither contents nor base image."""
    mine = make(b"mine", {b"etc": {b"group": HELLO}})
    shadow, nss = Builtin(name="shadowSetup"), Builtin(name="fakeNss")
    recipe = Recipe(contents=(shadow, mine, nss), conflicts="first")
    tree = make_tree(recipe, present={b"etc/login.defs"})
    origins = {path: node.origin for path, node in tree.entries() if node.typeflag != DIRECTORY}
    assert origins == {
        b"etc/group": mine,
        b"etc/passwd": b"fakeNss",
        b"etc/nsswitch.conf": b"fakeNss",
        b"etc/shadow": b"shadowSetup",
        b"etc/gshadow": b"shadowSetup",
        b"etc/pam.d/other": b"shadowSetup",
    }


def test_shadow_setup_is_in_conflict_with_nothing(make: Make) -> None:
    """It only fills gaps, whatever the contents are."""
    mine = make(b"mine", {b"etc": {b"group": HELLO, b"shadow": b"nowhere"}})
    tree = make_tree(Recipe(contents=(mine, Builtin(name="shadowSetup"))))
    assert shown(tree)[b"etc/shadow"] == "-> nowhere"
    assert shown(tree)[b"etc/passwd"] == "-0644"


# ---- copies


def reported(*contents: bytes, keep_dirlinks: bool = False) -> list[str]:
    """Return the warnings while contents are copied."""
    warnings: list[str] = []
    make_tree(
        Recipe(copy_to_root=contents, keep_dirlinks=keep_dirlinks, conflicts="first"),
        warn=warnings.append,
    )
    return warnings


def test_a_directory_that_a_link_copies_again_is_reported(make: Make) -> None:
    """`lib64 -> lib` doubles a package without a word; the option that helps is not known."""
    lib = {b"big": File(0o644, 3_000_000, 1), b"deep": {b"more": File(0o644, 1_000_000, 1)}}
    content = make(b"package", {b"lib": lib, b"lib64": b"lib", b"bin": {b"x": HELLO}})
    (warning,) = reported(content)
    assert warning == (
        f"{os.fsdecode(content)}/lib64: a link to a directory that is copied elsewhere as well,"
        " which adds 4 MB; set keepContentsDirlinks to keep links to directories"
    )
    assert reported(content, keep_dirlinks=True) == []


def test_a_directory_outside_that_two_links_copy(make: Make) -> None:
    """It is in no content itself, and is copied twice all the same."""
    make(b"other", {b"big": File(0o644, 2_000_000, 1)})
    once = make(b"once", {b"a": b"../other"})
    assert reported(once) == []
    twice = make(b"twice", {b"a": b"../other", b"b": b"../other"})
    (warning,) = reported(twice)
    assert "which adds 2 MB; " in warning
    assert reported(once, once) == []


def test_an_absolute_link_would_not_be_helped_by_keeping_it(make: Make, store_dir: bytes) -> None:
    """Kept, it leads to the store path, which is then in the image beside the copy."""
    lib = {b"big": File(0o644, 2_000_000, 1)}
    content = make(b"package", {b"lib": lib, b"lib64": store_dir + b"/package/lib"})
    (warning,) = reported(content)
    assert "; make it relative and set keepContentsDirlinks to keep " in warning


def test_what_costs_nothing_is_not_reported(make: Make) -> None:
    """Linked contents take no bytes, and a few small files are not worth a line."""
    lib = {b"big": File(0o644, 3_000_000, 1)}
    content = make(b"package", {b"lib": lib, b"lib64": b"lib"})
    warnings: list[str] = []
    make_tree(Recipe(contents=(content,)), warn=warnings.append)
    assert warnings == []
    assert reported(make(b"small", {b"lib": {b"x": HELLO}, b"lib64": b"lib"})) == []

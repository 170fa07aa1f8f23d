"""Trees above a base image, compared with a base on disk in which the kernel resolves paths."""

import ctypes
import errno
import os
import shutil
from collections.abc import Mapping
from pathlib import Path

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from stream.errors import RecipeError
from stream.sources.base.tree import BaseEntry
from stream.sources.customisation.redirect import destination, inherit, redirect
from stream.sources.customisation.tree import Node, Tree, directory, file, link
from stream.typeflags import DIRECTORY, LINK

# The entry at a path: None for a directory, str for a link's target, bytes for a file's content.
Files = Mapping[str, bytes | str | None]

USR_MERGED: Files = {
    "bin": "usr/bin",
    "lib": "/usr/lib",
    "lib64": "/usr/lib64",
    "usr": None,
    "usr/bin": None,
    "usr/bin/sh": b"sh",
    "usr/bin/X11": ".",
    "usr/lib": None,
    "usr/lib64": "lib",
    "var": None,
    "var/run": "../../../run",
    "run": None,
    "gone": "nowhere",
    "tool": "usr/bin/sh",
}


def base_of(files: Files) -> dict[bytes, BaseEntry]:
    """Return the base as `redirect` takes it."""
    found = {b"": BaseEntry(DIRECTORY)}
    for path, what in files.items():
        if what is None:
            found[path.encode()] = BaseEntry(DIRECTORY)
        elif isinstance(what, str):
            found[path.encode()] = BaseEntry(LINK, link=what.encode())
    return found


def tree_of(files: Files) -> Tree:
    """Return a tree of ours; every directory has an entry, or is made."""
    tree = Tree()
    for path, what in files.items():
        node = directory() if what is None else file(b"")
        if isinstance(what, str):
            node = link(what.encode(), origin=b"content")
        elif what is not None:
            node = file(what, origin=b"content")
        tree.put(path.encode(), node)
    return tree


def shown(tree: Tree) -> dict[str, bytes | str | None]:
    """Return the entries of a tree."""
    return {path.decode(): what_is(node) for path, node in tree.entries() if path}


def what_is(node: Node) -> bytes | str | None:
    """Return a node as in Files."""
    if node.typeflag == LINK:
        return node.link.decode()
    return None if node.is_directory else node.data


def redirected(files: Files, base: Files = USR_MERGED) -> dict[str, bytes | str | None]:
    """Return the tree after `redirect`."""
    tree = tree_of(files)
    redirect(tree, base_of(base))
    return shown(tree)


@pytest.mark.parametrize(
    ("files", "expected"),
    [
        ({"bin/x": b"1"}, {"usr": None, "usr/bin": None, "usr/bin/x": b"1"}),
        ({"lib/x": b"1"}, {"usr": None, "usr/lib": None, "usr/lib/x": b"1"}),
        ({"lib64/x": b"1"}, {"usr": None, "usr/lib": None, "usr/lib/x": b"1"}),
        ({"usr/lib64/x": b"1"}, {"usr": None, "usr/lib": None, "usr/lib/x": b"1"}),
        ({"bin/X11/X11/x": b"1"}, {"usr": None, "usr/bin": None, "usr/bin/x": b"1"}),
        ({"var/run/a/x": b"1"}, {"var": None, "run": None, "run/a": None, "run/a/x": b"1"}),
        ({"bin": None}, {"usr": None, "usr/bin": None}),
        (
            {"bin/d/x": b"1", "usr/bin/d/y": b"2", "usr/bin/z": b"3"},
            {
                "usr": None,
                "usr/bin": None,
                "usr/bin/d": None,
                "usr/bin/d/x": b"1",
                "usr/bin/d/y": b"2",
                "usr/bin/z": b"3",
            },
        ),
        ({"bin/x": b"1", "usr/bin/x": b"1"}, {"usr": None, "usr/bin": None, "usr/bin/x": b"1"}),
        ({"bin/x": "/s", "usr/bin/x": "/s"}, {"usr": None, "usr/bin": None, "usr/bin/x": "/s"}),
    ],
)
def test_goes_where_links_lead(files: Files, expected: Files) -> None:
    """A directory in place of a link hides all programs of the base."""
    assert redirected(files) == expected


@pytest.mark.parametrize(
    "files",
    [
        {"bin": b"1"},
        {"bin": "opt/bin"},
        {"gone": None, "gone/x": b"1"},
        {"tool": None, "tool/x": b"1"},
        {"opt": None, "opt/bin": None, "opt/bin/x": b"1"},
        {"usr": "opt", "bin": None, "bin/x": b"1"},
        {"usr": b"1", "bin": None, "bin/x": b"1"},
    ],
)
def test_stays(files: Files) -> None:
    """Entries that replace the base's link, or do not meet one, must not be moved."""
    assert redirected(files) == files


def test_through_our_own_links() -> None:
    """Links of ours are followed as well, since the base's links lead through them."""
    files: Files = {"usr": "opt", "opt": None, "opt/bin": None, "bin": None, "bin/x": b"1"}
    assert redirected(files) == {"usr": "opt", "opt": None, "opt/bin": None, "opt/bin/x": b"1"}


def test_to_a_directory_made_later() -> None:
    """A link can lead to a directory that only exists after ours has been moved."""
    base = {"a": "bin/sub", "bin": "usr/bin", "usr": None, "usr/bin": None}
    files: Files = {"a/x": b"1", "bin/sub/y": b"2"}
    assert redirected(files, base) == {
        "usr": None,
        "usr/bin": None,
        "usr/bin/sub": None,
        "usr/bin/sub/x": b"1",
        "usr/bin/sub/y": b"2",
    }


def test_to_the_root() -> None:
    """A link to the root is a link to a directory."""
    assert redirected({"host/x": b"1"}, {"host": "/"}) == {"x": b"1"}
    assert redirected({"host/x": b"1"}, {"host": "../.."}) == {"x": b"1"}


def test_links_lead_where_they_did() -> None:
    """A relative link that is moved would lead to another path, or nowhere."""
    found = redirected(
        {
            "bin/out": "../share/x",
            "bin/beside": "tool",
            "bin/d/up": "../tool",
            "bin/d/out": "../../share/x",
            "bin/d/around": "../../bin/tool",
            "bin/X11/up": "../tool",
            "bin/absolute": "/share/../x",
        }
    )
    assert found == {
        "usr": None,
        "usr/bin": None,
        "usr/bin/out": "/share/x",
        "usr/bin/beside": "tool",
        "usr/bin/d": None,
        "usr/bin/d/up": "../tool",
        "usr/bin/d/out": "/share/x",
        "usr/bin/d/around": "/bin/tool",
        "usr/bin/up": "/usr/bin/tool",
        "usr/bin/absolute": "/share/../x",
    }


def test_two_at_one_place() -> None:
    """One of two files would be lost silently."""
    files: Files = {"bin/x": b"1", "usr/bin/x": b"2"}
    with pytest.raises(RecipeError) as caught:
        redirected(files)
    assert str(caught.value) == (
        "/usr/bin/x: two entries end up here through symlinks in the base image, /usr/bin/x (from content) and"
        " /bin/x (from content); leave one out"
    )
    tree = tree_of(files)
    redirect(tree, base_of(USR_MERGED), first_wins=True)
    assert shown(tree)["usr/bin/x"] == b"2"


@pytest.mark.parametrize(
    ("files", "place"),
    [
        ({"bin/x": None, "usr/bin/x": b"2"}, "/usr/bin/x"),
        ({"bin/x": b"1", "usr/bin/x": None}, "/usr/bin/x"),
    ],
)
def test_a_file_and_a_directory_at_one_place(files: Files, place: str) -> None:
    """Neither can replace the other."""
    with pytest.raises(RecipeError, match="two entries end up here") as caught:
        redirected(files)
    assert caught.value.where == place


@pytest.mark.parametrize(
    ("base", "said"),
    [
        ({"a": "b", "b": "a"}, "/a: is in a cycle of links in the base image: /a -> /b -> /a"),
        ({"a": "a"}, "/a: is in a cycle of links in the base image: /a -> /a"),
        ({"a": "a/b"}, "/a: is in a cycle of links in the base image: /a -> /a"),
        (
            {"a": "n0", **{f"n{n}": f"n{n + 1}" for n in range(50)}, "n50": None},
            "/a: is in a chain of too many links in the base image: /n36 -> /n37 -> /n38 -> /n39",
        ),
        (
            {
                "a": "/".join(f"n{n}" for n in range(600)),
                **{f"n{n}": "d/" * 800 + "../" * 800 for n in range(600)},
                **{"/".join("d" * n): None for n in range(1, 801)},
            },
            "the path through the base's links is too long",
        ),
    ],
)
def test_links_without_an_end(base: Files, said: str) -> None:
    """A hostile base must neither hang us nor move anything elsewhere."""
    assert redirected({"own": None, "own/x": b"1"}, base) == {"own": None, "own/x": b"1"}
    with pytest.raises(RecipeError) as caught:
        redirected({"a/x": b"1"}, base)
    assert str(caught.value).endswith(said)


# ---- the kernel as judge

RESOLVE_IN_ROOT = 0x10  # linux/openat2.h
OPENAT2 = 437


class How(ctypes.Structure):
    """`struct open_how`."""

    _fields_ = (("flags", ctypes.c_uint64), ("mode", ctypes.c_uint64), ("resolve", ctypes.c_uint64))


LIBC = ctypes.CDLL(None, use_errno=True)


def resolved(root: Path, path: str) -> str:
    """Return the directory that `path` is when `root` is the root. Raises OSError."""
    top = os.open(root, os.O_PATH)
    try:
        how = How(os.O_PATH | os.O_DIRECTORY, 0, RESOLVE_IN_ROOT)
        fd = LIBC.syscall(OPENAT2, top, path.encode(), ctypes.byref(how), ctypes.sizeof(how))
        if fd < 0:
            raise OSError(ctypes.get_errno(), path)
        found = os.readlink(f"/proc/self/fd/{fd}")
        os.close(fd)
        return os.path.relpath(found, root.resolve())
    finally:
        os.close(top)


def materialise(root: Path, files: Files) -> None:
    """Put files on disk, replacing everything there except directories."""
    for path, what in files.items():
        place = root / path
        if os.path.lexists(place) and (what is not None or place.is_symlink() or place.is_file()):
            shutil.rmtree(place) if place.is_dir() and not place.is_symlink() else place.unlink()
        if what is None:
            place.mkdir(exist_ok=True)
        elif isinstance(what, str):
            place.symlink_to(what)
        else:
            place.write_bytes(what)


def on_disk(root: Path) -> dict[str, bytes | str | None]:
    """Return the entries on disk."""
    found: dict[str, bytes | str | None] = {}
    for directory_path, directories, names in os.walk(root):
        for name in directories + names:
            place = Path(directory_path, name)
            what: bytes | str | None = None
            if place.is_symlink():
                what = str(place.readlink())
            elif place.is_file():
                what = place.read_bytes()
            found[str(place.relative_to(root))] = what
    return found


class ConflictError(Exception):
    """Two entries at one path."""


def expected(root: Path, base: Files, files: Files, *, backwards: bool) -> Files:
    """Return base and tree together: each entry goes where the kernel finds its directory."""
    shutil.rmtree(root, ignore_errors=True)
    root.mkdir()
    materialise(root, base)
    ours: dict[str, bytes | str | None] = {}
    places = {"": "."}

    def put(above: str) -> None:
        names = sorted(path for path in files if path and os.path.dirname(path) == above)
        for path in reversed(names) if backwards else names:
            at = os.path.normpath(f"{places[above]}/{os.path.basename(path)}")
            what = files[path]
            if what is None and (root / at).is_symlink() and at not in ours:
                try:
                    at = resolved(root, at)
                except OSError as error:
                    if error.errno == errno.ELOOP:
                        raise ConflictError from None
            if at in ours and (what is not None or ours[at] is not None) and ours[at] != what:
                raise ConflictError
            if at != ".":
                materialise(root, {at: what})
                ours[at] = what
            places[path] = at
            if what is None:
                put(path)

    put("")
    return on_disk(root)


PATHS = st.lists(st.sampled_from("abc"), min_size=1, max_size=3).map("/".join)
ODD_TARGETS = st.sampled_from(["/", "..", ".", "../..", "a/../b", "/../c/a", "nowhere", "/b/./a/"])


def whole(found: dict[str, bytes | str | None]) -> dict[str, bytes | str | None]:
    """Return the entries with all their parents; a parent is always a directory."""
    for path in sorted(found, key=len):
        above = os.path.dirname(path)
        while above:
            found[above] = None
            above = os.path.dirname(above)
    return {path: found[path] for path in sorted(found)}


@st.composite
def pairs(draw: st.DrawFn) -> tuple[Files, Files]:
    """Draw a base whose links mostly resolve, and a tree whose paths mostly meet them."""
    base: dict[str, bytes | str | None] = dict.fromkeys(
        draw(st.lists(PATHS, min_size=1, max_size=3))
    )
    for path in draw(st.lists(PATHS, min_size=1, max_size=4, unique=True)):
        target = draw(st.sampled_from(sorted(base)))
        relative = os.path.relpath(target, os.path.dirname(path) or ".")
        base[path] = draw(st.sampled_from([f"/{target}", relative]) | ODD_TARGETS)
    if draw(st.booleans()):
        base[draw(PATHS)] = b"base"
    base = whole(base)
    links = [path for path, what in base.items() if isinstance(what, str)] or ["c"]
    ours: dict[str, bytes | str | None] = {}
    for _ in range(draw(st.integers(1, 3))):
        path = draw(st.sampled_from(links) | st.sampled_from(sorted(base)) | PATHS)
        below = draw(st.sampled_from(["/x", "/b/x", "/a", ""]))
        ours[path + below] = draw(st.sampled_from([b"ours", b"ours", None, f"/{draw(PATHS)}"]))
    return base, whole(ours)


@given(pair=pairs())
def test_as_the_kernel_resolves(tmp_path: Path, pair: tuple[Files, Files]) -> None:
    """Our resolution of links must be the same as a container's."""
    base, files = pair
    try:
        resolved(tmp_path, ".")
    except OSError:
        pytest.skip("needs Linux 5.6")
    outcomes: list[Files | None] = []
    for backwards in (False, True):
        try:
            outcomes.append(expected(tmp_path / "root", base, files, backwards=backwards))
        except ConflictError:
            outcomes.append(None)
    # If entries collide, the right result depends on which comes first.
    assume(outcomes[0] == outcomes[1])
    if outcomes[0] is None:
        with pytest.raises(RecipeError):
            redirected(files, base)
        return
    moved = redirected(files, base)
    shutil.rmtree(tmp_path / "root")
    (tmp_path / "root").mkdir()
    materialise(tmp_path / "root", base)
    materialise(tmp_path / "root", moved)
    assert on_disk(tmp_path / "root") == outcomes[0]
    assert redirected(moved, base) == moved


# ---- directories of both


def test_directories_are_like_the_base() -> None:
    """A directory that holds a file of ours would make /tmp private, and /root public."""
    base = {
        b"": BaseEntry(DIRECTORY, 0o711),
        b"tmp": BaseEntry(DIRECTORY, 0o1777),
        b"root": BaseEntry(DIRECTORY, 0o700, 1, 2, xattrs={b"user.x": b"y"}),
        b"link": BaseEntry(LINK, link=b"root"),
        b"meant": BaseEntry(DIRECTORY, 0o700),
    }
    tree = tree_of({"tmp/x": b"", "root/x": b"", "link": b"", "own": None, "meant": None})
    meant = tree.find(b"meant")
    assert meant is not None
    meant.mode = 0o711
    known = inherit(tree, base)
    assert known == {b"", b"tmp", b"root", b"own", b"meant"}
    assert {path: (node.mode, node.uid, node.gid) for path, node in tree.entries()} == {
        b"": (0o711, 0, 0),
        b"link": (0o644, 0, 0),
        b"meant": (0o711, 0, 0),
        b"own": (0o755, 0, 0),
        b"root": (0o700, 1, 2),
        b"root/x": (0o644, 0, 0),
        b"tmp": (0o1777, 0, 0),
        b"tmp/x": (0o644, 0, 0),
    }
    root = tree.find(b"root")
    assert root is not None
    assert root.xattrs == {b"user.x": b"y"}


def test_changes_by_commands_are_kept() -> None:
    """`chmod 755 tmp` is deliberate; `mkdir -p root` does not choose a mode."""
    base = {b"tmp": BaseEntry(DIRECTORY, 0o1777), b"root": BaseEntry(DIRECTORY, 0o700)}
    tree = tree_of({"tmp": None})
    known = inherit(tree, base)
    tmp = tree.find(b"tmp")
    assert tmp is not None
    tmp.mode = 0o755
    tree.put(b"root/x", file(b""))
    inherit(tree, base, known)
    assert [node.mode for _, node in tree.entries() if node.is_directory] == [0o755, 0o700, 0o755]


def test_the_target_is_like_the_base() -> None:
    """Entries moved into the target must not change the target."""
    base = {**base_of(USR_MERGED), b"usr/bin": BaseEntry(DIRECTORY, 0o711, 3, 4)}
    tree = tree_of({"bin/x": b""})
    redirect(tree, base)
    target = tree.find(b"usr/bin")
    assert target is not None
    assert (target.mode, target.uid, target.gid) == (0o711, 3, 4)


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        (b"/bin/x", b"usr/bin/x"),
        (b"/bin", b"usr/bin"),
        (b"/gone/x", b"gone/x"),
        (b"/var/run/a/b", b"run/a/b"),
        (b"/", b""),
        (b"/ours/lib64/x", b"ours/lib64/x"),
    ],
)
def test_destination(path: bytes, expected: bytes) -> None:
    """A rule for /bin/x must apply to the file that has moved to /usr/bin."""
    base = base_of({**USR_MERGED, "ours": None, "ours/lib64": "/usr/lib64"})
    assert destination(tree_of({"ours": "elsewhere"}), base, path) == expected

"""Files of this machine in a tree: only what every checkout has counts, and no link is followed."""

import os
import socket
import subprocess
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from stream.errors import ContentConflict, RecipeError, SourceError
from stream.model import Conflicts, PlacedFile, Recipe
from stream.nix.store_root import Disk
from stream.sources.customisation.join import make_tree
from stream.sources.customisation.made import made_layer
from stream.sources.customisation.tree import Node, Tree
from stream.typeflags import LINK


def placed(
    path: str, source: Path | None = None, *, exclude: Sequence[str] = (), **more: object
) -> PlacedFile:
    """Return the file at `path`."""
    given = {} if source is None else {"source": os.fsencode(source)}
    return PlacedFile(path=path.encode(), exclude=tuple(exclude), **given, **more)  # type: ignore[arg-type]


def made(
    *files: PlacedFile,
    conflicts: Conflicts = "error",
    warn: Callable[[str], None] = pytest.fail,
    copied: Sequence[bytes] = (),
) -> Tree:
    """Return the tree of these files."""
    recipe = Recipe(files=files, conflicts=conflicts, copy_to_root=tuple(copied))
    return make_tree(recipe, warn=warn)


def shown(tree: Tree) -> dict[str, str]:
    """Return a readable form of every path of a tree except its root."""

    def show(node: Node) -> str:
        if node.typeflag == LINK:
            return f"-> {os.fsdecode(node.link)}"
        owner = f" {node.uid}:{node.gid}" if node.uid or node.gid else ""
        return f"{'d' if node.is_directory else '-'}{node.mode:04o}{owner}"

    return {os.fsdecode(path): show(node) for path, node in tree.entries() if path}


@pytest.fixture
def app(tmp_path: Path) -> Path:
    """Make a directory with a program, a module, a link and a cache."""
    top = tmp_path / "app"
    (top / "pages").mkdir(parents=True)
    (top / "run").write_text("#!/bin/sh\n", "ascii")
    (top / "run").chmod(0o755)
    (top / "pages" / "index.html").write_text("<p>", "ascii")
    (top / "current").symlink_to("pages")
    (top / "cache").mkdir()
    (top / "cache" / "a.pyc").write_bytes(b"")
    return top


def test_a_directory_at_a_path(app: Path) -> None:
    """The application is where the specification says, with plain modes."""
    assert shown(made(placed("/srv/app", app))) == {
        "srv": "d0755",
        "srv/app": "d0755",
        "srv/app/cache": "d0755",
        "srv/app/cache/a.pyc": "-0644",
        "srv/app/current": "-> pages",
        "srv/app/pages": "d0755",
        "srv/app/pages/index.html": "-0644",
        "srv/app/run": "-0755",
    }


def test_only_what_a_checkout_has_counts(app: Path) -> None:
    """Umask, times and attributes of a checkout must not change the image; contents must."""
    expected = made_layer(made(placed("/a", app)), Recipe(), mtime=1).fingerprint
    for number, path in enumerate(sorted(app.rglob("*"))):
        if not path.is_symlink():
            path.chmod(0o700 if path.is_dir() or os.access(path, os.X_OK) else 0o600)
        os.utime(path, (number, number), follow_symlinks=False)
    app.chmod(0o2775)
    assert made_layer(made(placed("/a", app)), Recipe(), mtime=1).fingerprint == expected
    (app / "run").chmod(0o644)
    assert made_layer(made(placed("/a", app)), Recipe(), mtime=1).fingerprint != expected


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give files away")
def test_owners_on_disk_do_not_count(app: Path) -> None:
    """The user who has built an image must not be in it."""
    for path in (app, *app.rglob("*")):
        os.chown(path, 1234, 1234, follow_symlinks=False)
    assert not any(node.uid or node.gid for _, node in made(placed("/a", app)).entries())


def test_owner_of_everything(app: Path) -> None:
    """A service can be the owner of its files, and of no directory above them."""
    found = made(placed("/srv/app", app, uid=1000, gid=100))
    owners = {path: (node.uid, node.gid) for path, node in found.entries()}
    assert owners[b""] == owners[b"srv"] == (0, 0)
    assert {owner for path, owner in owners.items() if path.startswith(b"srv/app")} == {(1000, 100)}


def test_exclude(app: Path) -> None:
    """What is excluded is not in the image, nor the directory that held nothing else."""
    (app / "empty").mkdir()
    found = shown(made(placed("/a", app, exclude=["*.pyc", "/run", "current"])))
    assert found.keys() == {"a", "a/empty", "a/pages", "a/pages/index.html"}


def test_an_excluded_directory_is_not_entered(app: Path) -> None:
    """Whatever is in it may be unreadable, huge, or not a file at all."""
    os.mkfifo(app / "cache" / "pipe")
    assert "a/cache" not in shown(made(placed("/a", app, exclude=["cache/"])))


def test_text_and_files(app: Path) -> None:
    """A single file, or one that exists nowhere, needs no directory of its own."""
    found = made(
        placed("/a/b/run", app / "run"),
        placed("/a/c", app / "pages" / "index.html", mode=0o600),
        placed("/a/d", text="é\n"),
        placed("/a/e", text="", mode=0o755, uid=1),
    )
    assert shown(found) == {
        "a": "d0755", "a/b": "d0755", "a/b/run": "-0755", "a/c": "-0600", "a/d": "-0644",
        "a/e": "-0755 1:0",
    }  # fmt: skip
    node = found.find(b"a/d")
    assert node is not None
    assert node.data == "é\n".encode()


def test_the_root(app: Path) -> None:
    """A directory laid out as in the image can be put at its root; a file cannot."""
    assert shown(made(placed("/", app)))["pages/index.html"] == "-0644"
    with pytest.raises(RecipeError, match=r"^/: is a directory"):
        made(placed("/", app / "run"))


def test_a_link_that_is_named_is_followed(app: Path) -> None:
    """`current` of a deployment names the version to be put into the image."""
    (app / "file").symlink_to("run")
    found = made(placed("/a", app / "current"), placed("/b", app / "file"))
    assert shown(found) == {"a": "d0755", "a/index.html": "-0644", "b": "-0755"}


@pytest.mark.parametrize("target", ["/etc/shadow", "../../..", ".", "loop", "missing", "/"])
def test_links_are_never_followed(app: Path, target: str) -> None:
    """A link out of the directory would bring files of this machine into the image."""
    (app / "loop").symlink_to(target)
    assert shown(made(placed("/a", app)))["a/loop"] == f"-> {target}"


@pytest.mark.parametrize("name", [b"a\nb", b"\xff\xfe", b" ", b"-rf", b"\\", b"a" * 255])
def test_any_name(app: Path, name: bytes) -> None:
    """Names are bytes: no tool on the way may lose or change one."""
    (app / os.fsdecode(name)).write_bytes(b"")
    found = made(placed("/a", app, exclude=["/run"]))
    assert found.find(b"a/" + name) is not None


def test_sockets_and_pipes(app: Path) -> None:
    """What layers do not hold is an error that says what to do, not something left out silently."""
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(app / "pages" / "s"))
        with pytest.raises(SourceError, match=r"pages/s: .*exclude or remove it"):
            made(placed("/a", app))
        made(placed("/a", app, exclude=["s"]))
        with pytest.raises(SourceError, match="neither a file nor a directory"):
            made(placed("/a", app / "pages" / "s"))


def test_whiteouts(app: Path) -> None:
    """A name that deletes files of the base image is refused before the first byte."""
    (app / ".wh.etc").write_bytes(b"")
    with pytest.raises(RecipeError, match="marks a deleted file"):
        made_layer(made(placed("/a", app)), Recipe(), mtime=1)


def test_deep_and_wide(tmp_path: Path) -> None:
    """Neither recursion nor a quadratic step may stop a large application."""
    deep = tmp_path / "deep"
    deep.mkdir()
    path = str(deep)
    for _ in range(1000):
        path += "/d"
        os.mkdir(path)
    Path(path, "last").write_bytes(b"")
    for number in range(1000):
        (deep / f"{number}").write_bytes(b"")
    found = made(placed("/a", deep, exclude=["*.pyc"]))
    assert sum(1 for _ in found.entries()) == 1 + 1 + 1000 + 1 + 1000
    # Too deep for Python's rmtree, by which pytest removes the directories of earlier runs.
    subprocess.run(["rm", "-rf", deep], check=True)


def test_a_file_that_is_too_deep(tmp_path: Path) -> None:
    """The system's limit of a path's length is reported, not raised as it is."""
    here = os.open(tmp_path, os.O_RDONLY)
    descriptors = [here]
    for _ in range(20):
        os.mkdir("d" * 250, dir_fd=descriptors[-1])
        descriptors.append(os.open("d" * 250, os.O_RDONLY, dir_fd=descriptors[-1]))
    for descriptor in descriptors:
        os.close(descriptor)
    with pytest.raises(SourceError, match="File name too long"):
        made(placed("/a", tmp_path))


def test_a_mode_is_that_of_a_file(app: Path) -> None:
    """Of a directory, it could mean the directory or everything in it."""
    with pytest.raises(RecipeError, match="use perms"):
        made(placed("/a", app, mode=0o755))
    with pytest.raises(RecipeError, match="exclude applies to a directory"):
        made(placed("/a", app / "run", exclude=["a"]))


def test_conflicts(app: Path) -> None:
    """A file that is given twice is a mistake unless both are the same, or the rule says which."""
    twice = placed("/a", app), placed("/a/run", text="other")
    with pytest.raises(ContentConflict, match=r"^/a/run: .*app and text in files differ"):
        made(*twice)
    sizes: dict[Conflicts, int] = {"first": 10, "last": 5}
    for conflicts, size in sizes.items():
        node = made(*twice, conflicts=conflicts).find(b"a/run")
        assert node is not None
        assert node.size == size
    same = placed("/a/run", text="#!/bin/sh\n", mode=0o755)
    assert shown(made(placed("/a", app), same)) == shown(made(placed("/a", app)))


def test_owners_conflict(app: Path) -> None:
    """Files of different owners are different files, even with the same bytes."""
    with pytest.raises(ContentConflict):
        made(placed("/a", app), placed("/a/run", app / "run", uid=1))


def test_a_link_that_meets_a_file(app: Path) -> None:
    """What an absolute link leads to on this machine says nothing about the image."""
    target = app / "run"
    (app / "link").symlink_to(target)
    twice = placed("/a", app), placed("/a/link", text="#!/bin/sh\n", mode=0o755)
    with pytest.raises(ContentConflict):
        make_tree(Recipe(files=twice), disk=Disk(b"/nix/store"))


def test_over_other_contents(app: Path, tmp_path: Path) -> None:
    """Directories are merged with those of other contents, which keep their modes."""
    root = tmp_path / "root"
    (root / "srv" / "app").mkdir(parents=True)
    (root / "srv" / "app").chmod(0o711)
    (root / "srv" / "app" / "more").write_bytes(b"")
    found = shown(made(placed("/srv/app", app), copied=[os.fsencode(root)]))
    assert found["srv/app"] == "d0711"
    assert {"srv/app/more", "srv/app/run"} <= found.keys()


def test_a_repository(app: Path) -> None:
    """A .git would give each checkout an image of its own, and show it the history."""
    (app / ".git").mkdir()
    warnings: list[str] = []
    made(placed("/a", app), warn=warnings.append)
    assert [".git: a git repository is put into the image" in line for line in warnings] == [True]
    made(placed("/a", app, exclude=[".git"]))

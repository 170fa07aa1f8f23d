"""The commands of a recipe: their environment, the files that they make, and their leftovers."""

import json
import os
import shlex
import shutil
import signal
import stat
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest
from consumers.requirements import require, unmet
from support import until

from sources.customisation.sandbox.nobody import NOBODY, SITES, TESTS, call_as_nobody
from stream.errors import CommandsError, SourceError
from stream.model import Recipe
from stream.nix.store_root import Disk
from stream.sources.customisation.sandbox import isolation
from stream.sources.customisation.sandbox.commands import FAKE_ROOT, _Runs, run_commands
from stream.sources.customisation.sandbox.listing import MAX_PATH
from stream.sources.customisation.sandbox.report import Metadata, Report
from stream.sources.customisation.sandbox.scratch import Scratch, opened_scratch, write
from stream.sources.customisation.tree import Identity, Node, Tree, directory, file, link
from stream.typeflags import BLOCK_DEVICE, CHARACTER_DEVICE, FIFO, FILE, LINK

DRIVEN = (  # code for another Python that calls these tests' functions
    f"import sys; sys.path[:0] = {[*SITES, str(TESTS)]!r};"
    " from sources.customisation.sandbox import test_commands as t; "
)
PYTHON = os.path.realpath(sys.executable)  # its virtual environment is not in the sandbox
pytestmark = pytest.mark.usefixtures("place")
MTIME = 12345
# Capabilities are set with setcap, so that our reading of them is tested against another tool.
SETCAP = "$(PATH=$PATH:/usr/sbin:/sbin type -P setcap)"


@pytest.fixture
def place(
    monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Path]:
    """Make a short directory for temporary files, which must be empty at the end."""
    tmp_path_factory.getbasetemp()  # must not be created in there
    path = Path(tempfile.mkdtemp(prefix="c"))
    path.chmod(0o1777)
    monkeypatch.setattr("tempfile.tempdir", str(path))
    yield path
    assert os.listdir(path) == []
    path.rmdir()


@pytest.fixture(autouse=True)
def sandbox() -> None:
    """Require the sandbox."""
    require([isolation.BUBBLEWRAP, "unshare"])
    command = ["unshare", "--user", "--map-root-user", "--mount", "true"]
    if subprocess.run(command, check=False, capture_output=True).returncode:
        unmet("no user namespaces")


@pytest.fixture
def fakeroot() -> None:
    """Require fakeroot."""
    require(["fakeroot"])


def _tree(**nodes: Node) -> Tree:
    tree = Tree()
    for name, node in nodes.items():
        tree.put(name.encode(), node)
    return tree


@contextmanager
def _ran(  # noqa: PLR0913 — a recipe has that many
    extra: str = "",
    fake: str = "",
    *,
    tree: Tree | None = None,
    chroot: bool = False,
    store_dir: bytes = b"/nix/store",
    store_root: bytes = b"",
    warnings: list[str] | None = None,
    network: bool = False,
    sandboxed: bool = True,
) -> Iterator[Tree]:
    recipe = Recipe(
        extra_commands=extra, fake_root_commands=fake, fakechroot=chroot, network=network
    )
    heard = [] if warnings is None else warnings
    disk = Disk(store_dir, store_root)
    with run_commands(
        tree or Tree(), recipe, disk=disk, mtime=MTIME, warn=heard.append, sandboxed=sandboxed
    ) as result:
        yield result
    assert warnings is not None or heard == []


def _content(node: Node | None) -> bytes:
    """Return a file's content; it must be the file that was listed."""
    assert node is not None
    found = os.stat(node.source)
    assert node.identity is not None
    assert node.identity.holds(found)
    assert node.size == found.st_size
    return Path(os.fsdecode(node.source)).read_bytes()


def _listing(tree: Tree) -> list[Any]:
    """Return everything that the layer takes from a tree."""
    return [
        (
            path.decode("latin-1"), node.typeflag.decode(), oct(node.mode), node.uid, node.gid,
            list(node.device), node.link.decode("latin-1"),
            {k.decode(): v.hex() for k, v in (node.xattrs or {}).items()},
            _content(node).decode("latin-1") if node.typeflag == FILE else "",
        )
        for path, node in tree.entries()
    ]  # fmt: skip


def _names(tree: Tree) -> list[bytes]:
    return [path for path, _ in tree.entries()]


def _node(tree: Tree, path: bytes) -> Node:
    node = tree.find(path)
    assert node is not None, _names(tree)
    return node


# ---- what they find


def test_tree_is_there(tmp_path: Path) -> None:
    """Without it commands would work on another tree than the joined one."""
    source = tmp_path / "source"
    source.write_bytes(b"copied" * 1000)
    found = source.stat()
    copied = Node(
        typeflag=FILE, mode=0o555, size=found.st_size, source=os.fsencode(source),
        identity=Identity.of(found),
    )  # fmt: skip
    tree = _tree(copied=copied, file=file(b"data"), link=link(b"/nowhere"), fifo=directory())
    tree.put(b"closed/within", file(b"x", 0o600))
    _node(tree, b"closed").mode = 0o555
    tree.put(b"pipe", Node(typeflag=FIFO, mode=0o622))
    with _ran(
        "cat file > read; stat -c %n:%a:%Y * > stats; readlink link > target", tree=tree
    ) as t:
        assert _content(t.find(b"read")) == b"data"
        assert _content(t.find(b"target")) == b"/nowhere\n"
        assert _content(t.find(b"stats")).decode().split() == [
            f"closed:555:{MTIME}", f"copied:555:{MTIME}", f"fifo:755:{MTIME}",
            f"file:644:{MTIME}", f"link:777:{MTIME}", f"pipe:622:{MTIME}",
            *[line for line in _content(t.find(b"stats")).decode().split() if line[:4] in ("read", "stat")],
        ]  # fmt: skip
        assert _content(t.find(b"copied")) == source.read_bytes()
        assert _node(t, b"closed").mode == 0o555
        assert _node(t, b"pipe").typeflag == FIFO
        assert _node(t, b"link").link == b"/nowhere"


def test_source_that_changed(tmp_path: Path) -> None:
    """Without it commands would see a file that nobody has checked."""
    source = tmp_path / "source"
    source.write_bytes(b"x")
    node = Node(
        typeflag=FILE, mode=0o644, size=1, source=os.fsencode(source), identity=Identity(0, 0, 1, 0)
    )
    with (
        pytest.raises(SourceError, match="changed since it was walked"),
        _ran(":", tree=_tree(a=node)),
    ):
        pass


def test_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without it the layer would depend on who makes it, where and when."""
    for name in ("BASH_ENV", "ENV", "LANG", "SECRET", "BASH_FUNC_ls%%"):
        monkeypatch.setenv(name, "() { :; }")
    mask = os.umask(0o077)
    try:
        with _ran(
            "env -0 > environment; umask > mask; touch file; readlink /proc/self/fd/0 > in"
        ) as t:
            environment = dict(
                line.split("=", 1)
                for line in _content(t.find(b"environment")).decode().split("\0")[:-1]
            )
            assert _content(t.find(b"mask")) == b"0022\n"
            assert _content(t.find(b"in")) == b"/dev/null\n"
            assert _node(t, b"file").mode == 0o644
    finally:
        os.umask(mask)
    assert environment == {
        "HOME": "/homeless-shelter",
        "LC_ALL": "C",
        "PATH": os.environ["PATH"],
        "PWD": "/build",
        "SHLVL": "1",
        "SOURCE_DATE_EPOCH": str(MTIME),
        "TMPDIR": "/tmp",
        "TZ": "UTC",
        "_": environment["_"],
    }


@pytest.mark.parametrize("mask", [0, 0o777])
def test_private(place: Path, mask: int) -> None:
    """Without it others could read or change the tree, or we could not."""
    before = os.umask(mask)
    try:
        with _ran("stat -c %a . > modes") as tree:
            (scratch,) = place.iterdir()
            assert scratch.stat().st_mode & 0o707 == 0o700
            assert scratch.stat().st_uid == os.geteuid()
            assert _content(tree.find(b"modes")).split() == [b"755"]
    finally:
        os.umask(before)


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root, to be somebody else")
def test_private_to_one_run(place: Path) -> None:
    """Without it a service that runs as nobody, too, could have root change the modes of other
    files: by a link in the tree's place.
    """
    seen = []
    for _ in range(2):
        with _ran("mkdir -m 777 a; touch a/b") as tree:
            found = os.stat(_node(tree, b"a/b").source)
            seen.append(found.st_uid)
            (scratch,) = place.iterdir()
            for user in (NOBODY, found.st_uid + 1):
                command = ["ls", f"{scratch}/tree/a"]
                done = subprocess.run(command, user=user, group=user, extra_groups=[], check=False)
                assert done.returncode
    assert seen[0] != seen[1]
    assert NOBODY not in seen


def test_commands_of_any_size() -> None:
    """Without it commands longer than the limit of an argument would not run."""
    text = "x" * 300_000 + "é'\"\\\n"
    with _ran(f"cat <<'EOF' > long\n{text}EOF\n") as tree:
        assert _content(tree.find(b"long")) == text.encode()


# ---- what arrives


def test_ownership_without_fake_root() -> None:
    """Without it the layer would reveal the user who made it."""
    with _ran("touch a; mkdir b; ln -s a c; mkfifo d; chmod 6751 a; chmod 1777 b") as tree:
        assert all((node.uid, node.gid) == (0, 0) for _, node in tree.entries())
        assert _node(tree, b"a").mode == 0o6751
        assert _node(tree, b"b").mode == 0o1777
        assert _node(tree, b"d").typeflag == FIFO


def test_extra_commands_have_no_privileges() -> None:
    """Without it changes of owners by root's commands would be lost silently."""
    for commands in ("touch a; chown 1:1 a", "mknod a c 1 3"):
        with pytest.raises(CommandsError, match="failed at line 1"), _ran(commands):
            pass


@pytest.mark.usefixtures("fakeroot")
@pytest.mark.parametrize("fake", [False, True])
def test_store_is_not_written_to(place: Path, *, fake: bool) -> None:
    """A command that writes through a link in the tree would change the user's own files."""
    store = place / "store"
    store.mkdir()
    (store / "page").write_text("as it was", "utf-8")
    tree = _tree(page=link(os.fsencode(store / "page")))
    commands = "! echo changed > page && echo done > made"
    extra, fakes = ("", commands) if fake else (commands, "")
    # Twice: with the scratch directory next to the store, and in it.
    for store_dir in (store, place):
        with _ran(extra, fakes, tree=tree, store_dir=os.fsencode(store_dir)) as made:
            assert _content(made.find(b"made")) == b"done\n"
        assert (store / "page").read_text("utf-8") == "as it was"
    shutil.rmtree(store)


@pytest.mark.usefixtures("fakeroot")
def test_fake_root() -> None:
    """Without it owners, devices and special modes would be missing in the layer."""
    commands = """
        touch file; chown 1000:100 file; chmod 4755 file
        mkdir dir; chown 7 dir; chmod 1770 dir
        ln -s file link; chown -h 5:6 link
        mknod null c 1 3; chmod 666 null; mknod disk b 8 1; chown 0:6 disk; mkfifo fifo
        ln file hard; chmod 0 shut; chown 9:9 .
    """
    with _ran(fake=commands, tree=_tree(shut=file(b"x"))) as tree:
        found = {
            path: (node.typeflag, node.mode, node.uid, node.gid, node.device)
            for path, node in tree.entries()
        }
        assert found == {
            b"": (b"5", 0o755, 9, 9, (0, 0)),
            b"dir": (b"5", 0o1770, 7, 0, (0, 0)),
            b"disk": (BLOCK_DEVICE, 0o644, 0, 6, (8, 1)),
            b"fifo": (FIFO, 0o644, 0, 0, (0, 0)),
            b"file": (FILE, 0o4755, 1000, 100, (0, 0)),
            b"hard": (FILE, 0o4755, 1000, 100, (0, 0)),
            b"link": (LINK, 0o777, 5, 6, (0, 0)),
            b"null": (CHARACTER_DEVICE, 0o666, 0, 0, (1, 3)),
            b"shut": (FILE, 0, 0, 0, (0, 0)),
        }
        assert _content(tree.find(b"shut")) == b"x"


# Programs with fakeroot's preload, and a static one, which take turns.
MIXED = """
    b() { busybox "$@"; }
    b touch a; b chown 5:6 a; chown :7 a; chmod 640 a; b chmod 600 a
    touch d; chown 5:6 d; b chown :8 d; b stat -c '%u %g' d c > seen
    for i in 1 2 3 4 5 6 7 8; do touch old; chown 5:6 old; chmod 4755 old; b rm old; b touch new$i; done
    for i in 2 4 6 8; do b chown :0 new$i; done; for i in 3 6; do b chmod 644 new$i; done
    b mknod disk b 8 1; b chown 0:6 disk; chmod 660 disk; b ls -ln c | b cut -c 1-10 >> seen
    b cp -a d copy; ls -ln a > listed
"""


@pytest.mark.usefixtures("fakeroot")
def test_static_programs() -> None:
    """Without it static busybox's owners and devices would be missing in the layer, and Go's."""
    require(["busybox"])
    owned = Node(typeflag=CHARACTER_DEVICE, mode=0o600, device=(1, 5), gid=2)
    with _ran(fake=MIXED, tree=_tree(c=owned)) as tree:
        found = {
            path.decode(): (node.typeflag, node.mode, node.uid, node.gid, node.device)
            for path, node in tree.entries()
        }
        assert {found.pop(f"new{i}") for i in range(1, 9)} == {(FILE, 0o644, 0, 0, (0, 0))}
        assert found == {
            "": (b"5", 0o755, 0, 0, (0, 0)),
            "a": (FILE, 0o600, 5, 7, (0, 0)),
            "c": (CHARACTER_DEVICE, 0o600, 0, 2, (1, 5)),
            "copy": (FILE, 0o644, 5, 8, (0, 0)),
            "d": (FILE, 0o644, 5, 8, (0, 0)),
            "disk": (BLOCK_DEVICE, 0o660, 0, 6, (8, 1)),
            "listed": (FILE, 0o644, 0, 0, (0, 0)),
            "seen": (FILE, 0o644, 0, 0, (0, 0)),
        }
        assert _content(tree.find(b"seen")) == b"5 8\n0 2\ncrw-------\n"
        assert _content(tree.find(b"listed")).startswith(b"-rw------- 1 5 7 ")


def test_device_that_anybody_can_make() -> None:
    """Without it the whiteout of an overlay would be left out as a socket."""
    with _ran("mknod w c 0 0 || touch w") as tree:
        node = _node(tree, b"w")
        assert (node.typeflag, node.device) in [(CHARACTER_DEVICE, (0, 0)), (FILE, (0, 0))]


@pytest.mark.usefixtures("fakeroot")
def test_nothing_is_given_away_on_disk() -> None:
    """Without it a run as root would make real devices, and files of other owners."""
    with _ran(fake="touch a; chown 1000:100 a; mknod b c 1 3") as tree:
        above = os.path.dirname(_node(tree, b"a").source)
        for name in (b"/a", b"/b"):
            found = os.lstat(above + name)
            assert found.st_uid == os.stat(above).st_uid != 0
            assert os.geteuid() in (0, found.st_uid)
            assert stat.S_ISREG(found.st_mode)


@pytest.mark.usefixtures("fakeroot")
def test_capabilities_and_attributes() -> None:
    """Without it `setcap` would succeed without effect."""
    require(["setcap"])
    python = f"{PYTHON} -IS -c"
    commands = f"""
        touch file; {SETCAP} cap_net_raw+ep file
        {python} 'import os; os.setxattr("file", b"user.x", b"\\0y")'
    """
    with _ran(fake=commands) as tree:
        node = _node(tree, b"file")
        # vfs_cap_data, revision 2: CAP_NET_RAW is bit 13, permitted, effective.
        capability = bytes.fromhex("0100000200200000" + "00" * 12)
        assert node.xattrs == {b"security.capability": capability, b"user.x": b"\0y"}
        assert (node.uid, node.gid) == (0, 0)


@pytest.mark.usefixtures("fakeroot")
def test_attributes_of_the_tree_are_kept() -> None:
    """Without it the owners and devices of the tree would be lost on disk."""
    owned = file(b"x")
    owned.uid, owned.gid, owned.xattrs = 3, 4, {b"user.a": b"b"}
    device = Node(typeflag=CHARACTER_DEVICE, mode=0o600, device=(1, 5), gid=2)
    for fake in ("", "ls -ln > seen; chown 8 moved"):
        tree = _tree(owned=owned, device=device, other=file(b"y", 0o0))
        with _ran("mv owned moved; mkdir -m 0 z", fake, tree=tree) as t:
            moved = _node(t, b"moved")
            assert (moved.uid, moved.gid) == (8 if fake else 3, 4)
            assert moved.xattrs == {b"user.a": b"b"}
            found = _node(t, b"device")
            assert (found.typeflag, found.device, found.gid) == (CHARACTER_DEVICE, (1, 5), 2)
            assert found.mode == 0o600
            assert _node(t, b"z").mode == 0
            assert _node(t, b"other").mode == 0
            assert _content(t.find(b"other")) == b"y"
            if fake:
                assert b"crw------- 1 0 2 1, 5" in _content(t.find(b"seen"))


def test_closed_files() -> None:
    """Without it users could not put files into an image that they cannot read themselves."""
    with _ran("echo x > a; chmod 0 a; mkdir -p b/c; echo y > b/c/d; chmod 0 b/c/d b/c b") as tree:
        assert [_node(tree, path).mode for path in (b"a", b"b", b"b/c", b"b/c/d")] == [0] * 4
        assert _content(tree.find(b"b/c/d")) == b"y\n"


def test_odd_names() -> None:
    """Without it a name could end the record that it is in."""
    names = [b"new\nline", b"\xff\xfe", b'quo"te', b"\\", "späß".encode(), b"-rf", b" "]
    commands = "; ".join(
        "touch ./$'" + "".join(f"\\x{byte:02x}" for byte in name) + "'" for name in names
    )
    with _ran(commands) as tree:
        assert _names(tree) == [b"", *sorted(names)]


def test_hard_links_and_holes() -> None:
    """Without it content would be missing if a file has two names or no blocks."""
    with _ran("truncate -s 1M hole; echo x > a; ln a b") as tree:
        assert _content(tree.find(b"hole")) == bytes(1 << 20)
        assert _content(tree.find(b"a")) == _content(tree.find(b"b")) == b"x\n"


def test_sockets() -> None:
    """Without it a socket would stop the run, or vanish silently."""
    warnings: list[str] = []
    code = 'import socket; socket.socket(socket.AF_UNIX).bind("so\\\\nck")'
    with _ran(f"{PYTHON} -IS -c '{code}'; touch a", warnings=warnings) as tree:
        assert _names(tree) == [b"", b"a"]
    (warning,) = warnings
    assert warning == "extraCommands: /so\\nck: left out; layers cannot hold sockets"


@pytest.mark.usefixtures("fakeroot")
def test_a_socket_is_reported_once() -> None:
    """A socket of the first commands is still there after the second, which did not make it."""
    warnings: list[str] = []
    code = 'import socket; socket.socket(socket.AF_UNIX).bind("NAME")'
    made = f"{PYTHON} -IS -c '{code}'"
    with _ran(made.replace("NAME", "one"), made.replace("NAME", "two"), warnings=warnings):
        assert [warning.partition(": left out")[0] for warning in warnings] == [
            "extraCommands: /one",
            "fakeRootCommands: /two",
        ]


# ---- the tree as root


@pytest.mark.parametrize("chroot", [False, True])
@pytest.mark.parametrize("store_dir", [b"/", b"/run", b"/run/lock", b"/proc/1", b"/sys", b"/home"])
def test_store_that_is_none(store_dir: bytes, *, chroot: bool) -> None:
    """A conf could name the directory of services' sockets as its store."""
    if not os.path.isdir(store_dir):
        pytest.skip("no such directory here")
    extra, fake = ("", "true") if chroot else ("true", "")
    with pytest.raises(CommandsError, match="has more than a store; move"):  # noqa: SIM117
        with _ran(extra, fake, chroot=chroot, store_dir=store_dir):
            pass


@pytest.mark.parametrize(
    "spelling",
    ["{}", *(pytest.param(odd, marks=pytest.mark.slow) for odd in ("/{}", "{}/../home"))],
)
def test_programs_in_a_home_directory(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, spelling: str
) -> None:
    """Without it commands could read what other programs keep beside them, such as passwords; or
    could not run them.
    """
    home = tmp_path / "real"
    for name in (".local/bin", ".local/lib", ".local/share", "mine"):
        (home / name).mkdir(parents=True)
        (home / name / "file").write_text("x")
    program = home / ".local/bin/program"
    program.write_text('#!/bin/sh\ncat "${0%/*}/../lib/file"\n')
    program.chmod(0o755)
    (tmp_path / "home").symlink_to(home)
    named = spelling.format(tmp_path / "home")
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setenv(
        "PATH", f"{named}/.local/bin:{named}:/:{tmp_path.parent}:{os.environ['PATH']}"
    )
    hidden = [home / ".local/share/file", home / "mine/file", Path(os.sep) / "var/lib"]
    script = f"program > it\nfor file in {' '.join(map(str, hidden))}; do [[ ! -e $file ]]; done"
    with _ran(script) as tree:
        assert _content(tree.find(b"it")) == b"x"
    rooted = "! ls -d /.stream-image/*/mine && ! ls -d /.stream-image/*/home"
    with _ran(fake=f"mkdir -p etc; {rooted} || exit 1", chroot=True):
        pass


@pytest.mark.usefixtures("fakeroot")
def test_absolute_paths(tmp_path: Path) -> None:
    """Without it commands that use absolute paths would change the machine, not the tree."""
    store = tmp_path / "store"
    (store / "hash-x").mkdir(parents=True)
    (store / "hash-x" / "file").write_text("stored")
    commands = f"""
        test "$PWD" = /
        mkdir -p /etc /usr/bin /var/lib/x; echo made > /etc/file; chown 5:6 /etc/file
        cat {store}/hash-x/file > /copy
        ! touch {store}/new 2> /dev/null
        test -e /proc/self/exe -a -c /dev/null -a -d /sys
        ln -s /etc/file /usr/bin/tool; awk 'BEGIN {{ print "awk" > "/awk" }}'
        cat > /heredoc <<EOF
{"y" * 100_000}
EOF
    """
    tree = _tree(given=file(b"x"))
    with _ran(fake=commands, tree=tree, chroot=True, store_dir=os.fsencode(store)) as t:
        assert _names(t) == [
            b"", b"awk", b"copy", b"etc", b"etc/file", b"given", b"heredoc", b"usr", b"usr/bin",
            b"usr/bin/tool", b"var", b"var/lib", b"var/lib/x",
        ]  # fmt: skip
        assert _content(t.find(b"copy")) == b"stored"
        assert (_node(t, b"etc/file").uid, _node(t, b"etc/file").gid) == (5, 6)
    assert os.listdir(store) == ["hash-x"]


@pytest.mark.usefixtures("fakeroot")
def test_a_store_below_another_root(tmp_path: Path) -> None:
    """Without it commands would read this machine's store, or write to the other."""
    root = tmp_path / "root"
    store, below = tmp_path / "store", Path(f"{root}{tmp_path}/store")
    for place, content in ((store, "machine's"), (below, "root's")):
        (place / "x").mkdir(parents=True)
        (place / "x" / "file").write_text(content)
    commands = f"cat {store}/x/file > copy; ! touch {store}/x/new 2> /dev/null"
    with _ran(fake=commands, chroot=True, store_dir=bytes(store), store_root=bytes(root)) as tree:
        assert _content(tree.find(b"copy")) == b"root's"
        assert _names(tree) == [b"", b"copy"]
    with _ran(commands, store_dir=bytes(store), store_root=bytes(root)) as tree:
        assert _content(tree.find(b"copy")) == b"root's"
    assert os.listdir(store / "x") == os.listdir(below / "x") == ["file"]


@pytest.mark.usefixtures("fakeroot")
def test_mounts_stay_out_of_the_layer() -> None:
    """Without it the machine's devices, or mount points for them, would be in the image."""
    tree = Tree()
    tree.put(b"nix/store/x/file", file(b""))
    tree.put(b"nix/var", directory())
    tree.put(b"usr/bin/env", link(b"/nix/store/x/env"))
    tree.put(b"lib", directory())
    with _ran(fake=":", tree=tree, chroot=True) as t:
        assert _names(t) == [b"", b"lib", b"nix", b"nix/var", b"usr", b"usr/bin", b"usr/bin/env"]


@pytest.mark.usefixtures("fakeroot")
def test_devices_are_the_machines() -> None:
    """Without it root's commands, taking /dev for the image's, would create and remove devices
    of this machine. Other users cannot.
    """
    names = sorted(os.listdir("/dev"))
    commands = "! touch /dev/new; ! ln -s null /dev/new; ! mkdir /dev/new; echo x > /dev/null"
    with _ran(
        fake=f"{{ {commands}; }} 2>&1 | cat > said; touch /dev/shm/$$; rm /dev/shm/$$", chroot=True
    ) as tree:
        assert _content(tree.find(b"said")).count(b"Read-only file system") == 3
    assert sorted(os.listdir("/dev")) == names


@pytest.mark.usefixtures("fakeroot")
def test_no_place_to_mount() -> None:
    """Without it a mount would end up where a link of the image leads, on the machine."""
    tree = _tree(nix=link(b"/etc"), dev=link(b"/etc"))
    with (
        pytest.raises(CommandsError, match=r"fakeRootCommands: /dev must be a directory"),
        _ran(fake=":", tree=tree, chroot=True),
    ):
        pass


@pytest.mark.slow
@pytest.mark.parametrize("forbidden", ["user", "mnt", "pid"])
def test_no_namespaces(place: Path, forbidden: str) -> None:
    """Without it commands would run unprotected, silently, where the system forbids a sandbox."""
    require(["setpriv"])
    runs = [{"extra": "touch a"}, {"extra": "id -u > a", "sandboxed": False}]
    code = DRIVEN + f"import json; print(json.dumps([t.outcome(run) for run in {runs!r}]))"
    script = f'echo 0 > /proc/sys/user/max_{forbidden}_namespaces; exec "$@"'
    done = subprocess.run(
        [
            *("unshare", "--user", "--map-root-user", "sh", "-c", script, "-"),
            *("setpriv", "--bounding-set", "-all", sys.executable, "-c", code),
        ],
        check=True, capture_output=True, env={**os.environ, "TMPDIR": str(place)},
    )  # fmt: skip
    refused, listing = json.loads(done.stdout)
    assert refused.startswith("extraCommands: bubblewrap cannot make a sandbox here (")
    assert refused.endswith("with --unsandboxed")
    assert listing[1][0] == "a"


@pytest.mark.usefixtures("fakeroot")
def test_without_the_sandbox() -> None:
    """Owners are faked there, too; only the tree cannot be the root directory."""
    with _ran(fake="touch a; chown 1:2 a", sandboxed=False) as tree:
        assert (_node(tree, b"a").uid, _node(tree, b"a").gid) == (1, 2)
    with (
        pytest.raises(CommandsError, match="enableFakechroot needs the sandbox"),
        _ran(fake=":", chroot=True, sandboxed=False),
    ):
        pass


# ---- who runs them


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root, to be a lesser one")
def test_root_without_capabilities(place: Path) -> None:
    """Commands would have the machine's user 0 if root cannot become another user."""
    require(["setpriv"])
    code = DRIVEN + "print(t.outcome({'extra': 'touch a'}))"
    done = subprocess.run(
        ["setpriv", "--bounding-set", "-all", sys.executable, "-c", code],
        check=True, capture_output=True, text=True, env={**os.environ, "TMPDIR": str(place)},
    )  # fmt: skip
    assert done.stdout.startswith("extraCommands: bubblewrap cannot make a sandbox here (")


@pytest.mark.slow
@pytest.mark.skipif(os.geteuid() != 0, reason="needs root, to be a lesser one")
@pytest.mark.parametrize("missing", ["-sys_admin", "-net_admin"])
def test_root_of_a_container(place: Path, missing: str) -> None:
    """Without it root could not run commands in a container that allows user namespaces."""
    require(["setpriv"])
    code = DRIVEN + "print(t.outcome({'extra': 'touch a'}))"
    python = shutil.which("python3", path="/usr/bin:/run/current-system/sw/bin")  # open to nobody
    if python is None:
        pytest.skip("no Python for everybody")
    done = subprocess.run(
        ["setpriv", "--bounding-set", missing, python, "-c", code],
        check=True, capture_output=True, text=True, env={**os.environ, "TMPDIR": str(place)},
    )  # fmt: skip
    assert done.stdout.startswith("[['', '5', '0o755', 0, 0"), done.stdout


BOTH: list[dict[str, Any]] = [
    {"extra": "mkdir -m 0 shut; echo x > a; chmod 0 a; mkfifo f; id -u > /dev/null; chmod u+s b"},
    {"extra": "mkdir -p d/e; chmod 0 d/e d", "fake": "touch d/f; chown 1:2 d; mknod n c 1 3"},
    {"fake": f"touch new; {SETCAP} cap_net_raw+ep new b; chown 3:4 c; id -u > id; ls -ln > ls"},
    {"fake": "touch /x; chown 8:9 /x; chmod 2755 /x; cat /b > /y; id -u > /id", "chroot": True},
    {"fake": "busybox mknod n b 8 1; busybox touch a; busybox chown 5:6 a; busybox chmod 6711 a"},
    {"extra": "chown 1:1 a"},
    {"extra": "mknod a c 1 3"},
    {"extra": "echo > r"},
    {"fake": "cat /nonexistent", "chroot": True},
]


def outcome(arguments: dict[str, Any]) -> Any:
    """Return the tree that commands leave, or their failure."""
    tree = _tree(b=file(b"bb"), c=file(b"cc", 0o4711), r=file(b"", 0o444))
    try:
        with _ran(**arguments, tree=tree) as result:
            listing = json.loads(json.dumps(_listing(result)))
    except CommandsError as error:
        return str(error)
    for entry in listing:
        if entry[0] == "ls":  # contains times
            entry[-1] = [line.split()[:4] for line in entry[-1].splitlines()[1:]]
    return listing


@pytest.mark.slow
@pytest.mark.skipif(os.geteuid() != 0, reason="needs root, to be somebody else")
@pytest.mark.usefixtures("fakeroot")
def test_root_and_nobody(place: Path) -> None:
    """Without it the image would depend on the user who makes it, or only root could make it."""
    found = call_as_nobody("sources.customisation.sandbox.test_commands", "outcome", BOTH, place)
    assert found == [outcome(arguments) for arguments in BOTH]


@pytest.mark.usefixtures("fakeroot")
def test_owner_that_fakeroot_does_not_tell(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without it a file with capabilities would be owned by the user who makes the image, if
    they cannot be root of a user namespace.
    """
    entries: list[tuple[bytes, int, dict[bytes, bytes]]] = [
        (b"", 0, {}), (b"a", 1000, {b"user.x": b"y"}), (b"b", 1000, {}),
    ]  # fmt: skip
    report = Report(
        metadata={
            path: Metadata(mode=stat.S_IFREG, uid=uid, gid=uid, device=(0, 0), xattrs=xattrs)
            for path, uid, xattrs in entries
        }
    )
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    monkeypatch.setattr(os, "getegid", lambda: 1000)
    warnings: list[str] = []
    runs = _Runs(
        place=Scratch(path=b"/x"), recipe=Recipe(), disk=Disk(), mtime=0, warn=warnings.append,
        sandboxed=False,
    )  # fmt: skip
    found = runs._metadata(FAKE_ROOT, report)
    assert [found[path].uid for path in (b"a", b"b")] == [0, 1000]
    assert len(warnings) == 1
    assert "taken to be owned by root" in warnings[0]


# ---- failures


@pytest.mark.parametrize(
    ("commands", "status", "message"),
    [
        ("true\nfalse\ntrue", 1, "extraCommands: failed at line 2 with exit status 1: false"),
        ("exit 7", 7, "extraCommands: failed with exit status 7"),
        ("false | true", 1, "extraCommands: failed at line 1 with exit status 1: false | true"),
        (
            "\nf() {\n  nonexistent-program\n}\nf", 127,
            "extraCommands: failed at line 3 with exit status 127: nonexistent-program",
        ),
        (
            f"long={'x' * 80}; false", 1,
            f"extraCommands: failed at line 1 with exit status 1: long={'x' * 35}…{'x' * 33}; false",
        ),
        ("kill -TERM $$", -15, "extraCommands: killed by signal SIGTERM"),
        ("if", 2, "extraCommands: failed"),
        ("kill -KILL $PPID; sleep 9", None, "extraCommands: the command runner was killed by signal SIGKILL"),
        ("kill -KILL -1; sleep 9", None, "extraCommands: the command runner was killed by signal SIGKILL"),
        ("a\0b", None, "extraCommands: contains a NUL character"),
    ],
)  # fmt: skip
def test_failure(commands: str, status: int | None, message: str) -> None:
    """Without it an image would be made from the partial results of failed commands."""
    with pytest.raises(CommandsError) as caught, _ran(commands):
        pass
    assert str(caught.value).startswith(message)
    assert "\n" not in str(caught.value)
    assert (caught.value.where, caught.value.status) == ("extraCommands", status)


@pytest.mark.usefixtures("fakeroot")
def test_forged_report() -> None:
    """Processes that commands left would change the tree while it is read."""
    # The runner lets nobody take its descriptors; fakeroot, which starts it, has the same.
    forged = """
import ctypes, os, sys
runner = int(sys.argv[1])
with open(f"/proc/{runner}/status") as file:
    fakeroot = next(int(line.split()[1]) for line in file if line.startswith("PPid:"))
report = ctypes.CDLL(None).syscall(438, os.pidfd_open(fakeroot), 3, 0)  # pidfd_getfd
os.write(report, b'{"status": 0, "line": "", "leftovers": []}')
os.kill(runner, 9)
"""
    script = f"{PYTHON} -ISc {shlex.quote(forged)} $PPID; sleep 9"
    with (
        pytest.raises(CommandsError, match="runner was killed by signal SIGKILL"),
        _ran(fake=script),
    ):
        pass


@pytest.mark.parametrize(
    ("commands", "message"),
    [
        ("cd ..; mv tree gone", "removed the directory that they ran in"),
        ("cd ..; rm -r tree; ln -s / tree", "replaced the directory that they ran in"),
    ],
)
def test_tree_that_has_gone(commands: str, message: str) -> None:
    """Without it we would read another directory in its place."""
    with (
        pytest.raises(CommandsError, match=f"extraCommands: {message}"),
        _ran(commands, sandboxed=False),
    ):
        pass


@pytest.mark.usefixtures("fakeroot")
def test_failure_of_fake_root_commands() -> None:
    """Without it the message would not show which commands failed."""
    with pytest.raises(CommandsError) as caught, _ran(":", "\n\nfalse"):
        pass
    assert str(caught.value) == "fakeRootCommands: failed at line 3 with exit status 1: false"


def test_missing_programs(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Without it the message would be "No such file", without the name of the program."""
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(CommandsError, match="extraCommands: bash is not on PATH"), _ran(":"):
        pass
    with pytest.raises(CommandsError, match="fakeroot is not on PATH"), _ran(fake=":"):
        pass


@pytest.mark.usefixtures("fakeroot")
def test_fakeroot_without_effect(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Without it owners would be lost if the fakeroot on PATH has no effect."""
    tmp_path.chmod(0o755)  # root's commands are another user's
    fakeroot = tmp_path / "fakeroot"
    fakeroot.write_text('#!/bin/sh\nshift\nexec "$@"\n')
    fakeroot.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    with pytest.raises(CommandsError, match="fakeroot has no effect"), _ran(fake=":"):
        pass


def test_no_directory_for_temporary_files(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Without it a full or unwritable disk would give a traceback."""
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "none"))
    with pytest.raises(SourceError, match="cannot be written: No such file"), _ran(":"):
        pass


def test_output(capfd: pytest.CaptureFixture[str]) -> None:
    """Without it the commands' output would end up in the middle of the image."""
    with _ran("echo out; echo err >&2; seq 300000"):
        pass
    out, err = capfd.readouterr()
    assert out == ""
    assert err.startswith("out\nerr\n1\n2\n")
    assert err.endswith("\n300000\n")


# ---- what is left


def _running(word: str) -> list[int]:
    """Return the processes that have `word` among their arguments."""
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        with suppress(OSError):
            if word.encode() in path.read_bytes().split(b"\0"):
                found.append(int(path.parent.name))
    return found


@pytest.mark.parametrize("fake", [False, True])
def test_processes_that_stay(*, fake: bool) -> None:
    """Without it background processes would go on in a tree that is being read or removed."""
    if fake:
        require(["fakeroot"])
    word = f"3{os.getpid()}.5"
    commands = f"sleep {word} & setsid sleep {word} & (setsid setsid sleep {word} &) & disown -a"
    warnings: list[str] = []
    with _ran(*(["", commands] if fake else [commands]), warnings=warnings):
        assert _running(word) == []
    (warning,) = warnings
    which = "fakeRootCommands" if fake else "extraCommands"
    assert warning == f"{which}: killed processes that were left running: sleep, sleep, sleep"


def test_processes_that_end_by_themselves() -> None:
    """Without it processes that bash does not wait for would be killed, or not, by chance."""
    with _ran("echo x > >(sleep 0.05; cat > late)") as tree:
        assert _content(tree.find(b"late")) == b"x\n"


@pytest.mark.parametrize("raised", [ValueError, KeyboardInterrupt])
def test_removed_after_an_error(place: Path, raised: type[BaseException]) -> None:
    """Without it each failed run would leave a copy of the tree."""
    with pytest.raises(raised), _ran("mkdir -p a/b; chmod 0 a/b a"):
        raise raised
    assert os.listdir(place) == []


SIGNALLED = """
import sys
from stream.cli.signals import Stopped, StopSignals
from stream.sources.customisation.sandbox.commands import run_commands
from stream.sources.customisation.tree import Tree
from stream.nix.store_root import Disk
from stream.model import Recipe
import os
StopSignals().catch()
try:
    with run_commands(Tree(), Recipe(**{recipe!r}), disk=Disk(), mtime=0, warn=print): pass
except Stopped as stopped:
    os._exit(128 + stopped.signum)
"""


@pytest.mark.slow
@pytest.mark.parametrize("key", ["extra_commands", "fake_root_commands"])
@pytest.mark.parametrize("signum", [signal.SIGINT, signal.SIGTERM])
def test_signals(place: Path, key: str, signum: signal.Signals) -> None:
    """Without it Ctrl-C would wait for the commands, or leave them and their tree behind."""
    if key == "fake_root_commands":
        require(["fakeroot"])
    word = f"4{os.getpid()}.5"
    commands = f"trap '' INT TERM; setsid sleep {word} & mkdir -m 0 a; sleep {word}"
    code = SIGNALLED.format(recipe={key: commands})
    with subprocess.Popen(
        [sys.executable, "-c", code], env={**os.environ, "TMPDIR": str(place)}, cwd=SITES[0]
    ) as process:
        try:
            until(lambda: len(_running(word)) == 2)
            process.send_signal(signum)
            assert process.wait(10) == 128 + signum
        finally:
            process.kill()
    assert _running(word) == []


@pytest.mark.parametrize(
    "depth", [0, *(pytest.param(depth, marks=pytest.mark.slow) for depth in (1, 2))]
)
def test_ended_with_any_process_above(place: Path, depth: int) -> None:
    """Without it commands would go on after one of the programs around them was killed, and could
    write files that nobody removes. The one that reads their request is stopped meanwhile.
    """
    word = f"5{os.getpid()}.5"
    code = SIGNALLED.format(recipe={"extra_commands": f"kill -STOP $PPID; sleep {word}"})
    with subprocess.Popen(
        [sys.executable, "-c", code], env={**os.environ, "TMPDIR": str(place)}, cwd=SITES[0],
        stderr=subprocess.DEVNULL,
    ) as process:  # fmt: skip
        try:
            until(lambda: _running(word))
            pid = process.pid
            for _ in range(depth):
                children = Path(f"/proc/{pid}/task/{pid}/children").read_text()
                pid = int(children.split()[-1])
            os.kill(pid, signal.SIGKILL)
            assert process.wait(10)
        finally:
            process.kill()
    until(lambda: not _running(word))
    until(lambda: not os.listdir(place))


@pytest.mark.slow
def test_deep_directories() -> None:
    """Without it directories too deep for recursion, or for a path, would be left behind."""
    code = "import os\nfor _ in range(1200): os.mkdir(b'd' * 99); os.chdir(b'd' * 99)"
    with (
        pytest.raises(CommandsError, match="made a path of more than 4095 bytes: /dddd"),
        _ran(f'{PYTHON} -IS -c "{code}"'),
    ):
        pass


def test_scratch_alone() -> None:
    """Without it commands could keep the private directory from being removed."""
    with opened_scratch() as there:
        write(Tree(), there, 0)
        os.chmod(there.temporary, 0)
        os.rename(there.tree, there.path + b"/0")
        os.symlink(b"/", there.tree)
        os.makedirs(there.path + b"/1/0/1")


def test_limit_of_names() -> None:
    """Without it we would read paths that Linux cannot open."""
    assert os.pathconf("/", "PC_PATH_MAX") - 1 == MAX_PATH

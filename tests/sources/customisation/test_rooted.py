"""`runAsRoot`: what commands find in the image, and the layer that they leave."""

import io
import os
import shlex
import shutil
import subprocess
import tarfile
import tempfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from consumers.requirements import require, unmet
from handmade import Base
from roots import Node, flattened

from sources.customisation.sandbox.nobody import call_as_nobody
from stream.errors import CommandsError, DigestMismatch
from stream.planning.plan import plan
from stream.planning.spec import read_spec_document
from stream.sources.customisation.sandbox import isolation
from stream.tools.customise import write_customisation_layer

CAPABLE = {"SCHILY.xattr.security.capability": "\x01\0\0\x02\0\x04\0\0" + "\0" * 12}
TIME = 1_700_000_000


def member(kind: bytes = tarfile.REGTYPE, mode: int = 0o644, **attributes: Any) -> tarfile.TarInfo:
    """Return a header without a name."""
    info = tarfile.TarInfo()
    info.type, info.mode, info.mtime = kind, mode, TIME
    for key, value in attributes.items():
        setattr(info, key, value)
    return info


def directory(mode: int = 0o755, **attributes: Any) -> tarfile.TarInfo:
    """Return the header of a directory."""
    return member(tarfile.DIRTYPE, mode, **attributes)


def layer_tar(members: dict[str, tuple[tarfile.TarInfo, bytes] | tarfile.TarInfo]) -> bytes:
    """Return a layer of headers, some of which have content."""
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w", format=tarfile.PAX_FORMAT) as tar:
        for name, what in members.items():
            info, content = what if isinstance(what, tuple) else (what, b"")
            info.name, info.size = name, len(content)
            tar.addfile(info, io.BytesIO(content))
    return file.getvalue()


LOWER = layer_tar(
    {
        "dev": directory(), "dev/null": member(tarfile.CHRTYPE, 0o666, devmajor=1, devminor=3),
        "sys": directory(0o555), "bin": member(tarfile.SYMTYPE, linkname="usr/bin"),
        "usr": directory(), "usr/bin": directory(),
        "etc": directory(), "etc/shadow": (member(mode=0o640, gid=42), b"x"),
        "etc/gone": (member(), b"is gone"), "etc/closed": (member(mode=0o400), b"closed"),
        "d": directory(), "d/x": (member(), b"x"), "d/y": (member(), b"y"),
        "opt": directory(0o700, uid=5, gid=6), "opt/a": (member(mode=0o4755, uid=7), b"a"),
        "opt/b": member(tarfile.LNKTYPE, linkname="opt/a"),
        "opt/capable": (member(pax_headers=CAPABLE), b"c"),
        "shut": directory(0o555), "old": (member(), b"old"),
    }
)  # fmt: skip
UPPER = layer_tar({".wh.old": member(), "opt/c": (member(uid=70_000), b"c")})
SCRIPT = """
test $(id -u) = 0; test $PWD = /; test $0 = runAsRoot
test -c /dev/null; test -d /proc/self; test -w /tmp; test ! -e /old
test "$(stat -c %u:%g:%a /opt /opt/a /etc/shadow | tr '\\n' ' ')" = "5:6:700 7:0:4755 0:42:640 "
test $(stat -c %Y /etc/gone) = 1700000000; test "$(cat /content)" = content
rm /etc/gone; rm -r /d; mkdir /d; echo n > /d/n
echo more >> /etc/closed; chown 12:34 /etc/closed; touch /shut/new
mknod /n b 7 8; mkfifo /fifo; ln /opt/b /opt/linked; chmod 2755 /content
ln -s /nowhere /link; mv /etc/shadow /bin/shadow
"""


def archive_at(place: Path, *layers: bytes) -> str:
    """Write an archive, and return its name."""
    archive = place / "base.tar"
    archive.write_bytes(Base(layers=list(layers)).docker_archive())
    archive.chmod(0o644)
    return str(archive)


def made(keys: dict[str, Any], warnings: list[str] | None = None) -> bytes:
    """Return the bytes of the customisation layer of a specification with `keys`."""
    heard = [] if warnings is None else warnings
    spec = read_spec_document(
        {"name": "x", "architecture": "amd64", **keys}, name="spec", warn=heard.append
    )
    with tempfile.TemporaryFile() as file:
        write_customisation_layer(spec.conf, file.fileno(), name="spec", warn=heard.append)
        file.seek(0)
        found = file.read()
    assert warnings is not None or heard == []
    return found


def keys_at(place: Path) -> dict[str, Any]:
    """Return a specification in which everything happens; its files are in `place`."""
    contents = place / "contents"
    contents.mkdir(mode=0o755)
    (contents / "content").write_text("content")
    return {
        "fromImage": archive_at(place, LOWER, UPPER),
        "copyToRoot": [str(contents)],
        "runAsRoot": SCRIPT,
    }


def outcome(keys: dict[str, Any]) -> str:
    """Return the layer of that specification with `keys`, as JSON can hold it."""
    with tempfile.TemporaryDirectory() as place:
        return made({**keys_at(Path(place)), **keys}).decode("latin-1")


def read(layer: bytes) -> dict[str, Node]:
    """Return the entries of a layer by path, whiteouts too."""
    with tarfile.open(fileobj=io.BytesIO(layer)) as tar:
        whiteouts = {info.name.removeprefix("./"): info for info in tar if ".wh." in info.name}
    return {**dict.fromkeys(whiteouts), **flattened([layer])}  # type: ignore[dict-item]


@pytest.fixture(autouse=True)
def sandbox() -> None:
    """Require the sandbox, and fakeroot."""
    require([isolation.BUBBLEWRAP, "fakeroot", "unshare"])
    command = ["unshare", "--user", "--map-root-user", "--mount", "true"]
    if subprocess.run(command, check=False, capture_output=True).returncode:
        unmet("no user namespaces")


@pytest.fixture
def place(monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Make a directory that everybody can use, and one for temporary files in it, which must be
    empty at the end.
    """
    path = Path(tempfile.mkdtemp(prefix="r"))
    (path / "tmp").mkdir()
    for each in path, path / "tmp":
        each.chmod(0o1777)
    monkeypatch.setattr("tempfile.tempdir", str(path / "tmp"))
    yield path
    assert os.listdir(path / "tmp") == []
    shutil.rmtree(path)


def test_layer(place: Path) -> None:
    """Without it an image would not be the one that its commands left."""
    layer = made(keys_at(place))
    found = read(layer)
    assert set(found) == {
        "", "content", "d", "d/.wh.x", "d/.wh.y", "d/n", "etc", "etc/.wh.gone", "etc/.wh.shadow",
        "etc/closed", "fifo", "link", "n", "opt", "opt/a", "opt/b", "opt/linked", "shut",
        "shut/new", "usr", "usr/bin", "usr/bin/shadow",
    }  # fmt: skip
    root = flattened([LOWER, UPPER, layer])
    assert "old" not in root
    assert "d/x" not in root
    assert (root["etc/closed"].uid, root["etc/closed"].gid) == (12, 34)
    assert root["etc/closed"].content == b"closedmore\n"
    assert root["n"].device == (7, 8)
    assert root["opt/a"].same == ("opt/a", "opt/b", "opt/linked")
    assert (root["opt/a"].mode, root["opt/a"].uid) == (0o4755, 7)
    assert (root["opt"].mode, root["opt"].uid, root["opt"].gid) == (0o700, 5, 6)
    assert (root["usr/bin/shadow"].mode, root["usr/bin/shadow"].gid) == (0o640, 42)
    assert root["content"].mode == 0o2755
    assert root["shut"].mode == 0o555
    assert root["opt/capable"].xattrs


# As /bin/sh it does nothing; otherwise it gives a file to a user and a group, and shows them.
SHELL = """
#include <stdio.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <unistd.h>

int main(int argc, char **argv)
{
    struct stat found;
    if (argc < 4)
        return 0;
    if (chown(argv[1], atoi(argv[2]), atoi(argv[3])) || chmod(argv[1], 0751)
        || stat(argv[1], &found) || mknod("/made", S_IFBLK | 0600, makedev(8, 1)))
        return 1;
    printf("%d:%d\\n", (int)found.st_uid, (int)found.st_gid);
    return 0;
}
"""


def musl_base(place: Path) -> bytes:
    """Return a layer whose shell is a program of another C library."""
    require(["musl-gcc"])
    (loader,) = Path("/lib").glob("ld-musl-*.so.1")
    program = place / "sh"
    subprocess.run(["musl-gcc", "-x", "c", "-", "-o", program], input=SHELL, text=True, check=True)
    return layer_tar(
        {
            "bin": directory(), "bin/sh": (member(mode=0o755), program.read_bytes()),
            "lib": directory(), f"lib/{loader.name}": (member(mode=0o755), loader.read_bytes()),
            "etc": directory(), "etc/shadow": (member(mode=0o640, gid=42), b"x"),
            "file": (member(), b""), "other": (member(uid=3), b""),
        }
    )  # fmt: skip


def test_another_c_library(place: Path) -> None:
    """Without it no program of an Alpine image would start, as fakeroot's preload needs glibc."""
    base = musl_base(place)
    script = (
        "/bin/sh file 5 6 > /said; mv /file /moved; chown :7 other; stat -c %u:%g other >> said"
    )
    layer = made({"fromImage": archive_at(place, base), "runAsRoot": script})
    root = flattened([base, layer])
    assert root["said"].content == b"5:6\n3:7\n"
    assert (root["moved"].uid, root["moved"].gid, root["moved"].mode) == (5, 6, 0o751)
    assert (root["other"].uid, root["other"].gid) == (3, 7)
    assert root["made"].device == (8, 1)
    assert "etc/shadow" not in read(layer)
    hook = "chroot mnt /bin/sh other 7 8 > said"
    layer = made({"fromImage": archive_at(place, base), "postMount": f"{hook}; grep -qx 7:8 said"})
    assert (read(layer)["other"].uid, read(layer)["other"].gid) == (7, 8)


def system_base() -> bytes:
    """Return a layer with programs of this machine, which run with libraries in the image alone."""
    files: set[Path] = set()
    for name in ("bash", "chown", "mkdir", "setcap", "stat"):
        found = shutil.which(name, path="/usr/bin:/usr/sbin:/sbin")
        if found is None:
            pytest.skip(f"no {name} here")
        files.add(Path(found))
        listed = subprocess.run(["ldd", found], check=True, capture_output=True, text=True).stdout
        files |= {Path(word) for word in listed.split() if word.startswith("/")}
    members: dict[str, Any] = {}
    for file in sorted(files):
        for above in reversed(file.parents[:-1]):
            members.setdefault(str(above)[1:], directory())
        members[str(file)[1:]] = (member(mode=0o755), file.read_bytes())
    return layer_tar(members)


@pytest.mark.slow
def test_programs_of_the_image(place: Path) -> None:
    """Programs of this machine, or its libraries, would run in the place of the image's own."""
    base = system_base()
    script = """
        [[ $BASH == /usr/bin/bash && $(type -P stat) == /usr/bin/stat && ! -e /usr/share ]]
        mkdir /new; chown 5:6 /new; [[ $(stat -c %u:%g /new) == 5:6 ]]
        setcap cap_net_raw=ep /usr/bin/mkdir
    """
    root = flattened([base, made({"fromImage": archive_at(place, base), "runAsRoot": script})])
    assert (root["new"].uid, root["new"].gid) == (5, 6)
    assert root["usr/bin/mkdir"].xattrs
    assert root["usr/bin/mkdir"].content


def test_set_id_bits_when_owners_change(place: Path) -> None:
    """Without it a program would run as an owner that it was not meant for."""
    require(["busybox"])
    shutil.copy(shutil.which("busybox") or "", place / "busybox")
    box = member(mode=0o755), (place / "busybox").read_bytes()
    base = layer_tar({"bin": directory(), "bin/busybox": box, "a": (member(mode=0o6755), b"")})
    script = """
        for i in b c d; do touch $i; done; mkdir e; chmod 6755 b c d e
        chown 5:5 a b e; busybox chown 5:5 c; busybox chown 5:5 d; busybox chmod 4711 d
    """
    layer = made({"fromImage": archive_at(place, base), "runAsRoot": script})
    modes = {path: oct(read(layer)[path].mode) for path in "abcde"}
    assert modes == {"a": "0o755", "b": "0o755", "c": "0o755", "d": "0o4711", "e": "0o6755"}


def test_shell_that_cannot_start(place: Path) -> None:
    """Without it nobody would know what is missing in the image."""
    shell = member(mode=0o755), b"#!/nowhere/shell"
    base = layer_tar({"bin": directory(), "bin/bash": shell})
    wrong = "/bin/bash cannot be run: No such file or directory; the program that interprets it"
    with pytest.raises(CommandsError, match=f"runAsRoot: {wrong}"):
        made({"fromImage": archive_at(place, base), "runAsRoot": ":"})


def test_nothing_changed(place: Path) -> None:
    """What is there for the commands alone would be in the image, and hide the base's own."""
    base = archive_at(place, LOWER, UPPER)
    assert read(
        made({"fromImage": base, "runAsRoot": "ls / /dev /proc /sys > /dev/null"})
    ).keys() == {""}
    assert read(made({"runAsRoot": "touch $TMPDIR/x; test -d /tmp"})).keys() == {""}


@pytest.mark.slow
def test_later_commands(place: Path) -> None:
    """They run in the layer, not in the image, and what was removed stays so."""
    keys = {
        "fromImage": archive_at(place, LOWER, UPPER),
        "runAsRoot": "rm -r /d /etc/gone; chown 3 /etc/shadow; ln /opt/a /linked",
        "extraCommands": "mkdir d; touch d/y; test ! -e etc/closed; mkdir bin; touch bin/new",
        "fakeRootCommands": "test $(stat -c %u etc/shadow) = 3; chown 4 d/y",
    }
    layer = made(keys)
    assert {path for path in read(layer) if ".wh." in path} == {"d/.wh.x", "etc/.wh.gone"}
    root = flattened([LOWER, UPPER, layer])
    assert (root["d/y"].uid, root["etc/shadow"].uid) == (4, 3)
    assert root["linked"].same == ("linked", "opt/a", "opt/b")
    assert root["bin"].link == "usr/bin"
    assert "usr/bin/new" in root


def test_tmp_of_the_image(place: Path) -> None:
    """Without it an image would lack what commands wrote there, or have what was only ours."""
    base = archive_at(place, layer_tar({"tmp": directory(0o1777), "tmp/gone": (member(), b"")}))
    layer = made({"fromImage": base, "runAsRoot": "rm /tmp/gone; mktemp; echo > /tmp/kept"})
    assert read(layer).keys() == {"", "tmp", "tmp/kept", "tmp/.wh.gone"}


@pytest.mark.slow
def test_hooks(place: Path) -> None:
    """Without it Nix's runWithOverlay could not be built on this."""
    keys = {
        "fromImage": archive_at(place, LOWER, UPPER),
        "preMount": "test ! -e mnt; echo one > layer/one; chown 3:4 layer/one",
        "postMount": (
            "test $(stat -c %u mnt/one) = 3; test ! -e layer; rm mnt/etc/gone; echo > mnt/shut/two;"
            " chmod 4711 mnt/opt/c; test $(stat -c %u mnt/opt/c) = 70000"
        ),
        "runAsRoot": "test \"$(stat -c %g:%a /one /opt/c | xargs)\" = '4:644 0:4711'; rm /d/x",
        "postUmount": "test ! -e layer/d/y; mv layer/one layer/three; chown 9 layer/shut/two",
    }
    layer = made(keys)
    assert read(layer).keys() == {
        "", "d", "d/.wh.x", "etc", "etc/.wh.gone", "opt", "opt/c", "shut", "shut/two", "three"
    }  # fmt: skip
    root = flattened([LOWER, UPPER, layer])
    assert (root["three"].uid, root["three"].gid, root["shut/two"].uid) == (3, 4, 9)
    assert (root["opt/c"].uid, root["opt/c"].mode) == (70_000, 0o4711)


def test_image_with_a_store(place: Path) -> None:
    """Programs of a base image that are store paths would be hidden by this machine's store."""
    theirs, ours = "0" * 32 + "-theirs", "1" * 32 + "-ours"
    store = place / "root/nix/store"
    store.mkdir(parents=True)
    (store / ours).write_text("ours")
    base = layer_tar(
        {
            "nix": directory(), "nix/store": directory(0o555),
            f"nix/store/{theirs}": (member(), b"theirs"),
        }
    )  # fmt: skip
    keys = {
        "fromImage": archive_at(place, base),
        "store_root": str(place / "root"),
        "runAsRoot": f"cd /nix/store; cat {theirs} {ours} > /both; ! touch x; ! echo > {theirs}",
    }
    found = read(made(keys))
    assert found.keys() == {"", "both"}
    assert found["both"].content == b"theirsours"


@pytest.mark.slow
def test_many_layers(place: Path) -> None:
    """A mount of overlays has a limit; so would the base image."""
    layers = [layer_tar({f"f{n}": (member(), b"%d" % n)}) for n in range(129)]
    layers.append(layer_tar({f".wh.f{n}": member() for n in range(100)}))
    base = archive_at(place, *layers)
    layer = made({"fromImage": base, "runAsRoot": "ls -d /f* > /list; rm /f101"})
    root = flattened([*layers, layer])
    assert root["list"].content.decode().split() == [f"/f{n}" for n in range(100, 129)]
    assert "f101" not in root


@pytest.mark.slow
@pytest.mark.skipif(os.geteuid() != 0, reason="needs root, to be somebody else")
def test_root_and_nobody(place: Path) -> None:
    """Without it the image would depend on the user who makes it."""
    module = "sources.customisation.test_rooted"
    (found,) = call_as_nobody(module, "outcome", [{}], place / "tmp")
    assert found == outcome({})


def test_closure(place: Path) -> None:
    """The image would lack a store path that only its commands mention."""
    name = "0" * 32 + "-x"
    store = place / "root/nix/store"
    store.mkdir(parents=True)
    (store / name).write_text("stored")
    spec = read_spec_document(
        {
            "name": "x",
            "architecture": "amd64",
            "store_root": str(place / "root"),
            "runAsRoot": f"test $(cat /nix/store/{name}) = stored; ln -s /nix/store/{name} /x",
        }
    )
    conf = plan(spec).conf
    assert conf.store_layers[0].store_paths == (f"/nix/store/{name}".encode(),)


@pytest.mark.skipif(not os.path.exists("/etc/resolv.conf"), reason="no name servers here")
@pytest.mark.usefixtures("place")
def test_network() -> None:
    """With the network and no name server, most of what commands fetch would not be found."""
    script = (
        f"[[ $(</etc/resolv.conf) == {shlex.quote(Path('/etc/resolv.conf').read_text().strip())} ]]"
    )
    assert read(made({"runAsRoot": script, "network": True})).keys() == {""}
    assert read(made({"runAsRoot": "! test -e /etc/resolv.conf"})).keys() == {""}


def test_failure(place: Path) -> None:
    """Without it nobody would know which command failed, or that one did."""
    base = archive_at(place, LOWER, UPPER)
    with pytest.raises(CommandsError, match=r"runAsRoot: failed at line 2 .* 3: \(exit 3\)"):
        made({"fromImage": base, "runAsRoot": "true\n(exit 3)"})


def test_without_the_sandbox(place: Path) -> None:
    """Without the sandbox, the image cannot be the root directory: that must be said."""
    spec = read_spec_document({"name": "x", "fromImage": archive_at(place), "runAsRoot": "true"})
    conf = replace(spec.conf, commands="unsandboxed")
    with (
        tempfile.TemporaryFile() as file,
        pytest.raises(CommandsError, match="as its root directory; leave out --unsandboxed"),
    ):
        write_customisation_layer(conf, file.fileno(), name="spec", warn=print)


def test_no_sandbox_here(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The message would recommend what does not help."""

    def refuse() -> None:
        raise isolation.NoSandboxError("forbidden")

    monkeypatch.setattr(isolation, "owner", refuse)
    with pytest.raises(CommandsError, match=r"here \(forbidden\); allow user namespaces$"):
        made({"fromImage": archive_at(place), "runAsRoot": "true"})


def test_base_that_is_another(place: Path) -> None:
    """Commands would run in files that nobody vouches for."""
    base = archive_at(place, LOWER)
    data = Path(base).read_bytes()
    Path(base).write_bytes(data.replace(b"is gone\0", b"is here\0"))
    with pytest.raises(DigestMismatch):
        made({"fromImage": base, "runAsRoot": "true"})


def test_whiteout_of_their_own(place: Path) -> None:
    """A file that would delete another in the image cannot be meant."""
    with pytest.raises(Exception, match="which marks a deleted file"):
        made({"fromImage": archive_at(place, LOWER), "runAsRoot": "touch /.wh.etc"})

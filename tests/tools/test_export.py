"""`stream-image export`: the root file system that an image's layers make."""

import io
import itertools
import os
import subprocess
import tarfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import handmade
import pytest
from conftest import Run
from handmade import Base, link, tar_of
from hypothesis import given
from hypothesis import strategies as st
from roots import Node, flattened, read_root
from support import COMMAND, Store

from stream.errors import ArchiveError
from stream.tools.export import export

HARD, DIRECTORY = tarfile.LNKTYPE, tarfile.DIRTYPE
Entry = tuple[str, bytes | tarfile.TarInfo]


def entry(kind: bytes = DIRECTORY, **fields: Any) -> tarfile.TarInfo:
    """Return a header, to be named."""
    info = tarfile.TarInfo()
    info.type = kind
    for field, value in fields.items():
        setattr(info, field, value)
    return info


def exported(archive: bytes | Path, directory: Path) -> bytes:
    """Return the tar that the library writes for an archive."""
    path = directory / "archive" if isinstance(archive, bytes) else archive
    if isinstance(archive, bytes):
        path.write_bytes(archive)
    out = directory / "root.tar"
    with out.open("wb") as file:
        export(path, file)
    return out.read_bytes()


def root_of(layers: Sequence[Sequence[Entry]], directory: Path) -> dict[str, Node]:
    """Return the root file system of an image with those layers."""
    base = Base(layers=[tar_of(entries) for entries in layers])
    return read_root(exported(base.docker_archive(), directory))


def shown(root: dict[str, Node]) -> list[str]:
    """Return paths with their types and contents, as readable text."""
    return sorted(
        path
        + ("/" if node.kind == DIRECTORY else "")
        + (f" -> {node.link}" if node.link else "")
        + (f" = {node.content.decode()}" if node.content else "")
        for path, node in root.items()
    )


FLATTENED: dict[str, tuple[list[list[Entry]], list[str]]] = {
    "upper wins": ([[("a", b"1"), ("b", b"1")], [("a", b"2")]], ["a = 2", "b = 1"]),
    "no directory entries": ([[("a/b/c", b"1")], [("a/b/d", b"2")]],
        ["a/", "a/b/", "a/b/c = 1", "a/b/d = 2"]),
    "every way to write a name": ([[("./a", b"1"), ("/b", b"1"), ("./", entry()), ("c/", entry())],
        [("/a", b"2"), ("./b", b"2"), ("/c/d", b"2")]], ["/", "a = 2", "b = 2", "c/", "c/d = 2"]),
    "whiteout of a file": ([[("d/a", b"1"), ("d/b", b"1")], [("d/.wh.a", b"")]],
        ["d/", "d/b = 1"]),
    "whiteout of a directory": ([[("d/a", b"1"), ("e", b"1")], [(".wh.d", b"")]], ["e = 1"]),
    "whiteout of nothing": ([[("a", b"1")], [(".wh.b", b""), ("c/.wh.d", b"")]], ["a = 1"]),
    "whiteout hides lower layers alone": (
        [[("d/a", b"1")], [("d/a", b"2"), (".wh.d", b""), ("d/b", b"2"), ("d/.wh.a", b"")]],
        ["d/", "d/a = 2", "d/b = 2"]),
    "whiteout, and again": ([[("a", b"1")], [(".wh.a", b"")], [("a", b"3")]], ["a = 3"]),
    "opaque": ([[("d/a", b"1"), ("d/e/f", b"1"), ("g", b"1")],
        [("d/b", b"2"), ("d/.wh..wh..opq", b"")]], ["d/", "d/b = 2", "g = 1"]),
    "opaque root": ([[("d/a", b"1")], [(".wh..wh..opq", b""), ("b", b"2")]], ["b = 2"]),
    "AUFS's own files": ([[(".wh..wh.plnk", entry()), (".wh..wh.plnk/1.2", b"x"),
        (".wh..wh.aufs", b""), ("a", b"1")]], ["a = 1"]),
    "directory where a file was": ([[("a", b"1")], [("a/b", b"2")]], ["a/", "a/b = 2"]),
    "file where a directory was": ([[("a/b", b"1")], [("a", b"2")]], ["a = 2"]),
    "directories merge": ([[("a", entry()), ("a/b", b"1")], [("a", entry()), ("a/c", b"2")]],
        ["a/", "a/b = 1", "a/c = 2"]),
    "link to a directory gives way to a directory": (
        [[("usr/bin/a", b"1"), ("bin", link("usr/bin"))], [("bin/b", b"2")]],
        ["bin/", "bin/b = 2", "usr/", "usr/bin/", "usr/bin/a = 1"]),
    "link of the same layer is followed": (
        [[("usr/bin/a", b"1"), ("bin", link("usr/bin")), ("bin/b", b"2"), ("x/y", link("../bin")),
          ("z", link("/x/y")), ("z/c", b"3"), ("up", link("../../..")), ("up/d", b"4")]],
        ["bin -> usr/bin", "d = 4", "up -> ../../..", "usr/", "usr/bin/", "usr/bin/a = 1",
         "usr/bin/b = 2", "usr/bin/c = 3", "x/", "x/y -> ../bin", "z -> /x/y"]),
    "hard links stay": ([[("a", b"1"), ("b", link("a", HARD))]], ["a = 1", "b = 1"]),
    "hard link's target hidden": ([[("a", b"1"), ("b", link("/a", HARD))], [(".wh.a", b"")]],
        ["b = 1"]),
    "hard link's target replaced": ([[("a", b"1"), ("b", link("./a", HARD))], [("a", b"2")]],
        ["a = 2", "b = 1"]),
    "hard link to a lower layer": ([[("a", b"1")], [("b", link("a", HARD))]],
        ["a = 1", "b = 1"]),
    "hard link to a symbolic link": ([[("a", link("x")), ("b", link("a", HARD))]],
        ["a -> x", "b -> x"]),
    "whiteout through a file": ([[("a", b"1")], [("a/.wh.b", b"")]], ["a = 1"]),
    "nothing": ([[]], []),
}  # fmt: skip


@pytest.mark.parametrize("case", FLATTENED)
def test_flattened(tmp_path: Path, case: str) -> None:
    """Each way in which a layer changes the layers below it."""
    layers, expected = FLATTENED[case]
    assert shown(root_of(layers, tmp_path)) == expected


def test_hard_links_are_one_file(tmp_path: Path) -> None:
    """However many of its names remain, a file is written once."""
    layers: list[list[Entry]] = [
        [("a", b"1" * 5000), *((name, link("a", HARD)) for name in "bcd")],
        [(".wh.a", b""), ("e/f", link("c", HARD)), ("d", b"other")],
    ]
    root = root_of(layers, tmp_path)
    assert root["b"].same == ("b", "c", "e/f")
    assert root["d"].same == ("d",)
    assert root["b"].content == b"1" * 5000


def test_empty_directories_in_read_only_ones(tmp_path: Path) -> None:
    """Without it tar, run by a user, could not make such a directory after leaving its parent."""
    closed = entry(mode=0o555)
    layers: list[list[Entry]] = [
        [
            ("store", closed),
            ("store/etc", closed),
            ("store/etc/none", closed),
            ("store/var", closed),
        ]
        + [("store/bin", closed), ("store/bin/tool", b"1"), ("top", entry(mode=0o755))],
        [("other", b"2")],
    ]
    base = Base(layers=[tar_of(entries) for entries in layers])
    tar = exported(base.docker_archive(), tmp_path)
    root = tmp_path / "root"
    root.mkdir()
    user = None
    if os.geteuid() == 0:
        user = 65534
        os.chown(root, user, -1)
    done = subprocess.run(
        ["tar", "-x"], cwd=root, user=user, input=tar, stderr=subprocess.PIPE, check=False
    )
    assert (done.returncode, done.stderr) == (0, b"")
    assert {str(path.relative_to(root)) for path in root.rglob("*")} == {
        name for layer in layers for name, _ in layer
    }


def test_attributes(tmp_path: Path) -> None:
    """Every attribute of an entry is in the tar; otherwise a restored system does not run."""
    capability = b"\x01\0\0\x02\x00\x04\xff".decode("utf-8", "surrogateescape")
    xattrs = {"SCHILY.xattr.security.capability": capability, "SCHILY.xattr.user.ä": "ö\n"}
    kinds = {
        "file": entry(tarfile.REGTYPE, mode=0o4711, uid=3_000_000_000, gid=12, uname="u", gname="g"),
        "long/" + "n" * 300: entry(tarfile.REGTYPE, mtime=-5),
        "time": entry(tarfile.REGTYPE, mtime=1_700_000_000.25),
        "far": entry(tarfile.REGTYPE, mtime=1 << 35, uname="ü" * 40),
        "null": entry(tarfile.CHRTYPE, devmajor=1, devminor=3, mode=0o666),
        "disk": entry(tarfile.BLKTYPE, devmajor=259, devminor=1_000_000),
        "fifo": entry(tarfile.FIFOTYPE, mode=0o600),
        "tmp": entry(DIRECTORY, mode=0o1777, pax_headers=xattrs),
        "caps": entry(tarfile.REGTYPE, pax_headers=xattrs),
        "link": entry(tarfile.SYMTYPE, linkname="t" * 200, mode=0o777),
        "not UTF-8 \udcff": entry(tarfile.REGTYPE),
    }  # fmt: skip
    layer = tar_of([*kinds.items()])
    data = exported(Base(layers=[layer]).docker_archive(), tmp_path)
    root = read_root(data)
    assert {path: root[path] for path in kinds} == {
        path: node for path, node in flattened([layer]).items() if path in kinds
    }
    assert dict(root["caps"].xattrs) == xattrs


def test_global_headers(tmp_path: Path) -> None:
    """A global header of a pax archive applies to each of its members."""
    file = io.BytesIO()
    with tarfile.open(
        fileobj=file, mode="w", format=tarfile.PAX_FORMAT, pax_headers={"uname": "everybody"}
    ) as tar:
        tar.addfile(tarfile.TarInfo("a"))
    root = read_root(exported(Base(layers=[file.getvalue()]).docker_archive(), tmp_path))
    assert root["a"].uname == "everybody"


LAYERS = [
    tar_of([("d", entry(mode=0o700)), ("d/big", os.urandom(600_000)), ("x", b"x")]),
    tar_of([("./d/small", b"2"), ("./.wh.x", b""), ("./h", link("d/small", HARD))]),
    tar_of([("/d", entry(mode=0o711)), ("/y", b"3" * 512)]),
]
BASE = Base(layers=LAYERS)


@pytest.mark.parametrize(
    ("kind", "compressor"),
    [
        *itertools.product(["docker", "oci", "oci-gzip", "oci-zstd"], handmade.COMPRESSORS),
        ("directory", "none"),
    ],
)
def test_every_container(tmp_path: Path, kind: str, compressor: str) -> None:
    """The root file system is the same to the byte for every container."""
    if kind == "docker":
        files: dict[str, bytes] = {}
        archive = BASE.docker_archive()
    else:
        pack = handmade.COMPRESSORS[kind.removeprefix("oci-") if "-" in kind else "plain"]
        files = BASE.oci_files([pack(layer) for layer in LAYERS])
        archive = tar_of([(name, data) for name, data in sorted(files.items())])
    path = tmp_path / "image"
    if kind == "directory":
        for name, data in files.items():
            (path / name).parent.mkdir(parents=True, exist_ok=True)
            (path / name).write_bytes(data)
    else:
        path.write_bytes(handmade.COMPRESSORS[compressor](archive))
    root = read_root(exported(path, tmp_path))
    assert root == flattened(LAYERS)
    assert root["h"].same == ("d/small", "h")
    assert root["d"].mode == 0o711


def test_layer_twice(tmp_path: Path) -> None:
    """A layer that is listed again hides the layers in between."""
    one, two = tar_of([("a", b"1"), ("b", b"1")]), tar_of([("a", b"2"), (".wh.b", b"")])
    base = Base(layers=[one, two, one])
    archive = base.docker_archive(names=["1", "2", "1"])
    assert shown(read_root(exported(archive, tmp_path))) == ["a = 1", "b = 1"]


def test_many_layers(tmp_path: Path) -> None:
    """File systems' limits on the number of layers do not apply."""
    layers = [tar_of([(f"f{n}", b"%d" % n), ("last", b"%d" % n)]) for n in range(300)]
    root = read_root(exported(Base(layers=layers).docker_archive(), tmp_path))
    assert len(root) == 301
    assert root["last"].content == b"299"


# ---- against an oracle

paths = st.lists(st.sampled_from("abc"), min_size=1, max_size=3).map("/".join)
whiteouts = st.tuples(
    st.sampled_from(["", "a/", "b/", "a/b/"]), st.sampled_from([".wh.a", ".wh.b", ".wh..wh..opq"])
).map("".join)
entries = st.one_of(
    st.tuples(paths, st.just(tarfile.REGTYPE)),
    st.tuples(paths, st.just(DIRECTORY)),
    st.tuples(paths, st.just(tarfile.FIFOTYPE)),
    st.tuples(whiteouts, st.just(tarfile.REGTYPE)),
)


@st.composite
def images(draw: st.DrawFn) -> list[bytes]:
    """Draw layers whose hard links lead to existing files, and which are valid."""
    layers = []
    number = 0
    for _ in range(draw(st.integers(1, 4))):
        members: list[Entry] = []
        kinds: dict[str, bytes] = {}
        for path, kind in draw(st.lists(entries, max_size=6)):
            above = [path[:at] for at, char in enumerate(path) if char == "/"]
            if any(kinds.get(name, DIRECTORY) != DIRECTORY for name in above):
                continue  # below an entry of this layer that is not a directory
            if any(known.startswith(f"{path}/") for known in kinds):
                continue
            kinds |= dict.fromkeys(above, DIRECTORY) | {path: kind}
            number += 1
            files = [name for name, known in kinds.items() if known == tarfile.REGTYPE]
            files = [name for name in files if ".wh." not in name and name != path]
            if kind == tarfile.REGTYPE and ".wh." not in path and files and draw(st.booleans()):
                members.append((path, link(draw(st.sampled_from(sorted(files))), HARD)))
            elif kind == tarfile.REGTYPE:
                members.append((path, b"%d" % number))
            else:
                members.append((path, entry(kind, mode=number)))
        layers.append(tar_of(members))
    return layers


@given(layers=images())
def test_as_extracted_layer_by_layer(layers: list[bytes], tmp_path: Path) -> None:
    """One tar is the same as every layer extracted over those below."""
    archive = Base(layers=layers).docker_archive()
    assert read_root(exported(archive, tmp_path)) == flattened(layers)


# ---- faults

HOSTILE: dict[str, tuple[list[list[Entry]], str]] = {
    "name upwards": ([[("a/../../b", b"")]], "is outside the root"),
    "hard link to nothing": ([[("a", link("b", HARD))]], "does not exist"),
    "hard link to itself": ([[("a", link("a", HARD))]], "does not exist"),
    "hard link to a directory": ([[("d", entry()), ("a", link("d", HARD))]], "a directory"),
    "hard link upwards": ([[("a", link("../../etc/passwd", HARD))]], "is outside the root"),
    "in a file": ([[("a", b""), ("a/b", b"")]], "not a directory"),
    "loop of links": ([[("a", link("b")), ("b", link("a")), ("a/x", b"")]], "loop"),
    "a name of kilobytes": ([[("x/" * 10_000, b"")]], "a name of"),
    "GNU's old sparse file": ([[("a", entry(b"S"))]], "sparse file in GNU's old format"),
}


@pytest.mark.parametrize("case", HOSTILE)
def test_hostile_layers(tmp_path: Path, case: str) -> None:
    """Layers that could write outside the root, or cannot be extracted, are refused."""
    layers, reason = HOSTILE[case]
    with pytest.raises(ArchiveError, match=reason) as caught:
        root_of(layers, tmp_path)
    assert caught.value.where.endswith("/layer.tar")
    assert len(str(caught.value)) < 400


def test_owners_as_linux_sets_them(tmp_path: Path) -> None:
    """Tars with an owner of -2 exist; without it they could be loaded, but not exported."""
    layer = tar_of([("a", entry(tarfile.REGTYPE, uid=-2, gid=-1)), ("b", entry(uid=1 << 32))])
    archive = exported(Base(layers=[layer]).docker_archive(), tmp_path)
    with tarfile.open(fileobj=io.BytesIO(archive)) as tar:
        assert {info.name: (info.uid, info.gid) for info in tar} == {
            "a": (2**32 - 2, 0),
            "b": (0, 0),
        }


@pytest.mark.parametrize("outer", ["plain", "gzip"])
@pytest.mark.parametrize("version", ["0.0", "0.1", "1.0"])
def test_sparse_files(tmp_path: Path, version: str, outer: str) -> None:
    """Without it a distribution's root file system with sparse files could not be exported, or
    its holes would be lost and its files renamed.
    """
    (tmp_path / "in").mkdir()
    with (tmp_path / "in" / "log").open("wb") as file:
        file.write(b"head\n")
        file.seek(1 << 20)
        file.write(b"tail\n")
    os.link(tmp_path / "in" / "log", tmp_path / "in" / "same")
    options = ["--format=pax", "--sparse", f"--sparse-version={version}"]
    tar = ["tar", "-C", str(tmp_path / "in"), *options, "-c", "log", "same"]
    layer = subprocess.run(tar, capture_output=True, check=True).stdout
    upper = tar_of([(".wh.log", b"")])
    for layers, names in (([layer], ["log", "same"]), ([layer, upper], ["same"])):
        archive = handmade.COMPRESSORS[outer](Base(layers=layers).docker_archive())
        root = exported(archive, tmp_path)
        assert len(root) < 1 << 16
        out = tmp_path / f"out-{len(layers)}"
        out.mkdir()
        subprocess.run(["tar", "-x", "-C", str(out)], input=root, check=True)
        assert sorted(os.listdir(out)) == names
        for name in names:
            assert (out / name).read_bytes() == (tmp_path / "in" / "log").read_bytes()


ENDLESS: dict[str, tuple[list[Entry], str]] = {
    "directories without an entry": (
        [(f"{number}/" + "a/" * 2000 + "x", b"") for number in range(40)],
        "too many directories",
    ),
    "long ways through links": (
        [("d", link("a/" * 2000)), *((f"d/{number}", b"") for number in range(200))],
        "too many steps",
    ),
}


@pytest.mark.parametrize(
    "case",
    [
        pytest.param(case, marks=[pytest.mark.slow] if case.startswith("long ways") else [])
        for case in ENDLESS
    ],
)
def test_layers_that_ask_for_too_much(tmp_path: Path, case: str) -> None:
    """An archive of kilobytes would take gigabytes of memory, or days."""
    entries, reason = ENDLESS[case]
    with pytest.raises(ArchiveError, match=reason):
        root_of([entries], tmp_path)


@pytest.mark.parametrize("compressor", ["plain", "zstd", "zstd-seekable"])
@pytest.mark.parametrize("fault", ["content", "cut"])
def test_layers_that_lie(stream_image: Run, tmp_path: Path, fault: str, compressor: str) -> None:
    """A layer with a wrong digest ends the export without a complete tar."""
    stored = [*LAYERS]
    stored[0] = LAYERS[0].replace(b"x" + bytes(511), b"y" + bytes(511))
    archive = BASE.docker_archive(stored=stored) if fault == "content" else BASE.docker_archive()
    data = handmade.COMPRESSORS[compressor](archive)
    path = tmp_path / "image"
    path.write_bytes(data if fault == "content" else data[: len(data) // 2])
    done = stream_image("export", str(path), "-q")
    assert done.returncode == 1
    assert done.stderr.count(b"\n") == 1
    assert not done.stdout.endswith(bytes(1024)) or not done.stdout.strip(b"\0")
    assert stream_image("export", str(path), "-o", str(tmp_path / "root.tar")).returncode == 1
    assert not (tmp_path / "root.tar").exists()


# ---- confs


@pytest.fixture
def store(tmp_path: Path) -> Store:
    """Make a store with files, links and directories."""
    store = Store.below(tmp_path)
    for name in "ab":
        store.file(f"{name}/bin/{name}", name.encode() * 70_000)
    store.path("b/link").symlink_to("bin")
    return store


def test_conf_is_exported_as_its_image(store: Store, stream_image: Run, tmp_path: Path) -> None:
    """Exporting a conf gives the same as exporting its image."""
    base = tmp_path / "base.tar"
    held = store.path("a/bin/a")
    base.write_bytes(
        Base(layers=[tar_of([(f"{held}x", b"old"), ("etc/motd", b"old")])]).docker_archive()
    )
    top = tmp_path / "top"
    top.mkdir()
    layer = tar_of([("etc/motd", b"new"), ("./bin", link(str(store.path("a/bin"))))])
    (top / "layer.tar").write_bytes(layer)
    (top / "checksum").write_text(handmade.digest(layer)[7:])
    conf = store.conf(
        ["a"], ["b"], from_image=str(base), customisation_layer=str(top), architecture="amd64",
        uid=12, gid=13, uname="someone", gname="some",
    )  # fmt: skip
    image = tmp_path / "image.tar"
    assert stream_image("-q", str(conf), "-o", str(image)).returncode == 0
    from_image = stream_image("export", str(image))
    assert from_image.returncode == 0, from_image.stderr
    from_conf = stream_image("export", str(conf))
    assert from_conf.stdout == from_image.stdout
    assert stream_image("export", "-", stdin=conf.read_bytes()).stdout == from_image.stdout
    root = read_root(from_conf.stdout)
    assert root["etc/motd"].content == b"new"
    assert root[str(held)[1:]].content == b"a" * 70_000
    assert root[str(held)[1:] + "x"].content == b"old"
    assert root[str(held)[1:]].uname == "someone"
    said = from_conf.stderr.decode()
    assert said.startswith(f"{len(root)} entries, ")


def test_conf_that_changes_or_lies(store: Store, stream_image: Run, tmp_path: Path) -> None:
    """A conf whose top layer has a wrong digest does not give a complete tar."""
    top = tmp_path / "top"
    top.mkdir()
    (top / "layer.tar").write_bytes(tar_of([("a", b"")]))
    (top / "checksum").write_text("0" * 64)
    conf = store.conf(["a"], customisation_layer=str(top))
    done = stream_image("export", str(conf), "-q")
    assert done.returncode == 1
    assert b"sha256 is" in done.stderr
    assert done.stderr.count(b"\n") == 1


# ---- the command


def test_chosen_image_and_compressed_output(stream_image: Run, tmp_path: Path) -> None:
    """Of several images the selected one, compressed according to the file's name."""
    one, two = tmp_path / "one.tar", tmp_path / "two.tar"
    one.write_bytes(Base(layers=LAYERS[:1], tags=["one:1"]).docker_archive())
    two.write_bytes(Base(layers=LAYERS[1:], tags=["two:2"]).docker_archive())
    both = tmp_path / "both.tar"
    assert stream_image("merge", str(one), str(two), "-o", str(both)).returncode == 0
    out = tmp_path / "root.tar.gz"
    assert stream_image("export", f"{both}:two:2", "-o", str(out)).returncode == 0
    with tarfile.open(out, "r:gz") as tar:
        assert sorted(tar.getnames()) == ["d", "d/small", "h", "y"]


@pytest.mark.parametrize("target", ["-", "none.tar"])
def test_bad_targets(stream_image: Run, target: str) -> None:
    """A target that cannot be exported is reported in one line."""
    done = stream_image("export", target, stdin=BASE.docker_archive())
    assert done.returncode in (1, 2)
    assert done.stderr.count(b"\n") == 1
    assert done.stdout == b""


@pytest.mark.slow
def test_memory_is_bounded(tmp_path: Path) -> None:
    """Memory does not grow with the content."""
    layer = tmp_path / "layer.tar"
    with tarfile.open(layer, "w") as tar:
        for number in range(300):
            info = tarfile.TarInfo(f"f{number}")
            info.size = 1 << 20
            tar.addfile(info, io.BytesIO(bytes([number % 256]) * info.size))
    base = Base(layers=[layer.read_bytes()])
    program = (
        "import sys; from stream.cli.main import main; status = main(sys.argv[1:]);"
        "peak = dict(line.split(':') for line in open('/proc/self/status'))['VmHWM'];"
        "print(peak.split()[0], file=sys.stderr); sys.exit(status)"
    )
    for compressor in ("plain", "zstd", "gzip"):
        path = tmp_path / "image"
        path.write_bytes(handmade.COMPRESSORS[compressor](base.docker_archive()))
        done = subprocess.run(
            [COMMAND[0], "-c", program, "export", str(path)],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            check=True,
        )
        assert int(done.stderr.split()[-1]) < 70_000


def test_a_failed_export_leaves_no_descriptor(tmp_path: Path) -> None:
    """Without it a program that exports many archives would run out of descriptors."""
    layers = [tar_of([(f"{number}", bytes(1 << 20))]) for number in range(3)]
    device = entry(tarfile.CHRTYPE, devmajor=1 << 40)
    path = tmp_path / "archive"
    path.write_bytes(Base(layers=[*layers, _gnu_tar("bad", device)]).docker_archive())
    before = os.listdir("/proc/self/fd")
    for _ in range(20):
        with pytest.raises(ArchiveError), open(os.devnull, "wb") as null:
            export(path, null)
    assert os.listdir("/proc/self/fd") == before


def _gnu_tar(name: str, info: tarfile.TarInfo) -> bytes:
    info.name = name
    return info.tobuf(tarfile.GNU_FORMAT) + bytes(1024)

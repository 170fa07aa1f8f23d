"""The whole docker-archive: its members in order, the names of layers, readable golden digests."""

import hashlib
import io
import json
import os
import stat
import subprocess
import sys
import tarfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import orjson
import pytest
import trees
from parity import assert_same, conf_of, streamed

import stream

GOLDEN = Path(__file__).parents[1] / "golden"
FILE = trees.File(0o644, 700, 1)


def members(archive: bytes) -> dict[str, bytes]:
    """Return the members' contents by name, in order."""
    with tarfile.open(fileobj=io.BytesIO(archive)) as tar:
        return {info.name: tar.extractfile(info).read() for info in tar}  # type: ignore[union-attr]


@pytest.fixture
def customisation_layer(store_dir: bytes) -> str:
    """Return the directory of a ready-made top layer whose size is not a multiple of a block."""
    path = f"{store_dir.decode()}/customisation"
    os.mkdir(path)
    data = trees.File(0, 20_001, 7).content()
    Path(path, "layer.tar").write_bytes(data)
    Path(path, "checksum").write_text(hashlib.sha256(data).hexdigest() + "\n", "ascii")
    return path


@pytest.mark.parametrize("count", [0, 1, 2, 12])
@pytest.mark.parametrize("customised", [False, True])
@pytest.mark.parametrize(
    "more",
    [
        {},
        {
            "mtime": "1999-01-01T00:00:00-08:00",
            "config": {"Env": ["PATH=/é"], "Volumes": {"/v": {}}},
        },
        {"mtime": "1960-01-01T00:00:00Z", "created": "2024-05-17T08:30:00.25+05:30"},
        {
            "created": "2024-05-17T08:30:00Z",
            "uid": 1000,
            "gid": "3000000",
            "uname": "ü",
            "gname": "",
        },
    ],
)
def test_parity(
    store_dir: bytes,
    customisation_layer: str,
    count: int,
    customised: bool,  # noqa: FBT001 — a parameter
    more: dict[str, Any],
) -> None:
    """Every byte of the archive, and so the image ID, follows from the conf and the files."""
    layers = []
    for number in range(count):
        paths = [f"{store_dir.decode()}/{number}{letter}" for letter in "ab"]
        trees.build(
            paths[0].encode(), trees.Directory(0o555, ((b"f", FILE), (b"l", trees.Link(b"f"))))
        )
        trees.build(paths[1].encode(), trees.File(0o444, 300 * 1024 * number, number))
        layers.append(paths)
    conf = conf_of(store_dir, **more) | {"store_layers": layers}
    if customised:
        conf["customisation_layer"] = customisation_layer
    assert_same(conf)


def test_manifest_and_trailer_come_last(store_dir: bytes) -> None:
    """Config and manifest.json follow all layers, so that a truncated stream cannot be loaded."""
    trees.build(store_dir + b"/0", FILE)
    archive, image = streamed(conf_of(store_dir, "0"))
    names = list(members(archive))
    config_name = image.image_id.removeprefix("sha256:") + ".json"
    assert names == [image.layers[0].archive_name, config_name, "manifest.json"]
    assert archive.endswith(bytes(1024))
    assert len(archive) % 10240 == 0


def test_members_belong_to_nobody(store_dir: bytes) -> None:
    """Nothing leaks from the host: no user, no group, no time except the conf's."""
    trees.build(store_dir + b"/0", FILE)
    archive, _ = streamed(conf_of(store_dir, "0", mtime="2001-02-03T04:05:06Z", uid=5, uname="u"))
    with tarfile.open(fileobj=io.BytesIO(archive)) as tar:
        for info in tar:
            facts = (info.mode, info.uid, info.gid, info.uname, info.gname, info.mtime)
            assert facts == (0o644, 0, 0, "", "", 981173106)


def test_customisation_layer_is_named_by_its_checksum(
    store_dir: bytes, customisation_layer: str
) -> None:
    """Its name is known before its bytes have passed, and differs whenever they do."""
    archive, image = streamed(
        conf_of(store_dir, store_layers=[], customisation_layer=customisation_layer)
    )
    checksum = Path(customisation_layer, "checksum").read_text("ascii").strip()
    assert image.layers[0].archive_name == f"{checksum}/layer.tar"
    assert (
        members(archive)[f"{checksum}/layer.tar"]
        == Path(customisation_layer, "layer.tar").read_bytes()
    )


def test_wrong_checksum(store_dir: bytes, customisation_layer: str) -> None:
    """Bytes with another digest fail the run before any manifest; the message has both digests."""
    Path(customisation_layer, "checksum").write_text("0" * 64, "ascii")
    conf = stream.parse_conf(
        orjson.dumps(conf_of(store_dir, store_layers=[], customisation_layer=customisation_layer))
    )
    out = io.BytesIO()
    with pytest.raises(stream.DigestMismatch, match=f"expected {'0' * 64}"):
        stream.write_image(conf, out)
    assert b"manifest.json" not in out.getvalue()


# ---- layer names -------------------------------------------------------------

BASE: dict[str, Any] = {
    "uid": 1,
    "gid": 2,
    "uname": "u",
    "gname": "g",
    "mtime": "1970-01-01T00:00:09Z",
}
ROOT = b"/0"


def _name(store_dir: bytes, node: trees.Node, more: Mapping[str, object] = BASE) -> str:
    """Return the archive name of the layer of a store path, rebuilt in the same place."""
    subprocess.run(["rm", "-rf", store_dir + ROOT], check=True)
    trees.build(store_dir + ROOT, node)
    return streamed(conf_of(store_dir, "0", **more))[1].layers[0].archive_name


def _tree(name: bytes = b"f", node: trees.Node = FILE, mode: int = 0o755) -> trees.Directory:
    return trees.Directory(mode, ((name, node), (b"z", trees.Link(b"f"))))


def test_equal_metadata_gives_equal_names(store_dir: bytes) -> None:
    """A name known before any content depends neither on content nor on the files' times."""
    first = _name(store_dir, _tree())
    assert len(first) == len("/layer.tar") + 32
    int(first.removesuffix("/layer.tar"), 16)
    assert _name(store_dir, _tree(node=trees.File(0o644, 700, 2))) == first
    os.utime(store_dir + ROOT + b"/f", (5, 5))
    assert streamed(conf_of(store_dir, "0", **BASE))[1].layers[0].archive_name == first


def test_any_metadata_changes_the_name(store_dir: bytes) -> None:
    """Tools merge archives by member name: two layers that differ must not share one."""
    names = [
        _name(store_dir, _tree()),
        _name(store_dir, _tree(name=b"g")),
        _name(store_dir, _tree(name=b"\xff")),
        _name(store_dir, _tree(node=trees.File(0o644, 701, 1))),
        _name(store_dir, _tree(node=trees.File(0o645, 700, 1))),
        _name(store_dir, _tree(mode=0o700)),
        _name(store_dir, _tree(node=trees.Directory(0o644, ()))),
        _name(store_dir, _tree(node=trees.Link(b"f"))),
        _name(store_dir, _tree(node=trees.Link(b"ff"))),
        _name(store_dir, _tree(), BASE | {"uid": 3}),
        _name(store_dir, _tree(), BASE | {"gid": 3}),
        _name(store_dir, _tree(), BASE | {"uid": 2, "gid": 1}),
        _name(store_dir, _tree(), BASE | {"uname": "ug", "gname": ""}),
        _name(store_dir, _tree(), BASE | {"uname": "", "gname": "ug"}),
        _name(store_dir, _tree(), BASE | {"mtime": "1970-01-01T00:00:10Z"}),
        _name(store_dir, _tree(), BASE | {"mtime": "1969-12-31T23:59:51Z"}),
    ]
    assert len(set(names)) == len(names)


def test_names_and_targets_do_not_run_together(store_dir: bytes) -> None:
    """A file with a longer name and a shorter target gives another layer name."""
    names = {
        _name(store_dir, trees.Directory(0o755, ((name, trees.Link(target)),)))
        for name, target in [(b"a", b"bcd"), (b"ab", b"cd"), (b"abc", b"d")]
    }
    assert len(names) == 3


# ---- golden ------------------------------------------------------------------

GOLDEN_TREE: dict[bytes, trees.Node] = {
    b"0123-hello-1.0": trees.Directory(
        0o555,
        (
            (b"bin", trees.Directory(0o555, ((b"hello", trees.File(0o555, 300_000, 1)),))),
            (b"empty", trees.File(0o444, 0, 0)),
            (b"link", trees.Link(b"bin/hello")),
            (b"long-" + b"n" * 95, trees.File(0o444, 513, 2)),
            ("späß \U0001f600\n".encode(), trees.Link("zïel".encode())),
            (b"\xff-not-utf8", trees.Link(b"\xfe" * 101)),
            (b"setuid", trees.File(0o4755, 1, 3)),
        ),
    ),
    b"4567-file": trees.File(0o444, 10_240, 4),
    b"89ab-link": trees.Link(b"/nix/store/4567-file"),
}
GOLDEN_CONF = {
    "architecture": "amd64",
    "config": {"Cmd": ["/nix/store/0123-hello-1.0/bin/hello"], "Env": ["LANG=C.UTF-8", "X=ü"]},
    "created": "2024-05-17T08:30:00+02:00",
    "mtime": "2023-11-14T22:13:20Z",
    "repo_tag": "registry.example/golden:1",
    "store_layers": [
        ["/nix/store/4567-file", "/nix/store/89ab-link"],
        ["/nix/store/0123-hello-1.0"],
    ],
    "uid": 3_000_000,
    "gid": 30_000,
    "uname": "builder",
}

# The store must be at /nix/store wherever the tests run: so the program runs in a chroot.
CHROOTED = """
import os, sys
from stream import load_conf, write_image
os.chroot(sys.argv[1])
os.chdir("/")
write_image(load_conf("/conf.json"), 1)
"""


@pytest.fixture
def chrooted(store_dir: bytes) -> Callable[[Mapping[str, Any]], bytes]:
    """Stream a conf whose paths are below the directory `store_dir` as if that were `/`."""

    def run(conf: Mapping[str, Any]) -> bytes:
        Path(os.fsdecode(store_dir), "conf.json").write_bytes(orjson.dumps(conf))
        prefix = [] if os.geteuid() == 0 else ["unshare", "--map-root-user"]
        if (
            prefix
            and subprocess.run([*prefix, "true"], check=False, capture_output=True).returncode
        ):
            pytest.skip("chroot needs root or user namespaces")
        command = [*prefix, sys.executable, "-c", CHROOTED, os.fsdecode(store_dir)]
        return subprocess.run(command, check=True, stdout=subprocess.PIPE).stdout

    return run


def described(archive: bytes) -> str:
    """Return a readable listing of an archive: a line per entry, and digests of every byte."""
    lines = [f"archive {len(archive)} bytes sha256 {hashlib.sha256(archive).hexdigest()}"]
    for name, data in members(archive).items():
        lines += ["", f"{name} {len(data)} bytes sha256 {hashlib.sha256(data).hexdigest()}"]
        if name.endswith(".json"):
            lines += json.dumps(json.loads(data), indent=2).splitlines()
            continue
        with tarfile.open(
            fileobj=io.BytesIO(data), encoding="utf-8", errors="surrogateescape"
        ) as tar:
            lines += [_entry(info, data) for info in tar]
    return "\n".join(lines) + "\n"


def _entry(info: tarfile.TarInfo, data: bytes) -> str:
    kind = {tarfile.DIRTYPE: "d", tarfile.SYMTYPE: "l", tarfile.REGTYPE: "-"}[info.type]
    content = data[info.offset_data : info.offset_data + info.size]
    header = hashlib.sha256(data[info.offset : info.offset_data]).hexdigest()[:16]
    about = [
        stat.filemode(info.mode).replace("?", kind, 1),
        f"{info.uname}/{info.gname}",
        f"{info.uid}/{info.gid}",
        f"{info.size:>6}",
        f"{info.mtime}",
        f"header {header}",
        f"content {hashlib.sha256(content).hexdigest()[:16]}" if kind == "-" else " " * 24,
        ascii(info.name),
        *([f"-> {info.linkname!a}"] if kind == "l" else []),
    ]
    return " ".join(about)


def test_golden(store_dir: bytes, chrooted: Callable[[Mapping[str, Any]], bytes]) -> None:
    """A change of any byte shows up in review as a line. To accept one: GOLDEN_UPDATE=1 pytest."""
    os.makedirs(store_dir + b"/nix/store")
    for name, node in GOLDEN_TREE.items():
        trees.build(store_dir + b"/nix/store/" + name, node)
    found = described(chrooted(GOLDEN_CONF))
    golden = GOLDEN / "image.txt"
    if os.environ.get("GOLDEN_UPDATE"):
        golden.write_text(found, "utf-8")
    assert found == golden.read_text("utf-8")


def test_default_store_dir(
    store_dir: bytes, chrooted: Callable[[Mapping[str, Any]], bytes]
) -> None:
    """Exactly /nix and /nix/store stand above the store paths of /nix/store."""
    os.makedirs(store_dir + b"/nix/store")
    trees.build(store_dir + b"/nix/store/a", FILE)
    archive = chrooted({"repo_tag": "x:1", "store_layers": [["/nix/store/a"]]})
    layer = next(iter(members(archive).values()))
    with tarfile.open(fileobj=io.BytesIO(layer)) as tar:
        found = [(info.name, info.mode, info.type) for info in tar]
    assert found == [
        ("/nix", 0o755, tarfile.DIRTYPE),
        ("/nix/store", 0o755, tarfile.DIRTYPE),
        ("/nix/store/a", 0o644, tarfile.REGTYPE),
    ]


def test_store_in_the_root(
    store_dir: bytes, chrooted: Callable[[Mapping[str, Any]], bytes]
) -> None:
    """A store directory `/` has no ancestors, and no entry of its own."""
    trees.build(store_dir + b"/a", FILE)
    archive = chrooted({"repo_tag": "x:1", "store_dir": "/", "store_layers": [["/a"]]})
    with tarfile.open(fileobj=io.BytesIO(next(iter(members(archive).values())))) as tar:
        assert tar.getnames() == ["/a"]

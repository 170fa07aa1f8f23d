"""`stream-image verify`: no sound archive is blamed, no planted fault is missed."""

import errno
import gzip
import hashlib
import io
import json
import os
import random
import subprocess
import tarfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import commandline
import handmade
import pytest
import pyzstd
from handmade import Base, digest, layer_tar, link, tar_of
from hypothesis import given
from hypothesis import strategies as st
from support import COMMAND, Store

import stream
from stream.archives.bytesource import StreamBytes
from stream.tools.verify import Verification, verify
from stream.tools.verify.findings import CONSUMERS, RULES
from stream.tools.verify.layers import check_layer

Members = list[tuple[str, Any]]

DOCS = Path(stream.__file__).parent.parent / "docs" / "verify.md"
LAYERS = [layer_tar({"etc/a": b"a" * 3000}), layer_tar({"bin/b": os.urandom(9000)})]
HISTORY = [{"comment": "one"}, {"comment": "two"}]
BASE = Base(layers=LAYERS, history=HISTORY)


def run(*args: str | Path, stdin: bytes = b"") -> tuple[int, str]:
    """Run the command and return its exit status and all its output."""
    done = commandline.run(
        [*COMMAND, "verify", *map(str, args)],
        input=stdin,
        capture_output=True,
        check=False,
        timeout=60,
    )
    return done.returncode, (done.stdout + done.stderr).decode()


@pytest.fixture
def check(tmp_path: Path) -> Callable[..., Any]:
    """Return a function that verifies an archive and returns the rules it breaks."""

    def verified(archive: bytes, *, faults: bool = True) -> Any:
        path = tmp_path / "archive"
        path.write_bytes(archive)
        found = verify(str(path))
        return {finding.rule for finding in (found.faults if faults else found.findings)}

    return verified


# ---- good ones


@pytest.mark.parametrize("compressor", handmade.COMPRESSORS)
@pytest.mark.parametrize("kind", ["docker", "oci"])
def test_good_archives(check: Callable[..., Any], compressor: str, kind: str) -> None:
    """Without it a sound archive could be blamed for how it is compressed."""
    archive = BASE.docker_archive() if kind == "docker" else tar_of([*BASE.oci_files().items()])
    assert check(handmade.COMPRESSORS[compressor](archive)) == set()


@pytest.fixture
def store(tmp_path: Path) -> Store:
    """Return a store with files, links and directories."""
    store = Store.below(tmp_path)
    for name in ("a", "b", "c"):
        store.file(f"{name}/bin/{name}", name.encode() * 5000)
        (store.path(name) / "link").symlink_to("bin")
    return store


@pytest.mark.parametrize("archive_format", ["docker-archive", "oci-archive"])
@pytest.mark.parametrize("compress", ["none", "store", "gzip", "zstd", "zstd-seekable"])
def test_what_we_write(store: Store, compress: str, archive_format: str) -> None:
    """Without it our own output could be reported as faulty, or in more than one line."""
    conf = store.conf(["a", "b"], ["c"], config={"Env": ["x=y"]})
    path = conf.with_name("image")
    options = ("--compress", compress, "--format", archive_format)
    commandline.run([*COMMAND, "-q", str(conf), "-o", str(path), *options], check=True)
    for args, stdin in ((path, b""), ("-", path.read_bytes())):
        status, said = run(args, "--conf", conf, stdin=stdin)
        assert (status, len(said.splitlines())) == (0, 1), said
        assert f"sound and identical to the image of {conf}: 1 image, 2 layers, " in said
    assert "sound: 1 image, 2 layers, " in run(path)[1]
    assert run(path, "-q") == (0, "")


def test_chained_bases(store: Store) -> None:
    """Without it an image on a base could not be compared with its conf."""
    base = store.directory.parent / "base.tar.gz"
    base.write_bytes(gzip.compress(BASE.docker_archive()))
    conf = store.conf(["a"], from_image=str(base))
    path = conf.with_name("image.tar")
    commandline.run([*COMMAND, "-q", str(conf), "-o", str(path)], check=True)
    assert run(path, "--conf", conf)[0] == 0


def test_oci_directory(tmp_path: Path) -> None:
    """Without it a layout would have to be packed first, or its faults would be missed."""
    for name, content in BASE.oci_files().items():
        path = tmp_path / "layout" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    assert run(tmp_path / "layout")[0] == 0
    blob = tmp_path / "layout" / "blobs" / "sha256" / digest(LAYERS[1])[7:]
    blob.write_bytes(blob.read_bytes()[:-1] + b"x")
    status, said = run(tmp_path / "layout")
    assert status == 1
    assert said.startswith(f"{tmp_path / 'layout'}: 2 faults\n")
    (tmp_path / "empty").mkdir()
    assert run(tmp_path / "empty")[0] == 1


def test_directory_on_a_disk_that_fails(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without it nobody would know which of thousands of files is bad."""
    path = tmp_path / "index.json"
    path.write_bytes(b"{}")

    def fail(_fd: int, _count: int, _offset: int) -> bytes:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    monkeypatch.setattr(os, "pread", fail)
    found = {finding.rule: finding for finding in verify(tmp_path).findings}
    finding = found["archive-unreadable"]
    assert (finding.place, finding.message) == ("index.json", "cannot be read: Input/output error")


@pytest.mark.parametrize("compress", [gzip.compress, pyzstd.compress])
def test_compressed_layers(check: Callable[..., Any], compress: Callable[[bytes], bytes]) -> None:
    """Without it a compressed layer could be blamed, or who rejects it be left out."""
    stored = [compress(layer) for layer in LAYERS]
    archive = BASE.docker_archive(stored=stored)
    assert check(archive) == set()
    assert ("zstd-layer" in check(archive, faults=False)) == (compress is pyzstd.compress)
    media_type = "gzip" if compress is gzip.compress else "zstd"
    files = BASE.oci_files(stored)
    assert check(tar_of([*files.items()])) == {"media-type-uncompressed"}
    other = "zstd" if media_type == "gzip" else "gzip"
    assert check(tar_of([*relabelled(files, f"tar+{other}").items()])) == {"media-type-mismatch"}
    assert check(tar_of([*relabelled(files, f"tar+{media_type}").items()])) == set()


def relabelled(files: dict[str, bytes], end: str) -> dict[str, bytes]:
    """Return an OCI layout whose layers have another media type."""

    def change(manifest: dict[str, Any]) -> None:
        for layer in manifest["layers"]:
            layer["mediaType"] = f"application/vnd.oci.image.layer.v1.{end}"

    return rewritten(files, change)


def rewritten(
    files: dict[str, bytes], change: Callable[[dict[str, Any]], None]
) -> dict[str, bytes]:
    """Return an OCI layout with a changed manifest, and the digests that follow from it."""
    index = json.loads(files["index.json"])
    (entry,) = index["manifests"]
    rest = dict(files)
    manifest = json.loads(rest.pop(f"blobs/sha256/{entry['digest'][7:]}"))
    change(manifest)
    data = json.dumps(manifest).encode()
    entry |= {"digest": digest(data), "size": len(data)}
    rest[f"blobs/sha256/{digest(data)[7:]}"] = data
    return {**rest, "index.json": json.dumps(index).encode()}


# ---- planted faults


def entry(name: str, kind: bytes = tarfile.REGTYPE, target: str = "") -> tuple[str, Any]:
    """Return an entry of a layer."""
    return name, link(target, kind)


def layered(*entries: tuple[str, Any]) -> bytes:
    """Return an archive whose upper layer has these entries."""
    return Base(layers=[LAYERS[0], tar_of(entries)]).docker_archive()


DIRECTORY, HARD = tarfile.DIRTYPE, tarfile.LNKTYPE

LAYER_FAULTS: dict[str, tuple[str, list[tuple[str, Any]]]] = {
    "file twice": ("duplicate-path", [entry("a"), entry("a")]),
    "file twice, once with a dot": ("duplicate-path", [entry("a"), entry("./a")]),
    "directory twice": ("duplicate-path", [entry("a", DIRECTORY), entry("a/", DIRECTORY)]),
    "directory twice, with content": (
        "duplicate-path",
        [entry("a", DIRECTORY), entry("a/b"), entry("a", DIRECTORY)],
    ),
    "file twice, once absolute": ("duplicate-path-slash", [entry("a"), entry("/a")]),
    "through a link to another layer": (
        "path-through-symlink-to-other-layer",
        [entry("l", tarfile.SYMTYPE, "etc"), entry("l/x")],
    ),
    "through a loop of links": (
        "path-through-symlink-to-other-layer",
        [entry("l", tarfile.SYMTYPE, "m"), entry("m", tarfile.SYMTYPE, "l"), entry("l/x")],
    ),
    "through a link": (
        "path-through-symlink",
        [entry("d/e/y"), entry("d/l", tarfile.SYMTYPE, "../d/e"), entry("d/l/x")],
    ),
    "through two links": (
        "path-through-symlink",
        [entry("d", DIRECTORY), entry("m", tarfile.SYMTYPE, "/d"), entry("l", tarfile.SYMTYPE, "m")]
        + [entry("l/x")],
    ),
    "deep through a link": (
        "path-through-symlink",
        [entry("d", DIRECTORY), entry("d/l", tarfile.SYMTYPE, "/"), entry("d/l/x/y/z")],
    ),
    "below a file": ("parent-not-directory", [entry("f"), entry("f/x")]),
    "a link where a directory is": (
        "directory-replaced",
        [entry("d/x"), entry("d", tarfile.SYMTYPE, "/")],
    ),
    "hard link to another layer": ("hard-link-to-other-layer", [entry("h", HARD, "etc/a")]),
    "hard link to itself": ("hard-link-before-target", [entry("h", HARD, "h")]),
    "hard link before its target": (
        "hard-link-before-target",
        [entry("h", HARD, "f"), entry("f")],
    ),
    "hard link to a directory": (
        "hard-link-to-directory",
        [entry("d", DIRECTORY), entry("h", HARD, "d")],
    ),
    "hard link upwards": ("path-not-normalized", [entry("h", HARD, "../f")]),
    "upwards": ("path-not-normalized", [entry("../x")]),
    "upwards within": ("path-not-normalized", [entry("a/../x")]),
    "two slashes": ("path-not-normalized", [entry("a//x")]),
    "absolute upwards": ("path-not-normalized", [entry("/../x")]),
    "a dot within": ("path-not-normalized", [entry("a/./x")]),
    "no tar": ("layer-unreadable", []),
}


@pytest.mark.parametrize("case", LAYER_FAULTS)
def test_faults_in_layers(check: Callable[..., Any], case: str) -> None:
    """Without it a fault in a layer's tar could be missed or reported as another."""
    rule, entries = LAYER_FAULTS[case]
    no_tar = Base(layers=[LAYERS[0], b"x" * 2000])
    assert check(layered(*entries) if entries else no_tar.docker_archive()) == {rule}


def test_good_entries(check: Callable[..., Any]) -> None:
    """Without it prefixes, missing parents, devices, whiteouts or links could be blamed."""
    names = ["./", "./a/", "/b/", "c/.wh.x", "c/.wh..wh..opq", "\u00e9", "x" * 300, "d/e/f/g"]
    entries = [entry(name, DIRECTORY if name.endswith("/") else tarfile.REGTYPE) for name in names]
    entries += [entry("fifo", tarfile.FIFOTYPE), entry("null", tarfile.CHRTYPE)]
    entries += [entry("soft", tarfile.SYMTYPE, "/../nowhere"), entry("hard", HARD, "./d/e/f/g")]
    entries += [entry("hard2", HARD, "/hard"), entry("hard3", HARD, "soft")]
    assert check(layered(*entries)) == set()


def manifest_of(archive: Base, **more: Any) -> tuple[Members, dict[str, Any]]:
    """Return the members of an archive and its manifest's item, with more keys in it."""
    members, item = archive.docker_members()
    return members, {**item, **more}


def docker(change: Callable[[Members, dict[str, Any]], Any], base: Base = BASE) -> bytes:
    """Return a docker-archive with its members and manifest changed."""
    members, item = base.docker_members()
    change(members, item)
    return tar_of([*members, ("manifest.json", json.dumps([item]).encode())])


def configured(**more: Any) -> bytes:
    """Return a docker-archive with a changed config; None removes a key."""
    document = {**BASE.document(), **more}
    document = {key: value for key, value in document.items() if value is not None}
    config = json.dumps(document).encode()

    def change(members: Members, item: dict[str, Any]) -> None:
        members.pop()
        item["Config"] = f"{digest(config)[7:]}.json"
        members.append((item["Config"], config))

    return docker(change)


def oci(change: Callable[[dict[str, bytes]], Any]) -> bytes:
    """Return a changed OCI layout."""
    files = BASE.oci_files()
    change(files)
    return tar_of([*files.items()])


def rootfs(*layers: bytes) -> dict[str, Any]:
    """Return the `rootfs` of a config with these layers."""
    return {"type": "layers", "diff_ids": [digest(layer) for layer in layers]}


def conflicting_manifest_and_index() -> bytes:
    """Return an OCI layout that is also a docker-archive of another image."""
    members, item = Base(layers=LAYERS[:1]).docker_members()
    manifest = json.dumps([item]).encode()
    return tar_of([*BASE.oci_files().items(), *members, ("manifest.json", manifest)])


def padded(data: bytes) -> bytes:
    """Return `data`, filled up to a whole block."""
    return data + bytes(-len(data) % 512)


LAYER_BLOB = f"blobs/sha256/{digest(LAYERS[1])[7:]}"
THREE_TOLD = [*HISTORY, {"comment": "three"}, {"comment": "none", "empty_layer": True}]

FAULTS: dict[str, tuple[set[str], Callable[[], bytes]]] = {
    "other layer content": (
        {"diff-id-mismatch"},
        lambda: docker(lambda m, _: m.__setitem__(1, (m[1][0], layer_tar({"other": b""})))),
    ),
    "layers exchanged": (
        {"diff-id-mismatch"},
        lambda: docker(lambda _, i: i["Layers"].reverse()),
    ),
    "layer missing": ({"member-missing"}, lambda: docker(lambda m, _: m.pop(0))),
    "layer is a dangling link": (
        {"member-missing"},
        lambda: docker(lambda m, _: m.__setitem__(0, (m[0][0], link("nowhere")))),
    ),
    "layer is a loop of links": (
        {"member-missing"},
        lambda: docker(
            lambda m, _: m.__setitem__(slice(0, 1), [(m[0][0], link("../l")), ("l", link(m[0][0]))])
        ),
    ),
    "config missing": ({"member-missing"}, lambda: docker(lambda m, _: m.pop())),
    "config named by another digest": (
        {"config-name-mismatch"},
        lambda: docker(
            lambda m, i: (
                m.__setitem__(-1, ("0" * 64 + ".json", m[-1][1])),
                i.update(Config=m[-1][0]),
            )
        ),
    ),
    "layer not listed": (
        {"layer-count-mismatch", "diff-id-mismatch"},
        lambda: docker(lambda _, i: i["Layers"].pop(0)),
    ),
    "no Layers": (
        {"document-invalid", "layer-count-mismatch"},
        lambda: docker(lambda _, i: i.pop("Layers")),
    ),
    "no Config": ({"document-invalid"}, lambda: docker(lambda _, i: i.pop("Config"))),
    "rootfs of another type": (
        {"rootfs-type-invalid"},
        lambda: configured(rootfs={"diff_ids": rootfs(*LAYERS)["diff_ids"]}),
    ),
    "no list": ({"document-invalid"}, lambda: tar_of([("manifest.json", b"{}")])),
    "an empty list": ({"no-image"}, lambda: tar_of([("manifest.json", b"[]")])),
    "no JSON": ({"document-invalid"}, lambda: tar_of([("manifest.json", b"[")])),
    "nothing": ({"no-image"}, lambda: tar_of([("x", b"")])),
    "member twice": (
        {"duplicate-member", "diff-id-mismatch"},
        lambda: docker(lambda m, _: m.append((m[0][0], m[1][1]))),
    ),
    "name upwards": (
        {"member-outside-archive"},
        lambda: docker(lambda m, _: m.append(("../x", b""))),
    ),
    "name absolute": (
        {"member-outside-archive"},
        lambda: docker(lambda m, _: m.append(("/x", b""))),
    ),
    "link upwards": (
        {"link-outside-archive"},
        lambda: docker(lambda m, _: m.append(("x/y", link("../../z")))),
    ),
    "no architecture": ({"no-architecture"}, lambda: configured(architecture=None)),
    "no os": ({"no-os"}, lambda: configured(os="")),
    "too few diff_ids": (
        {"layer-count-mismatch", "history-too-long"},
        lambda: configured(rootfs=rootfs(LAYERS[0])),
    ),
    "no rootfs": (
        {"document-invalid", "layer-count-mismatch", "history-too-long"},
        lambda: configured(rootfs=None),
    ),
    "history too long": ({"history-too-long"}, lambda: configured(history=THREE_TOLD)),
    "history too short": ({"history-too-short"}, lambda: configured(history=HISTORY[:1])),
    "history no list": ({"document-invalid"}, lambda: configured(history={"a": 1})),
    "tag without tag": ({"tag-incomplete"}, lambda: docker(lambda _, i: i.update(RepoTags=["x"]))),
    "tag upper-case": ({"tag-invalid"}, lambda: docker(lambda _, i: i.update(RepoTags=["X:1"]))),
    "tag that says it is none": (
        {"tag-invalid"},
        lambda: docker(lambda _, i: i.update(RepoTags=["x:bad has no tag"])),
    ),
    "tag with a slash": (
        {"tag-invalid"},
        lambda: docker(lambda _, i: i.update(RepoTags=["x:v1/b"])),
    ),
    "tags no list": ({"document-invalid"}, lambda: docker(lambda _, i: i.update(RepoTags="x:1"))),
    "no trailer": ({"no-trailer"}, lambda: padded(BASE.docker_archive().rstrip(b"\0"))),
    "half a trailer": (
        {"no-trailer"},
        lambda: padded(BASE.docker_archive().rstrip(b"\0")) + bytes(512),
    ),
    "cut": ({"archive-unreadable"}, lambda: BASE.docker_archive()[:4000]),
    "cut gzip": ({"archive-unreadable"}, lambda: gzip.compress(BASE.docker_archive())[:-9]),
    "gzip checksum": (
        {"archive-unreadable"},
        lambda: gzip.compress(BASE.docker_archive())[:-8] + bytes(8),
    ),
    "blob changed": (
        {"digest-mismatch", "diff-id-mismatch", "layer-unreadable"},
        lambda: oci(lambda f: f.update({LAYER_BLOB: b"y" + f[LAYER_BLOB][1:]})),
    ),
    "gzip layer damaged": (
        {"layer-damaged", "diff-id-mismatch"},
        lambda: BASE.docker_archive(stored=[LAYERS[0], gzip.compress(LAYERS[1])[:-9]]),
    ),
    "only artifacts": ({"no-image"}, lambda: of_artifacts()),  # noqa: PLW0108 — defined below
    "blob too long": (
        {"digest-mismatch", "diff-id-mismatch", "size-mismatch"},
        lambda: oci(lambda f: f.update({LAYER_BLOB: f[LAYER_BLOB] + b"x"})),
    ),
    "config of another size": (
        {"config-size-mismatch"},
        lambda: oci_of_size(config=1),
    ),
    "layer of another size": ({"size-mismatch"}, lambda: oci_of_size(layers=1)),
    "blob missing": ({"member-missing"}, lambda: oci(lambda f: f.pop(LAYER_BLOB))),
    "no oci-layout": ({"no-oci-layout-file"}, lambda: oci(lambda f: f.pop("oci-layout"))),
    "index without manifests": (
        {"document-invalid", "no-image"},
        lambda: oci(lambda f: f.update({"index.json": b"{}"})),
    ),
    "index names nothing": (
        {"member-missing"},
        lambda: oci(lambda f: f.pop(next(n for n in f if json_of(f[n]).get("layers")))),
    ),
    "manifest and index conflict": (
        {"manifest-index-conflict"},
        conflicting_manifest_and_index,
    ),
}


def json_of(data: bytes) -> dict[str, Any]:
    """Parse a JSON object; return an empty one if `data` is something else."""
    try:
        value = json.loads(data)
    except ValueError:
        return {}
    return value if isinstance(value, dict) else {}


def oci_of_size(*, config: int = 0, layers: int = 0) -> bytes:
    """Return an OCI layout whose manifest states larger sizes."""
    layout = handmade.Layout()
    document = json.dumps(BASE.document()).encode()
    described = layout.blob(document, handmade.CONFIG_TYPE)
    described["size"] += config
    blobs = [layout.blob(layer, handmade.LAYER_TYPE) for layer in LAYERS]
    blobs[0]["size"] += layers
    layout.top = [layout.manifest(described, blobs)]
    return layout.tar()


def of_artifacts() -> bytes:
    """Return an OCI layout without an image."""
    layout = handmade.Layout()
    layout.top = [*handmade.artifacts(layout).values()]
    return layout.tar()


@pytest.mark.parametrize(
    ("case", "compressor"),
    [
        (case, compressor)
        for case, (rules, _) in FAULTS.items()
        for compressor in ("plain", "zstd")
        if compressor == "plain" or rules != {"archive-unreadable"}  # which would be whole inside
    ],
)
def test_faults_in_archives(check: Callable[..., Any], case: str, compressor: str) -> None:
    """Without it a fault in an archive could be missed or reported as another."""
    rules, plant = FAULTS[case]
    assert check(handmade.COMPRESSORS[compressor](plant())) == rules


def test_all_faults_at_once(tmp_path: Path) -> None:
    """Without it faults would have to be found one by one, without place or consumers."""
    upper = tar_of([entry("a"), entry("a"), entry("h", HARD, "none"), entry("l/x")])

    def spoil(members: Members, item: dict[str, Any]) -> None:
        members.append(("../x", b""))
        item["RepoTags"] = ["x"]

    layers = [LAYERS[0], upper, upper + bytes(512)]
    archive = docker(spoil, Base(layers=layers, history=HISTORY))
    path = tmp_path / "image.tar"
    path.write_bytes(archive)
    status, said = run(path)
    assert status == 1
    assert said.startswith(f"{path}: 7 faults\n"), said
    assert "\n  1/layer.tar: a: duplicate path\n    refused by docker, podman, buildah\n" in said
    status, said = run(path, "--json")
    document = json.loads(said)
    assert (status, document["sound"]) == (1, False)
    faults = [finding for finding in document["findings"] if finding["fault"]]
    assert sorted(finding["rule"] for finding in faults) == [
        "duplicate-path",
        "duplicate-path",
        "hard-link-to-other-layer",
        "hard-link-to-other-layer",
        "history-too-short",
        "member-outside-archive",
        "tag-incomplete",
    ]
    assert document["refused_by"] == ["docker", "podman", "containerd", "buildah", "umoci"]


def test_many_alike_are_counted(tmp_path: Path) -> None:
    """Without it a million faults of one kind would fill the screen."""
    entries = [entry(f"f{number}") for number in range(200)] * 2
    path = tmp_path / "image.tar"
    path.write_bytes(layered(*entries))
    status, said = run(path)
    assert status == 1
    assert len(said.splitlines()) < 60
    assert "180 more of this kind" in said


def test_many_places_are_counted(tmp_path: Path) -> None:
    """Without it an archive of many members, each faulty, would print a line for each."""
    files = {f"blobs/sha256/{number:064}": b"x" for number in range(500)}
    found = verify(str(planted(tmp_path, oci(lambda f: f.update(files)))))
    wrong = [finding for finding in found.findings if finding.rule == "digest-mismatch"]
    assert [finding.count for finding in wrong] == [1] * 20 + [480]
    assert wrong[-1].refused_by == wrong[0].refused_by != ()
    assert wrong[-1].place == ""


def planted(directory: Path, archive: bytes) -> Path:
    """Return the path of an archive with those bytes."""
    path = directory / "image.tar"
    path.write_bytes(archive)
    return path


TASTES: dict[str, tuple[set[str], Callable[[], bytes]]] = {
    "link to no layer": (
        {"layer-link-unlisted"},
        lambda: docker(
            lambda m, _: m.__setitem__(slice(0, 1), [(m[0][0], link("kept")), ("0/kept", m[0][1])])
        ),
    ),
    "hard link to no layer": (
        {"layer-link-unlisted", "layer-link-hard"},
        lambda: docker(
            lambda m, _: m.__setitem__(
                slice(0, 1), [("kept", m[0][1]), (m[0][0], link("kept", HARD))]
            )
        ),
    ),
    "absolute link": (
        {"layer-link-unlisted", "layer-link-absolute"},
        lambda: docker(
            lambda m, _: m.__setitem__(slice(0, 1), [(m[0][0], link("/k")), ("k", m[0][1])])
        ),
    ),
    "names with a dot": (
        {"dot-slash-name"},
        lambda: docker(lambda _, i: i.update(Layers=[f"./{name}" for name in i["Layers"]])),
    ),
    "untagged": ({"untagged"}, lambda: docker(lambda _, i: i.update(RepoTags=None))),
    "126 layers": (
        {"docker-layer-limit"},
        lambda: Base(layers=LAYERS[:1] * 126).docker_archive(names=["x"] * 126),
    ),
    "129 layers": (
        {"overlay-layer-limit"},
        lambda: Base(layers=LAYERS[:1] * 129).docker_archive(names=["x"] * 129),
    ),
    "gzip": ({"gzip-archive"}, lambda: gzip.compress(BASE.docker_archive())),
    "plain": (set(), BASE.docker_archive),
    "equal member twice": (set(), lambda: docker(lambda m, _: m.append(m[0]))),
    "links to nowhere": (
        {"dangling-link"},
        lambda: docker(lambda m, _: m.extend([("l", link("x")), ("l", link("x"))])),
    ),
}


@pytest.mark.parametrize("case", TASTES)
def test_tastes(check: Callable[..., Any], case: str) -> None:
    """Without it a sound archive could be blamed, or who rejects it be left out."""
    rules, make = TASTES[case]
    assert check(make()) == set()
    assert check(make(), faults=False) == {*rules, "no-index"}


def test_consumers_of_a_hybrid(tmp_path: Path) -> None:
    """Without it a consumer would be judged by the list of layers that it does not read."""
    members, item = BASE.docker_members()
    item["Layers"] = [f"./{name}" for name in item["Layers"]]
    files = BASE.oci_files()
    hybrid = [*members, *files.items(), ("manifest.json", json.dumps([item]).encode())]
    path = tmp_path / "hybrid.tar"
    path.write_bytes(tar_of(hybrid))
    found = verify(str(path))
    assert not found.faults
    (dotted, _) = [finding for finding in found.findings if finding.rule == "dot-slash-name"]
    assert dotted.refused_by == ()
    path.write_bytes(tar_of([item for item in hybrid if item[0] != "index.json"]))
    refused = {f.refused_by for f in verify(str(path)).findings if f.rule == "dot-slash-name"}
    assert refused == {("containerd",)}


def test_podman_tries_both_forms(tmp_path: Path) -> None:
    """Without it podman would be said to refuse what it reads in the archive's other form."""
    layout = handmade.Layout()
    layout.top = [handmade.named(layout.image(BASE), "x:1"), *handmade.artifacts(layout).values()]
    files = layout.files()
    members, item = BASE.docker_members()
    for broken, names in ((False, set()), (True, {"podman", "docker", "skopeo", "buildah"})):
        layers = ["nowhere"] * 2 if broken else item["Layers"]
        manifest = json.dumps([{**item, "Layers": layers}]).encode()
        archive = tar_of([*files.items(), *members, ("manifest.json", manifest)])
        assert refused_by(verify(str(planted(tmp_path, archive)))) == names
    layout.top = layout.top[:1]
    archive = tar_of([*layout.files().items(), *members, ("manifest.json", manifest)])
    refusing = refused_by(verify(str(planted(tmp_path, archive))))
    assert refusing == {"docker", "skopeo", "buildah"}


def refused_by(found: Verification) -> set[str]:
    """Return the consumers that refuse an archive."""
    return {consumer for consumer, findings in found.refusals.items() if findings}


def test_who_takes_the_last_of_two_members(tmp_path: Path) -> None:
    """Without it those who see the sound one of two layers would be said to refuse it."""
    for first, names in ((True, {"podman", "skopeo", "buildah"}), (False, {"docker"})):

        def add(members: Members, _: object, *, first: bool = first) -> None:
            members.insert(0 if first else len(members), (members[0][0], LAYERS[1]))

        refusing = refused_by(verify(str(planted(tmp_path, docker(add)))))
        assert refusing - {"umoci", "containerd"} == names
        assert ("containerd" in refusing) != first


def test_keys_in_any_case(tmp_path: Path) -> None:
    """Go reads keys without regard to case; without it consumers would differ from verify."""
    archive = BASE.docker_archive().replace(b'"RepoTags"', b'"repotags"')
    assert refused_by(verify(str(planted(tmp_path, archive)))) == {"umoci"}


def test_every_rule_is_documented() -> None:
    """Without it docs/verify.md could lack a rule, or name the wrong consumers for one."""
    documented: dict[str, frozenset[str]] = {}
    for line in DOCS.read_text("utf-8").splitlines():
        cells = [cell.strip() for cell in line.strip("|").split("|")]
        if len(cells) == 3 and cells[0].startswith("`"):
            names = CONSUMERS if cells[2] == "all" else cells[2].split(", ") if cells[2] else ()
            documented |= {rule.strip("`"): frozenset(names) for rule in cells[0].split(", ")}
    assert documented == {name: rule.refused_by for name, rule in RULES.items()}


# ---- against an oracle

paths = st.sampled_from(
    ["a", "a/b", "a/b/c", "b", "b/c", "./a", "/a", "a/", "c/../b", "./", "b//c"]
)
kinds = st.sampled_from([tarfile.REGTYPE, tarfile.DIRTYPE, tarfile.SYMTYPE, tarfile.LNKTYPE])
entries = st.lists(st.tuples(paths, kinds, paths), max_size=7)


def naive(members: Sequence[tarfile.TarInfo]) -> set[str]:  # noqa: PLR0912
    """Return the rules that a layer breaks, found by comparing all entries with each other."""

    def key(name: str) -> str:
        return "/".join(part for part in name.split("/") if part not in ("", "."))

    broken = set()
    good = [info for info in members if ".." not in info.name.split("/")]
    for info in members:
        inner = info.name.removeprefix("./").removeprefix("/")
        if info.isdir():
            inner = inner.removesuffix("/")
        if (inner or not info.isdir()) and {"", ".", ".."} & set(inner.split("/")):
            broken.add("path-not-normalized" if not (info.isdir() and inner == ".") else "")
        if info.islnk() and ".." in info.linkname.split("/"):
            broken.add("path-not-normalized")
    for index, info in enumerate(good):
        path, before, after = key(info.name), good[:index], good[index + 1 :]
        for other in before:
            if key(other.name) == path:
                first = next(one for one in good if key(one.name) == path)
                same = first.name.startswith("/") == info.name.startswith("/")
                broken.add("duplicate-path" if same else "duplicate-path-slash")
        firsts = {key(one.name): one for one in reversed(before)}
        for name, other in firsts.items():
            # If the parent had entries before, the parent's own entry is at fault.
            known = any(key(one.name).startswith(f"{name}/") for one in before)
            if name and path.startswith(f"{name}/") and not other.isdir() and not known:
                broken.add("path-through-symlink" if other.issym() else "parent-not-directory")
        if not info.isdir() and any(key(other.name).startswith(f"{path}/") for other in before):
            broken.add("directory-replaced")
        if info.islnk() and ".." not in info.linkname.split("/"):
            target = key(info.linkname)
            if target not in firsts or target == path:
                here = any(key(other.name) == target for other in [info, *after])
                broken.add("hard-link-before-target" if here else "hard-link-to-other-layer")
            elif firsts[target].isdir():
                broken.add("hard-link-to-directory")
    return broken - {""}


@given(entries=entries)
def test_layers_against_an_oracle(entries: list[tuple[str, bytes, str]]) -> None:
    """Without it the single pass over a layer could find other faults than a naive check."""
    layer = tar_of([entry(name, kind, target) for name, kind, target in entries])
    with tarfile.open(fileobj=io.BytesIO(layer)) as tar:
        members = tar.getmembers()
    found: set[str] = set()
    count = check_layer(StreamBytes(io.BytesIO(layer), "x"), lambda rule, _: found.add(rule))
    assert count == len(members)
    through = "path-through-symlink"  # wherever it leads
    assert {through if rule.startswith(through) else rule for rule in found} == naive(members)


def digests_hold(archive: bytes) -> bool:
    """Return True if tarfile and hashlib find the image unchanged."""
    try:
        with tarfile.open(fileobj=io.BytesIO(archive)) as tar:
            names = tar.getnames()
            (item,) = json.loads(tar.extractfile("manifest.json").read())  # type: ignore[union-attr]
            config = tar.extractfile(item["Config"]).read()  # type: ignore[union-attr]
            layers = [tar.extractfile(name).read() for name in item["Layers"]]  # type: ignore[union-attr]
    except (tarfile.TarError, KeyError, ValueError, AttributeError, TypeError):
        return False
    return (
        len(names) == 4
        and hashlib.sha256(config).hexdigest() == item["Config"][:64]
        and list(map(digest, layers)) == [digest(layer) for layer in LAYERS]
    )


@given(st.data())
def test_any_byte(tmp_path: Path, data: st.DataObject) -> None:
    """Without it a changed byte could change the image unnoticed."""
    archive = bytearray(BASE.docker_archive())
    place = data.draw(st.integers(0, len(archive) - 1))
    archive[place] ^= data.draw(st.integers(1, 255))
    path = tmp_path / "archive"
    path.write_bytes(archive)
    if not verify(str(path)).faults:
        assert digests_hold(bytes(archive))


@pytest.mark.parametrize("compressor", [name for name in handmade.COMPRESSORS if name != "plain"])
@given(st.data())
def test_any_compressed_byte(tmp_path: Path, compressor: str, data: st.DataObject) -> None:
    """Without it damage to a compressed archive could change the image unnoticed."""
    archive = bytearray(handmade.COMPRESSORS[compressor](BASE.docker_archive()))
    if data.draw(st.booleans()):
        place = data.draw(st.integers(0, len(archive) - 1))
        archive[place] ^= data.draw(st.integers(1, 255))
    else:
        del archive[data.draw(st.integers(0, len(archive) - 1)) :]
    path = tmp_path / "archive"
    path.write_bytes(archive)
    found = verify(str(path))
    if not found.faults:
        assert [layer.diff_id for layer in found.images[0].layers] == [*map(digest, LAYERS)]


# ---- against a conf


def changed_content(store: Store) -> str:
    """Change one byte."""
    path = store.path("b/bin/b")
    path.write_bytes(b"x" + path.read_bytes()[1:])
    return "layer 2 is the first to differ from the conf's image: {}/b/bin/b: content differs"


def changed_size(store: Store) -> str:
    """Shorten a file."""
    store.path("b/bin/b").write_bytes(b"x")
    return "layer 2 {}/b/bin/b: size is 5000, not 1"


def changed_mode(store: Store) -> str:
    """Set the execute bits."""
    store.path("a/bin/a").chmod(0o777)
    return "layer 1 {}/a/bin/a: mode is 0644, not 0777"


def changed_link(store: Store) -> str:
    """Point a link elsewhere."""
    store.path("b/link").unlink()
    store.path("b/link").symlink_to("there")
    return "layer 2 {}/b/link: link target is bin, not there"


def added(store: Store) -> str:
    """Add an entry at the end."""
    store.file("c/zz", b"")
    return "layer 2 {}/c/zz: missing"


def added_between(store: Store) -> str:
    """Add an entry before another."""
    store.file("b/bin/aa", b"")
    return "layer 2 {}/b/bin/b: expected {}/b/bin/aa here"


def removed(store: Store) -> str:
    """Remove an entry."""
    store.path("c/link").unlink()
    return "layer 2 {}/c/link: unexpected entry"


@pytest.mark.parametrize(
    "change",
    [changed_content, changed_size, changed_mode, changed_link, added, added_between, removed],
)
@pytest.mark.parametrize("compress", ["none", "zstd"])
def test_not_what_the_conf_yields(
    store: Store, change: Callable[[Store], str], compress: str
) -> None:
    """Without it nobody learns which file makes an image differ from its conf."""
    conf = store.conf(["a"], ["b", "c"])
    path = conf.with_name("image")
    commandline.run(
        [*COMMAND, "-q", str(conf), "-o", str(path), "--compress", compress], check=True
    )
    words = change(store).split("{}")
    status, said = run(path, "--conf", conf)
    assert status == 1
    assert str(store.directory).join(words[1:]) in said.splitlines()[1]
    assert words[0].strip() in said.splitlines()[1]
    status, said = run("-", "--conf", conf, stdin=path.read_bytes())
    assert status == 1
    assert f"{words[0].split()[0]} {words[0].split()[1]} is the first to differ" in said


def test_other_tag_config_or_layers(store: Store) -> None:
    """Without it a different tag, config or number of layers would go unreported."""
    conf = store.conf(["a"])
    path = conf.with_name("image.tar")
    commandline.run([*COMMAND, "-q", str(conf), "-o", str(path)], check=True)
    store.conf(["a"], repo_tag="other:2", config={"Cmd": ["y"]})
    status, said = run(path, "--conf", conf)
    assert status == 1
    assert "is tagged test:1; the conf's tag is other:2\n" in said
    assert "; the image configs differ in 'config'\n" in said
    store.conf(["a"], ["b"])
    assert "number of layers is 1, not 2\n" in run(path, "--conf", conf)[1]
    store.conf(["none"])
    assert run(path, "--conf", conf)[0] == 2


def test_only_one_standard_input() -> None:
    """Without it archive and conf would both be read from standard input."""
    status, said = run("-", "--conf", "-")
    assert (status, len(said.splitlines())) == (2, 1)


@pytest.mark.slow
def test_memory_is_bounded(tmp_path: Path) -> None:
    """Without it memory could grow with the archive."""
    noise = random.Random(2).randbytes(1 << 20)
    layer = io.BytesIO()
    with tarfile.open(fileobj=layer, mode="w") as tar:
        for number in range(300):
            info = tarfile.TarInfo(f"f{number}")
            info.size = len(noise)
            tar.addfile(info, io.BytesIO(noise))
    path = tmp_path / "image.tar.zst"
    path.write_bytes(pyzstd.compress(Base(layers=[layer.getvalue()]).docker_archive(), 1))
    program = (
        "import sys; from stream.cli.main import main; status = main(sys.argv[1:]);"
        "peak = dict(line.split(':') for line in open('/proc/self/status'))['VmHWM'];"
        "print(peak.split()[0]); sys.exit(status)"
    )
    for verb in ("inspect", "verify"):
        command = [COMMAND[0], "-c", program, verb, str(path)]
        done = subprocess.run(command, capture_output=True, check=True)
        assert int(done.stdout.split()[-1]) < 100_000


def test_names_with_many_parents() -> None:
    """Parents are remembered: without it kilobytes of archive could take gigabytes of memory."""
    names = [f"{number}/" + "a/" * 2000 + "x" for number in range(200)]
    found: list[str] = []
    layer = StreamBytes(io.BytesIO(layer_tar(dict.fromkeys(names, b""))), "x")
    entries = check_layer(layer, lambda rule, message: found.append(f"{rule}: {message}"))
    assert found == ["too-many-entries: too many long names; the rest is not checked"]
    assert entries < len(names)


def test_keys_that_differ_in_case(check: Callable[..., Any]) -> None:
    """Docker ignores case: without it, it would load another image than the one verified."""
    other = Base(layers=LAYERS[:1], config={"Cmd": ["other"]}).document()

    def change(members: Members, item: dict[str, Any]) -> None:
        members.append(("other.json", json.dumps(other).encode()))
        item |= {"config": "other.json", "layers": item["Layers"][:1]}

    assert check(docker(change)) == {"duplicate-key"}
    labels = {"Labels": {"a": "1", "A": "2"}}
    assert check(Base(layers=LAYERS, config=labels).docker_archive()) == set()

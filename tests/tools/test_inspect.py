"""`stream-image inspect`, compared with what tarfile and hashlib find in the same bytes."""

import fcntl
import gzip
import hashlib
import io
import json
import os
import random
import re
import subprocess
import sys
import tarfile
import termios
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import commandline
import handmade
import pytest
import pyzstd
from handmade import Base, digest, layer_tar, link, tar_of
from hypothesis import given
from hypothesis import strategies as st
from support import COMMAND

from stream.archives.files import Allowance, Files, SizedFile
from stream.cli.tables import render
from stream.cli.verbs import inspect as command
from stream.errors import ArchiveError, CommandsError
from stream.tools.explain import explain
from stream.tools.inspect import Duplicate, InspectedImage, InspectedLayer, Inspection, inspect

HASHES = [character * 32 for character in "0123456789"]
GLIBC, BASH = f"{HASHES[0]}-glibc-2.38", f"{HASHES[1]}-bash-5.2"
LAYERS = [
    layer_tar({f"nix/store/{GLIBC}/lib/libc.so": b"c" * 5000}),
    layer_tar({f"/nix/store/{BASH}/bin/bash": b"b" * 700, "etc/passwd": b"root"}),
    layer_tar({"usr/bin/tool": b"t"}),
]
BASE = Base(layers=LAYERS, config={"Cmd": ["/bin/sh"], "Env": ["A=1"]}, tags=["base:1", "base:2"])


def ignored(_message: str) -> None:
    """Ignore warnings, which these tests are not about."""


def as_json(target: str | Path, stdin: bytes | None = None) -> Any:
    """Return the command's JSON output for `target`."""
    done = commandline.run(
        [*COMMAND, "inspect", "--json", str(target)], input=stdin, capture_output=True, check=True
    )
    assert not done.stderr
    return json.loads(done.stdout)


def oracle(archive: bytes, stored: Callable[[bytes], bytes] = bytes) -> list[dict[str, Any]]:
    """Return the layers of a docker-archive's first image, computed without the package."""
    with tarfile.open(fileobj=io.BytesIO(archive)) as tar:
        (item,) = json.loads(tar.extractfile("manifest.json").read())  # type: ignore[union-attr]
        found = []
        for name in item["Layers"]:
            content = tar.extractfile(name).read()  # type: ignore[union-attr]
            with tarfile.open(fileobj=io.BytesIO(content)) as layer:
                found.append(
                    {
                        "name": name,
                        "diff_id": "sha256:" + hashlib.sha256(content).hexdigest(),
                        "size": len(content),
                        "stored_size": len(stored(content)),
                        "entries": len(layer.getmembers()),
                    }
                )
    return found


def assert_is(layers: list[dict[str, Any]], expected: list[dict[str, Any]]) -> None:
    """Check that the layers are those that the oracle found."""
    assert len(layers) == len(expected)
    for layer, facts in zip(layers, expected, strict=True):
        assert facts.items() <= layer.items()


@pytest.mark.parametrize("compressor", handmade.COMPRESSORS)
def test_every_compression(tmp_path: Path, compressor: str) -> None:
    """The result depends neither on compression nor on how the archive is passed."""
    archive = BASE.docker_archive()
    path = tmp_path / "image"
    path.write_bytes(handmade.COMPRESSORS[compressor](archive))
    found = as_json(path)
    assert found["compression"] == (None if compressor == "plain" else compressor.partition("-")[0])
    assert found["kind"] == "docker-archive"
    (image,) = found["images"]
    assert_is(image["layers"], oracle(archive))
    assert [layer["store_paths"] for layer in image["layers"]] == [
        [f"/nix/store/{GLIBC}"],
        [f"/nix/store/{BASH}"],
        [],
    ]
    assert image["image_id"] == digest(json.dumps(BASE.document()).encode())
    assert image["repo_tags"] == ["base:1", "base:2"]
    assert image["config"] == BASE.config
    assert image["size"] == sum(map(len, LAYERS))
    piped = as_json("-", path.read_bytes())
    assert piped == {**found, "name": "standard input"}


@pytest.mark.parametrize("compress", [bytes, gzip.compress, pyzstd.compress])
@pytest.mark.parametrize("kept", ["plain", "gzip", "directory"])
def test_oci(tmp_path: Path, kept: str, compress: Callable[[bytes], bytes]) -> None:
    """Layers compressed one by one have two sizes and two digests."""
    packed = [compress(layer) for layer in LAYERS]
    files = BASE.oci_files(packed)
    path = tmp_path / "layout"
    if kept == "directory":
        for name, content in files.items():
            (path / name).parent.mkdir(parents=True, exist_ok=True)
            (path / name).write_bytes(content)
    else:
        path.write_bytes(handmade.COMPRESSORS[kept](tar_of([*files.items()])))
    (image,) = as_json(path)["images"]
    for layer, content, stored in zip(image["layers"], LAYERS, packed, strict=True):
        assert layer["size"] == len(content)
        assert layer["stored_size"] == len(stored)
        assert layer["digest"] == digest(stored)
        assert layer["diff_id"] == digest(content)
        assert (layer["compression"] is None) == (compress is bytes)


def test_conf_without_a_tag(tmp_path: Path) -> None:
    """A conf whose tag comes from the command line can be inspected as well."""
    conf = tmp_path / "conf.json"
    conf.write_text("{}")
    done = commandline.run(
        [*COMMAND, "inspect", "--json", str(conf), "-t", "x:1"], capture_output=True, check=True
    )
    assert json.loads(done.stdout)["images"][0]["repo_tags"] == ["x:1"]


def test_very_long_config(tmp_path: Path) -> None:
    """Formatting text that nobody reads would take minutes."""
    base = Base(config={"Env": [f"A{n}=1" for n in range(5000)], "Cmd": ["x" * 100_000]})
    path = tmp_path / "image.tar"
    path.write_bytes(base.docker_archive())
    done = commandline.run([*COMMAND, "inspect", str(path)], capture_output=True, check=True)
    assert b"and 4,960 more" in done.stdout
    assert len(done.stdout) < 10_000


def test_both_formats_at_once(tmp_path: Path) -> None:
    """An OCI archive is shown as an OCI layout."""
    base = Base(layers=LAYERS)
    members, item = base.docker_members()
    manifest = json.dumps([item]).encode()
    path = tmp_path / "image.tar"
    path.write_bytes(tar_of([*base.oci_files().items(), *members, ("manifest.json", manifest)]))
    assert as_json(path)["also_oci"]
    done = commandline.run([*COMMAND, "inspect", str(path)], capture_output=True, check=True)
    assert b"docker-archive and OCI layout" in done.stdout


def test_several_images(tmp_path: Path) -> None:
    """All images, or the selected one."""
    other = Base(layers=LAYERS[2:], tags=["other:3"])
    members, first = BASE.docker_members()
    more, second = other.docker_members(["other/layer.tar"])
    path = tmp_path / "both.tar"
    manifest = json.dumps([first, second]).encode()
    path.write_bytes(tar_of([*members, *more, ("manifest.json", manifest)]))
    assert [image["repo_tags"] for image in as_json(path)["images"]] == [BASE.tags, other.tags]
    assert [image["repo_tags"] for image in as_json(f"{path}:other:3")["images"]] == [other.tags]
    with pytest.raises(ArchiveError, match="has no image none:1"):
        inspect(f"{path}:none:1", ignored)


@pytest.fixture
def conf(tmp_path: Path) -> Path:
    """Return a conf with two store layers, a customisation layer, and a base that has a path."""
    store = tmp_path / "store"
    names = [GLIBC, BASH, f"{HASHES[2]}-hello"]
    for name in names:
        (store / name / "bin").mkdir(parents=True)
        (store / name / "bin" / "x").write_bytes(name.encode() * 400)
    base = tmp_path / "base.tar.gz"
    held = layer_tar({f"{store}/{BASH}": b""})
    base.write_bytes(gzip.compress(Base(layers=[held], config={"Env": ["A=1"]}).docker_archive()))
    top = tmp_path / "top"
    top.mkdir()
    layer = layer_tar({"etc/motd": b"hi\n", "etc/issue": b"x"})
    (top / "layer.tar").write_bytes(layer)
    (top / "checksum").write_text(hashlib.sha256(layer).hexdigest() + "\n", "ascii")
    document = {
        "architecture": "amd64",
        "variant": "v2",
        "repo_tag": "planned:1",
        "store_dir": str(store),
        "store_layers": [[f"{store}/{name}" for name in names[:2]], [f"{store}/{names[2]}"]],
        "config": {"Env": ["B=2"], "User": "7"},
        "from_image": str(base),
        "customisation_layer": str(top),
    }
    path = tmp_path / "conf.json"
    path.write_text(json.dumps(document), "utf-8")
    return path


@pytest.mark.parametrize("skip", [False, True])
def test_a_plan_matches_the_stream(conf: Path, skip: bool) -> None:  # noqa: FBT001 — a parameter of the test
    """A conf's plan matches the image, including base image and customisation layer."""
    document = json.loads(conf.read_bytes())
    conf.write_text(json.dumps({**document, "skip_base_paths": skip}), "utf-8")
    streamed = conf.parent / "image.tar"
    nothing_known = [*COMMAND, "-q", "--no-digest-cache", str(conf), "-o", str(streamed)]
    commandline.run(nothing_known, check=True)
    plan = as_json(conf)
    assert plan == {**as_json("-", conf.read_bytes()), "name": str(conf)}
    assert (plan["kind"], plan["compression"]) == ("conf", None)
    (planned,), (image,) = plan["images"], as_json(streamed)["images"]
    assert_is(image["layers"], oracle(streamed.read_bytes()))
    assert planned["image_id"] is None
    same = ("repo_tags", "architecture", "variant", "os", "created", "config", "size", "entries")
    assert {key: planned[key] for key in same} == {key: image[key] for key in same}
    for key in ("size", "stored_size", "entries", "store_paths"):
        assert [layer[key] for layer in planned["layers"]] == [
            layer[key] for layer in image["layers"]
        ]
    names = [layer["name"] for layer in planned["layers"]]
    assert names[1:] == [layer["name"] for layer in image["layers"]][1:]
    assert len(planned["layers"][1]["store_paths"]) == (1 if skip else 2)


def test_a_plan_reads_no_content(tmp_path: Path) -> None:
    """A plan is for a look before a long run: its time does not grow with the bytes."""
    store = tmp_path / "store"
    store.mkdir()
    (store / "large").touch()
    os.truncate(store / "large", 1 << 40)
    path = tmp_path / "conf.json"
    document = {"repo_tag": "x:1", "store_dir": str(store), "store_layers": [[f"{store}/large"]]}
    path.write_text(json.dumps(document), "utf-8")
    (image,) = inspect(str(path), ignored).images
    assert image.size > 1 << 40


def test_plain_files_are_read_by_position(tmp_path: Path) -> None:
    """Inspecting a large archive reads its headers, not its bytes."""
    path = tmp_path / "image.tar"
    entry = tarfile.TarInfo("large")
    entry.size = 1 << 39
    layer = tarfile.TarInfo("layer.tar")
    layer.size = len(entry.tobuf()) + (1 << 39) + 1024
    config = json.dumps({"rootfs": {"diff_ids": [digest(b"")]}}).encode()
    item = {"Config": "c", "Layers": ["layer.tar"], "RepoTags": ["x:1"]}
    rest = tar_of([("c", config), ("manifest.json", json.dumps([item]).encode())])
    with path.open("wb") as file:
        file.write(layer.tobuf() + entry.tobuf())
        file.seek(len(layer.tobuf()) + layer.size)
        file.write(rest)
    (image,) = inspect(str(path), ignored).images
    assert (image.size, image.entries) == (layer.size, 1)


def test_store_paths_of_other_stores(tmp_path: Path) -> None:
    """Any directory can be a store: the history names it. Links to paths are not store paths."""
    names = {f"opt/mine/{name}/x": b"" for name in ("b", "a")}
    links = {f"nix/var/nix/gcroots/{HASHES[3]}-system": b""}
    base = Base(
        layers=[layer_tar({"opt/mine/b": b"", **names}), layer_tar(links)],
        history=[{"comment": "store paths: ['/opt/mine/b', \"/opt/mine/a\"]"}, {"comment": "no"}],
    )
    path = tmp_path / "image.tar"
    path.write_bytes(base.docker_archive())
    (image,) = inspect(str(path), ignored).images
    assert [layer.store_paths for layer in image.layers] == [("/opt/mine/b",), ()]


@pytest.mark.parametrize("compress", ["none", "store", "gzip", "zstd", "zstd-seekable"])
def test_our_own_outputs(conf: Path, compress: str) -> None:
    """Every output of ours can be inspected."""
    path = conf.parent / "image"
    commandline.run(
        [*COMMAND, "-q", str(conf), "-o", str(path), "--compress", compress], check=True
    )
    inspection = inspect(str(path), ignored)
    paths = [layer.store_paths for layer in inspection.images[0].layers]
    assert [len(found) for found in paths] == [1, 2, 1, 0]


# ---- files


def files_in(archive: bytes) -> list[list[tuple[str, int]]]:
    """Return the files of each layer of a docker-archive with their sizes, largest first."""
    found = []
    with tarfile.open(fileobj=io.BytesIO(archive)) as tar:
        (item,) = json.loads(tar.extractfile("manifest.json").read())  # type: ignore[union-attr]
        for name in item["Layers"]:
            with tarfile.open(fileobj=tar.extractfile(name)) as layer:
                files = [entry for entry in layer if entry.isreg()]
            files.sort(key=lambda entry: -entry.size)
            found.append([("/" + entry.name.lstrip("./"), entry.size) for entry in files])
    return found


def inspected(path: Path | str, files: Any = "largest") -> InspectedImage:
    """Return the first image, with its files."""
    return inspect(str(path), ignored, files=files).images[0]


@pytest.mark.parametrize("files", ["largest", "compared"])
def test_files_of_a_conf_and_of_its_image(conf: Path, files: str) -> None:
    """A file that is missing, or in another layer, would be looked for where it is not."""
    streamed = conf.parent / "image.tar"
    commandline.run([*COMMAND, "-q", str(conf), "-o", str(streamed)], check=True)
    expected = files_in(streamed.read_bytes())
    assert sum(map(len, expected)) == 6
    for path in (conf, streamed):
        image = inspected(path, files)
        assert [[(one.path, one.size) for one in layer.files] for layer in image.layers] == expected
    assert inspected(conf).base_layers == 1


def test_only_the_largest_files_are_kept(tmp_path: Path) -> None:
    """The memory for a million of files would grow with their number."""
    sizes = [*range(300)]
    random.Random(0).shuffle(sizes)
    path = tmp_path / "image.tar"
    layer = layer_tar({f"{size:03}": bytes(size) for size in sizes})
    path.write_bytes(Base(layers=[layer]).docker_archive())
    (found,) = inspected(path).layers
    assert [file.size for file in found.files] == [*range(299, 199, -1)]


COPIED = [
    layer_tar({"a": b"x" * 9000, "b": b"x" * 9000, "small": b"s" * 4095, "c": b"y" * 5000}),
    layer_tar({"./d": b"x" * 9000, "small": b"s" * 4095, "e": b"z" * 9000}),
    layer_tar({"f": b"y" * 5000}),
]


@pytest.mark.parametrize("compressor", ["plain", "zstd"])
def test_duplicates(tmp_path: Path, compressor: str) -> None:
    """What an image holds twice is found by content; equal sizes or names say nothing."""
    path = tmp_path / "image"
    archive = Base(layers=COPIED).docker_archive()
    path.write_bytes(handmade.COMPRESSORS[compressor](archive))
    image = inspected(path, "compared")
    assert [(one.size, one.count, one.excess, one.places) for one in image.duplicates or ()] == [
        (9000, 3, 18_000, ((1, "/a"), (2, "/d"))),
        (5000, 2, 5000, ((1, "/c"), (3, "/f"))),
    ]
    assert image.all_compared
    assert inspected(path).duplicates is None
    shown = commandline.run(
        [*COMMAND, "inspect", "--duplicates", str(path)], capture_output=True, check=True
    ).stdout.decode()
    assert re.search(r"without the first: 23.0 kB, [0-9.]+%\n", shown)
    assert re.search(r"18.0 kB +3 +1: /a\n +2: /d\n", shown)
    document = as_json_with("--duplicates", path)
    assert document["duplicates"][1] == {
        "size": 5000, "count": 2, "excess": 5000,
        "places": [{"layer": 1, "path": "/c"}, {"layer": 3, "path": "/f"}],
    }  # fmt: skip
    assert document["layers"][2]["files"] == [{"path": "/f", "size": 5000}]


def as_json_with(option: str, path: Path) -> Any:
    """Return the JSON of the first image."""
    done = commandline.run(
        [*COMMAND, "inspect", "--json", option, str(path)], capture_output=True, check=True
    )
    return json.loads(done.stdout)["images"][0]


def test_too_many_contents() -> None:
    """An image of millions of files would take all memory; what was left out must be said."""
    allowance = Allowance(2)
    files = Files(allowance)
    for number in range(4):
        files.add(b"x", 4096, [b"%d" % (number % 3)])
    assert allowance.is_spent
    assert sorted(copies.count for copies in files.contents.values()) == [1, 2]


# ---- for people

texts = st.one_of(st.text(max_size=9), st.just("a\nb\x1b[31m"), st.just("x" * 90))
values = st.recursive(
    st.none() | st.booleans() | st.integers() | texts,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(texts, inner, max_size=3),
    max_leaves=6,
)
layers = st.builds(
    InspectedLayer,
    name=texts,
    size=st.integers(0, 10**15),
    stored_size=st.integers(0, 10**15),
    compression=st.sampled_from([None, "gzip", "zstd", "bzip2"]),
    diff_id=st.sampled_from([None, digest(b"")]),
    digest=st.none(),
    entries=st.integers(0, 10**8),
    store_paths=st.lists(texts.map("/nix/store/".__add__), max_size=9).map(tuple),
    history=texts,
    files=st.lists(st.builds(SizedFile, path=texts, size=st.integers(0, 10**15)), max_size=3).map(
        tuple
    ),
)
duplicates = st.builds(
    Duplicate,
    size=st.integers(0, 10**15),
    count=st.integers(2, 10**6),
    places=st.lists(st.tuples(st.integers(1, 200), texts), min_size=1, max_size=6).map(tuple),
)
images = st.builds(
    InspectedImage,
    image_id=st.sampled_from([None, digest(b"")]),
    repo_tags=st.lists(texts, max_size=3).map(tuple),
    document=st.fixed_dictionaries(
        {},
        optional={
            "os": values,
            "architecture": values,
            "variant": values,
            "created": values,
            "config": st.dictionaries(
                st.sampled_from(["Env", "Cmd", "Labels", "Volumes"]) | texts, values, max_size=4
            ),
        },
    ),
    layers=st.lists(layers, max_size=3).map(tuple),
    duplicates=st.none() | st.lists(duplicates, max_size=3).map(tuple),
)
inspections = st.builds(
    Inspection,
    name=texts,
    kind=st.sampled_from(["docker-archive", "oci", "conf"]),
    compression=st.sampled_from([None, "zstd"]),
    images=st.lists(images, max_size=2).map(tuple),
)


@given(inspection=inspections, with_files=st.booleans())
def test_text_is_plain_and_fits(inspection: Inspection, with_files: bool) -> None:  # noqa: FBT001 — a parameter of the test
    """Whatever the image's text, it fits 80 columns and contains no terminal escapes."""
    from rich.cells import cell_len

    text = render(command._parts(inspection, with_files=with_files))
    for line in text.split("\n"):
        assert line.isprintable() or not line
        assert cell_len(line) <= 80
    json.dumps(command._document(inspection, with_files=with_files))


def test_text(conf: Path) -> None:
    """The table of an image, as people see it."""
    path = conf.parent / "image.tar"
    commandline.run([*COMMAND, "-q", str(conf), "-o", str(path)], check=True)
    shown = commandline.run(
        [*COMMAND, "inspect", str(path)], capture_output=True, check=True
    ).stdout.decode()
    with tarfile.open(path) as tar:
        image_id = next(name for name in tar.getnames() if len(name) == 69)
        # Each layer also has entries for the directories above the store.
        entries = 0
        for name in tar.getnames():
            if name.endswith("/layer.tar"):
                with tarfile.open(fileobj=tar.extractfile(name)) as layer:
                    entries += len(layer.getmembers())
    assert shown.startswith(f"planned:1  docker-archive\nsha256:{image_id[:64]}\nlinux/amd64/v2, ")
    assert "\nEnv   A=1\n      B=2\nUser  7\n" in shown
    lines = [line.split() for line in shown.splitlines()]
    assert ["bash-5.2"] in lines
    assert re.search(
        rf"\n4 layers, [0-9.]+ kB, {entries} entries, 4 store paths\nno SBOM: archives carry none\n$",
        shown,
    )


def test_long_history(tmp_path: Path) -> None:
    """Long commands in a base's history are cut; the numbers next to them are not."""
    history = [{"created_by": "RUN " + "x" * 500}] * len(LAYERS)
    archive = Base(layers=LAYERS, history=history).docker_archive()
    path = tmp_path / "image.tar"
    path.write_bytes(gzip.compress(archive))
    shown = render(command._parts(inspect(str(path), ignored)))
    assert shown.count("10.2 kB") >= len(LAYERS)
    for layer in LAYERS:
        assert digest(layer)[7:19] in shown
    assert "RUN xxx" in shown


def test_terminal(conf: Path) -> None:
    """On a terminal there is colour, and the table keeps to its width."""
    import pty

    shown = bytearray()

    def read(fd: int) -> bytes:
        data = os.read(fd, 1 << 16)
        shown.extend(data)
        return data

    program = (
        "import os, sys; os.environ.update(TERM='xterm-256color'); os.environ.pop('NO_COLOR', 0);"
    )
    program += "from stream.cli.main import main; sys.exit(main(sys.argv[1:]))"
    status = pty.spawn([sys.executable, "-c", program, "inspect", str(conf)], read)
    assert status == 0
    assert b"\x1b[1mplanned:1" in shown


# ---- hostile input


def bomb(size: int) -> bytes:
    """Return a layer that begins with `size` zeros, compressed twice; neither compression alone is a bomb."""
    import zlib

    packer = zlib.compressobj(9, wbits=31)
    head = packer.compress(layer_tar({"x": b""})[:512]) + packer.flush(zlib.Z_FULL_FLUSH)
    piece = packer.compress(bytes(1 << 26)) + packer.flush(zlib.Z_FULL_FLUSH)
    return head + piece * (size >> 26)


def with_manifest(manifest: bytes, *members: tuple[str, Any]) -> bytes:
    """Return a docker-archive with this manifest, valid or not."""
    return tar_of([*members, ("manifest.json", manifest)])


def indexes(width: int) -> bytes:
    """Return indexes that each name the next one many times."""
    files: dict[str, bytes] = {"oci-layout": b"{}"}
    index: dict[str, Any] = {"manifests": []}
    for _ in range(4):
        data = json.dumps(index).encode()
        files[f"blobs/sha256/{digest(data)[7:]}"] = data
        index = {"manifests": [{"digest": digest(data), "size": len(data)}] * width}
    return tar_of([*files.items(), ("index.json", json.dumps(index).encode())])


def cut(archive: bytes) -> bytes:
    """Return the first half."""
    return archive[: len(archive) // 2]


def announced(name: str, size: int, typeflag: bytes = tarfile.REGTYPE) -> bytes:
    """Return a member that is smaller than its header says."""
    info = tarfile.TarInfo(name)
    info.size, info.type = size, typeflag
    return info.tobuf() + b"[" + bytes(10_000)


HOSTILE: dict[str, bytes] = {
    "empty": b"",
    "noise": random.Random(1).randbytes(5000),
    "zeros": bytes(10_240),
    "no-image": tar_of([("x", b"x")]),
    "absolute": tar_of([("/etc/x", b"x")]),
    "upwards": tar_of([("../x", b"x")]),
    "link-upwards": tar_of([("x", link("../../etc/passwd"))]),
    "link-loop": with_manifest(
        json.dumps([{"Config": "a", "Layers": []}]).encode(), ("a", link("b")), ("b", link("a"))
    ),
    "twice": tar_of([("x", b"1"), ("x", b"2")]),
    "cut": cut(BASE.docker_archive()),
    "cut-gzip": cut(gzip.compress(BASE.docker_archive())),
    "cut-zstd": cut(pyzstd.compress(BASE.docker_archive())),
    "deep": with_manifest(b"[" * 500_000),
    "deep-but-closed": with_manifest(b"[" * 900 + b"]" * 900),
    "numbers": with_manifest(b"[" + b"9" * 1_000_000 + b"]"),
    "no-json": with_manifest(b"[\xff]"),
    "other-shapes": with_manifest(b'[{"Config": [], "Layers": {}}]'),
    "gigabyte-manifest": announced("manifest.json", 1 << 30),
    "gigabyte-name": announced("x", 1 << 30, b"L"),
    "negative": announced("manifest.json", -1),
    "indexes": indexes(300),
}


@pytest.mark.parametrize("verb", ["inspect", "verify"])
@pytest.mark.parametrize("piped", [False, True])
@pytest.mark.parametrize("case", HOSTILE)
def test_hostile(tmp_path: Path, case: str, piped: bool, verb: str) -> None:  # noqa: FBT001 — a parameter of the test
    """Foreign input gives one clear line, quickly, and never a traceback."""
    path = tmp_path / "image"
    path.write_bytes(HOSTILE[case])
    done = commandline.run(
        [*COMMAND, verb, "-" if piped else str(path)],
        input=HOSTILE[case] if piped else b"",
        capture_output=True,
        timeout=30,
        check=False,
    )
    said = (done.stdout + done.stderr).decode()
    assert done.returncode == 1, said
    assert "Traceback" not in said
    assert "internal error" not in said
    if verb == "inspect":
        assert len(said.splitlines()) == 1
        assert not done.stdout


@pytest.mark.slow
@pytest.mark.parametrize("verb", ["inspect", "verify"])
@pytest.mark.parametrize("piped", [False, True])
def test_bomb_in_bomb(tmp_path: Path, piped: bool, verb: str) -> None:  # noqa: FBT001 — a parameter of the test
    """Compressed twice, kilobytes would be terabytes: the limit counts the file's own bytes."""
    stored = bomb(3 << 30)
    archive = gzip.compress(BASE.docker_archive(stored=[stored, *LAYERS[1:]]), 9)
    assert len(archive) < 60_000
    path = tmp_path / "image"
    path.write_bytes(archive)
    done = commandline.run(
        [*COMMAND, verb, "-" if piped else str(path)],
        input=archive if piped else b"",
        capture_output=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 1
    assert b"refused as a bomb" in done.stdout + done.stderr


def test_targets_that_cannot_be_read(tmp_path: Path) -> None:
    """Neither a FIFO nor a missing file hangs, or gives an unclear message."""
    os.mkfifo(tmp_path / "fifo")
    for verb in ("inspect", "verify"):
        for name, why in (("fifo", b"neither"), ("none", b"No such file"), ("", b"directory")):
            done = commandline.run(
                [*COMMAND, verb, str(tmp_path / name)], capture_output=True, check=False, timeout=20
            )
            assert done.returncode == 1
            assert why in done.stderr or name == ""
            assert len(done.stderr.splitlines()) == 1


def test_the_reader_goes_away(tmp_path: Path) -> None:
    """`| head` must not give a traceback."""
    path = tmp_path / "image.tar"
    path.write_bytes(BASE.docker_archive())
    for verb in ("inspect", "verify"):
        read_end, write_end = os.pipe()
        os.close(read_end)
        done = commandline.run(
            [*COMMAND, verb, str(path)], stdout=write_end, stderr=subprocess.PIPE, check=False
        )
        os.close(write_end)
        assert (done.returncode, done.stderr) == (1, b"")


def test_no_image_to_choose_in_a_conf(conf: Path) -> None:
    """A tag after a conf's name is a mistake, and must be reported."""
    done = commandline.run([*COMMAND, "inspect", f"{conf}:x:1"], capture_output=True, check=False)
    assert done.returncode == 2
    assert b"is a conf" in done.stderr


def test_stores_are_counted_not_kept(tmp_path: Path) -> None:
    """A store has few paths, even if it has many files."""
    names = {f"nix/store/{GLIBC}/{number}": b"" for number in range(3000)}
    path = tmp_path / "image.tar"
    path.write_bytes(Base(layers=[layer_tar(names)]).docker_archive())
    (layer,) = inspect(str(path), ignored).images[0].layers
    assert layer.entries == 3000
    assert layer.store_paths == (f"/nix/store/{GLIBC}",)


def _pending(fd: int) -> int:
    """Return the number of bytes that wait in a pipe."""
    return int.from_bytes(fcntl.ioctl(fd, termios.FIONREAD, bytes(4)), sys.byteorder)


def test_non_blocking_standard_streams() -> None:
    """Shells and editors pass on non-blocking streams; we wait for them, as the writer does."""
    config = {"Env": [f"V{number}={'x' * 50}" for number in range(3000)]}
    archive = Base(layers=[layer_tar({"a": b""})], config=config).docker_archive()
    (read_in, write_in), (read_out, write_out) = os.pipe(), os.pipe()
    os.set_blocking(read_in, False)
    os.set_blocking(write_out, False)
    with subprocess.Popen(
        [*COMMAND, "inspect", "--json", "-"], stdin=read_in, stdout=write_out, stderr=-1
    ) as process:
        with open(write_in, "wb", buffering=0) as file:
            file.write(archive[:1000])
            while _pending(read_in) and process.poll() is None:
                time.sleep(0.01)
            time.sleep(0.2)  # now it has nothing to read
            os.close(read_in)
            if process.poll() is None:
                file.write(archive[1000:])
        os.close(write_out)
        while _pending(read_out) < 60_000 and process.poll() is None:
            time.sleep(0.01)
        with open(read_out, "rb") as file:
            said = file.read()
        assert process.stderr is not None
        assert process.stderr.read() == b""
    assert json.loads(said)["images"][0]["config"] == config


@pytest.mark.parametrize("verb", ["inspect", "export", "merge"])
def test_name_that_is_not_text(tmp_path: Path, verb: str) -> None:
    """A file can have any name, with or without a tag after it."""
    path = os.fsencode(tmp_path) + b"/\xff.tar"
    with open(path, "wb") as file:
        file.write(Base(layers=[layer_tar({"a": b""})], tags=["a:1"]).docker_archive())
    for name in (path, path + b":a:1"):
        done = commandline.run([*COMMAND, verb, name], capture_output=True, check=False)
        assert done.returncode == 0, done.stderr


def test_commands_are_not_run(tmp_path: Path) -> None:
    """Somebody who looks at a recipe from elsewhere would run its commands."""
    conf = tmp_path / "conf.json"
    recipe = {"directories": {"/made": "0755"}, "extra_commands": "exit 3"}
    conf.write_text(
        json.dumps({"repo_tag": "x:1", "architecture": "amd64", "customisation_layer": recipe})
    )
    remedy = "run them with --run-commands"
    warnings: list[str] = []
    inspect(str(conf), warnings.append)
    (layer,) = explain(str(conf), warn=warnings.append).layers
    assert [warning.partition("; ")[2] for warning in warnings] == [remedy, remedy]
    failures = "exit status 3|not on PATH|cannot make a sandbox"
    with pytest.raises(CommandsError, match=failures):
        inspect(str(conf), ignored, run_commands=True)
    with pytest.raises(CommandsError, match=failures):
        explain(str(conf), run_commands=True)
    assert (layer.size, layer.name) == (None, "customisation layer, without its commands")

"""Base images: every shape of archive, what is inherited, and what is refused."""

import gzip
import io
import json
import lzma
import os
import struct
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import handmade
import orjson
import pytest
import pyzstd
from handmade import Base, Layout, digest, layer_tar, link, tar_of

import stream
from stream.archives.images import open_archive
from stream.errors import ArchiveError, ConfError, DigestMismatch
from stream.interfaces import Takes
from stream.sources import image
from stream.tarwriter import hash_layer

Build = Callable[..., tuple[dict[str, bytes], dict[str, Any], stream.Image]]

LAYERS = [
    layer_tar({"etc/os-release": b"ID=base\n" * 3000}),
    layer_tar({"bin/tool": os.urandom(40_000), "empty": b""}),
    layer_tar({"usr/lib/x": b"x" * 513}),
]


@pytest.fixture
def build(tmp_path: Path) -> Build:
    """Return a function that streams an image on a base: to its members, config and record."""
    store = tmp_path / "store"
    store.mkdir()
    (store / "ours").write_bytes(b"ours\n")

    def run(
        from_image: bytes | Path | str, **more: Any
    ) -> tuple[dict[str, bytes], dict[str, Any], stream.Image]:
        if isinstance(from_image, bytes):
            path = tmp_path / "base.tar"
            path.write_bytes(from_image)
            from_image = path
        conf = {
            "architecture": "amd64",
            "repo_tag": "ours:1",
            "store_dir": str(store),
            "store_layers": [[f"{store}/ours"]],
            "from_image": str(from_image),
            **more,
        }
        file = io.BytesIO()
        image = stream.write_image(stream.parse_conf(orjson.dumps(conf)), file)
        with tarfile.open(fileobj=io.BytesIO(file.getvalue())) as tar:
            members = {info.name: tar.extractfile(info).read() for info in tar}  # type: ignore[union-attr]
            assert len(members) == len(tar.getnames()), "a member name twice"
        (item,) = json.loads(members["manifest.json"])
        config = json.loads(members[item["Config"]])
        for name, diff_id in zip(item["Layers"], config["rootfs"]["diff_ids"], strict=True):
            assert digest(members[name]) == diff_id, "a layer is not what the config says"
        return members, config, image

    return run


def diff_ids(config: dict[str, Any]) -> list[str]:
    """Return the diff_ids of a config."""
    return list(config["rootfs"]["diff_ids"])


BASE = Base(
    layers=LAYERS,
    config={"Env": ["PATH=/bin", "A=base"], "Cmd": ["/bin/tool"], "User": "1000"},
    history=[
        {"created_by": "RUN a"},
        {"created_by": "ENV", "empty_layer": True},
        {"created_by": "RUN b"},
        {"created_by": "RUN c"},
    ],
)
EXPECTED = [digest(layer) for layer in LAYERS]


@pytest.mark.parametrize("compressor", handmade.COMPRESSORS)
@pytest.mark.parametrize("kind", ["docker", "oci"])
def test_every_compression(build: Build, compressor: str, kind: str) -> None:
    """However a base is compressed, its layers come first, unchanged and in order."""
    archive = (
        BASE.docker_archive() if kind == "docker" else handmade.tar_of([*BASE.oci_files().items()])
    )
    _, config, image = build(handmade.COMPRESSORS[compressor](archive))
    assert diff_ids(config)[:3] == EXPECTED
    assert len(image.layers) == 4
    assert [layer.size for layer in image.layers[:3]] == [len(layer) for layer in LAYERS]


def test_same_bytes_from_every_container(build: Build) -> None:
    """The image depends on the base's content, not on its container."""
    ids = set()
    for compress in handmade.COMPRESSORS.values():
        ids.add(build(compress(BASE.docker_archive()))[2].image_id)
    assert len(ids) == 1


def test_oci_directory(build: Build, tmp_path: Path) -> None:
    """An OCI layout can be a base without being packed into a tar."""
    for name, content in BASE.oci_files().items():
        path = tmp_path / "layout" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    _, config, _ = build(tmp_path / "layout")
    assert diff_ids(config)[:3] == EXPECTED


@pytest.mark.parametrize("outer", ["plain", "gzip", "zstd-seekable"])
@pytest.mark.parametrize("compress", [gzip.compress, pyzstd.compress])
@pytest.mark.parametrize("kind", ["docker", "oci"])
def test_layers_compressed_one_by_one(
    build: Build, outer: str, compress: Callable[[bytes], bytes], kind: str
) -> None:
    """A layer stored compressed is the one with its diff_id."""
    stored = [compress(layer) for layer in LAYERS]
    if kind == "docker":
        archive = BASE.docker_archive(stored=stored)
    else:
        archive = handmade.tar_of([*BASE.oci_files(stored).items()])
    _, config, _ = build(handmade.COMPRESSORS[outer](archive))
    assert diff_ids(config)[:3] == EXPECTED


@pytest.mark.parametrize("outer", ["plain", "gzip"])
def test_links_repetitions_and_odd_names(build: Build, outer: str) -> None:
    """Real archives link layers to each other, list one twice, and write `./` before names."""
    base = Base(layers=[LAYERS[0], LAYERS[1], LAYERS[0], LAYERS[1], LAYERS[0]], tags=None)
    names = ["a/layer.tar", "b/layer.tar", "c/layer.tar", "d/layer.tar", "a/layer.tar"]
    members, item = base.docker_members(names)
    contents = dict(members)
    archive = handmade.tar_of(
        [
            ("manifest.json", json.dumps([item]).encode()),
            ("./b/layer.tar", contents["b/layer.tar"]),
            ("./c/layer.tar", link("../a/layer.tar")),
            ("./d/layer.tar", link("b/layer.tar", tarfile.LNKTYPE)),
            ("./a/layer.tar", contents["a/layer.tar"]),
            members[-1],
        ]
    )
    written, config, image = build(handmade.COMPRESSORS[outer](archive))
    assert diff_ids(config)[:5] == [digest(layer) for layer in base.layers]
    assert len([name for name in written if name.endswith("layer.tar")]) == 3, "written once each"
    assert [layer.comment for layer in image.layers[:5]] == [
        f"store paths: ['{name}']" for name in names
    ]


def test_env_is_merged_as_nixpkgs_does(build: Build) -> None:
    """A base's Env applies unless ours overrides it; each variable once, in order of appearance."""
    ours = {"Cmd": ["x"], "Env": ["A=ours", "B=1", "B=2"]}
    _, config, _ = build(BASE.docker_archive(), config=ours)
    assert config["config"] == {"Cmd": ["x"], "Env": ["PATH=/bin", "A=ours", "B=2"]}


@pytest.mark.parametrize(
    ("theirs", "ours", "expected"),
    [
        ({"Cmd": ["a"]}, {}, {"Cmd": ["a"]}),
        ({"Cmd": ["a"], "Entrypoint": ["e"]}, {"Cmd": ["b"]}, {"Cmd": ["b"], "Entrypoint": ["e"]}),
        ({"Cmd": ["a"], "Entrypoint": ["e"]}, {"Entrypoint": ["f"]}, {"Entrypoint": ["f"]}),
        (
            {"Labels": {"a": "1", "b": "1"}, "Volumes": {"/a": {}}, "ExposedPorts": {"1/tcp": {}}},
            {"Labels": {"b": "2"}, "Volumes": {"/b": {}}},
            {
                "Labels": {"a": "1", "b": "2"},
                "Volumes": {"/a": {}, "/b": {}},
                "ExposedPorts": {"1/tcp": {}},
            },
        ),
        (
            {"User": "1", "WorkingDir": "/w", "StopSignal": "HUP", "Healthcheck": {"Test": ["a"]}},
            {"User": "2"},
            {"User": "2", "WorkingDir": "/w", "StopSignal": "HUP", "Healthcheck": {"Test": ["a"]}},
        ),
        ({"OnBuild": ["RUN x"], "Hostname": "h"}, {}, {}),
        ({"Env": ["A=1"]}, {"Env": ["B=2"]}, {"Env": ["A=1", "B=2"]}),
    ],
)
def test_whole_config(
    build: Build, theirs: dict[str, Any], ours: dict[str, Any], expected: dict[str, Any]
) -> None:
    """`base_config: full` inherits what `docker build` inherits, by the same rules."""
    base = Base(layers=LAYERS[:1], config=theirs)
    _, config, _ = build(base.docker_archive(), config=ours, base_config="full")
    assert config["config"] == expected


def test_history(build: Build) -> None:
    """One entry per layer, unless the base's own history is kept."""
    _, config, _ = build(BASE.docker_archive())
    assert [entry["comment"] for entry in config["history"][:3]] == [
        f"store paths: ['{number}/layer.tar']" for number in range(3)
    ]
    assert len(config["history"]) == 4
    _, config, _ = build(BASE.docker_archive(), base_history="keep")
    assert config["history"][:4] == BASE.history
    assert len(config["history"]) == 5
    _, config, _ = build(Base(layers=LAYERS).docker_archive(), base_history="keep")
    assert len(config["history"]) == 4, "a base without history has none to keep"
    odd: Any = 5
    _, config, _ = build(Base(layers=LAYERS, history=odd).docker_archive(), base_history="keep")
    assert len(config["history"]) == 4, "nor has one whose history is no list"


def test_three_deep(build: Build, tmp_path: Path) -> None:
    """Our own images work as bases: the order is kept, and a repeated top layer is written once."""
    top = tmp_path / "top"
    top.mkdir()
    content = layer_tar({"top": b"t" * 1000})
    (top / "layer.tar").write_bytes(content)
    (top / "checksum").write_text(digest(content)[7:] + "\n")
    below: bytes | Path = BASE.docker_archive()
    expected = EXPECTED
    for depth in range(3):
        members, config, image = build(below, customisation_layer=str(top))
        assert diff_ids(config)[: len(expected)] == expected
        assert diff_ids(config)[-1] == digest(content)
        assert len(config["history"]) == len(diff_ids(config)) == 3 + 2 * (depth + 1)
        expected = diff_ids(config)
        below = handmade.tar_of(list(members.items()))
        assert image.layers[-1].comment == f"store paths: ['{top}']"


@pytest.mark.parametrize("outer", ["plain", "gzip", "zstd-seekable"])
@pytest.mark.parametrize("compress", [bytes, gzip.compress])
def test_store_paths_of_the_base(
    build: Build, tmp_path: Path, outer: str, compress: Callable[[bytes], bytes]
) -> None:
    """With `skip_base_paths`, exactly the store paths that the base holds whole are left out,
    unless their names have no hash: a changed one would silently be the base's.
    """
    store = tmp_path / "store"
    digits = "0" * 32
    held, half, gone, back, linked = (
        f"{digits}-{name}" for name in ("held", "half", "gone", "back", "link")
    )
    for name in (held, half, gone, back, linked, "held"):
        (store / name).mkdir()
        (store / name / "file").write_bytes(b"x")
    inside = str(store)[1:]

    def directory(name: str) -> tuple[str, tarfile.TarInfo]:
        info = tarfile.TarInfo()
        info.type = tarfile.DIRTYPE
        return f"{inside}/{name}/", info

    lower = [directory(name) for name in (held, half, gone, back, "held")]
    files: list[tuple[str, bytes | tarfile.TarInfo]] = [
        (f"{inside}/{name}/file", b"x") for name in (held, half, gone, back, "held", "part")
    ]
    whiteouts: list[tuple[str, bytes | tarfile.TarInfo]] = [
        (f"{inside}/.wh.{gone}", b""), (f"{inside}/{half}/.wh.file", b""),
        (f"{inside}/.wh.{back}", b""),
    ]  # fmt: skip
    base = Base(
        layers=[
            handmade.tar_of([*lower, *files]),
            handmade.tar_of(whiteouts),
            handmade.tar_of([directory(back), (f"./{inside}/{linked}", link(held))]),
        ]
    )
    archive = base.docker_archive(stored=[compress(layer) for layer in base.layers])
    layers = [
        [f"{store}/{held}", f"{store}/{half}"], [f"{store}/{gone}"],
        [f"{store}/{back}", f"{store}/{linked}"], [f"{store}/held"],
    ]  # fmt: skip
    compressed = handmade.COMPRESSORS[outer](archive)
    _, config, _ = build(compressed, store_layers=layers, skip_base_paths=True)
    assert [entry["comment"] for entry in config["history"][3:]] == [
        f"store paths: ['{store}/{half}']",
        f"store paths: ['{store}/{gone}']",
        f"store paths: ['{store}/held']",
    ]
    _, config, _ = build(compressed, store_layers=layers)
    assert len(config["history"]) == 7, "off by default"


def test_choice_among_images(build: Build, tmp_path: Path) -> None:
    """`FILE:name:tag` selects one image of several; without it, the first is used."""
    one = Base(layers=LAYERS[:1], tags=["one:1"])
    two = Base(layers=LAYERS[1:], tags=["reg.example:5000/two:latest", "two:2"])
    first, first_item = one.docker_members(["x/layer.tar"])
    second, second_item = two.docker_members(["y/layer.tar", "z/layer.tar"])
    manifest = json.dumps([first_item, second_item]).encode()
    path = tmp_path / "several:images.tar"
    path.write_bytes(handmade.tar_of([*first, *second, ("manifest.json", manifest)]))
    assert diff_ids(build(path)[1])[:-1] == EXPECTED[:1]
    for tag in ("two:2", "reg.example:5000/two:latest", "docker.io/library/two:2", "two:*", "*:2"):
        assert diff_ids(build(f"{path}:{tag}")[1])[:-1] == EXPECTED[1:]
    with pytest.raises(ArchiveError, match=r"has no image \*:3"):
        build(f"{path}:*:3")
    with pytest.raises(ArchiveError, match=r"has no image three:3 \(it has: one:1, "):
        build(f"{path}:three:3")


@pytest.mark.parametrize(
    ("wanted", "chosen"),
    [(("arm", "v7"), 1), (("arm", "v6"), 2), (("arm", None), 1), (("arm64", None), 0)],
)
def test_choice_among_variants(
    build: Build, tmp_path: Path, wanted: tuple[str, str | None], chosen: int
) -> None:
    """Without it an image for an earlier processor would be built on one that cannot run there."""
    layout = Layout()
    bases = [Base(layers=[layer]) for layer in LAYERS[:3]]
    platforms = [("arm64", "v8"), ("arm", "v7"), ("arm", "v6")]
    for base, (name, level) in zip(bases, platforms, strict=True):
        layout.top.append(layout.image(base, os="linux", architecture=name, variant=level))
    (tmp_path / "base.tar").write_bytes(layout.tar())
    architecture, variant = wanted
    more = {"variant": variant} if variant else {}
    _, config, _ = build(tmp_path / "base.tar", architecture=architecture, **more)
    assert diff_ids(config)[:-1] == [handmade.digest(LAYERS[chosen])]
    assert config.get("variant") == variant


def _with(members: list[tuple[str, bytes | tarfile.TarInfo]]) -> bytes:
    """Return BASE's archive with more members before its manifest."""
    own, item = BASE.docker_members()
    return handmade.tar_of([*own, *members, ("manifest.json", json.dumps([item]).encode())])


def _with_item(**more: object) -> bytes:
    """Return BASE's archive with a changed manifest."""
    own, item = BASE.docker_members()
    return handmade.tar_of([*own, ("manifest.json", json.dumps([{**item, **more}]).encode())])


def _without(name: str) -> bytes:
    own, item = BASE.docker_members()
    rest = [member for member in own if member[0] != name]
    return handmade.tar_of([*rest, ("manifest.json", json.dumps([item]).encode())])


HOSTILE: dict[str, tuple[Callable[[], bytes], str]] = {
    "not an archive": (lambda: b"\0" * 10240, "neither manifest.json nor index.json"),
    "empty": (lambda: b"", "is empty"),
    "no tar": (lambda: os.urandom(5000), "is not a tar"),
    "missing layer": (lambda: _without("1/layer.tar"), "1/layer.tar: is missing"),
    "absolute name": (lambda: _with([("/etc/passwd", b"")]), "is outside the archive"),
    "dots": (lambda: _with([("../../etc/passwd", b"")]), "is outside the archive"),
    "link out": (lambda: _with([("l", link("../../x"))]), "a link out of the archive"),
    "same name twice": (lambda: _with([("0/layer.tar", b"")]), "two members have this name"),
    "loop": (
        lambda: handmade.tar_of(
            [("manifest.json", link("b")), ("b", link("c")), ("c", link("manifest.json"))]
        ),
        "a loop of links",
    ),
    "deep": (
        lambda: handmade.tar_of([("manifest.json", b"[" * 100_000)]),
        "nested too deeply|not JSON",
    ),
    "deep but whole": (
        lambda: handmade.tar_of([("manifest.json", b"[" * 400 + b"]" * 400)]),
        "nested too deeply",
    ),
    "not UTF-8": (lambda: handmade.tar_of([("manifest.json", b"[\xff]")]), "not JSON"),
    "list of numbers": (lambda: handmade.tar_of([("manifest.json", b"[1]")]), "not a JSON object"),
    "no config": (lambda: handmade.tar_of([("manifest.json", b"[{}]")]), "Config is missing"),
    "huge manifest": (
        lambda: handmade.tar_of([("manifest.json", b"[" + b" " * (9 << 20) + b"]")]),
        "limit for a document",
    ),
    "huge pax header": (
        lambda: _pax_bomb(),  # noqa: PLW0108 — defined below
        "extended header of .* too large",
    ),
    "layers and diff_ids": (
        lambda: _with_item(Layers=["0/layer.tar", "1/layer.tar"]),
        "lists 2 layers, but the config has 3",
    ),
}


def _pax_bomb() -> bytes:
    info = tarfile.TarInfo("././@PaxHeader")
    info.type, info.size = tarfile.XHDTYPE, 1 << 33
    return info.tobuf(tarfile.GNU_FORMAT) + b"\0" * 4096


@pytest.mark.parametrize("outer", ["plain", "gzip", "zstd-seekable"])
@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_archives(build: Build, name: str, outer: str) -> None:
    """Any fault of a base gives one clear line, immediately, before any manifest."""
    make, message = HOSTILE[name]
    with pytest.raises(ArchiveError, match=message) as caught:
        build(handmade.COMPRESSORS[outer](make()))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("outer", ["plain", "gzip", "zstd", "zstd-seekable", "xz", "bzip2"])
@pytest.mark.parametrize("share", [0.02, 0.3, 0.7, 0.99])
def test_cut_archives(build: Build, outer: str, share: float) -> None:
    """A truncated base is refused wherever the cut is."""
    data = handmade.COMPRESSORS[outer](BASE.docker_archive().rstrip(b"\0"))
    with pytest.raises(ArchiveError):
        build(data[: int(len(data) * share)])


@pytest.mark.parametrize("outer", ["plain", "gzip", "zstd-seekable"])
def test_layer_that_is_another(build: Build, outer: str) -> None:
    """A layer whose bytes do not match the config's diff_id ends the run, and is named."""
    stored = [LAYERS[0], LAYERS[2], LAYERS[1]]
    with pytest.raises(DigestMismatch, match=r"1/layer\.tar"):
        build(handmade.COMPRESSORS[outer](BASE.docker_archive(stored=stored)))


@pytest.mark.parametrize("name", ["\\ud800", "a\\u0000b"])
@pytest.mark.parametrize("kind", ["tar", "directory"])
def test_names_that_no_file_has(tmp_path: Path, kind: str, name: str) -> None:
    """JSON can hold names that no member and no file can have."""
    path = tmp_path / "image"
    manifest = f'[{{"Config": "{name}", "Layers": []}}]'.encode()
    if kind == "tar":
        path.write_bytes(tar_of([("manifest.json", manifest)]))
    else:
        path.mkdir()
        (path / "manifest.json").write_bytes(manifest)
    with pytest.raises(ArchiveError, match=r"is missing|not a valid file name") as caught:
        open_archive(str(path))
    assert str(caught.value).isprintable()


def test_config_that_many_images_share(tmp_path: Path) -> None:
    """A config of some megabytes, parsed for each of many images, would take all memory."""
    members, item = BASE.docker_members()
    manifest = json.dumps([item] * 3).encode()
    path = tmp_path / "image"
    path.write_bytes(tar_of([*members, ("manifest.json", manifest)]))
    with open_archive(str(path)) as archive:
        first, *others = archive.images
        assert len(others) == 2
        assert all(image.document is first.document for image in others)
        assert all(image.config is first.config for image in others)


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ("/does/not/exist.tar", "from_image: /does/not/exist.tar: no such file"),
        ("", "from_image: is empty"),
        (7, "from_image: must be a string, not a number"),
    ],
)
def test_faults_of_the_conf(value: object, message: str) -> None:
    """A fault of `from_image` is reported before the first byte."""
    with pytest.raises(ConfError, match=message):
        stream.parse_conf(orjson.dumps({"repo_tag": "x:1", "from_image": value}))


@pytest.mark.parametrize(
    ("more", "message"),
    [
        ({"base_config": "all"}, "base_config: must be 'env' or 'full', not 'all'"),
        ({"base_history": None}, "base_history: must be a string, not null"),
        ({"skip_base_paths": 1}, "skip_base_paths: must be a boolean, not a number"),
    ],
)
def test_faults_of_the_choices(build: Build, more: dict[str, Any], message: str) -> None:
    """An invalid choice is reported with the valid ones."""
    with pytest.raises(ConfError, match=message):
        build(BASE.docker_archive(), **more)


def test_another_architecture(tmp_path: Path, stream_image: Any) -> None:
    """A base for another architecture is used if it is the only one, but with a warning."""
    (tmp_path / "base.tar").write_bytes(Base(layers=LAYERS, architecture="arm64").docker_archive())
    conf = {"repo_tag": "x:1", "architecture": "amd64", "from_image": f"{tmp_path}/base.tar"}
    (tmp_path / "conf.json").write_bytes(orjson.dumps(conf))
    done = stream_image("-q", f"{tmp_path}/conf.json", "-o", "/dev/null")
    assert done.returncode == 0
    assert done.stderr == (
        b"stream-image: warning: the base image is for linux/arm64, this one for linux/amd64\n"
    )


def test_another_architecture_before_commands(tmp_path: Path, stream_image: Any) -> None:
    """Without it the likely reason would be missing when a command of the base cannot run."""
    (tmp_path / "base.tar").write_bytes(Base(layers=LAYERS, architecture="arm64").docker_archive())
    conf = {
        "repo_tag": "x:1", "architecture": "amd64", "from_image": f"{tmp_path}/base.tar",
        "customisation_layer": {"extra_commands": "exit 3"},
    }  # fmt: skip
    (tmp_path / "conf.json").write_bytes(orjson.dumps(conf))
    done = stream_image("-q", f"{tmp_path}/conf.json", "-o", "/dev/null")
    assert done.returncode == 1
    assert b"the base image is for linux/arm64" in done.stderr.splitlines()[0]


def test_fifo(tmp_path: Path) -> None:
    """A file of another type is refused immediately, not waited for."""
    os.mkfifo(tmp_path / "base.tar")
    conf = stream.parse_conf(
        orjson.dumps({"repo_tag": "x:1", "from_image": f"{tmp_path}/base.tar"})
    )
    with pytest.raises(ArchiveError, match="neither a regular file nor a directory"):
        stream.write_image(conf, io.BytesIO())


def test_bad_seek_table(build: Build) -> None:
    """A seek table that cannot be right is not used: without it the file is valid zstd."""
    data = bytearray(handmade.seekable_zstd(BASE.docker_archive()))
    _, expected, _ = build(bytes(data))
    data[-20:-4] = os.urandom(16)
    assert build(bytes(data))[1] == expected


def test_lying_seek_table(build: Build) -> None:
    """A seek table that only looks right is an error, not a crash or other bytes."""
    data = bytearray(handmade.seekable_zstd(BASE.docker_archive()))
    first = data.rindex(b"\x5e\x2a\x4d\x18") + 8
    sizes = struct.unpack_from("<II", data, first)
    struct.pack_into("<II", data, first, sizes[0], sizes[1] + 1)
    with pytest.raises(ArchiveError, match="differs from the seek table"):
        build(bytes(data))


def test_xz_with_a_large_dictionary(build: Build) -> None:
    """Its dictionary takes memory, up to 4 GiB for an archive of kilobytes."""
    filters = [{"id": lzma.FILTER_LZMA2, "preset": 0, "dict_size": 1 << 30}]
    with pytest.raises(ArchiveError, match="Memory usage limit"):
        build(lzma.compress(BASE.docker_archive(), filters=filters))
    build(lzma.compress(BASE.docker_archive(), preset=9))


def test_xz_of_several_streams(build: Build) -> None:
    """Several xz streams in a row, padded or not, are one file."""
    data = BASE.docker_archive()
    first, second = lzma.compress(data[:5000]), lzma.compress(data[5000:])
    _, expected, _ = build(data)
    for between, behind in (b"", b""), (bytes(8), bytes(4)):
        _, config, _ = build(first + between + second + behind)
        assert config == expected


@pytest.mark.parametrize("frame_size", [1 << 20, 1 << 30])
def test_bomb_with_a_seek_table(
    build: Build, monkeypatch: pytest.MonkeyPatch, frame_size: int
) -> None:
    """A bomb that is refused when read from the start must not pass by random access."""
    monkeypatch.setattr("stream.archives.bytesource.BOMB_SIZE", 4 << 20)
    file = io.BytesIO()
    with pyzstd.SeekableZstdFile(file, "w", max_frame_content_size=frame_size) as zstd:
        zstd.write(Base(layers=[layer_tar({"zeros": bytes(32 << 20)})]).docker_archive())
    with pytest.raises(ArchiveError, match="a bomb"):
        build(file.getvalue())


@pytest.mark.parametrize("count", [125, 126])
def test_too_many_layers(tmp_path: Path, stream_image: Any, count: int) -> None:
    """Images that docker cannot load are written, but with a warning."""
    layers = [layer_tar({f"f{number}": b""}) for number in range(count)]
    (tmp_path / "base.tar").write_bytes(Base(layers=layers).docker_archive())
    conf = {"repo_tag": "x:1", "from_image": f"{tmp_path}/base.tar"}
    (tmp_path / "conf.json").write_bytes(orjson.dumps(conf))
    done = stream_image("--progress", "none", f"{tmp_path}/conf.json", "-o", "/dev/null")
    assert done.returncode == 0
    assert (b"warning: 126 layers: " in done.stderr) == (count == 126)


@pytest.mark.parametrize("outer", ["plain", "gzip", "zstd-seekable"])
@pytest.mark.parametrize(("compress", "kind"), [(gzip.compress, "gzip"), (pyzstd.compress, "zstd")])
def test_compressed_layers_are_carried(
    tmp_path: Path, outer: str, compress: Callable[[bytes], bytes], kind: str
) -> None:
    """Compressed layers stay as they are in an OCI archive: no time is spent recompressing them."""
    stored = [compress(layer) for layer in LAYERS]
    archive = handmade.tar_of([*BASE.oci_files(stored).items()])
    (tmp_path / "base.tar").write_bytes(handmade.COMPRESSORS[outer](archive))
    conf = stream.parse_conf(
        orjson.dumps({"repo_tag": "x:1", "from_image": f"{tmp_path}/base.tar"})
    )
    file = io.BytesIO()
    image = stream.write_image(conf, file, archive_format="oci-archive")
    assert [layer.diff_id for layer in image.layers] == EXPECTED
    assert [layer.size for layer in image.layers] == [len(layer) for layer in LAYERS]
    with tarfile.open(fileobj=io.BytesIO(file.getvalue())) as tar:
        blobs = {info.name: tar.extractfile(info).read() for info in tar}  # type: ignore[union-attr]
    (entry,) = json.loads(blobs["index.json"])["manifests"]
    manifest = json.loads(blobs[f"blobs/{entry['digest'].replace(':', '/')}"])
    for descriptor, content in zip(manifest["layers"], stored, strict=True):
        assert descriptor["mediaType"] == f"application/vnd.oci.image.layer.v1.tar+{kind}"
        assert descriptor["digest"] == digest(content)
        assert descriptor["size"] == len(content)
        assert blobs[f"blobs/{descriptor['digest'].replace(':', '/')}"] == content
    plain = stream.write_image(conf, io.BytesIO())
    assert plain.image_id == image.image_id


def test_carried_layers_are_verified(tmp_path: Path) -> None:
    """A compressed layer that does not match its diff_id ends the run, even if only copied."""
    stored = [gzip.compress(layer) for layer in (LAYERS[0], LAYERS[2], LAYERS[1])]
    (tmp_path / "base.tar").write_bytes(handmade.tar_of([*BASE.oci_files(stored).items()]))
    conf = stream.parse_conf(
        orjson.dumps({"repo_tag": "x:1", "from_image": f"{tmp_path}/base.tar"})
    )
    with pytest.raises(DigestMismatch):
        stream.write_image(conf, io.BytesIO(), archive_format="oci-archive")


# ---- in any order, more than once


@pytest.mark.parametrize("shape", ["tar", "directory", "gzip"])
def test_layers_of_a_base_with_random_access_are_repeatable(tmp_path: Path, shape: str) -> None:
    """Without it a push of a base image would send one layer after the other, and none again."""
    stored = [LAYERS[0], gzip.compress(LAYERS[1], mtime=0), LAYERS[2]]
    config = {"rootfs": {"type": "layers", "diff_ids": [digest(data) for data in LAYERS]}}
    members = {f"{number}.tar": data for number, data in enumerate(stored)}
    item = {"Config": "c.json", "RepoTags": ["base:1"], "Layers": [*members]}
    members |= {"c.json": orjson.dumps(config), "manifest.json": orjson.dumps([item])}
    path = tmp_path / "base"
    if shape == "directory":
        path.mkdir()
        for name, data in members.items():
            (path / name).write_bytes(data)
    else:
        archive = tar_of([*members.items()])
        path.write_bytes(archive if shape == "tar" else gzip.compress(archive))
    conf = {"repo_tag": "x:1", "from_image": str(path), "store_layers": []}
    with image.opened(stream.parse_conf(orjson.dumps(conf)), print) as opened:
        sources = list(opened.layers(Takes(), ()))
        assert {source.repeatable for source in sources} == {shape != "gzip"}
        for source in [*sources[::-1], *sources] if shape != "gzip" else []:
            assert hash_layer(source.size, cast("Any", source.write_to)) == source.diff_id

"""The entries of a base image: its directories and links, from archives of every shape."""

import json
import tarfile
from pathlib import Path
from typing import Any

import pytest
from handmade import COMPRESSORS, Base, Entry, link, sound, tar_of
from hypothesis import given
from hypothesis import strategies as st
from roots import flattened

from stream.archives.bytesource import ByteSource
from stream.archives.tars import CompressedTar
from stream.config import load_conf, parse_conf
from stream.errors import ArchiveError
from stream.planning.plan import plan
from stream.planning.spec import parse_spec
from stream.sources.base.tree import BaseEntry, base_entries
from stream.sources.customisation.builtin import SHADOW_PATHS
from stream.sources.image import opened_base
from stream.tools.write import write_image
from stream.typeflags import DIRECTORY, FILE, LINK


def a_directory(mode: int = 0o755, **fields: Any) -> tarfile.TarInfo:
    """Return a directory's header, to be named."""
    info = tarfile.TarInfo()
    info.type, info.mode = tarfile.DIRTYPE, mode
    for field, value in fields.items():
        setattr(info, field, value)
    return info


def entries_of(directory: Path, archive: bytes, **conf: object) -> dict[bytes, BaseEntry]:
    """Return the entries found in an archive."""
    path = directory / "base.tar"
    path.write_bytes(archive)
    (directory / "conf.json").write_text(
        json.dumps({"repo_tag": "x:1", "from_image": str(path), **conf})
    )
    read = load_conf(str(directory / "conf.json"))
    with opened_base(read, entries=True) as base:
        assert base is not None
        return base_entries(base.tree(), read, SHADOW_PATHS)


LAYERS: list[list[Entry]] = [
    [
        ("./", a_directory(0o711)),
        ("./usr/", a_directory()),
        ("usr/bin", a_directory(0o751, uid=3, gid=4)),
        ("/usr/lib", a_directory()),
        ("bin", link("usr/bin")),
        ("./lib", link("/usr/lib")),
        ("/sbin", link("usr/sbin")),
        ("tmp/", a_directory(0o1777, pax_headers={"SCHILY.xattr.user.x": "y", "comment": "z"})),
        ("opt/a/b/file", b"1"),
        ("srv/x/file", b"1"),
        ("etc/file", b"1"),
        ("etc/hard", link("etc/file", tarfile.LNKTYPE)),
        ("was/a/link", link("x")),
    ],
    [
        ("usr/.wh.lib", b""),
        ("srv/", a_directory(0o700)),
        ("srv/.wh..wh..opq", b""),
        ("sbin", a_directory()),
        ("was", b"a file"),
    ],
]


@pytest.mark.parametrize("compression", COMPRESSORS)
def test_entries(tmp_path: Path, compression: str) -> None:
    """A directory or link of the base that is overlooked would be replaced or changed by ours."""
    base = Base(layers=[tar_of(layer) for layer in LAYERS])
    found = entries_of(tmp_path, COMPRESSORS[compression](base.docker_archive()))
    assert found == {
        b"": BaseEntry(DIRECTORY, 0o711),
        b"usr": BaseEntry(DIRECTORY),
        b"usr/bin": BaseEntry(DIRECTORY, 0o751, 3, 4),
        b"bin": BaseEntry(LINK, link=b"usr/bin"),
        b"lib": BaseEntry(LINK, link=b"/usr/lib"),
        b"sbin": BaseEntry(DIRECTORY),
        b"tmp": BaseEntry(DIRECTORY, 0o1777, xattrs={b"user.x": b"y"}),
        b"opt": BaseEntry(DIRECTORY),
        b"opt/a": BaseEntry(DIRECTORY),
        b"opt/a/b": BaseEntry(DIRECTORY),
        b"srv": BaseEntry(DIRECTORY, 0o700),
        b"etc": BaseEntry(DIRECTORY),
    }


def test_above_the_store(tmp_path: Path) -> None:
    """Store layers have replaced links and modes of the base before our layer comes."""
    store = tmp_path / "s"
    (store / "path").mkdir(parents=True)
    names = [part.encode() for part in str(store).strip("/").split("/")]
    layer: list[Entry] = [(names[0].decode(), link("elsewhere"))]
    archive = Base(layers=[tar_of(layer)]).docker_archive()
    conf = {"store_dir": str(store), "uid": 7, "gid": 8}
    found = entries_of(tmp_path, archive, **conf)
    assert found[names[0]] == BaseEntry(LINK, link=b"elsewhere")
    found = entries_of(tmp_path, archive, **conf, store_layers=[[str(store / "path")]])
    for depth in range(1, len(names) + 1):
        assert found[b"/".join(names[:depth])] == BaseEntry(DIRECTORY, uid=7, gid=8)


def test_a_base_that_cannot_be_read(tmp_path: Path) -> None:
    """A base that cannot be read is reported before anything is written."""
    with pytest.raises(ArchiveError, match="is outside the root"):
        entries_of(tmp_path, Base(layers=[tar_of([("../a", b"")])]).docker_archive())


PATHS = st.lists(st.sampled_from("ab"), min_size=1, max_size=3).map("/".join)
MEMBERS: st.SearchStrategy[Entry] = st.one_of(
    st.tuples(PATHS, st.just(b"1")),
    st.tuples(PATHS, st.sampled_from([0o755, 0o700, 0o1777]).map(a_directory)),
    st.tuples(PATHS, st.sampled_from(["x", "/y"]).map(link)),
    st.tuples(PATHS.map("{}/.wh.a".format), st.just(b"")),
    st.tuples(PATHS.map("{}/.wh..wh..opq".format), st.just(b"")),
)


@given(layers=st.lists(st.lists(MEMBERS, max_size=5).map(sound), min_size=1, max_size=3))
def test_as_extracted_layer_by_layer(tmp_path: Path, layers: list[list[Entry]]) -> None:
    """The entries match what a container has."""
    tars = [tar_of(layer) for layer in layers]
    expected = {
        path.encode(): (node.kind, node.mode if node.kind == DIRECTORY else 0, node.link)
        for path, node in flattened(tars).items()
        if node.kind in (DIRECTORY, LINK)
    }
    found = entries_of(tmp_path, Base(layers=tars).docker_archive())
    del found[b""]
    assert expected == {
        path: (
            entry.typeflag,
            entry.mode if entry.typeflag == DIRECTORY else 0,
            entry.link.decode(),
        )
        for path, entry in found.items()
    }


def test_a_base_is_read_once_to_be_known(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each reading of a compressed base decompresses all of it; a second one copies it."""
    readings: list[ByteSource] = []
    content = CompressedTar._content

    def counted(self: CompressedTar) -> ByteSource:
        readings.append(content(self))
        return readings[-1]

    monkeypatch.setattr(CompressedTar, "_content", counted)
    recipe = {"nix_database": {"objects": []}, "directories": {"/tmp": "1777"}}
    base = tmp_path / "base.tar.gz"
    base.write_bytes(COMPRESSORS["gzip"](Base(layers=[tar_of(LAYERS[0])]).docker_archive()))
    conf = {"repo_tag": "x:1", "from_image": str(base), "skip_base_paths": True}
    data = json.dumps({**conf, "customisation_layer": recipe}).encode()
    with (tmp_path / "image.tar").open("wb") as file:
        write_image(parse_conf(data), file)
    assert len(readings) == 2
    readings.clear()
    spec = {"name": "x", "fromImage": str(base), "skip_base_paths": True, "includeNixDB": False}
    plan(parse_spec(json.dumps(spec).encode()))
    assert len(readings) == 1


def test_files_that_can_be_missed(tmp_path: Path) -> None:
    """Without it shadowSetup's passwd would replace the base's, and a link to a file in the
    base's store would be reported as dangling.
    """
    layer: list[Entry] = [
        (name, b"")
        for name in ("etc/passwd", "etc/other", "etc/pam.d/other", "s/d/file", "s/d/p/x")
    ]
    found = entries_of(tmp_path, Base(layers=[tar_of(layer)]).docker_archive(), store_dir="/s/d")
    files = {path for path, entry in found.items() if entry.typeflag == FILE}
    assert files == {b"etc/passwd", b"etc/pam.d/other", b"s/d/file"}

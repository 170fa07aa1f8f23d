"""Explaining: which layers an earlier image has already."""

import json
import tarfile
from pathlib import Path
from typing import Any

import commandline
import pytest
from handmade import Base, layer_tar
from support import COMMAND, Store, unpack

import stream
from stream.errors import ArchiveError
from stream.planning.plan import plan
from stream.planning.spec import parse_spec

HASHED = f"{32 * 'a'}-hello"


@pytest.fixture
def store(tmp_path: Path) -> Store:
    """Make a store with one path that has a hash in its name and one that has none."""
    made = Store.below(tmp_path)
    made.file(f"{HASHED}/bin/hello", b"hello")
    made.file("plain/data", b"1")
    return made


def written(conf: Path, name: str, **options: Any) -> Path:
    """Write the image of `conf` beside it."""
    path = conf.parent / name
    with path.open("wb") as file:
        stream.write_image(stream.load_conf(conf), file, **options)
    return path


def stays(conf: Path | dict[str, Any], against: Path | str | dict[str, Any]) -> list[bool | None]:
    """Return for each layer of `conf` whether an earlier image has it."""
    earlier = against if isinstance(against, dict) else stream.read_earlier(str(against))
    if isinstance(conf, dict):
        parsed = stream.parse_conf(json.dumps(conf).encode())
        return [layer.stays for layer in stream.explain(parsed, earlier, document=conf).layers]
    document = json.loads(conf.read_bytes())
    return [layer.stays for layer in stream.explain(conf, earlier, document=document).layers]


def document(path: Path) -> dict[str, Any]:
    """Return the conf at `path`."""
    found: dict[str, Any] = json.loads(path.read_bytes())
    return found


# ---- against a conf


def test_a_path_without_a_hash_may_have_changed(store: Store) -> None:
    """It was reported to stay although its content is another, and a push was said to be free."""
    conf = store.conf([HASHED], ["plain"], [f"{HASHED}-2", "plain-2"])
    store.file(f"{HASHED}-2", b"")
    store.file("plain-2", b"")
    assert stays(conf, document(conf)) == [True, None, None]


EARLIER = {"mtime": "1970-01-01T00:00:05Z", "customisation_mtime": "1980-01-01T00:00:00Z"}


@pytest.mark.parametrize(
    ("times", "expected"),
    [
        ({}, [True, True]),
        ({"customisation_mtime": "1980-01-01T00:00:01Z"}, [True, False]),
        ({"customisation_mtime": None}, [True, False]),
        ({"customisation_mtime": "now"}, [True, False]),
        ({"mtime": "1970-01-01T00:00:06Z"}, [False, True]),
        ({"mtime": "now"}, [False, True]),
    ],
)
def test_layers_have_times_of_their_own(
    store: Store, tmp_path: Path, times: dict[str, str], expected: list[bool]
) -> None:
    """The time of the customisation layer is not that of store layers; only what changes moves."""
    conf = document(store.conf([HASHED]))
    conf["customisation_layer"] = {"directories": {"/tmp": "1777"}}
    later = {key: value for key, value in {**conf, **EARLIER, **times}.items() if value}
    assert stays(later, {**conf, **EARLIER}) == expected
    if "now" not in times.values():
        path = tmp_path / "earlier.json"
        path.write_text(json.dumps({**conf, **EARLIER}), "utf-8")
        assert stays(later, written(path, "earlier.tar")) == expected


@pytest.mark.parametrize(
    "recipe",
    [
        {"contents": ["{store}/plain"]},
        {"copy_to_root": ["{store}/plain"]},
        {"copy_to_root": ["{outside}"]},
        {"contents": [{"binSh": "{store}/plain"}]},
    ],
)
def test_a_layer_made_from_a_path_without_a_hash(
    store: Store, tmp_path: Path, recipe: dict[str, Any]
) -> None:
    """What is copied or linked from such a path is as uncertain as the path."""
    store.file("plain/bin/sh", b"")
    (tmp_path / "outside").mkdir()
    text = json.dumps(recipe).replace("{store}", str(store.directory))
    made = json.loads(text.replace("{outside}", str(tmp_path / "outside")))
    conf = store.conf([HASHED], customisation_layer=made)
    assert stays(conf, document(conf)) == [True, None]


def test_a_layer_made_from_paths_with_a_hash(store: Store) -> None:
    """Their names say that nothing has changed."""
    layer = {"contents": [str(store.path(HASHED))], "extra_commands": "true"}
    conf = store.conf([HASHED], customisation_layer=layer)
    assert stays(conf, document(conf)) == [True, True]


@pytest.mark.parametrize("changed", [False, True])
def test_a_derived_tag_decides(store: Store, changed: bool) -> None:  # noqa: FBT001 — a parameter of the test
    """The tag holds the content of paths without a hash, so that an equal one proves it."""
    graph = store.directory.parent / "graph.json"
    paths = [str(store.path(name)) for name in (HASHED, "plain")]
    graph.write_text(json.dumps([{"path": path, "narSize": 9, "references": []} for path in paths]))
    spec = {
        "name": "test", "store_dir": str(store.directory), "references_graph": str(graph),
        "contents": paths, "architecture": "amd64", "layering": "popularity",
    }  # fmt: skip
    earlier = plan(parse_spec(json.dumps(spec).encode())).document
    if changed:
        store.file("plain/data", b"2")
    now = plan(parse_spec(json.dumps(spec).encode())).document
    assert (earlier["repo_tag"] == now["repo_tag"]) is not changed
    expected = None if changed else True
    assert sorted(map(str, stays(earlier, earlier))) == sorted(map(str, [True, expected, expected]))


def test_a_base_image_in_a_file_that_may_have_changed(store: Store, tmp_path: Path) -> None:
    """`docker save` writes a new base image over the old one, under the same name."""
    base = tmp_path / "base.tar"
    base.write_bytes(Base(layers=[layer_tar({"a": b"1"})]).docker_archive())
    conf = store.conf([HASHED], from_image=str(base), customisation_layer={})
    assert stays(conf, document(conf)) == [None, True, None]
    other = tmp_path / "other.tar"
    other.write_bytes(Base(layers=[layer_tar({"a": b"2"})]).docker_archive())
    assert stays(conf, {**document(conf), "from_image": str(other)})[0] is False
    assert stays(conf, {**document(conf), "from_image": str(tmp_path / "gone.tar")})[0] is None
    kept = store.file(f"{32 * 'b'}-base.tar", base.read_bytes())
    conf = store.conf([HASHED], from_image=str(kept), customisation_layer={})
    assert stays(conf, document(conf)) == [True, True, True]


def test_a_ready_layer_is_known_by_its_checksum(store: Store) -> None:
    """A layer built anew has another store path and, often, the same bytes."""

    def ready(name: str, content: bytes) -> str:
        tar = layer_tar({"a": content})
        store.file(f"{name}/layer.tar", tar)
        store.file(
            f"{name}/checksum", Base(layers=[tar]).document()["rootfs"]["diff_ids"][0][7:].encode()
        )
        return str(store.path(name))

    one, same, other = (f"{32 * letter}-layer" for letter in "bcd")
    conf = store.conf([HASHED], customisation_layer=ready(one, b"1"))
    earlier = document(conf)
    assert stays(conf, earlier) == [True, True]
    assert stays(conf, {**earlier, "customisation_layer": ready(same, b"1")}) == [True, True]
    assert stays(conf, {**earlier, "customisation_layer": ready(other, b"2")}) == [True, False]
    conf = store.conf([HASHED], customisation_layer=ready("plain-layer", b"1"))
    assert stays(conf, document(conf)) == [True, None]


# ---- against an archive


@pytest.mark.parametrize("form", ["docker-archive", "oci-archive", "layout", "zstd"])
def test_against_an_archive_digests_decide(store: Store, tmp_path: Path, form: str) -> None:
    """They say for certain what the names of paths cannot."""
    conf = store.conf([HASHED], ["plain"], customisation_layer={"directories": {"/tmp": "1777"}})
    options: dict[str, Any] = {}
    if form in {"oci-archive", "layout"}:
        options["archive_format"] = "oci-archive"
    if form == "zstd":
        options["compression"] = stream.Compression(codec="zstd")
    earlier = written(conf, "old.tar", **options)
    if form == "layout":
        with tarfile.open(earlier) as tar:
            unpack(tar, tmp_path / "layout")
        earlier = tmp_path / "layout"
    assert stays(conf, earlier) == [True, True, True]
    store.file("plain/data", b"2")
    assert stays(conf, earlier) == [True, False, True]


def test_against_an_archive_layers_of_a_base_image(store: Store, tmp_path: Path) -> None:
    """Layers are the same layers wherever they come from."""
    plain = written(store.conf([HASHED], ["plain"]), "base.tar")
    conf = store.conf(from_image=str(plain))
    assert stays(conf, plain) == [True, True]
    other = tmp_path / "other.tar"
    other.write_bytes(Base(layers=[layer_tar({"a": b"1"})]).docker_archive())
    assert stays(conf, other) == [False, False]


def test_against_one_of_several_images(store: Store, tmp_path: Path) -> None:
    """An archive of two images has layers of either; only the named one counts."""
    one = written(store.conf([HASHED]), "one.tar")
    two = written(store.conf(["plain"], repo_tag="test:2"), "two.tar")
    both = tmp_path / "both.tar"
    with both.open("wb") as file:
        stream.merge([one, two], file)
    conf = store.conf(["plain"])
    assert stays(conf, f"{both}:test:1") == [False]
    assert stays(conf, f"{both}:test:2") == [True]
    with pytest.raises(ArchiveError, match="has no image test:3"):
        stream.read_earlier(f"{both}:test:3")


@pytest.mark.parametrize("piped", [False, True])
def test_command_against_an_archive(store: Store, piped: bool) -> None:  # noqa: FBT001 — a parameter of the test
    """The command takes the archive as a file and on standard input."""
    conf = store.conf([HASHED], ["plain"])
    earlier = written(conf, "old.tar")
    store.file("plain/data", b"22")
    ended = commandline.run(
        [*COMMAND, "explain", conf, "--json", "--against", "-" if piped else earlier],
        input=earlier.read_bytes() if piped else b"",
        capture_output=True,
        check=True,
    )
    answer = json.loads(ended.stdout)
    assert [layer["stays"] for layer in answer["layers"]] == [True, False]
    assert answer["against"] == "test:1"
    assert answer["moving_layers"] == 1


def test_command_against_a_conf_on_standard_input(store: Store) -> None:
    """A conf is told from an archive by its first bytes."""
    conf = store.conf([HASHED])
    ended = commandline.run(
        [*COMMAND, "explain", conf, "--json", "--against", "-"],
        input=conf.read_bytes(),
        capture_output=True,
        check=True,
    )
    assert json.loads(ended.stdout)["moving_layers"] == 0


def test_a_specification_is_warned_of_once(tmp_path: Path) -> None:
    """The reader would look for the difference between two equal lines."""
    spec = {"name": "x", "tag": "1", "extraCommands": "false", "store_dir": str(tmp_path)}
    (tmp_path / "spec.json").write_text(json.dumps(spec))
    done = commandline.run(
        [*COMMAND, "explain", str(tmp_path / "spec.json")],
        capture_output=True,
        check=True,
    )
    assert done.stderr.count(b"run them with --run-commands") == 1
    assert b"1 layer, 0 B and 1 of unknown size" in done.stdout

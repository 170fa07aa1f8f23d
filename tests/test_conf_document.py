"""Writing a conf and reading it back yields the same conf; current and former spellings of keys."""

import json
import os
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

import stream
from stream.config import KEYS, conf_document, read_conf_document
from stream.model import Builtin, ImageConf, NixDatabase, Recipe
from stream.schema import recipe

Document = dict[str, Any]
SHA = "0123456789abcdef" * 4

texts = st.text(st.characters(codec="utf-8"), max_size=8)
no_nul = st.text(st.characters(codec="utf-8", exclude_characters="\0"), max_size=8)
names = st.text(st.characters(codec="utf-8"), min_size=1, max_size=8)
ids = st.integers(0, 2**32 - 2) | st.integers(0, 2**32 - 2).map(str)
modes = st.integers(0, 0o7777).map("{:04o}".format)
leaves = (
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False)
)
values = st.recursive(
    leaves | texts,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(texts, inner, max_size=3),
    max_leaves=6,
)
instants = st.just("now") | st.sampled_from(
    [
        "1970-01-01T00:00:01Z", "1970-01-01T00:00:01+00:00", "1970-01-01T02:00:01+02:00",
        "2024-05-17T08:30:00.123456-11:30", "1969-12-31T23:59:58.5Z", "20240517T083000Z",
        "0001-01-01T00:00:00+23:59:59", "0001-01-01T00:00:00Z", "9999-12-31T23:59:59-23:59",
        "9999-12-31T23:59:59.999999Z", "2024-05-17T08:30:00+02:00:30",
    ]
)  # fmt: skip
paths = st.sampled_from(["/a", "/b/c", "/ü", "/d e"])
xattrs = st.dictionaries(
    st.sampled_from(["user.a", "trusted.ü", "security.x y"]),
    texts | st.just({"base64": "AP8="}) | st.just({"base64": "YQ=="}),
    max_size=2,
)
attributes = st.fixed_dictionaries(
    {}, optional={"mode": modes | st.none(), "uid": ids, "gid": ids, "xattrs": xattrs}
)
rules = (
    st.builds(lambda path, more: {"path": path, "uid": 7, **more}, paths, attributes)
    | st.builds(lambda path, more: {"path": path, "create": True, **more}, paths, attributes)
    | st.builds(lambda more: {"regex": "/x.*|\0", "gid": 7, "mode": "755", **more}, attributes)
    | st.just({"path": "/bin/ping", "capabilities": "cap_net_raw=ep"})
    | st.just({"path": "/nothing", "xattrs": {}})
)
lines = st.lists(no_nul, max_size=2)
built_in = (
    st.just("fakeNss")
    | st.just("shadowSetup")
    | st.builds(
        lambda *both: {"fakeNss": {"extra_passwd_lines": both[0], "extra_group_lines": both[1]}},
        lines,
        lines,
    )
)
objects = st.builds(
    lambda path, size, others, more: {
        "path": path, "nar_hash": "sha256:x", "nar_size": size, "references": others, **more,
    },
    texts,
    st.integers(0, 2**63 - 1),
    st.lists(texts, max_size=2),
    st.just({}) | st.builds(lambda deriver: {"deriver": deriver}, texts),
)  # fmt: skip


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Make a directory with a store, a ready layer and base images, one with a colon in its name."""
    path = tmp_path_factory.mktemp("conf")
    for name in ("store/ä", "store/b", "store/c", "store/d", "ready", "plain"):
        (path / name).mkdir(parents=True)
    (path / "ready" / "layer.tar").write_bytes(b"layer")
    (path / "ready" / "checksum").write_text(SHA, "ascii")
    for name in ("base.tar", "base:1.tar"):
        (path / name).write_bytes(b"")
    return str(path)


def documents(root: str) -> st.SearchStrategy[Document]:
    """Draw a valid conf of the files below `root`: every key, with usual and unusual values."""
    store = f"{root}/store"
    stored = st.sampled_from([f"{store}/ä", f"{store}/b"])
    contents = st.lists(
        built_in | stored | st.builds(lambda path: {"binSh": path}, stored), max_size=3
    )
    recipes = st.fixed_dictionaries(
        {},
        optional={
            "conflicts": st.sampled_from(["", "error", "first", "last"]),
            "contents": contents | stored,
            "copy_to_root": contents | st.just(f"{root}/plain"),
            "directories": st.dictionaries(paths, modes | attributes, max_size=3),
            "enable_fakechroot": st.booleans(),
            "extra_commands": no_nul,
            "fake_root_commands": no_nul,
            "keep_contents_dirlinks": st.booleans(),
            "nix_database": st.fixed_dictionaries(
                {}, optional={"objects": st.lists(objects, max_size=2), "roots": lines}
            ),
            "owner": st.fixed_dictionaries({"uid": ids, "gid": ids}),
            "perms": st.lists(rules, max_size=4),
        },
    )
    config = st.dictionaries(names.map("x{}".format), values, max_size=3)
    labelled = st.builds(
        lambda more, labels: {**more, "Labels": labels},
        config,
        st.none() | st.dictionaries(texts, texts, max_size=2),
    )
    base = st.sampled_from(["base.tar", "base:1.tar", "base.tar:x:1", "base:1.tar:", "base.tar:"])
    layers = st.permutations([f"{store}/ä", f"{store}/b", f"{store}/c"]).map(
        lambda order: [order[:2], order[2:]]
    )
    return st.fixed_dictionaries(
        {"store_dir": st.just(store)},
        optional={
            "annotations": st.dictionaries(names, texts, max_size=2),
            "architecture": st.sampled_from(["amd64", "wasm"]),
            "base_config": st.sampled_from(["env", "full"]),
            "base_history": st.sampled_from(["rewrite", "keep"]),
            "config": config | labelled,
            "created": instants,
            "customisation_layer": recipes | st.just(f"{root}/ready") | st.none(),
            "from_image": base.map(lambda name: f"{root}/{name}"),
            "gid": ids,
            "gname": no_nul,
            "labels": st.dictionaries(names, texts, max_size=2),
            "mtime": instants,
            "customisation_mtime": instants,
            "customisation_store_paths": st.just([f"{store}/d"]) | st.just([]),
            "os": st.just("linux"),
            "repo_tag": st.just("registry.example:5000/a/b:v1"),
            "skip_base_paths": st.booleans(),
            "store_layers": layers | st.just([]),
            "store_path_hashes": st.dictionaries(
                st.sampled_from([f"{store}/{name}" for name in "äbcd"]),
                st.binary(min_size=32, max_size=32).map(lambda data: f"sha256:{data.hex()}"),
            ),
            "store_root": st.just("/"),
            "uid": ids,
            "uname": no_nul,
            "variant": st.just("v7"),
        },
    ).map(_consistent)


def _consistent(document: Document) -> Document:
    """Leave out what is of no layer."""
    if document.get("customisation_layer") is None:
        document.pop("customisation_store_paths", None)
    in_layers = [*document.get("store_layers", []), document.get("customisation_store_paths", [])]
    if hashes := document.get("store_path_hashes"):
        listed = {path for layer in in_layers for path in layer}
        document["store_path_hashes"] = {path: hashes[path] for path in hashes.keys() & listed}
    return document


def reread(conf: ImageConf) -> ImageConf:
    """Write `conf` as JSON and read it back."""
    warnings: list[str] = []
    data = json.dumps(conf_document(conf)).encode()
    again = stream.parse_conf(data, need_tag=False, warn=warnings.append)
    # Keys of the container config that no consumer knows are passed on, with a warning.
    assert not [line for line in warnings if not line.startswith("conf.json: config.")]
    return again


@given(data=st.data())
def test_a_written_conf_is_the_same_conf(root: str, data: st.DataObject) -> None:
    """The planned conf is streamed elsewhere, where a lost value would change the image."""
    document = data.draw(documents(root))
    assert document.keys() <= KEYS
    conf = read_conf_document(document, need_tag=False)
    again = reread(conf)
    assert again == conf
    # Equal instants may differ in offset, and equal objects in order, which changes bytes.
    assert repr(again) == repr(conf)
    assert conf_document(again) == conf_document(conf)


def test_store_below_a_root(tmp_path: Path) -> None:
    """Without it, the store paths would be read from this machine's own store."""
    (tmp_path / "nix/store/x").mkdir(parents=True)
    document = {
        "store_root": str(tmp_path),
        "store_layers": [["/nix/store/x"]],
        "customisation_layer": {"contents": "/nix/store/x"},
    }
    conf = read_conf_document(document, need_tag=False)
    assert conf.store_root == os.fsencode(tmp_path)
    assert reread(conf) == conf


def test_a_conf_of_defaults_is_short() -> None:
    """People read confs as well."""
    conf = read_conf_document({"repo_tag": "x:1", "architecture": "amd64"})
    assert conf_document(conf) == {
        "architecture": "amd64", "repo_tag": "x:1", "store_layers": [],
    }  # fmt: skip


def test_now_is_written_as_the_instant_it_was() -> None:
    """The conf contains the instant; that it was `now` is only in the document."""
    before = datetime.now(UTC)
    conf = read_conf_document({"created": "now"}, need_tag=False)
    document = conf_document(conf)
    assert before <= datetime.fromisoformat(document["created"]) <= datetime.now(UTC)
    assert "mtime" not in document


# ---- spelling


def warnings_of(document: Document) -> tuple[ImageConf, list[str]]:
    """Return the conf in `document`, and the warnings."""
    warnings: list[str] = []
    given = {"repo_tag": "x:1", **document}
    return read_conf_document(given, name="c.json", warn=warnings.append), warnings


FORMER: Document = {
    "copyToRoot": ["fakeNss", {"fakeNss": {"extraPasswdLines": ["u:x:1:1::/:/x"]}}],
    "enableFakechroot": True,
    "extraCommands": "true",
    "fakeRootCommands": "false",
    "keepContentsDirlinks": True,
    "nix_database": {
        "objects": [
            {"path": path, "narHash": "sha256:x", "narSize": 1, "references": []}
            for path in ("/nix/store/x", "/nix/store/y")
        ]
    },
}


def test_former_spellings() -> None:
    """Older confs still stream, with one warning per key that gives the current spelling."""
    conf, warnings = warnings_of({"customisation_layer": FORMER})
    today = recipe.respell(FORMER)
    assert (conf, []) == warnings_of({"customisation_layer": today})
    at = "c.json: customisation_layer"
    assert sorted(warnings) == [
        f"{at}.copyToRoot: is a former spelling; write copy_to_root",
        f"{at}.copyToRoot[1].fakeNss.extraPasswdLines: is a former spelling; write extra_passwd_lines",
        f"{at}.enableFakechroot: is a former spelling; write enable_fakechroot",
        f"{at}.extraCommands: is a former spelling; write extra_commands",
        f"{at}.fakeRootCommands: is a former spelling; write fake_root_commands",
        f"{at}.keepContentsDirlinks: is a former spelling; write keep_contents_dirlinks",
        f"{at}.nix_database.objects[0].narHash: is a former spelling; write nar_hash",
        f"{at}.nix_database.objects[0].narSize: is a former spelling; write nar_size",
    ]
    read = conf.customisation_layer
    assert isinstance(read, Recipe)
    assert read.copy_to_root == (
        Builtin(name="fakeNss"),
        Builtin(name="fakeNss", extra_passwd_lines=("u:x:1:1::/:/x",)),
    )
    assert read.fakechroot
    assert read.keep_dirlinks
    assert (read.extra_commands, read.fake_root_commands) == ("true", "false")
    assert isinstance(read.database, NixDatabase)
    assert [item.nar_size for item in read.database.objects] == [1, 1]


OBJECT = {"path": "/nix/store/x", "nar_hash": "sha256:x", "nar_size": 1}


@pytest.mark.parametrize(
    ("layer", "place", "message"),
    [
        (
            {"copyToRoot": [], "copy_to_root": []},
            "copyToRoot",
            "is also given as copy_to_root; keep only that",
        ),
        (
            {"contents": [{"fakeNss": {"extraGroupLines": [], "extra_group_lines": []}}]},
            "contents[0].fakeNss.extraGroupLines",
            "is also given as extra_group_lines; keep only that",
        ),
        (
            {"nix_database": {"objects": [{**OBJECT, "narSize": 1}]}},
            "nix_database.objects[0]",
            "must be an object with deriver, nar_hash, nar_size, path, references",
        ),
        ({"extra_command": ""}, "extra_command", 'unknown key (did you mean "extra_commands"?)'),
        ({"copyToRoot": 1}, "copyToRoot", "must be a path or a built-in content"),
        ({"extraCommands": "\0"}, "extraCommands", "contains a NUL character"),
    ],
)
def test_faults_have_the_spelling_that_is_there(layer: Document, place: str, message: str) -> None:
    """Places use the spelling in the conf, which the reader looks for; a key given twice is a fault."""
    with pytest.raises(stream.ConfError) as caught:
        warnings_of({"customisation_layer": layer})
    [fault] = caught.value.faults
    assert fault.place == f"customisation_layer.{place}"
    assert fault.message.startswith(message)


# ---- the tag


def test_a_conf_without_a_tag() -> None:
    """A caller that needs no tag need not invent one; a given tag is still checked."""
    for document in ({}, {"repo_tag": None}):
        assert read_conf_document(document, need_tag=False).repo_tag is None
    assert read_conf_document({}, need_tag=False, repo_tag="y:2").repo_tag == "y:2"
    with pytest.raises(stream.ConfError, match="repo_tag: 'BAD' has no tag"):
        read_conf_document({"repo_tag": "BAD"}, need_tag=False)


@pytest.mark.parametrize("archive_format", ["docker-archive", "oci-archive"])
def test_an_archive_needs_a_tag(tmp_path: Path, archive_format: Any) -> None:
    """An image without a name cannot be loaded by name, which is reported before the first byte."""
    conf = read_conf_document({}, need_tag=False)
    path = tmp_path / "image.tar"
    with path.open("wb") as file, pytest.raises(stream.ConfError) as caught:
        stream.write_image(conf, file, archive_format=archive_format)
    assert str(caught.value) == ("conf: repo_tag: is missing; set it in the conf, or pass a tag")
    assert path.stat().st_size == 0

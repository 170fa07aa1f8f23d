"""Confs: every key, every default, and every fault with its place in the JSON."""

import gzip
import hashlib
import io
import json
import os
import pickle
import re
from collections.abc import Callable, Mapping
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

import stream
from stream.config import KEYS, conf_document

Document = dict[str, Any]
Run = Callable[..., Any]
WriteConf = Callable[[Mapping[str, object]], str]
SHA = "0123456789abcdef" * 4
EMPTY = hashlib.sha256(b"").hexdigest()
SRI = "sha256-47DEQpj8HBSa+/TImW+5JCeuQeRkm5NMpJWZG3hSuFU="  # of nothing, as Nix prints it


def parse(document: object) -> stream.ImageConf:
    """Return `document` as a conf."""
    return stream.parse_conf(orjson.dumps(document))


def faults(document: object) -> dict[str, str]:
    """Return the faults of `document`, by place."""
    with pytest.raises(stream.ConfError) as caught:
        parse(document)
    assert len(str(caught.value).splitlines()) == len(caught.value.faults)
    return {fault.place: fault.message for fault in caught.value.faults}


@pytest.fixture
def store(tmp_path: Path) -> str:
    """Make a store directory with a file, a directory and a dangling link."""
    (tmp_path / "file").write_bytes(b"x")
    (tmp_path / "dir").mkdir()
    (tmp_path / "link").symlink_to("/no/such/file")
    return str(tmp_path)


@pytest.fixture
def customisation(tmp_path: Path) -> Path:
    """Make the directory of a ready-made layer."""
    path = tmp_path / "customisation"
    path.mkdir()
    (path / "layer.tar").write_bytes(b"layer")
    (path / "checksum").write_text(SHA + "\n", "ascii")
    return path


# ---- values --------------------------------------------------------------------


def test_defaults() -> None:
    """An old conf has little more than a tag; formats.md promises the defaults of the rest."""
    conf = parse({"repo_tag": "x:1"})
    assert conf.container_config == {}
    assert conf.store_dir == b"/nix/store"
    assert conf.store_layers == ()
    assert conf.customisation_layer is None
    assert conf.created.isoformat() == "1970-01-01T00:00:01+00:00"
    assert conf.mtime == 1
    assert conf.owner == stream.Owner(uid=0, gid=0, uname="root", gname="root")


@pytest.mark.parametrize(
    ("machine", "architecture"),
    [
        ("x86_64", "amd64"), ("aarch64", "arm64"), ("armv7l", "arm"), ("i686", "386"),
        ("riscv64", "riscv64"), ("s390x", "s390x"), ("ppc64le", "ppc64le"), ("novel", "novel"),
    ],
)  # fmt: skip
def test_default_architecture(
    monkeypatch: pytest.MonkeyPatch, machine: str, architecture: str
) -> None:
    """The default is this machine's architecture, by its GOARCH name, which OCI uses."""
    monkeypatch.setattr("platform.machine", lambda: machine)
    assert parse({"repo_tag": "x:1"}).architecture == architecture
    assert parse({"repo_tag": "x:1", "architecture": "wasm"}).architecture == "wasm"


def test_every_key(store: str, customisation: Path) -> None:
    """The value of each key ends up in the right field."""
    root, _, name = store.rpartition("/")
    document = {
        "annotations": {"com.example.x": "", "ü": "ß"},
        "architecture": "arm64",
        "os": "linux",
        "config": {"Cmd": ["/x"], "Labels": {"ü": None, "a": "theirs"}, "Env": []},
        "labels": {"b": "ours", "a": "ours"},
        "store_dir": f"/{name}",
        "store_root": root,
        "from_image": f"{store}/file:base:1",
        "base_config": "full",
        "base_history": "keep",
        "skip_base_paths": True,
        "store_layers": [[f"/{name}/link", f"/{name}/file"]],
        "customisation_layer": str(customisation),
        "customisation_store_paths": [f"/{name}/dir"],
        "store_path_hashes": {f"/{name}/dir": f"sha256:{SHA}", f"/{name}/link": SRI},
        "repo_tag": "registry.example:5000/a/b:v1",
        "created": "2024-05-17T08:30:00+02:00",
        "mtime": "2001-01-01T00:00:00Z",
        "customisation_mtime": "1980-01-01T00:00:00Z",
        "uid": "1000",
        "gid": 100,
        "uname": "user",
        "gname": "users",
        "variant": "v8",
    }
    assert document.keys() == KEYS
    conf = parse(document)
    assert conf == stream.ImageConf(
        architecture="arm64",
        variant="v8",
        container_config={
            "Cmd": ["/x"],
            "Labels": {"ü": None, "a": "ours", "b": "ours"},
            "Env": [],
        },
        store_dir=f"/{name}".encode(),
        store_root=root.encode(),
        store_layers=(
            stream.LayerPlan(store_paths=(f"/{name}/link".encode(), f"/{name}/file".encode())),
        ),
        customisation_layer=stream.CustomisationLayer(
            path=str(customisation), checksum=stream.Digest("sha256:" + SHA), size=5
        ),
        customisation_store_paths=(f"/{name}/dir".encode(),),
        store_path_hashes={
            f"/{name}/dir".encode(): f"sha256:{SHA}",
            f"/{name}/link".encode(): f"sha256:{EMPTY}",
        },
        repo_tag="registry.example:5000/a/b:v1",
        created=datetime.fromisoformat("2024-05-17T08:30:00+02:00"),
        mtime=978307200,
        customisation_mtime=315532800,
        owner=stream.Owner(uid=1000, gid=100, uname="user", gname="users"),
        base=stream.BaseReference(
            path=f"{store}/file",
            repo_tag="base:1",
            config="full",
            history="keep",
            skip_store_paths=True,
        ),
        annotations={"com.example.x": "", "ü": "ß"},
    )
    assert conf.created.utcoffset() == timedelta(hours=2)


@pytest.mark.parametrize("number", [0, "0", "007", 2**32 - 2, str(2**32 - 2)])
def test_ids(number: object) -> None:
    """Nix writes IDs as strings, people as numbers."""
    conf = parse({"repo_tag": "x:1", "uid": number, "gid": number})
    assert conf.owner.uid == conf.owner.gid == int(str(number))


@pytest.mark.parametrize(
    ("created", "more", "mtime"),
    [
        ("2024-05-17T08:30:00Z", {}, 1715934600),
        ("2024-05-17T08:30:00+02:00", {}, 1715927400),
        ("1960-01-01T00:00:00Z", {}, -315619200),
        ("1970-01-01T00:00:01.999Z", {}, 1),
        ("1969-12-31T23:59:58.5Z", {}, -1),  # towards zero, as int() does
        ("now", {"mtime": "1970-01-01T00:00:05Z"}, 5),
        ("20240517T083000Z", {}, 1715934600),
    ],
)
def test_mtime(created: str, more: Document, mtime: int) -> None:
    """Without `mtime`, as in older confs, `created` is used for both."""
    assert parse({"repo_tag": "x:1", "created": created, **more}).mtime == mtime


@pytest.mark.parametrize(
    ("more", "seconds"),
    [
        ({}, 1),
        ({"created": "1970-01-01T00:00:07Z"}, 7),
        ({"created": "1970-01-01T00:00:07Z", "mtime": "1970-01-01T00:00:05Z"}, 5),
        ({"mtime": "now", "customisation_mtime": "1980-01-01T00:00:00Z"}, 315532800),
    ],
)
def test_customisation_mtime(more: Document, seconds: int) -> None:
    """The layer's own time; without it, the files of all layers have the same."""
    assert parse({"repo_tag": "x:1", **more}).customisation_mtime == seconds


def test_now() -> None:
    """`now` is the same instant throughout a run, with its offset."""
    before = datetime.now(UTC)
    conf = parse({"repo_tag": "x:1", "created": "now", "mtime": "now"})
    assert before <= conf.created <= datetime.now(UTC)
    assert conf.mtime == int(conf.created.timestamp())


def test_order_of_container_config() -> None:
    """The image ID depends on the order of keys, which is that of the document."""
    conf = stream.parse_conf(b'{"repo_tag":"x:1","config":{"b":1,"a":{"d":0,"c":1e2},"b":2}}')
    assert repr(conf.container_config) == "{'b': 2, 'a': {'d': 0, 'c': 100.0}}"


@pytest.mark.parametrize("number", ["18446744073709551616", "-9223372036854775809", "1" * 40])
def test_large_numbers_in_container_config(number: str) -> None:
    """Integers of any size pass through untouched: as floats they would change the image ID."""
    conf = stream.parse_conf(b'{"repo_tag":"x:1","config":{"n":%s}}' % number.encode())
    assert conf.container_config == {"n": int(number)}
    assert isinstance(conf.container_config["n"], int)


@pytest.mark.parametrize("depth", [100, 1010, 10_000])
def test_deep_container_config(depth: int) -> None:
    """A deep configuration is streamed or refused before the first byte, never after the last."""
    nested = b'{"a":' * depth + b"1" + b"}" * depth
    try:
        conf = stream.parse_conf(b'{"repo_tag":"x:1","config":%s}' % nested)
    except stream.ConfError:
        return
    stream.write_image(conf, io.BytesIO())


def test_repo_tag_argument() -> None:
    """--repo-tag replaces the conf's tag, even if that is missing or invalid."""
    for document in (b"{}", b'{"repo_tag":"BAD"}', b'{"repo_tag":null}'):
        assert stream.parse_conf(document, repo_tag="y:2").repo_tag == "y:2"


def test_unknown_keys() -> None:
    """Future confs work today: an unknown key is a warning on stderr, not a failure."""
    warnings: list[str] = []
    document = orjson.dumps({"repo_tag": "x:1", "novel": 1, "Tag": None, "a\nb\x1b": 2})
    stream.parse_conf(document, name="c.json", warn=warnings.append)
    assert [warning[: len("c.json: novel")] for warning in warnings[:1]] == ["c.json: novel"]
    assert len(warnings) == 3
    assert all(warning.isprintable() for warning in warnings)


def test_thousands_of_unknown_keys() -> None:
    """Without a limit a document that is not a conf could print megabytes."""
    warnings: list[str] = []
    document = {"repo_tag": "x:1", "store_layers": []} | {f"x{n}": 1 for n in range(5000)}
    stream.parse_conf(orjson.dumps(document), name="c.json", warn=warnings.append)
    assert warnings[20:] == ["c.json: ignoring 4980 more unknown keys"]


# ---- faults --------------------------------------------------------------------

# keys, part of the message, values
BAD: list[tuple[list[str], str, list[object]]] = [
    (["architecture", "os", "uname", "gname", "variant"], "must be a string", [None, 1, True, [], {}]),
    (["uname", "gname", "architecture", "variant"], "NUL", ["a\0b"]),
    (["architecture", "variant"], "empty", [""]),
    (["config"], "must be an object", [1, "x", []]),
    (
        ["store_dir", "repo_tag", "created", "mtime", "customisation_mtime"],
        "must be a string",
        [None, 1, 1.5, []],
    ),
    (["store_dir"], "not an absolute path", ["", "nix/store", ".", "~/x"]),
    (["store_dir"], "begins with .wh.", ["/nix/.wh.store", "/.wh./store"]),
    (["store_dir"], "normal form", ["/nix/", "/a/../b", "//nix", "/./a"]),
    (["store_layers"], "must be a list of lists", [None, 1, "x", {}]),
    (["customisation_layer"], "", [1, [], "", "/no/such/dir", "a\0b"]),
    (["from_image"], "no such file", ["/x", "/x:name:tag"]),
    (["from_image"], "must be a string", [1, []]),
    (["from_image"], "is empty", [""]),
    (["base_config"], "must be 'env' or 'full'", ["", "all"]),
    (["base_history"], "must be 'rewrite' or 'keep'", ["", "all"]),
    (["skip_base_paths"], "must be a boolean", [1, "true", None]),
    (["annotations", "labels"], "must be an object", [None, 1, "x", []]),
    (["annotations", "labels"], "empty name", [{"": "x"}]),
    (
        ["created", "mtime", "customisation_mtime"],
        "not an instant",
        [
            "", "yesterday", "NOW", "2024-05-17", "2024-05-17T08:30:00", "2024-13-01T00:00:00Z",
            "2024-05-17T25:00:00Z", "10000-01-01T00:00:00Z", "1715934600",
            "2024-05-17T08:30:00+99:00", " 2024-05-17T08:30:00Z", "\n",
        ],
    ),
    (
        ["uid", "gid"],
        "must be a number from 0 to",
        [
            None, -1, "-1", "", "x", 1.0, True, 2**32 - 1, 2**70, "4294967295", "\u0661", " 1", [],
            "1" * 5000,
        ],
    ),
]  # fmt: skip
BAD_VALUES = [(key, value, why) for keys, why, values in BAD for key in keys for value in values]


@pytest.mark.parametrize(
    ("key", "value", "message"), BAD_VALUES, ids=lambda value: ascii(value)[:40]
)
def test_bad_values(key: str, value: object, message: str) -> None:
    """A wrong value gives one line that names its key."""
    # json, because orjson writes no number of more than 64 bits
    data = json.dumps({"repo_tag": "x:1", key: value}).encode()
    with pytest.raises(stream.ConfError) as caught:
        stream.parse_conf(data)
    [fault] = caught.value.faults
    assert fault.place == key
    assert message in fault.message


@pytest.mark.parametrize(
    "document",
    [
        {"customisation_layer": {"perms": [{"path": "/a", "mode": 7}] * 5000}},
        {"customisation_layer": {"nix_database": {"objects": [1] * 5000}}},
        {"store_layers": [["relative"]] * 5000},
        {"labels": {f"key{number}": 1 for number in range(5000)}},
        {"config": {"ExposedPorts": {f"{number}/x": 1 for number in range(5000)}}},
    ],
    ids=["perms", "objects", "store_layers", "labels", "config"],
)
def test_thousands_of_faults(document: Document) -> None:
    """Without a limit one mistake of a generator could print megabytes."""
    with pytest.raises(stream.ConfError) as caught:
        parse({"repo_tag": "a:b", "store_layers": [], **document})
    error = caught.value
    assert len(error.faults) == 100
    assert error.more >= 4900
    assert str(error).splitlines()[100:] == [f"conf.json: {error.more} more faults"]
    assert str(pickle.loads(pickle.dumps(error))) == str(error)


def test_null_is_as_good_as_absent_where_formats_say_so() -> None:
    """Every conf without a base image has `from_image: null`."""
    assert parse({"repo_tag": "x:1", "from_image": None, "customisation_layer": None})


def test_null_as_config() -> None:
    """Nix writes it for `config = null`; `config` is optional in an image."""
    conf = {"repo_tag": "x:1", "labels": {"a": "1"}}
    assert parse(conf | {"config": None}) == parse(conf)


def test_missing_tag() -> None:
    """An image without a tag has no name to load it by."""
    assert "pass a tag" in faults({})["repo_tag"]


@pytest.mark.parametrize(
    ("paths", "place", "message"),
    [
        ("{}/file", "", "must be a list of store paths, not a string"),
        ([], "", "is empty"),
        (None, "", "not null"),
        ([1], "[0]", "must be a string, not a number"),
        (["{}/file", None], "[1]", "not null"),
        (["file"], "[0]", "not an absolute path"),
        (["/elsewhere/file"], "[0]", "is not directly in the store directory"),
        (["{}"], "[0]", "is not directly in the store directory"),
        (["{}/dir/deeper"], "[0]", "is not directly in the store directory"),
        (["{}er/file"], "[0]", "is not directly in the store directory"),
        (["{}/file/"], "[0]", "normal form"),
        (["{}/../file"], "[0]", "normal form"),
        (["{}//file"], "[0]", "normal form"),
        (["{}/.wh.x"], "[0]", "begins with .wh."),
        (["{}/fi\0le"], "[0]", "NUL"),
        (["{}/missing"], "[0]", "no such file"),
        (["{}/" + "n" * 256], "[0]", "cannot be read: File name too long"),
        (["{}/file", "{}/file"], "[1]", "is already listed at store_layers[1][0]"),
        (["{}/dir"], "[0]", "is already listed at store_layers[0][0]"),
        (["{}/missing\nstore"], "[0]", "no such file"),
        (["/else\nwhere"], "[0]", "is not directly in the store directory"),
    ],
)
def test_bad_store_paths(store: str, paths: Any, place: str, message: str) -> None:
    """An invalid store path is reported with its place, on one line whatever its name."""
    if isinstance(paths, list):
        paths = [path.format(store) if isinstance(path, str) else path for path in paths]
    found = faults(
        {"repo_tag": "x:1", "store_dir": store, "store_layers": [[f"{store}/dir"], paths]}
    )
    assert list(found) == [f"store_layers[1]{place}"]
    assert message in found[f"store_layers[1]{place}"]


def test_unreadable_store_paths(
    store: str, stream_image: Run, write_conf: WriteConf, without_privilege: list[str]
) -> None:
    """Paths that this user cannot read are reported before the first byte."""
    os.chmod(f"{store}/file", 0)
    os.chmod(f"{store}/dir", 0o600)
    layers = [[f"{store}/file", f"{store}/dir"]]
    conf = write_conf({"repo_tag": "x:1", "store_dir": store, "store_layers": layers})
    done = stream_image(conf, prefix=without_privilege)
    os.chmod(f"{store}/dir", 0o700)
    assert (done.returncode, done.stdout) == (2, b"")
    said = done.stderr.decode().splitlines()
    assert len(said) == 2
    for number, line in enumerate(said):
        assert f": store_layers[0][{number}]: " in line
        assert line.endswith("Permission denied")


def test_checksum_is_not_a_regular_file(
    customisation: Path, stream_image: Run, write_conf: WriteConf
) -> None:
    """A FIFO instead of the checksum is refused without waiting."""
    (customisation / "checksum").unlink()
    os.mkfifo(customisation / "checksum")
    conf = write_conf({"repo_tag": "x:1", "customisation_layer": str(customisation)})
    done = stream_image(conf, timeout=10)
    assert (done.returncode, done.stdout) == (2, b"")


def test_fifo_as_customisation_layer(customisation: Path) -> None:
    """A FIFO instead of the tar is refused without waiting."""
    (customisation / "layer.tar").unlink()
    os.mkfifo(customisation / "layer.tar")
    assert "not a regular file" in faults(
        {"repo_tag": "x:1", "customisation_layer": str(customisation)}
    )["customisation_layer"]  # fmt: skip


@pytest.mark.parametrize(
    "checksum",
    [b"", b"x", SHA.encode()[:-1], SHA.encode() + b"0", SHA.upper().encode(), b"\xff" * 64,
                 b"sha256:" + SHA.encode(), SHA.encode() + b"\n" + SHA.encode()]
)  # fmt: skip
def test_bad_checksum(customisation: Path, checksum: bytes) -> None:
    """A checksum that no bytes can have is reported before the first byte."""
    (customisation / "checksum").write_bytes(checksum)
    found = faults({"repo_tag": "x:1", "customisation_layer": str(customisation)})
    assert "64 hexadecimal digits" in found["customisation_layer"]


@pytest.mark.parametrize("missing", ["checksum", "layer.tar"])
def test_incomplete_customisation_layer(customisation: Path, missing: str) -> None:
    """A ready-made layer needs both files; the message names the missing one."""
    (customisation / missing).unlink()
    found = faults({"repo_tag": "x:1", "customisation_layer": str(customisation)})
    assert f"{missing}: cannot be read: No such file" in found["customisation_layer"]


@pytest.mark.parametrize("key", ["annotations", "labels"])
def test_values_that_are_not_strings(key: str) -> None:
    """Registries and daemons refuse them, late; each is reported with its place."""
    found = faults({"repo_tag": "x:1", key: {"a": 1, "b": "x", "c\n": None}})
    assert found == {
        f'{key}["a"]': "must be a string, not a number",
        f'{key}["c\\n"]': "must be a string, not null",
    }


@pytest.mark.parametrize("config", [{}, {"Labels": None}, {"Labels": {}}])
def test_labels(config: Document) -> None:
    """Labels do not need other keys in the config; without labels the config stays as it is."""
    document = {"repo_tag": "x:1", "config": config}
    assert parse(document | {"labels": {"a": "1"}}).container_config == {"Labels": {"a": "1"}}
    assert parse(document | {"labels": {}}).container_config == config


@pytest.mark.parametrize(
    ("config", "place", "message"),
    [
        ({"Env": {"A": "b"}}, "Env", "must be a list of strings"),
        ({"Cmd": "a b"}, "Cmd", "must be a list of strings"),
        ({"Entrypoint": ["a", 1]}, "Entrypoint[1]", "must be a string"),
        ({"Labels": ["a"]}, "Labels", "must be an object"),
        ({"Labels": {"a": 1}}, "Labels['a']", "must be a string"),
        ({"Volumes": ["/x"]}, "Volumes", "must be an object"),
        ({"User": 1000}, "User", "must be a string"),
        ({"Healthcheck": {"Test": "x"}}, "Healthcheck.Test", "must be a list of strings"),
        (
            {"Healthcheck": {"Interval": 1.5e9}},
            "Healthcheck.Interval",
            "must be a whole number of nanoseconds",
        ),
    ],
)
def test_config_that_no_consumer_accepts(config: dict[str, Any], place: str, message: str) -> None:
    """A config that docker would refuse to load is refused before it is streamed."""
    more: dict[str, Any]
    for more in ({}, {"labels": {"a": "1"}}):
        assert faults({"repo_tag": "x:1", "config": config, **more}) == {f"config.{place}": message}


def test_keys_of_config_that_no_consumer_has() -> None:
    """A key in the wrong case, or a typo, is reported, and passed on as it is."""
    warned: list[str] = []
    config = {"cmd": ["x"], "Entripoint": []}
    document = json.dumps({"repo_tag": "x:1", "config": config}).encode()
    conf = stream.parse_conf(document, name="c.json", warn=warned.append)
    assert conf.container_config == config
    assert warned == [
        'c.json: config.Entripoint: no consumer knows this key (did you mean "Entrypoint"?)',
        'c.json: config.cmd: write "Cmd"; not every consumer ignores the case',
    ]


def test_config_of_nulls() -> None:
    """Nix writes `null` for keys that are not set, and all consumers accept that."""
    config = {"Env": None, "Cmd": [None], "Labels": {"a": None}, "User": None, "Healthcheck": {}}
    assert parse({"repo_tag": "x:1", "config": config}).container_config == config


@pytest.mark.parametrize(
    ("given", "meant"),
    [("x86_64", "amd64"), ("x86_64-linux", "amd64"), ("aarch64-linux", "arm64"), ("amd64", None)],
)
def test_names_of_architectures(given: str, meant: str | None) -> None:
    """Nix's names of architectures differ from those in images, which consumers compare."""
    warned: list[str] = []
    document = json.dumps({"repo_tag": "x:1", "architecture": given}).encode()
    assert stream.parse_conf(document, warn=warned.append).architecture == given
    assert [f"did you mean {meant}?" in line for line in warned] == ([True] if meant else [])


def test_conf_without_end(tmp_path: Path) -> None:
    """A file that is too large for a conf is not read into memory as a whole."""
    path = tmp_path / "conf.json"
    with path.open("wb") as file:
        file.truncate(1 << 40)
    with pytest.raises(stream.ConfError, match="is too large for a conf"):
        stream.load_conf(path)


def test_all_faults_together(store: str) -> None:
    """Someone who repairs a conf by hand sees all its faults at once."""
    found = faults(
        {
            "architecture": 1, "os": 2, "config": [], "store_dir": store, "from_image": "x",
            "store_layers": [[], [f"{store}/missing", f"{store}/file"], 7, [f"{store}/file"]],
            "customisation_layer": "/missing", "created": "x", "mtime": "y", "customisation_mtime": "z",
            "uid": -1, "gid": "z", "uname": 3, "gname": None,
            "base_config": 1, "base_history": "x", "skip_base_paths": 0,
            "annotations": 1, "labels": [], "customisation_store_paths": 1, "store_path_hashes": 1,
            "variant": 7,
        }
    )  # fmt: skip
    assert found.keys() == (KEYS - {"store_dir", "store_layers", "store_root"}) | {
        "store_layers[0]", "store_layers[1][0]", "store_layers[2]", "store_layers[3][0]",
    }  # fmt: skip


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "line 1 column 1: not JSON"),
        (b"{", "not JSON"),
        (b'{\n"a": }', "line 2 column 6: not JSON"),
        (b'{"a": NaN}', "not JSON"),
        (b'{"repo_tag": "\xff:1"}', "not JSON"),
        (b"\xef\xbb\xbf{}", "not JSON"),
        (b"[" * 100_000, "not JSON"),
        (b"{" * 100_000, "not JSON"),
        (gzip.compress(b"", mtime=0), "is binary, not JSON (is it an archive?)"),
        (b"layer.tar".ljust(512, b"\0"), "is binary, not JSON (is it an archive?)"),
        (b"null", "must be an object, not null"),
        (b"[]", "must be an object, not a list"),
        (b"1", "must be an object, not a number"),
        (b"true", "must be an object, not a boolean"),
        (b'"x"', "must be an object, not a string"),
    ],
)
def test_not_a_document(data: bytes, message: str) -> None:
    """Input that is not a JSON object is reported with line and column."""
    with pytest.raises(stream.ConfError, match=re.escape(message)) as caught:
        stream.parse_conf(data)
    assert "\n" not in str(caught.value)


# ---- anything ------------------------------------------------------------------

texts = st.text(st.characters(codec="utf-8"), max_size=20)
json_values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**64 - 1)
    | st.floats(allow_nan=False, allow_infinity=False)
    | texts
    | st.sampled_from(["/", "/nix/store", "/nix/store/x", "/dev/null", "now", "x:1", "1", "/\0"]),
    lambda items: st.lists(items, max_size=3) | st.dictionaries(texts, items, max_size=3),
    max_leaves=8,
)  # fmt: skip
paths = texts.flatmap(
    lambda name: st.sampled_from([f"/nix/store/{name}", f"/{name}", name, f"/tmp/{name}"])
)
documents = st.dictionaries(
    st.sampled_from(sorted(KEYS)) | texts, json_values
) | st.fixed_dictionaries(
    {"store_layers": st.lists(st.lists(paths, max_size=3), max_size=3)},
    optional=dict.fromkeys(sorted(KEYS - {"store_layers"}), paths),
)


def assert_conf_or_error(data: bytes) -> None:
    """Check that `data` is a conf, or has faults of printable lines."""
    try:
        conf = stream.parse_conf(data)
    except stream.ConfError as error:
        lines, faults = str(error).split("\n"), error.faults
    else:
        assert isinstance(conf, stream.ImageConf)
        return
    assert len(lines) == len(faults) > 0
    assert all(line.isprintable() for line in lines)


@given(documents | json_values)
def test_any_document(document: object) -> None:
    """Any JSON gives a conf or a ConfError; another exception would be a traceback."""
    assert_conf_or_error(orjson.dumps(document))


@given(st.binary(max_size=50) | st.text('{}[]":,0e+-.\\u nulltruefas', max_size=50).map(str.encode))
def test_any_bytes(data: bytes) -> None:
    """Any bytes give a conf or a ConfError as well."""
    assert_conf_or_error(data)


# ---- the command ---------------------------------------------------------------


def test_command_reports_every_fault(stream_image: Run, write_conf: WriteConf) -> None:
    """The exit status is 2, with one line for each fault and nothing on stdout."""
    conf = write_conf({"uid": -1, "store_layers": [["/nowhere/x"]], "created": "x"})
    done = stream_image(conf)
    assert (done.returncode, done.stdout) == (2, b"")
    lines = done.stderr.decode().splitlines()
    prefix = f"stream-image: {conf}: "
    assert sorted(line.removeprefix(prefix).split(": ")[0] for line in lines) == [
        "created", "repo_tag", "store_layers[0][0]", "uid",
    ]  # fmt: skip


@pytest.mark.parametrize("spelling", ["-t", "--repo-tag", "--repo_tag"])
def test_command_overrides_the_tag(stream_image: Run, write_conf: WriteConf, spelling: str) -> None:
    """All three spellings work, including the old one; a bad tag is reported as the option's."""
    done = stream_image("-q", write_conf({"repo_tag": "x:1"}), spelling, "y:2")
    assert (done.returncode, done.stderr) == (0, b"")
    assert b'"RepoTags":["y:2"]' in done.stdout
    for tag in ("Y:2", b"\xff:1".decode("utf-8", "surrogateescape"), ""):
        done = stream_image("-q", write_conf({"repo_tag": "x:1"}), spelling, tag)
        assert (done.returncode, done.stdout) == (2, b"")
        assert done.stderr.count(b"\n") == 1
        assert done.stderr.startswith(b"stream-image: --repo-tag: '")


def test_command_warns_of_unknown_keys(stream_image: Run, write_conf: WriteConf) -> None:
    """A warning on stderr does not change the image."""
    done = stream_image("-q", write_conf({"repo_tag": "x:1", "novel": 1}))
    assert done.returncode == 0
    assert done.stderr.count(b"\n") == 1
    assert b"warning" in done.stderr
    assert b"novel" in done.stderr
    assert done.stdout == stream_image("-q", write_conf({"repo_tag": "x:1"})).stdout


def test_command_guesses_misspelt_keys(stream_image: Run, write_conf: WriteConf) -> None:
    """A missing s that leaves the image without layers is pointed out."""
    done = stream_image("-q", write_conf({"repo_tag": "x:1", "store_layer": [["/x"]]}))
    assert b'store_layer: ignoring unknown key (did you mean "store_layers"?)' in done.stderr


def test_command_reads_standard_input(stream_image: Run) -> None:
    """`-` is a conf from a pipe."""
    done = stream_image("-q", "-", stdin=b'{"repo_tag":"x:1"}')
    assert (done.returncode, done.stderr) == (0, b"")
    done = stream_image("-q", "-", stdin=b"{}")
    assert (done.returncode, done.stdout) == (2, b"")
    assert done.stderr.startswith(b"stream-image: standard input: repo_tag: ")


def test_command_with_nothing_to_read(stream_image: Run) -> None:
    """If the command before the pipe failed, the message says where to look, without a column."""
    done = stream_image("-", stdin=b"")
    assert (done.returncode, done.stdout) == (2, b"")
    assert done.stderr == (
        b"stream-image: standard input: is empty (did the command before the pipe fail?)\n"
    )


@pytest.mark.parametrize("conf", ["/no/such/conf.json", "/", "no\nsuch", "n" * 5000])
def test_command_without_a_conf(stream_image: Run, conf: str) -> None:
    """A conf that cannot be read is a usage error, reported on one line."""
    done = stream_image(conf)
    assert (done.returncode, done.stdout) == (2, b"")
    assert done.stderr.count(b"\n") == 1
    assert b"cannot be read" in done.stderr


def test_command_with_standard_input_closed(stream_image: Run) -> None:
    """A closed standard input is reported like any other conf that cannot be read."""
    done = stream_image("-", prefix=["sh", "-c", 'exec "$@" <&-', "sh"])
    assert (done.returncode, done.stdout) == (2, b"")
    assert b"standard input: cannot be read" in done.stderr
    assert done.stderr.count(b"\n") == 1


@pytest.mark.parametrize("size", [-1, 1 << 63, 1.0, True])
def test_size_that_no_nix_database_holds(size: object) -> None:
    """Without it, the run would fail while streaming, without naming the place."""
    item = {"path": "/nix/store/x", "nar_hash": "", "nar_size": size}
    conf = {"repo_tag": "x:1", "customisation_layer": {"nix_database": {"objects": [item]}}}
    with pytest.raises(stream.ConfError) as raised:
        stream.parse_conf(json.dumps(conf).encode())
    assert raised.value.faults == (
        ("customisation_layer.nix_database.objects[0]", "nar_size must be a number of bytes"),
    )


def test_hashes_of_store_paths(store: str) -> None:
    """A hash of another path, or of another kind, would stand for content that nobody hashed."""
    key, path = "store_path_hashes", f"{store}/file"
    document = {"repo_tag": "x:1", "store_dir": store, "store_layers": [[path, f"{store}/dir"]]}
    other = f"{store}/link"
    hashes = {path: "sha256-x", other: SRI, f"{store}/dir": None, "": SRI}
    wrong = "is not the hash of a store path in store_layers or customisation_store_paths"
    assert faults({**document, key: hashes}) == {
        f'{key}["{path}"]': "'sha256-x' is not a SHA-256 as Nix writes it",
        f'{key}["{other}"]': wrong,
        f'{key}["{store}/dir"]': "must be a string, not null",
        f'{key}[""]': wrong,
    }
    assert conf_document(parse({**document, key: {path: f"sha256:{EMPTY}"}}))[key] == {path: SRI}


def test_customisation_store_paths(store: str) -> None:
    """A store path twice in an image, or in a layer that does not exist, is found before the first
    byte.
    """
    key, path = "customisation_store_paths", f"{store}/file"
    document = {"repo_tag": "x:1", "store_dir": store, key: [path, path, 1]}
    assert faults(document) == {
        key: "are behind the files of customisation_layer, which is missing",
        f"{key}[1]": f"{path} is already listed at {key}[0]",
        f"{key}[2]": "must be a string, not a number",
    }
    listed = {**document, "customisation_layer": {}, "store_layers": [[path]]}
    assert faults(listed)[f"{key}[0]"] == f"{path} is already listed at store_layers[0][0]"

"""Specifications: their keys, defaults and faults."""

import json
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from stream.config import conf_document
from stream.errors import ConfError
from stream.model import Builtin, Recipe
from stream.planning.spec import KEYS, Spec, parse_spec


def read(**keys: Any) -> Spec:
    """Return the specification with these keys, which causes no warnings."""
    warnings: list[str] = []
    spec = parse_spec(json.dumps(keys).encode(), name="spec.json", warn=warnings.append)
    assert not warnings
    return spec


def faults(**keys: Any) -> list[tuple[str, str]]:
    """Return the faults of the specification with these keys."""
    with pytest.raises(ConfError) as caught:
        read(**keys)
    return [(fault.place, fault.message) for fault in caught.value.faults]


def recipe(spec: Spec) -> Recipe:
    """Return the recipe of the specification with these keys."""
    assert isinstance(spec.conf.customisation_layer, Recipe)
    return spec.conf.customisation_layer


def test_defaults_are_those_of_docker_tools() -> None:
    """The defaults are those of streamLayeredImage's arguments."""
    spec = read(name="hello")
    assert spec.repository == "hello"
    assert spec.tag is None
    assert spec.max_layers == 100
    assert spec.include_store_paths
    assert not spec.include_nix_database
    assert spec.layering_pipeline is None
    assert spec.conf.created.isoformat() == "1970-01-01T00:00:01+00:00"
    assert spec.conf.mtime == 1
    assert spec.conf.base is None
    assert recipe(spec) == Recipe()


def test_null_is_absence() -> None:
    """Nix writes null for arguments that are not given."""
    assert read(name="x", **dict.fromkeys(KEYS - {"name"})) == read(name="x")


def test_a_pipeline_in_a_file(tmp_path: Path) -> None:
    """In Nix, a program can be the output of a derivation."""
    file = tmp_path / "program.json"
    file.write_text('[["popularity_contest"]]')
    assert read(name="x", layeringPipeline=str(file)).strategy == [["popularity_contest"]]
    file.write_text('[["best"]]')
    wrong = faults(name="x", layeringPipeline=str(file))
    assert [place for place, _ in wrong] == ["layeringPipeline[0][0]"]


def test_an_empty_list_of_roots() -> None:
    """Nothing but the roots is wanted then, which is not the same as no roots."""
    assert read(name="x").roots is None
    assert read(name="x", roots=[]).roots == ()


def test_name_becomes_lower_case() -> None:
    """As in dockerTools, the name is converted to lower case, which repository names require."""
    spec = read(name="Registry.example/Team/Hello", tag="V1")
    assert spec.repository == "registry.example/team/hello"
    assert spec.conf.repo_tag == "registry.example/team/hello:V1"


@pytest.mark.parametrize(
    ("keys", "place", "message"),
    [
        ({}, "name", "is missing"),
        ({"name": ""}, "name", "is not a repository name"),
        ({"name": 5}, "name", "must be a string, not a number"),
        ({"name": "a b"}, "name", "is not a repository name: letters, digits, and"),
        ({"tag": "a b"}, "tag", "is not a tag"),
        ({"tag": ""}, "tag", "is not a tag"),
        ({"tag": "v1/b"}, "tag", "'v1/b' is not a tag"),
        ({"tag": "a:b"}, "tag", "'a:b' is not a tag"),
        ({"name": "x is not a tag"}, "name", "'x is not a tag' is not a repository name"),
        ({"maxLayers": 1}, "maxLayers", "must be at least 2"),
        ({"maxLayers": True}, "maxLayers", "must be a whole number, not a boolean"),
        ({"maxLayers": "100"}, "maxLayers", "must be a whole number"),
        ({"layering": "best"}, "layering", "must be one of"),
        ({"layeringPipeline": [["split"]]}, "layeringPipeline[0][0]", "is not an operation"),
        (
            {"layeringPipeline": "/nowhere.json"},
            "layeringPipeline",
            "/nowhere.json: cannot be read",
        ),
        ({"layeringPipeline": "a\0b"}, "layeringPipeline", "NUL character"),
        ({"includeStorePaths": "no"}, "includeStorePaths", "must be a boolean"),
        ({"includeNixDB": 1}, "includeNixDB", "must be a boolean"),
        ({"references_graph": []}, "references_graph", "must be a string"),
        ({"roots": "/nix/store/x"}, "roots", "must be a list, not a string"),
        ({"unshipped": ["/nix/store/x", 1]}, "unshipped[1]", "must be a string, not a number"),
        ({"references_graph": "a\0b"}, "references_graph", "NUL character"),
        ({"fromImage": "/nowhere.tar"}, "fromImage", "no such file"),
        ({"fromImageTag": "1"}, "fromImage", "is missing"),
        ({"fromImageName": "x"}, "fromImage", "is missing"),
        ({"fromImageName": "x", "fromImageTag": "1"}, "fromImage", "is missing"),
        ({"contents": 5}, "contents", "must be a path or a built-in content"),
        ({"contents": ["/nix/store/none"]}, "contents[0]", "no such file"),
        ({"contents": ["/etc"]}, "contents[0]", "is not in the store directory"),
        (
            {"contents": ["app"]},
            "contents[0]",
            "'app' is neither a path (it has no slash) nor one",
        ),
        ({"contents": ["fakeNs"]}, "contents[0]", 'did you mean "fakeNss"?'),
        ({"contents": ["binSh"]}, "contents[0]", 'needs a path; write {"binSh": PATH}'),
        ({"copyToRoot": [{"binSh": "/etc"}]}, "copyToRoot[0].binSh", "would dangle; set store_dir"),
        ({"contents": [{"fakeNss": {"lines": []}}]}, "contents[0].fakeNss.lines", "unknown key"),
        ({"copyToRoot": ["etc/x"]}, "copyToRoot[0]", "is not an absolute path"),
        ({"copyToRoot": ["~/x"]}, "copyToRoot[0]", "is not an absolute path"),
        ({"contents": ["./x"]}, "contents[0]", f"{Path.cwd()}/x: no such file"),
        ({"contents": [[], ["fakeNss", ["./x"]]]}, "contents[1][1][0]", "/x: no such file"),
        ({"copyToRoot": [["etc/x"]]}, "copyToRoot[0][0]", "is not an absolute path"),
        ({"content": []}, "content", 'unknown key (did you mean "contents"?)'),
        ({"conflicts": "none"}, "conflicts", "must be one of 'error', 'first', 'last'"),
        (
            {"enableFakechroot": True, "store_dir": "/"},
            "enableFakechroot",
            "store directory inside the tree",
        ),
        ({"extraCommands": ["true"]}, "extraCommands", "must be a string, not a list"),
        ({"perms": [{"path": "/x", "mode": "rwx"}]}, "perms[0].mode", ""),
        ({"maxLayers": 99.5}, "maxLayers", "must be a whole number, not 99.5"),
        ({"uid": 5.5}, "uid", "not 5.5"),
        (
            {"created": "yesterday"},
            "created",
            "'yesterday' is relative to the time when it is read",
        ),
        ({"mtime": "10:00"}, "mtime", "is not an instant"),
        ({"uid": -1}, "uid", "must be a number from 0"),
        ({"config": {"Cmd": "sh"}}, "config.Cmd", "must be a list"),
        ({"store_dir": "nix"}, "store_dir", "is not an absolute path"),
        ({"runAsRoot": ["true"]}, "runAsRoot", "must be a string, not a list"),
        (
            {"runAsRoot": "true", "store_dir": "/"},
            "runAsRoot",
            "needs a store directory inside the tree",
        ),
        ({"compressor": "gz"}, "compressor", "choose the compression"),
        ({"repo_tag": "x:1"}, "repo_tag", "use name and tag"),
    ],
)
def test_fault(keys: dict[str, Any], place: str, message: str) -> None:
    """Each fault is reported at its place, in the specification's spelling."""
    name = {} if place == "name" and "name" not in keys else {"name": "x"}
    found = faults(**{**name, **keys})
    assert [at for at, _ in found] == [place]
    assert message in found[0][1]


def test_a_float_of_nix() -> None:
    """Nix writes 1e2 as 100.0; it is a whole number all the same."""
    spec = parse_spec(b'{"name": "x", "maxLayers": 100.0}')
    assert (spec.max_layers, type(spec.max_layers)) == (100, int)


@pytest.mark.parametrize(
    ("written", "seconds"),
    [("@1700000000", 1700000000), ("20240131", 1706659200), ("2024-01-31T10:00+02:00", 1706688000)],
)
def test_instants_of_dockertools(written: str, seconds: int) -> None:
    """A specification has the forms that flakes give; the conf has what `date -Iseconds` prints."""
    keys = ("created", "mtime", "customisation_mtime")
    spec = read(name="x", **dict.fromkeys(keys, written))
    expected = datetime.fromtimestamp(seconds, UTC)
    conf = spec.conf
    assert (conf.created, conf.mtime, conf.customisation_mtime) == (expected, seconds, seconds)
    assert spec.instants == dict.fromkeys(keys, expected.isoformat())


def test_every_fault_is_reported_at_once() -> None:
    """One run reports every fault."""
    found = faults(name="x", tag="a b", maxLayers=0, uid="x", extraCommands=1)
    assert {place for place, _ in found} == {"tag", "maxLayers", "uid", "extraCommands"}


@pytest.mark.parametrize("data", [b"", b"{", b"[]", b"\xff", b"[" * 100_000, b'{"name": NaN}'])
def test_invalid_documents(data: bytes) -> None:
    """Any input causes at most a one-line error."""
    with pytest.raises(ConfError):
        parse_spec(data, name="spec.json", warn=print)


@pytest.mark.parametrize(
    "value", [rb'"\ud800"', rb'{"\udc80": 1}', b"NaN", b"1e999", b"1" * 400, b"1" * 5000]
)
def test_values_that_json_does_not_have(value: bytes) -> None:
    """The place has to be that in the specification, not in the conf made from it."""
    with pytest.raises(ConfError) as raised:
        parse_spec(b'{\n"name": "x",\n"config": {"User": %s}}' % value, name="s", warn=print)
    assert [place.split(" column")[0] for place, _ in raised.value.faults] == ["line 3"]


@pytest.mark.parametrize("depth", [200, 500, 986, 987, 988, 989, 990, 991, 992])
def test_specification_of_any_depth(depth: int) -> None:
    """Reading and writing are recursive, and both have limits."""
    data = b'{"name": "x", "config": {"X": %s}}' % (b"[" * depth + b"]" * depth)
    with pytest.raises(ConfError, match=r"nested|cannot be read|[Rr]ecursion"):
        parse_spec(data, name="spec.json", warn=print)


def test_order_of_keys_decides_nothing() -> None:
    """Attributes have no order in Nix, so it must not affect the image."""
    specs = [
        read(
            name="x",
            config=dict(pairs),
            labels={name: name for name, _ in pairs},
            directories={f"/{name}": "0700" for name, _ in pairs},
        )
        for pairs in ([("User", "u"), ("WorkingDir", "/")], [("WorkingDir", "/"), ("User", "u")])
    ]
    assert json.dumps(conf_document(specs[0].conf)) == json.dumps(conf_document(specs[1].conf))
    assert specs[0].conf == specs[1].conf


def test_contents(tmp_path: Path) -> None:
    """Paths and built-in contents are read from one list, in order; a single one needs no list."""
    store = tmp_path / "store"
    (store / "a").mkdir(parents=True)
    spec = read(
        name="x",
        store_dir=str(store),
        contents=[
            f"{store}/a",
            "fakeNss",
            {"fakeNss": {"extraPasswdLines": ["u:x:1:1::/:/bin/sh"]}},
            {"usrBinEnv": f"{store}/a"},
        ],
        copyToRoot=f"{store}/a",
    )
    path = f"{store}/a".encode()
    assert recipe(spec).contents == (
        path,
        Builtin(name="fakeNss"),
        Builtin(name="fakeNss", extra_passwd_lines=("u:x:1:1::/:/bin/sh",)),
        Builtin(name="usrBinEnv", path=path),
    )
    assert recipe(spec).copy_to_root == (path,)


@pytest.mark.parametrize("key", ["contents", "copyToRoot"])
def test_nested_contents(tmp_path: Path, key: str) -> None:
    """Nix flattens lists; `contents = [ (optionals x [ a ]) [ b [ c ] ] ]` is usual there."""
    for name in "abc":
        (tmp_path / name).mkdir()
    a, b, c = (f"{tmp_path}/{name}" for name in "abc")
    nested = read(name="x", store_dir=str(tmp_path), **{key: [[], [a, [[b], "fakeNss"]], c]})
    flat = read(name="x", store_dir=str(tmp_path), **{key: [a, b, "fakeNss", c]})
    assert nested == flat
    assert recipe(nested).contents + recipe(nested).copy_to_root


def test_contents_from_the_current_directory_in_a_list(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A relative path has to mean the same in a nested list."""
    (tmp_path / "site").mkdir()
    monkeypatch.chdir(tmp_path)
    spec = read(name="x", copyToRoot=[[["./site"]]])
    assert recipe(spec).copy_to_root == (f"{tmp_path}/site".encode(),)


@pytest.mark.parametrize("key", ["name", "tag", "fromImage", "references_graph", "nix_store"])
@pytest.mark.parametrize("text", [r"a\u0000b", r"\ud800"])
def test_text_that_no_file_can_have(key: str, text: str) -> None:
    """A text that is valid in JSON but not for the system is a fault, not a traceback."""
    document = {"name": "x", key: "TEXT"}
    with pytest.raises(ConfError, match=r"NUL character|not a repository name|no low surrogate"):
        parse_spec(json.dumps(document).replace("TEXT", text).encode())


def test_contents_from_the_current_directory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without it, a specification next to its contents would need one person's absolute paths."""
    (tmp_path / "site").mkdir()
    (tmp_path / "below").mkdir()
    monkeypatch.chdir(tmp_path / "below")
    spec = read(name="x", copyToRoot=["../site", "."], contents="./", store_dir=str(tmp_path))
    assert recipe(spec).copy_to_root == tuple(
        f"{tmp_path}/{name}".encode() for name in ("site", "below")
    )
    assert recipe(spec).contents == (f"{tmp_path}/below".encode(),)


def test_relative_paths_start_from_a_directory(tmp_path: Path) -> None:
    """A project is built from its own files, wherever the command is called."""
    for name in ("app", "copy", "store"):
        (tmp_path / name).mkdir()
    for name in ("graph.json", "base.tar"):
        (tmp_path / name).write_text('[["flatten"]]', "ascii")
    document = {
        "name": "x",
        "fromImage": "base.tar:a:b",
        "files": {"/a": "app", "/b": {"path": "./app"}},
        "copyToRoot": ["./copy", "fakeNss"],
        "references_graph": "graph.json",
        "layeringPipeline": "graph.json",
        "nix_store": "./store",
    }
    spec = parse_spec(json.dumps(document).encode(), directory=str(tmp_path))
    assert spec.conf.base is not None
    assert (spec.conf.base.path, spec.conf.base.repo_tag) == (f"{tmp_path}/base.tar", "a:b")
    source = f"{tmp_path}/app".encode()
    assert [item.source for item in recipe(spec).files] == [source, source]
    assert recipe(spec).copy_to_root[0] == f"{tmp_path}/copy".encode()
    assert spec.references_graph == f"{tmp_path}/graph.json"
    assert spec.nix_store == f"{tmp_path}/store"
    assert spec.conf.store_root == f"{tmp_path}/store".encode()


def test_an_owner_of_the_layer_and_of_files() -> None:
    """The owner of the whole layer would silently replace those of single files."""
    owner = {"uid": 1, "gid": 1}
    wrong = faults(name="x", owner=owner, files={"/a": {"text": "", "uid": 1000}})
    assert [place for place, _ in wrong] == ["owner"]
    assert recipe(read(name="x", owner=owner, files={"/a": {"text": ""}})).owner == (1, 1)

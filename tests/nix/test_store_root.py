"""Stores below another root: files are read there, and the image is the same."""

import io
import json
import os
import re
import subprocess
import tempfile
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any
from unittest.mock import Mock, call

import commandline
import pytest
import trees
from hypothesis import given
from hypothesis import strategies as st
from sources.customisation.test_join import CONTENTS, NODES, built
from support import COMMAND, members
from trees import Directory, File, Link

import stream
from stream.errors import ConfError, ContentConflict, SourceError, StreamImageError
from stream.limits import MAX_LINKS
from stream.model import Conflicts, LayerPlan, Owner, Recipe
from stream.nix import query
from stream.nix.store_root import Disk
from stream.planning.closure import Wanted, find_closure, find_in_nix, take_alone
from stream.planning.plan import plan
from stream.planning.spec import parse_spec
from stream.sources.customisation.join import make_tree
from stream.sources.customisation.made import made_layer
from stream.tarwriter import Entries, TarContent, write_layer

HASHES = ["0" * 32, "1" * 32, "2" * 32]


def moved(store: bytes) -> Disk:
    """Move a store below a root of its own, so that it is nowhere else."""
    root = tempfile.mkdtemp(dir=os.path.dirname(store), prefix=b"root")
    os.makedirs(root + os.path.dirname(store))
    os.rename(store, root + store)
    return Disk(store, root)


# ---- paths

STEPS = st.lists(
    st.sampled_from([b"a", b"b", b"c", b"c0", b"c1", b"..", b".", b""]), min_size=1, max_size=6
)
LINKS = st.sampled_from(
    [b"a", b"b/c", b"../b", b"../../c1", b".", b"..", b"../../../..", b"/", b"{}", b"{}/c0/a",
     b"{}/../out", b"{}/c1/b/", b"{}/c1/./a//b", b"nowhere", b"{}/c0/nowhere/..", b"/out"]
)  # fmt: skip
TREES = st.dictionaries(
    st.sampled_from([b"a", b"b", b"c"]),
    st.recursive(
        st.one_of(st.just(File(0o644, 1, 1)), LINKS.map(Link)),
        lambda inner: st.dictionaries(st.sampled_from([b"a", b"b", b"c"]), inner, max_size=3).map(
            lambda items: Directory(0o755, tuple(items.items()))
        ),
        max_leaves=8,
    ),
    max_size=3,
).map(lambda items: Directory(0o755, tuple(items.items())))


def looked_up(disk: Disk, path: bytes) -> tuple[object, ...]:
    """Return the kind and content of the file at a path."""
    try:
        real = disk.real_path(path) if disk.exists(path) else None
    except OSError:
        real = None
    return disk.exists(path), disk.is_file(path), disk.is_directory(path), real


@given(contents=st.lists(TREES, min_size=2, max_size=2), queries=st.lists(STEPS, min_size=8))
def test_paths_lead_where_they_lead_in_place(
    store_dir: bytes, contents: Sequence[trees.Node], queries: Sequence[Sequence[bytes]]
) -> None:
    """A link followed into this machine's store, or out of the tree, would yield the wrong file."""
    store = os.path.dirname(built(store_dir, contents)[0])
    paths = [b"/".join([store, *steps]) for steps in queries]
    here = [looked_up(Disk(store), path) for path in paths]
    ends = [os.path.lexists(path) for path in paths if not path.endswith(b"..")]
    for path, (exists, is_file, is_directory, real) in zip(paths, here, strict=True):
        assert (exists, is_file, is_directory) == (
            os.path.exists(path), os.path.isfile(path), os.path.isdir(path),
        )  # fmt: skip
        assert real == (os.path.realpath(path) if exists else None)
    below = moved(store)
    assert [looked_up(below, path) for path in paths] == here
    remembering = below.remembering()
    assert [looked_up(remembering, path) for path in paths + paths] == here + here
    assert [below.lexists(path) for path in paths if not path.endswith(b"..")] == ends


def test_a_long_way_is_gone_once(store_dir: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    """Links that double the path with each step take long to resolve, and would for every file."""
    store = store_dir + b"/s"
    for number in range(MAX_LINKS):
        os.makedirs(b"%s/%d" % (store, number))
        os.symlink(b"%s/%d" % (store, number + 1), b"%s/%d/next" % (store, number))
    os.makedirs(b"%s/%d/below/it" % (store, MAX_LINKS))
    disk = moved(store).remembering()
    way = store + b"/0" + MAX_LINKS * b"/next"
    assert disk.real_path(way) == b"%s/%d" % (store, MAX_LINKS)
    seen = Mock(side_effect=os.lstat)
    monkeypatch.setattr(os, "lstat", seen)
    for _ in range(2):
        assert disk.is_directory(way + b"/below/it")
    below = disk.follow(way) + b"/below"
    assert seen.call_args_list == [call(below), call(below + b"/it")]


def test_as_many_links_as_linux_follows(store_dir: bytes) -> None:
    """A loop must be detected, and a chain that works in place must work below a root."""
    store = store_dir + b"/s"
    os.mkdir(store)
    for number in range(MAX_LINKS + 1):
        os.symlink(b"%s/%d" % (store, number + 1), b"%s/%d" % (store, number))
    os.mkdir(b"%s/%d" % (store, MAX_LINKS + 1))
    os.symlink(b"loop", store + b"/loop")
    asked = [store + b"/0", store + b"/1", store + b"/loop", store + b"/loop/x"]
    here = [os.path.isdir(path) for path in asked]
    assert here == [False, True, False, False]
    assert [moved(store).is_directory(path) for path in asked[:1]] == here[:1]
    below = Disk(store, os.path.join(store_dir, os.listdir(store_dir)[0]))
    assert [below.is_directory(path) for path in asked] == here


def test_what_stands_above_the_store_is_not_looked_at(store_dir: bytes) -> None:
    """The store below the root is found even if /nix does not exist or is a link."""
    os.makedirs(store_dir + b"/root/no/such/place/x")
    disk = Disk(b"/no/such/place", store_dir + b"/root")
    assert disk.is_directory(b"/no/such/place/x")
    assert disk.is_directory(b"/no/such/place/../place/x")
    assert disk.at(b"/no/such/place/x") == store_dir + b"/root/no/such/place/x"
    assert disk.at(b"/no/such/places") == b"/no/such/places"


# ---- layers


def layer_bytes(size: int, write_to: Callable[[TarContent], None]) -> bytes:
    """Return a layer as bytes."""
    with tempfile.TemporaryFile() as file:
        write_layer(file.fileno(), size, write_to)
        file.seek(0)
        return file.read()


def write_entries(entries: Entries, layer: TarContent) -> None:
    """Write a layer of `entries`."""
    layer.write_entries(entries)


@given(node=trees.store_paths)
def test_store_layers_are_the_same(store_dir: bytes, node: trees.Node) -> None:
    """The root must not appear in names or records, or change which files are read."""
    store = tempfile.mkdtemp(dir=store_dir)
    path = store + b"/path"
    trees.build(path, node)

    def walked(root: bytes = b"") -> tuple[bytes, list[tuple[bytes, bytes, int, bytes]], bytes]:
        entries = Entries(owner=Owner(), mtime=1, root=root)
        entries.walk(path)

        written = layer_bytes(entries.layer_size, partial(write_entries, entries))
        return bytes(entries.records), entries.list(), written

    here = walked()
    assert walked(moved(store).root) == here


def customised(recipe: Recipe, disk: Disk) -> object:
    """Return the layer made of a recipe's contents, or the error."""
    try:
        source = made_layer(make_tree(recipe, disk=disk), recipe, mtime=0)
    except ContentConflict as error:
        return str(error)
    except SourceError as error:  # which names the path on disk
        return error.reason
    return source.fingerprint, layer_bytes(source.size, source.write_to)


@given(
    contents=CONTENTS,
    conflicts=st.sampled_from(["error", "first", "last"]),
    keep=st.booleans(),
    copied=st.booleans(),
)
def test_customisation_layers_are_the_same(
    store_dir: bytes,
    contents: Sequence[trees.Node],
    conflicts: Conflicts,
    keep: bool,  # noqa: FBT001 — hypothesis names what it gives
    copied: bool,  # noqa: FBT001 — a parameter of the test
) -> None:
    """Joined or copied, with links between contents, a store yields the same layer as in place."""
    paths = tuple(built(store_dir, contents))
    recipe = Recipe(
        contents=() if copied else paths,
        copy_to_root=paths if copied else paths[:1],
        conflicts=conflicts,
        keep_dirlinks=keep,
    )
    store = os.path.dirname(paths[0])
    here = customised(recipe, Disk(store))
    assert customised(recipe, moved(store)) == here


@given(inside=NODES, outside=NODES)
def test_contents_outside_of_the_store(
    store_dir: bytes, inside: trees.Node, outside: trees.Node
) -> None:
    """Paths outside the store are read in place, and a link to a store path is followed."""
    (path,) = built(store_dir, [Directory(0o755, ((b"x", inside),))])
    store = os.path.dirname(path)
    beside = tempfile.mkdtemp(dir=store_dir)
    os.symlink(path, beside + b"/result")
    trees.build(beside + b"/own", Directory(0o755, ((b"y", outside), (b"in", Link(path)))))
    recipe = Recipe(copy_to_root=(beside + b"/result", beside + b"/own"), conflicts="first")
    here = customised(recipe, Disk(store))
    assert customised(recipe, moved(store)) == here


# ---- images


@pytest.fixture
def packages(tmp_path: Path) -> list[str]:
    """Make a tool, an environment of links to it, and a package without a hash in its name."""
    store = tmp_path / "store"
    tool, environment, plain = (
        f"{store}/{hashed}" for hashed in (f"{HASHES[0]}-tool", f"{HASHES[1]}-env", "plain")
    )
    for name, content in (("bin/sh", "shell"), ("share/man/man1/sh.1", "manual"), ("lib/l", "l")):
        path = Path(tool, name)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content)
        path.chmod(0o755)
    Path(environment, "share").mkdir(parents=True)
    Path(environment, "bin").symlink_to(f"{tool}/bin")
    Path(environment, "share/man").symlink_to(f"{tool}/share/man")
    Path(plain, "share/man/man1").mkdir(parents=True)
    Path(plain, "share/man/man1/plain.1").write_text("plain")
    Path(plain, "up").symlink_to(tool)
    return [tool, environment, plain]


def specification(packages: Sequence[str], **keys: Any) -> dict[str, Any]:
    """Return a specification that uses all packages, in every way."""
    tool, environment, plain = packages
    return {
        "name": "x",
        "store_dir": os.path.dirname(tool),
        "architecture": "amd64",
        "contents": [environment, plain, {"binSh": environment}],
        "copyToRoot": [f"{plain}/up", {"usrBinEnv": f"{environment}/bin/sh"}],
        "config": {"Cmd": [f"{plain}/share"]},
        **keys,
    }


@pytest.fixture
def without_nix(monkeypatch: pytest.MonkeyPatch) -> None:
    """Hide this machine's Nix, if any."""
    monkeypatch.setattr("stream.nix.query.knows", lambda _store_dir: False)


def planned(spec: dict[str, Any]) -> dict[str, Any]:
    """Return the conf of a specification."""
    return plan(parse_spec(json.dumps(spec).encode())).document


def image_of(conf: dict[str, Any]) -> tuple[stream.Image, bytes]:
    """Return the image of a conf."""
    archive = io.BytesIO()
    return stream.write_image(stream.parse_conf(json.dumps(conf).encode()), archive), (
        archive.getvalue()
    )


@pytest.mark.slow
@pytest.mark.usefixtures("without_nix")
def test_images_are_the_same(packages: list[str], tmp_path: Path) -> None:
    """Moving a store must not change tag, names or bytes, or no layer would be shared."""
    spec = specification(packages)
    here = planned(spec)
    assert "store_root" not in here
    assert {path for layer in here["store_layers"] for path in layer} == {*packages}
    image = image_of(here)
    root = moved(os.fsencode(os.path.dirname(packages[0]))).root.decode()
    with pytest.raises(ConfError):
        planned(spec)
    below = planned({**spec, "store_root": root})
    assert below == {**here, "store_root": root}
    assert image_of(below) == image
    assert os.fsencode(root) not in image[1]
    # As an executable, in another directory.
    (tmp_path / "conf.json").write_text(json.dumps(below))
    for how in ("--embed",), ():
        wrapped = [*COMMAND, "wrap", *how, "conf.json", "-o", "run"]
        subprocess.run(wrapped, check=True, cwd=tmp_path)
        done = subprocess.run([tmp_path / "run", "-q"], check=True, capture_output=True, cwd="/")
        assert done.stdout == image[1]


@pytest.mark.usefixtures("without_nix")
def test_content_of_unhashed_paths_decides_the_tag(packages: list[str]) -> None:
    """If different contents had the same derived tag, a cache would serve the wrong image."""
    spec = specification(packages)
    disk = moved(os.fsencode(os.path.dirname(packages[0])))
    spec["store_root"] = disk.root.decode()
    before = planned(spec)["repo_tag"]
    assert planned(spec)["repo_tag"] == before
    Path(f"{spec['store_root']}{packages[2]}/share/new").write_text("new")
    assert planned(spec)["repo_tag"] != before


@pytest.mark.usefixtures("without_nix")
def test_the_machines_own_store_is_not_read(packages: list[str]) -> None:
    """Files of the machine's own store at the same place must not get into the image."""
    spec = specification(packages)
    image = image_of(planned(spec))
    store = Path(packages[0]).parent
    root = moved(bytes(store)).root.decode()
    for path in packages:
        for name in ("bin/sh", "share/man/man1/sh.1", "share/man/man1/other.1"):
            file = Path(path, name)
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text("this machine's")
    assert image_of(planned({**spec, "store_root": root})) == image
    assert b"this machine's" not in image[1]


@pytest.mark.usefixtures("without_nix")
def test_every_command_reads_below_the_root(packages: list[str], tmp_path: Path) -> None:
    """A conf that streams can be explained, inspected, exported and verified."""
    root = moved(os.fsencode(os.path.dirname(packages[0]))).root.decode()
    spec = json.dumps(specification(packages, store_root=root))
    (tmp_path / "spec.json").write_text(spec)

    def run(*argv: str) -> bytes:
        done = commandline.run([*COMMAND, *argv], capture_output=True, check=False, cwd=tmp_path)
        assert done.returncode == 0, done.stderr
        assert root.encode() not in done.stderr
        return done.stdout

    run("plan", "spec.json", "-o", "conf.json")
    assert json.loads((tmp_path / "conf.json").read_text())["store_root"] == root
    run("-q", "conf.json", "-o", "image.tar")
    for target in ("spec.json", "conf.json"):
        explained = json.loads(run("explain", "--json", target))
        assert {path["path"] for x in explained["layers"] for path in x["store_paths"]} == {
            *packages
        }
    run("inspect", "conf.json")
    run("verify", "image.tar", "--conf", "conf.json")
    exported = members(run("export", "-q", "conf.json"))
    assert f"{packages[0].lstrip('/')}/bin/sh" in exported
    assert not [name for name in exported if name.startswith(root.lstrip("/") + "/")]


@pytest.mark.parametrize("form", ["{}/s", "{}", "/", "{}/s/store/up"])
def test_a_directory_around_the_store_is_not_a_content(form: str, store_dir: bytes) -> None:
    """It would copy the store that this machine has there, instead of the one below the root."""
    store = store_dir + b"/s/store"
    os.makedirs(store)
    os.symlink("..", store + b"/up")
    below = moved(store)
    os.makedirs(store + b"/own")
    content = os.fsencode(form.format(os.fsdecode(store_dir)))
    with pytest.raises(SourceError, match="holds the store directory, whose files are elsewhere"):
        make_tree(Recipe(copy_to_root=(content,)), disk=below)
    tree = make_tree(Recipe(copy_to_root=(store,), keep_dirlinks=True), disk=below)
    assert [path for path, _ in tree.entries()] == [b"", b"up"]


# ---- messages


def faults(document: dict[str, Any], read: Callable[..., object] = stream.parse_conf) -> list[Any]:
    """Return the faults of a document."""
    with pytest.raises(ConfError) as error:
        read(json.dumps(document).encode())
    return [tuple(fault) for fault in error.value.faults]


@pytest.mark.parametrize(
    ("root", "message"),
    [
        ("nix", "'nix' is not an absolute path"),
        ("~/nix", "'~/nix' is not an absolute path"),
        ("", "'' is not an absolute path"),
        ("/tmp/", "'/tmp/' is not in normal form; write '/tmp'"),
        ("/no/such/place", "/no/such/place is not a directory"),
        ("/etc/passwd", "/etc/passwd is not a directory"),
        ("/a\0", "contains a NUL character"),
        (5, "must be a string, not a number"),
    ],
)
def test_not_a_root(root: object, message: str) -> None:
    """A wrong root is reported once, and not again for each store path."""
    paths = [["/nix/store/x", "/nix/store/y"]]
    found = faults({"repo_tag": "x:1", "store_root": root, "store_layers": paths})
    assert found == [("store_root", message)]
    assert faults({"name": "x", "store_root": root}, parse_spec) == [("store_root", message)]


def test_the_root_of_this_machine() -> None:
    """`/` means no root, and overrides the root in `nix_store`."""
    document = {"repo_tag": "x:1", "store_root": "/"}
    assert stream.parse_conf(json.dumps(document).encode()).store_root == b""


def test_paths_that_are_not_below_the_root(tmp_path: Path) -> None:
    """To find a missing file, one has to know where it was looked for."""
    root, store = str(tmp_path), "/nix/store"
    (tmp_path / "nix/store/x").mkdir(parents=True)
    (tmp_path / "nix/store/x/gone").symlink_to(f"{store}/gone")
    more = {"repo_tag": "x:1", "store_root": root}
    missing = f"{store}/y: no such file ({root}{store}/y is missing)"
    assert faults({**more, "store_layers": [[f"{store}/y"]]}) == [("store_layers[0][0]", missing)]
    recipe = {"contents": [f"{store}/x", f"{store}/y"], "copy_to_root": [f"{store}/x/gone/z"]}
    assert faults({**more, "customisation_layer": recipe}) == [
        ("customisation_layer.contents[1]", missing),
        (
            "customisation_layer.copy_to_root[0]",
            f"{store}/x/gone/z: no such file ({root}{store}/gone is missing)",
        ),
    ]
    with pytest.raises(ConfError, match=re.escape(f"contents: {missing}")):
        take_alone(Wanted(name="s", paths=((f"{store}/y", "contents"),), store_root=root))


def test_a_path_on_disk_for_one_in_the_image(tmp_path: Path) -> None:
    """A path on disk, as the shell completes it, is not valid in a link; the message says what to write."""
    path = tmp_path / "nix/store/x"
    path.mkdir(parents=True)
    spec = {"name": "x", "store_root": str(tmp_path), "contents": [str(path)]}
    ((place, message),) = faults(spec, parse_spec)
    assert place == "contents[0]"
    assert message.endswith("links to it would dangle; write /nix/store/x")


def test_a_link_into_the_store(tmp_path: Path) -> None:
    """A newcomer first tries the `result` link of nix-build."""
    store = tmp_path / "store"
    (store / "x").mkdir(parents=True)
    (tmp_path / "result").symlink_to(store / "x")
    keys = {"name": "x", "store_dir": str(store), "contents": [str(tmp_path / "result")]}
    ((place, message),) = faults(keys, parse_spec)
    assert place == "contents[0]"
    assert message.endswith(f"would dangle; write {store}/x, which it links to")


def test_a_file_that_changes_is_named_where_it_is(tmp_path: Path) -> None:
    """A message with a path that does not exist on this machine would not help."""
    path = tmp_path / "nix/store/x/f"
    path.parent.mkdir(parents=True)
    path.write_text("one")
    document = {
        "repo_tag": "x:1", "store_root": str(tmp_path), "store_layers": [["/nix/store/x"]],
    }  # fmt: skip
    conf = stream.parse_conf(json.dumps(document).encode())
    assert conf.store_layers == (LayerPlan(store_paths=(b"/nix/store/x",)),)
    path.unlink()
    os.mkfifo(path)
    with pytest.raises(SourceError, match=f"^{path}: is a FIFO"):
        stream.write_image(conf, io.BytesIO())
    path.parent.rename(tmp_path / "elsewhere")
    with pytest.raises(SourceError, match=f"^{path.parent}: no such file"):
        stream.write_image(conf, io.BytesIO())


# ---- as Nix is asked


@pytest.mark.parametrize(
    ("store", "root"),
    [
        ("/home/me/nix", "/home/me/nix"),
        ("/home/me/nix/", "/home/me/nix"),
        ("/home/me/nix?state=/x", "/home/me/nix"),
        ("./nix", "HERE/nix"),
        ("nix/", "HERE/nix"),
        ("~/nix", "HERE/~/nix"),
        ("local?root=/home/me/nix", "/home/me/nix"),
        ("auto?x=y&root=%2Fhome%2Fme", "/home/me"),
        ("local?root=/home/c++", "/home/c++"),
        ("local?root=/home/c%2B%2B", "/home/c++"),
        ("local?root=/a&root=/b", "/a"),
        ("local?root=/a&real=/b", None),
        ("/", None),
        ("local?root=/", None),
        ("local", None),
        ("daemon", None),
        ("", None),
        ("nix", None),
        ("unix:///run/socket", None),
        ("ssh://host/x?root=/y", None),
        ("file:///cache", None),
    ],
)
def test_root_of_a_nix_store(store: str, root: str | None) -> None:
    """Files are looked for where Nix put them."""
    expected = None if root is None else root.replace("HERE", str(Path.cwd()))
    assert query.root_of(store) == expected


def test_root_in_a_specification(tmp_path: Path) -> None:
    """The name of a Nix store determines where its files are."""
    other = tmp_path / "other"
    other.mkdir()

    def root(**keys: Any) -> bytes:
        return parse_spec(json.dumps({"name": "x", **keys}).encode()).conf.store_root

    assert root(nix_store=str(tmp_path)) == bytes(tmp_path)
    assert root(nix_store=f"local?root={tmp_path}") == bytes(tmp_path)
    assert root(nix_store=str(tmp_path), store_root=str(other)) == bytes(other)
    assert root(nix_store=str(tmp_path), store_root=None) == bytes(tmp_path)
    assert root(nix_store=str(tmp_path), store_root="/") == b""
    assert root(nix_store="daemon") == root() == b""
    # Below a root, Nix uses /nix/store even if the store directory is another.
    assert root(nix_store=str(tmp_path), store_dir="/gnu/store") == b""
    absent = f"{tmp_path}/no is not a directory"
    assert faults({"name": "x", "nix_store": f"{tmp_path}/no"}, parse_spec) == [
        ("nix_store", absent)
    ]


def test_a_directory_that_is_taken_for_the_name_of_a_store(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without a slash, Nix takes it for a name, and contents would be missing without explanation."""
    (tmp_path / "nix").mkdir()
    (tmp_path / "daemon").mkdir()
    monkeypatch.chdir(tmp_path)
    assert faults({"name": "x", "nix_store": "nix"}, parse_spec) == [
        ("nix_store", "'nix' is not a Nix store; write ./nix for the directory")
    ]
    for store in ("./nix", "daemon"):
        parse_spec(json.dumps({"name": "x", "nix_store": store}).encode())


def test_what_nix_has_and_the_disk_has_not(monkeypatch: pytest.MonkeyPatch) -> None:
    """If the files of a store are elsewhere, the message must say how to find them."""
    path = f"/nix/store/{HASHES[0]}-x"
    registration = f"{path}\n{'0' * 64}\n1\n\n0\n".encode()
    monkeypatch.setattr(query, "invalid", lambda _paths, _store=None: set())
    monkeypatch.setattr(query, "registration", lambda _paths, _store=None: registration)
    wanted = Wanted(name="s", paths=((path, "contents"),), store_root="/no")
    for store, named in ((None, "the Nix store,"), ("daemon", "the Nix store daemon,")):
        with pytest.raises(ConfError) as error:
            find_in_nix(wanted, store)
        assert str(error.value) == (
            f"s: contents: {path} is in {named} but not at /no{path} (1 of 1 store paths are"
            " missing); set store_root to the root that contains the files of that store"
        )


def test_a_root_with_a_nix_store_is_asked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With store_root alone, an image must not lack the references of its programs."""
    programs = tmp_path / "programs"
    programs.mkdir()
    (programs / query.PROGRAM).write_text('#!/bin/sh\necho "error: $*" >&2; exit 1\n')
    (programs / query.PROGRAM).chmod(0o755)
    monkeypatch.setenv("PATH", f"{programs}:/usr/bin:/bin")
    monkeypatch.setenv("NIX_STATE_DIR", str(tmp_path / "no"))
    path = f"/nix/store/{HASHES[0]}-x"
    (tmp_path / path[1:]).mkdir(parents=True)
    wanted = Wanted(name="s", paths=((path, "contents"),), store_root=str(tmp_path))
    assert find_closure(wanted).references is None
    (tmp_path / "nix/var/nix/db").mkdir(parents=True)
    with pytest.raises(StreamImageError, match=f"--store {tmp_path} {path}"):
        find_closure(wanted)


@pytest.mark.parametrize("installed", [True, False])
def test_store_paths_with_unknown_references(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, *, installed: bool
) -> None:
    """Under sudo, Nix is not on PATH: an image without its libraries must not pass silently."""
    programs = tmp_path / "programs"
    programs.mkdir()
    if installed:
        (programs / query.PROGRAM).write_text("#!/bin/sh\nexit 1\n")
        (programs / query.PROGRAM).chmod(0o755)
    monkeypatch.setenv("PATH", str(programs))
    monkeypatch.delenv("NIX_REMOTE", raising=False)
    monkeypatch.setenv("NIX_STATE_DIR", str(tmp_path / "no"))
    paths = [f"/nix/store/{digits}-x" for digits in HASHES[:2]]
    for path in [*paths, "/nix/store/made-by-hand"]:
        (tmp_path / path[1:] / "bin").mkdir(parents=True)

    def warnings(contents: list[str]) -> list[str]:
        spec = {"name": "x", "tag": "1", "store_root": str(tmp_path), "contents": contents}
        warned: list[str] = []
        plan(parse_spec(json.dumps(spec).encode()), warn=warned.append)
        return warned

    why = "Nix does not know it" if installed else "nix-store is not on PATH"
    assert warnings(paths) == [
        f"spec.json: {paths[0]} (and 1 more) is included without its references: {why}; give a references graph"
    ]
    assert warnings(["/nix/store/made-by-hand"]) == []

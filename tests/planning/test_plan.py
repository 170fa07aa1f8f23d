"""Planning: from a specification to a conf that streams."""

import base64
import hashlib
import io
import json
import os
import random
import re
import shutil
import subprocess
import tarfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, tzinfo
from pathlib import Path
from typing import Any

import commandline
import pytest
from handmade import Base, tar_of
from support import COMMAND

import stream
from stream.errors import ConfError, StreamImageError
from stream.planning.plan import plan
from stream.planning.spec import parse_spec

EMPTY_BASE32 = "0mdqa9w1p6cmli6976v4wi0sw9r4p5prkj7lzfd1877wk11c9c73"  # a SHA-256, as Nix prints it
DIGITS = "0123456789abcdfghijklmnpqrsvwxyz"
NEEDS_SANDBOX = pytest.mark.skipif(not shutil.which("bwrap"), reason="needs bubblewrap")
NEEDS_FAKEROOT = pytest.mark.skipif(
    not shutil.which("bwrap") or not shutil.which("fakeroot"), reason="needs bubblewrap, fakeroot"
)


@dataclass(frozen=True)
class Packages:
    """A store with packages, and their references graph."""

    directory: Path

    def path(self, name: str) -> str:
        """Return the store path called `name`."""
        letters = random.Random(name).choices(DIGITS, k=32)
        return f"{self.directory}/store/{''.join(letters)}-{name}"

    def add(self, name: str, files: Mapping[str, str], references: Sequence[str] = ()) -> str:
        """Make a package; `references` are names of others."""
        path = Path(self.path(name))
        for file, content in files.items():
            (path / file).parent.mkdir(parents=True, exist_ok=True)
            (path / file).write_text(content, "utf-8")
            (path / file).chmod(0o755 if file.startswith("bin/") else 0o644)
        graph = self.directory / "graph.json"
        known = json.loads(graph.read_bytes()) if graph.exists() else []
        size = sum(len(content) for content in files.values())
        references = [self.path(other) for other in references]
        known.append({"path": str(path), "references": references, "narSize": size})
        graph.write_text(json.dumps(known), "utf-8")
        return str(path)

    def spec(self, **keys: Any) -> dict[str, Any]:
        """Return a specification with these keys."""
        return {
            "name": "test",
            "store_dir": f"{self.directory}/store",
            "references_graph": f"{self.directory}/graph.json",
            "architecture": "amd64",
            **keys,
        }

    def plan(self, previous: Sequence[Sequence[str]] | None = None, **keys: Any) -> dict[str, Any]:
        """Return the conf of the specification with these keys, which causes no warnings."""
        warnings: list[str] = []
        data = json.dumps(self.spec(**keys)).encode()
        spec = parse_spec(data, name="spec.json", warn=warnings.append)
        document = plan(spec, previous, warn=warnings.append).document
        assert not warnings
        return document


@pytest.fixture
def packages(tmp_path: Path) -> Packages:
    """Make an application that needs a tool that needs a library, and an unneeded package."""
    made = Packages(tmp_path)
    made.add("lib-1", {"lib/libx.so": "x" * 5000})
    made.add("tool-1", {"bin/tool": "tool" * 50}, ["lib-1"])
    made.add("app-1", {"bin/app": "app" * 9, "etc/app.conf": "a = 1\n"}, ["tool-1"])
    made.add("other-1", {"bin/other": "other"})
    return made


def write(conf: Mapping[str, Any]) -> list[dict[str, tarfile.TarInfo]]:
    """Return the entries of each layer of the image of `conf`, by name."""
    archive = io.BytesIO()
    image = stream.write_image(stream.parse_conf(json.dumps(conf).encode()), archive)
    archive.seek(0)
    with tarfile.open(fileobj=archive) as tar:
        found = []
        for layer in image.layers:
            content = tar.extractfile(layer.archive_name)
            with tarfile.open(fileobj=content) as inner:
                found.append({entry.name: entry for entry in inner})
        return found


def name_of(path: str) -> str:
    """Return the name of a store path without directory and hash."""
    return os.path.basename(path)[33:]


def names(conf: Mapping[str, Any]) -> list[list[str]]:
    """Return the names of a conf's store paths, by layer."""
    return [[name_of(path) for path in layer] for layer in conf.get("store_layers", ())]


def every(conf: Mapping[str, Any]) -> list[str]:
    """Return the names of all store paths, sorted."""
    return sorted(name for layer in names(conf) for name in layer)


def run(*args: str | os.PathLike[str], stdin: bytes = b"") -> subprocess.CompletedProcess[bytes]:
    """Run the command."""
    return commandline.run([*COMMAND, *args], input=stdin, capture_output=True, check=False)


# ---- the plan


@NEEDS_SANDBOX
@pytest.mark.parametrize("tag", [None, "1"])
def test_conf_and_document_are_the_same_image(packages: Packages, tag: str | None) -> None:
    """The library streams the conf, the command the document: they must not differ."""
    spec = packages.spec(
        contents=[packages.path("app-1"), "fakeNss"],
        extraCommands="true",
        created="2024-05-17T08:30:00+02:00",
        labels={"a": "b"},
        tag=tag,
        uid="7",
        directories={"/tmp": "1777"},
        perms=[{"path": "/tmp", "uid": 1}],
    )
    planned = plan(parse_spec(json.dumps(spec).encode()))
    warnings: list[str] = []
    read = stream.parse_conf(json.dumps(planned.document).encode(), warn=warnings.append)
    assert not warnings
    assert read == planned.conf
    assert repr(read) == repr(planned.conf)


# ---- the closure


def test_closure_of_contents(packages: Packages) -> None:
    """The image contains the closure of the contents, and nothing else."""
    conf = packages.plan(contents=[packages.path("app-1")])
    assert every(conf) == ["app-1", "lib-1", "tool-1"]


def test_contents_without_references(packages: Packages) -> None:
    """A path without references adds nothing, even if the graph lists more."""
    assert every(packages.plan(contents=[packages.path("other-1")])) == ["other-1"]


def test_contents_are_linked(packages: Packages) -> None:
    """Programs are found at their usual places."""
    *_, top = write(packages.plan(contents=[packages.path("app-1"), packages.path("tool-1")]))
    assert top["./bin/app"].linkname == f"{packages.path('app-1')}/bin/app"
    assert top["./bin/tool"].linkname == f"{packages.path('tool-1')}/bin/tool"
    assert top["./etc/app.conf"].issym()


@pytest.mark.parametrize(
    "config",
    [
        {"Cmd": ["TOOL/bin/tool"]},
        {"Env": ["A=1", "PATH=/bin:TOOL/bin:/sbin"]},
        {"Labels": {"tool": "TOOL"}},
        {"Volumes": {"TOOL/data": {}}},
        {"Healthcheck": {"Test": ["CMD", "TOOL"]}},
    ],
)
def test_config_joins_the_closure(packages: Packages, config: dict[str, Any]) -> None:
    """A command given by its store path must exist in the container."""
    config = json.loads(json.dumps(config).replace("TOOL", packages.path("tool-1")))
    assert every(packages.plan(config=config)) == ["lib-1", "tool-1"]


@NEEDS_SANDBOX
def test_what_commands_link_joins_the_closure(packages: Packages) -> None:
    """A link that a command made must not dangle."""
    tool = packages.path("tool-1")
    conf = packages.plan(extraCommands=f"mkdir opt; ln -s {tool}/bin/tool opt/tool")
    assert every(conf) == ["lib-1", "tool-1"]
    assert write(conf)[-1]["./opt/tool"].linkname == f"{tool}/bin/tool"


@NEEDS_SANDBOX
def test_what_commands_write_joins_the_closure(packages: Packages) -> None:
    """A script with a store path in its first line must run."""
    conf = packages.plan(extraCommands=f"echo '#!{packages.path('tool-1')}/bin/tool' > run")
    assert every(conf) == ["lib-1", "tool-1"]


def test_what_is_copied_brings_what_it_refers_to(packages: Packages) -> None:
    """A file copied by copyToRoot may mention a store path, which the copy needs."""
    packages.add("script-1", {"bin/run": f"#!{packages.path('tool-1')}/bin/tool\n"}, ["tool-1"])
    conf = packages.plan(copyToRoot=[packages.path("script-1")])
    assert every(conf) == ["lib-1", "tool-1"]
    assert write(conf)[-1]["./bin/run"].isreg()


def test_ready_customisation_layer(packages: Packages) -> None:
    """A ready-made layer is used unchanged, and its references are in the image."""
    ready = packages.directory / "ready"
    ready.mkdir()
    with tarfile.open(ready / "layer.tar", "w") as tar:
        link = tarfile.TarInfo("./opt")
        link.type, link.linkname = tarfile.SYMTYPE, packages.path("tool-1")
        tar.addfile(link)
        script = f"#!{packages.path('other-1')}/bin/other\n".encode()
        entry = tarfile.TarInfo("./run")
        entry.size = len(script)
        tar.addfile(entry, io.BytesIO(script))
    digest = hashlib.sha256((ready / "layer.tar").read_bytes()).hexdigest()
    (ready / "checksum").write_text(digest, "utf-8")
    conf = packages.plan(customisation_layer=str(ready), contents=[packages.path("lib-1")])
    assert conf["customisation_layer"] == str(ready)
    assert every(conf) == ["lib-1", "other-1", "tool-1"]
    assert [*write(conf)[-1]] == ["./opt", "./run"]
    with pytest.raises(ConfError, match="extraCommands: changes a customisation layer"):
        packages.plan(customisation_layer=str(ready), extraCommands="true")


def test_path_that_the_graph_does_not_have(packages: Packages) -> None:
    """A graph of other paths would yield an image with references missing."""
    stray = Path(packages.path("stray-1"))
    stray.mkdir()
    with pytest.raises(StreamImageError) as caught:
        packages.plan(contents=[str(stray)])
    assert "contents[0]" in str(caught.value)
    assert str(stray) in str(caught.value)


def test_path_that_only_the_graph_has(packages: Packages) -> None:
    """A path of the closure that is missing on disk is reported as the closure's, not by layer."""
    gone = packages.path("lib-1")
    shutil.rmtree(gone)
    with pytest.raises(ConfError) as caught:
        packages.plan(contents=[packages.path("app-1")])
    assert caught.value.faults == (("the closure", f"{gone}: no such file"),)


def test_without_graph_and_nix_paths_stand_alone(
    packages: Packages, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Any directories can be made into an image, without a source for their references."""
    monkeypatch.setenv("PATH", "/nonexistent")
    conf = packages.plan(references_graph=None, contents=[packages.path("app-1")])
    assert every(conf) == ["app-1"]


def test_without_store_paths(packages: Packages) -> None:
    """For a host that mounts its store, the image has the links but no store paths."""
    conf = packages.plan(contents=[packages.path("app-1")], includeStorePaths=False)
    (top,) = write(conf)
    assert "./bin/app" in top
    assert not [name for name in top if "store" in name]


def test_no_contents_at_all(packages: Packages) -> None:
    """An image without contents has one layer, the empty root."""
    (top,) = write(packages.plan())
    assert [*top] == ["."]


@dataclass(frozen=True)
class Derived:
    """The two derivations that dockerTools makes of an image, in the references graph."""

    base: str
    layer: str

    @property
    def roots(self) -> dict[str, list[str]]:
        """The keys of a specification that say so."""
        both = [self.base, self.layer]
        return {"roots": both, "unshipped": both}


@pytest.fixture
def derived(packages: Packages) -> Derived:
    """Put dockerTools' derivations for an image of `app-1` into the references graph."""
    base = packages.add("app-base.json", {"x": "1"}, ["app-1"])
    return Derived(
        base=base, layer=packages.add("app-customisation-layer", {"x": "x" * 15}, ["app-1"])
    )


def test_auto_splits_as_with_the_derivations_of_dockertools(tmp_path: Path) -> None:
    """A tenth of large closures had other layers than the same image of nixpkgs."""
    packages = Packages(tmp_path)
    packages.add("lib-1", {"x": "x" * 20})
    packages.add("tool-1", {"x": "x" * 50}, ["lib-1"])
    app = packages.add("app-1", {"x": "x" * 80}, ["tool-1", "lib-1"])
    keys: dict[str, Any] = {"labels": {"app": app}, "layering": "auto", "maxLayers": 3}
    alone = names(packages.plan(**keys))
    assert [sorted(layer) for layer in alone] == [["lib-1", "tool-1"], ["app-1"]]
    base = packages.add("app-base.json", {"x": "1"}, ["app-1"])
    layer = packages.add("app-customisation-layer", {"x": "x" * 15}, ["app-1"])
    # `app-1` becomes primary first and leaves the two in another layer; `tool-1` would be a third.
    conf = packages.plan(**keys, unshipped=[base, layer])
    assert [sorted(layer) for layer in names(conf)] == [["app-1", "lib-1", "tool-1"]]
    assert packages.plan(labels=keys["labels"], unshipped=[base]) == packages.plan(
        labels=keys["labels"]
    )


def test_auto_counts_a_layer_that_no_store_has(packages: Packages) -> None:
    """Links are a recipe in the conf; nixpkgs counts the directory with the layer made of them."""
    packages.add("big-1", {"x": "x" * 15000}, ["lib-1"])
    content = packages.add("content-1", {"bin/run": "x" * 20000}, ["big-1"])
    counted = {"roots": [], "unshipped": ["customisation_layer"]}
    keys: dict[str, Any] = {"contents": [content], "layering": "auto", "maxLayers": 3}
    # The layer has more than 10,240 bytes. `content-1` becomes primary first, and leaves it alone;
    # `big-1` would make a third layer.
    assert [sorted(layer) for layer in names(packages.plan(**keys))] == [
        ["big-1", "lib-1"],
        ["content-1"],
    ]
    (layer,) = names(packages.plan(**keys, **counted))
    assert sorted(layer) == ["big-1", "content-1", "lib-1"]
    assert packages.plan(roots=[], unshipped=["customisation_layer"])["store_layers"] == []


@pytest.mark.parametrize("layering", ["stable", "auto", "popularity"])
def test_what_an_unshipped_path_refers_to_is_shipped(
    packages: Packages, derived: Derived, layering: str
) -> None:
    """The derivations are the only roots of nixpkgs' graph, and in no layer themselves."""
    conf = packages.plan(**derived.roots, layering=layering)
    assert every(conf) == ["app-1", "lib-1", "tool-1"]
    wanted = packages.plan(roots=[packages.path("app-1")], layering=layering)
    assert layering == "auto" or conf == wanted
    assert every(packages.plan(roots=[])) == []


@pytest.mark.parametrize("layering", ["stable", "single"])
def test_known_hashes_of_store_paths_are_in_the_conf(packages: Packages, layering: str) -> None:
    """Without them, a machine that did not make an image would hash all of it to know its digests."""
    app, tool, lib = (packages.path(name) for name in ("app-1", "tool-1", "lib-1"))
    keys: dict[str, Any] = {"contents": [app], "layering": layering, "tag": None}
    plain = packages.plan(**keys)
    assert "store_path_hashes" not in plain
    path = packages.directory / "graph.json"
    graph = json.loads(path.read_bytes())
    # Nix's notations differ, and the conf has one. What is not in the image has no hash there.
    empty = hashlib.sha256(b"")
    stated = {app: f"sha256:{empty.hexdigest()}", tool: f"sha256:{EMPTY_BASE32}"}
    stated[packages.path("other-1")] = stated[app]
    for item in graph:
        if item["path"] in stated:
            item["narHash"] = stated[item["path"]]
    path.write_text(json.dumps(graph[::-1]), "utf-8")
    planned = packages.plan(**keys)
    sri = f"sha256-{base64.b64encode(empty.digest()).decode()}"
    assert list(planned.pop("store_path_hashes").items()) == [
        (found, sri) for found in sorted([app, tool])
    ]
    assert lib in repr(planned)
    # What is known of an image does not change it, nor its tag.
    assert planned == plain


def test_unshipped_paths_are_not_in_the_database(packages: Packages, derived: Derived) -> None:
    """Nix in the container would take a missing path for a valid one."""
    graph = packages.directory / "graph.json"
    known = json.loads(graph.read_bytes())
    for number, item in enumerate(known):
        item["narHash"] = f"sha256:{number:064x}"
    graph.write_text(json.dumps(known), "utf-8")
    conf = packages.plan(**derived.roots, includeNixDB=True)
    recorded = conf["customisation_layer"]["nix_database"]["objects"]
    assert sorted(name_of(item["path"]) for item in recorded) == every(conf)


@NEEDS_SANDBOX
def test_mentions_beside_given_roots(packages: Packages) -> None:
    """The environment of a shell names its outputs, which nobody has built."""
    gone, tool = packages.path("gone-1"), packages.path("tool-1")
    other = Path(packages.path("unlisted-1"))
    other.mkdir()
    keys: dict[str, Any] = {
        "config": {"Env": [f"out={gone}", f"PATH={tool}/bin"], "User": "0"},
        "extraCommands": f"ln -s {other} other",
        "tag": "1",
    }
    with pytest.raises(ConfError, match=r"is not in .*graph\.json") as caught:
        packages.plan(**keys)
    places = [fault.place for fault in caught.value.faults]
    assert places == ["the customisation layer", "config.Env[0]"]
    conf = packages.plan(roots=[packages.path("other-1")], **keys)
    assert every(conf) == ["lib-1", "other-1", "tool-1"]
    assert conf["config"]["Env"][0] == f"out={gone}"


@pytest.mark.parametrize("key", ["roots", "unshipped"])
def test_given_paths_that_the_graph_does_not_have(packages: Packages, key: str) -> None:
    """Only mentions are passed over; a root without its closure would be an incomplete image."""
    gone = packages.path("gone-1")
    with pytest.raises(ConfError) as caught:
        packages.plan(**{"roots": [], key: [gone]})
    (fault,) = caught.value.faults
    assert fault.place == f"{key}[0]"
    assert "list the closure of every wanted path" in fault.message
    Path(gone).mkdir()
    with pytest.raises(ConfError, match=r"contents\[0\]: .*-gone-1 is not in"):
        packages.plan(roots=[], contents=[gone])


def test_contents_of_links_beside_given_roots(packages: Packages) -> None:
    """As in nixpkgs, the image has no directory of links, such as buildEnv makes."""
    links = Path(packages.add("links-1", {}, ["app-1"]))
    (links / "bin").mkdir(parents=True)
    (links / "bin" / "app").symlink_to(f"{packages.path('app-1')}/bin/app")
    needed = ["app-1", "lib-1", "tool-1"]
    assert every(packages.plan(contents=[str(links)], roots=[])) == needed
    assert every(packages.plan(contents=[str(links)])) == [*needed[:2], "links-1", *needed[2:]]


@NEEDS_SANDBOX
def test_time_of_the_customisation_layer(packages: Packages, tmp_path: Path) -> None:
    """With its time, the layer is the one that nixpkgs' builder packs with GNU tar."""
    app = packages.path("app-1")
    conf = packages.plan(
        contents=[app],
        extraCommands="mkdir -m 0700 opt; echo $SOURCE_DATE_EPOCH > opt/epoch",
        customisation_mtime="@315532800",
        mtime="2024-01-31",
        tag="1",
    )
    assert conf["customisation_mtime"] == "1980-01-01T00:00:00+00:00"
    root = tmp_path / "root"
    for directory, mode in {"": 0o755, "bin": 0o755, "etc": 0o755, "opt": 0o700}.items():
        (root / directory).mkdir()
        (root / directory).chmod(mode)
    for link in "bin/app", "etc/app.conf":
        (root / link).symlink_to(f"{app}/{link}")
    (root / "opt/epoch").write_text("315532800\n", "utf-8")
    (root / "opt/epoch").chmod(0o644)
    packed = subprocess.run(
        [
            "tar", "--sort=name", "--owner=0", "--group=0", "--numeric-owner", "--mtime=@315532800",
            "--hard-dereference", "--format=gnu", "-C", root, "-c", ".",
        ],
        check=True, capture_output=True,
    ).stdout  # fmt: skip
    *below, top = stream.write_image(
        stream.parse_conf(json.dumps(conf).encode()), io.BytesIO()
    ).layers
    assert top.diff_id == f"sha256:{hashlib.sha256(packed).hexdigest()}"
    usual = {**conf, "customisation_mtime": conf["mtime"]}
    image = stream.write_image(stream.parse_conf(json.dumps(usual).encode()), io.BytesIO())
    assert [*image.layers[:-1]] == below
    assert image.layers[-1].diff_id != top.diff_id


# ---- layers


@pytest.mark.parametrize("layering", ["stable", "auto", "popularity"])
@pytest.mark.parametrize("count", [0, 1, 4, 5, 6, 20])
def test_no_path_is_lost(tmp_path: Path, layering: str, count: int) -> None:
    """With 0, budget - 1, budget and budget + 1 paths, each path is in exactly one layer."""
    packages = Packages(tmp_path)
    (tmp_path / "graph.json").write_text("[]", "utf-8")
    for number in range(count):
        packages.add(f"p-{number}", {"x": "x" * number}, [f"p-{number - 1}"] if number else [])
    contents = [packages.path(f"p-{count - 1}")] if count else []
    conf = packages.plan(contents=contents, layering=layering, maxLayers=6, conflicts="first")
    assert every(conf) == sorted(f"p-{number}" for number in range(count))
    assert len(conf.get("store_layers", ())) <= 5


def test_two_layers_are_enough(packages: Packages) -> None:
    """The minimum of maxLayers is 2: a layer for all store paths, and the customisation layer."""
    conf = packages.plan(contents=[packages.path("app-1")], maxLayers=2)
    assert len(write(conf)) == 2
    assert every(conf) == ["app-1", "lib-1", "tool-1"]


def test_last_layer_of_popularity_holds_the_rest(packages: Packages) -> None:
    """Paths without a layer of their own share the last one."""
    conf = packages.plan(contents=[packages.path("app-1")], maxLayers=3, layering="popularity")
    assert names(conf) == [["lib-1"], ["tool-1", "app-1"]]


def test_pipeline_wins(packages: Packages) -> None:
    """A layeringPipeline overrides layering."""
    app = packages.path("app-1")
    program = [["subcomponent_out", [packages.path("tool-1")]], ["flatten"]]
    conf = packages.plan(contents=[app], layeringPipeline=program, layering="auto")
    assert [sorted(layer) for layer in names(conf)] == [["lib-1", "tool-1"], ["app-1"]]


@pytest.mark.parametrize("most", [1, 0, 2, 3])
def test_pipeline_is_not_limited(packages: Packages, base: Path, most: int) -> None:
    """As in dockerTools, a pipeline decides by itself how many layers to make."""
    program = [["popularity_contest"]]
    app = packages.path("app-1")
    conf = packages.plan(
        contents=[app], layeringPipeline=program, maxLayers=most, fromImage=str(base)
    )
    assert names(conf) == [["lib-1"], ["tool-1"], ["app-1"]]


def test_more_layers_than_docker_allows(tmp_path: Path) -> None:
    """A pipeline without a limit easily makes an image that no daemon can load."""
    packages = Packages(tmp_path)
    for number in range(125):
        packages.add(f"p-{number}", {"x": ""}, [f"p-{number - 1}"] if number else [])
    warnings: list[str] = []
    for last in "123", "124":
        spec = packages.spec(
            references_graph=f"{tmp_path}/graph.json",
            labels={"path": packages.path(f"p-{last}")},
            layeringPipeline=[["popularity_contest"]],
        )
        planned = plan(parse_spec(json.dumps(spec).encode()), warn=warnings.append)
        assert len(planned.conf.store_layers) == int(last) + 1
    assert len(warnings) == 1
    assert "spec.json: 126 layers: docker allows at most 125" in warnings[0]


def test_pipeline_with_a_path_that_is_not_there(packages: Packages) -> None:
    """A typing error in a path would silently make one large layer."""
    app, gone = packages.path("app-1"), packages.path("gone-1")
    program = [["split_paths", [app, gone, {"children_of": gone}]], ["flatten"]]
    spec = packages.spec(contents=[app], layeringPipeline=program)
    warnings: list[str] = []
    document = plan(parse_spec(json.dumps(spec).encode()), warn=warnings.append).document
    assert every(document) == ["app-1", "lib-1", "tool-1"]
    ignored = f"spec.json: layeringPipeline: ignoring {gone}: not in the closure"
    assert warnings == [ignored]


def test_pipeline_with_a_name_for_a_path(packages: Packages) -> None:
    """A text that does not look like a path, such as a package's name, is reported as well."""
    app = packages.path("app-1")
    program = [["split_paths", ["app"]], ["over", "rest", ["popularity_contest"]], ["flatten"]]
    spec = packages.spec(contents=[app], layeringPipeline=program)
    warnings: list[str] = []
    plan(parse_spec(json.dumps(spec).encode()), warn=warnings.append)
    assert warnings == ["spec.json: layeringPipeline: ignoring app: not in the closure"]


@pytest.fixture
def base(packages: Packages) -> Path:
    """Make an image with three layers."""
    conf = packages.plan(
        name="base", tag="1", contents=[packages.path("tool-1")], layering="popularity"
    )
    assert len(conf["store_layers"]) == 2
    path = packages.directory / "base.tar"
    with path.open("wb") as file:
        stream.write_image(stream.parse_conf(json.dumps(conf).encode()), file)
    return path


def test_base_layers_count(packages: Packages, base: Path) -> None:
    """With a base the image has exactly maxLayers layers, and no more."""
    app = packages.path("app-1")
    conf = packages.plan(contents=[app], fromImage=str(base), maxLayers=6, layering="popularity")
    assert len(write(conf)) == 6
    assert len(names(conf)) == 2


def test_shadow_setup_leaves_the_users_of_the_base(packages: Packages) -> None:
    """`shadowSetup` adds missing files and does not lock out the users of the base."""
    layer = tar_of([("etc/passwd", b"me:x:5:5::/:/bin/sh\n")])
    path = packages.directory / "users.tar"
    path.write_bytes(Base(layers=[layer]).docker_archive())
    conf = packages.plan(fromImage=str(path), contents=["shadowSetup"])
    made = write(conf)[-1]
    assert "./etc/shadow" in made
    assert "./etc/passwd" not in made


def test_base_leaves_no_layer(packages: Packages, base: Path) -> None:
    """As in dockerTools, the layers of the base and the customisation layer count."""
    with pytest.raises(ConfError, match=r"maxLayers: is 4, but the base image takes 3") as caught:
        packages.plan(contents=[packages.path("app-1")], fromImage=str(base), maxLayers=4)
    assert caught.value.faults[0].place == "maxLayers"


@pytest.mark.parametrize("keys", [{}, {"includeStorePaths": False}])
def test_base_leaves_no_layer_for_the_customisation(
    packages: Packages, base: Path, keys: dict[str, Any]
) -> None:
    """`maxLayers` applies even if no store path is added."""
    assert len(write(packages.plan(fromImage=str(base), maxLayers=4, **keys))) == 4
    with pytest.raises(ConfError, match=r"maxLayers: is 3, but the base image takes 3"):
        packages.plan(fromImage=str(base), maxLayers=3, **keys)


def test_the_budget_is_checked_before_commands_run(packages: Packages, base: Path) -> None:
    """Without it commands of minutes would run for a plan that cannot be."""
    with pytest.raises(ConfError, match="maxLayers: is 3, but the base image takes 3"):
        packages.plan(fromImage=str(base), maxLayers=3, extraCommands="exit 3")


def test_paths_of_the_base_take_no_layers(packages: Packages, base: Path) -> None:
    """Paths that are skipped because the base contains them are not planned."""
    conf = packages.plan(
        contents=[packages.path("app-1")], fromImage=str(base), maxLayers=5, skip_base_paths=True
    )
    assert names(conf) == [["app-1"]]


@pytest.mark.parametrize(
    ("keys", "named"),
    [
        ({"layering": "auto"}, "layering auto"),
        ({"layering": "popularity"}, "layering popularity"),
        ({"layeringPipeline": [["popularity_contest"]]}, "layeringPipeline"),
    ],
)
def test_previous_layers_that_nothing_keeps(
    packages: Packages, keys: dict[str, Any], named: str
) -> None:
    """A user who passes the previous build expects smaller pushes; a warning says there are none."""
    spec = packages.spec(contents=[packages.path("app-1")], **keys)
    warnings: list[str] = []
    plan(parse_spec(json.dumps(spec).encode()), [], warn=warnings.append)
    assert warnings == [
        f"spec.json: {named} does not keep layers of the previous build; use layering stable"
    ]
    del warnings[:]
    plan(parse_spec(json.dumps(spec).encode()), warn=warnings.append)
    assert not warnings


def test_previous_layers_stay(packages: Packages) -> None:
    """Given the previous build, layers that are still valid stay the same."""
    for number in range(12):
        packages.add(f"data-{number}", {f"share/{number}": "x" * 300_000 * number})
    contents = [packages.path(f"data-{number}") for number in range(12)]
    before = packages.plan(contents=contents, maxLayers=5)["store_layers"]
    packages.add("late-1", {"share/late": "late"})
    contents.append(packages.path("late-1"))
    after = packages.plan(previous=before, contents=contents, maxLayers=5)["store_layers"]
    assert len(before) == 4
    assert sum(layer in before for layer in after) == 3


def test_order_of_keys_and_contents_decides_nothing(packages: Packages) -> None:
    """Equal specifications yield the same conf, however they are written."""
    contents = [packages.path("app-1"), packages.path("other-1")]
    one = packages.plan(contents=contents)
    graph = packages.directory / "graph.json"
    graph.write_text(json.dumps(json.loads(graph.read_bytes())[::-1]), "utf-8")
    other = packages.plan(contents=contents)
    assert one == other


# ---- the tag


def tag(conf: Mapping[str, Any]) -> str:
    """Return the tag of a conf."""
    name, _, found = conf["repo_tag"].rpartition(":")
    assert name == "test"
    return str(found)


def test_derived_tag_is_like_a_store_paths_hash(packages: Packages) -> None:
    """A derived tag is 32 digits of Nix32, the same each time."""
    conf = packages.plan(contents=[packages.path("app-1")])
    assert re.fullmatch(f"[{DIGITS}]{{32}}", tag(conf))
    assert conf == packages.plan(contents=[packages.path("app-1")])


@pytest.mark.parametrize(
    "change",
    [
        {"name": "test", "config": {"Cmd": ["/bin/app"]}},
        {"config": {"Cmd": []}},
        {"created": "now"},
        {"mtime": "2024-01-01T00:00:00Z"},
        {"customisation_mtime": "@315532800"},
        {"uid": 5},
        {"architecture": "arm64"},
        pytest.param({"extraCommands": "true"}, marks=NEEDS_SANDBOX),
        pytest.param({"fakeRootCommands": "true"}, marks=NEEDS_FAKEROOT),
        {"directories": {"/tmp": "1777"}},
        {"layering": "popularity"},
        {"labels": {"a": "b"}},
        {"contents": ["fakeNss"]},
    ],
)
def test_derived_tag_changes_with(packages: Packages, change: dict[str, Any]) -> None:
    """A different image must not get the same tag."""
    app = {"contents": [packages.path("app-1")]}
    assert tag(packages.plan(**app)) != tag(packages.plan(**{**app, **change}))


@pytest.mark.parametrize(
    "same",
    [
        {"created": "1970-01-01T00:00:01Z"},
        {"created": "@1", "mtime": "1970-01-01T02:00:01+02:00"},
        {"customisation_mtime": "@1"},
    ],
)
def test_derived_tag_does_not_know_how_times_are_given(
    packages: Packages, same: dict[str, Any]
) -> None:
    """A default that is written out is the same image, so the same tag."""
    assert packages.plan(**same) == packages.plan()


def test_times_beside_now(packages: Packages, monkeypatch: pytest.MonkeyPatch) -> None:
    """A time that happens to be that of planning must stay when the image is streamed later."""

    class Clock(datetime):
        @classmethod
        def now(cls, tz: tzinfo | None = None) -> "Clock":
            return cls(2024, 1, 31, tzinfo=tz)

    monkeypatch.setattr("stream.config.datetime", Clock)
    conf = packages.plan(created="now", mtime="20240131", customisation_mtime="20240131")
    assert (conf["created"], conf["mtime"]) == ("now", "2024-01-31T00:00:00+00:00")


def test_derived_tag_changes_with_what_has_no_hash(packages: Packages) -> None:
    """A path whose name does not identify its content is read."""
    plain = packages.directory / "files"
    plain.mkdir()
    (plain / "x").write_text("one", "utf-8")
    before = tag(packages.plan(copyToRoot=[str(plain)]))
    assert tag(packages.plan(copyToRoot=[str(plain)])) == before
    (plain / "x").write_text("two", "utf-8")
    assert tag(packages.plan(copyToRoot=[str(plain)])) != before


def test_files_behind_a_derived_tag_are_read_once(
    packages: Packages, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An image that has not changed would be read as a whole to find its tag, and then not at all."""
    monkeypatch.setattr("stream.digests.SETTLING_NS", -(10**12))  # files may be new
    digests = stream.DigestCache(str(packages.directory / "cache"))
    copied, linked = packages.directory / "copied", packages.directory / "store" / "linked"
    for directory in copied, linked:
        directory.mkdir()
        (directory / directory.name).write_text("one", "utf-8")
    keys = {"contents": [str(linked)], "copyToRoot": [str(copied)], "references_graph": None}
    data = json.dumps({k: v for k, v in packages.spec(**keys).items() if v is not None}).encode()

    def derived() -> str:
        return tag(plan(parse_spec(data, name="spec.json"), digests=digests).document)

    def refuse(*_: object) -> None:
        raise AssertionError("read again")

    first = derived()
    with monkeypatch.context() as patched:
        patched.setattr("stream.known.hash_layer", refuse)
        assert derived() == first
    for directory in copied, linked:
        (directory / directory.name).write_text("two", "utf-8")
        assert derived() != first
        (directory / directory.name).write_text("one", "utf-8")
        assert derived() == first


def test_derived_tag_changes_with_what_a_copied_link_leads_to(packages: Packages) -> None:
    """A link to a directory beside a content counts as a copy of that directory."""
    content, beside = packages.directory / "content", packages.directory / "beside"
    content.mkdir()
    beside.mkdir()
    (content / "etc").symlink_to("../beside")
    (beside / "x").write_text("one", "utf-8")
    before = packages.plan(copyToRoot=[str(content)])
    (beside / "x").write_text("two", "utf-8")
    after = packages.plan(copyToRoot=[str(content)])
    assert tag(before) != tag(after)
    kept: dict[str, Any] = {"copyToRoot": [str(content)], "keepContentsDirlinks": True}
    before = packages.plan(**kept)
    (beside / "x").write_text("three", "utf-8")
    assert tag(packages.plan(**kept)) == tag(before)


def test_derived_tag_knows_what_is_copied_by_its_content(packages: Packages) -> None:
    """Otherwise each checkout of the same sources would have a tag of its own."""
    for name in ("one", "two"):
        (packages.directory / name).mkdir()
        (packages.directory / name / "x").write_text("x", "utf-8")
    one, two = (str(packages.directory / name) for name in ("one", "two"))
    before = tag(packages.plan(copyToRoot=[one, "fakeNss"]))
    assert tag(packages.plan(copyToRoot=[two, "fakeNss"])) == before
    assert tag(packages.plan(copyToRoot=[two, "shadowSetup"])) != before
    (packages.directory / "two" / "x").chmod(0o755)
    assert tag(packages.plan(copyToRoot=[two, "fakeNss"])) != before


def test_derived_tag_does_not_change_with_the_clock(
    packages: Packages, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An image created `now` has the same tag each time, whatever the names of its paths."""
    plain = packages.directory / "store" / "plain"
    plain.mkdir()
    keys: dict[str, Any] = {"created": "now", "contents": [str(plain)], "references_graph": None}
    before = packages.plan(**keys)

    class Later(datetime):
        @classmethod
        def now(cls, tz: tzinfo | None = None) -> "Later":
            return cls(2100, 1, 1, tzinfo=tz)

    monkeypatch.setattr("stream.config.datetime", Later)
    assert tag(packages.plan(**keys)) == tag(before)


def test_derived_tag_knows_the_base_by_its_content(packages: Packages, base: Path) -> None:
    """The same base under another name yields the same tag; a different base does not."""
    copy = base.with_name("copy.tar")
    copy.write_bytes(base.read_bytes())
    before = tag(packages.plan(fromImage=str(base)))
    assert tag(packages.plan(fromImage=str(copy))) == before
    other = packages.plan(tag="1", contents=[packages.path("other-1")])
    with base.open("wb") as file:
        stream.write_image(stream.parse_conf(json.dumps(other).encode()), file)
    assert tag(packages.plan(fromImage=str(base))) != before


def test_now_is_the_time_of_streaming(packages: Packages) -> None:
    """As in dockerTools, the conf contains `now`, and each image its time of creation."""
    conf = packages.plan(created="now", mtime="now")
    assert (conf["created"], conf["mtime"]) == ("now", "now")


# ---- the command


def test_plan_into_stream(packages: Packages) -> None:
    """`plan SPEC | stream-image -` is the way from a specification to an image."""
    spec = packages.directory / "spec.json"
    app = packages.path("app-1")
    spec.write_text(json.dumps(packages.spec(contents=[app], tag="v1")), "utf-8")
    planned = run("plan", spec)
    assert planned.returncode == 0, planned.stderr
    streamed = run("-", stdin=planned.stdout)
    assert streamed.returncode == 0, streamed.stderr
    with tarfile.open(fileobj=io.BytesIO(streamed.stdout)) as tar:
        content = tar.extractfile("manifest.json")
        assert content is not None
        assert json.load(content)[0]["RepoTags"] == ["test:v1"]


def test_a_tag_given_to_plan(packages: Packages) -> None:
    """A build's tag is the hash of where its output goes, which no specification can contain."""
    spec = json.dumps(packages.spec(tag="1")).encode()
    done = run("plan", "-", "--repo-tag", "other:2", stdin=spec)
    assert json.loads(done.stdout)["repo_tag"] == "other:2"
    refused = run("plan", "-", "--repo-tag", "other:", stdin=spec)
    assert (refused.returncode, refused.stdout) == (2, b"")


@pytest.mark.parametrize("output", ["conf.json", "/dev/null"])
def test_plan_to_a_file_prints_the_tag(packages: Packages, tmp_path: Path, output: str) -> None:
    """Without it a derived tag would have to be looked up in the conf, by another program."""
    spec = json.dumps(packages.spec(contents=[packages.path("app-1")])).encode()
    planned = json.loads(run("plan", "-", stdin=spec).stdout)
    done = run("plan", "-", "-o", tmp_path / output, stdin=spec)
    assert done.stdout.decode() == f"{planned['repo_tag']}\n"


def test_plan_to_standard_output_by_a_name(packages: Packages) -> None:
    """Without it a line with the tag would follow the conf, which no parser accepts."""
    spec = json.dumps(packages.spec()).encode()
    done = run("plan", "-", "-o", "/dev/stdout", stdin=spec)
    assert json.loads(done.stdout)["repo_tag"]


def test_plan_to_a_file_with_previous(packages: Packages) -> None:
    """The conf of a build is the starting point of the next."""
    spec, conf = packages.directory / "spec.json", packages.directory / "conf.json"
    spec.write_text(json.dumps(packages.spec(contents=[packages.path("app-1")])), "utf-8")
    assert run("plan", "-", "-o", conf, stdin=spec.read_bytes()).returncode == 0
    again = run("plan", spec, "--previous", conf)
    assert json.loads(again.stdout) == json.loads(conf.read_bytes())


@pytest.mark.parametrize("content", ["{", "[]", '{"x": 1}', '{"store_layers": 1}'])
def test_previous_that_is_not_a_conf(packages: Packages, content: str) -> None:
    """A wrong file must not be read as a build without layers."""
    spec, old = packages.directory / "spec.json", packages.directory / "old.json"
    spec.write_text(json.dumps(packages.spec()), "utf-8")
    old.write_text(content, "utf-8")
    ended = run("plan", spec, "--previous", old)
    assert ended.returncode == 2
    assert str(old).encode() in ended.stderr
    assert not ended.stdout


@pytest.mark.parametrize(
    "command", [["plan", "-", "--previous", "-"], ["explain", "-", "--against", "-"]]
)
def test_two_documents_on_standard_input(command: list[str]) -> None:
    """The second read of standard input would be empty, and the wrong file would be blamed."""
    ended = run(*command, stdin=b"{}")
    assert ended.returncode == 2
    assert b"only one can be standard input" in ended.stderr


def test_wrong_specification_leaves_no_file(packages: Packages) -> None:
    """A half-written conf might be streamed."""
    conf = packages.directory / "conf.json"
    ended = run("plan", "-", "-o", conf, stdin=b'{"name": "x", "contents": ["/nowhere"]}')
    assert ended.returncode == 2
    assert b"contents[0]" in ended.stderr
    assert not conf.exists()


def test_conf_given_to_plan() -> None:
    """Planning a conf is reported on one line, not key by key."""
    ended = run("plan", "-", stdin=b'{"repo_tag": "x:1", "store_layers": []}')
    assert ended.returncode == 2
    assert ended.stderr == (
        b"stream-image: standard input: is already a conf; nothing to plan (run: stream-image FILE)\n"
    )


@pytest.mark.parametrize(
    "words",
    [
        ["-"],
        ["-", "--repo-tag", "x:1"],
        ["inspect", "--json", "-"],
        ["digests", "-"],
        ["export", "-"],
        ["merge", "-"],
    ],
    ids=" ".join,
)
def test_specification_where_a_conf_will_do(packages: Packages, words: list[str]) -> None:
    """Without it each image would need two commands, or a specification another image by itself."""
    packages.add("hello", {"bin/hello": "hello"}, ["lib"])
    packages.add("lib", {"lib/a": "a"})
    spec = packages.spec(contents=[packages.path("hello")], layering="stable")
    planned = run("plan", "-", stdin=json.dumps(spec).encode())
    expected = run(*words, stdin=planned.stdout)
    ended = run(*words, stdin=json.dumps(spec).encode())
    assert (expected.returncode, ended.returncode) == (0, 0), ended.stderr
    assert expected.stdout
    assert ended.stdout == expected.stdout


def test_archive_verified_against_a_specification(packages: Packages, tmp_path: Path) -> None:
    """Without it verify would need the conf that nobody keeps."""
    packages.add("hello", {"bin/hello": "hello"})
    spec, archive = tmp_path / "spec.json", tmp_path / "image.tar"
    spec.write_text(json.dumps(packages.spec(contents=[packages.path("hello")])), "utf-8")
    assert run(spec, "-o", archive).returncode == 0
    assert run("verify", archive, "--conf", spec).returncode == 0
    spec.write_text(json.dumps(packages.spec(contents=[], config={"Cmd": ["/x"]})), "utf-8")
    assert run("verify", archive, "--conf", spec).returncode == 1


def test_a_fault_of_a_specification_writes_nothing(packages: Packages) -> None:
    """A specification that cannot be planned must not yield an image."""
    ended = run("-", stdin=json.dumps(packages.spec(contents=["/nowhere"])).encode())
    assert ended.returncode == 2
    assert not ended.stdout
    assert b"standard input: contents[0]" in ended.stderr


# ---- explain


def explained(conf: Mapping[str, Any], *args: str | Path) -> dict[str, Any]:
    """Return the output of `explain --json` for a conf."""
    ended = run("explain", "-", "--json", *args, stdin=json.dumps(conf).encode())
    assert ended.returncode == 0, ended.stderr
    answer: dict[str, Any] = json.loads(ended.stdout)
    return answer


def warnings_of(conf: Mapping[str, Any]) -> list[str]:
    """Return the warnings printed while the image of `conf` is written."""
    done = run("-", "-q", "-o", os.devnull, stdin=json.dumps(conf).encode())
    assert done.returncode == 0, done.stderr
    return done.stderr.decode().splitlines()


@pytest.mark.slow
@NEEDS_SANDBOX
def test_links_to_what_is_in_no_layer(packages: Packages, base: Path) -> None:
    """A conf that lost store paths must not silently become a broken image."""
    app, tool = packages.path("app-1"), packages.path("tool-1")
    made = f"d={packages.directory}/store/made; mkdir -p .$d; touch .$d/x; ln -s $d/x x"
    conf = packages.plan(
        contents=[app], extraCommands=f"{made}; ln -s ..{tool} etc/tool; ln -s ../other y"
    )
    assert warnings_of(conf) == []
    warning = f"stream-image: warning: /bin/app: links into {app}, which is not in any layer"
    lost = {**conf, "store_layers": [[tool]]}
    advice = "; add it to store_layers, or mount the store where the image runs"
    assert warnings_of(lost) == [warning + advice]
    lost = {**conf, "store_layers": [[packages.path("other-1")]]}
    assert warnings_of(lost) == [f"{warning} (and 1 more like it){advice}"]
    # The base has tool-1.
    assert warnings_of({**lost, "from_image": str(base)}) == [warning + advice]
    kept = {**conf, "from_image": str(base), "skip_base_paths": True}
    assert warnings_of(kept) == []
    # An image for a host that mounts its store.
    assert warnings_of({**conf, "store_layers": []}) == []


def test_explain_sizes(packages: Packages, base: Path) -> None:
    """Sizes are those of the written layers and of the paths in them."""
    app = packages.path("app-1")
    conf = packages.plan(tag="1", contents=[app], fromImage=str(base), maxLayers=5)
    answer = explained(conf)
    image = stream.write_image(stream.parse_conf(json.dumps(conf).encode()), io.BytesIO())
    assert [layer["size"] for layer in answer["layers"]] == [layer.size for layer in image.layers]
    assert [layer["kind"] for layer in answer["layers"]] == [
        *3 * ["base"],
        "store",
        "customisation",
    ]
    (store,) = (layer for layer in answer["layers"] if layer["kind"] == "store")
    assert [item["path"] for item in store["store_paths"]] == conf["store_layers"][0]
    assert sum(item["size"] for item in store["store_paths"]) < store["size"]
    assert answer["size"] == sum(layer.size for layer in image.layers)


def test_explain_a_specification(packages: Packages) -> None:
    """A specification is planned, and its plan is shown."""
    contents = [packages.path("app-1")]
    answer = explained(packages.spec(contents=contents, layering="popularity"))
    conf = packages.plan(contents=contents, layering="popularity")
    paths = [[item["path"] for item in layer["store_paths"]] for layer in answer["layers"][:-1]]
    assert paths == conf["store_layers"]


def test_explain_a_conf_without_a_tag(packages: Packages) -> None:
    """Files that no layer depends on need not exist."""
    conf = packages.plan(tag="1", contents=[packages.path("app-1")])
    tagged = explained(conf)
    del conf["repo_tag"]
    assert explained(conf) == {**tagged, "repo_tag": "untagged"}


def test_explain_against_an_earlier_conf(packages: Packages) -> None:
    """Layers that exist already do not move; paths of the earlier build may be gone."""
    contents = [packages.path("app-1")]
    old = packages.plan(tag="1", contents=contents, layering="popularity")
    old["store_layers"].append([packages.path("gone-1")])
    earlier = packages.directory / "old.json"
    earlier.write_text(json.dumps(old), "utf-8")
    packages.add("app-2", {"bin/app": "app" * 99}, ["tool-1"])
    conf = packages.plan(tag="2", contents=[packages.path("app-2")], layering="popularity")
    answer = explained(conf, "--against", earlier)
    stays = {
        name_of(layer["store_paths"][0]["path"]): layer["stays"] for layer in answer["layers"][:-1]
    }
    assert stays == {"lib-1": True, "tool-1": True, "app-2": False}
    assert answer["moving_layers"] == 2  # one of them is the customisation layer
    assert answer["moving_bytes"] == sum(
        layer["size"] for layer in answer["layers"] if not layer["stays"]
    )


def test_explain_against_files_that_may_have_changed(packages: Packages) -> None:
    """Equal paths outside the store may have different content."""
    page = packages.directory / "page"
    page.mkdir()
    (page / "index.html").write_text("1", "utf-8")
    conf = packages.plan(tag="1", contents=[packages.path("app-1")], copyToRoot=[str(page)])
    earlier = packages.directory / "old.json"
    earlier.write_text(json.dumps(conf), "utf-8")
    layers = explained(conf, "--against", earlier)["layers"]
    assert [layer["stays"] for layer in layers[-2:]] == [True, None]
    ended = run("explain", "-", "--against", earlier, stdin=json.dumps(conf).encode())
    assert b" may move " in ended.stdout
    assert b": 0 of them move, 0 B; 1 may, " in ended.stdout


@NEEDS_SANDBOX
def test_explain_against_a_conf_that_says_the_same_otherwise(packages: Packages) -> None:
    """A former spelling in the earlier conf must not count as a change."""
    conf = packages.plan(tag="1", contents=[packages.path("app-1")], extraCommands="true")
    layer = conf["customisation_layer"]
    former = {"contents": layer["contents"], "extraCommands": layer["extra_commands"]}
    earlier = packages.directory / "old.json"
    old = {**conf, "customisation_layer": former, "uid": "0", "gid": 0}
    earlier.write_text(json.dumps(old), "utf-8")
    assert explained(conf, "--against", earlier)["moving_layers"] == 0


def test_explain_against_other_owners(packages: Packages) -> None:
    """The owner is part of each header, so a different one changes every store layer."""
    contents = [packages.path("app-1")]
    earlier = packages.directory / "old.json"
    earlier.write_text(json.dumps(packages.plan(tag="1", contents=contents)), "utf-8")
    conf = packages.plan(tag="1", contents=contents, uid=7)
    answer = explained(conf, "--against", earlier)
    assert not [layer for layer in answer["layers"] if layer["kind"] == "store" and layer["stays"]]


def test_explain_for_people(packages: Packages) -> None:
    """The table lists the layers; the total says on one line what moves."""
    earlier = packages.directory / "old.json"
    conf = packages.plan(tag="1", contents=[packages.path("app-1")])
    earlier.write_text(json.dumps({**conf, "repo_tag": f"test:{80 * '1'}"}), "utf-8")
    ended = run("explain", "-", "--against", earlier, stdin=json.dumps(conf).encode())
    assert b"app-1" in ended.stdout
    assert b"against test:%s: 0 of them move, 0 B\n" % (80 * b"1") in ended.stdout
    assert not ended.stderr


@pytest.mark.parametrize("deriver", ["1e3", "/elsewhere/x.drv", "STORE/x.drv"])
def test_database_of_a_graph_with_a_bad_path(packages: Packages, deriver: str) -> None:
    """Without it the plan would succeed, and only the image fail that is made from it."""
    app, lib = packages.path("app-1"), packages.path("lib-1")
    deriver = deriver.replace("STORE", f"{packages.directory}/store")
    graph = packages.directory / "registration"
    graph.write_text(
        f"{app}\nsha256:{'0' * 64}\n100\n{deriver}\n1\n{lib}\n{lib}\nsha256:{'0' * 64}\n100\n\n0\n"
    )
    with pytest.raises(ConfError) as caught:
        packages.plan(contents=[app], includeNixDB=True, references_graph=str(graph))
    (fault,) = caught.value.faults
    assert caught.value.name == str(graph)
    assert fault.place == "line 1"
    assert fault.message == f"{deriver!r} is not a store path in {packages.directory}/store"


# ---- one new layer


SINGLE = {"layering": "single", "conflicts": "last", "customisation_mtime": "@315532800"}


def test_single_layer(packages: Packages) -> None:
    """The one new layer has the layout of buildImage's: its own files, the directories above the
    store closed to all but root, and the closure, whose owner is not that of the own files.
    """
    app, tool, lib = (packages.path(name) for name in ("app-1", "tool-1", "lib-1"))
    conf = packages.plan(
        copyToRoot=[app, packages.path("other-1")],
        labels={"of": tool},
        owner={"uid": 5, "gid": 6},
        **SINGLE,
    )
    (layer,) = write(conf)
    own = ["./", "./bin/", "./bin/app", "./bin/other", "./etc/", "./etc/app.conf"]
    parts = f"{packages.directory}/store".split("/")
    above = ["." + "/".join(parts[:depth]) + "/" for depth in range(2, len(parts) + 1)]
    closure = sorted(
        [
            *(
                f"{path}{end}"[1:]
                for path, end in ((lib, "/"), (lib, "/lib/"), (lib, "/lib/libx.so"))
            ),
            *(f"{tool}{end}"[1:] for end in ("/", "/bin/", "/bin/tool")),
        ]
    )
    expected = [*own, *above, *closure]
    assert [entry + "/" * info.isdir() for entry, info in layer.items()] == expected
    assert {layer[name.rstrip("/")].mode for name in above} == {0o555}
    assert {(layer[name.rstrip("/") or "."].uid, layer[name.rstrip("/")].gid) for name in own} == {
        (5, 6)
    }
    assert {layer[name.rstrip("/")].uid for name in (*above, *closure)} == {0}
    assert {info.mtime for info in layer.values()} == {315532800}


@pytest.fixture
def tool_base(packages: Packages) -> str:
    """Return the archive of an image that has tool-1 and its closure in its store."""
    conf = packages.plan(contents=[packages.path("tool-1")], tag="1", name="base")
    archive = packages.directory / "base.tar"
    with archive.open("wb") as file:
        stream.write_image(stream.parse_conf(json.dumps(conf).encode()), file)
    return str(archive)


def test_single_layer_above_a_base(packages: Packages, tool_base: str) -> None:
    """What the base holds of the closure is not shipped again, nor are the store's directories
    changed.
    """
    app = packages.path("app-1")
    conf = packages.plan(labels={"of": app}, fromImage=tool_base, **SINGLE)
    assert [name_of(path) for path in conf["customisation_store_paths"]] == ["app-1"]
    *_, layer = write(conf)
    assert list(layer) == [
        ".",
        *(f"{app}{end}"[1:] for end in ("", "/bin", "/bin/app", "/etc", "/etc/app.conf")),
    ]
    by_hand = {**conf, "customisation_store_paths": [packages.path("tool-1"), app]}
    assert write(by_hand)[-1].keys() == layer.keys()


def test_single_layer_is_not_limited(packages: Packages, tmp_path: Path) -> None:
    """A base of 130 layers can be built on, as in dockerTools, with a warning that docker does not
    load the result.
    """
    layers = [tar_of([(f"f{number}", b"")]) for number in range(130)]
    (tmp_path / "many.tar").write_bytes(Base(layers=layers).docker_archive())
    warnings: list[str] = []
    spec = packages.spec(
        contents=[packages.path("app-1")], fromImage=str(tmp_path / "many.tar"), **SINGLE
    )
    planned = plan(parse_spec(json.dumps(spec).encode()), warn=warnings.append)
    assert len(warnings) == 1
    assert "131 layers: docker allows at most" in warnings[0]
    assert len(write(planned.document)) == 131


def ready(directory: Path, layer: bytes, checksum: str = "") -> str:
    """Make a ready-made customisation layer."""
    directory.mkdir()
    (directory / "layer.tar").write_bytes(layer)
    (directory / "checksum").write_text(checksum or hashlib.sha256(layer).hexdigest())
    return str(directory)


def test_single_layer_from_a_ready_one(packages: Packages, tmp_path: Path) -> None:
    """A layer whose commands ran in a Nix build gives the same image as a recipe."""
    packages.add("dir-1", {"opt/x": "1" * 700})
    app = packages.path("app-1")
    keys: dict[str, Any] = {"labels": {"of": app}, "tag": "1", **SINGLE}
    spec = packages.spec(copyToRoot=[packages.path("dir-1")], **keys)
    (tmp_path / "spec.json").write_text(json.dumps(spec))
    made = run("customise", str(tmp_path / "spec.json"), "-o", str(tmp_path / "layer"))
    assert made.returncode == 0, made.stderr
    del keys["conflicts"]
    conf = packages.plan(customisation_layer=str(tmp_path / "layer"), **keys)
    images = [
        stream.write_image(stream.parse_conf(json.dumps(conf).encode()), io.BytesIO())
        for conf in (conf, plan(parse_spec(json.dumps(spec).encode())).document)
    ]
    assert images[0].image_id == images[1].image_id
    assert "./opt/x" in write(conf)[0]


def test_single_layer_checks_a_ready_one(packages: Packages, tmp_path: Path) -> None:
    """A damaged file of the ready-made layer must not get into an image under a new digest."""
    layer = ready(tmp_path / "layer", tar_of([("./x", b"x")]), "ab" * 32)
    keys: dict[str, Any] = {"layering": "single", "labels": {"of": packages.path("app-1")}}
    conf = packages.plan(customisation_layer=layer, **keys)
    with pytest.raises(stream.errors.DigestMismatch):
        write(conf)


def test_single_layer_keeps_its_own_store_paths(packages: Packages, tmp_path: Path) -> None:
    """A store path that the commands left in the layer, perhaps changed, stays as they left it."""
    app = packages.path("app-1")
    layer = ready(tmp_path / "layer", tar_of([(f".{app}", b"mine"), ("./z", bytes(512))]))
    conf = packages.plan(customisation_layer=layer, layering="single", labels={"of": app})
    (found,) = write(conf)
    assert found[f".{app}"].isfile()
    assert not any(name.startswith(f"{app[1:]}") for name in found)
    assert f"{packages.path('lib-1')}/lib/libx.so"[1:] in found
    assert found["./z"].size == 512


def test_single_layer_is_explained(packages: Packages) -> None:
    """What moves from build to build depends on the store paths in the layer."""
    keys: dict[str, Any] = {"copyToRoot": [packages.path("other-1")], "tag": "1", **SINGLE}
    conf = packages.plan(labels={"of": packages.path("app-1")}, **keys)
    smaller = packages.plan(labels={"of": packages.path("tool-1")}, **keys)
    read = stream.parse_conf(json.dumps(conf).encode())
    (layer,) = stream.explain(read, conf).layers
    assert [name_of(path) for path, _ in layer.paths] == [
        name_of(path) for path in sorted(map(packages.path, ("app-1", "lib-1", "tool-1")))
    ]
    assert layer.stays
    assert not stream.explain(read, smaller).layers[0].stays


def test_single_layer_with_a_database(packages: Packages, tmp_path: Path) -> None:
    """What is copied from the store is a GC root if the image has it, and the layer that `customise`
    makes leaves the closure to the image.
    """
    app = packages.path("app-1")
    graph = json.loads((tmp_path / "graph.json").read_bytes())
    hashed = [{**item, "narHash": "sha256:" + "0" * 64} for item in graph]
    (tmp_path / "graph.json").write_text(json.dumps(hashed))
    spec = packages.spec(
        copyToRoot=[app, packages.path("other-1")], roots=[app], includeNixDB=True, **SINGLE
    )
    document = plan(parse_spec(json.dumps(spec).encode())).document
    assert document["customisation_layer"]["nix_database"]["roots"] == [app]
    (tmp_path / "conf.json").write_text(json.dumps(document))
    made = run("customise", str(tmp_path / "conf.json"), "-o", str(tmp_path / "layer"))
    assert made.returncode == 0, made.stderr
    with tarfile.open(tmp_path / "layer" / "layer.tar") as tar:
        own = tar.getnames()
    assert [name for name in own if not name.startswith(".")] == []
    (layer,) = write(document)
    assert f"{app}/bin/app"[1:] in layer
    assert layer.keys() > {*own}

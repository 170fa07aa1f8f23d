"""Closures from a real Nix, and its hashes and sizes compared with ours."""

import io
import json
import os
import subprocess
from dataclasses import replace
from pathlib import Path

import pytest

from stream.config import parse_conf
from stream.errors import ConfError, NixError
from stream.nix import query as asking
from stream.nix.hashes import compress_hash, decode_nix_base32, encode_nix_base32
from stream.nix.nar import nar_size
from stream.nix.references import parse_references
from stream.planning.closure import Closure, Wanted, find_closure, find_in_graph, find_in_nix
from stream.planning.plan import plan
from stream.planning.spec import parse_spec
from stream.tools.explain import explain
from stream.tools.weight import Weighing
from stream.tools.write import write_image

from .nix import Nix, RootedNix

_FEW = 2  # paths per call, so that there are several

_CLASSIC = """path: derivation {
  name = "graph";
  system = builtins.currentSystem;
  builder = "/bin/sh";
  PATH = "/usr/bin:/bin";
  args = ["-c" "cp graph $out && exit"];
  exportReferencesGraph = ["graph" (builtins.storePath path)];
}"""
_STRUCTURED = """path: derivation {
  name = "graph";
  system = builtins.currentSystem;
  builder = "/bin/bash";
  args = ["-c" ". .attrs.sh; /bin/cp .attrs.json \\${outputs[out]} && exit"];
  __structuredAttrs = true;
  exportReferencesGraph.graph = [(builtins.storePath path)];
}"""


@pytest.fixture
def asked(nix: Nix, monkeypatch: pytest.MonkeyPatch) -> Nix:
    """Make this process find the test's Nix, like one installed in /nix."""
    for key in [key for key in os.environ if key.startswith("NIX_")]:
        monkeypatch.delenv(key)
    for key, value in nix.environment.items():
        monkeypatch.setenv(key, value)
    return nix


def chain(nix: Nix) -> tuple[str, str, str]:
    """Three store paths: an application, its library, and a dependency of that."""
    (nix.directory / "data").write_bytes(b"data")
    data = nix.add(nix.directory / "data")
    library = nix.build("library-1.0", [data], 1000, selfish=True)
    return nix.build("application", [library]), library, data


def wanted(nix: Nix, *paths: str, mentions: object = None) -> Wanted:
    """Return the contents of a specification, by place."""
    places = tuple((path, f"contents[{number}]") for number, path in enumerate(paths))
    return Wanted(name="spec.json", paths=places, mentions=mentions, store_dir=nix.store_dir)


def references_of(nix: Nix, path: str) -> set[str]:
    """Return the references of a store path according to Nix, except to itself."""
    return {*nix.run("nix-store", "--query", "--references", path).split()} - {path}


def assert_as_nix_says(nix: Nix, closure: Closure) -> None:
    """Compare a closure and its database with Nix's answers for each path on its own."""
    objects = closure.objects()
    assert objects is not None
    assert [item.path for item in objects] == sorted(closure.graph)
    for item in objects:
        said = nix.run("nix-store", "--query", "--hash", item.path).strip().removeprefix("sha256:")
        as_hex = nix.run("nix-hash", "--to-base16", "--type", "sha256", said).strip()
        size = int(nix.run("nix-store", "--query", "--size", item.path))
        assert item.nar_hash == f"sha256:{as_hex}"
        assert item.nar_size == closure.graph[item.path].size == size
        assert closure.graph[item.path].references == references_of(nix, item.path)
        assert [*item.references] == sorted(
            nix.run("nix-store", "--query", "--references", item.path).split()
        )


@pytest.mark.slow
@pytest.mark.parametrize("at_once", [_FEW, asking.AT_ONCE])
def test_closure_that_nix_knows(asked: Nix, at_once: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without it an image could lack what its programs need, or its database be wrong."""
    monkeypatch.setattr(asking, "AT_ONCE", at_once)
    application, library, data = chain(asked)
    closure = find_closure(wanted(asked, f"{application}/names"))
    assert {*closure.graph} == {application, library, data}
    assert_as_nix_says(asked, closure)


@pytest.mark.slow
def test_same_from_every_form(asked: Nix) -> None:
    """Without it a plan could depend on how the graph was obtained."""
    application, library, data = chain(asked)
    want = wanted(asked, application)
    expected = find_in_nix(want)
    # Not `path-info --recursive`: the graph may hold more than is wanted.
    listed = asked.run("nix", "path-info", "--json", "--all").encode()
    dumped = asked.run("nix-store", "--dump-db").encode()
    for data_of, name in ((listed, "path-info"), (dumped, "dump-db")):
        found = find_in_graph(parse_references(data_of, name), want)
        assert found.graph == expected.graph
        assert {*found.graph} == {application, library, data}
        objects = found.objects()
        assert objects is not None
        by_path = {item.path: item for item in objects}
        deriver = asked.run("nix-store", "--query", "--deriver", library).strip()
        assert by_path[library].deriver == deriver
        assert_as_nix_says(asked, found)
    assert {item.deriver for item in expected.objects() or ()} == {""}


@pytest.mark.slow
@pytest.mark.parametrize("expression", [_CLASSIC, _STRUCTURED])
def test_references_graph_of_a_build(asked: Nix, expression: str) -> None:
    """Without it `exportReferencesGraph`, with which nixpkgs plans, might not be understood."""
    application, _, _ = chain(asked)
    code = f'({expression}) "{application}"'
    output = asked.run("nix-build", "--quiet", "--no-out-link", "--expr", code).strip()
    document = Path(output).read_bytes()
    structured = expression == _STRUCTURED
    if structured:
        document = json.dumps(json.loads(document)["graph"]).encode()
    found = find_in_graph(parse_references(document, "graph"), wanted(asked, application))
    assert found.graph == find_in_nix(wanted(asked, application)).graph
    if structured:
        assert_as_nix_says(asked, found)


def test_paths_that_nix_does_not_have(asked: Nix) -> None:
    """Without it an image could be planned without the contents whose path is misspelt."""
    application, _, _ = chain(asked)
    stray = f"{asked.store_dir}/{'0' * 32}-stray"
    os.mkdir(f"{asked.store_dir}/odd")
    mentions = {"config": {"Env": [f"A={stray}/bin", f"B={asked.store_dir}/odd"]}}
    with pytest.raises(ConfError) as error:
        find_closure(wanted(asked, application, mentions=mentions))
    assert [fault.place for fault in error.value.faults] == ["config.Env[0]", "config.Env[1]"]
    assert f"spec.json: config.Env[0]: {stray} is not in the Nix store; " in str(error.value)


def test_mentions_that_nix_does_not_have(asked: Nix) -> None:
    """With given roots, an output that is only mentioned need not be built."""
    application, library, data = chain(asked)
    gone = f"{asked.store_dir}/{32 * '0'}-gone"
    want = replace(wanted(asked, library, mentions=[gone, application]), known_only=True)
    assert {*find_closure(want).graph} == {application, library, data}
    with pytest.raises(ConfError, match="is not in the Nix store"):
        find_closure(replace(want, known_only=False))


def test_paths_that_are_not_nixs(asked: Nix) -> None:
    """Without it users with Nix could make an image of arbitrary directories."""
    chain(asked)
    stray = f"{asked.store_dir}/{'0' * 32}-stray"
    Path(stray).write_bytes(b"x")
    closure = find_closure(wanted(asked, stray))
    assert {*closure.graph} == {stray}
    assert closure.objects() is None


def test_no_database_is_made(asked: Nix) -> None:
    """Without it a query of a Nix that was never used could leave its state on the machine."""
    os.rmdir(asked.environment["NIX_STATE_DIR"])
    stray = f"{asked.store_dir}/{'0' * 32}-stray"
    Path(stray).write_bytes(b"x")
    assert {*find_closure(wanted(asked, stray)).graph} == {stray}
    assert not os.path.exists(asked.environment["NIX_STATE_DIR"])


@pytest.mark.slow
def test_another_store(asked: Nix, tmp_path: Path) -> None:
    """Without it a store below another root could be taken for the host's, whose files would be read."""
    application, library, data = chain(asked)
    store = f"local?root={tmp_path}/other"
    with pytest.raises(ConfError, match=r"contents\[0\]: .* is not in the Nix store local\?root="):
        find_closure(wanted(asked, application), store=store)
    asked.run("nix", "copy", "--no-check-sigs", "--to", store, application)
    found = find_closure(wanted(asked, application), store=store)
    assert found.graph == find_closure(wanted(asked, application)).graph
    asked.run("nix-store", "--delete", application)
    subprocess.run(["chmod", "-R", "u+w", asked.store_dir], check=True)
    with pytest.raises(ConfError, match=r"contents\[0\]: .* but not on this disk \(1 of"):
        find_closure(wanted(asked, application), store=store)
    assert {library, data} == {*find_closure(wanted(asked, library), store=store).graph}


@pytest.fixture
def rooted(tmp_path: Path, nix_programs: str, monkeypatch: pytest.MonkeyPatch) -> RootedNix:
    """Make this process find a Nix with a store below another root, and no other."""
    made = RootedNix.below(tmp_path / "rooted", nix_programs)
    for key in [key for key in os.environ if key.startswith("NIX_")]:
        monkeypatch.delenv(key)
    for key, value in {**made.environment, "NIX_STATE_DIR": str(tmp_path / "no state")}.items():
        monkeypatch.setenv(key, value)
    return made


@pytest.mark.slow
def test_a_store_below_another_root(rooted: RootedNix, tmp_path: Path) -> None:
    """Without it users without root and /nix could not make an image of their own builds."""
    (tmp_path / "library").write_bytes(b"x" * 1000)
    library = rooted.add(tmp_path / "library")
    (tmp_path / "application").mkdir()
    (tmp_path / "application" / "link").symlink_to(library)
    application = rooted.add(tmp_path / "application", library)
    assert library.startswith("/nix/store/")
    for keys in ({"nix_store": str(rooted.root)}, {"store_root": str(rooted.root)}):
        document = {"name": "x", "contents": application, "includeNixDB": True, **keys}
        conf = plan(parse_spec(json.dumps(document).encode())).document
        assert {path for layer in conf["store_layers"] for path in layer} == {library, application}
        assert conf["store_root"] == str(rooted.root)
        objects = conf["customisation_layer"]["nix_database"]["objects"]
        assert {item["path"]: item["references"] for item in objects} == {
            library: [], application: [library],
        }  # fmt: skip
        archive = io.BytesIO()
        write_image(parse_conf(json.dumps(conf).encode()), archive)
        assert b"x" * 1000 in archive.getvalue()
    os.unlink(f"{rooted.root}{library}")
    with pytest.raises(ConfError, match=rf"but not at {rooted.root}{library} \(1 of 2 store paths"):
        plan(parse_spec(json.dumps({"name": "x", "contents": application, **keys}).encode()))


@pytest.mark.parametrize(
    "form",
    ["{}", "{}/", "{}?x=y", "local?root={}", "auto?root={}", "local?x=y&root={}", "./root",
     "local?root={}+more", "local?root={}&root=/no"],
)  # fmt: skip
def test_where_nix_puts_files(
    rooted: RootedNix, form: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Without it files could be looked for where Nix has not put them."""
    monkeypatch.chdir(rooted.root.parent)
    store = form.format(rooted.root)
    (tmp_path / "file").write_bytes(b"x")
    added = rooted.run("--add", str(tmp_path / "file"), store=store).strip()
    root = asking.root_of(store)
    assert root is not None
    assert Path(root + added).read_bytes() == b"x"
    assert asking.has_database(root)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["what?", "c++", "50%25", "a&b=c", "link"])
def test_a_root_of_any_name_is_asked(
    nix_programs: str, name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nix makes a new store elsewhere if it parses a path as a store's parameters, and then finds nothing."""
    made = RootedNix.below(tmp_path / "made", nix_programs)
    for key, value in made.environment.items():
        monkeypatch.setenv(key, value)
    (tmp_path / "file").write_bytes(b"x")
    referred = made.add(tmp_path / "file")
    (tmp_path / "other").write_text(referred)
    added = made.add(tmp_path / "other", referred)
    root = tmp_path / name
    if name == "link":
        root.symlink_to(made.root)
    else:
        made.root.rename(root)
    before = {*tmp_path.iterdir()}
    closure = find_closure(
        Wanted(name="spec.json", paths=((added, "contents"),), store_root=str(root))
    )
    assert {*closure.graph} == {added, referred}
    assert {*tmp_path.iterdir()} == before


def test_what_nix_says_is_one_line(asked: Nix) -> None:
    """Without it a user could read Nix's usage message, or nothing."""
    application, _, _ = chain(asked)
    with pytest.raises(NixError) as error:
        find_closure(wanted(asked, application), store="no-such://store")
    assert str(error.value).startswith("nix-store --check-validity --print-invalid --store ")
    assert "don't know how to open Nix store" in str(error.value)
    assert "\n" not in str(error.value)


def test_without_nix(asked: Nix, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without it a machine with only a graph could not plan, or one without it print a traceback."""
    application, library, data = chain(asked)
    graph = asked.directory / "graph.json"
    graph.write_text(asked.run("nix", "path-info", "--json", "--recursive", application))
    monkeypatch.setenv("PATH", str(asked.directory))
    found = find_closure(wanted(asked, application), references_graph=str(graph))
    assert {*found.graph} == {application, library, data}
    assert {*find_closure(wanted(asked, application)).graph} == {application}
    with pytest.raises(NixError, match="nix-store: is not installed; give a references graph"):
        find_closure(wanted(asked, application), store="daemon")


def test_sizes_of_nars(nix: Nix, tmp_path: Path) -> None:
    """Without it paths alone could be planned by other sizes than the same paths of a graph."""
    tree = tmp_path / "tree"
    (tree / "sub" / "empty").mkdir(parents=True)
    for size in (0, 1, 7, 8, 9, 4096):
        (tree / f"file{size}").write_bytes(b"x" * size)
    (tree / "sub" / "program").write_bytes(b"#!/bin/sh\n")
    (tree / "sub" / "program").chmod(0o755)
    (tree / "sub" / "readable").write_bytes(b"")
    (tree / "sub" / "readable").chmod(0o654)
    (tree / "link").symlink_to("sub/none of that")
    (tree / "directory").symlink_to("sub")
    (tree / ("ü" * 20)).symlink_to("/")
    for path in (tree, tree / "file9", tree / "link", tree / "sub" / "empty"):
        dumped = nix.run("nix-store", "--dump", str(path)).encode()
        assert nar_size(bytes(path)) == len(dumped)


@pytest.mark.parametrize("kind", ["md5", "sha1", "sha256", "sha512"])
def test_base_32(nix: Nix, tmp_path: Path, kind: str) -> None:
    """Without it tags and hashes could differ from Nix's."""
    for number in range(3):
        (tmp_path / "file").write_bytes(b"x" * number)
        options = ("--flat", "--type", kind, str(tmp_path / "file"))
        as_hex = nix.run("nix-hash", *options).strip()
        as_digits = nix.run("nix-hash", "--base32", *options).strip()
        assert encode_nix_base32(bytes.fromhex(as_hex)) == as_digits
        assert decode_nix_base32(as_digits).hex() == as_hex


@pytest.mark.parametrize("kind", ["sha256", "sha512"])
def test_shortened_hashes(nix: Nix, tmp_path: Path, kind: str) -> None:
    """Without it a tag of 32 characters could differ from the hash in a store path."""
    (tmp_path / "file").write_bytes(b"content")
    options = ("--flat", "--type", kind, str(tmp_path / "file"))
    digest = bytes.fromhex(nix.run("nix-hash", *options).strip())
    short = nix.run("nix-hash", "--truncate", *options).strip()
    assert compress_hash(digest, 20).hex() == short


def test_why_the_paths_of_a_conf_are_there(asked: Nix) -> None:
    """A conf does not have the references, and Nix does; a path that Nix lacks must not be an error."""
    application, library, data = chain(asked)
    strange = Path(asked.store_dir, "strange")
    strange.mkdir()

    def weighed(*paths: str) -> Weighing:
        layers = [[path] for path in paths]
        document = {"repo_tag": "x:1", "store_dir": asked.store_dir, "store_layers": layers}
        conf = parse_conf(json.dumps(document).encode())
        return Weighing(conf, explain(conf))

    (reason,) = weighed(data, library, application).reasons("data")
    assert [chained.paths for chained in reason.chains] == [(application, library, data)]
    assert not weighed(data, str(strange)).is_known

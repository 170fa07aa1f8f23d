"""`stream-image explain --tree` and `--why`: what brings store paths in, and what they bring."""

import json
from pathlib import Path
from typing import Any

import commandline
import pytest
from handmade import Base, layer_tar
from support import COMMAND, Store

import stream
from stream.errors import ArgumentError
from stream.planning.plan import plan
from stream.planning.spec import parse_spec
from stream.tools.explain import explain
from stream.tools.weight import Weighing

NAMES = {"a": "app-1.0", "b": "bash-5.2", "c": "curl-8.5", "d": "openssl-3.0", "g": "glibc-2.39"}
REFERENCES = {"a": "bc", "b": "g", "c": "dg", "d": "g", "g": "g"}
SIZES = {"a": 100, "b": 15_000, "c": 6_000, "d": 60_000, "g": 300_000}
STORED = {key: f"{key * 32}-{name}" for key, name in NAMES.items()}


@pytest.fixture
def spec(tmp_path: Path) -> dict[str, Any]:
    """Return a specification of an application that the config names, with a shell as its content."""
    store = Store.below(tmp_path)
    paths = {key: str(store.path(name)) for key, name in STORED.items()}
    for key, name in STORED.items():
        store.file(f"{name}/bin/x", SIZES[key])
    graph = tmp_path / "graph.json"
    items = [
        {"path": paths[key], "narSize": 1, "references": [paths[other] for other in others]}
        for key, others in REFERENCES.items()
    ]
    graph.write_text(json.dumps(items), "utf-8")
    return {
        "name": "app", "tag": "1", "architecture": "amd64", "store_dir": str(store.directory),
        "references_graph": str(graph), "contents": [paths["b"]],
        "config": {"Env": [f"APP={paths['a']}"]},
    }  # fmt: skip


def weighed(spec: dict[str, Any]) -> Weighing:
    """Return the store paths of a specification's image with their references."""
    conf = plan(parse_spec(json.dumps(spec).encode())).conf
    return Weighing(conf, explain(conf))


def letters(*paths: str) -> str:
    """Return the letters of these store paths."""
    return "".join(path.rpartition("/")[2][0] for path in paths)


def test_tree(spec: dict[str, Any]) -> None:
    """Who removes a path would save less than was said, or look for it in the wrong place."""
    tree = weighed(spec).tree()
    # Both the shell and the rest need the library, so that nothing brings it in alone.
    assert [(branch.depth, letters(branch.path)) for branch in tree] == [
        (0, "g"), (0, "a"), (1, "c"), (2, "d"), (0, "b"),
    ]  # fmt: skip
    sizes = {letters(branch.path): branch.size for branch in tree}
    totals = {letters(branch.path): branch.total for branch in tree}
    assert totals == {
        **sizes,
        "c": sizes["c"] + sizes["d"],
        "a": sizes["a"] + sizes["c"] + sizes["d"],
    }
    # With its headers, which are longer for a long path of the store.
    assert all(SIZES[key] <= size <= SIZES[key] + 8192 for key, size in sizes.items())


def test_chains(spec: dict[str, Any]) -> None:
    """A place that is left out would still bring the path in after the others are changed."""
    (reason,) = weighed(spec).reasons("glibc")
    assert [(chain.place, letters(*chain.paths)) for chain in reason.chains] == [
        ("config.Env[0]", "abg"), ("contents", "bg"),
    ]  # fmt: skip
    assert reason.only == ()
    (reason,) = weighed(spec).reasons("curl-8.5")
    assert letters(*reason.only) == "d"
    assert reason.only_size > SIZES["c"] + SIZES["d"]
    assert reason.layer is not None


@pytest.mark.parametrize("name", ["{0}/{1}", "{0}/{1}/bin/x", "{1}", "openssl-3.0", "openssl"])
def test_names(spec: dict[str, Any], name: str) -> None:
    """People know a path by any of these."""
    wanted = name.format(spec["store_dir"], STORED["d"])
    assert [letters(reason.path) for reason in weighed(spec).reasons(wanted)] == ["d"]


@pytest.mark.parametrize("name", ["", "open", "ssl", "/nix/store/x", "{0}", "{0}/x"])
def test_what_is_not_in_the_image(spec: dict[str, Any], name: str) -> None:
    """Another path would be explained instead."""
    with pytest.raises(ArgumentError, match="not among the store paths"):
        weighed(spec).reasons(name.format(spec["store_dir"]))


def test_a_conf_alone(spec: dict[str, Any]) -> None:
    """Paths whose references nobody knows must not be taken for paths without any."""
    document = plan(parse_spec(json.dumps(spec).encode())).document
    conf = stream.parse_conf(json.dumps(document).encode())
    weighing = Weighing(conf, explain(conf))
    assert not weighing.is_known
    assert {branch.depth for branch in weighing.tree()} == {0}
    (reason,) = weighing.reasons("bash")
    assert [chain.place for chain in reason.chains] == ["contents"]


def test_commands(spec: dict[str, Any], tmp_path: Path) -> None:
    """What people and programs see."""
    base = tmp_path / "base.tar"
    base.write_bytes(Base(layers=[layer_tar({"x": bytes(400_000)})]).docker_archive())
    path = tmp_path / "spec.json"
    path.write_text(json.dumps({**spec, "fromImage": str(base)}), "utf-8")

    def shown(*options: str) -> str:
        done = commandline.run(
            [*COMMAND, "explain", str(path), *options], capture_output=True, check=True
        )
        return done.stdout.decode()

    lines = shown("--tree").splitlines()
    assert [line[19:].partition("  (")[0] for line in lines[2:8]] == [
        "base image, 1 layer", "glibc-2.39", "app-1.0", "  curl-8.5", "    openssl-3.0", "bash-5.2",
    ]  # fmt: skip
    assert sum(float(line[:6].strip(" %")) for line in (*lines[2:5], *lines[7:9])) == pytest.approx(
        100, abs=2
    )
    assert shown("--why", "openssl").splitlines()[2:] == [
        "", "config.Env[0]", "  app-1.0", "    curl-8.5", "      openssl-3.0",
    ]  # fmt: skip
    assert {len(json.loads(shown("--tree", "--json"))["tree"])} == {len(NAMES)}
    (reason,) = json.loads(shown("--why", "bash", "--json"))["reasons"]
    assert [letters(*chain["paths"]) for chain in reason["chains"]] == ["ab", "b"]

"""`stream-image customise`: the layer in a directory, and the same image as from its recipe."""

import hashlib
import io
import json
import os
import shutil
import signal
import stat
import subprocess
import tarfile
from pathlib import Path
from typing import Any

import commandline
import pytest
from handmade import Base, link, tar_of
from planning.test_plan import Packages
from support import COMMAND, Run, leftovers, until

import stream

COMMANDS = pytest.mark.skipif(
    not shutil.which("bwrap") or not shutil.which("fakeroot"), reason="needs bubblewrap, fakeroot"
)


@pytest.fixture
def packages(tmp_path: Path) -> Packages:
    """Make an application that needs a library, and a package that nothing needs yet."""
    made = Packages(tmp_path)
    made.add("lib-1", {"lib/libx.so": "x" * 5000})
    made.add("app-1", {"bin/app": "app" * 9, "etc/app.conf": "a = 1\n"}, ["lib-1"])
    made.add("other-1", {"bin/other": "other"})
    return made


def customise(*words: str | Path, **options: Any) -> "subprocess.CompletedProcess[bytes]":
    """Run the verb."""
    return commandline.run(
        [*COMMAND, "customise", *words], capture_output=True, check=False, timeout=60, **options
    )


def made(document: dict[str, Any], directory: Path) -> Path:
    """Return the directory of the layer of a specification or conf, which causes no warnings."""
    done = customise("-", "-o", directory, input=json.dumps(document).encode())
    assert (done.returncode, done.stdout, done.stderr) == (0, b"", b"")
    return directory


def image(document: dict[str, Any]) -> tuple[str, list[str]]:
    """Return the image ID of a conf, and the digests of its layers."""
    conf = stream.parse_conf(json.dumps(document).encode())
    written = stream.write_image(conf, io.BytesIO())
    return written.image_id, [layer.diff_id for layer in written.layers]


def ready(spec: dict[str, Any], layer: Path) -> dict[str, Any]:
    """Return `spec` with a ready-made layer instead of the keys that made it."""
    kept = {"name", "store_dir", "references_graph", "architecture", "tag", "fromImage", "config"}
    return {**{key: spec[key] for key in spec if key in kept}, "customisation_layer": str(layer)}


def planned(spec: dict[str, Any]) -> dict[str, Any]:
    """Return the conf of a specification."""
    return stream.plan(stream.parse_spec(json.dumps(spec).encode())).document


def test_files(packages: Packages, tmp_path: Path) -> None:
    """Without it dockerTools could not use the directory, nor anybody else read it."""
    spec = packages.spec(contents=[packages.path("app-1")])
    done = customise("-", "-o", tmp_path / "layer", input=json.dumps(spec).encode(), umask=0o027)
    assert (done.returncode, done.stderr) == (0, b"")
    layer = tmp_path / "layer"
    assert sorted(os.listdir(layer)) == ["checksum", "comment", "layer.tar"]
    digest = hashlib.sha256((layer / "layer.tar").read_bytes()).hexdigest()
    assert (layer / "checksum").read_text() == f"{digest}\n"  # as sha256sum | cut prints it
    assert stat.S_IMODE(layer.stat().st_mode) == 0o750
    assert {stat.S_IMODE(file.stat().st_mode) for file in layer.iterdir()} == {0o640}
    with tarfile.open(layer / "layer.tar") as tar:
        assert tar.getmember("./bin/app").linkname == packages.path("app-1") + "/bin/app"


@COMMANDS
@pytest.mark.slow
def test_the_same_image_as_from_the_recipe(packages: Packages, tmp_path: Path) -> None:
    """Without it an image would change as soon as its commands run in a build of their own."""
    spec = packages.spec(
        tag="1",
        contents=[packages.path("app-1"), "fakeNss"],
        extraCommands=f"echo {packages.path('other-1')}/bin/other > run; mkdir -m 700 data",
        fakeRootCommands="chown 7:8 data; mknod null c 1 3",
        config={"Cmd": ["/bin/app"]},
        directories={"/tmp": "1777"},
        customisation_mtime="1 Jan 1980",
    )
    from_recipe = planned(spec)
    conf = planned(ready(spec, made(spec, tmp_path / "of-spec")))
    assert conf["store_layers"] == from_recipe["store_layers"]
    assert len([path for layer in conf["store_layers"] for path in layer]) == 3
    assert image(conf) == image(from_recipe)
    of_conf = made(from_recipe, tmp_path / "of-conf")
    assert image({**from_recipe, "customisation_layer": str(of_conf)}) == image(from_recipe)


def test_above_a_base_image(packages: Packages, tmp_path: Path) -> None:
    """Without it files would replace a link of the base image, such as /bin, and hide what it leads to."""
    files = tar_of([("usr/bin/sh", b"sh"), ("bin", link("usr/bin"))])
    base = tmp_path / "base.tar"
    base.write_bytes(Base(layers=[files]).docker_archive())
    spec = packages.spec(tag="1", contents=[packages.path("app-1")], fromImage=str(base))
    layer = made(spec, tmp_path / "layer")
    with tarfile.open(layer / "layer.tar") as tar:
        assert "./usr/bin/app" in tar.getnames()
    assert image(planned(ready(spec, layer))) == image(planned(spec))


def test_with_a_database(packages: Packages, tmp_path: Path) -> None:
    """Without it the database's derivers would be shipped, or an image have no database at all."""
    graph = json.loads((tmp_path / "graph.json").read_bytes())
    deriver = Path(packages.path("app-1.drv"))
    deriver.write_text("Derive([", "utf-8")
    for item in graph:
        item["narHash"] = "sha256:" + "0" * 64
        item.update({"deriver": str(deriver)} if "app-1" in item["path"] else {})
    (tmp_path / "graph.json").write_text(json.dumps(graph), "utf-8")
    spec = packages.spec(tag="1", contents=[packages.path("app-1")], includeNixDB=True)
    layer = made(spec, tmp_path / "layer")
    with tarfile.open(layer / "layer.tar") as tar:
        content = tar.extractfile("./nix/var/nix/db/db.sqlite")
        assert content is not None
        assert str(deriver).encode() in content.read()
    assert image(planned(ready(spec, layer))) == image(planned(spec))


def test_a_path_named_by_a_member_is_not_needed(packages: Packages, tmp_path: Path) -> None:
    """Without it the end of one file and the name of the next could be taken for a store path."""
    spec = packages.spec(tag="1", copyToRoot=[str(tmp_path / "root")])
    path = packages.path("other")
    (tmp_path / "root").mkdir()
    (tmp_path / "root" / "a").write_text(path.rjust(512), "utf-8")
    Path(path).mkdir()
    Path(path + ".").mkdir()  # the name after the file begins with a full stop
    (tmp_path / "root" / "b").touch()
    packages.add("other", {"x": "y"})
    assert image(planned(ready(spec, made(spec, tmp_path / "layer")))) == image(planned(spec))


@pytest.mark.parametrize(
    ("layer", "wrong"),
    [({}, "customisation_layer: is missing"), ({"customisation_layer": "ready"}, "is ready-made")],
)
def test_without_a_recipe(tmp_path: Path, layer: dict[str, str], wrong: str) -> None:
    """Without it a layer of nothing would be made from the wrong file."""
    (tmp_path / "ready").mkdir()
    (tmp_path / "ready" / "layer.tar").touch()
    (tmp_path / "ready" / "checksum").write_text(hashlib.sha256().hexdigest())
    before = leftovers(tmp_path)
    conf = {"repo_tag": "a:1", "store_layers": [], **layer}
    done = customise("-", "-o", "new", input=json.dumps(conf).encode(), cwd=tmp_path)
    assert done.returncode == 2
    assert wrong in done.stderr.decode()
    assert leftovers(tmp_path) == before


@pytest.mark.parametrize("name", ["", "-", "file", "link", "empty", "file/new", "no/new"])
def test_impossible_places(packages: Packages, tmp_path: Path, name: str) -> None:
    """Without it commands would run for nothing, or something that exists be replaced."""
    (tmp_path / "file").touch()
    (tmp_path / "link").symlink_to("nowhere")
    (tmp_path / "empty").mkdir()
    before = leftovers(tmp_path)
    spec = json.dumps(packages.spec()).encode()
    done = customise("-", "-o", name, input=spec, cwd=tmp_path)
    assert done.returncode in (1, 2)
    said = done.stderr.decode()
    assert said.count("\n") == 1
    assert said.startswith(f"stream-image: {'-o' if name in ('', '-') else name}: ")
    assert leftovers(tmp_path) == before


@COMMANDS
def test_commands_that_fail(packages: Packages, tmp_path: Path) -> None:
    """Without it the layer of half the commands could be used."""
    before = leftovers(tmp_path)
    spec = packages.spec(extraCommands="touch a; false")
    done = customise("-", "-o", tmp_path / "layer", input=json.dumps(spec).encode())
    assert done.returncode == 1
    assert leftovers(tmp_path) == before


@COMMANDS
@pytest.mark.parametrize(
    "signum",
    [
        signal.SIGTERM,
        pytest.param(signal.SIGINT, marks=pytest.mark.slow),
        pytest.param(signal.SIGKILL, marks=pytest.mark.slow),
    ],
)
def test_ended_by_a_signal(packages: Packages, tmp_path: Path, signum: signal.Signals) -> None:
    """Without it half a layer would be left, or taken for a whole one by the next build."""
    spec = tmp_path / "spec.json"
    spec.write_text(json.dumps(packages.spec(extraCommands="sleep 60")), "utf-8")
    before = leftovers(tmp_path)
    with Run("customise", spec, "-o", tmp_path / "layer") as run:
        children = Path(f"/proc/{run.process.pid}/task/{run.process.pid}/children")
        until(lambda: bool(children.read_text()))
        outcome, _ = run.stopped_by(signum)
    assert outcome.status == (-signum if signum == signal.SIGKILL else 128 + signum)
    assert leftovers(tmp_path) == before


@pytest.mark.parametrize("comment", [b"a\nb", b"\x1b[1m", b"x" * 201])
def test_bad_comment(tmp_path: Path, comment: bytes) -> None:
    """Without it any file could be put into the image's history."""
    (tmp_path / "layer.tar").touch()
    (tmp_path / "checksum").write_text(hashlib.sha256().hexdigest())
    (tmp_path / "comment").write_bytes(comment)
    conf = {"repo_tag": "a:1", "customisation_layer": str(tmp_path)}
    with pytest.raises(stream.ConfError, match="comment is not a line of at most 200 characters"):
        stream.parse_conf(json.dumps(conf).encode())

"""`exportImage`, `mergeImages`, `mergeDrvs` and `tarsum`: what is made of images and trees."""

import io
import json
import subprocess
import tarfile
from pathlib import Path
from typing import Any

import pytest
from consumers.daemonless import Podman
from support import COMMAND

import stream

from .harness import Functions, NixError

pytestmark = [pytest.mark.consumers]

SCOPE = """
let
  directory = name: pkgs.runCommand name { } "mkdir $out; printf ${name} > $out/${name}";
  image = name: {
    inherit name;
    tag = "1";
    contents = [ (directory "shared") (directory name) ];
    config.Cmd = [ "/own" ];
  };
  owned = name: image name // { fakeRootCommands = "echo ${name} > own; chown 7:8 own"; };
  streamed = streamLayeredImage (owned "streamed");
  plain = buildLayeredImage (image "plain" // { compressor = "none"; });
  gzipped = buildLayeredImage (owned "gzipped");
  zipped = buildLayeredImage (image "zipped" // { compressor = "zstd"; });
in
"""


def content(functions: Functions, expression: str) -> bytes:
    """Build an expression; return the content of the output, a file."""
    return functions.build(f"{SCOPE} {expression}").read_bytes()


def files(tar: bytes) -> dict[str, tarfile.TarInfo]:
    """Return the members of a plain tar by name."""
    with tarfile.open(fileobj=io.BytesIO(tar), mode="r:") as opened:
        return {member.name: member for member in opened}


def uncompressed(archive: bytes) -> bytes:
    """Return an archive without its compression."""
    if archive[:4] == b"\x28\xb5\x2f\xfd":
        return subprocess.run(
            ["zstd", "-dc"], input=archive, check=True, capture_output=True
        ).stdout
    return archive


def manifest(archive: bytes) -> list[dict[str, Any]]:
    """Return the manifest of a docker-archive."""
    with tarfile.open(fileobj=io.BytesIO(uncompressed(archive))) as tar:
        file = tar.extractfile("manifest.json")
        assert file is not None
        found: list[dict[str, Any]] = json.load(file)
        return found


def test_exported_file_system(functions: Functions) -> None:
    """Without it the result could lack files, or be an image that tar cannot unpack."""
    tar = content(functions, "exportImage { fromImage = streamed; }")
    found = files(tar)
    assert (found["own"].uid, found["own"].gid, found["own"].size) == (7, 8, len("streamed\n"))
    link = found["shared"].linkname
    assert found[link.removeprefix("/")].size == len("shared")
    # From the archive, it is the same.
    same = 'buildLayeredImage (owned "streamed")'
    assert content(functions, f"exportImage {{ fromImage = {same}; diskSize = 9; }}") == tar


def test_export_of_one_of_several(functions: Functions) -> None:
    """Without it the first image would be exported, whichever was asked for."""
    merged = "mergeImages [ zipped gzipped plain streamed ]"
    for given, own in (
        ("", "zipped"),
        ('fromImageName = "gzipped"; fromImageTag = "1"; name = "root.tar.gz";', "gzipped"),
        ('fromImageName = "gzipped";', "gzipped"),
    ):
        found = files(content(functions, f"exportImage {{ fromImage = {merged}; {given} }}"))
        assert found.keys() >= {"shared", own}
        assert found.keys().isdisjoint({"zipped", "gzipped", "plain", "streamed"} - {own})
        assert own == "zipped" or (found["own"].uid, found["own"].gid) == (7, 8)
    chosen = 'exportImage { fromImage = streamed; fromImageTag = "2"; }'
    with pytest.raises(NixError, match=r"has no image \*:2 \(it has: streamed:1\)"):
        content(functions, chosen)
    names = '[ (exportImage { fromImage = plain; }).name (exportImage { fromImage = plain; name = "x"; }).name ]'
    assert functions.evaluate(f"{SCOPE} {names}") == ["plain.tar", "x"]


def test_merged_images(functions: Functions, podman: Podman, tmp_path: Path) -> None:
    """Without it a tag could be missing, or an executable have to be built into a file first."""
    inputs = {"zipped": b"\x28\xb5", "gzipped": b"\x1f\x8b", "plain": b""}
    for last, magic in inputs.items():
        others = " ".join(name for name in inputs if name != last)
        archive = content(functions, f"mergeImages [ {others} {last} streamed ]")
        assert archive.startswith(magic)
        assert (archive[257:262] == b"ustar") == (not magic)
        order = [*others.split(), last, "streamed"]
        assert [item["RepoTags"] for item in manifest(archive)] == [[f"{name}:1"] for name in order]
        # Three each, of which the archives have one in common.
        assert len({name for item in manifest(archive) for name in item["Layers"]}) == 10
    done = subprocess.run(
        [*COMMAND, "verify", "-"], input=archive, check=False, capture_output=True
    )
    assert done.returncode == 0, done.stdout
    (tmp_path / "merged.tar").write_bytes(archive)
    loaded = podman.load_file(tmp_path / "merged.tar")
    assert {*loaded.images} == {podman.reference(f"{name}:1") for name in order}
    only = content(functions, "mergeImages streamed")
    assert only == content(functions, "mergeImages [ streamed ]")
    assert only.startswith(b"\x1f\x8b")
    with pytest.raises(NixError, match="mergeImages: give at least one image"):
        functions.build("mergeImages [ ]")
    name = "(mergeImages [ ]).name"
    assert functions.evaluate(f"{SCOPE} {name}") == "merge-docker-images"


def test_merged_trees(functions: Functions) -> None:
    """Without it mergeDrvs would forget files, or not unpack tars."""
    trees = """
      let
        one = pkgs.runCommand "one" { } "mkdir -p $out/a; echo one > $out/a/x; echo one > $out/.x";
        two = pkgs.runCommand "two" { } "mkdir -p t/a; echo two > t/a/x; ln -s x t/a/y; tar -czf $out -C t .";
      in
    """
    both = functions.build(f"{trees} mergeDrvs {{ derivations = [ one two ]; }}")
    found = {
        str(path.relative_to(both)): path.read_text() for path in both.rglob("*") if path.is_file()
    }
    assert found == {".x": "one\n", "a/x": "two\n", "a/y": "two\n"}
    assert functions.name(both).endswith("-merge-drvs")
    one = functions.build(f"{trees} mergeDrvs {{ derivations = two; }}")
    assert sorted(path.name for path in (one / "a").iterdir()) == ["x", "y"]
    listed = functions.build(f"{trees} mergeDrvs {{ derivations = [ one two ]; onlyDeps = true; }}")
    paths = [str(functions.build(f"{trees} {name}")) for name in ("one", "two")]
    assert listed.read_text() == " ".join(paths).replace(str(functions.nix.root), "") + "\n"
    assert functions.references(listed) == ["one", "two"]


def test_sum_of_a_tar(functions: Functions) -> None:
    """Without it scripts that call tarsum could find no such program, or print another line."""
    tar = functions.build(f'{SCOPE} exportImage {{ fromImage = streamed; name = "x"; }}')
    program = functions.build("tarsum") / "bin" / "tarsum"
    with tar.open("rb") as file:
        done = subprocess.run([program], stdin=file, check=True, capture_output=True)
    assert done.stdout == f"{stream.tarsum(tar)}\n".encode()


def test_chain(functions: Functions) -> None:
    """Without it an image that one function has made could be refused by another."""
    built = """buildImage {
      name = "built"; tag = "1"; fromImage = streamed;
      copyToRoot = [ (directory "copied") ];
    }"""
    busybox = """pkgs.runCommand "busybox" { } ''
      mkdir -p $out/bin; cp /bin/busybox $out/bin; ln -s busybox $out/bin/sh
    ''"""
    rooted = f"""buildImage {{
      name = "rooted"; tag = "1"; fromImage = {built};
      copyToRoot = [ ({busybox}) ];
      runAsRoot = "busybox rm /own; busybox mv /copied /moved";
    }}"""
    merged = f"mergeImages [ plain streamed ({rooted}) ]"
    archive = functions.build(f"{SCOPE} {merged}")
    assert [item["RepoTags"] for item in manifest(archive.read_bytes())] == [
        ["plain:1"], ["streamed:1"], ["rooted:1"],
    ]  # fmt: skip
    chosen = (
        f'exportImage {{ fromImage = {merged}; fromImageName = "rooted"; fromImageTag = "1"; }}'
    )
    found = files(content(functions, chosen))
    assert found.keys() >= {"shared", "moved", "bin/sh"}
    assert found.keys().isdisjoint({"own", "copied"})

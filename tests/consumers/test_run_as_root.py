"""An image whose top layer is what commands changed, as consumers unpack it."""

import json
import shutil
import stat
import tarfile
from pathlib import Path
from typing import Any

import pytest
from handmade import Base
from roots import flattened
from sources.customisation.test_rooted import directory, layer_tar, member

import stream
from stream.sinks import ArchiveFormat

from .consumer import Runner
from .daemonless import Umoci
from .requirements import require

pytestmark = pytest.mark.consumers
TAG = "changed:1"
FORMATS: dict[str, ArchiveFormat] = {"image.tar": "docker-archive", "layout.tar": "oci-archive"}
SCRIPT = """
cd /opt
rm -r gone again kept/below; rm file; mkdir again; touch again/new
mkdir file; touch file/now; rm -r was; touch was
chown 1000:100 owned; chmod 4755 owned; ln owned linked; mknod null c 1 3; mkfifo fifo
chown -R 7:8 deep; chmod 1777 deep/er; ln -s again link
"""
SHOW = "cd /opt; /bin/busybox find . | /bin/busybox sort | /bin/busybox xargs /bin/busybox stat -c"
KINDS = {
    tarfile.REGTYPE: stat.S_IFREG, tarfile.DIRTYPE: stat.S_IFDIR, tarfile.SYMTYPE: stat.S_IFLNK,
    tarfile.CHRTYPE: stat.S_IFCHR, tarfile.FIFOTYPE: stat.S_IFIFO,
}  # fmt: skip


def layers() -> list[bytes]:
    """Return the layers of the base image."""
    busybox = shutil.which("busybox")
    assert busybox is not None
    names = ("gone/a", "again/old", "again/er/old", "kept/below/x", "kept/y", "was/z", "deep/er/f")
    files: dict[str, Any] = {f"opt/{name}": (member(), b"x") for name in names}
    above = {f"opt/{part}" for part in ("gone", "again", "again/er", "kept", "kept/below", "was",
                                        "deep", "deep/er")}  # fmt: skip
    return [
        layer_tar(
            {
                "bin": directory(), "bin/busybox": (member(mode=0o755), Path(busybox).read_bytes()),
                "opt": directory(), **{name: directory() for name in sorted(above)}, **files,
                "opt/file": (member(), b"file"),
            }
        ),
        layer_tar({"opt/owned": (member(), b"owned"), "opt/again/.wh.er": member()}),
    ]  # fmt: skip


@pytest.fixture(scope="module")
def archive(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Write the image, whose container shows what is in its /opt."""
    require(["busybox", "bwrap", "fakeroot"])
    place = tmp_path_factory.mktemp("changed")
    (place / "base.tar").write_bytes(Base(layers=layers()).docker_archive())
    spec = {
        "name": "changed",
        "tag": "1",
        "architecture": "amd64",
        "runAsRoot": SCRIPT,
        "fromImage": str(place / "base.tar"),
        "config": {"Cmd": ["/bin/busybox", "sh", "-c", f"{SHOW} '%n %f %u:%g %t,%T %h'"]},
    }
    conf = stream.plan(stream.parse_spec(json.dumps(spec).encode())).conf
    for name, form in FORMATS.items():
        with (place / name).open("wb") as output:
            stream.write_image(conf, output, archive_format=form)
    return place / "image.tar"


def shown(archive: Path) -> list[str]:
    """Return the lines that a container of the image is to print, without those of directories:
    not every file system counts their links.
    """
    with tarfile.open(archive) as tar:
        content = {info.name: tar.extractfile(info) for info in tar if info.isreg()}
        files = {name: file.read() for name, file in content.items() if file is not None}
    names = json.loads(files["manifest.json"])[0]["Layers"]
    root = flattened([files[name] for name in names])
    return [
        f".{path.removeprefix('opt')} {KINDS[node.kind] | node.mode:x} {node.uid}:{node.gid}"
        f" {node.device[0]:x},{node.device[1]:x} {len(node.same)}"
        for path, node in sorted(root.items())
        if path.startswith("opt") and node.kind != tarfile.DIRTYPE
    ]


def test_changes_arrive(runner: Runner, archive: Path) -> None:
    """A consumer could take a whiteout for something else, or ignore it beside other entries."""
    runner.load(("cat", str(archive)))
    check(runner, archive)


def test_changes_arrive_by_umoci(umoci: Umoci, archive: Path) -> None:
    """It applies layers to a directory itself, where others have a file system do it."""
    umoci.load_file(archive.with_name("layout.tar"))
    check(umoci, archive)


def check(runner: Runner, archive: Path) -> None:
    """Run a container of the image in `archive`, which is loaded, and check what is in it."""
    ran = runner.run(TAG)
    assert ran.returncode == 0, ran.stderr
    lines = {line.split()[0]: line for line in ran.stdout.splitlines()}
    assert [line for line in lines.values() if line.split()[1][0] != "4"] == shown(archive)
    assert lines["./deep/er"].startswith("./deep/er 43ff 7:8 ")
    assert not lines.keys() & {"./again/old", "./again/er", "./kept/below", "./gone"}

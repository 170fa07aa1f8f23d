"""Exported root file systems, compared with those that other tools make from the same image."""

import hashlib
import io
import os
import stat
import subprocess
import sys
import tarfile
from pathlib import Path
from typing import Any

import pytest
from handmade import Base, link, tar_of
from roots import Node, read_root

from .daemonless import Podman, Umoci

pytestmark = pytest.mark.consumers

HARD = tarfile.LNKTYPE


def _header(kind: bytes = tarfile.DIRTYPE, **fields: Any) -> tarfile.TarInfo:
    info = tarfile.TarInfo()
    info.type = kind
    info.mtime = 1_600_000_000
    for field, value in fields.items():
        setattr(info, field, value)
    return info


# All kinds of changes that layers make in practice, in one image.
LAYERS = [
    tar_of(
        [
            ("opt/", _header(mode=0o755)),
            ("opt/old/", _header(mode=0o700, uid=7, gid=8)),
            ("opt/old/file", b"old"),
            ("opt/old/dir/", _header(mode=0o755)),
            ("opt/old/dir/deep", b"deep"),
            ("opt/kept", b"kept"),
            ("opt/gone", b"gone"),
            ("opt/linked-1", b"one file"),
            ("opt/linked-2", link("opt/linked-1", HARD)),
            ("opt/linked-3", link("opt/linked-1", HARD)),
            ("opt/soft", link("kept")),
            ("opt/setuid", _header(tarfile.REGTYPE, mode=0o4755, uid=12)),
            ("opt/null", _header(tarfile.CHRTYPE, mode=0o666, devmajor=1, devminor=3)),
            ("opt/fifo", _header(tarfile.FIFOTYPE, mode=0o640)),
            ("opt/attributes", _header(
                tarfile.REGTYPE, pax_headers={"SCHILY.xattr.user.note": "value"})),
            ("opt/" + "long" * 40, b"long"),
            ("opt/ü ñ", b"name"),
        ]
    ),
    tar_of(
        [
            ("opt/", _header(mode=0o755)),
            ("opt/.wh.gone", b""),
            ("opt/.wh.linked-1", b""),
            ("opt/old/", _header(mode=0o711)),
            ("opt/old/.wh..wh..opq", b""),
            ("opt/old/new", b"new"),
            ("opt/was-file/", _header(mode=0o750)),
        ]
    ),
    tar_of(
        [
            ("opt/", _header(mode=0o1777)),
            ("opt/kept", b"replaced"),
            ("opt/soft/", _header(mode=0o755)),
            ("opt/soft/now-a-directory", b""),
        ]
    ),
]  # fmt: skip
IMAGE = Base(layers=LAYERS, config={"Cmd": ["/opt/none"]})


def _exported(archive: Path) -> dict[str, Node]:
    command = [sys.executable, "-m", "stream", "export", "-q", str(archive)]
    done = subprocess.run(command, check=True, capture_output=True)
    return _comparable(read_root(done.stdout))


def _comparable(root: dict[str, Node]) -> dict[str, Node]:
    return {path: node for path, node in root.items() if path.split("/")[0] == "opt"}


def test_as_podman_exports(podman: Podman, tmp_path: Path) -> None:
    """The exported root equals the tar of `podman export`, but needs no container."""
    archive = tmp_path / "image.tar"
    archive.write_bytes(IMAGE.docker_archive())
    podman.load_file(archive)
    container = podman.output("podman", "create", podman.reference("base:1")).strip()
    theirs = tmp_path / "root.tar"
    exported = podman.command("podman", "export", "--output", str(theirs), container)
    assert exported.returncode == 0, exported.stderr
    file = io.BytesIO()
    with tarfile.open(theirs) as tar, tarfile.open(fileobj=file, mode="w") as only_ours:
        for info in tar:
            if info.name.split("/")[0] == "opt":
                # A file system does not keep everything that a layer says: it has
                # no names of owners, and the hard links of a file are in no order.
                info.uname = info.gname = ""
                info.mtime = int(info.mtime)
                only_ours.addfile(info, tar.extractfile(info) if info.isreg() else None)
    assert read_root(file.getvalue()) == _exported(archive)


def test_as_umoci_unpacks(umoci: Umoci, tmp_path: Path) -> None:
    """The exported root equals the directory that umoci unpacks, but needs no layout."""
    layout, archive = tmp_path / "layout", tmp_path / "image.tar"
    files = IMAGE.oci_files()
    for name, content in files.items():
        (layout / name).parent.mkdir(parents=True, exist_ok=True)
        (layout / name).write_bytes(content)
    archive.write_bytes(tar_of([*files.items()]))
    umoci.output("umoci", "raw", "unpack", f"--image={layout}:base:1", str(tmp_path / "theirs"))
    ours = tmp_path / "ours"
    ours.mkdir()
    export = [sys.executable, "-m", "stream", "export", "-q", str(archive)]
    data = subprocess.run(export, check=True, capture_output=True).stdout
    extract = ["tar", "-x", "-p", "--xattrs", "--xattrs-include=*", "--same-owner", "-C", str(ours)]
    subprocess.run(extract, input=data, check=True)
    assert _tree(ours / "opt") == _tree(tmp_path / "theirs" / "opt")


def _tree(root: Path) -> dict[str, Any]:
    """Return everything below a directory, as in the file system."""
    found: dict[str, Any] = {}
    inodes: dict[int, list[str]] = {}
    for path in sorted([root, *root.rglob("*")]):
        status = path.lstat()
        name = str(path.relative_to(root))
        kind = stat.S_IFMT(status.st_mode)
        content = hashlib.sha256(path.read_bytes()).hexdigest() if path.is_file() else ""
        found[name] = {
            "mode": status.st_mode,
            "owner": (status.st_uid, status.st_gid),
            "time": status.st_mtime if kind != stat.S_IFDIR else None,
            "device": status.st_rdev,
            "content": os.readlink(path) if path.is_symlink() else content,
            "attributes": os.listxattr(path, follow_symlinks=False),
        }
        if kind != stat.S_IFDIR:
            inodes.setdefault(status.st_ino, []).append(name)
    return {"files": found, "same": sorted(inodes.values())}

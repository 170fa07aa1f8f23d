"""A base laid out like Debian's, with a customisation layer that has /bin: the resulting container's files."""

import hashlib
import io
import json
import subprocess
import sys
import tarfile
from pathlib import Path
from typing import Final

import pytest

from stream.config import load_conf
from stream.sources.base.tree import base_entries
from stream.sources.customisation.builtin import SHADOW_PATHS
from stream.sources.customisation.redirect import inherit, redirect
from stream.sources.customisation.tree import Tree, file, link
from stream.sources.image import opened_base

from .consumer import Runner
from .images import REPO_TAG, image_config
from .requirements import require, unmet

pytestmark = pytest.mark.consumers

# Prints the status of paths, as a program in the container sees them.
_PROGRAM: Final = r"""
#include <stdio.h>
#include <sys/stat.h>

int main(int argc, char **argv)
{
    struct stat status;

    for (int i = 1; i < argc; i++)
        if (lstat(argv[i], &status))
            printf("%s: nothing\n", argv[i]);
        else
            printf("%s: %o %u:%u\n", argv[i], status.st_mode, status.st_uid, status.st_gid);
    return 0;
}
"""


def layer(path: Path, entries: list[tuple[tarfile.TarInfo, bytes]]) -> bytes:
    """Write a layer and return its bytes."""
    with tarfile.open(path, "w") as tar:
        for info, content in entries:
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
    return path.read_bytes()


def entry(name: str, kind: bytes, mode: int, owner: int = 0, target: str = "") -> tarfile.TarInfo:
    """Return a header."""
    info = tarfile.TarInfo(name)
    info.type, info.mode, info.uid, info.gid, info.linkname = kind, mode, owner, owner, target
    return info


def base_archive(directory: Path) -> Path:
    """Return a base whose /bin is a link, with one directory writable by everybody and one accessible only to root."""
    require(["gcc"])
    source, program = directory / "look.c", directory / "look"
    source.write_text(_PROGRAM)
    command = ["gcc", "-static", "-O1", "-s", "-o", str(program), str(source)]
    if subprocess.run(command, check=False, capture_output=True).returncode:
        unmet("no statically linked program can be made")
    top = directory / "base-top"
    top.mkdir()
    entries = [
        (entry("bin", tarfile.SYMTYPE, 0o777, target="usr/bin"), b""),
        (entry("usr/", tarfile.DIRTYPE, 0o755), b""),
        (entry("usr/bin/", tarfile.DIRTYPE, 0o755), b""),
        (entry("usr/bin/look", tarfile.REGTYPE, 0o755), program.read_bytes()),
        (entry("tmp/", tarfile.DIRTYPE, 0o1777), b""),
        (entry("srv/", tarfile.DIRTYPE, 0o750, 33), b""),
    ]
    data = layer(top / "layer.tar", entries)
    (top / "checksum").write_text(hashlib.sha256(data).hexdigest() + "\n")
    return archive(directory / "base", {"customisation_layer": str(top)})


def archive(stem: Path, conf: dict[str, object]) -> Path:
    """Write a conf, and its image next to it."""
    path = stem.with_suffix(".json")
    path.write_text(json.dumps({"repo_tag": REPO_TAG, "config": {"Cmd": ["/bin/look"]}, **conf}))
    out = stem.with_suffix(".tar")
    subprocess.run([sys.executable, "-m", "stream", "-q", "-o", str(out), str(path)], check=True)
    return out


def top_layer(directory: Path, base: Path) -> Path:
    """A layer of ours, fitted to the base, with a file in each of its directories."""
    directory.mkdir()
    conf = directory / "conf.json"
    conf.write_text(json.dumps({"repo_tag": REPO_TAG, "from_image": str(base)}))
    tree = Tree()
    tree.put(b"bin/again", link(b"look"))
    tree.put(b"tmp/ours", file(b""))
    tree.put(b"srv/ours", file(b""))
    with opened_base(load_conf(str(conf)), entries=True) as below:
        assert below is not None
        entries = base_entries(below.tree(), load_conf(str(conf)), SHADOW_PATHS)
    redirect(tree, entries)
    inherit(tree, entries)
    listed = []
    for path, node in tree.entries():
        info = entry(f"./{path.decode()}", node.typeflag, node.mode, node.uid, node.link.decode())
        listed.append((info, node.data or b""))
    data = layer(directory / "layer.tar", listed)
    (directory / "checksum").write_text(hashlib.sha256(data).hexdigest() + "\n")
    return directory


@pytest.mark.parametrize("name", ["docker", "podman"])
def test_both_are_there(name: str, request: pytest.FixtureRequest, tmp_path: Path) -> None:
    """Without it a file in /bin could hide all of the base's programs, or loosen its directories' permissions."""
    runner: Runner = request.getfixturevalue(name)
    base = base_archive(tmp_path)
    top = top_layer(tmp_path / "top", base)
    image = archive(tmp_path / "image", {"from_image": str(base), "customisation_layer": str(top)})
    assert len(image_config(image)["rootfs"]["diff_ids"]) == 2
    runner.load_file(image)
    ran = runner.run(REPO_TAG, "/bin/again", "/bin", "/usr/bin/look", "/bin/again", "/tmp", "/srv")
    assert (ran.returncode, ran.stdout.splitlines()) == (
        0,
        [
            "/bin: 120777 0:0",
            "/usr/bin/look: 100755 0:0",
            "/bin/again: 120777 0:0",
            "/tmp: 41777 0:0",
            "/srv: 40750 33:33",
        ],
    ), ran.stderr

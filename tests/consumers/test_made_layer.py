"""Made layers as consumers unpack them: each kind of entry, in GNU tar's format and with extended attributes."""

import platform
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Final
from unittest.mock import patch

import pytest

from stream.model import ImageConf, Owner, Recipe
from stream.sinks import ArchiveFormat
from stream.sources.customisation import make
from stream.sources.customisation.tree import Identity, Node, Tree, file, link
from stream.tools.write import write_image
from stream.typeflags import CHARACTER_DEVICE, FIFO

from .consumer import Runner
from .daemonless import Umoci
from .requirements import require, unmet

pytestmark = pytest.mark.consumers

TAG: Final = "made:one"
LONG: Final = b"/opt/" + b"long-" * 30
CAPABILITY: Final = bytes.fromhex("0100000200040000000000000000000000000000")  # net_bind_service

# Prints for each of its arguments: type and mode, owner, device, link and capability.
_PROGRAM: Final = r"""
#include <stdio.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <sys/xattr.h>
#include <unistd.h>

int main(int argc, char **argv)
{
    for (int i = 1; i < argc; i++) {
        struct stat stat;
        char link[4096] = "";
        unsigned char value[64];
        if (lstat(argv[i], &stat) < 0)
            return 3;
        if (S_ISLNK(stat.st_mode))
            readlink(argv[i], link, sizeof link - 1);
        printf("%o %u:%u %u,%u %s ", stat.st_mode, stat.st_uid, stat.st_gid,
               major(stat.st_rdev), minor(stat.st_rdev), link);
        ssize_t length = lgetxattr(argv[i], "security.capability", value, sizeof value);
        for (ssize_t at = 0; at < length; at++)
            printf("%02x", value[at]);
        printf("\n");
    }
    return 0;
}
"""


@pytest.fixture(scope="session")
def tree(tmp_path_factory: pytest.TempPathFactory) -> Tree:
    """Put one entry of each kind into a tree, and the program that prints them."""
    require(["gcc"])
    directory = tmp_path_factory.mktemp("program")
    source, program = directory / "show.c", directory / "show"
    source.write_text(_PROGRAM)
    try:
        subprocess.run(["gcc", "-static", "-O1", "-s", "-o", program, source], check=True)
    except subprocess.CalledProcessError as error:
        unmet(f"no statically linked program can be made: {error}")
    status = program.stat()
    show = Node(
        typeflag=b"0",
        mode=0o755,
        size=status.st_size,
        source=bytes(program),
        identity=Identity.of(status),
        xattrs={b"security.capability": CAPABILITY},
    )
    tree = Tree()
    tree.put(b"bin/show", show)
    owned = file(b"content", 0o640)
    owned.uid, owned.gid = 1000, 100
    owned.xattrs = {b"security.capability": CAPABILITY}
    tree.put(LONG, owned)
    tree.put(b"link", link(b"/" + b"target-" * 20))
    tree.put(b"null", Node(typeflag=CHARACTER_DEVICE, mode=0o666, device=(1, 3)))
    tree.put(b"fifo", Node(typeflag=FIFO, mode=0o600))
    tree.make_directory(b"tmp").mode = 0o1777
    return tree


PATHS: Final = ("/bin/show", LONG.decode(), "/link", "/null", "/fifo", "/tmp")
SHOWN: Final = [
    f"100755 0:0 0,0  {CAPABILITY.hex()}",
    f"100640 1000:100 0,0  {CAPABILITY.hex()}",
    "120777 0:0 0,0 /" + "target-" * 20 + " ",
    "20666 0:0 1,3  ",
    "10600 0:0 0,0  ",
    "41777 0:0 0,0  ",
]


def written(tree: Tree, path: Path, archive_format: ArchiveFormat) -> Path:
    """Write the image whose recipe makes `tree`."""

    @contextmanager
    def opened_tree(*_given: object, **_more: object) -> Iterator[Tree]:
        yield tree

    machine = platform.machine()
    conf = ImageConf(
        architecture={"x86_64": "amd64", "aarch64": "arm64"}.get(machine, machine),
        container_config={"Cmd": ["/bin/show", *PATHS]},
        store_dir=b"/nix/store",
        store_layers=(),
        customisation_layer=Recipe(),
        repo_tag=TAG,
        created=datetime(1970, 1, 1, 0, 0, 1, tzinfo=UTC),
        mtime=1,
        customisation_mtime=1,
        owner=Owner(),
    )
    with patch.object(make, "opened_tree", opened_tree), path.open("wb") as output:
        write_image(conf, output, archive_format=archive_format)
    return path


def test_every_entry_arrives(runner: Runner, tree: Tree, tmp_path: Path) -> None:
    """Without it a consumer could read a layer with other owners, or without capabilities."""
    archive = written(tree, tmp_path / "image.tar", "docker-archive")
    runner.load(("cat", str(archive)))
    ran = runner.run(TAG)
    assert ran.stdout.splitlines() == SHOWN, ran.stderr


def test_every_entry_arrives_by_umoci(umoci: Umoci, tree: Tree, tmp_path: Path) -> None:
    """Without it an OCI archive could be unpacked differently from a docker-archive."""
    umoci.load_file(written(tree, tmp_path / "image.tar", "oci-archive"))
    ran = umoci.run(TAG)
    assert ran.stdout.splitlines() == SHOWN, ran.stderr

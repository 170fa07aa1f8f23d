"""A small image of real programs: a store, a customisation layer and their conf, ready to be streamed.

Knows the conf and Nix's store; must not know which consumers there are.
"""

import hashlib
import io
import json
import os
import platform
import subprocess
import sys
import tarfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

REPO_TAG: Final = "greeter:one"
MOTTO: Final = "carried by a link between store paths"
WORKING_DIR: Final = "/srv"

# As spelt in image configs; containerd does not unpack images of another architecture.
_ARCHITECTURE: Final = {"x86_64": "amd64", "aarch64": "arm64"}.get(
    platform.machine(), platform.machine()
)

# Prints what identifies a container's image: its last argument, its directory, a file named in
# the environment, and the number of names in a directory named in the environment.
_PROGRAM: Final = r"""
#include <dirent.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

int main(int argc, char **argv)
{
    char directory[4096], line[4096];
    FILE *motto = fopen(getenv("MOTTO"), "r");
    DIR *tree = opendir(getenv("TREE"));
    int names = 0;

    if (!motto || !tree || !getcwd(directory, sizeof directory) || !fgets(line, sizeof line, motto))
        return 3;
    while (readdir(tree))
        names++;
    printf("%s in %s: %s (%d)\n", argv[argc - 1], directory, line, names - 2);
    return 0;
}
"""

# Names that do not fit a plain tar header, and a file that takes many reads.
_LONG_NAME: Final = b"long-" * 30
_TREE: Final = {
    b"empty": b"",
    _LONG_NAME: b"long name\n",
    "grüße-世界".encode(): b"name in UTF-8\n",
    b"name with spaces": b"spaces\n",
    b"not UTF-8: \xff": b"bytes\n",
    b"large": bytes(range(256)) * 8192,
}


@dataclass(frozen=True, slots=True, kw_only=True)
class BuiltImage:
    """A conf on disk, and the output expected from a container of its image."""

    conf: Path
    program: str
    script: str

    @property
    def producer(self) -> Sequence[str]:
        """The command that writes the archive to standard output."""
        return producer(self.conf)

    @property
    def oci_producer(self) -> Sequence[str]:
        """The command that writes an OCI archive."""
        return producer(self.conf, "--format", "oci-archive")

    def greeting(self, argument: str) -> str:
        """Return the expected output for this last argument."""
        return f"{argument} in {WORKING_DIR}: {MOTTO} ({len(_TREE)})\n"


def producer(conf: Path, *options: str) -> Sequence[str]:
    """Return the command for a conf."""
    return (sys.executable, "-m", "stream", *options, str(conf))


def build_image(directory: Path) -> BuiltImage:
    """Build the store, the customisation layer and the conf below a directory."""
    store = directory / "store"
    store.mkdir()
    program = _store_path(store, "greeter-1.0")
    (program / "bin").mkdir(parents=True)
    _compile(program / "bin" / "greeter", directory)

    motto = _store_path(store, "motto-1.0")
    motto.mkdir()
    (motto / "text").write_text(MOTTO)
    # A store path that is only a link to another one.
    current = _store_path(store, "motto-current")
    current.symlink_to(motto.name)

    tree = _store_path(store, "tree-2.0")
    tree.mkdir()
    for name, content in _TREE.items():
        Path(os.fsdecode(os.fsencode(tree) + b"/" + name)).write_bytes(content)

    script = _store_path(store, "script-3.0")
    script.mkdir()
    (script / "greet").write_text(f"#!{program}/bin/greeter\n")
    (script / "again").symlink_to("greet")
    # As Nix leaves its outputs: not writable by anybody.
    (script / "greet").chmod(0o555)
    script.chmod(0o555)

    conf = directory / "conf.json"
    conf.write_text(
        json.dumps(
            {
                "architecture": _ARCHITECTURE,
                "config": {
                    "Cmd": [f"{program}/bin/greeter", "hello"],
                    "Env": [f"MOTTO={current}/text", f"TREE={tree}"],
                    "WorkingDir": WORKING_DIR,
                },
                "created": "1970-01-01T00:00:01+00:00",
                "customisation_layer": str(
                    customisation_layer(
                        directory / "customisation",
                        {
                            "bin": None,
                            "etc": None,
                            "srv": None,
                            "bin/greeter": f"{program}/bin/greeter",
                            "etc/motd": b"customised\n",
                        },
                    )
                ),
                "from_image": None,
                "gid": "0",
                "gname": "root",
                "mtime": "1970-01-01T00:00:01+00:00",
                "repo_tag": REPO_TAG,
                "store_dir": str(store),
                "store_layers": [
                    [str(tree)],
                    [str(motto), str(current)],
                    [str(program), str(script)],
                ],
                "uid": "0",
                "uname": "root",
            }
        )
    )
    return BuiltImage(conf=conf, program="/bin/greeter", script=f"{script}/again")


def specification(image: BuiltImage) -> Path:
    """Write a specification of the same store paths beside the conf; planned without a previous build,
    they are in other layers.
    """
    conf = json.loads(image.conf.read_bytes())
    paths = [path for layer in conf["store_layers"] for path in layer]
    graph = [{"path": path, "narSize": 900_000, "references": paths[:1]} for path in paths]
    references = image.conf.with_name("graph.json")
    references.write_text(json.dumps(graph))
    document = {
        "name": "greeter",
        "tag": "one",
        "architecture": conf["architecture"],
        "store_dir": conf["store_dir"],
        "references_graph": str(references),
        "labels": {str(number): path for number, path in enumerate(paths)},
    }
    written = image.conf.with_name("spec.json")
    written.write_text(json.dumps(document))
    return written


def image_id(archive: Path) -> str:
    """Return the image ID of an archive, the digest of its image config."""
    with tarfile.open(archive) as tar:
        (manifest,) = json.loads(_content(tar, "manifest.json"))
        digest = hashlib.sha256(_content(tar, manifest["Config"])).hexdigest()
    assert manifest["Config"] == f"{digest}.json"
    return f"sha256:{digest}"


def image_config(archive: Path) -> dict[str, Any]:
    """Return the image config of a docker-archive."""
    with tarfile.open(archive) as tar:
        (manifest,) = json.loads(_content(tar, "manifest.json"))
        config: dict[str, Any] = json.loads(_content(tar, manifest["Config"]))
    return config


def _content(tar: tarfile.TarFile, name: str) -> bytes:
    file = tar.extractfile(name)
    assert file is not None
    return file.read()


def _store_path(store: Path, name: str) -> Path:
    return store / f"{hashlib.sha256(name.encode()).hexdigest()[:32]}-{name}"


def _compile(program: Path, directory: Path) -> None:
    source = directory / "greeter.c"
    source.write_text(_PROGRAM)
    subprocess.run(["gcc", "-static", "-O1", "-s", "-o", str(program), str(source)], check=True)


def customisation_layer(directory: Path, entries: Mapping[str, bytes | str | None]) -> Path:
    """Write a customisation layer of files (their content), links (their targets) and directories (None)."""
    directory.mkdir()
    layer = directory / "layer.tar"
    with tarfile.open(layer, "w") as tar:
        for name, entry in entries.items():
            member = tarfile.TarInfo(f"./{name}")
            member.mode = 0o755
            content = b""
            if entry is None:
                member.type = tarfile.DIRTYPE
            elif isinstance(entry, str):
                member.type, member.linkname = tarfile.SYMTYPE, entry
            else:
                member.mode, member.size, content = 0o444, len(entry), entry
            tar.addfile(member, io.BytesIO(content))
    (directory / "checksum").write_text(hashlib.sha256(layer.read_bytes()).hexdigest() + "\n")
    return directory

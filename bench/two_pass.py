"""The baseline: the same image in two passes, with the standard library alone.

Usage: two_pass.py CONF > image.tar

The archive's member names are the layers' digests, so every layer is made twice: once into a hash
to learn its name and size, and once more for the archive. Layers go from `tarfile` through an
operating system's pipe into the outer `tarfile`, the way such scripts are written in practice.
"""

from __future__ import annotations

import hashlib
import io
import json
import os
import sys
import tarfile
import threading
from datetime import datetime
from pathlib import Path, PurePosixPath
from typing import Any, BinaryIO


class HashAndCount(io.RawIOBase):
    """A file that keeps only the digest and the number of the bytes written to it."""

    def __init__(self) -> None:
        self._hash = hashlib.sha256()
        self.size = 0

    def writable(self) -> bool:
        """Return True: the file can be written, and nothing else."""
        return True

    def write(self, data: Any, /) -> int:
        """Add `data` to the digest."""
        self._hash.update(data)
        self.size += len(data)
        return len(data)

    def hexdigest(self) -> str:
        """Return the digest of all bytes written."""
        return self._hash.hexdigest()


def write_layer(out: Any, store_paths: list[str], conf: dict[str, Any]) -> None:
    """Write a layer: the store directory's ancestors, then each store path and all below it."""
    mtime = instant(conf["mtime"])

    def own(info: tarfile.TarInfo) -> tarfile.TarInfo:
        info.mtime = mtime
        info.uid, info.gid = int(conf["uid"]), int(conf["gid"])
        info.uname, info.gname = conf["uname"], conf["gname"]
        return info

    with tarfile.open(mode="w|", fileobj=out) as tar:
        store_dir = PurePosixPath(conf["store_dir"])
        for directory in [*list(store_dir.parents)[-2::-1], store_dir]:
            info = own(tarfile.TarInfo(str(directory)))
            info.type, info.mode = tarfile.DIRTYPE, 0o755
            tar.addfile(info)
        for store_path in store_paths:
            root = Path(store_path)
            below = [] if root.is_symlink() else sorted(root.rglob("*"))
            for path in [root, *below]:
                tar.inodes = {}  # type: ignore[attr-defined]  # no hard-link entries
                info = own(tar.gettarinfo(path))
                info.name = str(path)  # `gettarinfo` makes it relative
                if info.isreg():
                    with path.open("rb") as file:
                        tar.addfile(info, file)
                else:
                    tar.addfile(info)


def add_layer(archive: tarfile.TarFile, store_paths: list[str], conf: dict[str, Any]) -> str:
    """Add a layer to the archive, and return its digest."""
    hashed = HashAndCount()
    write_layer(hashed, store_paths, conf)

    read_end, write_end = os.pipe()
    with open(read_end, "rb") as source:

        def produce() -> None:
            with open(write_end, "wb") as sink:
                write_layer(sink, store_paths, conf)

        producer = threading.Thread(target=produce)
        producer.start()
        add_member(archive, f"{hashed.hexdigest()}/layer.tar", hashed.size, source, conf)
        producer.join()
    return hashed.hexdigest()


def add_member(
    archive: tarfile.TarFile, name: str, size: int, content: BinaryIO, conf: dict[str, Any]
) -> None:
    """Add a member whose header reveals nothing about this machine."""
    info = tarfile.TarInfo(name)
    info.size, info.mtime = size, instant(conf["mtime"])
    archive.addfile(info, content)


def instant(text: str) -> int:
    """Return the seconds since the epoch of an ISO 8601 time."""
    return int(datetime.fromisoformat(text).timestamp())


def write_image(conf: dict[str, Any], out: BinaryIO) -> None:
    """Write the docker-archive that `conf` describes."""
    created = datetime.fromisoformat(conf["created"]).isoformat()
    with tarfile.open(mode="w|", fileobj=out) as archive:
        digests = [add_layer(archive, paths, conf) for paths in conf["store_layers"]]
        image = {
            "created": created,
            "architecture": conf["architecture"],
            "os": "linux",
            "config": conf["config"],
            "rootfs": {"diff_ids": [f"sha256:{digest}" for digest in digests], "type": "layers"},
            "history": [
                {"created": created, "comment": f"store paths: {paths}"}
                for paths in conf["store_layers"]
            ],
        }
        image_config = json.dumps(image, indent=4).encode()
        config_name = hashlib.sha256(image_config).hexdigest() + ".json"
        add_member(archive, config_name, len(image_config), io.BytesIO(image_config), conf)
        item = {
            "Config": config_name,
            "Layers": [f"{digest}/layer.tar" for digest in digests],
            "RepoTags": [conf["repo_tag"]],
        }
        manifest = json.dumps([item], sort_keys=True).encode()
        add_member(archive, "manifest.json", len(manifest), io.BytesIO(manifest), conf)


def main() -> None:
    """Write the image that the conf named on the command line describes to stdout."""
    with open(sys.argv[1], encoding="utf-8") as file:
        conf = json.load(file)
    if conf.get("from_image") or conf.get("customisation_layer"):
        raise SystemExit("two_pass.py: store layers only")
    write_image(conf, sys.stdout.buffer)


if __name__ == "__main__":
    main()

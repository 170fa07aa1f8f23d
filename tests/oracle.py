"""Make the same image independently: with CPython's tarfile, and everything in memory.

Must not know the stream package, so that both cannot have the same mistake. The input is
the conf as parsed JSON; store paths are read from disk.
"""

import hashlib
import io
import json
import os
import stat
import tarfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import closing
from datetime import datetime
from typing import Any, BinaryIO

EPOCH_AND_A_SECOND = "1970-01-01T00:00:01+00:00"


def text(name: bytes) -> str:
    """Return `name` as tarfile expects it, in any locale."""
    return name.decode("utf-8", "surrogateescape")


def open_tar(file: BinaryIO) -> tarfile.TarFile:
    """Open a tar on `file` with the options that formats.md specifies."""
    return tarfile.open(
        fileobj=file,
        mode="w|",
        format=tarfile.PAX_FORMAT,
        encoding="utf-8",
        errors="surrogateescape",
    )


def below(path: bytes) -> list[bytes]:
    """Return everything below the directory `path`, by components compared as text."""
    found, directories = [], [path]
    while directories:
        with os.scandir(directories.pop()) as items:
            for item in items:
                found.append(item.path)
                if item.is_dir(follow_symlinks=False):
                    directories.append(item.path)
    return sorted(found, key=lambda name: text(name).split("/"))


def paths_of(store_paths: Iterable[bytes]) -> Iterator[bytes]:
    """Yield each store path, and everything below it if it is a real directory."""
    for path in store_paths:
        yield path
        if stat.S_ISDIR(os.lstat(path).st_mode):
            yield from below(path)


def tar_info(path: bytes) -> tarfile.TarInfo:
    """Return the entry of the file at `path`, without its owner and time."""
    status = os.lstat(path)
    info = tarfile.TarInfo(text(path))
    info.mode = stat.S_IMODE(status.st_mode)
    if stat.S_ISDIR(status.st_mode):
        info.type = tarfile.DIRTYPE
    elif stat.S_ISLNK(status.st_mode):
        info.type = tarfile.SYMTYPE
        info.linkname = text(os.readlink(path))
    else:
        info.size = status.st_size
    return info


def ancestors(store_dir: str) -> list[tarfile.TarInfo]:
    """Return the entries of the store directory and its ancestors."""
    parts = store_dir.strip("/").split("/")
    infos = []
    for count in range(1, len(parts) + 1):
        info = tarfile.TarInfo("/" + "/".join(parts[:count]))
        info.type = tarfile.DIRTYPE
        info.mode = 0o755
        infos.append(info)
    return [] if store_dir == "/" else infos


def entries(conf: Mapping[str, Any], store_paths: Sequence[bytes]) -> Iterator[tarfile.TarInfo]:
    """Yield all entries of one store layer."""
    for info in [
        *ancestors(conf.get("store_dir", "/nix/store")),
        *(tar_info(path) for path in paths_of(store_paths)),
    ]:
        info.mtime = mtime_of(conf)
        info.uid = int(conf.get("uid", 0))
        info.gid = int(conf.get("gid", 0))
        info.uname = conf.get("uname", "root")
        info.gname = conf.get("gname", "root")
        yield info


def headers(conf: Mapping[str, Any], store_paths: Sequence[bytes]) -> bytes:
    """Return the headers of one store layer, without content, padding and trailer."""
    return b"".join(
        info.tobuf(tarfile.PAX_FORMAT, "utf-8", "surrogateescape")
        for info in entries(conf, store_paths)
    )


def layer(conf: Mapping[str, Any], store_paths: Sequence[bytes]) -> bytes:
    """Return one store layer's bytes."""
    file = io.BytesIO()
    with closing(open_tar(file)) as tar:
        for info in entries(conf, store_paths):
            if info.isreg():
                with open(info.name.encode("utf-8", "surrogateescape"), "rb") as content:
                    tar.addfile(info, content)
            else:
                tar.addfile(info)
    return file.getvalue()


def layers(conf: Mapping[str, Any]) -> list[bytes]:
    """Return all layers of `conf`, bottom to top."""
    found = [
        layer(conf, [path.encode() for path in paths]) for paths in conf.get("store_layers", [])
    ]
    if conf.get("customisation_layer"):
        with open(os.path.join(conf["customisation_layer"], "layer.tar").encode(), "rb") as file:
            found.append(file.read())
    return found


def mtime_of(conf: Mapping[str, Any]) -> int:
    """Return the time of entries in seconds since the epoch."""
    return int(datetime.fromisoformat(conf.get("mtime", created_of(conf))).timestamp())


def created_of(conf: Mapping[str, Any]) -> str:
    """Return the creation time as the image config prints it."""
    return datetime.fromisoformat(conf.get("created", EPOCH_AND_A_SECOND)).isoformat()


def image_config(conf: Mapping[str, Any], contents: Sequence[bytes]) -> bytes:
    """Return the image config for layers of these `contents`."""
    path_lists = list(conf.get("store_layers", []))
    if conf.get("customisation_layer"):
        path_lists.append([conf["customisation_layer"]])
    created = created_of(conf)
    return json.dumps(
        {
            "created": created,
            "architecture": conf["architecture"],
            "os": "linux",
            "config": conf.get("config", {}),
            "rootfs": {
                "diff_ids": ["sha256:" + hashlib.sha256(data).hexdigest() for data in contents],
                "type": "layers",
            },
            "history": [
                {"created": created, "comment": f"store paths: {paths}"} for paths in path_lists
            ],
        },
        indent=4,
    ).encode("ascii")


def archive(conf: Mapping[str, Any], names: Sequence[str]) -> bytes:
    """Return the whole docker-archive, its layers under the given member `names`."""
    contents = layers(conf)
    config = image_config(conf, contents)
    config_name = hashlib.sha256(config).hexdigest() + ".json"
    manifest = [{"Config": config_name, "Layers": list(names), "RepoTags": [conf["repo_tag"]]}]
    members = [
        *zip(names, contents, strict=True),
        (config_name, config),
        ("manifest.json", json.dumps(manifest, separators=(",", ":")).encode("ascii")),
    ]
    file = io.BytesIO()
    with closing(open_tar(file)) as tar:
        for name, data in members:
            info = tarfile.TarInfo(name)
            info.mode = 0o644
            info.mtime = mtime_of(conf)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    return file.getvalue()

"""The inputs: each shape is a set of store paths and a conf that lists them.

Knows confs (their JSON keys) and file contents; must not know how anything is measured.
"""

from __future__ import annotations

import hashlib
import json
import os
import platform
import random
import shutil
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

from bench.installed import STREAM_IMAGE
from bench.references import references_json
from bench.store import mixed_store
from bench.storepaths import Store, StorePath, base_name, remove

_LAYERS = 100
_INSTANT = "1970-01-01T00:00:01+00:00"
_MACHINES = {"x86_64": "amd64", "aarch64": "arm64"}
_MIB = 1 << 20
_MOVED_SCALE = 0.34  # of the mixed store: 1 GB
_MOVED_LAYERS = 60
_TOP_SIZE = 6_000_000  # bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class Shape:
    """A benchmark's input: a conf, and the store paths in it."""

    name: str
    conf: str
    paths: tuple[StorePath, ...]

    @property
    def size(self) -> int:
        """The size of all files, in bytes."""
        return sum(path.size for path in self.paths)

    @property
    def entries(self) -> int:
        """The number of files, directories and links."""
        return sum(path.entries for path in self.paths)

    @property
    def roots(self) -> tuple[str, ...]:
        """The store paths themselves."""
        return tuple(path.path for path in self.paths)


def mixed(directory: str, scale: float) -> Shape:
    """Build programs, libraries, documents, fonts: 300 packages, 3 GB, 60,000 entries."""
    store = Store(os.path.join(directory, "mixed"))
    paths = mixed_store(store, scale)
    layers = [[path] for path in paths[: _LAYERS - 1]]
    if rest := paths[_LAYERS - 1 :]:
        layers.append(rest)
    return _shape(directory, "mixed", scale, layers)


def moved(directory: str, scale: float) -> Shape:
    """Build 1 GB of the mixed store in 60 layers of about the same size; on top is one of 6 MB."""
    store = Store(os.path.join(directory, "mixed"))
    paths = mixed_store(store, scale * _MOVED_SCALE)
    top = min(paths, key=lambda path: (abs(path.size - _TOP_SIZE * scale), path.path))
    layers: list[list[StorePath]] = [[] for _ in range(_MOVED_LAYERS - 1)]
    for path in sorted(paths, key=lambda path: (-path.size, path.path)):
        if path != top:
            min(layers, key=lambda layer: sum(other.size for other in layer)).append(path)
    return _shape(directory, "moved", scale, [*filter(None, layers), [top]])


def hashed(shape: Shape) -> Shape:
    """Return a shape with the hashes of store paths in its conf, as `plan` writes them."""
    with open(shape.conf, encoding="utf-8") as file:
        document = json.load(file)
    conf = shape.conf.removesuffix(".json") + "-hashed.json"
    with open(conf, "w", encoding="utf-8") as file:
        json.dump(document | {"store_path_hashes": _hashes(shape.roots)}, file, indent=1)
    return replace(shape, conf=conf)


def _hashes(paths: Iterable[str]) -> dict[str, str]:
    """Return a hash for each path. It stands for Nix's: a path is never built twice."""
    return {path: f"sha256:{hashlib.sha256(path.encode()).hexdigest()}" for path in sorted(paths)}


@contextmanager
def changed(shape: Shape, directory: str, turn: int) -> Iterator[Shape]:
    """Yield the shape `moved` with another top layer: one more file in it, different each `turn`."""
    store = Store(os.path.join(directory, "mixed"))
    with open(shape.conf, encoding="utf-8") as file:
        document = json.load(file)
    *below, [top] = document["store_layers"]

    def fill(root: str) -> None:
        shutil.copytree(top, root, symlinks=True, dirs_exist_ok=True)
        os.chmod(root, 0o755)
        _write(os.path.join(root, "turn"), b"%d\n" % turn)

    name = f"changed-{os.getpid()}-{turn}"
    path = store.build(name, base_name(hashlib.sha256(name.encode()).digest(), name), fill)
    conf = shape.conf.removesuffix(".json") + "-changed.json"
    document["store_layers"] = [*below, [path.path]]
    if "store_path_hashes" in document:
        document["store_path_hashes"] = _hashes({*shape.roots, path.path} - {top})
    with open(conf, "w", encoding="utf-8") as file:
        json.dump(document, file, indent=1)
    try:
        yield replace(shape, conf=conf, paths=(*shape.paths[:-1], path))
    finally:
        remove(path.path)


def tiny(directory: str, scale: float) -> Shape:
    """Build 200,000 files of 1 KiB in 200 directories of four store paths."""
    store = Store(os.path.join(directory, "tiny"))
    per_directory = max(1, round(1000 * scale))

    def fill(part: int) -> Callable[[str], None]:
        def fill_part(root: str) -> None:
            content = random.Random(part)
            for number in range(50):
                below = os.path.join(root, f"directory-{number:02}")
                os.mkdir(below)
                for file in range(per_directory):
                    _write(os.path.join(below, f"file-{file:04}"), content.randbytes(1024))

        return fill_part

    paths = [_path(store, f"tiny-{per_directory}-{part}", fill(part)) for part in range(4)]
    return _shape(directory, "tiny", scale, [[path] for path in paths])


def big(directory: str, scale: float) -> Shape:
    """Build one file of 4 GiB of random bytes."""
    store = Store(os.path.join(directory, "big"))
    size = max(1, round(4096 * scale))

    def fill(root: str) -> None:
        content = random.Random(size)
        with open(os.path.join(root, "file"), "wb") as file:
            file.writelines(content.randbytes(_MIB) for _ in range(size))

    return _shape(directory, "big", scale, [[_path(store, f"big-{size}", fill)]])


def links(directory: str, scale: float) -> Shape:
    """Build 20,000 symbolic links; every tenth target is too long for a plain tar header."""
    store = Store(os.path.join(directory, "links"))
    count = max(1, round(20_000 * scale))

    def fill(root: str) -> None:
        for number in range(count):
            below = os.path.join(root, f"directory-{number % 20:02}")
            os.makedirs(below, exist_ok=True)
            target = f"../share/{'long-' * 20 if number % 10 == 0 else ''}target-{number}"
            os.symlink(target, os.path.join(below, f"link-{number:05}"))

    return _shape(directory, "links", scale, [[_path(store, f"links-{count}", fill)]])


def join(directory: str, scale: float) -> Shape:
    """Build 50,000 files in 50 contents that share their directories, to be joined at the
    image's root; the image contains only links to them.
    """
    store = Store(os.path.join(directory, "join"))
    per_content = max(1, round(1000 * scale))

    def fill(part: int) -> Callable[[str], None]:
        def fill_part(root: str) -> None:
            for number in range(per_content):
                below = os.path.join(root, "share", f"directory-{number % 20:02}", "data")
                os.makedirs(below, exist_ok=True)
                _write(os.path.join(below, f"file-{part:02}-{number:04}"), b"")

        return fill_part

    paths = [_path(store, f"content-{per_content}-{part}", fill(part)) for part in range(50)]
    shape = _shape(directory, "join", scale, [], contents=[path.path for path in paths])
    return replace(shape, paths=tuple(paths))


def empty(directory: str, scale: float) -> Shape:
    """Build an image without layers."""
    return _shape(directory, "empty", scale, [])


def _path(store: Store, name: str, fill: Callable[[str], None]) -> StorePath:
    seed = hashlib.sha256(name.encode()).digest()
    return store.find(name) or store.build(name, base_name(seed, name), fill)


def _shape(
    directory: str,
    name: str,
    scale: float,
    layers: list[list[StorePath]],
    contents: Sequence[str] = (),
) -> Shape:
    """Write the conf for `layers` and `contents`; it is small, so it is written every time."""
    conf = os.path.join(directory, f"{name}-{scale:g}.json")
    document: dict[str, Any] = {
        "architecture": _MACHINES.get(platform.machine(), platform.machine()),
        "config": {"Cmd": ["/bin/sh"]},
        "os": "linux",
        "store_dir": (
            os.path.dirname(layers[0][0].path) if layers else os.path.join(directory, name, "store")
        ),
        "from_image": None,
        "store_layers": [[path.path for path in layer] for layer in layers],
        "repo_tag": f"bench/{name}:scale-{scale:g}",
        "created": _INSTANT,
        "mtime": _INSTANT,
        "uid": "0",
        "gid": "0",
        "uname": "root",
        "gname": "root",
    }
    if contents:
        document["customisation_layer"] = {"contents": contents}
    with open(conf, "w", encoding="utf-8") as file:
        json.dump(document, file, indent=1)
    paths = tuple(path for layer in layers for path in layer)
    return Shape(name=name, conf=conf, paths=paths)


def _write(path: str, content: bytes) -> None:
    with open(path, "wb") as file:
        file.write(content)


def plan_command(directory: str, count: int) -> tuple[str, ...]:
    """Return our command for the specification `plan_spec`."""
    return (STREAM_IMAGE, "plan", plan_spec(directory, count))


def plan_spec(directory: str, count: int) -> str:
    """Write a specification of a closure of `count` empty store paths, and return its path."""
    place = os.path.join(directory, f"plan-{count}")
    store, graph, spec = (
        os.path.join(place, name) for name in ("store", "graph.json", "spec.json")
    )
    if not os.path.exists(spec):
        os.makedirs(store, exist_ok=True)
        data = references_json(count).replace(b"/nix/store", store.encode())
        with open(graph, "wb") as file:
            file.write(data)
        closure = json.loads(data)
        for item in closure:
            os.makedirs(item["path"], exist_ok=True)
        referred = {other for item in closure for other in item["references"]}
        document = {
            "name": "plan",
            "store_dir": store,
            "references_graph": graph,
            "contents": [item["path"] for item in closure if item["path"] not in referred],
        }
        with open(spec, "w", encoding="utf-8") as file:
            json.dump(document, file)
    return spec

"""Archives as inputs: built once from the mixed store, then used as a base, merged, exported.

The contenders are existing tools: tar, openssl, umoci and podman. Each of our commands
verifies every layer's digest; of the others, only umoci does.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from bench import shapes
from bench.contenders import stream_command
from bench.installed import STREAM_IMAGE
from bench.measure import Contender
from bench.shapes import Shape

COMPRESSIONS = ("none", "gzip:1", "zstd:3", "zstd-seekable:3")
_SUFFIXES = {"none": "", "gzip": ".gz", "zstd": ".zst", "zstd-seekable": ".seekable.zst"}
_BASE_SCALE = 0.65  # 2 GB
# An empty store in its own directory; $c is a container of the image.
_PODMAN_LOADED = """
    d=$(mktemp -d -p "$0")
    podman="podman --root $d/root --runroot $d/run --storage-driver overlay \\
        --events-backend none --cgroup-manager cgroupfs"
    trap 'umount "$d/root/overlay" || true; rm -rf "$d"' EXIT
    $podman load -q -i "$1" >&2
    c=$($podman create --network none "localhost/$2" true)"""


def base_shape(directory: str, scale: float) -> Shape:
    """Return the shape that the base image is built from."""
    return shapes.mixed(directory, scale * _BASE_SCALE)


def archive(shape: Shape, compression: str = "none", *, oci: bool = False) -> str:
    """Return the path of a shape's image, which is built if it does not exist."""
    suffix = _SUFFIXES[compression.partition(":")[0]]
    path = shape.conf.removesuffix(".json") + (".oci" if oci else "") + ".tar" + suffix
    if not os.path.exists(path):
        output = ("-o", path, "--compress", compression)
        form = ("--format", "oci-archive") if oci else ()
        subprocess.run([*stream_command(shape), *output, *form], check=True)
    return path


def on_base(shape: Shape, base: str) -> tuple[str, ...]:
    """Return our command for an image that adds nothing to the base image `base`."""
    with open(shape.conf, encoding="utf-8") as file:
        conf = json.load(file)
    conf |= {"from_image": base, "store_layers": []}
    path = f"{base}.conf.json"
    with open(path, "w", encoding="utf-8") as file:
        json.dump(conf, file)
    return (STREAM_IMAGE, "-q", path)


@contextmanager
def work(directory: str) -> Iterator[str]:
    """Yield a directory for files that the other tools leave behind; it is removed at the end."""
    path = tempfile.mkdtemp(prefix="work-", dir=directory)
    try:
        yield path
    finally:
        shutil.rmtree(path)


def _ours(verb: str, *arguments: str) -> tuple[str, ...]:
    return (STREAM_IMAGE, verb, "-q", *arguments)


def _script(text: str, *arguments: str) -> tuple[str, ...]:
    return ("sh", "-euc", text, *arguments)


def mergers(one: str, two: str, work: str) -> list[Contender]:
    """Return ourselves, and a script that unpacks both and packs the result; it does not even
    make a manifest.
    """
    text = (
        'd=$(mktemp -d -p "$0"); trap \'rm -rf "$d"\' EXIT;'
        ' for a; do tar -xf "$a" -C "$d"; done; tar -cf - -C "$d" .'
    )
    return [
        Contender(name="stream merge", pipeline=(_ours("merge", one, two),)),
        Contender(name="untar and tar", pipeline=(_script(text, work, one, two),)),
    ]


def exporters(shape: Shape, work: str, programs: Sequence[str]) -> list[Contender]:
    """Return ourselves, and those of `programs` that turn an image into a root file system."""
    path = archive(shape)
    found = [Contender(name="stream export", pipeline=(_ours("export", path),))]
    if "umoci" in programs:
        layout = os.path.join(work, "layout")
        os.makedirs(layout)
        subprocess.run(["tar", "-xf", archive(shape, oci=True), "-C", layout], check=True)
        text = 'd=$(mktemp -d -p "$0"); umoci raw unpack --image "$1" "$d/root" && rm -rf "$d"'
        with open(os.path.join(layout, "index.json"), encoding="utf-8") as file:
            (manifest,) = json.load(file)["manifests"]
        tag = manifest["annotations"]["org.opencontainers.image.ref.name"]
        image = f"{layout}:{tag}"
        found.append(Contender(name="umoci raw unpack", pipeline=(_script(text, work, image),)))
    if "podman" in programs:
        whole = _script(f"{_PODMAN_LOADED}; $podman export $c", work, path, _tag(shape))
        found.append(Contender(name="podman load, export", pipeline=(whole,)))
    return found


def _tag(shape: Shape) -> str:
    with open(shape.conf, encoding="utf-8") as file:
        tag: str = json.load(file)["repo_tag"]
    return tag

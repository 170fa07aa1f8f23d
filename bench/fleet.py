"""The benchmark fleet: 300 images that share layers as the eight of the replay do, to a registry.

Each is a service of its own on the packages of one of the eight, in a repository of its own. One process
pushes all. Of a sample, it is compared with a push for each image, and with skopeo. Sizes are a fraction
of the packages', so that all of it takes two minutes.
"""

from __future__ import annotations

import hashlib
import json
import os
import random
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from itertools import count, islice
from typing import Any

from bench import histories
from bench.installed import STREAM_IMAGE
from bench.options import Options
from bench.places import Moved, opened_registry
from bench.report import Section, markdown
from bench.storepaths import Store, StorePath, base_name
from stream.graph import Node
from stream.strategies.stable import stable

IMAGES = 300
_SAMPLE = 16  # images that are pushed one by one: two services on each of the eight
_LAYERS = 64
_SCALE = 0.02  # of the packages' sizes
_FILE = 16_000  # bytes
_APP_SIZE = 100_000
_CONFIG_SIZE = 4_000
# $1 is stream-image, $2 the registry's address; then come confs.
_TOGETHER = """
    stream_image=$1 registry=$2; shift 2
    printf '%s\\n' "$@" | "$stream_image" push-all -q --compress zstd:1 - "$registry\""""
_ONE_BY_ONE = """
    stream_image=$1 registry=$2; shift 2
    for conf; do
        name=$(basename "$conf" .json)
        "$stream_image" push -q --compress zstd:1 "$conf" "$registry/$name:v1"
    done"""
_SKOPEO = """
    stream_image=$1 registry=$2; shift 2
    for conf; do
        name=$(basename "$conf" .json)
        "$stream_image" -q "$conf" -o /run/tmp/image.tar
        skopeo --insecure-policy copy -q --dest-tls-verify=false --dest-compress-format=zstd \\
            --dest-compress-level=1 docker-archive:/run/tmp/image.tar "docker://$registry/$name:v1"
    done"""
SAMPLED = {
    "push-all of the sample": _TOGETHER,
    "push one by one": _ONE_BY_ONE,
    "skopeo one by one": _SKOPEO,
}
_HEADINGS = (
    "contender", "images", "s", "s an image", "CPU s", "registry CPU s", "MB", "requests", "peak MiB"
)  # fmt: skip


@dataclass(frozen=True, slots=True, kw_only=True)
class _Fleet:
    """The directory of the confs, and their paths in the order in which they are pushed."""

    directory: str
    confs: tuple[str, ...]
    layers: int  # of all images
    distinct: int
    size: int  # bytes of the distinct layers' files


def fleet(options: Options) -> Section:
    """Push the images, all in one process, one by one, and with skopeo."""
    made = _build(options.directory, max(8, round(IMAGES * options.scale)))
    images = len(made.confs)
    few = made.confs[: min(_SAMPLE, images)]
    taken: dict[str, tuple[int, Moved]] = {}
    with opened_registry() as place:
        for name in ("push-all", "push-all again"):
            taken[name] = images, place.move(_all(made.directory, place.address))
    for name, script in SAMPLED.items():
        if options.only is None or name in options.only:
            with opened_registry() as place:
                taken[name] = len(few), place.move(_script(script, place.address, few))
    section = Section(
        title=f"fleet: {images} images, {made.layers:,} layers, {made.distinct:,} of them distinct,"
        f" {made.size / 1e6:.0f} MB"
    )
    section.lines = _table(taken)
    section.numbers = {
        name: {"images": pushed, **asdict(moved)} for name, (pushed, moved) in taken.items()
    }
    return section


def _all(directory: str, address: str) -> tuple[str, ...]:
    return (STREAM_IMAGE, "push-all", "-q", "--compress", "zstd:1", directory, address)


def _script(text: str, address: str, confs: Sequence[str]) -> tuple[str, ...]:
    return ("sh", "-euc", text, "sh", STREAM_IMAGE, address, *confs)


def _table(taken: dict[str, tuple[int, Moved]]) -> list[str]:
    rows = [list(_HEADINGS)]
    for name, (pushed, moved) in taken.items():
        rows.append([
            name,
            str(pushed),
            f"{moved.run.seconds:.1f}",
            f"{moved.run.seconds / pushed:.3f}",
            f"{moved.run.cpu_seconds:.1f}",
            f"{moved.daemon_cpu_seconds:.1f}",
            f"{moved.network_bytes / 1e6:.0f}",
            f"{moved.requests:,}",
            f"{moved.run.peak_rss / (1 << 20):.0f}",
        ])  # fmt: skip
    return markdown(rows)


# ---- the images


def _build(directory: str, images: int) -> _Fleet:
    """Build the store paths, once, and write the confs."""
    place = os.path.join(directory, "fleet")
    confs = os.path.join(place, f"confs-{images}")
    os.makedirs(confs, exist_ok=True)
    store = Store(place)
    built: dict[str, StorePath] = {}
    layers: list[tuple[str, ...]] = []
    paths = []
    for name, sizes, plan in islice(_services(), images):
        for path in sorted(sizes):
            if path not in built:
                built[path] = _path(store, path, sizes[path])
        layers += map(tuple, plan)
        conf = os.path.join(confs, f"{name}.json")
        document = _conf(store, name, [[built[path].path for path in layer] for layer in plan])
        with open(conf, "w", encoding="utf-8") as file:
            json.dump(document, file)
        paths.append(conf)
    return _Fleet(
        directory=confs,
        confs=tuple(paths),
        layers=len(layers),
        distinct=len({tuple(sorted(layer)) for layer in layers}),
        size=sum(path.size for path in built.values()),
    )


def _services() -> Iterator[tuple[str, dict[str, int], list[list[str]]]]:
    """Yield the names of services, the size of each store path of theirs, and their layers: those of
    one of the eight images, in turn, and one for the service and one for its configuration.
    """
    judged = histories.present(histories.JUDGED)
    sizes: dict[str, dict[str, int]] = {}
    plans: dict[str, list[list[str]]] = {}
    for image, packages in judged.images.items():
        paths = {name: _name(f"{name}-{one.version}") for name, one in packages.items()}
        graph = {
            paths[name]: Node(
                size=max(1, round(one.size * _SCALE)),
                references=frozenset(paths[need] for need in one.needs),
            )
            for name, one in packages.items()
        }
        sizes[image] = {path: node.size for path, node in graph.items()}
        plans[image] = stable(graph, [paths[root] for root in judged.roots[image]], _LAYERS - 2)
    for number in count():
        for image, plan in plans.items():
            own = {
                _name(f"{image}-{number:02}"): _APP_SIZE,
                _name(f"{image}-{number:02}-config"): _CONFIG_SIZE,
            }
            yield f"{number:02}-{image}", sizes[image] | own, [*plan, *([path] for path in own)]


def _name(name: str) -> str:
    return base_name(hashlib.sha256(name.encode()).digest(), name)


def _path(store: Store, name: str, size: int) -> StorePath:
    """Return a store path of files that compress to about half of their `size` in total."""

    def fill(root: str) -> None:
        content = random.Random(name)
        left, number = size, 0
        while left > 0:
            count = min(left, _FILE)
            below = os.path.join(root, f"directory-{number // 50}")
            os.makedirs(below, exist_ok=True)
            with open(os.path.join(below, f"file-{number:04}"), "wb") as file:
                file.write(content.randbytes((count + 1) // 2).hex().encode()[:count])
            left -= count
            number += 1

    return store.find(name) or store.build(name, name, fill)


def _conf(store: Store, name: str, layers: list[list[str]]) -> dict[str, Any]:
    return {
        "architecture": "amd64",
        "config": {"Cmd": ["/bin/sh"]},
        "store_dir": store.store_dir,
        "store_layers": layers,
        "repo_tag": f"{name}:v1",
        "created": "1970-01-01T00:00:01+00:00",
        "mtime": "1970-01-01T00:00:01+00:00",
    }

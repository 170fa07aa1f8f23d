"""The benchmarks push, fresh, load and serve: an image that is all new, unchanged, or has one new layer.

Each contender starts in each round with an empty registry or engine and empty caches, and moves the
three in turn. In fresh, all caches are emptied between pushes: the registry is all that remembers.
The page cache is warm, and everything that is written goes to memory.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from dataclasses import asdict
from functools import partial
from statistics import median
from typing import Any

from bench import shapes
from bench.movers import FRESH_PUSHERS, LOADERS, PULLERS, PUSHERS, Mover
from bench.options import Options
from bench.places import ENGINES, Moved, Place, opened_engine, opened_registry
from bench.report import Section, markdown, verdict

CASES = ("everything", "unchanged", "one layer")
FRESH_CASES = ("unchanged there", "one layer there")
_HEADINGS = (
    "contender", "median s", "min-max s", "CPU s", "daemon CPU s", "MB", "requests", "peak MiB", "target",
)  # fmt: skip
# Seconds, by contender and case.
LIMITS = {
    ("push zstd:1", "everything"): 3.5,
    ("push zstd:1", "unchanged"): 0.25,
    ("push zstd:1", "one layer"): 0.3,
    **{(f"load {engine}", "unchanged"): 0.3 for engine in ENGINES},
    ("load docker", "one layer"): 0.7,
    ("load podman", "one layer"): 1.2,
    ("load containerd", "one layer"): 0.6,
    ("push zstd:1 remembered", "one layer there"): 0.4,
    ("push zstd:1 sealed", "one layer there"): 0.4,
}

Open = Callable[[], AbstractContextManager[Place]]
Taken = dict[str, dict[str, list[Moved]]]
"""By case, then by contender."""


def push(options: Options) -> Section:
    """Compare pushing to a registry on loopback."""
    return _compare("push", {"registry": (opened_registry, PUSHERS)}, options)


def fresh(options: Options) -> Section:
    """Compare pushing from a machine that has never seen the image, which another one has pushed."""
    shape = shapes.hashed(shapes.moved(options.directory, options.scale))
    chosen = _chosen(FRESH_PUSHERS, options)
    taken: Taken = {case: {name: [] for name in chosen} for case in FRESH_CASES}
    for turn in range(options.runs):
        for name, mover in chosen.items():
            with (
                opened_registry() as place,
                shapes.changed(shape, options.directory, turn) as changed,
            ):
                place.move(mover(shape.conf, place.address))
                for case, conf in zip(FRESH_CASES, (shape.conf, changed.conf), strict=True):
                    place.forget()
                    taken[case][name].append(place.move(mover(conf, place.address)))
    section = Section(
        title=f"fresh: {_described(shape)}; each time on a machine that knows nothing"
    )
    for case, by_name in taken.items():
        section.lines += [f"{case}:", "", *_table(case, by_name, options.scale), ""]
    section.numbers = {case: _records(by_name) for case, by_name in taken.items()}
    return section


def load(options: Options) -> Section:
    """Compare loading into each engine."""
    groups = {name: (partial(opened_engine, name), LOADERS[name]) for name in ENGINES}
    return _compare("load", groups, options)


def serve(options: Options) -> Section:
    """Compare each engine's pull from us with its own load."""
    groups = {name: (partial(opened_engine, name), PULLERS[name]) for name in ENGINES}
    return _compare("serve", groups, options)


def _compare(
    title: str, groups: Mapping[str, tuple[Open, Mapping[str, Mover]]], options: Options
) -> Section:
    shape = shapes.moved(options.directory, options.scale)
    section = Section(title=f"{title}: {_described(shape)}")
    for group, (opened, movers) in groups.items():
        chosen = _chosen(movers, options)
        if not chosen:
            continue
        taken: Taken = {case: {name: [] for name in chosen} for case in CASES}
        for turn in range(options.runs):
            for name, mover in chosen.items():
                with opened() as place, shapes.changed(shape, options.directory, turn) as changed:
                    for case, conf in zip(
                        CASES, (shape.conf, shape.conf, changed.conf), strict=True
                    ):
                        taken[case][name].append(place.move(mover(conf, place.address)))
        for case, by_name in taken.items():
            section.lines += [f"{group}, {case}:", "", *_table(case, by_name, options.scale), ""]
        section.numbers[group] = {case: _records(by_name) for case, by_name in taken.items()}
    return section


def _chosen(movers: Mapping[str, Mover], options: Options) -> dict[str, Mover]:
    only = options.only
    return {name: mover for name, mover in movers.items() if only is None or name in only}


def _described(shape: shapes.Shape) -> str:
    top = shape.paths[-1].size / 1e6
    return (
        f"{shape.size / 1e9:.2f} GB, {shape.entries:,} entries, 60 layers, then one of"
        f" {top:.1f} MB changed"
    )


def _records(by_name: Mapping[str, list[Moved]]) -> dict[str, list[dict[str, Any]]]:
    return {name: [asdict(moved) for moved in taken] for name, taken in by_name.items()}


def _table(case: str, by_name: Mapping[str, list[Moved]], scale: float) -> list[str]:
    rows = [list(_HEADINGS)]
    for name, taken in by_name.items():
        seconds = sorted(moved.run.seconds for moved in taken)
        limit = LIMITS.get((name, case)) if scale == 1 else None
        target = "" if limit is None else verdict(f"≤ {limit:g} s", met=median(seconds) <= limit)
        rows.append([
            name,
            f"{median(seconds):.2f}",
            f"{seconds[0]:.2f}-{seconds[-1]:.2f}",
            f"{median(moved.run.cpu_seconds for moved in taken):.2f}",
            f"{median(moved.daemon_cpu_seconds for moved in taken):.2f}",
            f"{median(moved.network_bytes for moved in taken) / 1e6:.1f}",
            f"{median(moved.requests for moved in taken):.0f}",
            f"{max(moved.run.peak_rss for moved in taken) / (1 << 20):.0f}",
            target,
        ])  # fmt: skip
    return markdown(rows)

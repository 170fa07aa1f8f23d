"""Judge planners by histories: each week the images are planned again, and new layers are pushed.

A planner gets the graph, its roots and the layer budget; `stable` also gets its own plan of the
previous week. None sees the history. Must not know package lists.
"""

from __future__ import annotations

import hashlib
import random
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field
from datetime import date
from functools import partial

from bench import histories
from bench.histories import Histories, Package
from bench.report import Section, markdown, verdict
from bench.storepaths import base_name
from stream.graph import Graph, Node
from stream.strategies.auto import auto
from stream.strategies.popularity import popularity
from stream.strategies.stable import stable

Plan = list[list[str]]
Planner = Callable[[Graph, list[str], int, Plan | None], Plan]

_START = date(2023, 6, 12)  # the release's first two years begin here
_WEEKS = 104
_BUDGETS = (24, 64, 100, 125)
_APP_SIZE = 5_000_000
_CONFIG_SIZE = 4_000
_LIMITS = {24: 1.25, 64: 1.08, 100: 1.04}  # of `stable` over one path per layer
_EVERY_PATH = "one path per layer"


@dataclass(frozen=True, slots=True, kw_only=True)
class _Mode:
    """A mode of updating. `rebuilt`: dependents of a changed path also get new hashes. `drift`:
    the largest relative change of an updated path's size.
    """

    rebuilt: bool
    drift: float


_MODES = {
    "rebuilt": _Mode(rebuilt=True, drift=0),
    "content-addressed": _Mode(rebuilt=False, drift=0),
    "rebuilt, sizes ± 3 %": _Mode(rebuilt=True, drift=0.03),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class _Outcome:
    """Bytes pushed after the first week; sizes of the last week's and of all layers, by name."""

    pushed: int
    last: dict[str, int]
    all: dict[str, int]


@dataclass(slots=True, kw_only=True)
class _Sum:
    """The sum over all images for one planner, budget and mode."""

    pushed: dict[str, int] = field(default_factory=dict)
    last: dict[str, int] = field(default_factory=dict)
    all: dict[str, int] = field(default_factory=dict)

    def add(self, image: str, outcome: _Outcome) -> None:
        """Add an image; a layer shared with another image counts once."""
        self.pushed[image] = outcome.pushed
        self.last |= outcome.last
        self.all |= outcome.all


PLANNERS: dict[str, Planner] = {
    "stable": lambda graph, roots, budget, _: stable(graph, roots, budget),
    "stable, previous": stable,
    "auto": lambda graph, _, budget, __: auto(graph, budget),
    "popularity": lambda graph, _, budget, __: popularity(graph, budget),
}


def repushed(directory: str, weeks: int = _WEEKS) -> Section:
    """Return the table of all planners, budgets and modes."""
    judged = histories.histories(directory, histories.JUDGED)
    sums: dict[tuple[str, str, int], _Sum] = {}
    tasks = [(mode, image) for mode in _MODES for image in judged.images]
    with ProcessPoolExecutor() as pool:
        for (mode, image), found in zip(
            tasks, pool.map(partial(_judge, judged, weeks), tasks), strict=True
        ):
            for (planner, budget), outcome in found.items():
                sums.setdefault((mode, planner, budget), _Sum()).add(image, outcome)
    section = Section(
        title=f"layering: {len(judged.images)} images, {weeks} weeks from {_START}",
        lines=[
            "Bytes relative to one path per layer: pushed again (all images, the worst one), and",
            "held by a registry for the images of the last week (in brackets: of all weeks).",
            "",
        ],
    )
    rows = [["mode", "layers", "planner", "pushed", "worst", "registry", "targets of stable"]]
    for mode in _MODES:
        lower = sums[mode, _EVERY_PATH, 0]
        for budget in _BUDGETS:
            theirs = sums[mode, "auto", budget]
            for planner in PLANNERS:
                ours = sums[mode, planner, budget]
                pushed = _ratio(ours.pushed, lower.pushed)
                worst = max((ours.pushed[i] / lower.pushed[i], i) for i in ours.pushed)
                targets = []
                if planner.startswith("stable") and weeks == _WEEKS:
                    if budget in _LIMITS:
                        limit = _LIMITS[budget]
                        targets.append(verdict(f"≤ {limit}", met=pushed <= limit))
                    more = [i for i in ours.pushed if ours.pushed[i] > theirs.pushed[i]]
                    targets.append(verdict(" ".join(["≤ auto on all", *more]), met=not more))
                    met = _ratio(ours.last, theirs.last) <= 1
                    targets.append(verdict("registry ≤ auto", met=met))
                rows.append([
                    mode,
                    str(budget),
                    planner,
                    f"{pushed:.3f}",
                    f"{worst[0]:.3f} {worst[1]}",
                    f"{_ratio(ours.last, lower.last):.3f} ({_ratio(ours.all, lower.all):.3f})",
                    ", ".join(targets),
                ])  # fmt: skip
                section.numbers[f"{mode} {budget} {planner}"] = {
                    "pushed": ours.pushed, "registry": sum(ours.last.values()),
                }  # fmt: skip
    section.lines += markdown(rows)
    return section


def _ratio(ours: dict[str, int], theirs: dict[str, int]) -> float:
    return sum(ours.values()) / sum(theirs.values())


def _judge(judged: Histories, weeks: int, task: tuple[str, str]) -> dict[tuple[str, int], _Outcome]:
    """Run all planners and budgets on one image in one mode."""
    mode, image = task
    builds = list(_builds(judged, image, weeks, _MODES[mode]))
    found = {(_EVERY_PATH, 0): _replay(lambda graph, *_: [[path] for path in graph], 0, builds)}
    for name, planner in PLANNERS.items():
        for budget in _BUDGETS:
            found[name, budget] = _replay(planner, budget, builds)
    return found


def _replay(planner: Planner, budget: int, builds: list[tuple[Graph, list[str]]]) -> _Outcome:
    pushed = 0
    last: dict[str, int] = {}
    seen: dict[str, int] = {}
    plan: Plan | None = None
    for week, (graph, roots) in enumerate(builds):
        plan = planner(graph, roots, budget, plan)
        paths = sorted(path for layer in plan for path in layer)
        if paths != sorted(graph) or (budget and len(plan) > budget):
            raise AssertionError("a planner lost a path or exceeded the budget")
        last = {_layer(layer): sum(graph[path].size for path in layer) for layer in plan}
        pushed += sum(size for layer, size in last.items() if week and layer not in seen)
        seen |= last
    return _Outcome(pushed=pushed, last=last, all=seen)


def _layer(paths: list[str]) -> str:
    return hashlib.sha256("\n".join(sorted(paths)).encode()).hexdigest()


def _builds(
    judged: Histories, image: str, weeks: int, mode: _Mode
) -> Iterator[tuple[Graph, list[str]]]:
    """Yield the image of each week, as a graph and its roots."""
    app, config = f"{image}-app", f"{image}-config"
    packages = dict(judged.images[image])
    packages[app] = Package(
        source=app, version="1", size=_APP_SIZE, needs=frozenset(judged.roots[image])
    )
    packages[config] = Package(
        source=config, version="1", size=_CONFIG_SIZE, needs=frozenset({app})
    )
    closures = {name: sorted(_closure(packages, name)) for name in packages}
    for week in range(weeks + 1):
        # The application changes in three weeks of four, its configuration in every second one.
        updates = {app: week * 3 // 4, config: week // 2}
        for package in packages.values():
            if package.source not in updates:
                days = [(day - _START).days for day in judged.changes[package.source]]
                updates[package.source] = sum(0 <= day < 7 * week for day in days)
        paths = {}
        for name, package in packages.items():
            causes = closures[name] if mode.rebuilt else [name]
            text = name + "".join(f" {cause} {updates[packages[cause].source]}" for cause in causes)
            seed = hashlib.sha256(text.encode()).digest()
            version = f"{_upstream(package.version)}-{updates[package.source]}"
            paths[name] = f"/nix/store/{base_name(seed, f'{name}-{version}')}"
        graph = {
            paths[name]: Node(
                size=_drifted(package.size, paths[name], mode.drift),
                references=frozenset(paths[need] for need in package.needs),
            )
            for name, package in packages.items()
        }
        yield graph, [paths[app], paths[config]]


def _upstream(version: str) -> str:
    """Return a Debian version without epoch and revision, as in names of store paths."""
    version = version.rpartition(":")[2]
    return version.rpartition("-")[0] or version


def _drifted(size: int, path: str, drift: float) -> int:
    """Return the size of a version, derived from its name, so that a rebuild keeps it."""
    name = path.rpartition("/")[2].partition("-")[2]
    return round(size * (1 + drift * random.Random(name).uniform(-1, 1)))


def _closure(packages: dict[str, Package], name: str) -> set[str]:
    found = {name}
    waiting = [name]
    while waiting:
        needs = packages[waiting.pop()].needs - found
        found |= needs
        waiting += needs
    return found

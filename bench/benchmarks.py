"""The benchmarks. To add one, write a function from `Options` to `Section` and list it in BENCHMARKS."""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Callable
from dataclasses import asdict
from functools import partial
from statistics import median

from bench import archives, check, fleet, measure, references, report, shapes, transfers
from bench.contenders import (
    BEFORE,
    COMPRESSORS,
    IMAGES,
    KNOWN,
    KNOWN_LIMITS,
    RATIO_LIMITS,
    US,
    before,
    compressors,
    contenders,
    joiners,
    knowing,
    stream_command,
)
from bench.options import Options
from bench.replay import repushed
from bench.report import Section, verdict
from stream.graph import Graph, roots
from stream.nix.references import parse_references
from stream.planning.plan import Plan
from stream.planning.plan import plan as plan_conf
from stream.planning.spec import parse_spec
from stream.strategies.auto import auto
from stream.strategies.popularity import popularity
from stream.strategies.program import pipeline
from stream.strategies.stable import stable

_MIB = 1 << 20
_RSS_LIMIT = 64 * _MIB
_RSS_SPREAD = 4 * _MIB  # allowed difference between a tenth and full size
_START_LIMIT = 0.100
_STARTS = 20
_BASE_LIMIT = 1.3  # of the time of `cat base | openssl sha256`
_JOIN_LIMIT = 0.75  # of the time of a link farm, in memory, and tar
_PLAN_LIMITS = {1_000: 0.15, 10_000: 1.0}  # seconds, by store paths
_PLAN_BUDGET = 99
_EVALUATION_LIMIT = 1.5  # seconds
_COMMAND = "the command"
_KNOWN_CPU_LIMIT = 1.0  # seconds
_STORE_LIMIT = 1.1  # of the time of one more `cat` in the pipe


def compare(build: Callable[[str, float], shapes.Shape], options: Options) -> Section:
    """Measure all contenders on one shape."""
    shape = build(options.directory, options.scale)
    section = Section(
        title=f"{shape.name}: {shape.size / 1e9:.2f} GB, {shape.entries:,} entries,"
        f" {len(shape.paths)} store paths"
    )
    running = contenders(shape, options.only)
    running += before(options.before, stream_command(shape))
    taken = measure.measure(running, options.runs, options.slow_runs)
    targets = {}
    if ours := taken.get(US):
        peak = max(run.peak_rss for run in ours)
        targets[US] = verdict(f"≤ {_RSS_LIMIT // _MIB} MiB", met=peak <= _RSS_LIMIT)
        for (name, against), limit in RATIO_LIMITS.items():
            if options.scale == 1 and name == shape.name and taken.get(against):
                reached = report.ratio(ours, taken[against])
                text = f"≤ {limit:g}" + (
                    f" ({1 / reached:.1f} times as fast)" if limit < 0.5 else ""
                )
                targets[against] = verdict(text, met=reached <= limit)
    section.lines = report.table(taken, us=US, size=shape.size, targets=targets)
    section.numbers = {
        "bytes": shape.size,
        "entries": shape.entries,
        "runs": report.numbers(taken),
        "targets": targets,
    }
    if options.check:
        _compare_images(section, running)
    return section


def known(options: Options) -> Section:
    """Compare ourselves on the mixed store, with all digests known, with tools that do not hash and
    tools that do. The first run finds the cache empty.
    """
    shape = shapes.mixed(options.directory, options.scale)
    with archives.work(options.directory) as cache:
        running = knowing(shape, cache)
        first = measure.run(running[0].pipeline)
        running += before(options.before, stream_command(shape))
        taken = measure.measure(running, options.runs, options.slow_runs)
    ours = taken[KNOWN]
    peak, cpu = max(run.peak_rss for run in ours), median(run.cpu_seconds for run in ours)
    targets = {}
    if options.scale == 1:
        met = peak <= _RSS_LIMIT and cpu <= _KNOWN_CPU_LIMIT
        text = f"≤ {_RSS_LIMIT // _MIB} MiB, ≤ {_KNOWN_CPU_LIMIT:g} CPU s"
        targets[KNOWN] = verdict(text, met=met)
        for name, limit in KNOWN_LIMITS.items():
            reached = report.ratio(ours, taken[name])
            text = f"≤ {limit:.2g} ({1 / reached:.1f} times as fast)"
            targets[name] = verdict(text, met=reached <= limit)
    section = Section(title=f"known: {shape.size / 1e9:.2f} GB, all digests known")
    section.lines = report.table(taken, us=KNOWN, size=shape.size, targets=targets)
    section.lines += ["", f"with the cache still empty: {first.seconds:.2f} s"]
    if BEFORE in taken:
        reached = report.ratio(taken[US], taken[BEFORE])
        section.lines += ["", f"without known digests ÷ before: {reached:.3f}"]
    section.numbers = {
        "bytes": shape.size,
        "first": asdict(first),
        "runs": report.numbers(taken),
        "targets": targets,
    }
    return section


def _compare_images(section: Section, running: list[measure.Contender]) -> None:
    """Read and verify each image, and compare their IDs."""
    ids = {c.name: check.image_id(c.pipeline[0]) for c in running if c.name in IMAGES}
    section.failed = len(set(ids.values())) > 1
    section.numbers["image_ids"] = ids
    section.lines += ["", *(f"image ID {image_id} of {name}" for name, image_id in ids.items())]
    if len(ids) > 1:
        section.lines.append(f"image IDs {'DIFFER' if section.failed else 'are equal'}")


def memory(options: Options) -> Section:
    """Compare our peak memory on a tenth of the mixed store with that on the whole."""
    peaks = []
    for scale in (options.scale / 10, options.scale):
        shape = shapes.mixed(options.directory, scale)
        runs = [measure.run((stream_command(shape),)) for _ in range(options.runs)]
        peaks.append(max(run.peak_rss for run in runs))
    tenth, full = peaks
    text = f"{tenth / _MIB:.1f} MiB at a tenth, {full / _MIB:.1f} MiB at full size"
    met = full <= _RSS_LIMIT and abs(full - tenth) <= _RSS_SPREAD
    target = f"≤ {_RSS_LIMIT // _MIB} MiB and within {_RSS_SPREAD // _MIB} MiB of each other"
    return Section(
        title="memory: peak resident set on the mixed store",
        lines=[f"{text}; target {verdict(target, met=met)}"],
        numbers={"tenth": tenth, "full": full},
    )


def start(options: Options) -> Section:
    """Measure the time from the spawn to the first byte of an empty image."""
    command = stream_command(shapes.empty(options.directory, options.scale))
    measure.first_byte(command)
    times = sorted(measure.first_byte(command) for _ in range(_STARTS))
    text = f"median {median(times) * 1e3:.0f} ms, {times[0] * 1e3:.0f}-{times[-1] * 1e3:.0f} ms"
    target = verdict(f"< {_START_LIMIT * 1e3:.0f} ms", met=median(times) < _START_LIMIT)
    return Section(
        title=f"start: first byte of an empty image, {_STARTS} runs",
        lines=[f"{text}; target {target}"],
        numbers={"seconds": times},
    )


def compress(options: Options) -> Section:
    """Compare each compression with a program in a pipe, on a tenth of the mixed store."""
    shape = shapes.mixed(options.directory, options.scale / 10)
    section = Section(title=f"compress: {shape.size / 1e9:.2f} GB of the mixed store")
    for compression in COMPRESSORS:
        ours, other = compressors(shape, compression)
        taken = measure.measure([ours, other], options.runs, options.runs)
        sizes = {c.name: measure.output_size(c.pipeline) for c in (ours, other)}
        reached = report.ratio(taken[ours.name], taken[other.name])
        limit = _STORE_LIMIT if compression == "store" else 1
        targets = {other.name: verdict(f"≤ {limit:g}", met=reached <= limit)}
        section.lines += [
            *report.table(taken, us=ours.name, size=shape.size, targets=targets),
            ", ".join(f"{name}: {size / 1e6:.1f} MB" for name, size in sizes.items()),
            "",
        ]
        section.numbers[compression] = {"runs": report.numbers(taken), "sizes": sizes}
    return section


def base(options: Options) -> Section:
    """Compare copying and verifying a base image with reading and hashing it; report memory too."""
    shape = archives.base_shape(options.directory, options.scale)
    plain = archives.archive(shape)
    size = os.path.getsize(plain)
    taken = measure.measure(
        [
            measure.Contender(name=US, pipeline=(archives.on_base(shape, plain),)),
            measure.Contender(
                name="cat | openssl", pipeline=(("cat", plain), ("openssl", "sha256"))
            ),
        ],
        options.runs,
        options.runs,
    )
    reached = report.ratio(taken[US], taken["cat | openssl"])
    targets = {
        "cat | openssl": verdict(f"≤ {_BASE_LIMIT:g}", met=reached <= _BASE_LIMIT),
    }
    section = Section(title=f"base: a base image of {size / 1e9:.2f} GB")
    section.lines = report.table(taken, us=US, size=size, targets=targets)
    section.numbers = {"bytes": size, "runs": report.numbers(taken), "targets": targets}
    section.lines += ["", "| base | s | peak MiB |", "| ---- | - | -------- |"]
    for compression in archives.COMPRESSIONS:
        path = archives.archive(shape, compression)
        run = measure.run((archives.on_base(shape, path),))
        section.lines.append(
            f"| {compression}, {os.path.getsize(path) / 1e9:.2f} GB | {run.seconds:.2f}"
            f" | {run.peak_rss / _MIB:.0f} |"
        )
        section.numbers[compression] = asdict(run)
    return section


def merge(options: Options) -> Section:
    """Compare merging two images that share most layers with unpacking both and packing again."""
    one = shapes.mixed(options.directory, options.scale / 10)
    two = shapes.mixed(options.directory, options.scale / 5)
    paths = [archives.archive(shape) for shape in (one, two)]
    size = sum(map(os.path.getsize, paths))
    with archives.work(options.directory) as work:
        taken = measure.measure(
            archives.mergers(paths[0], paths[1], work), options.runs, options.runs
        )
    section = Section(title=f"merge: two archives, {size / 1e9:.2f} GB")
    section.lines = report.table(taken, us="stream merge", size=size, targets={})
    section.numbers = {"bytes": size, "runs": report.numbers(taken)}
    return section


def export(options: Options) -> Section:
    """Compare exporting an image's root file system with other tools."""
    shape = shapes.mixed(options.directory, options.scale / 5)
    size = os.path.getsize(archives.archive(shape))
    programs = [name for name in ("umoci", "podman") if shutil.which(name)]
    with archives.work(options.directory) as work:
        running = archives.exporters(shape, work, programs)
        taken = measure.measure(running, options.runs, options.runs)
    section = Section(title=f"export: an image of {size / 1e9:.2f} GB, {shape.entries:,} entries")
    section.lines = report.table(taken, us="stream export", size=size, targets={})
    section.numbers = {"bytes": size, "runs": report.numbers(taken)}
    return section


def join(options: Options) -> Section:
    """Compare joining contents into a layer of links with a link farm on disk and tar."""
    shape = shapes.join(options.directory, options.scale)
    with archives.work(options.directory) as work:
        ours, other = joiners(shape, work)
        running = [ours, other, *before(options.before, stream_command(shape))]
        taken = measure.measure(running, options.runs, options.runs)
    reached = report.ratio(taken[ours.name], taken[other.name])
    targets = {other.name: verdict(f"≤ {_JOIN_LIMIT:g}", met=reached <= _JOIN_LIMIT)}
    section = Section(title=f"join: {shape.entries:,} entries of {len(shape.paths)} contents")
    section.lines = report.table(taken, us=ours.name, size=0, targets=targets)
    section.numbers = {"entries": shape.entries, "runs": report.numbers(taken), "targets": targets}
    return section


def layering(options: Options) -> Section:
    """Measure how much each planner pushes again after real updates."""
    directory = os.path.join(options.directory, "histories")
    return repushed(directory, weeks=max(1, round(options.scale * 104)))


def plan(options: Options) -> Section:
    """Measure planning: parsing the graph and each planner, in this process, and the whole
    command, from its start to a conf in a pipe.
    """
    section = Section(title=f"plan: {_PLAN_BUDGET} layers of a references graph, whole calls")
    section.lines = ["| paths | call | median s | min-max s | target |", "| - | - | - | - | - |"]
    for count, limit in _PLAN_LIMITS.items():
        data = references.references_json(count)
        graph = parse_references(data, "graph.json").graph
        calls: dict[str, Callable[[], object]] = {
            "parse_references": partial(parse_references, data, "graph.json"),
            "popularity": partial(popularity, graph, _PLAN_BUDGET),
            "auto": partial(auto, graph, _PLAN_BUDGET),
            "pipeline": partial(pipeline, graph, _program(graph), _PLAN_BUDGET),
            "stable": partial(stable, graph, roots(graph), _PLAN_BUDGET),
            "plan, all of it": partial(_planned, shapes.plan_spec(options.directory, count)),
        }
        command = shapes.plan_command(options.directory, count)
        calls[_COMMAND] = partial(measure.run, (command,))
        for contender in before(options.before, command):
            calls[f"{_COMMAND} before"] = partial(measure.run, contender.pipeline)
        for name, call in calls.items():
            times = sorted(_seconds(call) for _ in range(options.runs))
            # The command's time includes Python's start, which planning cannot change.
            target = (
                "" if name.startswith(_COMMAND) else verdict(f"< {limit:g}", met=times[-1] < limit)
            )
            section.lines.append(
                f"| {count:,} | {name} | {median(times):.3f} | {times[0]:.3f}-{times[-1]:.3f}"
                f" | {target} |"
            )
            section.numbers[f"{name} of {count}"] = times
    return section


def evaluate(options: Options) -> Section:
    """Measure how long Nix evaluates a repository of images, without building anything."""
    images = os.path.join(os.path.dirname(os.path.abspath(__file__)), "images.nix")
    words = ("--eval", "--strict", "--json", "--readonly-mode", "--store", "dummy://")
    without_builds = ("--option", "allow-import-from-derivation", "false")
    command = ("nix-instantiate", *words, *without_builds, images)
    runs = [measure.run((command,)) for _ in range(options.runs)]
    times = sorted(run.seconds for run in runs)
    text = f"median {median(times):.2f} s, {times[0]:.2f}-{times[-1]:.2f} s"
    target = verdict(f"< {_EVALUATION_LIMIT:g} s", met=median(times) < _EVALUATION_LIMIT)
    return Section(
        title="evaluate: 200 images by Nix",
        lines=[f"{text}, {max(run.peak_rss for run in runs) / _MIB:.0f} MiB; target {target}"],
        numbers={"seconds": times},
    )


def _program(graph: Graph) -> list[object]:
    """Return a program with the operations that take the most time."""
    largest = sorted(graph, key=lambda path: (graph[path].size, path))[-3:]
    rest = [["popularity_contest"], ["limit_layers", _PLAN_BUDGET - 3]]
    return [
        ["split_paths", [largest[0], {"children_of": largest[1]}]],
        ["over", "main", ["pipe", [["subcomponent_in", largest], ["flatten"]]]],
        ["over", "rest", ["pipe", rest]],
        ["flatten"],
        ["limit_layers", _PLAN_BUDGET],
    ]


def _planned(path: str) -> Plan:
    """Return the plan of the specification at `path`."""
    with open(path, "rb") as file:
        return plan_conf(parse_spec(file.read(), name=path, warn=print), warn=print)


def _seconds(call: Callable[[], object]) -> float:
    start = time.perf_counter()
    call()
    return time.perf_counter() - start


BENCHMARKS: dict[str, Callable[[Options], Section]] = {
    "mixed": partial(compare, shapes.mixed),
    "tiny": partial(compare, shapes.tiny),
    "big": partial(compare, shapes.big),
    "links": partial(compare, shapes.links),
    "known": known,
    "memory": memory,
    "start": start,
    "compress": compress,
    "base": base,
    "merge": merge,
    "export": export,
    "join": join,
    "layering": layering,
    "plan": plan,
    "evaluate": evaluate,
    "push": transfers.push,
    "fresh": transfers.fresh,
    "load": transfers.load,
    "serve": transfers.serve,
    "fleet": fleet.fleet,
}

"""Measure commands: run the contenders in turn, many times.

Knows processes and pipes; must not know what the commands are for.
"""

from __future__ import annotations

import json
import os
import shlex
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass

Pipeline = tuple[tuple[str, ...], ...]

_LAUNCHER = os.path.join(os.path.dirname(os.path.abspath(__file__)), "launch.py")


class CommandError(Exception):
    """A measured command failed."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Contender:
    """A pipeline to measure; a slow one may be run fewer times."""

    name: str
    pipeline: Pipeline
    slow: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    """The resources used by one run, in seconds and bytes.

    `peak_rss` is that of the largest process except the reading `cat`; values below `rss_floor`
    cannot be measured. CPU time and disk reads are those of the whole pipeline.
    """

    seconds: float
    cpu_seconds: float
    peak_rss: int
    rss_floor: int
    disk_bytes: int


def measure(contenders: Sequence[Contender], runs: int, slow_runs: int) -> dict[str, list[Run]]:
    """Run each contender several times, interleaved so that a disturbance affects all of them.

    The fast ones run once beforehand, which also warms the page cache for the slow ones.
    """
    taken: dict[str, list[Run]] = {contender.name: [] for contender in contenders}
    for contender in [c for c in contenders if not c.slow] or contenders:
        run(contender.pipeline)
    for turn in range(max(runs, slow_runs)):
        for contender in contenders:
            if turn < (slow_runs if contender.slow else runs):
                taken[contender.name].append(run(contender.pipeline))
    return taken


def run(pipeline: Pipeline) -> Run:
    """Run the pipeline once, into a pipe read by `cat`. Raises CommandError."""
    command = (sys.executable, "-I", "-S", _LAUNCHER, json.dumps(pipeline))
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise CommandError(done.stderr.strip())
    return Run(**json.loads(done.stdout))


def output_size(pipeline: Pipeline) -> int:
    """Return the number of bytes that the pipeline writes."""
    command = " | ".join(map(shlex.join, pipeline)) + " | wc -c"
    done = subprocess.run(["sh", "-c", command], capture_output=True, text=True, check=True)
    return int(done.stdout)


def first_byte(argv: tuple[str, ...]) -> float:
    """Return the seconds from the spawn to the first byte on stdout. Raises CommandError."""
    begin = time.perf_counter()
    with subprocess.Popen(argv, stdout=subprocess.PIPE, bufsize=0) as process:
        assert process.stdout is not None
        process.stdout.read(1)
        seconds = time.perf_counter() - begin
        while process.stdout.read(1 << 16):
            pass
    if process.returncode:
        raise CommandError(f"exit status {process.returncode} of: {' '.join(argv)[:200]}")
    return seconds

"""Format the results: tables in Markdown for people, raw numbers in JSON for programs.

Knows runs and how to compare them; must not know how they were made.
"""

from __future__ import annotations

import os
import platform
import ssl
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from statistics import median
from typing import Any

from bench.measure import Run

_MIB = 1 << 20
_HEADINGS = (
    "contender", "runs", "median s", "min-max s", "CPU s", "GB/s", "ours ÷ its", "peak MiB", "target"
)  # fmt: skip


@dataclass(slots=True, kw_only=True)
class Section:
    """The result of one benchmark: its text, and the numbers it is based on."""

    title: str
    lines: list[str] = field(default_factory=list)
    numbers: dict[str, Any] = field(default_factory=dict)
    failed: bool = False

    def show(self) -> None:
        """Print it."""
        print(f"\n## {self.title}\n", *self.lines, sep="\n", flush=True)


def verdict(text: str, *, met: bool) -> str:
    """Return the text of a target with `ok` or `MISSED`."""
    return f"{text} {'ok' if met else 'MISSED'}"


def ratio(ours: Sequence[Run], theirs: Sequence[Run]) -> float:
    """Return the median, over the rounds, of our time divided by the other's in the same round."""
    return median(o.seconds / t.seconds for o, t in zip(ours, theirs, strict=False))


def table(
    taken: Mapping[str, Sequence[Run]],
    *,
    us: str,
    size: int,
    targets: Mapping[str, str],
) -> list[str]:
    """Return a table with a row for each contender; `targets` fill the last column, by contender."""
    rows = [list(_HEADINGS)]
    for name, runs in taken.items():
        if not runs:
            continue
        seconds = sorted(run.seconds for run in runs)
        peak, floor = max((run.peak_rss, run.rss_floor) for run in runs)
        rows.append([
            name,
            str(len(runs)),
            f"{median(seconds):.2f}",
            f"{seconds[0]:.2f}-{seconds[-1]:.2f}",
            f"{median(run.cpu_seconds for run in runs):.2f}",
            f"{size / median(seconds) / 1e9:.2f}" if size else "",
            f"{ratio(taken[us], runs):.3f}" if taken.get(us) else "",
            f"{peak / _MIB:.0f}" if peak > floor else f"< {floor / _MIB:.0f}",
            targets.get(name, ""),
        ])  # fmt: skip
    lines = markdown(rows)
    cold = {n for n, runs in taken.items() if any(r.disk_bytes > size / 100 for r in runs)}
    if size and cold:
        lines += ["", f"NOT WARM, read from the disk in some runs: {', '.join(sorted(cold))}"]
    return lines


def numbers(taken: Mapping[str, Sequence[Run]]) -> dict[str, Any]:
    """Return the runs as JSON values."""
    return {name: [asdict(run) for run in runs] for name, runs in taken.items()}


def machine() -> dict[str, str]:
    """Describe the machine and the versions of the tools."""
    cpus = os.sched_getaffinity(0)
    return {
        "CPU": f"{_cpu_model()}, {len(cpus)} cores",
        "kernel": f"{platform.system()} {platform.release()}",
        "Python": f"{platform.python_version()}, hashlib with {ssl.OPENSSL_VERSION}",
        "openssl": _first_line("openssl", "version"),
        "tar": _first_line("tar", "--version"),
        "load": " ".join(f"{load:.2f}" for load in os.getloadavg()),
    }


def markdown(rows: list[list[str]]) -> list[str]:
    """Format a table whose first row is its heading."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    rows = [rows[0], ["-" * width for width in widths], *rows[1:]]
    return [
        "| " + " | ".join(cell.ljust(w) for cell, w in zip(row, widths, strict=True)) + " |"
        for row in rows
    ]


def _cpu_model() -> str:
    with open("/proc/cpuinfo", encoding="utf-8") as file:
        for line in file:
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    return platform.machine()


def _first_line(*command: str) -> str:
    try:
        output = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    except (OSError, subprocess.CalledProcessError):
        return "not installed"
    return output.partition("\n")[0]

"""The command `python -m bench`: parse the arguments, run the benchmarks in order."""

from __future__ import annotations

import argparse
import json
import os
import sys

from bench import report
from bench.benchmarks import BENCHMARKS
from bench.check import ImageError
from bench.contenders import ON_SHAPE
from bench.fleet import SAMPLED
from bench.installed import install
from bench.measure import CommandError
from bench.movers import NAMES
from bench.options import Options

_ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
_CONTENDERS = sorted({name for names in ON_SHAPE.values() for name in names}) + NAMES + [*SAMPLED]


def main_parser() -> argparse.ArgumentParser:
    """Return the parser of the command line."""
    parser = argparse.ArgumentParser(
        prog="python -m bench",
        description="Measure `stream` against existing tools. Without arguments, run all "
        "benchmarks at full size.",
    )
    parser.add_argument(
        "--shape", type=_names(list(BENCHMARKS)), default=list(BENCHMARKS), metavar="A,B",
        help=f"benchmarks to run: {', '.join(BENCHMARKS)} (default: all)",
    )  # fmt: skip
    parser.add_argument(
        "--only", type=_names(_CONTENDERS), metavar="A,B",
        help=f"contenders to run: {', '.join(_CONTENDERS)} (default: all)",
    )  # fmt: skip
    parser.add_argument(
        "--scale", type=_scale, default=1.0, help="size of the inputs, up to 1 (default)"
    )
    parser.add_argument("--runs", type=_count, default=5, help="runs of each contender (default 5)")
    parser.add_argument("--slow-runs", type=_count, help="runs of slow baselines (default: --runs)")
    parser.add_argument(
        "--dir", default=os.path.join(_ROOT, ".bench"),
        help="directory for inputs, which are built once and reused (default .bench; for memory, /dev/shm/bench)",
    )  # fmt: skip
    parser.add_argument(
        "--before", metavar="PYTHON",
        help="compare with the stream-image of another environment: its interpreter",
    )  # fmt: skip
    parser.add_argument("--check", action="store_true", help="also compare the images")
    parser.add_argument("--json", metavar="FILE", help="write the raw numbers to FILE")
    return parser


def main() -> int:
    """Run the benchmarks. Returns 1 if one could not run or the images differ, else 0."""
    args = main_parser().parse_args()
    directory = os.path.abspath(args.dir)
    os.makedirs(directory, exist_ok=True)
    options = Options(
        directory=directory,
        scale=args.scale,
        runs=args.runs,
        slow_runs=args.slow_runs or args.runs,
        only=set(args.only) if args.only else None,
        before=args.before and os.path.abspath(args.before),
        check=args.check,
    )
    install()
    machine = report.machine()
    print(*(f"{key}: {value}" for key, value in machine.items()), sep="\n", flush=True)
    collected: dict[str, object] = {"machine": machine, "scale": args.scale}
    failed = False
    for name in args.shape:
        try:
            section = BENCHMARKS[name](options)
        except (CommandError, ImageError) as error:
            print(f"\n## {name}\n\nFAILED: {error}", flush=True)
            failed = True
            continue
        section.show()
        failed |= section.failed
        collected[name] = section.numbers
    if args.json:
        with open(args.json, "w", encoding="utf-8") as file:
            json.dump(collected, file, indent=1)
    return int(failed)


class _names:  # noqa: N801 — argparse shows it as the name of the type
    """A comma-separated list of known names."""

    def __init__(self, known: list[str]) -> None:
        self._known = known

    def __call__(self, text: str) -> list[str]:
        names = text.split(",")
        if unknown := [name for name in names if name not in self._known]:
            raise argparse.ArgumentTypeError(f"unknown: {', '.join(unknown)}")
        return names


def _scale(text: str) -> float:
    if not 0 < (scale := float(text)) <= 1:
        raise argparse.ArgumentTypeError("must be above 0 and at most 1")
    return scale


def _count(text: str) -> int:
    if (count := int(text)) < 1:
        raise argparse.ArgumentTypeError("must be at least 1")
    return count


if __name__ == "__main__":
    sys.exit(main())

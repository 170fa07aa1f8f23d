"""The contenders, which of them run on which shape, and the target ratios.

Knows command lines only. To add a contender, add a line to each of the tables.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Iterable

from bench.installed import STREAM_IMAGE, beside
from bench.measure import Contender, Pipeline
from bench.shapes import Shape

US = "stream"
KNOWN = "stream, digests known"
BEFORE = "stream before"
_HERE = os.path.dirname(os.path.abspath(__file__))
_TAR = ("tar", "-cf", "-", "-P", "--hard-dereference")

_PIPELINES: dict[str, Callable[[Shape], Pipeline]] = {
    US: lambda shape: (stream_command(shape),),
    "two-pass": lambda shape: ((sys.executable, os.path.join(_HERE, "two_pass.py"), shape.conf),),
    "tar": lambda shape: ((*_TAR, *shape.roots),),
    "tar-sha256": lambda shape: ((*_TAR, *shape.roots), ("openssl", "sha256")),
    "sha256": lambda shape: (("openssl", "dgst", "-sha256", *_files(shape)),),
    "read": lambda shape: (("find", *shape.roots, "-type", "f", "-exec", "cat", "{}", "+"),),
}
_SLOW = {"two-pass"}
_NO_CACHE = "--no-digest-cache"
IMAGES = (US, "two-pass")  # those that write an image

ON_SHAPE = {
    "mixed": (US, "two-pass", "tar", "tar-sha256", "read"),
    "tiny": (US, "two-pass", "tar", "tar-sha256", "read"),
    "big": (US, "two-pass", "tar", "tar-sha256", "sha256", "read"),
    "links": (US, "two-pass", "tar", "tar-sha256"),
}

# The maximum of our time divided by the other's, if all digests are known.
KNOWN_LIMITS = {"tar": 0.5, "two-pass": 1 / 15}

# The maximum of our time divided by the other's.
RATIO_LIMITS = {
    ("mixed", "two-pass"): 1 / 10,
    ("mixed", "tar-sha256"): 0.65,
    ("tiny", "two-pass"): 1 / 20,
    ("big", "sha256"): 1.15,
}

# By argument of --compress: the program that does the same with as many threads.
_CORES = len(os.sched_getaffinity(0))
COMPRESSORS: dict[str, tuple[str, ...]] = {
    "store": ("cat",),
    "gzip:1": ("pigz", "-n", f"-p{_CORES}", "-1"),
    "gzip:6": ("pigz", "-n", f"-p{_CORES}", "-6"),
    "zstd:1": ("zstd", "-qc", f"-T{_CORES}", "-1"),
    "zstd:3": ("zstd", "-qc", f"-T{_CORES}", "-3"),
    "zstd:9": ("zstd", "-qc", f"-T{_CORES}", "-9"),
    "zstd-seekable:3": ("zstd", "-qc", f"-T{_CORES}", "-3"),
}


def compressors(shape: Shape, compression: str) -> list[Contender]:
    """Return ourselves with --compress, and ourselves without it piped into the program."""
    program = COMPRESSORS[compression]
    plain = stream_command(shape)
    return [
        Contender(name=f"{US} {compression}", pipeline=((*plain, "--compress", compression),)),
        Contender(name=" ".join(program), pipeline=(plain, program)),
    ]


def contenders(shape: Shape, only: set[str] | None) -> list[Contender]:
    """Return the contenders for a shape, in the order of the table."""
    return _named(shape, [name for name in ON_SHAPE[shape.name] if only is None or name in only])


def _named(shape: Shape, names: Iterable[str]) -> list[Contender]:
    return [
        Contender(name=name, pipeline=_PIPELINES[name](shape), slow=name in _SLOW) for name in names
    ]


def knowing(shape: Shape, cache: str) -> list[Contender]:
    """Return ourselves with the digests in the directory `cache`, ourselves without any, and the
    tools of KNOWN_LIMITS.
    """
    known = (*stream_command(shape), "--digest-cache", cache)
    return [Contender(name=KNOWN, pipeline=(known,)), *_named(shape, (US, *KNOWN_LIMITS))]


# symlinkJoin and tar, as dockerTools uses them to make the layer; the tree remains in "$0".
_LINK_FARM = """
    tree=$(mktemp -d -p "$0")
    chmod 755 "$tree"
    for content; do
        cp -rsT --no-preserve=mode "$content" "$tree"
    done
    tar --sort=name --numeric-owner --mtime=@1 --hard-dereference -cf - -C "$tree" ."""


def joiners(shape: Shape, work: str) -> list[Contender]:
    """Return ourselves joining a shape's contents, and a script that does it with existing tools."""
    link_farm = ("sh", "-euc", _LINK_FARM, work, *shape.roots)
    return [
        Contender(name=US, pipeline=(stream_command(shape),)),
        Contender(name="cp -rs, tar", pipeline=(link_farm, ("openssl", "sha256"))),
    ]


def stream_command(shape: Shape) -> tuple[str, ...]:
    """Return our command for a shape. Every run computes all digests."""
    return (STREAM_IMAGE, "-q", shape.conf, _NO_CACHE)


def before(python: str | None, command: tuple[str, ...]) -> list[Contender]:
    """Our own `command` as another installation runs it, whose interpreter is `python`; none
    without one.
    """
    if python is None:
        return []
    _, *arguments = command
    command_before = beside(python)
    usage = subprocess.run((command_before, "--help"), capture_output=True, check=True)
    if _NO_CACHE.encode() not in usage.stdout:  # it is older than the cache
        arguments = [argument for argument in arguments if argument != _NO_CACHE]
    return [Contender(name=BEFORE, pipeline=((command_before, *arguments),))]


def _files(shape: Shape) -> list[str]:
    """Return the files of a shape, which must have few."""
    found = []
    for root in shape.roots:
        for directory, _, names in os.walk(root):
            found += [os.path.join(directory, name) for name in names]
    return found

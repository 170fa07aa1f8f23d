"""What all verbs that write an archive share: `-o`, `--compress`, `--threads`."""

from __future__ import annotations

import argparse
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from stream import compression
from stream.cli.output import is_terminal, output_file, standard_output
from stream.compression import CHOICES, NONE, Compression
from stream.compression.codecs import CODECS
from stream.errors import UsageError
from stream.oci.reference import check_repo_tag
from stream.sinks import ARCHIVE_FORMATS
from stream.text import one_line


@dataclass(frozen=True, slots=True, kw_only=True)
class Target:
    """Where the archive goes, and how compressed."""

    fd: int
    compression: compression.Compression


def add_tag_argument(parser: argparse.ArgumentParser) -> None:
    """Add the option that takes the place of a conf's `repo_tag`."""
    parser.add_argument(
        "-t", "--repo-tag", "--repo_tag", metavar="TAG", help="name:tag, instead of the conf's"
    )


def given_tag(args: argparse.Namespace) -> str | None:
    """The tag of that option, or None. Raises UsageError if it is not one."""
    repo_tag: str | None = args.repo_tag
    if repo_tag is not None and (wrong := check_repo_tag(repo_tag)):
        raise UsageError(one_line(f"--repo-tag: {wrong}"))
    return repo_tag


def add_format_argument(parser: argparse.ArgumentParser) -> None:
    """Add the option that chooses the archive's format."""
    parser.add_argument(
        "--format", choices=ARCHIVE_FORMATS, default="docker-archive",
        help="docker-archive (default), or oci-archive, which is an OCI image layout as well",
    )  # fmt: skip


def add_output_arguments(parser: argparse.ArgumentParser) -> None:
    """Add them."""
    parser.add_argument(
        "-o", "--output", metavar="FILE", default="-",
        help="write to FILE, which appears when it is complete (default: standard output)",
    )  # fmt: skip
    parser.add_argument(
        "--compress", metavar="CODEC[:LEVEL]",
        help=f"compress the whole output: {', '.join(compression.CHOICES)}"
        " (default: what the name of FILE says, else none)",
    )  # fmt: skip
    parser.add_argument(
        "--threads", type=_count, metavar="N", help="threads that compress (default: all cores)"
    )


def _count(text: str) -> int:
    try:
        count = int(text)
    except ValueError:
        count = 0
    if count < 1:
        raise argparse.ArgumentTypeError("a whole number, at least 1")
    return count


@contextmanager
def opened_output(args: argparse.Namespace, command: str) -> Iterator[Target]:
    """The output that `args` ask for; `command` is what the hint repeats.

    Raises UsageError and OutputError.
    """
    if is_terminal(args.output):
        raise UsageError(
            f"standard output is a terminal: pipe it on, as in 'stream-image {command}',"
            " or give -o FILE"
        )
    chosen = (
        compression_of_name(args.output)
        if args.compress is None
        else parse_compression(args.compress)
    )
    with standard_output() if args.output == "-" else output_file(args.output) as fd:
        yield Target(fd=fd, compression=chosen)


_BY_ENDING = {
    ".gz": "gzip",
    ".gzip": "gzip",
    ".tgz": "gzip",
    ".zst": "zstd",
    ".zstd": "zstd",
    ".tzst": "zstd",
}
_UNSUPPORTED = frozenset(
    (
        ".7z",
        ".bz2",
        ".lz",
        ".lz4",
        ".lzma",
        ".lzo",
        ".tbz",
        ".tbz2",
        ".txz",
        ".tlz",
        ".xz",
        ".zip",
        ".z",
    )
)


def parse_compression(text: str) -> Compression:
    """The compression spelt `CODEC` or `CODEC:LEVEL`. Raises UsageError."""
    name, colon, level_text = text.partition(":")
    if name not in CHOICES:
        raise UsageError(f"--compress {text}: not one of {', '.join(CHOICES)}")
    codec = CODECS.get(name)
    if not colon:
        return Compression(codec=name, level=codec.default_level if codec else 0)
    if codec is None or not codec.levels:
        raise UsageError(f"--compress {text}: {name} has no levels")
    levels = {str(level): level for level in codec.levels}
    if level_text not in levels:
        lowest, *_, highest = levels
        raise UsageError(f"--compress {text}: the levels of {name} are {lowest} to {highest}")
    return Compression(codec=name, level=levels[level_text])


def compression_of_name(path: str) -> Compression:
    """The compression that a file of this name is expected to have.

    Raises UsageError where it is one that we do not write.
    """
    _, ending = os.path.splitext(path)
    if ending.lower() in _UNSUPPORTED:
        raise UsageError(
            f"-o {one_line(path)}: {ending} is not written: name it .tar, .tar.gz or .tar.zst,"
            " or give --compress"
        )
    return parse_compression(_BY_ENDING.get(ending.lower(), NONE))

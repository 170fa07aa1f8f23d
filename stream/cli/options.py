"""The options that several verbs share: `--repo-tag`, `-o`, `--compress`, `--digest-cache`."""

from __future__ import annotations

import argparse
import os
import re
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager

from stream.cli.output import is_terminal, output_file, standard_output
from stream.cli.usage import UsageError
from stream.compression import CHOICES, NONE, Compression
from stream.digests import NO_DIGESTS, Digests
from stream.digests.store import DigestCache, default_directory
from stream.errors import ArgumentError
from stream.model import Commands
from stream.oci.reference import BadReference, Reference
from stream.sinks import ARCHIVE_FORMATS, ArchiveFormat
from stream.text import one_line, printable
from stream.values import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Target:
    """The output that the options ask for: a descriptor, and its compression."""

    fd: int
    compression: Compression


def add_tag_argument(
    parser: argparse.ArgumentParser, meaning: str = "name:tag, replacing the conf's"
) -> None:
    """Add the option for the image's name and tag. Its spellings are docker's and dockerTools'."""
    parser.add_argument(
        "-t", "--tag", "--repo-tag", "--repo_tag", metavar="NAME:TAG", dest="repo_tag", help=meaning
    )


def given_tag(args: argparse.Namespace) -> str | None:
    """Return the tag given with that option, or None. Raises UsageError if it is invalid."""
    repo_tag: str | None = args.repo_tag
    if repo_tag is None:
        return None
    try:
        return str(Reference.parse(repo_tag))
    except BadReference as wrong:
        raise UsageError(one_line(f"--repo-tag: {wrong}")) from None


def add_run_argument(parser: argparse.ArgumentParser) -> None:
    """Add the option to run a recipe's commands at all, for verbs that only look."""
    parser.add_argument(
        "--run-commands", action="store_true",
        help="run the commands of the customisation layer, to show what they make",
    )  # fmt: skip


def add_sandbox_argument(parser: argparse.ArgumentParser) -> None:
    """Add the option to run a recipe's commands without the sandbox."""
    parser.add_argument(
        "--unsandboxed", action="store_true",
        help="run the commands of the customisation layer without the sandbox: they can change"
        " all that you can change",
    )  # fmt: skip


def given_commands(args: argparse.Namespace) -> Commands:
    """Return how the options ask to run a recipe's commands."""
    return "unsandboxed" if args.unsandboxed else "sandboxed"


def add_digest_arguments(parser: argparse.ArgumentParser) -> None:
    """Add `--digest-cache` and `--no-digest-cache`, the last of which takes effect: a wrapper may
    have given the other.
    """
    add_cache_argument(parser)
    parser.add_argument(
        "--no-digest-cache", action="store_const", const=None, dest="digest_cache",
        help="compute all digests, and keep none",
    )  # fmt: skip


def add_cache_argument(parser: argparse.ArgumentParser) -> None:
    """Add `--digest-cache`, for a verb that is of no use without a cache."""
    parser.add_argument(
        "--digest-cache", metavar="DIR", default=default_directory(os.environ),
        help="keep the digests of layers in DIR (default: stream-image/digests in"
        " $XDG_CACHE_HOME or ~/.cache)",
    )  # fmt: skip


def given_digests(args: argparse.Namespace, warn: Callable[[str], None]) -> Digests:
    """Return the known digests that those options ask for. `warn` is called if a directory was
    named that cannot be read or trusted. Raises UsageError.
    """
    if args.digest_cache is None:
        return NO_DIGESTS
    cache = given_cache(args)
    is_named = args.digest_cache != default_directory(os.environ)
    if is_named and (problem := cache.why_unused()) is not None:
        warn(f"--digest-cache {printable(os.fsencode(cache.directory))}: ignored: {problem}")
    return cache


def given_cache(args: argparse.Namespace) -> DigestCache:
    """Return the cache that `--digest-cache` asks for. Raises UsageError if there is none."""
    if not args.digest_cache:
        why = (
            "this user has no home directory to keep it in"
            if args.digest_cache is None
            else "is empty"
        )
        raise UsageError(f"--digest-cache: {why}; give the name of a directory")
    return DigestCache(args.digest_cache)


def add_format_argument(parser: argparse.ArgumentParser) -> None:
    """Add the option that chooses the archive's format."""
    parser.add_argument(
        "--format", choices=ARCHIVE_FORMATS,
        help="docker-archive (default); docker-archive-legacy, with the members that dockerTools'"
        " buildImage writes besides; or oci-archive, which is also an OCI image layout",
    )  # fmt: skip


def given_format(args: argparse.Namespace, platforms: int = 1) -> ArchiveFormat:
    """Return the format given with that option, or the one that fits the number of platforms."""
    given: ArchiveFormat | None = args.format
    return given or ("oci-archive" if platforms > 1 else "docker-archive")


def add_output_arguments(parser: argparse.ArgumentParser) -> None:
    """Add `-o`, `--compress` and `--threads`."""
    parser.add_argument(
        "-o", "--output", metavar="FILE", default="-",
        help="write to FILE (created only when complete; default: standard output)",
    )  # fmt: skip
    parser.add_argument(
        "--compress", metavar="CODEC[:LEVEL]",
        help=f"compress the whole output: {', '.join(CHOICES)}"
        " (default: by the name of FILE, else none)",
    )  # fmt: skip
    parser.add_argument(
        "--threads", type=count, metavar="N", help="compression threads (default: all cores)"
    )


def count(text: str) -> int:
    """Return the positive number that an option has as its value."""
    try:
        count = int(text)
    except ValueError:
        count = 0
    if count < 1:
        raise argparse.ArgumentTypeError("must be a whole number, at least 1")
    return count


@contextmanager
def opened_output(args: argparse.Namespace, command: str) -> Iterator[Target]:
    """Return the output that `args` ask for. `command` is the example in the error for a
    terminal. Raises UsageError and OutputError.
    """
    if is_terminal(args.output):
        raise UsageError(
            f"standard output is a terminal; pipe it, as in 'stream-image {command}',"
            " or give -o FILE"
        )
    chosen = (
        compression_of_name(args.output)
        if args.compress is None
        else parse_compression(args.compress)
    )
    with standard_output() if args.output == "-" else output_file(args.output) as fd:
        yield Target(fd=fd, compression=chosen)


_LEVEL = re.compile("[1-9][0-9]?")
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


def parse_compression(text: str, codecs: Collection[str] = CHOICES) -> Compression:
    """Return the compression spelt `CODEC` or `CODEC:LEVEL`, with one of `codecs`. Raises
    UsageError.
    """
    codec, colon, level = text.partition(":")
    try:
        if codec not in codecs:
            raise ArgumentError.not_one_of("codec", codec, codecs)
        if not colon:
            return Compression(codec=codec)
        # Only the canonical spelling: int() also takes "06" and digits of other scripts.
        number = int(level) if _LEVEL.fullmatch(level) else -1
        return Compression(codec=codec, level=number)
    except ArgumentError as error:
        raise UsageError(one_line(f"--compress {text}: {error.reason}")) from None


def compression_of_name(path: str) -> Compression:
    """Return the compression that the name of a file implies.

    Raises UsageError for one that is not available.
    """
    _, ending = os.path.splitext(path)
    if ending.lower() in _UNSUPPORTED:
        raise UsageError(
            f"-o {one_line(path)}: {ending} is not supported; name the file .tar, .tar.gz or"
            " .tar.zst, or give --compress"
        )
    return Compression(codec=_BY_ENDING.get(ending.lower(), NONE))

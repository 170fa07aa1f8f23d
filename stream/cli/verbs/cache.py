"""`stream-image cache`: show, check, fill or empty the cache of digests."""

from __future__ import annotations

import argparse
from datetime import UTC, datetime
from typing import Any

from stream.cli.options import (
    add_cache_argument,
    add_sandbox_argument,
    given_cache,
    given_commands,
)
from stream.cli.output import say_json, say_lines
from stream.cli.progress import Reporter, readable_size
from stream.config import load_conf
from stream.digests.store import DigestCache
from stream.errors import OutputError
from stream.tools.cache import find_bad_entries, import_digests
from stream.values import replace

SUMMARY = "show, check, fill or empty the cache of layers' digests"
DESCRIPTION = """\
Show where the digests of layers are kept, how many layers they are of, and how long the oldest
was not used. Layers that have not changed are not hashed again, or not even read."""
EPILOG = """\
Examples: stream-image cache
          stream-image cache --check conf.json
          stream-image cache --import digests.json
          stream-image cache --clear
docs/cache.md says what is trusted, and how CI can share the cache.
"""
HAS_PROGRESS = True


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the verb's own arguments."""
    what = parser.add_mutually_exclusive_group()
    what.add_argument(
        "--check", nargs="?", const="", metavar="CONF",
        help="remove entries that are of no use, and report them; with CONF, hash all layers of its"
        " image and compare",
    )  # fmt: skip
    what.add_argument(
        "--import", dest="source", metavar="FILE",
        help="take the digests that 'stream-image digests' has printed; - for standard input",
    )  # fmt: skip
    what.add_argument("--clear", action="store_true", help="remove all entries")
    parser.add_argument("--json", action="store_true", help="print one JSON object, for programs")
    add_cache_argument(parser)
    add_sandbox_argument(parser)


def run(args: argparse.Namespace, reporter: Reporter) -> int:
    """Do what is asked, and show the cache. Return 1 if an entry was bad. Raises
    StreamImageError.
    """
    cache = given_cache(args)
    bad: list[Any] = []
    imported, left = 0, 0
    if args.check is not None:
        conf = load_conf(args.check, need_tag=False, warn=reporter.warning) if args.check else None
        conf = conf and replace(conf, commands=given_commands(args))
        bad = list(find_bad_entries(cache, conf, reporter))
    elif args.source is not None:
        imported, left = import_digests(cache, args.source)
    elif args.clear:
        _clear(cache)
    extent, problem = cache.extent(), cache.why_unused()
    oldest = extent.oldest and datetime.fromtimestamp(int(extent.oldest), UTC).isoformat()
    if args.json:
        say_json(
            {
                "directory": cache.directory,
                "problem": problem,
                "layers": extent.layers,
                "size": extent.size,
                "oldest": oldest,
                "imported": imported,
                "bad_entries": [{"path": one.path, "reason": one.reason} for one in bad],
            }
        )
        return bool(bad)
    lines = [f"{one.path}: {one.reason}" for one in bad]
    if args.source is not None:
        lines.append(f"{imported} {'layer' if imported == 1 else 'layers'} imported")
        if left:
            lines[-1] += f"; {left} without a key, as the conf has no hash of a store path"
    count = f"{extent.layers:,} {'layer' if extent.layers == 1 else 'layers'}"
    used = f", the oldest last used {oldest}" if oldest else ""
    unused = f"; not used: {problem}" if problem else ""
    say_lines([*lines, f"{cache.directory}: {count}, {readable_size(extent.size)}{used}{unused}"])
    return bool(bad)


def _clear(cache: DigestCache) -> None:
    try:
        cache.clear()
    except OSError as error:
        where = f"{error.filename or cache.directory}: cannot be removed"
        raise OutputError(error.errno, f"{where}: {error.strerror}") from error

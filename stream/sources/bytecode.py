"""Python's bytecode caches, which an image's fixed modification times make stale.

A `.pyc` file names the time and size of the `.py` file that it was compiled from (PEP 3147,
PEP 552). In a layer every file has another time, so that Python compiles all of them again at
each start. Knows the format and the names of these files; not where they go.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from contextlib import suppress
from typing import NamedTuple, Self

CACHE = b"__pycache__"
HEADER_SIZE = 16
_MAGIC_END = b"\r\n"
_SUFFIX = b".pyc"


class Stamp(NamedTuple):
    """The source that a timestamp-based `.pyc` file was compiled from: its time in seconds
    and its size in bytes, both modulo 2³².
    """

    mtime: int
    size: int

    @classmethod
    def parse(cls, header: bytes) -> Self | None:
        """Return the stamp in the first HEADER_SIZE bytes of a `.pyc` file; None if it is
        hash-based, or not one of Python 3.7 or later.
        """
        if len(header) < HEADER_SIZE or header[2:4] != _MAGIC_END or any(header[4:8]):
            return None
        return cls(*(int.from_bytes(header[at : at + 4], "little") for at in (8, 12)))

    @classmethod
    def of(cls, mtime_ns: int, size: int) -> Self:
        """Return the stamp of a source, modified at `mtime_ns` nanoseconds."""
        seconds, rest = divmod(mtime_ns, 10**9)
        return cls(int(seconds + 1e-9 * rest) & 0xFFFFFFFF, size & 0xFFFFFFFF)  # as os.stat rounds


def restamp(header: bytes, mtime: int) -> bytes:
    """Return the beginning of `header` that changes if its source is modified at `mtime`
    (seconds).
    """
    return header[:8] + (mtime & 0xFFFFFFFF).to_bytes(4, "little")


def source_of(name: bytes) -> bytes | None:
    """Return the name of the source, beside CACHE, of the file `name` in it; None if `name`
    is not that of a cache: PEP 3147, and PEP 488 for `opt-`.
    """
    if not name.endswith(_SUFFIX):
        return None
    module, *tags = name.removesuffix(_SUFFIX).split(b".")
    if not module or len(tags) not in (1, 2) or (tags[1:] and not tags[1].startswith(b"opt-")):
        return None
    return module + b".py"


def count_stale(names: Iterable[bytes], mtime: int, root: bytes = b"") -> int:
    """Return how many of the files `names`, whose paths on disk begin with `root`, are caches
    that are stale where every file is modified at `mtime` (seconds). Files that cannot be read
    do not count: whoever needs them reports them.
    """
    count = 0
    for name in names:
        above, _, cache = name.rpartition(b"/")
        source = source_of(cache)
        if source is None or not above.endswith(b"/" + CACHE):
            continue
        with suppress(OSError):
            size = os.stat(root + above.removesuffix(CACHE) + source).st_size
            with open(root + name, "rb") as file:
                stamp = Stamp.parse(file.read(HEADER_SIZE))
            count += stamp is not None and stamp != Stamp.of(mtime * 10**9, size)
    return count

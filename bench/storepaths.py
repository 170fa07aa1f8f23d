"""Store paths that are built once and reused: atomic, read-only like Nix's, checked on every use.

Beside the store, each path has a record with a fingerprint of its metadata. A path that differs
from its record, or has none, is built again. Must not know packages or confs.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import stat
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass

_ALPHABET = "0123456789abcdfghijklmnpqrsvwxyz"  # Nix's: no e, o, t, u
_MTIME_NS = 10**9  # as in a Nix store, so that a later edit of a file is detected


@dataclass(frozen=True, slots=True, kw_only=True)
class StorePath:
    """A built store path and the number and total size of its entries."""

    path: str
    entries: int
    size: int
    fingerprint: str


def base_name(seed: bytes, name: str) -> str:
    """Return `<hash>-name`, with a Nix32 hash of the first 160 bits of the 256-bit `seed`."""
    number = int.from_bytes(seed[:20], "big")
    digits = [_ALPHABET[number >> shift & 31] for shift in range(0, 160, 5)]
    legal = "".join(c if c.isascii() and (c.isalnum() or c in "+-._?=") else "-" for c in name)
    return "".join(digits) + "-" + legal


class Store:
    """A directory of store paths (`store/`) and of their records (`records/`)."""

    def __init__(self, directory: str) -> None:
        self.store_dir = os.path.join(directory, "store")
        self._records = os.path.join(directory, "records")
        os.makedirs(self.store_dir, exist_ok=True)
        os.makedirs(self._records, exist_ok=True)

    def find(self, key: str) -> StorePath | None:
        """Return the store path recorded under `key`, or None if it is not as it was built."""
        try:
            with open(self._record(key), encoding="utf-8") as file:
                record = json.load(file)
            path = os.path.join(self.store_dir, record.pop("name"))
            recorded = StorePath(path=path, **record)
            return recorded if _survey(path) == recorded else None
        except (OSError, ValueError, TypeError, KeyError, AttributeError):
            return None

    def build(self, key: str, name: str, fill: Callable[[str], None]) -> StorePath:
        """Make the store path `name`, whose content `fill` writes into the directory it is given."""
        path = os.path.join(self.store_dir, name)
        partial = os.path.join(self.store_dir, f".partial-{os.getpid()}-{name}")
        remove(path)
        os.mkdir(partial)
        try:
            fill(partial)
            _normalise(partial)
            os.rename(partial, path)
        finally:
            remove(partial)
        built = _survey(path)
        record = asdict(built)
        record["name"] = os.path.basename(record.pop("path"))
        temporary = self._record(key) + ".new"
        with open(temporary, "w", encoding="utf-8") as file:
            json.dump(record, file)
        os.replace(temporary, self._record(key))
        return built

    def _record(self, key: str) -> str:
        return os.path.join(self._records, key + ".json")


def remove(path: str) -> None:
    """Remove a tree, which may be read-only or missing."""
    if not os.path.lexists(path):
        return
    for entry, status in _walk(path):
        if stat.S_ISDIR(status.st_mode):
            os.chmod(entry, 0o700)
    shutil.rmtree(path)


def _walk(path: str, *, parents_first: bool = True) -> Iterator[tuple[str, os.stat_result]]:
    """Yield `path` and all entries below it, in a fixed order."""
    status = os.lstat(path)
    if parents_first:
        yield path, status
    if stat.S_ISDIR(status.st_mode):
        for name in sorted(os.listdir(path)):
            yield from _walk(os.path.join(path, name), parents_first=parents_first)
    if not parents_first:
        yield path, status


def _normalise(root: str) -> None:
    for path, status in _walk(root, parents_first=False):
        if not stat.S_ISLNK(status.st_mode):
            runs = stat.S_ISDIR(status.st_mode) or status.st_mode & 0o111
            os.chmod(path, 0o555 if runs else 0o444)
        os.utime(path, ns=(_MTIME_NS, _MTIME_NS), follow_symlinks=False)


def _survey(root: str) -> StorePath:
    """Record the current state. Metadata only: reading every byte would take too long."""
    entries = size = 0
    digest = hashlib.sha256()
    for path, status in _walk(root):
        is_file = stat.S_ISREG(status.st_mode)
        entries += 1
        size += status.st_size if is_file else 0
        name = os.path.relpath(path, root).encode("utf-8", "surrogateescape")
        facts = f"{status.st_mode} {status.st_mtime_ns} {status.st_size if is_file else 0}"
        digest.update(name + b"\0" + facts.encode() + b"\0")
        if stat.S_ISLNK(status.st_mode):
            digest.update(os.readlink(os.fsencode(path)) + b"\0")
    return StorePath(path=root, entries=entries, size=size, fingerprint=digest.hexdigest())

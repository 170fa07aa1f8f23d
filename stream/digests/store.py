"""The cache of digests: a directory that any number of processes use at once and that may be
killed at any moment. Whatever keeps an entry from being read is a miss, and from being written is
ignored: neither is an error. Must not know how keys or digests come about.
"""

from __future__ import annotations

import errno
import hashlib
import json
import os
import re
import stat
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from typing import Any

from stream.limits import MAX_SIZE
from stream.model import Descriptor, Digest, KnownLayer, Layer, LayerKey
from stream.values import dataclass, field

MAX_ENTRY = 8 << 10  # bytes of an entry; one has about 300, and 200 more for each encoding
MAX_ENCODINGS = 16  # of a layer's blob; the ones recorded last stay
MAX_IN_SHARD = 2048  # entries; all shards hold 16,384 layers of two keys each
KEPT_IN_SHARD = 1536  # when one has more
DAY = 24 * 60 * 60.0  # seconds; a hit is noted on its entry if the last one noted is older

_FORMAT = b"stream-image digests 1\0"
_DIGEST = re.compile("sha256:[0-9a-f]{64}")
_KEY = re.compile("[0-9a-f]{64}")
_SHARD = re.compile("[0-9a-f]")
_ENTRY = re.compile(r"[0-9a-f]{64}\.json")
_UNFINISHED = re.compile(r"\.[0-9a-f]{16}\.part")
_TAG = b"""\
Signature: 8a477f597d28d172789f06886806bc55
# The digest cache of stream-image, see https://bford.info/cachedir/. It can be removed at any time.
"""


def default_directory(environment: Mapping[str, str]) -> str | None:
    """Return the cache's usual directory, as the XDG Base Directory Specification has it:
    `$XDG_CACHE_HOME/stream-image/digests`, or the same below `$HOME/.cache`.

    None where there is no home, and for root in the home of somebody else (as under sudo), who
    could not use or remove what root makes there.
    """
    caches = environment.get("XDG_CACHE_HOME", "")
    if not os.path.isabs(caches):
        home = environment.get("HOME", "")
        # A home that does not exist is not made: Nix's builds have one that must not exist.
        if not os.path.isabs(home) or not os.path.isdir(home):
            return None
        caches = os.path.join(home, ".cache")
    directory = os.path.join(caches, "stream-image", "digests")
    if os.geteuid() == 0:
        above = directory
        while not os.path.lexists(above):
            above = os.path.dirname(above)
        with suppress(OSError):
            return directory if os.stat(above).st_uid == 0 else None
        return None
    return directory


@dataclass(frozen=True, slots=True, kw_only=True)
class CacheExtent:
    """The extent of a cache: the number of layers, the size of their files in bytes, and when the
    layer that was not used for longest was used, in seconds since the epoch (None: there is none).
    """

    layers: int
    size: int
    oldest: float | None


@dataclass(frozen=True, slots=True, kw_only=True)
class BadEntry:
    """An entry of a cache that is never used, at `path`; `reason` says why."""

    path: str
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class _Entry:
    """A layer as an entry describes it, under each of `keys`: `blobs` are its descriptors by
    encoding, those recorded last at the end.
    """

    keys: tuple[str, ...]
    diff_id: Digest
    size: int
    blobs: dict[str, Descriptor] = field(default_factory=dict)


class _BadEntryError(Exception):
    """An entry that must not be used; the text says why."""


class DigestCache:
    """The digests kept in `directory`, one file for each key: `K/KEY.json` below it, K being
    the key's first digit. See `Digests`.

    A file is written under another name and renamed, so it is seen whole or not at all. It names
    its keys and has a checksum: one that is cut off, altered or of another key is not used. Nor
    is one that another user owns or may write, or that is below such a directory. No file is
    ever locked, and nothing is kept in memory.
    """

    def __init__(self, directory: str) -> None:
        self.directory = directory
        with suppress(OSError):  # a working directory that was removed
            self.directory = os.path.abspath(directory)

    # ---- the interface

    def lookup(self, keys: Sequence[LayerKey], encoding: str) -> KnownLayer | None:
        """See the interface. The first of `keys` with an entry decides what the layer is."""
        known: _Entry | None = None
        for key in keys:
            entry = self._entry(key)
            if entry is None or (known and known.diff_id != entry.diff_id):
                continue
            known = known or entry
            if blob := entry.blobs.get(encoding):
                return KnownLayer(diff_id=known.diff_id, size=known.size, descriptor=blob)
        return KnownLayer(diff_id=known.diff_id, size=known.size) if known else None

    def record(self, keys: Sequence[LayerKey], layer: Layer, encoding: str) -> None:
        """See the interface. Encodings that other runs have recorded stay."""
        values = tuple(key.value for key in keys if key.recordable and _KEY.fullmatch(key.value))
        known = [entry for key in keys if (entry := self._entry(key))]
        same = [e for e in known if (e.diff_id, e.size) == (layer.diff_id, layer.size)]
        if len(values) == sum(e.blobs.get(encoding) == layer.descriptor for e in same):
            return
        blobs = {name: blob for entry in same for name, blob in entry.blobs.items()}
        blobs.pop(encoding, None)
        blobs = dict([*blobs.items(), (encoding, layer.descriptor)][-MAX_ENCODINGS:])
        with suppress(OSError, ValueError):
            self._write(_Entry(keys=values, diff_id=layer.diff_id, size=layer.size, blobs=blobs))

    def forget(self, keys: Sequence[LayerKey]) -> str | None:
        """See the interface. Removes the entries and returns the path of the first."""
        removed = []
        for path in (self.path(key.value) for key in keys if _KEY.fullmatch(key.value)):
            with suppress(OSError, ValueError):
                os.unlink(path)
                removed.append(path)
        return removed[0] if removed else None

    # ---- for its owner

    def path(self, key: str) -> str:
        """Return the path of the entry of `key`."""
        return f"{self.directory}/{key[0]}/{key}.json"

    def why_unused(self) -> str | None:
        """Return why the directory is not used, or None if it is, or can be made."""
        try:
            _check_directory(os.stat(self.directory))
        except FileNotFoundError:
            above = self.directory
            while not os.path.isdir(above):
                above = os.path.dirname(above) or os.curdir
            return None if os.access(above, os.W_OK) else f"cannot be made: {above} is not writable"
        except (OSError, ValueError) as error:
            return f"cannot be read: {getattr(error, 'strerror', error)}"
        except _BadEntryError as wrong:
            return str(wrong)
        return None

    def extent(self) -> CacheExtent:
        """Return how much is in the cache."""
        found = {}
        for path in self._paths(_ENTRY):
            with suppress(OSError):
                status = os.lstat(path)
                found[status.st_ino] = status  # a layer's keys are links to one file
        return CacheExtent(
            layers=len(found),
            size=sum(status.st_size for status in found.values()),
            oldest=min((status.st_mtime for status in found.values()), default=None),
        )

    def bad_entries(self) -> Iterator[BadEntry]:
        """Yield each entry that is not used because something is wrong with it."""
        for path in self._paths(_ENTRY):
            key = os.path.basename(path).removesuffix(".json")
            try:
                self._read(key)
            except FileNotFoundError:  # removed meanwhile
                continue
            except OSError as error:
                yield BadEntry(path=path, reason=f"cannot be read: {error.strerror}")
            except _BadEntryError as wrong:
                yield BadEntry(path=path, reason=str(wrong))

    def clear(self) -> None:
        """Remove all entries, and what unfinished writes have left. Other files are not touched.
        Raises OSError for one that cannot be removed.
        """
        for pattern in _ENTRY, _UNFINISHED:
            for path in self._paths(pattern):
                with suppress(FileNotFoundError):
                    os.unlink(path)
        for shard in self._shards():
            with suppress(OSError):  # something else is in it
                os.rmdir(shard)

    # ---- files

    def _shards(self) -> list[str]:
        with suppress(OSError, ValueError):
            names = sorted(filter(_SHARD.fullmatch, os.listdir(self.directory)))
            return [f"{self.directory}/{name}" for name in names]
        return []

    def _paths(self, pattern: re.Pattern[str]) -> Iterator[str]:
        """Yield the path of each file in a shard with a name like `pattern`."""
        for shard in self._shards():
            with suppress(OSError):
                if stat.S_ISDIR(os.lstat(shard).st_mode):
                    names = sorted(filter(pattern.fullmatch, os.listdir(shard)))
                    yield from (f"{shard}/{name}" for name in names)

    def _entry(self, key: LayerKey) -> _Entry | None:
        """Return the entry of `key` if there is one to be used, and note on it that it was."""
        # What cannot be recorded now was not known before, unless a clock was set back.
        if not key.recordable or not _KEY.fullmatch(key.value):
            return None
        with suppress(OSError, ValueError, _BadEntryError):
            entry, used = self._read(key.value)
            if abs(time.time() - used) > DAY:
                with suppress(OSError):
                    os.utime(self.path(key.value), follow_symlinks=False)
            return entry
        return None

    def _read(self, key: str) -> tuple[_Entry, float]:
        """Return the entry of `key`, and when it was used last. Raises OSError, ValueError and
        _BadEntryError.
        """
        _check_directory(os.stat(self.directory))
        path = self.path(key)
        _check_directory(os.lstat(os.path.dirname(path)))
        # Not waiting for a FIFO's writer, nor following a link to some other file of this user.
        fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC)
        try:
            status = os.fstat(fd)
            if not stat.S_ISREG(status.st_mode):
                raise _BadEntryError("is not a regular file")
            _check_owner(status)
            if status.st_size > MAX_ENTRY:
                raise _BadEntryError("is too large for an entry")
            return _parse(key, os.read(fd, MAX_ENTRY)), status.st_mtime
        finally:
            os.close(fd)

    def _write(self, entry: _Entry) -> None:
        """Put `entry` in the place of those of its keys. Raises OSError."""
        data = _sealed(entry)
        paths = [path for path in map(self.path, entry.keys) if self._make(os.path.dirname(path))]
        if len(data) > MAX_ENTRY or not paths:
            return
        # Named before it exists: a signal may arrive before open() returns.
        unfinished = [f"{os.path.dirname(path)}/.{os.urandom(8).hex()}.part" for path in paths]
        try:
            _write_file(unfinished[0], data)
            for name in unfinished[1:]:
                _copy_file(unfinished[0], name, data)
            for name, path in zip(unfinished, paths, strict=True):
                os.rename(name, path)
        finally:
            for name in unfinished:
                with suppress(OSError):
                    os.unlink(name)
        for path in paths:
            if path.endswith("0.json"):  # one key of sixteen
                _prune(os.path.dirname(path))

    def _make(self, shard: str) -> bool:
        """Make the directory `shard` if it is missing, with those above it. Return whether it
        can be trusted. Raises OSError.
        """
        missing = []
        above = shard
        while above and not os.path.isdir(above):
            missing.append(above)
            above = os.path.dirname(above)
        for path in reversed(missing):
            with suppress(FileExistsError):
                os.mkdir(path, 0o700)
                if path == self.directory:
                    with suppress(OSError):
                        _write_file(f"{path}/CACHEDIR.TAG", _TAG)
        with suppress(_BadEntryError):
            _check_directory(os.stat(self.directory))
            _check_directory(os.lstat(shard))
            return True
        return False


def _check_directory(status: os.stat_result) -> None:
    if not stat.S_ISDIR(status.st_mode):
        raise _BadEntryError("is not a directory")
    _check_owner(status)


def _check_owner(status: os.stat_result) -> None:
    """Raise _BadEntryError if another user could have decided what is there."""
    if status.st_uid != os.geteuid():
        raise _BadEntryError("belongs to another user")
    if status.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
        raise _BadEntryError("can be written by other users; remove their permission (chmod go-w)")


def _write_file(path: str, data: bytes) -> None:
    """Write `data` to the new file `path`. Raises OSError."""
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
    fd = os.open(path, flags, 0o600)
    try:
        if os.write(fd, data) < len(data):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    finally:
        os.close(fd)


def _copy_file(old: str, new: str, data: bytes) -> None:
    """Make the file `new` with the same `data` as `old`, as a link where the file system has any:
    that takes a fiftieth of the time. Raises OSError.
    """
    try:
        os.link(old, new)
    except OSError:
        _write_file(new, data)


def _prune(shard: str) -> None:
    """Remove what was not used for longest from a directory with too many files. What killed
    processes have left grows old there as well.
    """
    names = [
        name for name in os.listdir(shard) if _ENTRY.fullmatch(name) or _UNFINISHED.fullmatch(name)
    ]
    if len(names) <= MAX_IN_SHARD:
        return
    used = []
    for name in names:
        with suppress(OSError):
            used.append((os.lstat(f"{shard}/{name}").st_mtime, name))
    for _, name in sorted(used)[:-KEPT_IN_SHARD]:
        with suppress(OSError):
            os.unlink(f"{shard}/{name}")


# ---- an entry's bytes


def _document(entry: _Entry) -> dict[str, object]:
    return {
        "keys": list(entry.keys),
        "diff_id": entry.diff_id,
        "size": entry.size,
        "blobs": {
            encoding: {"media_type": blob.media_type, "digest": blob.digest, "size": blob.size}
            for encoding, blob in entry.blobs.items()
        },
    }


def _checksum(entry: _Entry) -> str:
    return hashlib.sha256(_FORMAT + _encode(_document(entry))).hexdigest()


def _encode(document: Mapping[str, Any]) -> bytes:
    return json.dumps(document, ensure_ascii=False, separators=(",", ":")).encode()


def _sealed(entry: _Entry) -> bytes:
    """Return the bytes of the file for `entry`."""
    return _encode({"layer": _document(entry), "checksum": _checksum(entry)}) + b"\n"


def _parse(key: str, data: bytes) -> _Entry:
    """Return the entry of `key` in `data`. Raises _BadEntryError."""
    try:
        document = json.loads(data)
    except (ValueError, RecursionError):
        raise _BadEntryError("is not JSON: cut off, or written by something else") from None
    match document:
        case {
            "layer": {"keys": list(keys), "diff_id": diff_id, "size": size, "blobs": dict(blobs)},
            "checksum": str(checksum),
        }:
            entry = _Entry(
                keys=tuple(value for value in keys if isinstance(value, str)),
                diff_id=_digest(diff_id),
                size=_size(size),
                blobs={encoding: _descriptor(blob) for encoding, blob in blobs.items()},
            )
            if checksum != _checksum(entry):
                raise _BadEntryError("is altered: its checksum does not match")
            if key not in entry.keys:
                raise _BadEntryError("is of another layer")
            return entry
    raise _BadEntryError("is not an entry of this cache")


def _descriptor(blob: object) -> Descriptor:
    match blob:
        case {"media_type": str(media_type), "digest": digest, "size": size}:
            return Descriptor(media_type=media_type, digest=_digest(digest), size=_size(size))
    raise _BadEntryError("is not an entry of this cache")


def _digest(value: object) -> Digest:
    if isinstance(value, str) and _DIGEST.fullmatch(value):
        return Digest(value)
    raise _BadEntryError("has a digest that is not a SHA-256")


def _size(value: object) -> int:
    if type(value) is int and 0 <= value <= MAX_SIZE:
        return value
    raise _BadEntryError("has a size that is not a number of bytes")

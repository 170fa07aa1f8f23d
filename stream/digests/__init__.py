"""Known digests: keys that say what a layer's bytes depend on, and what was computed for them,
which `store.py` keeps.

A key is a SHA-256, because it stands for content and decides what is shipped. There are two
forms. The *file form* is for files on this machine: their metadata, and the identity of each
file, which no write leaves as it was. The *path form* is for store paths of Nix: their metadata,
and the NAR hash of each, the same on all machines. Knows neither layers nor how digests are
computed.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from contextlib import suppress
from functools import cache
from hashlib import sha256
from typing import Protocol

from stream.model import Digest, KnownLayer, Layer, LayerKey

# Raised whenever a layer with the same metadata and content gets other bytes.
FORMAT = 1

# A file that changed less than this before it was looked at may change again with the same
# ctime: clocks of file systems are coarse. Git waits as long for its index.
SETTLING_NS = 2 * 10**9


class Digests(Protocol):
    """What is known of layers. All methods may be called from several threads."""

    def lookup(self, keys: Sequence[LayerKey], encoding: str) -> KnownLayer | None:
        """Return the layer recorded under the first of `keys` that has a record; its descriptor
        is that of the blob in `encoding`, None if only others are known.
        """

    def record(self, keys: Sequence[LayerKey], layer: Layer, encoding: str) -> None:
        """Record `layer` and its blob in `encoding` under those of `keys` that allow it."""

    def forget(self, keys: Sequence[LayerKey]) -> str | None:
        """Remove what is recorded under `keys`. Return the path of the first record removed."""


class _NoDigests:
    """Remembers nothing."""

    def lookup(self, keys: Sequence[LayerKey], encoding: str) -> None:
        """See Digests."""

    def record(self, keys: Sequence[LayerKey], layer: Layer, encoding: str) -> None:
        """See Digests."""

    def forget(self, keys: Sequence[LayerKey]) -> None:
        """See Digests."""


NO_DIGESTS: Digests = _NoDigests()


# ---- keys


def file_key(
    metadata: Iterable[bytes | memoryview],
    identities: Iterable[bytes | memoryview],
    *,
    settled: bool,
) -> LayerKey:
    """Return the key in file form of a layer with this `metadata`: everything in it but the
    content of files on this machine, whose `identities` are device, inode, size, modification
    time and ctime. It is recordable if they have `settled`: see `is_settled`.
    """
    value = _hash("local", [_machine(), *metadata], identities)
    return LayerKey(value=value, recordable=settled)


def path_key(
    metadata: Iterable[bytes | memoryview], contents: Iterable[tuple[bytes, str]]
) -> LayerKey:
    """Return the key in path form of a layer with this `metadata`, whose `contents` are store
    paths, each with its NAR hash.
    """
    parts = (part for path, nar_hash in contents for part in (path, nar_hash.encode()))
    return LayerKey(value=_hash("paths", metadata, parts), portable=True)


def content_key(diff_id: Digest) -> LayerKey:
    """Return the key of a layer whose diff_id is known: there is only its blob to learn."""
    return LayerKey(value=diff_id.removeprefix("sha256:"), portable=True)


def joined_key(*keys: LayerKey) -> LayerKey:
    """Return the key of a layer whose bytes follow from the layers that have these keys."""
    return LayerKey(
        value=_hash("joined", [key.value.encode() for key in keys]),
        recordable=all(key.recordable for key in keys),
        portable=all(key.portable for key in keys),
    )


def is_settled(newest_ctime_ns: int, now_ns: int) -> bool:
    """Return True if no file changed so recently that it may change again with the same ctime.
    `newest_ctime_ns` is the latest ctime of all, `now_ns` the time before they were looked at.
    A ctime in the future shows that the clock was set back.
    """
    return newest_ctime_ns < now_ns - SETTLING_NS


def _hash(form: str, *groups: Iterable[bytes | memoryview]) -> str:
    digest = sha256(f"stream-image layer {FORMAT} {form}\0".encode())
    for group in groups:
        for part in group:
            view = memoryview(part)
            digest.update(view.nbytes.to_bytes(8, "little"))
            digest.update(view)
        digest.update(b"\xff" * 8)  # no length
    return digest.hexdigest()


@cache
def _machine() -> bytes:
    """Return the machine's ID: machine-id(5); empty if it has none."""
    with suppress(OSError), open("/etc/machine-id", "rb") as file:
        return file.read(64)
    return b""

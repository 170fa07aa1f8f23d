"""A repository in memory, with the rules of a registry, that can be made to fail at any request or
byte.

Must not know the package's client; it stands in its place.
"""

import hashlib
import threading
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import orjson

from stream.errors import RegistryError
from stream.model import Digest


class KilledError(BaseException):
    """The push was killed: nothing more reaches the registry."""


@dataclass(frozen=True, kw_only=True)
class StoredManifest:
    """A manifest as the repository has it."""

    data: bytes
    media_type: str
    digest: Digest


def digest_of(data: bytes) -> Digest:
    """Return the digest of `data`."""
    return Digest(f"sha256:{hashlib.sha256(data).hexdigest()}")


class MemoryRepository:
    """A repository. `elsewhere` has the blobs of other repositories, by their names. With
    `fails_at`, that request fails, counted from 0, with `failure`; with `fails_after`, so does the
    upload that goes beyond so many bytes in total.
    """

    def __init__(self, elsewhere: Mapping[str, Mapping[Digest, bytes]] | None = None) -> None:
        self.blobs: dict[Digest, bytes] = {}
        self.manifests: dict[Digest, StoredManifest] = {}
        self.tags: dict[str, Digest] = {}
        self.open: set[MemoryUpload] = set()
        self.requests: list[str] = []
        self.received = 0
        self.fails_at: int | None = None
        self.fails_after: int | None = None
        self.failure: BaseException = KilledError()
        self.is_dead = False
        self._elsewhere = elsewhere or {}
        self._lock = threading.RLock()

    def revive(self) -> None:
        """Work again, with nothing but what has been stored."""
        self.fails_at = self.fails_after = None
        self.is_dead = False
        self.open.clear()
        self.requests.clear()
        self.received = 0

    def request(self, what: str) -> None:
        """Take a request, or fail."""
        with self._lock:
            number = len(self.requests)
            self.requests.append(what)
            if number == self.fails_at:
                self._fail()
            if self.is_dead:
                raise KilledError

    def receive(self, count: int) -> None:
        """Take bytes, or fail."""
        with self._lock:
            if self.is_dead:
                raise KilledError
            self.received += count
            if self.fails_after is not None and self.received > self.fails_after:
                self._fail()

    def _fail(self) -> None:
        self.fails_at = self.fails_after = None
        self.is_dead = isinstance(self.failure, KilledError)
        raise self.failure

    def manifest(self, reference: str) -> StoredManifest | None:
        """See Repository."""
        self.request(f"GET manifest {reference}")
        return self.manifests.get(self.tags.get(reference, Digest(reference)))

    def referrers(self, digest: Digest) -> list[bytes] | None:
        """See Repository. There is no list."""
        self.request(f"GET referrers {digest}")
        return None

    def put_manifest(self, data: bytes, media_type: str, reference: str) -> bool:
        """See Repository."""
        self.request(f"PUT manifest {reference}")
        document = orjson.loads(data)
        for one in document.get("manifests", []):
            if one["digest"] not in self.manifests:
                raise RegistryError("memory", f"lacks {one['digest']}", status=404)
        for one in [document["config"], *document["layers"]] if "config" in document else []:
            if one["digest"] not in self.blobs:
                raise RegistryError(
                    "memory", f"lacks {one['digest']}", status=404, code="MANIFEST_BLOB_UNKNOWN"
                )
        digest = digest_of(data)
        self.manifests[digest] = StoredManifest(data=data, media_type=media_type, digest=digest)
        if reference != digest:
            self.tags[reference] = digest
        return False

    def has_blob(self, digest: Digest, size: int | None = None) -> bool:
        """See Repository."""
        self.request(f"HEAD blob {digest}")
        return digest in self.blobs

    def mount(self, digest: Digest, repository: str) -> "MemoryUpload | None":
        """See Repository."""
        self.request(f"POST mount {repository} {digest}")
        data = self._elsewhere[repository].get(digest)
        if data is None:
            return self._opened()
        self.blobs[digest] = data
        return None

    def begin_upload(self) -> "MemoryUpload":
        """See Repository."""
        self.request("POST upload")
        return self._opened()

    def _opened(self) -> "MemoryUpload":
        upload = MemoryUpload(self)
        self.open.add(upload)
        return upload

    def count(self, kind: str) -> int:
        """Return the number of requests of a kind."""
        return sum(what.startswith(kind) for what in self.requests)

    def image(self, tag: str) -> dict[str, Any]:
        """Return the manifest of a tag, all of whose blobs are there."""
        document: dict[str, Any] = orjson.loads(self.manifests[self.tags[tag]].data)
        for one in [document["config"], *document["layers"]]:
            assert len(self.blobs[one["digest"]]) == one["size"]
        return document


@dataclass(eq=False)
class MemoryUpload:
    """An upload to a MemoryRepository."""

    repository: MemoryRepository
    data: bytearray = field(default_factory=bytearray)
    sizes: list[int | None] = field(default_factory=list)

    def send(self, pieces: Iterable[bytes | memoryview], size: int | None = None) -> None:
        """See Upload."""
        self.repository.request("PATCH upload")
        self.sizes.append(size)
        for piece in pieces:
            self.repository.receive(len(piece))
            self.data += piece
        assert size in (None, len(self.data))

    def commit(self, digest: Digest) -> None:
        """See Upload."""
        self.repository.request(f"PUT blob {digest}")
        assert self in self.repository.open
        self.repository.open.discard(self)
        assert digest_of(bytes(self.data)) == digest
        self.repository.blobs[digest] = bytes(self.data)

    def cancel(self) -> None:
        """See Upload."""
        if not self.repository.is_dead:
            self.repository.open.discard(self)

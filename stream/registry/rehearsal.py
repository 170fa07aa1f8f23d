"""A repository in which nothing is changed: a push to it shows what would move.

Reads what is there through another repository, and forgets what is written. Must not know what
blobs and manifests hold.
"""

from __future__ import annotations

from collections.abc import Container, Iterable, Mapping

from stream.model import Digest
from stream.oci.documents import digest
from stream.registry.client import Manifest, Repository


class _Discarded:
    """An upload that goes nowhere. See `stream.registry.client.Upload`."""

    def send(self, pieces: Iterable[bytes | memoryview], size: int | None = None) -> None:
        """Take the bytes."""
        for _ in pieces:
            pass

    def commit(self, digest: Digest) -> None:
        """Keep nothing."""

    def cancel(self) -> None:
        """Keep nothing."""


class Rehearsal:
    """`repository` as it is, to be pushed to without a change. `others` are the repositories
    that blobs are mounted from, by their names. Blobs that are `promised` would be in one of this
    registry by now. See `stream.registry.client.Repository`.
    """

    def __init__(
        self,
        repository: Repository,
        others: Mapping[str, Repository],
        promised: Container[Digest] = (),
    ) -> None:
        self._repository = repository
        self._others = others
        self._promised = promised
        self._manifests: dict[str, Manifest] = {}  # those that would be there
        self._mounted: dict[Digest, Repository] = {}  # blobs that would, and where they are

    def manifest(self, reference: str) -> Manifest | None:
        """See Repository."""
        return self._manifests.get(reference) or self._repository.manifest(reference)

    def put_manifest(self, data: bytes, media_type: str, reference: str) -> bool:
        """See Repository. Nobody else changes it meanwhile: no list has to be kept."""
        self._manifests[reference] = Manifest(data=data, media_type=media_type, digest=digest(data))
        return True

    def referrers(self, digest: Digest) -> list[bytes] | None:
        """See Repository."""
        return self._repository.referrers(digest)

    def has_blob(self, digest: Digest, size: int | None = None) -> bool:
        """See Repository."""
        return self._mounted.get(digest, self._repository).has_blob(digest, size)

    def mount(self, digest: Digest, repository: str) -> _Discarded | None:
        """See Repository."""
        if digest in self._promised:
            return None
        other = self._others[repository]
        if not other.has_blob(digest):
            return _Discarded()
        self._mounted[digest] = other
        return None

    def begin_upload(self) -> _Discarded:
        """See Repository."""
        return _Discarded()

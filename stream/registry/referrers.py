"""Artifacts that refer to an image, beside it in its repository: finding and attaching them.

OCI Distribution Specification, "Listing Referrers" and "Referrers Tag Schema". A registry lists
what refers to a manifest by its `subject`; for one that does not, its clients keep the list, an index
under a tag that is made of the manifest's digest. Must not know what artifacts hold.
"""

from __future__ import annotations

import json
import random
import time
from collections.abc import Callable
from typing import Any, Protocol

from stream.errors import RegistryError
from stream.model import Descriptor, Digest
from stream.oci.documents import INDEX_TYPE, MANIFEST_TYPE, digest
from stream.oci.reference import BadReference, parse_digest
from stream.parsing import parse_json

MAX_REFERRERS = 10_000  # of one image
_TRIES = 6
_LACKING = "MANIFEST_BLOB_UNKNOWN"  # of a manifest that lists what is not there
# Seconds after which another machine that read the list before we wrote it has written its own.
_PAUSE = (0.1, 0.5)


class Listing(Protocol):
    """What is needed of a repository. See `stream.registry.client.Repository`."""

    def manifest(self, reference: str) -> Document | None: ...
    def put_manifest(self, data: bytes, media_type: str, reference: str) -> bool: ...
    def referrers(self, digest: Digest) -> list[bytes] | None: ...


class Document(Protocol):
    """A manifest in a registry. See `stream.registry.client.Manifest`."""

    @property
    def data(self) -> bytes: ...


def find_referrers(repository: Listing, subject: Digest) -> list[dict[str, Any]]:
    """Return the descriptors of what refers to the manifest `subject`, as the registry has them:
    objects, whose members are not checked. Raises RegistryError.
    """
    pages = repository.referrers(subject)
    if pages is None:
        return _kept(repository, subject)
    return [one for page in pages for one in _listed(repository, page, f"referrers of {subject}")]


def attach(
    repository: Listing,
    artifact: bytes,
    artifact_type: str,
    subject: Digest,
    store_blobs: Callable[[], None],
) -> Descriptor:
    """Put the manifest `artifact`, whose subject is `subject`, into the repository, unless it is
    listed already: after `store_blobs`, which stores what it lists. Return its descriptor. It is
    listed when this returns. Raises RegistryError, and what `store_blobs` raises.
    """
    own = digest(artifact)
    descriptor = Descriptor(media_type=MANIFEST_TYPE, digest=own, size=len(artifact))
    if any(one.get("digest") == own for one in find_referrers(repository, subject)):
        return descriptor
    store_blobs()
    if not repository.put_manifest(artifact, MANIFEST_TYPE, own):
        item = {
            "mediaType": MANIFEST_TYPE,
            "digest": own,
            "size": len(artifact),
            "artifactType": artifact_type,
        }
        _keep(repository, item, subject)
    return descriptor


def fallback_tag(subject: Digest) -> str:
    """Return the tag of the list that clients keep."""
    return subject.replace(":", "-")


def _kept(repository: Listing, subject: Digest) -> list[dict[str, Any]]:
    tag = fallback_tag(subject)
    found = repository.manifest(tag)
    return [] if found is None else _listed(repository, found.data, f"tag {tag}")


def _keep(repository: Listing, item: dict[str, Any], subject: Digest) -> None:
    """Add an item to the list that clients keep. A tag cannot be changed only if it still names the
    same: what another machine wrote in between is lost, which it sees when it reads the list again.
    """
    for _ in range(_TRIES):
        listed = _kept(repository, subject)
        if not any(one.get("digest") == item["digest"] for one in listed):
            try:
                _put(repository, [*listed, item], subject)
            except RegistryError as error:
                if error.code != _LACKING:
                    raise
                # Some were removed, and the registry takes no list of what is not there.
                there = [one for one in listed if _is_there(repository, one)]
                _put(repository, [*there, item], subject)
        time.sleep(random.uniform(*_PAUSE))  # noqa: S311 — not for a secret
        if any(one.get("digest") == item["digest"] for one in _kept(repository, subject)):
            return
    tag = fallback_tag(subject)
    reason = f"other machines keep replacing tag {tag}, the list of what refers to the image"
    raise RegistryError(str(repository), f"{reason}; try again")


def _put(repository: Listing, items: list[dict[str, Any]], subject: Digest) -> None:
    index = {"schemaVersion": 2, "mediaType": INDEX_TYPE, "manifests": items}
    data = json.dumps(index, separators=(",", ":")).encode()
    repository.put_manifest(data, INDEX_TYPE, fallback_tag(subject))


def _is_there(repository: Listing, item: dict[str, Any]) -> bool:
    try:
        return repository.manifest(parse_digest(str(item.get("digest")))) is not None
    except BadReference:
        return False


def _listed(repository: Listing, data: bytes, what: str) -> list[dict[str, Any]]:
    """Return the descriptors in an index. Raises RegistryError for what is not one."""
    try:
        document = parse_json(data)
    except ValueError as error:
        raise RegistryError(str(repository), f"{what}: {error}") from None
    items = document.get("manifests") if isinstance(document, dict) else None
    if not isinstance(items, list) or len(items) > MAX_REFERRERS:
        raise RegistryError(str(repository), f"{what}: is not a list of what refers to an image")
    return [one for one in items if isinstance(one, dict)]

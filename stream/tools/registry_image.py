"""An image in a registry, as its documents describe it, and the SBOMs that are kept beside it. No layer
is fetched. Must not know argv.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import closing
from itertools import islice, zip_longest
from typing import Any, TypeVar

from stream.errors import ArgumentError, RegistryError
from stream.limits import MAX_DOCUMENT, MAX_INDEXES
from stream.model import Digest
from stream.oci.history import recorded_layers
from stream.oci.manifests import is_image, is_index
from stream.oci.platform import Platform
from stream.oci.reference import BadReference, Location, parse_digest
from stream.parsing import parse_json
from stream.registry.client import Repository
from stream.registry.referrers import find_referrers
from stream.registry.trust import Access
from stream.sbom.documents import MAX_SBOM, MEDIA_TYPES, read_sbom
from stream.sbom.listing import Listed, Malformed
from stream.values import dataclass

_Item = TypeVar("_Item")

_ANYWHERE = Access()
_MOST_ARTIFACTS = 100  # of an image, whose SBOMs are fetched


@dataclass(frozen=True, slots=True, kw_only=True)
class RegistryImage:
    """An image in a registry: the `digest` of its manifest, and its documents. Anybody can have
    written these.
    """

    digest: Digest
    manifest: Mapping[str, Any]
    config: Mapping[str, Any]

    @property
    def image_id(self) -> Digest:
        """The digest of the image's config."""
        return Digest(self.manifest["config"]["digest"])

    @property
    def layers(self) -> tuple[DescribedLayer, ...]:
        """The layers, bottom to top."""
        rootfs = self.config.get("rootfs")
        diff_ids = _objects(rootfs, "diff_ids", str)
        paths = {one.diff_id: one.store_paths for one in recorded_layers(self.config)}
        comments = [
            str(one.get("comment") or one.get("created_by") or "")
            for one in _objects(self.config, "history", dict)
            if not one.get("empty_layer")
        ]
        return tuple(
            DescribedLayer(
                digest=str(layer.get("digest")),
                size=size if type(size := layer.get("size")) is int else None,
                media_type=str(layer.get("mediaType", "")),
                diff_id=diff_id,
                store_paths=paths.get(diff_id or "", ()),
                history=comment or "",
            )
            for layer, diff_id, comment in islice(
                zip_longest(_objects(self.manifest, "layers", dict), diff_ids, comments),
                len(_objects(self.manifest, "layers", dict)),
            )
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class DescribedLayer:
    """A layer of an image in a registry, so far as the image's documents describe it: `digest` and
    `size` in bytes are those of the blob, the others are None or empty if they are not stated.
    """

    digest: str
    size: int | None
    media_type: str
    diff_id: str | None
    store_paths: tuple[str, ...]
    history: str


@dataclass(frozen=True, slots=True, kw_only=True)
class AttachedSbom:
    """An SBOM that refers to an image: the `digest` of the artifact's manifest, the type and the
    content of the document, and what this lists.
    """

    digest: Digest
    media_type: str
    data: bytes
    listed: Listed


@dataclass(frozen=True, slots=True, kw_only=True)
class Surroundings:
    """The image at `reference`, and what refers to it: its SBOMs, and the types of other artifacts,
    such as signatures. `unread` says why others that claim to be SBOMs are not among them.
    """

    reference: str
    image: RegistryImage
    sboms: tuple[AttachedSbom, ...]
    others: tuple[str, ...]
    unread: tuple[str, ...]


def look_around(
    reference: str, platform: Platform | None = None, access: Access = _ANYWHERE
) -> Surroundings:
    """Return the image `reference`, `NAME[:TAG]` or `NAME@DIGEST`, and what refers to it; of an index,
    the image that fits `platform` best (default: this machine's). Raises ArgumentError,
    RegistryError or DigestMismatch.
    """
    try:
        location = Location.parse(reference)
    except BadReference as wrong:
        raise ArgumentError("reference", reference, wrong.within(reference)) from None
    wanted = platform or Platform.of_this_machine()
    with closing(Repository(location, access, only_pulls=True)) as repository:
        image = find_image(repository, location, wanted)
        if image is None:
            raise RegistryError(str(location), f"is not there, or has no image for {wanted}")
        sboms, others, unread = [], [], []
        for artifact, kind in _artifacts(repository, image.digest):
            if kind not in MEDIA_TYPES.values():
                others.append(kind)
                continue
            try:
                sboms.append(_fetched(repository, artifact, kind))
            except Malformed as wrong:
                unread.append(f"{artifact}: {wrong}")
    return Surroundings(
        reference=str(location),
        image=image,
        sboms=tuple(sboms),
        others=tuple(others),
        unread=tuple(unread),
    )


def find_image(
    repository: Repository, location: Location, platform: Platform
) -> RegistryImage | None:
    """Return the image at `location` in `repository`, the one that fits `platform` best; None if there
    is none, or if what is there is not an image. Raises RegistryError or DigestMismatch.
    """
    reference: str = location.digest or location.tag or "latest"
    for _ in range(MAX_INDEXES + 1):
        manifest = repository.manifest(reference)
        if manifest is None:
            return None
        document = _parsed(manifest.data)
        if not is_index({}, document):
            break
        entries = document.get("manifests")
        entries = entries if isinstance(entries, list) else []
        entries = [one for one in entries if isinstance(one, dict)]
        closest = platform.closest(_stated(one) for one in entries)
        digest = None if closest is None else _digest_of(entries[closest])
        if digest is None:
            return None
        reference = digest
    else:
        raise RegistryError(str(location), "indexes are nested too deeply")
    digest = _digest_of(document.get("config"))
    if digest is None or not is_image({}, document):
        return None
    data = repository.blob(digest, MAX_DOCUMENT)
    if data is None:
        return None
    return RegistryImage(digest=manifest.digest, manifest=document, config=_parsed(data))


def _artifacts(repository: Repository, subject: Digest) -> Iterator[tuple[Digest, str]]:
    """Yield the digest and the type of each artifact that refers to an image."""
    for item in find_referrers(repository, subject)[:_MOST_ARTIFACTS]:
        if (digest := _digest_of(item)) is not None:
            yield digest, str(item.get("artifactType") or "unknown type")


def _fetched(repository: Repository, artifact: Digest, kind: str) -> AttachedSbom:
    """Return the SBOM in an artifact. Raises Malformed if it is not one."""
    manifest = repository.manifest(artifact)
    document = {} if manifest is None else _parsed(manifest.data)
    layers = document.get("layers")
    for layer in layers if isinstance(layers, list) else []:
        digest = _digest_of(layer)
        if digest is None or layer.get("mediaType") != kind:
            continue
        data = repository.blob(digest, MAX_SBOM)
        if data is not None:
            return AttachedSbom(digest=artifact, media_type=kind, data=data, listed=read_sbom(data))
    raise Malformed("is not there")


def _objects(document: object, key: str, kind: type[_Item]) -> list[_Item]:
    """Return the items of a type in the list at `key`; none if there is no list."""
    items = document.get(key) if isinstance(document, Mapping) else None
    return [one for one in items if isinstance(one, kind)] if isinstance(items, list) else []


def _parsed(data: bytes) -> dict[str, Any]:
    try:
        document = parse_json(data)
    except ValueError:
        document = None
    return document if isinstance(document, dict) else {}


def _stated(entry: dict[str, Any]) -> Platform:
    stated = entry.get("platform")
    return Platform.parse(stated if isinstance(stated, dict) else {})


def _digest_of(descriptor: object) -> Digest | None:
    try:
        return parse_digest(str(descriptor.get("digest") if isinstance(descriptor, dict) else ""))
    except BadReference:
        return None

"""The kinds of manifests: indexes, images, and artifacts kept beside images.

OCI Image Specification, image-index.md, manifest.md and media-types.md, and Docker's media
types. Takes documents as they were parsed, whatever their members are. Must not know files.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

INDEX_TYPES = frozenset(
    {
        "application/vnd.oci.image.index.v1+json",
        "application/vnd.docker.distribution.manifest.list.v2+json",
    }
)
_MANIFEST_TYPES = frozenset(
    {
        "application/vnd.oci.image.manifest.v1+json",
        "application/vnd.docker.distribution.manifest.v2+json",
    }
)
_CONFIG_TYPES = frozenset(
    {
        "application/vnd.oci.image.config.v1+json",
        "application/vnd.docker.container.image.v1+json",
    }
)
# Layers in any compression; also those that may not be distributed, and Docker's foreign ones.
_LAYER_TYPES = ("application/vnd.oci.image.layer.", "application/vnd.docker.image.rootfs.")


def is_index(descriptor: Mapping[str, Any], manifest: Mapping[str, Any]) -> bool:
    """Return whether `manifest`, to which `descriptor` refers, is an index."""
    return descriptor.get("mediaType") in INDEX_TYPES or "manifests" in manifest


def is_image(descriptor: Mapping[str, Any], manifest: Mapping[str, Any]) -> bool:
    """Return whether `manifest`, to which `descriptor` refers, is that of an image. Otherwise
    it is an artifact: an SBOM, a signature, an attestation, a chart. Artifacts have media types
    of their own for the manifest, the config or the layers, but some have an image's config.
    A media type that is absent is taken for an image's.
    """
    platform = descriptor.get("platform")
    if isinstance(platform, dict) and platform.get("os") == "unknown":
        return False  # an attestation of BuildKit
    if not all(_is_one_of(document, _MANIFEST_TYPES) for document in (descriptor, manifest)):
        return False
    if not _is_one_of(manifest.get("config"), _CONFIG_TYPES):
        return False
    layers = manifest.get("layers")
    return not isinstance(layers, list) or not layers or any(map(_may_be_layer, layers))


def _media_type(descriptor: object) -> str | None:
    kind = descriptor.get("mediaType") if isinstance(descriptor, dict) else None
    return kind if isinstance(kind, str) and kind else None


def _is_one_of(descriptor: object, kinds: frozenset[str]) -> bool:
    kind = _media_type(descriptor)
    return kind is None or kind in kinds


def _may_be_layer(descriptor: object) -> bool:
    kind = _media_type(descriptor)
    return kind is None or kind.startswith(_LAYER_TYPES)

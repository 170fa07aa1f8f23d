"""Encode the JSON documents of an image as bytes; compute digests and descriptors. Must not
know tar or files.

Image config: OCI Image Specification, config.md; byte for byte that of nixpkgs' `dockerTools`,
because its SHA-256 is the image ID. Archive manifest: the `manifest.json` of `docker save`.
OCI manifest and index: manifest.md and image-index.md.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple, TypeAlias

from stream.model import Descriptor, Digest, ImageConf, ImageDocuments, Layer
from stream.oci.reference import IMAGE_NAME, REF_NAME, qualified, split

INDEX_TYPE = "application/vnd.oci.image.index.v1+json"
MANIFEST_TYPE = "application/vnd.oci.image.manifest.v1+json"
CONFIG_TYPE = "application/vnd.oci.image.config.v1+json"
LAYER_TYPE = "application/vnd.oci.image.layer.v1.tar"  # compressed: +gzip, +zstd
# The compressions that there are media types for.
LAYER_COMPRESSIONS = frozenset({"gzip", "zstd"})
EMPTY_TYPE, EMPTY = "application/vnd.oci.empty.v1+json", b"{}"
OCI_LAYOUT = b'{"imageLayoutVersion":"1.0.0"}'

# Members that apply only to the base's own container, or have already taken effect.
_NOT_INHERITED = frozenset({"Hostname", "Domainname", "Image", "OnBuild"})

# Returns the annotations of a layer in its image's manifest.
Annotate: TypeAlias = Callable[[Layer], Mapping[str, str]]

_MERGED_BY_KEY = ("ExposedPorts", "Labels", "Volumes")


def layer_type(compression: str | None) -> str:
    """Return the media type of a layer's blob with this compression."""
    return f"{LAYER_TYPE}+{compression}" if compression else LAYER_TYPE


def uncompressed(diff_id: Digest, size: int) -> Descriptor:
    """Return the descriptor of a layer's blob that is not compressed."""
    return Descriptor(media_type=LAYER_TYPE, digest=diff_id, size=size)


def image_config(
    conf: ImageConf, layers: Sequence[Layer], base: dict[str, Any] | None = None
) -> bytes:
    """Return the image config of `conf` with `layers`, bottom to top. `base` is the config of
    the base image, whose layers are among them.
    """
    created = conf.created.isoformat()
    history = [{"created": created, "comment": layer.comment} for layer in layers]
    container_config = conf.container_config
    if base is not None and conf.base is not None:
        container_config = _inherited(base, container_config, whole=conf.base.config == "full")
        if conf.base.history == "keep":
            diff_ids = (base.get("rootfs") or {}).get("diff_ids") or []
            history = _kept_history(base, len(diff_ids), history)
    document = {
        "created": created,
        "architecture": conf.architecture,
        **({"variant": conf.variant} if conf.variant else {}),
        "os": "linux",
        "config": container_config,
        "rootfs": {"diff_ids": [layer.diff_id for layer in layers], "type": "layers"},
        "history": history,
    }
    return json.dumps(document, indent=4).encode("ascii")


def _object(value: object) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}


def _strings(value: object) -> list[str]:
    return [item for item in value if isinstance(item, str)] if isinstance(value, list) else []


def _inherited(base: dict[str, Any], ours: dict[str, Any], *, whole: bool) -> dict[str, Any]:
    """Return the container config `ours`, inheriting from that of `base`: only Env, as in
    nixpkgs, or the `whole` config, as in `docker build`.
    """
    theirs = _object(base.get("config"))
    env = _strings(theirs.get("Env")) + _strings(ours.get("Env"))
    config = dict(ours)
    if whole:
        config = {key: theirs[key] for key in theirs if key not in _NOT_INHERITED}
        if ours.get("Entrypoint") is not None:
            config.pop("Cmd", None)  # the arguments of the entry point that is replaced
        config.update(ours)
        for key in _MERGED_BY_KEY:
            if merged := {**_object(theirs.get(key)), **_object(ours.get(key))}:
                config[key] = merged
    if env:
        config["Env"] = list({entry.split("=", 1)[0]: entry for entry in env}.values())
    return config


def _kept_history(
    base: dict[str, Any], layer_count: int, history: list[dict[str, str]]
) -> list[Any]:
    """Return the base's own history, then ours. If it does not match the number of layers
    (some tools write no history), it is replaced.
    """
    theirs = base.get("history")
    kept = [
        entry for entry in (theirs if isinstance(theirs, list) else ()) if isinstance(entry, dict)
    ]
    if sum(not entry.get("empty_layer") for entry in kept) != layer_count:
        return list(history)
    return [*kept, *history[layer_count:]]


def archive_item(
    config_name: str, repo_tags: Sequence[str], layers: Sequence[Layer]
) -> dict[str, Any]:
    """Return the item of one image in `manifest.json`, which names archive members."""
    return {
        "Config": config_name,
        "RepoTags": list(repo_tags) or None,
        "Layers": [layer.archive_name for layer in layers],
    }


def archive_manifest(items: Sequence[dict[str, Any]]) -> bytes:
    """Return the `manifest.json` of the images described by `items`."""
    return _compact(items)


def repositories(tags: Mapping[str, Mapping[str, str]]) -> bytes:
    """Return the `repositories` of images: the ID of the top layer by repository and tag. Docker
    Image Specification v1.
    """
    return _compact(tags)


def legacy_layer(layer_id: str, parent: str, size: int, config: bytes, *, is_top: bool) -> bytes:
    """Return the `json` of a layer of `size` bytes in the image with the image config `config`;
    `parent` is empty for the lowest. Docker Image Specification v1.
    """
    image = json.loads(config)
    document = {
        "id": layer_id,
        **({"parent": parent} if parent else {}),
        "Size": size,
        **{key: image[key] for key in ("architecture", "created", "os") if key in image},
        **({"config": image.get("config") or {}} if is_top else {}),
    }
    return _compact(document)


def oci_manifest(
    config: bytes,
    layers: Sequence[Layer],
    annotations: Mapping[str, str],
    annotate: Annotate | None = None,
) -> bytes:
    """Return the OCI manifest of an image; `config` is its image config, and `annotate`
    returns the annotations of a layer.
    """
    document = {
        "schemaVersion": 2,
        "mediaType": MANIFEST_TYPE,
        "config": _descriptor(describe(CONFIG_TYPE, config)),
        "layers": [
            _descriptor(layer.descriptor) | _annotated(annotate(layer) if annotate else {})
            for layer in layers
        ],
    }
    return _compact(document | _annotated(annotations))


def artifact_manifest(artifact_type: str, blob: Descriptor, subject: Descriptor) -> bytes:
    """Return the OCI manifest of an artifact that is one `blob`, about the image whose manifest is
    `subject`. Its config is EMPTY: manifest.md, "Guidelines for Artifact Usage".
    """
    document = {
        "schemaVersion": 2,
        "mediaType": MANIFEST_TYPE,
        "artifactType": artifact_type,
        "config": _descriptor(describe(EMPTY_TYPE, EMPTY)),
        "layers": [_descriptor(blob)],
        "subject": _descriptor(subject),
    }
    return _compact(document)


class IndexEntry(NamedTuple):
    """An image in an index: the descriptor of its manifest, and its documents."""

    manifest: Descriptor
    image: ImageDocuments


class LayoutIndex(NamedTuple):
    """The `index.json` of an image layout, and the indexes among the blobs that it refers to."""

    data: bytes
    indexes: tuple[bytes, ...]


def oci_index(entries: Sequence[IndexEntry]) -> LayoutIndex:
    """Return the index of images: an entry for each tag, or one without a name for an image
    without tags. Images with one tag are in an index of their own, which has the tag.
    """
    sharing: dict[str, list[IndexEntry]] = {}
    for entry in entries:
        for tag in entry.image.repo_tags:
            sharing.setdefault(qualified(tag), []).append(entry)
    manifests: list[dict[str, Any]] = []
    indexes: list[bytes] = []
    for entry in entries:
        described = _index_item(entry)
        if not entry.image.repo_tags:
            manifests.append(described)
        for tag in entry.image.repo_tags:
            name = {IMAGE_NAME: qualified(tag), REF_NAME: split(tag)[1]}
            images = sharing[qualified(tag)]
            if len(images) == 1:
                manifests.append({**described, "annotations": name})
            elif images[0] is entry:
                indexes.append(platform_index(images))
                index = _descriptor(describe(INDEX_TYPE, indexes[-1]))
                manifests.append({**index, "annotations": name})
    return LayoutIndex(_index(manifests), tuple(indexes))


def platform_index(entries: Iterable[IndexEntry]) -> bytes:
    """Return the index of images that are one image for several platforms. It has no names, and the
    annotations that all of them have: registries show those of what a tag names.
    """
    images = [*entries]
    first, *others = (entry.image.annotations.items() for entry in images)
    shared = set(first).intersection(*others)
    return _index([_index_item(entry) for entry in images], dict(shared))


def _index_item(entry: IndexEntry) -> dict[str, Any]:
    manifest, image = entry
    platform = {"architecture": image.architecture, "os": image.os}
    if image.variant:
        platform["variant"] = image.variant
    return {**_descriptor(manifest), "platform": platform}


def _index(
    manifests: Sequence[dict[str, Any]], annotations: Mapping[str, str] | None = None
) -> bytes:
    document = {"schemaVersion": 2, "mediaType": INDEX_TYPE, "manifests": manifests}
    return _compact(document | _annotated(annotations or {}))


def digest(data: bytes) -> Digest:
    """Return the digest of `data`."""
    return Digest(f"sha256:{hashlib.sha256(data).hexdigest()}")


def describe(media_type: str, data: bytes) -> Descriptor:
    """Return the descriptor of `data`, bytes of the type `media_type`."""
    return Descriptor(media_type=media_type, digest=digest(data), size=len(data))


def _descriptor(descriptor: Descriptor) -> dict[str, Any]:
    return {
        "mediaType": descriptor.media_type,
        "digest": descriptor.digest,
        "size": descriptor.size,
    }


def _annotated(annotations: Mapping[str, str]) -> dict[str, Any]:
    return {"annotations": dict(annotations)} if annotations else {}


def _compact(document: object) -> bytes:
    return json.dumps(document, sort_keys=True, separators=(",", ":")).encode("ascii")


def store_paths_comment(paths: Sequence[str]) -> str:
    """Return the history comment of a layer that contains `paths`."""
    return f"store paths: {list(paths)}"

"""The images in a container, a docker-archive (`manifest.json`), an OCI image layout
(`index.json`) or a directory of skopeo's (`manifest.json` is one manifest), down to each
layer's blob and diff_id. Artifacts beside images are left out.

Formats: `docker save`'s manifest.json; OCI Image Specification, image-layout.md,
image-index.md, manifest.md, config.md; containers-transports(5), dir. Must not know how
containers are read. Documents are validated before they are used.
"""

from __future__ import annotations

import hashlib
import os
import re
import stat
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, closing, contextmanager
from typing import Any, Generic, NamedTuple, Never, Self, overload

from stream.archives.bytesource import ByteSource, reading
from stream.archives.container import Blob, Container, Peruse, T, T_co, content_of, where
from stream.archives.directory import encode_path, open_directory
from stream.archives.tars import open_tar
from stream.errors import ArchiveError
from stream.limits import (
    MAX_IMAGES,
    MAX_INDEXES,
    MAX_LAYERS,
    MAX_LISTED_LAYERS,
    MAX_PARSED,
    MAX_VALUES,
)
from stream.model import Digest
from stream.oci.manifests import is_image, is_index
from stream.oci.platform import Platform
from stream.oci.reference import IMAGE_NAME, REF_NAME, fits
from stream.parsing import count_values, parse_json
from stream.text import one_line
from stream.values import dataclass, field, replace

_DIGEST = re.compile("sha256:[0-9a-f]{64}")

_JSON_NAMES: dict[type, str] = {dict: "object", list: "array", str: "string"}


@dataclass(frozen=True, slots=True, kw_only=True)
class ArchiveLayer:
    """A layer of an image in an archive. `name` is its name in the manifest; `digest` is that
    of the stored blob, or None if the archive does not declare it.
    """

    name: str
    blob: Blob
    diff_id: Digest
    digest: Digest | None


@dataclass(frozen=True, slots=True, kw_only=True)
class ArchiveImage:
    """An image in an archive. `config` is the bytes of its config and `document` the parsed
    config; `layers` are from bottom to top. `platform` is that of its descriptor in an index,
    or else of its config.
    """

    config_name: str
    config: bytes
    document: dict[str, Any]
    repo_tags: tuple[str, ...]
    layers: tuple[ArchiveLayer, ...]
    platform: Platform
    annotations: Mapping[str, str] = field(default_factory=dict)  # of its OCI manifest

    @property
    def image_id(self) -> Digest:
        """The digest of the config's bytes."""
        return Digest(f"sha256:{hashlib.sha256(self.config).hexdigest()}")


@dataclass(frozen=True, slots=True, kw_only=True)
class Archive(Generic[T_co]):
    """An image archive: its container and its images. `kind` is `docker-archive`,
    `oci`, or `dir` for a directory of skopeo's. A context manager.
    """

    container: Container[T_co]
    kind: str
    images: tuple[ArchiveImage, ...]

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.container.close()

    @property
    def name(self) -> str:
        """The name of the archive, for errors."""
        return self.container.name

    @contextmanager
    def layer_content(self, layer: ArchiveLayer) -> Iterator[ByteSource]:
        """Open the uncompressed tar of `layer`. Raises ArchiveError."""
        with closing(self.container.read([layer.blob])) as reading:
            _, source = next(reading)
            yield content_of(source, layer.blob)

    def tagged(self, reference: str) -> tuple[ArchiveImage, ...]:
        """Return the images tagged `reference`, whose name or tag may be `*`: several, if they are
        for several platforms. Raises ArchiveError if there is none.
        """
        images = tuple(
            image for image in self.images if any(fits(tag, reference) for tag in image.repo_tags)
        )
        if not images:
            known = sorted({tag for image in self.images for tag in image.repo_tags})
            raise ArchiveError(
                self.name, f"has no image {reference} (it has: {', '.join(known) or 'no tags'})"
            )
        return images

    def choose(self, reference: str | None, platform: Platform | None = None) -> ArchiveImage:
        """Return the image tagged `reference`, whose name or tag may be `*`, or any for None. Of
        several, the one that fits `platform` best; without a platform, the first one for Linux. An
        image that is the only one need only be for the same operating system. Raises ArchiveError
        if there is none.
        """
        images = self.images if reference is None else self.tagged(reference)
        if not images:
            raise ArchiveError(self.name, "contains no image")
        if platform is None:
            return next((image for image in images if image.platform.os == "linux"), images[0])
        closest = platform.closest(image.platform for image in images)
        if closest is not None:
            return images[closest]
        others = dict.fromkeys(image.platform for image in images)
        if len(others) == 1 and images[0].platform.os in ("", platform.os):
            return images[0]
        there = ", ".join(map(str, others))
        raise ArchiveError(self.name, one_line(f"has no image for {platform} (it has: {there})"))


@overload
def open_archive(path: str) -> Archive[Never]: ...
@overload
def open_archive(path: str, peruse: Peruse[T] | None) -> Archive[T]: ...
def open_archive(path: str, peruse: Peruse[T] | None = None) -> Archive[T]:
    """Open and scan the archive at `path`. `peruse` is called for its layers (see Container).
    The caller closes the archive, or uses it in `with`. Raises ArchiveError.
    """
    container = open_container(path, peruse)
    try:
        return read_archive(container)
    except BaseException:
        container.close()
        raise


def open_container(path: str, peruse: Peruse[T] | None = None) -> Container[T]:
    """Open and scan the container at `path`: a directory, or a tar with any or no
    compression. Raises ArchiveError.
    """
    with reading(path), ExitStack() as stack:
        fd = os.open(encode_path(path), os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
        stack.callback(os.close, fd)
        mode = os.fstat(fd).st_mode
        if stat.S_ISDIR(mode):
            return open_directory(path, peruse)
        if not stat.S_ISREG(mode):
            raise ArchiveError(path, "is neither a regular file nor a directory")
        container = open_tar(fd, path).scan(peruse)
        stack.pop_all()  # the container closes it
        return container


def read_archive(container: Container[T]) -> Archive[T]:
    """Read the documents in `container`: a docker-archive's, a directory's of skopeo, or else an
    OCI layout's. Raises ArchiveError.
    """
    reader = _Reader(container)
    if (manifest := container.find("manifest.json")) is not None:
        document = reader.document(manifest)
        if isinstance(document, dict) and "schemaVersion" in document:
            reader.places = DIR_PLACES
            kind, images = "dir", [*reader.dir_images(manifest.name, document)]
        else:
            kind, images = "docker-archive", [*reader.docker_images(manifest.name, document)]
    elif (index := container.find("index.json")) is not None:
        kind, images = "oci", [*reader.oci_images(index.name, reader.document(index))]
    else:
        raise ArchiveError(
            container.name, "is not an image archive: it has neither manifest.json nor index.json"
        )
    return Archive(container=container, kind=kind, images=tuple(images))


class Places(NamedTuple):
    """The names of members, by the hexadecimal digits of their digests."""

    manifest: str
    blob: str


OCI_PLACES = Places("blobs/sha256/{}", "blobs/sha256/{}")
DIR_PLACES = Places("{}.manifest.json", "{}")


class _Reader:
    def __init__(self, container: Container[object]) -> None:
        self._container = container
        self._descriptors = 0  # met in indexes
        self._configs: dict[bytes, tuple[bytes, dict[str, Any], list[Digest]]] = {}
        self._config_values = 0  # in all of them
        self._parsed = 0  # values of all documents, each as often as it is read
        self._layers = 0  # listed by all images
        self.places = OCI_PLACES

    def document(self, blob: Blob) -> Any:
        """Return a document, parsed."""
        return self._json(blob.name, self._container.document(blob))

    def _error(self, member: str, reason: str) -> ArchiveError:
        return ArchiveError(where(self._container.name, member), reason)

    # ---- documents

    def _bytes(self, name: str) -> bytes:
        blob = self._container.find(name)
        if blob is None:
            raise self._error(name, "is missing")
        return self._container.document(blob)

    def _json(self, name: str, data: bytes) -> Any:
        self._parsed += count_values(data)
        if self._parsed > MAX_PARSED:
            raise self._error(name, "all documents together have too many values")
        try:
            return parse_json(data)
        except ValueError as error:
            raise self._error(name, str(error)) from None

    def _get(self, name: str, document: Any, key: str, kind: type, default: Any = None) -> Any:
        """Return `document[key]`, which must be a `kind`; null counts as absent."""
        value = document.get(key)
        if value is None and default is not None:
            return default
        if not isinstance(value, kind):
            what = "is missing" if value is None else f"is not a JSON {_JSON_NAMES[kind]}"
            raise self._error(name, one_line(f"{key} {what}"))
        return value

    def _object(self, name: str, value: Any) -> dict[str, Any]:
        if not isinstance(value, dict):
            raise self._error(name, "is not a JSON object")
        return value

    def _config(self, name: str, data: bytes) -> tuple[bytes, dict[str, Any], list[Digest]]:
        """Return a config, its parsed form and its diff_ids; many images can share one."""
        if (known := self._configs.get(data)) is not None:
            return known
        self._config_values += count_values(data)
        if self._config_values > MAX_VALUES:
            raise self._error(name, "all configs together have too many values")
        document = self._object(name, self._json(name, data))
        rootfs = self._get(name, document, "rootfs", dict)
        diff_ids = self._get(name, rootfs, "diff_ids", list, [])
        for diff_id in diff_ids:
            if not isinstance(diff_id, str) or not _DIGEST.fullmatch(diff_id):
                raise self._error(
                    name, one_line(f"rootfs.diff_ids: {diff_id!r} is not a sha256 digest")
                )
        if len(diff_ids) > MAX_LAYERS:
            raise self._error(name, f"has {len(diff_ids)} layers; the limit is {MAX_LAYERS}")
        self._configs[data] = data, document, diff_ids
        return self._configs[data]

    def _check_count(self, name: str, layers: list[Any], diff_ids: list[Digest]) -> None:
        self._layers += len(layers)
        if self._layers > MAX_LISTED_LAYERS:
            raise self._error(
                name, f"more than {MAX_LISTED_LAYERS} layers of all images, which is the limit"
            )
        if len(layers) != len(diff_ids):
            raise self._error(
                name, f"lists {len(layers)} layers, but the config has {len(diff_ids)} diff_ids"
            )

    # ---- docker-archive

    def docker_images(self, name: str, items: object) -> Iterator[ArchiveImage]:
        """Yield the images of `items`, the document `name`, in its order."""
        if not isinstance(items, list):
            raise self._error(name, "is not a JSON array")
        if len(items) > MAX_IMAGES:
            raise self._error(name, f"lists {len(items)} images; the limit is {MAX_IMAGES}")
        for item in items:
            yield self._docker_image(name, self._object(name, item))

    def _docker_image(self, name: str, item: dict[str, Any]) -> ArchiveImage:
        config_name = self._get(name, item, "Config", str)
        config, document, diff_ids = self._config(config_name, self._bytes(config_name))
        names = self._get(name, item, "Layers", list, [])
        self._check_count(name, names, diff_ids)
        layers = []
        for layer, diff_id in zip(names, diff_ids, strict=True):
            if not isinstance(layer, str):
                raise self._error(name, "Layers contains a value that is not a string")
            blob = self._container.find(layer)
            if blob is None:
                raise self._error(one_line(layer), f"is missing, but {name} lists it as a layer")
            layers.append(ArchiveLayer(name=layer, blob=blob, diff_id=diff_id, digest=None))
        tags = self._get(name, item, "RepoTags", list, [])
        return ArchiveImage(
            config_name=config_name,
            config=config,
            document=document,
            repo_tags=tuple(tag for tag in tags if isinstance(tag, str)),
            layers=tuple(layers),
            platform=Platform.parse(document),
        )

    # ---- OCI

    def oci_images(self, name: str, index: object) -> Iterator[ArchiveImage]:
        """Yield the images of `index`, the document `name`, and of the indexes in it, depth
        first.
        """
        yield from self._index_images(name, self._object(name, index), (), 0)

    def dir_images(self, name: str, manifest: dict[str, Any]) -> Iterator[ArchiveImage]:
        """Yield the image of `manifest`, the document `name`, or those of an index."""
        if is_index({}, manifest):
            yield from self._index_images(name, manifest, (), 0)
        elif is_image({}, manifest):
            yield self._oci_image(name, manifest, (), {})

    def _index_images(
        self, name: str, document: dict[str, Any], tags: tuple[str, ...], depth: int
    ) -> Iterator[ArchiveImage]:
        if depth > MAX_INDEXES:
            raise self._error(name, "indexes are nested too deeply")
        for descriptor in self._get(name, document, "manifests", list, []):
            self._descriptors += 1
            if self._descriptors > MAX_IMAGES:
                raise self._error(name, f"more than {MAX_IMAGES} images in all, which is the limit")
            entry = self._object(name, descriptor)
            own_tags = _tags_of(entry) or tags
            blob_name, digest = self._blob_name(name, entry, self.places.manifest)
            if depth and self._container.find(blob_name) is None:
                continue  # an image of another platform, which `docker save` left out
            data = self._verified(blob_name, digest)
            manifest = self._object(blob_name, self._json(blob_name, data))
            if is_index(entry, manifest):
                yield from self._index_images(blob_name, manifest, own_tags, depth + 1)
            elif is_image(entry, manifest):
                yield self._oci_image(blob_name, manifest, own_tags, entry)

    def _blob_name(self, name: str, descriptor: dict[str, Any], place: str) -> tuple[str, Digest]:
        """Return the name and the digest of the blob to which a descriptor refers."""
        digest = self._get(name, descriptor, "digest", str)
        if not _DIGEST.fullmatch(digest):
            raise self._error(name, one_line(f"digest {digest!r} is not a sha256 digest"))
        return place.format(digest.removeprefix("sha256:")), Digest(digest)

    def _verified(self, blob_name: str, digest: Digest) -> bytes:
        """Return the bytes of a document, verified against its digest."""
        data = self._bytes(blob_name)
        if hashlib.sha256(data).hexdigest() != digest.removeprefix("sha256:"):
            raise self._error(blob_name, "its content does not match the digest in its name")
        return data

    def _oci_image(
        self,
        name: str,
        manifest: dict[str, Any],
        tags: tuple[str, ...],
        entry: dict[str, Any],  # its descriptor in an index
    ) -> ArchiveImage:
        config_name, digest = self._blob_name(
            name, self._get(name, manifest, "config", dict), self.places.blob
        )
        config, document, diff_ids = self._config(config_name, self._verified(config_name, digest))
        descriptors = self._get(name, manifest, "layers", list, [])
        self._check_count(name, descriptors, diff_ids)
        layers = []
        for descriptor, diff_id in zip(descriptors, diff_ids, strict=True):
            layer, digest = self._blob_name(name, self._object(name, descriptor), self.places.blob)
            blob = self._container.find(layer)
            if blob is None:
                raise self._error(layer, f"is missing, but {name} lists it as a layer")
            if descriptor.get("size", blob.size) != blob.size:
                raise self._error(
                    layer, f"has {blob.size} bytes, not {descriptor['size']} as in {name}"
                )
            layers.append(ArchiveLayer(name=layer, blob=blob, diff_id=diff_id, digest=digest))
        return ArchiveImage(
            config_name=config_name,
            config=config,
            document=document,
            repo_tags=tags,
            layers=tuple(layers),
            platform=_platform(entry, document),
            annotations=_strings(manifest.get("annotations")),
        )


def _strings(value: object) -> dict[str, str]:
    """Return the members of a JSON object that are strings."""
    members = value.items() if isinstance(value, dict) else ()
    return {name: text for name, text in members if isinstance(text, str)}


def _platform(descriptor: dict[str, Any], config: dict[str, Any]) -> Platform:
    """Return the platform of an image: that of its descriptor if it has one, as containerd
    reads it, otherwise that of its config.
    """
    stated = descriptor.get("platform")
    platform = Platform.parse(stated if isinstance(stated, dict) else {})
    own = Platform.parse(config)
    if not (platform.os and platform.architecture):
        return own
    return platform if platform.variant else replace(platform, variant=own.variant)


def _tags_of(descriptor: dict[str, Any]) -> tuple[str, ...]:
    annotations = descriptor.get("annotations")
    if not isinstance(annotations, dict):
        return ()
    # IMAGE_NAME has the whole name; REF_NAME may be the tag alone.
    for name in (annotations.get(IMAGE_NAME), annotations.get(REF_NAME)):
        if isinstance(name, str) and name:
            return (name,)
    return ()

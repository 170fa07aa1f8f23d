"""Check an archive's documents against its members: `manifest.json` of `docker save`, and
the OCI image layout.

OCI Image Specification, image-layout.md, image-index.md, manifest.md and config.md. A
fault is noted, and the check goes on. Members are known by name; must not know how they
are stored.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

from stream.archives.images import DIR_PLACES, OCI_PLACES
from stream.archives.programs import LayeredPrograms
from stream.limits import (
    DOCKER_MAX_LAYERS,
    MAX_IMAGES,
    MAX_INDEXES,
    MAX_LAYERS,
    MAX_LISTED_LAYERS,
    MAX_PARSED,
    OVERLAY_MAX_LAYERS,
)
from stream.oci.container_config import wrong_types
from stream.oci.manifests import is_image, is_index
from stream.oci.reference import (
    IMAGE_NAME,
    REF_NAME,
    BadReference,
    Part,
    Reference,
    qualified,
)
from stream.oci.start import find_problems
from stream.parsing import count_values, parse_json
from stream.tools.verify.findings import (
    ALL,
    BUILDAH,
    CONFIG_READERS,
    DOCKER,
    PODMAN,
    RULES,
    SKOPEO,
    Findings,
)
from stream.tools.verify.scan import Link, Members, Stored
from stream.values import dataclass

MANIFEST, INDEX = "manifest.json", "index.json"

_DIGEST = re.compile("sha256:[0-9a-f]{64}")
_CONFIG_NAME = re.compile(r"([0-9a-f]{64})(?:\.json)?")
_BLOB_NAME = re.compile(r"blobs/sha256/([0-9a-f]{64})")
_KINDS: dict[type, str] = {dict: "object", list: "list", str: "string"}
# Keys of any document that must not occur in two spellings; labels, for one, may.
_KEYS = frozenset(
    ["architecture", "config", "diff_ids", "digest", "history", "layers", "manifests", "mediatype"]
    + ["os", "repotags", "rootfs", "size"]
)
_MEDIA_TYPES = {"+gzip": "gzip", ".gzip": "gzip", "+zstd": "zstd", ".tar": None, "+bzip2": "bzip2"}


@dataclass(frozen=True, slots=True, kw_only=True)
class CheckedLayer:
    """A layer as found in the archive; `diff_id` is computed from its bytes."""

    name: str
    diff_id: str


@dataclass(frozen=True, slots=True, kw_only=True)
class CheckedImage:
    """An image as found in the archive. `image_id` is computed from the config's bytes,
    and empty if there is no config.
    """

    image_id: str
    repo_tags: tuple[str, ...]
    layers: tuple[CheckedLayer, ...]


class _Note(NamedTuple):
    """A finding, before it is known whether podman reads the document that it is in."""

    rule: str
    place: str
    message: str
    readers: frozenset[str]

    def refused_by(self, consumer: str) -> bool:
        return consumer in self.readers and consumer in RULES[self.rule].refused_by


# Those who read manifest.json if there is also an index, as skopeo and buildah are told to.
_BOTH_READERS = frozenset({DOCKER, PODMAN, SKOPEO, BUILDAH})
_OCI_COPYING = frozenset({SKOPEO})
_OCI_TRUSTING = frozenset({SKOPEO, PODMAN, BUILDAH})
_DIR_READERS = frozenset({PODMAN, SKOPEO, BUILDAH})


class Documents:
    """A check of the documents among `members`. After `check`, `images` holds the images
    found, and `layers` the members that are layers, by name.
    """

    def __init__(
        self, members: Members, findings: Findings, consumers: frozenset[str] = ALL
    ) -> None:
        self.images: list[CheckedImage] = []
        self.layers: dict[str, Stored] = {}
        self._members = members
        self._findings = findings
        self._consumers = consumers  # that see these members
        self._readers = consumers  # of the documents being checked
        self._copying: frozenset[str] = frozenset()  # readers that do not look into layers,
        self._trusting: frozenset[str] = frozenset()  # and those that do not look at diff_ids
        # What was found in manifest.json, and in the index, if podman can read either.
        self._sides: list[list[_Note]] = []
        self._indexes: set[str] = set()  # already checked
        self._descriptors = 0  # in all indexes so far
        self._parsed = 0  # values in all documents so far
        self._places = OCI_PLACES
        self._seen_image = False  # in the index, whole or not
        self._listed = 0  # layers of all images so far

    @property
    def has_manifest(self) -> bool:
        """True if the archive is a docker-archive."""
        return MANIFEST in self._members.by_name

    @property
    def has_index(self) -> bool:
        """True if the archive is an OCI image layout."""
        return INDEX in self._members.by_name

    def check(self) -> None:
        """Check all documents, and note the findings of the layers they list."""
        has_manifest, has_index = self.has_manifest, self.has_index
        if not has_manifest and not has_index:
            if self._members.readable:
                self._note("no-image", "", f"has neither {MANIFEST} nor {INDEX}")
            return
        self._check_blobs()
        if not has_manifest:
            self._note("no-manifest", "", f"has no {MANIFEST}")
        if not has_index:
            self._note("no-index", "", "is not an OCI image layout")
        docker_images: list[CheckedImage] = []
        oci_images: list[CheckedImage] = []
        if has_manifest and self._is_dir():
            self._readers = _DIR_READERS & self._consumers
            self._copying, self._trusting = _OCI_COPYING, _OCI_TRUSTING
            oci_images = list(self._dir_images())
        elif has_manifest:
            self._begin(_BOTH_READERS if has_index else ALL)
            docker_images = list(self._docker_images())
        if has_index:
            self._begin((ALL - _BOTH_READERS) | {PODMAN} if has_manifest else ALL)
            self._trusting = _OCI_TRUSTING
            self._copying = frozenset() if has_manifest else _OCI_COPYING
            oci_images = list(self._oci_images())
        self._end()
        self._compare(docker_images, oci_images)
        self.images = docker_images or oci_images
        for name, layer in self.layers.items():
            self._findings.include(name, layer.findings, self._consumers - self._copying)

    def _begin(self, readers: frozenset[str]) -> None:
        """Begin with the manifest or the index, which `readers` read."""
        self._readers = readers & self._consumers
        self._sides.append([])

    def _end(self) -> None:
        """Add what was found in the manifest and the index. Podman tries both, and so refuses
        an archive for one of them only if it refuses the other one as well.
        """
        sides, self._sides = self._sides, []
        for side in sides:
            others = [other for other in sides if other is not side]
            lenient = not all(any(note.refused_by(PODMAN) for note in other) for other in others)
            for note in side:
                without = {PODMAN} if lenient else set()
                self._findings.add(note.rule, note.place, note.message, note.readers - without)
        self._readers = self._consumers

    def _note(self, rule: str, place: str, message: str, readers: frozenset[str] = ALL) -> None:
        readers = readers & self._readers
        if self._sides:
            self._sides[-1].append(_Note(rule, place, message, readers))
        else:
            self._findings.add(rule, place, message, readers)

    def _check_blobs(self) -> None:
        for name in self._members.by_name:
            if match := _BLOB_NAME.fullmatch(name):
                stored, _ = self._members.follow(name)
                if stored and stored.digest != f"sha256:{match[1]}":
                    found = stored.digest.removeprefix("sha256:")
                    self._note("digest-mismatch", name, f"sha256 is {found}")

    def _compare(self, docker: list[CheckedImage], oci: list[CheckedImage]) -> None:
        if not docker or not oci:
            return
        ids = [{image.image_id for image in images} for images in (docker, oci)]
        if ids[0] != ids[1]:
            self._note(
                "manifest-index-conflict", "", f"{MANIFEST} and {INDEX} hold different images"
            )
            return
        tags = [
            {(image.image_id, qualified(tag)) for image in images for tag in image.repo_tags}
            for images in (docker, oci)
        ]
        missing = sorted({tag for _, tag in tags[0] - tags[1]})
        if tags[1] and missing:
            self._note("manifest-index-conflict", INDEX, f"does not name {', '.join(missing)}")

    # ---- JSON

    def _stored(self, name: str, named_in: str = "") -> Stored | None:
        """Return the member called `name`, to which the document `named_in` refers."""
        stored, links = self._members.follow(name)
        if stored is None:
            what = "missing" if not links else "dangling link"
            self._note(
                "member-missing",
                name,
                what + (f", but {named_in} refers to it" if named_in else ""),
            )
        return stored

    def _json(self, stored: Stored | None, kind: type) -> Any:
        """Parse the document in `stored`. Returns None, with a finding, if it is not a
        `kind`.
        """
        if stored is None:
            return None
        self._parsed += count_values(stored.document or b"")
        if stored.document is None or self._parsed > MAX_PARSED:
            one = f"not JSON, or too large ({stored.size} bytes)"
            all_of_them = "not checked: all documents together have too many values"
            self._note("document-invalid", stored.name, all_of_them if stored.document else one)
            return None
        try:
            value = parse_json(stored.document, self._object(stored))
        except ValueError as error:
            self._note("document-invalid", stored.name, str(error).removeprefix("is "))
            return None
        if not isinstance(value, kind):
            self._note("document-invalid", stored.name, f"not a JSON {_kind(kind)}")
            return None
        return value

    def _object(self, stored: Stored) -> Callable[[list[tuple[str, Any]]], dict[str, Any]]:
        """Return a hook that makes an object of key-value pairs and notes duplicate keys.
        Keys are compared without regard to case, as docker does.
        """

        def made(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
            seen: set[str] = set()
            for key, _ in pairs:
                if (folded := key.lower()) in seen:
                    self._note(
                        "duplicate-key", stored.name, f"key {key} occurs twice (case is ignored)"
                    )
                if folded in _KEYS:
                    seen.add(folded)
            return dict(pairs)

        return made

    def _get(self, name: str, document: dict[str, Any], key: str, kind: type) -> Any:
        """Return the value of `key`, or an empty `kind`, with a finding, if it is not one."""
        value = _value(document, key)
        if isinstance(value, kind):
            return value
        what = "is missing" if value is None else f"is not of type {_kind(kind)}"
        self._note("document-invalid", name, f"{key} {what}")
        return kind()

    def _some(self, name: str, items: list[Any], count: int) -> list[Any]:
        """Return the first `count` of `items`, with a finding if there are more."""
        if len(items) > count:
            self._note(
                "document-invalid", name, f"list of {len(items)} items; only {count} are checked"
            )
        return items[:count]

    def _some_layers(self, name: str, items: list[Any]) -> list[Any]:
        """Return the first of `items`, the layers of an image, with a finding if there are more."""
        some = self._some(name, items, min(MAX_LAYERS, MAX_LISTED_LAYERS - self._listed))
        self._listed += len(some)
        return some

    def _objects(self, name: str, items: list[Any]) -> Iterator[dict[str, Any]]:
        for item in items:
            if isinstance(item, dict):
                yield item
            else:
                self._note("document-invalid", name, "list item is not an object")

    # ---- docker-archive

    def _check_dangling_links(self) -> None:
        for name, link in self._members.by_name.items():
            if isinstance(link, Link) and self._members.follow(name)[0] is None:
                self._note("dangling-link", name, f"link to {link.target}, which does not exist")

    def _docker_images(self) -> Iterator[CheckedImage]:
        self._check_dangling_links()
        items = self._json(self._stored(MANIFEST), list)
        if items == []:
            self._note("no-image", MANIFEST, "lists no images")
        for item in self._objects(MANIFEST, self._some(MANIFEST, items or [], MAX_IMAGES)):
            yield self._docker_image(item)

    def _docker_image(self, item: dict[str, Any]) -> CheckedImage:
        config_name = self._get(MANIFEST, item, "Config", str)
        names = self._some_layers(MANIFEST, self._get(MANIFEST, item, "Layers", list))
        found = [self._members.follow(name) for name in names if isinstance(name, str)]
        listed = {stored.name for stored, links in found if stored and not links}
        layers = [self._docker_layer(name, listed) for name in names]
        config = self._stored(config_name, MANIFEST) if config_name else None
        if config and (match := _CONFIG_NAME.fullmatch(config_name)):
            self._check_config_name(config_name, match[1], config)
        if config_name.startswith("./"):
            self._note("dot-slash-name", MANIFEST, f"name {config_name} begins with ./")
        tags = self._docker_tags(_value(item, "RepoTags"))
        return self._image(config, layers, tags, MANIFEST, "zstd-layer")

    def _check_config_name(self, name: str, expected: str, config: Stored) -> None:
        found = config.digest.removeprefix("sha256:")
        if found != expected:
            self._note("config-name-mismatch", name, f"sha256 is {found}")

    def _docker_layer(self, name: object, listed: set[str]) -> Stored | None:
        if not isinstance(name, str):
            self._note("document-invalid", MANIFEST, "Layers: item is not a string")
            return None
        if name.startswith("./"):
            self._note("dot-slash-name", MANIFEST, f"name {name} begins with ./")
        stored = self._stored(name, MANIFEST)
        _, links = self._members.follow(name)
        if stored is not None and links:
            self._check_links(name, stored, links, listed)
        return stored

    def _check_links(self, name: str, stored: Stored, links: list[Link], listed: set[str]) -> None:
        if any(link.hard for link in links):
            self._note("layer-link-hard", name, "layer is a hard link")
        if any(link.absolute for link in links):
            self._note("layer-link-absolute", name, "layer is a link to an absolute name")
        if stored.name not in listed:
            self._note(
                "layer-link-unlisted",
                name,
                f"layer is a link to {stored.name}, which is not listed",
            )

    def _docker_tags(self, tags: object) -> tuple[str, ...]:
        if not tags:
            self._note("untagged", "", "contains an image without a tag")
            return ()
        if not isinstance(tags, list) or not all(isinstance(tag, str) for tag in tags):
            self._note("document-invalid", MANIFEST, "RepoTags is not a list of strings")
            return ()
        for tag in tags:
            try:
                Reference.parse(tag)
            except BadReference as wrong:
                rule = "tag-incomplete" if wrong.part is Part.NO_TAG else "tag-invalid"
                self._note(rule, MANIFEST, f"RepoTags: {wrong}")
        return tuple(tags)

    # ---- OCI

    def _oci_images(self) -> Iterator[CheckedImage]:
        if "oci-layout" not in self._members.by_name:
            self._note("no-oci-layout-file", "oci-layout", "missing")
        else:
            layout = self._json(self._stored("oci-layout"), dict)
            if layout is not None:
                self._get("oci-layout", layout, "imageLayoutVersion", str)
        index = self._json(self._stored(INDEX), dict)
        if index is None:
            return
        if isinstance(entries := _value(index, "manifests"), list) and len(entries) > 1:
            self._note("index-of-several", INDEX, f"names {len(entries)} images or artifacts")
        yield from self._index_images(INDEX, index, (), 0)
        if not self._seen_image and entries:
            self._note("no-image", INDEX, "names no image, only artifacts", ALL - self._copying)

    def _is_dir(self) -> bool:
        """Return True for a directory that skopeo made, with one manifest in `manifest.json`."""
        stored, _ = self._members.follow(MANIFEST)
        if not self._members.in_directory or stored is None:
            return False
        return (stored.document or b"").lstrip().startswith(b"{")

    def _dir_images(self) -> Iterator[CheckedImage]:
        self._places = DIR_PLACES
        manifest = self._json(self._stored(MANIFEST), dict)
        if manifest is None:
            return
        if is_index({}, manifest):
            yield from self._index_images(MANIFEST, manifest, (), 1)
        elif is_image({}, manifest):
            yield self._oci_image(MANIFEST, manifest, ())
        else:
            self._note("no-image", MANIFEST, "is an artifact, not an image")

    def _index_images(
        self, name: str, index: dict[str, Any], above: tuple[str, ...], depth: int
    ) -> Iterator[CheckedImage]:
        descriptors = self._get(name, index, "manifests", list)
        if not descriptors:
            self._note("no-image", name, "lists no images")
        for descriptor in self._objects(name, self._some(name, descriptors, MAX_IMAGES)):
            self._descriptors += 1
            if self._descriptors > MAX_IMAGES or self._listed >= MAX_LISTED_LAYERS:
                self._note(
                    "document-invalid",
                    name,
                    f"more than {MAX_IMAGES} images, or {MAX_LISTED_LAYERS} layers, in all;"
                    " the rest is not checked",
                )
                return
            if depth and self._is_left_out(descriptor):
                self._note("image-left-out", name, "names an image that is not in the archive")
                continue
            stored = self._described(name, descriptor, self._places.manifest)
            manifest = self._json(stored, dict)
            if stored is None or manifest is None:
                self._seen_image = True  # perhaps
                continue
            if not is_index(descriptor, manifest) and not is_image(descriptor, manifest):
                self._note("artifact", stored.name, "is an artifact, not an image")
                continue
            tags = self._oci_tags(descriptor) if depth == 0 else above
            if is_index(descriptor, manifest):
                self._note("nested-index", stored.name, "is an index in an index")
                if depth >= MAX_INDEXES:
                    self._note(
                        "document-invalid",
                        stored.name,
                        f"indexes are nested more than {MAX_INDEXES} deep",
                    )
                elif stored.name not in self._indexes:
                    self._indexes.add(stored.name)
                    yield from self._index_images(stored.name, manifest, tags, depth + 1)
            else:
                yield self._oci_image(stored.name, manifest, tags)

    def _is_left_out(self, descriptor: dict[str, Any]) -> bool:
        """Return True if there is no blob of the digest that `descriptor` has."""
        digest = descriptor.get("digest")
        if not isinstance(digest, str) or not _DIGEST.fullmatch(digest):
            return False
        name = self._places.manifest.format(digest.removeprefix("sha256:"))
        return name not in self._members.by_name

    def _oci_tags(self, descriptor: dict[str, Any]) -> tuple[str, ...]:
        annotations = descriptor.get("annotations")
        names = annotations if isinstance(annotations, dict) else {}
        if not names.get(IMAGE_NAME):
            self._note("no-image-name", INDEX, f"lacks the annotation {IMAGE_NAME}")
        if not names.get(REF_NAME):
            self._note("no-ref-name", INDEX, f"lacks the annotation {REF_NAME}")
        name = names.get(IMAGE_NAME) or names.get(REF_NAME)
        return (name,) if isinstance(name, str) else ()

    def _described(
        self,
        name: str,
        descriptor: dict[str, Any],
        place: str,
        size_rule: str = "size-mismatch",
    ) -> Stored | None:
        """Return the blob that `descriptor`, in the document `name`, refers to."""
        digest = self._get(name, descriptor, "digest", str)
        if not _DIGEST.fullmatch(digest):
            if digest:
                self._note("document-invalid", name, f"digest {digest!r} is not a sha256 digest")
            return None
        stored = self._stored(place.format(digest.removeprefix("sha256:")), name)
        size = descriptor.get("size")
        if stored is not None and size != stored.size:
            self._note(size_rule, stored.name, f"size is {stored.size} bytes; {name} states {size}")
        return stored

    def _oci_image(
        self, name: str, manifest: dict[str, Any], tags: tuple[str, ...]
    ) -> CheckedImage:
        described = self._get(name, manifest, "config", dict)
        self._seen_image = True
        config = self._described(name, described, self._places.blob, "config-size-mismatch")
        layers = []
        descriptors = self._some_layers(name, self._get(name, manifest, "layers", list))
        for descriptor in self._objects(name, descriptors):
            stored = self._described(name, descriptor, self._places.blob)
            if stored is not None:
                self._check_media_type(stored, descriptor.get("mediaType"), name)
            layers.append(stored)
        return self._image(config, layers, tags, name, "oci-zstd-layer")

    def _check_media_type(self, stored: Stored, media_type: object, name: str) -> None:
        if not isinstance(media_type, str):
            self._note("document-invalid", name, "layer has no mediaType")
            return
        for end, compression in _MEDIA_TYPES.items():
            if media_type.endswith(end) and compression != stored.compression:
                kept = stored.compression or "uncompressed"
                message = f"content is {kept}; {name} states {media_type}"
                rule = "media-type-mismatch" if compression else "media-type-uncompressed"
                self._note(rule, stored.name, message)

    # ---- both

    def _image(
        self,
        config: Stored | None,
        layers: list[Stored | None],
        tags: tuple[str, ...],
        named_in: str,
        zstd_rule: str,
    ) -> CheckedImage:
        document = self._json(config, dict)
        if config is not None and document is not None:
            self._check_config(config, document, layers, named_in)
        if len(layers) > OVERLAY_MAX_LAYERS:
            self._note("overlay-layer-limit", "", f"has {len(layers)} layers")
        elif len(layers) > DOCKER_MAX_LAYERS:
            self._note("docker-layer-limit", "", f"has {len(layers)} layers")
        if document is not None and all(layers):
            self._check_start(config, document, [layer for layer in layers if layer])
        for layer in filter(None, layers):
            self.layers[layer.name] = layer
            if layer.compression == "zstd":
                self._note(zstd_rule, "", "contains layers compressed with zstd")
        return CheckedImage(
            image_id=config.digest if config else "",
            repo_tags=tags,
            layers=tuple(
                CheckedLayer(name=layer.name, diff_id=layer.content_digest)
                for layer in layers
                if layer
            ),
        )

    def _check_start(
        self, config: Stored | None, document: dict[str, Any], layers: list[Stored]
    ) -> None:
        """Note why a container cannot start, if all layers could be listed."""
        listings = [layer.programs for layer in layers]
        container_config = document.get("config")
        readable = all(layer.content_digest and layer.programs.is_complete for layer in layers)
        linux = document.get("os") in ("linux", None)
        if config is None or not (linux and readable and isinstance(container_config, dict)):
            return
        for problem in find_problems(container_config, LayeredPrograms(listings)):
            self._note(problem.rule, config.name, f"{problem}; a container will not start")

    def _check_config(
        self,
        config: Stored,
        document: dict[str, Any],
        layers: list[Stored | None],
        named_in: str,
    ) -> None:
        name = config.name
        for key in ("architecture", "os"):
            if not isinstance(value := _value(document, key), str) or not value:
                self._note(f"no-{key}", name, f"has no {key}")
        for place, message, definitions in wrong_types(document.get("config")):
            readers = frozenset().union(*map(CONFIG_READERS.__getitem__, definitions))
            if named_in != MANIFEST:
                readers -= {SKOPEO}  # it copies an OCI image without reading its config
            where = f"config.{place}" if place else "config"
            self._note("config-invalid", name, f"{where} {message}", readers)
        rootfs = self._get(name, document, "rootfs", dict)
        if rootfs and _value(rootfs, "type") != "layers":
            self._note("rootfs-type-invalid", name, "rootfs.type is not 'layers'")
        diff_ids = self._get(name, rootfs, "diff_ids", list) if rootfs else []
        history = _value(document, "history") or []
        if not isinstance(history, list):
            self._note("document-invalid", name, "history is not a list")
        elif history:
            counted = sum(not (isinstance(e, dict) and e.get("empty_layer")) for e in history)
            if counted != len(diff_ids):
                message = f"history describes {counted} layers; there are {len(diff_ids)} diff_ids"
                rule = "history-too-long" if counted > len(diff_ids) else "history-too-short"
                self._note(rule, name, message)
        if len(diff_ids) != len(layers):
            message = f"has {len(diff_ids)} diff_ids; {named_in} lists {len(layers)} layers"
            self._note("layer-count-mismatch", name, message, ALL - self._trusting)
        for number, (layer, diff_id) in enumerate(zip(layers, diff_ids, strict=False), 1):
            if layer is not None and layer.content_digest != diff_id:
                found = layer.content_digest or "unknown, as the layer cannot be read"
                message = f"diff_id is {found}; {name} states {diff_id} (layer {number})"
                self._note("diff-id-mismatch", layer.name, message, ALL - self._trusting)


def _value(document: dict[str, Any], key: str) -> Any:
    """Return the value of `key`, which may be in another case, as in Go; None if it is absent."""
    if key in document:
        return document[key]
    return next((document[other] for other in document if other.lower() == key.lower()), None)


def _kind(kind: type) -> str:
    return _KINDS[kind]

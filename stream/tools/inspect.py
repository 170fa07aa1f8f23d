"""What is in an image archive, or would be in the image of a conf: its config, and
of each layer its sizes, number of entries and store paths.

An archive in a regular file or a directory is read by position where that is
possible, else once from the front; for a conf, metadata alone are read. Knows
neither argv nor terminals.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field
from typing import Any

from stream.archives.bytesource import ByteSource, StreamBytes, pieces
from stream.archives.decompress import MAGIC_SIZE, compression_of
from stream.archives.images import Archive, ArchiveImage, open_archive, read_archive
from stream.archives.sequential import STANDARD_INPUT, Sequential, SequentialTar
from stream.archives.target import split_archive
from stream.archives.tarreader import read_members
from stream.config import load_conf, parse_conf
from stream.errors import UsageError
from stream.model import Digest, ImageConf
from stream.nix.hashes import DIGITS
from stream.oci.documents import image_config
from stream.schema.reading import HEAD, begins_conf, head_of, is_conf
from stream.sources import opened_base, store
from stream.sources.base.listing import Lister
from stream.sources.customisation import layer as customisation
from stream.sources.layer import ListedLayer
from stream.text import printable

# A store path as Nix and Guix make them: 32 digits of a hash, then a name.
_STORE_PATH = re.compile(rf"((?:[^/]+/)*store)/([{DIGITS}]{{32}}-[^/]+)".encode())
_COMMENT = re.compile(r"store paths: \[(.*)\]", re.DOTALL)
_QUOTED_PATH = re.compile(r"""'(/[^']+)'|"(/[^"]+)\"""")
_MAX_STORE_PATHS = 1 << 20  # of one layer
# Entries near the root that may turn out to be store paths of another kind, when the
# history names them. More are not worth their memory.
_MAX_SHALLOW = 4096
_MAX_DEPTH = 8


@dataclass(frozen=True, slots=True, kw_only=True)
class InspectedLayer:
    """A layer: `size` is that of its tar, `stored_size` what it takes in the archive,
    compressed with `compression`. `digest` is that of the stored bytes, if the archive
    says it; of a plan no digest is known. `history` is what the image says of it.
    """

    name: str
    size: int
    stored_size: int
    compression: str | None
    diff_id: Digest | None
    digest: Digest | None
    entries: int
    store_paths: tuple[str, ...]
    history: str


@dataclass(frozen=True, slots=True, kw_only=True)
class InspectedImage:
    """An image; `document` is its config, parsed. `layers` are bottom to top."""

    image_id: Digest | None
    repo_tags: tuple[str, ...]
    document: dict[str, Any]
    layers: tuple[InspectedLayer, ...]

    @property
    def container_config(self) -> dict[str, Any]:
        """Cmd, Env and their like."""
        config = self.document.get("config")
        return config if isinstance(config, dict) else {}

    @property
    def size(self) -> int:
        """Bytes of all layers, uncompressed."""
        return sum(layer.size for layer in self.layers)

    @property
    def entries(self) -> int:
        """Entries of all layers."""
        return sum(layer.entries for layer in self.layers)


@dataclass(frozen=True, slots=True, kw_only=True)
class Inspection:
    """What `name` holds. `kind` is `docker-archive`, `oci` or `conf`; a docker-archive
    may be an OCI layout, too. `compression` is that of the whole.
    """

    name: str
    kind: str
    also_oci: bool
    compression: str | None
    images: tuple[InspectedImage, ...]


def inspect(target: str, warn: Callable[[str], None], *, repo_tag: str | None = None) -> Inspection:
    """What is at `target`: an archive, `FILE:name:tag` for one image in it, a conf, or
    either on standard input (`-`). `repo_tag` takes the place of a conf's. Raises
    StreamImageError.
    """
    if target == "-":
        return _inspect_standard_input(warn, repo_tag)
    path, chosen = split_archive(target)
    if is_conf(path):
        if chosen is not None:
            raise UsageError(f"{path} is a conf: there are no images in it to choose from")
        return _planned(path, load_conf(path, repo_tag=repo_tag, warn=warn), warn)
    with open_archive(path, _list_layer) as archive:
        return _inspected(archive, compression_of(head_of(path)[:MAGIC_SIZE]), chosen)


def _inspect_standard_input(warn: Callable[[str], None], repo_tag: str | None) -> Inspection:
    file = Sequential(0, STANDARD_INPUT)
    if begins_conf(file.peek(HEAD)):
        data = b"".join(pieces(StreamBytes(file, file.name)))
        conf = parse_conf(data, name=STANDARD_INPUT, repo_tag=repo_tag, warn=warn)
        return _planned(STANDARD_INPUT, conf, warn)
    compression = file.compression
    with read_archive(SequentialTar(file, _list_layer)) as archive:
        return _inspected(archive, compression, None)


# ---- layers


@dataclass(slots=True)
class _Listing:
    """What a layer's tar holds. `stores` has the items of each directory `…/store`,
    `shallow` other paths near the root; paths are without the leading `/`.
    """

    entries: int = 0
    size: int = 0
    stores: dict[bytes, dict[bytes, None]] = field(default_factory=dict)
    shallow: dict[bytes, None] = field(default_factory=dict)

    def add(self, name: bytes) -> None:
        self.entries += 1
        path = b"/".join(part for part in name.split(b"/") if part not in (b"", b"."))
        if match := _STORE_PATH.match(path):
            names = self.stores.setdefault(match[1], {})
            if len(names) < _MAX_STORE_PATHS:
                names[match[2]] = None
        elif len(self.shallow) < _MAX_SHALLOW and path.count(b"/") < _MAX_DEPTH:
            self.shallow[path] = None

    def store_paths(self, named: set[bytes]) -> tuple[str, ...]:
        """The store paths, in order; those `named` are such if they are here."""
        found = [
            b"%s/%s" % (directory, name)
            for directory, names in self.stores.items()
            for name in names
        ]
        found += [path for path in self.shallow if path in named]
        return tuple("/" + printable(path) for path in found)


def _list_layer(content: ByteSource) -> _Listing:
    listing = _Listing()
    for member in read_members(content):
        listing.add(member.name)
    listing.size = content.position + sum(map(len, pieces(content)))
    return listing


# ---- archives


def _inspected(archive: Archive, compression: str | None, repo_tag: str | None) -> Inspection:
    images = archive.images if repo_tag is None else (archive.choose(repo_tag),)
    return Inspection(
        name=archive.name,
        kind=archive.kind,
        also_oci=archive.kind != "oci" and archive.container.find("index.json") is not None,
        compression=compression,
        images=tuple(_image(archive, image) for image in images),
    )


def _image(archive: Archive, image: ArchiveImage) -> InspectedImage:
    return InspectedImage(
        image_id=image.image_id,
        repo_tags=image.repo_tags,
        document=image.document,
        layers=tuple(_layers(archive, image)),
    )


def _layers(archive: Archive, image: ArchiveImage) -> Iterator[InspectedLayer]:
    history = _history(image.document, len(image.layers))
    named = set().union(*map(_store_paths, history))
    for layer, comment in zip(image.layers, history, strict=True):
        listing: _Listing = archive.container.perused(layer.blob)
        yield InspectedLayer(
            name=layer.name,
            size=listing.size,
            stored_size=layer.blob.size,
            compression=layer.blob.compression,
            diff_id=layer.diff_id,
            digest=layer.digest,
            entries=listing.entries,
            store_paths=listing.store_paths(named),
            history=comment,
        )


def _history(document: dict[str, Any], count: int) -> list[str]:
    """What the config says of each of `count` layers; nothing if it does not tell of
    as many.
    """
    history = document.get("history")
    entries = [
        entry
        for entry in (history if isinstance(history, list) else ())
        if isinstance(entry, dict) and not entry.get("empty_layer")
    ]
    if len(entries) != count:
        return [""] * count
    return [str(entry.get("comment") or entry.get("created_by") or "") for entry in entries]


def _store_paths(comment: str) -> set[bytes]:
    """The store paths that a history comment names, without the leading `/`."""
    match = _COMMENT.fullmatch(comment)
    return {
        (single or double).lstrip("/").encode("utf-8", "surrogatepass")
        for single, double in (_QUOTED_PATH.findall(match[1]) if match else ())
    }


# ---- confs


def _planned(name: str, conf: ImageConf, warn: Callable[[str], None]) -> Inspection:
    """The plan of `conf`. Its base image is read, its store paths are walked."""
    below: Sequence[InspectedLayer] = ()
    document = None
    if conf.base is not None:
        with open_archive(conf.base.path, _list_layer) as archive:
            base = archive.choose(conf.base.repo_tag, conf.architecture)
            below, document = tuple(_layers(archive, base)), base.document
    # Read once more only for what it is to be known for: the listing above is of no use then.
    reading = opened_base(conf) if Lister(conf).is_needed else nullcontext()
    with reading as held, customisation.opened(conf, held, warn) as top:
        ours = [*_planned_layers(held.without_held(conf) if held else conf)]
        if top is not None:
            ours.append(_listed_layer(top))
    image = InspectedImage(
        image_id=None,
        repo_tags=(conf.repo_tag,),
        document=json.loads(image_config(conf, (), document)),
        layers=(*below, *ours),
    )
    return Inspection(name=name, kind="conf", also_oci=False, compression=None, images=(image,))


def _planned_layers(conf: ImageConf) -> Iterator[InspectedLayer]:
    for plan in conf.store_layers:
        layer = store.walk(conf, plan)
        yield InspectedLayer(
            name=layer.archive_name,
            size=layer.size,
            stored_size=layer.size,
            compression=None,
            diff_id=None,
            digest=None,
            entries=layer.entry_count,
            store_paths=tuple(map(printable, plan.store_paths)),
            history=layer.comment,
        )


def _listed_layer(layer: ListedLayer) -> InspectedLayer:
    listing = _Listing()
    for member in layer.members():
        listing.add(member.name)
    return InspectedLayer(
        name=layer.archive_name,
        size=layer.size,
        stored_size=layer.size,
        compression=None,
        diff_id=layer.expected,
        digest=None,
        entries=listing.entries,
        store_paths=listing.store_paths(set()),
        history=layer.comment,
    )

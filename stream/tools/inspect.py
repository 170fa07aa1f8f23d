"""The contents of an image archive, or of the image that a conf describes: its config, and
each layer's sizes, number of entries and store paths.

An archive in a regular file or a directory is read by random access if possible, else once
from the start; for a conf, only metadata is read, unless contents are compared. Knows neither
argv nor terminals.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Any, Literal, TypeAlias, get_args

from stream.archives.decompress import MAGIC_SIZE, compression_of
from stream.archives.files import Allowance, Copies, Files, SizedFile, make_file_lister, path_of
from stream.archives.images import Archive, ArchiveImage, open_archive, read_archive
from stream.archives.sequential import Sequential, SequentialTar
from stream.archives.summary import Summary, summarise
from stream.digests import NO_DIGESTS, Digests
from stream.errors import ArgumentError
from stream.interfaces import Takes
from stream.known import Known
from stream.model import Digest, ImageConf, KnownLayer, Layer
from stream.oci.documents import digest, image_config, uncompressed
from stream.oci.history import store_paths_in
from stream.schema.reading import conf_name, head_of, ignore
from stream.sinks.docker_archive import layer_name
from stream.sources.image import ImageSources, opened
from stream.sources.layer import ListedLayer
from stream.sources.store import StoreLayer
from stream.text import printable
from stream.tools.layers import peruse_base, sized_members
from stream.tools.planned import Planning
from stream.tools.target import read_target
from stream.typeflags import FILE
from stream.values import dataclass, replace

if TYPE_CHECKING:
    from stream.archives.bytesource import ByteSource
    from stream.sources.base.image import BaseImage


@dataclass(frozen=True, slots=True, kw_only=True)
class InspectedLayer:
    """A layer. `size` is that of its tar in bytes, `stored_size` that of the bytes in the
    archive, compressed with `compression`. `digest` is that of the stored bytes, if the
    archive has it; for a conf, no digest is known, and `diff_id` may not be. `history` is the layer's line in the
    image's history. `files` are the largest, in descending order, if they were asked for.
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
    files: tuple[SizedFile, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Duplicate:
    """A content that `count` files of an image have, each of `size` bytes. `places` are the first in
    each layer: the number of the layer, from 1 at the bottom, and the path.
    """

    size: int
    count: int
    places: tuple[tuple[int, str], ...]

    @property
    def excess(self) -> int:
        """The bytes of all of these files but one."""
        return self.size * (self.count - 1)


@dataclass(frozen=True, slots=True, kw_only=True)
class InspectedImage:
    """An image; `document` is its config, parsed. `layers` are bottom to top; the first
    `base_layers` are those of a conf's base image. `duplicates` are the contents that several files
    have, those with the most excess first, or None if they were not compared; without
    `all_compared`, there were too many.
    """

    image_id: Digest | None
    repo_tags: tuple[str, ...]
    document: dict[str, Any]
    layers: tuple[InspectedLayer, ...]
    base_layers: int = 0
    duplicates: tuple[Duplicate, ...] | None = None
    all_compared: bool = True

    @property
    def container_config(self) -> dict[str, Any]:
        """The container's configuration: Cmd, Env and others."""
        config = self.document.get("config")
        return config if isinstance(config, dict) else {}

    @property
    def size(self) -> int:
        """The size of all layers in bytes, uncompressed."""
        return sum(layer.size for layer in self.layers)

    @property
    def entries(self) -> int:
        """The number of entries in all layers."""
        return sum(layer.entries for layer in self.layers)


@dataclass(frozen=True, slots=True, kw_only=True)
class Inspection:
    """The images in `name`. `kind` is `docker-archive`, `oci`, `dir` or `conf`; with `also_oci`, a
    docker-archive is an OCI layout as well. `compression` is that of the whole archive.
    """

    name: str
    kind: str
    also_oci: bool
    compression: str | None
    images: tuple[InspectedImage, ...]


FilesWanted: TypeAlias = Literal["none", "largest", "compared"]


def inspect(  # noqa: PLR0913 — the options of the command, each of its own
    target: ImageConf | str | os.PathLike[str],
    warn: Callable[[str], None] = ignore,
    *,
    repo_tag: str | None = None,
    run_commands: bool = False,
    digests: Digests = NO_DIGESTS,
    files: FilesWanted = "none",
) -> Inspection:
    """Inspect `target`: a conf, a specification, an archive, `FILE:name:tag` for one image in it,
    or any of them on standard input (`-`). `repo_tag` replaces a conf's. `digests` has the diff_ids of a conf's
    layers, so far as they are known. A recipe's commands are run only with
    `run_commands`: without, the layer is shown as it is before them. `warn` is called with a
    line for a person. `files` says whether the largest files of each layer are wanted, and whether
    all of at least MIN_COMPARED bytes are read and compared as well. Raises StreamImageError.
    """
    if files not in (choices := get_args(FilesWanted)):
        raise ArgumentError.not_one_of("files", files, choices)
    looking = _Looking(files)
    if isinstance(target, ImageConf):
        return _inspect_conf("conf", target, warn, digests, looking, run_commands=run_commands)
    planning = Planning(commands="sandboxed" if run_commands else "skipped", digests=digests)
    found = read_target(target, repo_tag=repo_tag, warn=warn, planning=planning)
    if isinstance(found, ImageConf):
        name = conf_name(target)
        return _inspect_conf(name, found, warn, digests, looking, run_commands=run_commands)
    if isinstance(found, Sequential):
        compression = found.compression
        with read_archive(SequentialTar(found).scan(looking.peruse)) as archive:
            return _inspect_archive(archive, compression, None, looking)
    compression = compression_of(head_of(found.path)[:MAGIC_SIZE])
    with open_archive(found.path, looking.peruse) as archive:
        return _inspect_archive(archive, compression, found.repo_tag, looking)


class _Looking:
    """How closely layers are looked at."""

    def __init__(self, files: FilesWanted) -> None:
        self.wants_files = files != "none"
        self.compares = files == "compared"
        self.allowance = Allowance()
        self._list = make_file_lister(self.allowance, contents=self.compares)

    def peruse(self, layer: ByteSource) -> Files:
        """List or summarise a layer. Raises ArchiveError."""
        return self._list(layer) if self.wants_files else self.summarised(summarise(layer))

    def summarised(self, summary: Summary) -> Files:
        """Return a layer of which only a summary is wanted."""
        return Files(self.allowance, summary)

    def duplicates(self, layers: Iterable[Files]) -> tuple[Duplicate, ...] | None:
        """Return the contents that several files of `layers` have."""
        if not self.compares:
            return None
        found: dict[bytes, list[tuple[int, Copies]]] = {}
        for number, files in enumerate(layers, 1):
            for key, copies in files.contents.items():
                found.setdefault(key, []).append((number, copies))
        several = (
            Duplicate(
                size=copies[0][1].size,
                count=count,
                places=tuple((number, path_of(one.name)) for number, one in copies),
            )
            for copies in found.values()
            if (count := sum(one.count for _, one in copies)) > 1
        )
        return tuple(sorted(several, key=lambda one: (-one.excess, one.places)))


# ---- archives


def _inspect_archive(
    archive: Archive[Files], compression: str | None, repo_tag: str | None, looking: _Looking
) -> Inspection:
    images = archive.images if repo_tag is None else (archive.choose(repo_tag),)
    return Inspection(
        name=archive.name,
        kind=archive.kind,
        also_oci=archive.kind != "oci" and archive.container.find("index.json") is not None,
        compression=compression,
        images=tuple(_image(archive, image, looking) for image in images),
    )


def _image(archive: Archive[Files], image: ArchiveImage, looking: _Looking) -> InspectedImage:
    files = [archive.container.peruse(layer.blob) for layer in image.layers]
    return InspectedImage(
        image_id=image.image_id,
        repo_tags=image.repo_tags,
        document=image.document,
        layers=tuple(_layers(image, files)),
        duplicates=looking.duplicates(files),
        all_compared=not looking.allowance.is_spent,
    )


def _layers(image: ArchiveImage, files: Iterable[Files]) -> Iterator[InspectedLayer]:
    """Yield the layers of `image`, each with its `files`."""
    history = _history(image.document, len(image.layers))
    named = set().union(*map(_store_paths, history))
    for layer, comment, found in zip(image.layers, history, files, strict=True):
        summary = found.summary
        yield InspectedLayer(
            name=layer.name,
            size=summary.size,
            stored_size=layer.blob.size,
            compression=layer.blob.compression,
            diff_id=layer.diff_id,
            digest=layer.digest,
            entries=summary.entries,
            store_paths=summary.store_paths(named),
            history=comment,
            files=found.largest,
        )


def _history(document: dict[str, Any], count: int) -> list[str]:
    """Return the line of each of `count` layers in the config's history; empty lines if the
    history has another number of layers.
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
    """Return the store paths that a history comment names, without the leading `/`."""
    return {path.lstrip("/").encode() for path in store_paths_in(comment)}


# ---- confs


def _inspect_conf(  # noqa: PLR0913 — what is inspected, and how
    name: str,
    conf: ImageConf,
    warn: Callable[[str], None],
    digests: Digests,
    looking: _Looking,
    *,
    run_commands: bool,
) -> Inspection:
    """Inspect `conf`: read its base image and walk its store paths."""
    if not run_commands:
        conf = replace(conf, commands="skipped")
    with opened(conf, warn, summaries=True) as sources:
        base = sources.base
        below = [] if base is None else _base_files(base, looking)
        above: list[Files] = []
        layers = (
            *(_layers(base.image, below) if base else ()),
            *_planned_layers(sources, Known(digests, Takes(held_layers=True)), looking, above),
        )
        document = base.document if base else None
        image = InspectedImage(
            image_id=_image_id(sources, layers[len(below) :]),
            repo_tags=() if conf.repo_tag is None else (conf.repo_tag,),
            document=json.loads(image_config(conf, (), document)),
            layers=layers,
            base_layers=len(below),
            duplicates=looking.duplicates((*below, *above)),
            all_compared=not looking.allowance.is_spent,
        )
    return Inspection(name=name, kind="conf", also_oci=False, compression=None, images=(image,))


def _base_files(base: BaseImage, looking: _Looking) -> list[Files]:
    if looking.wants_files:
        return peruse_base(base, looking.peruse)
    return [looking.summarised(base.listings[layer.blob].summary) for layer in base.layers]


def _image_id(sources: ImageSources, ours: Sequence[InspectedLayer]) -> Digest | None:
    """Return the ID of the image whose layers above the base image are `ours`; None if one of
    them has no known digest.
    """
    layers = []
    for layer in ours:
        if layer.diff_id is None:
            return None
        layers.append(_record(layer.diff_id, layer.size, layer.history))
    below = sources.base.known_layers(Takes()) if sources.base else []
    known = {layer.diff_id: _record(layer.diff_id) for layer in below}
    (documents,) = sources.documents(layers, known)
    return digest(documents.config)


def _record(diff_id: Digest, size: int = 0, comment: str = "") -> Layer:
    blob = uncompressed(diff_id, size)
    return Layer(archive_name="", diff_id=diff_id, size=size, comment=comment, descriptor=blob)


def _planned_layers(
    sources: ImageSources, known: Known, looking: _Looking, listed: list[Files]
) -> Iterator[InspectedLayer]:
    """Yield the layers above the base image, and append the files of each to `listed`."""
    root = sources.conf.store_root
    for plan, layer in zip(sources.conf.store_layers, sources.walk_store_layers(), strict=True):
        paths = tuple(map(printable, plan.store_paths))
        files = _files_of(layer, root, looking)
        listed.append(files)
        found = known.of_source(layer)
        yield _planned_layer(layer, found, layer.entry_count, paths, files)
    if (top := sources.customisation) is not None:
        summary = Summary()
        for member in top.members():
            summary.add(member.name)
        files = _files_of(top, root, looking)
        listed.append(files)
        found = known.of_source(top) if top.complete else None
        yield _planned_layer(top, found, summary.entries, summary.store_paths(set()), files)


def _files_of(layer: StoreLayer | ListedLayer, root: bytes, looking: _Looking) -> Files:
    """Return the files of a layer: by their names and sizes, or all of its tar if contents are
    compared. The store is below `root` on disk. Raises SourceError.
    """
    files = Files(looking.allowance)
    if looking.compares:
        with layer.content() as content:
            return looking.peruse(content)
    if looking.wants_files:
        for member in sized_members(layer, root):
            if member.typeflag == FILE:
                files.add(member.name, member.size)
    return files


def _planned_layer(
    layer: StoreLayer | ListedLayer,
    known: KnownLayer | None,
    entries: int,
    store_paths: tuple[str, ...],
    files: Files,
) -> InspectedLayer:
    return InspectedLayer(
        name=layer_name(layer),
        size=layer.size,
        stored_size=layer.size,
        compression=None,
        diff_id=known.diff_id if known else None,
        digest=None,
        entries=entries,
        store_paths=store_paths,
        history=layer.comment,
        files=files.largest,
    )

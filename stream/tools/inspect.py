"""The contents of an image archive, or of the image that a conf describes: its config, and
each layer's sizes, number of entries and store paths.

An archive in a regular file or a directory is read by random access if possible, else once
from the start; for a conf, only metadata is read. Knows neither argv nor terminals.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from stream.archives.container import Blob
from stream.archives.decompress import MAGIC_SIZE, compression_of
from stream.archives.images import Archive, ArchiveImage, open_archive, read_archive
from stream.archives.sequential import Sequential, SequentialTar
from stream.archives.summary import Summary, summarise
from stream.digests import NO_DIGESTS, Digests
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
from stream.tools.planned import Planning
from stream.tools.target import read_target
from stream.values import dataclass, replace


@dataclass(frozen=True, slots=True, kw_only=True)
class InspectedLayer:
    """A layer. `size` is that of its tar in bytes, `stored_size` that of the bytes in the
    archive, compressed with `compression`. `digest` is that of the stored bytes, if the
    archive has it; for a conf, no digest is known, and `diff_id` may not be. `history` is the layer's line in the
    image's history.
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


def inspect(
    target: ImageConf | str | os.PathLike[str],
    warn: Callable[[str], None] = ignore,
    *,
    repo_tag: str | None = None,
    run_commands: bool = False,
    digests: Digests = NO_DIGESTS,
) -> Inspection:
    """Inspect `target`: a conf, a specification, an archive, `FILE:name:tag` for one image in it,
    or any of them on standard input (`-`). `repo_tag` replaces a conf's. `digests` has the diff_ids of a conf's
    layers, so far as they are known. A recipe's commands are run only with
    `run_commands`: without, the layer is shown as it is before them. `warn` is called with a
    line for a person. Raises StreamImageError.
    """
    if isinstance(target, ImageConf):
        return _inspect_conf("conf", target, warn, digests, run_commands=run_commands)
    planning = Planning(commands="sandboxed" if run_commands else "skipped", digests=digests)
    found = read_target(target, repo_tag=repo_tag, warn=warn, planning=planning)
    if isinstance(found, ImageConf):
        return _inspect_conf(conf_name(target), found, warn, digests, run_commands=run_commands)
    if isinstance(found, Sequential):
        compression = found.compression
        with read_archive(SequentialTar(found).scan(summarise)) as archive:
            return _inspect_archive(archive, compression, None)
    compression = compression_of(head_of(found.path)[:MAGIC_SIZE])
    with open_archive(found.path, summarise) as archive:
        return _inspect_archive(archive, compression, found.repo_tag)


# ---- archives


def _inspect_archive(
    archive: Archive[Summary], compression: str | None, repo_tag: str | None
) -> Inspection:
    images = archive.images if repo_tag is None else (archive.choose(repo_tag),)
    return Inspection(
        name=archive.name,
        kind=archive.kind,
        also_oci=archive.kind != "oci" and archive.container.find("index.json") is not None,
        compression=compression,
        images=tuple(_image(archive, image) for image in images),
    )


def _image(archive: Archive[Summary], image: ArchiveImage) -> InspectedImage:
    return InspectedImage(
        image_id=image.image_id,
        repo_tags=image.repo_tags,
        document=image.document,
        layers=tuple(_layers(image, archive.container.peruse)),
    )


def _layers(image: ArchiveImage, summary_of: Callable[[Blob], Summary]) -> Iterator[InspectedLayer]:
    history = _history(image.document, len(image.layers))
    named = set().union(*map(_store_paths, history))
    for layer, comment in zip(image.layers, history, strict=True):
        summary = summary_of(layer.blob)
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


def _inspect_conf(
    name: str, conf: ImageConf, warn: Callable[[str], None], digests: Digests, *, run_commands: bool
) -> Inspection:
    """Inspect `conf`: read its base image and walk its store paths."""
    if not run_commands:
        conf = replace(conf, commands="skipped")
    with opened(conf, warn, summaries=True) as sources:
        base = sources.base
        below = (
            () if base is None else _layers(base.image, lambda blob: base.listings[blob].summary)
        )
        ours = tuple(_planned_layers(sources, Known(digests, Takes(held_layers=True))))
        document = base.document if base else None
        image = InspectedImage(
            image_id=_image_id(sources, ours),
            repo_tags=() if conf.repo_tag is None else (conf.repo_tag,),
            document=json.loads(image_config(conf, (), document)),
            layers=(*below, *ours),
        )
    return Inspection(name=name, kind="conf", also_oci=False, compression=None, images=(image,))


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


def _planned_layers(sources: ImageSources, known: Known) -> Iterator[InspectedLayer]:
    for plan, layer in zip(sources.conf.store_layers, sources.walk_store_layers(), strict=True):
        paths = tuple(map(printable, plan.store_paths))
        yield _planned_layer(layer, known.of_source(layer), layer.entry_count, paths)
    if (top := sources.customisation) is not None:
        summary = Summary()
        for member in top.members():
            summary.add(member.name)
        found = known.of_source(top) if top.complete else None
        yield _planned_layer(top, found, summary.entries, summary.store_paths(set()))


def _planned_layer(
    layer: StoreLayer | ListedLayer,
    known: KnownLayer | None,
    entries: int,
    store_paths: tuple[str, ...],
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
    )

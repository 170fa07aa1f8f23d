"""The base image: its layers, copied and verified, and its config.

Knows image archives through `stream.archives`; not where the layers go. Layers come in the
archive's order, each once, because a compressed archive is read from the start; the image's
order is that of its manifest.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Collection, Generator, Iterator, Mapping
from contextlib import ExitStack, closing, contextmanager
from typing import TYPE_CHECKING, Any, Self

from stream.archives.bytesource import ByteSource
from stream.archives.container import Blob
from stream.archives.images import Archive, ArchiveImage, ArchiveLayer, open_archive
from stream.archives.tarreader import Member
from stream.interfaces import LayerSource, Takes
from stream.model import BaseReference, Digest, ImageConf, KnownLayer, Layer, LayerPlan, Recipe
from stream.nix.hashes import is_hashed_path
from stream.oci.documents import store_paths_comment
from stream.oci.platform import Platform
from stream.sources.base.layers import (
    BaseLayer,
    CarriedLayer,
    archive_layers,
    check_listing,
    distinct_layers,
)
from stream.sources.base.listing import BaseListing, Held, Keep, Lister, find_held
from stream.values import replace

if TYPE_CHECKING:
    from stream.sources.base.tree import BaseTree


class BaseImage:
    """An image in an open archive, to build on. A context manager. `listings` are those of
    its distinct layers by blob, if any were made.
    """

    def __init__(
        self,
        reference: BaseReference,
        archive: Archive[BaseListing],
        image: ArchiveImage,
        listings: dict[Blob, BaseListing],
    ) -> None:
        self.archive = archive
        self.image = image
        self.listings = listings
        self._reference = reference
        self._reading = threading.Lock()  # the archive, unless it supports random access

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.archive.container.close()

    @property
    def name(self) -> str:
        """The archive's name, for errors."""
        return self.archive.name

    @property
    def layers(self) -> tuple[ArchiveLayer, ...]:
        """The image's layers, bottom to top; a layer may occur twice."""
        return self.image.layers

    @property
    def document(self) -> dict[str, Any]:
        """The image's config, parsed."""
        return self.image.document

    @property
    def platform(self) -> Platform:
        """The platform that the image is for, so far as it is known."""
        return self.image.platform

    def tree(self) -> BaseTree:
        """Return the image's layers as one tree; needs the listed entries. Raises
        ArchiveError.
        """
        from stream.archives.flatten import flatten
        from stream.sources.base.tree import BaseTree

        numbers = {blob: number for number, blob in enumerate(self.listings)}
        root = flatten(
            (numbers[layer.blob], self.listings[layer.blob].entries, f"{self.name}: {layer.name}")
            for layer in self.layers
        )
        return BaseTree(self.name, root, list(self.listings.values()))

    def without_held(self, conf: ImageConf) -> ImageConf:
        """Return `conf`, without the store paths that the image holds already if the conf
        asks for that. One without a hash in its name stays: that in the image may be another.
        """
        if not self._reference.skip_store_paths:
            return conf
        names = self._held().names

        def left(paths: tuple[bytes, ...]) -> tuple[bytes, ...]:
            return tuple(
                path
                for path in paths
                if os.path.basename(path) not in names or not is_hashed_path(path, conf.store_dir)
            )

        plans = (LayerPlan(store_paths=left(plan.store_paths)) for plan in conf.store_layers)
        return replace(
            conf,
            store_layers=tuple(plan for plan in plans if plan.store_paths),
            customisation_store_paths=left(conf.customisation_store_paths),
        )

    def store_ancestors(self) -> set[bytes]:
        """Return the store directory and those above it, so far as the image has them; needs
        what the conf needs that puts store paths into the customisation layer.
        """
        return self._held().ancestors

    def _held(self) -> Held:
        return find_held(self.listings[layer.blob].store for layer in self.layers)

    def sources(
        self, *, carry_compressed: bool, skip: Collection[Digest] = ()
    ) -> Iterator[LayerSource]:
        """Yield each distinct layer whose diff_id is not in `skip`: see `archive_layers`."""
        return self._read(
            *(layer for layer in self.layers if layer.diff_id not in skip),
            carry_compressed=carry_compressed,
        )

    def _read(
        self, *layers: ArchiveLayer, carry_compressed: bool
    ) -> Generator[BaseLayer | CarriedLayer, None, None]:
        return archive_layers(
            self.archive.container,
            layers,
            owner="base image's",
            carry_compressed=carry_compressed,
        )

    @contextmanager
    def opened_layer(self, index: int, *, carry_compressed: bool) -> Iterator[LayerSource]:
        """The layer at `index`, opened anew and to be written once. Several threads may do so; of
        an archive that is compressed as a whole, one after the other. Raises ArchiveError.
        """
        reading = self._read(self.layers[index], carry_compressed=carry_compressed)
        with ExitStack() as alone, closing(reading):
            alone.enter_context(self._reading)
            source = next(reading)
            if source.repeatable:
                alone.close()
            yield source

    def known_layers(self, takes: Takes) -> list[KnownLayer]:
        """Return each distinct layer: see `distinct_layers`."""
        return distinct_layers(self.layers, takes)

    @contextmanager
    def layer_content(self, index: int) -> Iterator[ByteSource]:
        """The tar of the layer at `index`, uncompressed. Raises ArchiveError."""
        with self.archive.layer_content(self.layers[index]) as content:
            yield content

    def in_order(self, known: Mapping[Digest, Layer]) -> list[Layer]:
        """Return the image's layers, bottom to top, from those `known` by diff_id."""
        return [
            replace(known[layer.diff_id], comment=store_paths_comment([layer.name]))
            for layer in self.layers
        ]


def _keep(conf: ImageConf) -> Keep | None:
    recipe = conf.customisation_layer
    if not isinstance(recipe, Recipe):
        return None
    from stream.sources.base.accounts import keep_accounts

    keepers = [keep_accounts()]
    if recipe.database is not None:
        from stream.sources.base.database import keeper

        keepers.append(keeper())

    def keep(member: Member, layer: ByteSource) -> bytes | None:
        for one in keepers:
            if (content := one(member, layer)) is not None:
                return content
        return None

    return keep


def open_base_image(
    reference: BaseReference,
    conf: ImageConf,
    *,
    entries: bool = False,
    summaries: bool = False,
    programs: bool = False,
) -> BaseImage:
    """Open the image that `reference` names; of several, the one that fits the conf's platform best.
    Lists what the conf needs; with `entries` also its layers' entries, with `summaries` a
    summary of each layer, with `programs` its programs. Raises ArchiveError.
    """
    lister = Lister(conf, entries=entries, summaries=summaries, programs=programs, keep=_keep(conf))
    archive = open_archive(reference.path, lister if lister.is_needed else None)
    try:
        image = archive.choose(reference.repo_tag, Platform.of_conf(conf))
        check_listing(archive.name, image)
        blobs = dict.fromkeys(layer.blob for layer in image.layers)
        listings = {blob: archive.container.peruse(blob) for blob in blobs if lister.is_needed}
    except BaseException:
        archive.container.close()
        raise
    return BaseImage(reference, archive, image, listings)

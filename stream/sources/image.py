"""The layers of a conf: base image, store layers, customisation layer.

Used by stream, plan, export, inspect and explain. Knows neither what is in a layer nor where
it goes.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Generator, Hashable, Iterator, Mapping, Sequence
from contextlib import ExitStack, closing, contextmanager
from functools import partial
from typing import TYPE_CHECKING

from stream.digests import Digests
from stream.interfaces import LayerSource, Takes
from stream.known import Known
from stream.limits import DOCKER_MAX_LAYERS, OVERLAY_MAX_LAYERS
from stream.model import Digest, ImageConf, ImageDocuments, KnownLayer, Layer
from stream.oci.documents import image_config
from stream.sources.ahead import Ahead
from stream.sources.customisation.layer import opened_customisation_layer
from stream.sources.layer import ListedLayer
from stream.sources.store import StoreLayer, Walk, comment, walk
from stream.values import dataclass, replace

if TYPE_CHECKING:
    from stream.archives.bytesource import ByteSource
    from stream.sources.base.image import BaseImage


@dataclass(frozen=True, slots=True, kw_only=True)
class ImageSources:
    """The layers of the image of `conf`, without the store paths that the base image holds
    if the conf asks for that. See `stream.interfaces.ImageSources`. `walk` lists the entries of
    store layers that are written.
    """

    conf: ImageConf
    base: BaseImage | None
    customisation: ListedLayer | None
    walk: Walk = walk

    @property
    def warnings(self) -> Iterator[str]:
        """Warnings about the image as a whole, each a line for a person."""
        total = len(self.unknown_layers()) + len(self.base.layers if self.base else ())
        total += self.customisation is not None and self.customisation.diff_id is not None
        if total > DOCKER_MAX_LAYERS:
            yield f"{total} layers: docker allows at most {DOCKER_MAX_LAYERS}, podman and buildah {OVERLAY_MAX_LAYERS}"

    def walk_store_layers(self) -> Iterator[StoreLayer]:
        """Yield each store layer, walked only when it is asked for, so that memory holds the
        metadata of one layer. Raises SourceError.
        """
        for plan in self.conf.store_layers:
            yield walk(self.conf, plan)

    def known(self, digests: Digests, takes: Takes) -> list[KnownLayer | None]:
        """Return what is known of each layer, bottom to top, with its blob in a sink that `takes`
        this; None for a layer whose digest is not known. Files are looked at, but not read.
        Raises SourceError.
        """
        known = Known(digests, takes)
        base = {one.diff_id: known.of_layer(one) for one in self._base_layers(takes)}
        found: list[KnownLayer | None] = []
        found += (base[layer.diff_id] for layer in (self.base.layers if self.base else ()))
        found += (known.of_source(layer) for layer in self.walk_store_layers())
        if (top := self.customisation) is not None:
            found.append(known.of_source(top) if top.complete else None)
        return found

    def foreseen(self, known: Sequence[KnownLayer]) -> ImageDocuments:
        """Return the contents of the image's documents. `known` are its layers, bottom to top, with
        their sizes and blobs; nothing is read or walked.
        """
        records = []
        for one in known:
            assert one.size is not None, "known with its blob"
            assert one.descriptor is not None, "known with its blob"
            records.append(
                Layer(
                    archive_name="",
                    diff_id=one.diff_id,
                    size=one.size,
                    comment="",
                    descriptor=one.descriptor,
                )
            )
        below = len(self.base.layers) if self.base else 0
        comments = [comment(plan) for plan in self.conf.store_layers]
        if self.customisation is not None:
            comments.append(self.customisation.comment)
        ours = [
            replace(record, comment=text)
            for record, text in zip(records[below:], comments, strict=True)
        ]
        base = {record.diff_id: record for record in records[:below]}
        (documents,) = self.documents(ours, base)
        return documents

    def _base_layers(self, takes: Takes) -> list[KnownLayer]:
        return self.base.known_layers(takes) if self.base else []

    @contextmanager
    def layer_content(self, index: int) -> Iterator[ByteSource]:
        """The tar of the layer at `index`, from 0 at the bottom, to be read once from the
        front. Raises SourceError or ArchiveError.
        """
        below = len(self.base.layers) if self.base else 0
        if self.base is not None and index < below:
            with self.base.layer_content(index) as content:
                yield content
            return
        with self._own_layer(index - below).content() as content:
            yield content

    @contextmanager
    def opened_layer(self, index: int, *, carry_compressed: bool) -> Iterator[LayerSource]:
        """The layer at `index`, from 0 at the bottom, opened anew and to be written once; one of a
        base image as it is stored if `carry_compressed` is true. Several threads may do so at the
        same time. Raises SourceError or ArchiveError.
        """
        below = len(self.base.layers) if self.base else 0
        if self.base is not None and index < below:
            with self.base.opened_layer(index, carry_compressed=carry_compressed) as source:
                yield source
            return
        yield self._own_layer(index - below)

    def _own_layer(self, index: int) -> StoreLayer | ListedLayer:
        """Return the layer at `index` of those above the base image. Raises SourceError."""
        plans = self.conf.store_layers[index : index + 1]
        layer = walk(self.conf, plans[0]) if plans else self.customisation
        assert layer is not None, "an index of a layer"
        return layer

    # ---- for the pipeline

    def known_layers(self, takes: Takes) -> Sequence[KnownLayer]:
        """See the interface."""
        top = self.customisation
        known = self._base_layers(takes)
        if top is not None and top.diff_id is not None:
            known.append(KnownLayer(diff_id=top.diff_id, size=top.size))
        return known

    def unknown_layers(self) -> Sequence[Hashable]:
        """See the interface. Two images can have a store layer in common."""
        conf = self.conf
        keys: list[Hashable] = [
            (plan.store_paths, conf.owner, conf.mtime, conf.store_root)
            for plan in conf.store_layers
        ]
        if self.customisation is not None and self.customisation.diff_id is None:
            keys.append(self.customisation.fingerprint)
        return keys

    def unknown_sizes(self) -> Iterator[int]:
        """See the interface."""
        yield from (self.walk(self.conf, plan).size for plan in self.conf.store_layers)
        if self.customisation is not None and self.customisation.diff_id is None:
            yield self.customisation.size

    def layers(self, takes: Takes, skip: Collection[Digest]) -> Generator[LayerSource, None, None]:
        """See the interface. Store layers are walked in the background, ahead of the writing."""
        if self.base is not None:
            yield from self.base.sources(carry_compressed=takes.compressed_layers, skip=skip)
        walks: list[Callable[[], LayerSource]] = [
            partial(self.walk, self.conf, plan) for plan in self.conf.store_layers
        ]
        with closing(Ahead(walks)) as ahead:
            yield from ahead
        if self.customisation is not None:
            yield self.customisation

    def documents(
        self, layers: Sequence[Layer], known: Mapping[Digest, Layer]
    ) -> Iterator[ImageDocuments]:
        """See the interface."""
        count = len(self.conf.store_layers) + (self.customisation is not None)
        ours = layers[len(layers) - count :]
        below = self.base.in_order(known) if self.base else []
        everything = (*below, *ours)
        document = self.base.document if self.base else None
        repo_tag = self.conf.repo_tag
        yield ImageDocuments(
            config=image_config(self.conf, everything, document),
            repo_tags=() if repo_tag is None else (repo_tag,),
            layers=everything,
            architecture=self.conf.architecture,
            variant=self.conf.variant,
            annotations=self.conf.annotations,
        )


@contextmanager
def opened_base(
    conf: ImageConf, *, entries: bool = False, summaries: bool = False, programs: bool = False
) -> Iterator[BaseImage | None]:
    """Open the base image of `conf`, read once for everything that a run needs from it; None
    if it has none. See `stream.sources.base.image.open_base_image`.
    """
    if conf.base is None:
        yield None
        return
    from stream.sources.base.image import open_base_image

    with open_base_image(
        conf.base, conf, entries=entries, summaries=summaries, programs=programs
    ) as base:
        yield base


@contextmanager
def opened(  # noqa: PLR0913 — what a run needs from the base image
    conf: ImageConf,
    warn: Callable[[str], None],
    *,
    check: Callable[[BaseImage | None], None] | None = None,
    walk: Walk = walk,
    entries: bool = False,
    summaries: bool = False,
    programs: bool = False,
) -> Iterator[ImageSources]:
    """Open the sources of the image of `conf`. A base image is listed in one pass, with the
    entries, summaries or programs of its layers on request. A recipe is carried out immediately; its
    files exist until the context ends. `check` is called with the base image before that.
    `warn` is called with a line for a person. `walk` lists the entries of store layers.

    Raises StreamImageError.
    """
    with ExitStack() as stack:
        base = stack.enter_context(
            opened_base(conf, entries=entries, summaries=summaries, programs=programs)
        )
        if check is not None:
            check(base)
        if base is not None:
            conf = base.without_held(conf)
        top = stack.enter_context(opened_customisation_layer(conf, base, warn))
        yield ImageSources(conf=conf, base=base, customisation=top, walk=walk)

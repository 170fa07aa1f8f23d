"""The customisation layer with store paths behind its own files, as the one new layer of
nixpkgs' `buildImage` has them.

Knows neither where the layer's own files come from nor where the layer goes.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from itertools import product
from typing import TYPE_CHECKING

import xxhash

from stream.digests import joined_key
from stream.interfaces import ContentWriter
from stream.model import ImageConf, LayerPlan
from stream.sources.customisation.tree import parts_of
from stream.sources.layer import ListedLayer
from stream.sources.store import StoreLayer, ancestors, walk_relative
from stream.tarwriter import tar_size
from stream.values import dataclass

if TYPE_CHECKING:
    from stream.archives.tarreader import Member


@dataclass(frozen=True, slots=True, kw_only=True)
class LayerWithStore(ListedLayer):
    """The layer `own` and, in the same tar, the entries of `store`."""

    own: ListedLayer
    store: StoreLayer

    def write_to(self, writer: ContentWriter) -> None:
        """Write every entry. Raises SourceError for a file that has changed."""
        self.own.write_members(writer)
        self.store.write_to(writer)

    def members(self) -> Iterator[Member]:
        """See ListedLayer."""
        yield from self.own.members()
        yield from self.store.members()


def with_store_paths(own: ListedLayer, conf: ImageConf, below: Collection[bytes]) -> ListedLayer:
    """Return `own` with the store paths of `conf` that belong into it. Those that `own` holds
    itself stay as they are there. `below` are the directories above the store paths that the base
    image has. Raises SourceError or ArchiveError.
    """
    present = {*below} | _present(own, conf.store_dir)
    paths = tuple(path for path in conf.customisation_store_paths if path not in present)
    if not paths:
        return own
    store = walk_relative(
        conf,
        LayerPlan(store_paths=paths),
        [b"." + path for path in ancestors(conf.store_dir) if path not in present],
        conf.customisation_mtime,
    )
    return LayerWithStore(
        label=own.label,
        comment=own.comment,
        fingerprint=xxhash.xxh3_128(f"{own.fingerprint} {store.fingerprint}".encode()).hexdigest(),
        size=tar_size(own.end() + store.entries.size),
        entry_count=own.entry_count + store.entry_count,
        keys=tuple(joined_key(*pair) for pair in product(own.keys, store.keys)),
        complete=own.complete,
        own=own,
        store=store,
    )


def _present(own: ListedLayer, store_dir: bytes) -> set[bytes]:
    """Return the paths of `own` that are store paths, or directories above them."""
    above = {*ancestors(store_dir)}
    found = set()
    for member in own.members():
        path = b"/" + b"/".join(parts_of(member.name))
        if path in above or path.rpartition(b"/")[0] == store_dir:
            found.add(path)
    return found

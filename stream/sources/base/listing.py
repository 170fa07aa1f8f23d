"""What is to be known of a base image's layers before any is written: listed in one
reading of the archive, which may be compressed.

Keeps what a conf asks for, and no more. Knows names; not what is made of them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

from stream.archives.bytesource import ByteSource
from stream.archives.flatten import OPAQUE, WHITEOUT, Budget, Listing, parts_of
from stream.archives.summary import Summary, size_of
from stream.archives.tarreader import Member, read_members
from stream.model import ImageConf, Recipe

# Reads the content of a member, which is next in the layer, if it is to be kept.
Keep = Callable[[Member, ByteSource], bytes | None]


@dataclass(slots=True)
class StoreListing:
    """What a layer does to the items of the store directory: their names. OCI Image
    Specification, layer.md.
    """

    held: set[bytes] = field(default_factory=set)
    removed: set[bytes] = field(default_factory=set)  # by whiteouts, also of parts
    all_removed: bool = False

    def add(self, name: bytes, store: list[bytes]) -> None:
        """Add an entry; `store` are the components of the store directory."""
        parts = parts_of(name)
        if not parts:
            return
        whiteout = parts[-1].startswith(WHITEOUT)
        inside = parts[: len(store)] == store
        if whiteout and parts[-1] == OPAQUE:
            parts.pop()
        elif whiteout:
            parts[-1] = parts[-1].removeprefix(WHITEOUT)
        if whiteout and parts == store[: len(parts)]:
            self.all_removed = True
        elif inside and len(parts) > len(store):
            if whiteout:
                self.removed.add(parts[len(store)])
            elif len(parts) == len(store) + 1:
                self.held.add(parts[-1])


@dataclass(slots=True)
class BaseListing:
    """A layer: what it does to the store, its entries, and of some of them, by their
    number, the content, and a summary; each only if it is asked for.
    """

    store: StoreListing = field(default_factory=StoreListing)
    entries: Listing = field(default_factory=Listing)
    contents: dict[int, bytes] = field(default_factory=dict)
    summary: Summary = field(default_factory=Summary)


class Lister:
    """Lists layers: the `peruse` of an archive. Lists what the conf asks for, with `entries`
    the entries in any case, with `summaries` a summary; `keep` reads the content of some
    entries. Raises ArchiveError for more than there is room for.
    """

    def __init__(
        self,
        conf: ImageConf,
        *,
        entries: bool = False,
        summaries: bool = False,
        keep: Keep | None = None,
    ) -> None:
        recipe = conf.customisation_layer
        skip = conf.base is not None and conf.base.skip_store_paths
        self._store = parts_of(conf.store_dir) if skip else None
        self._budget = Budget() if entries or isinstance(recipe, Recipe) else None
        self._summaries = summaries
        self._keep = keep

    @property
    def is_needed(self) -> bool:
        """Whether there is anything to list."""
        return self._store is not None or self._budget is not None or self._summaries

    def __call__(self, layer: ByteSource) -> BaseListing:
        found = BaseListing()
        for member in read_members(layer):
            if self._summaries:
                found.summary.add(member.name)
            if self._store is not None:
                found.store.add(member.name, self._store)
            if self._budget is not None:
                self._budget.take(member, layer.name)
                content = self._keep(member, layer) if self._keep else None
                if content is not None:
                    found.contents[len(found.entries.entries)] = content
                found.entries.add(member)
        if self._summaries:
            found.summary.size = size_of(layer)
        return found


def held(layers: Iterable[StoreListing]) -> set[bytes]:
    """The names in the store directory when `layers`, bottom to top, lie over each other."""
    found: set[bytes] = set()
    for layer in layers:
        if layer.all_removed:
            found.clear()
        found = (found - layer.removed) | (layer.held - layer.removed)
    return found

"""Listings of a base image's layers, made before any layer is written, in one pass over the
archive, which may be compressed.

Keeps only what a conf needs. Knows names; not how they are used.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Iterable
from typing import NamedTuple

from stream.archives.bytesource import ByteSource, StreamBytes
from stream.archives.flatten import OPAQUE, WHITEOUT, Budget, Listing, parts_of
from stream.archives.programs import ProgramBudget, ProgramListing
from stream.archives.summary import Summary, size_of
from stream.archives.tarreader import Member, read_members
from stream.model import ImageConf, Recipe
from stream.values import dataclass, field

# Returns the content of a member, which is next in the layer, or None if it need not be kept.
Keep = Callable[[Member, ByteSource], bytes | None]


class Kept(NamedTuple):
    """A file whose content was kept."""

    content: bytes
    mode: int
    uid: int
    gid: int


@dataclass(slots=True)
class StoreListing:
    """The names of the items that a layer adds to the store directory or removes from it, and
    the paths of that directory and those above it, so far as the layer has them. OCI Image
    Specification, layer.md.
    """

    held: set[bytes] = field(default_factory=set)
    ancestors: set[bytes] = field(default_factory=set)
    removed: set[bytes] = field(default_factory=set)  # by whiteouts, even of a part
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
        if parts == store[: len(parts)]:
            if whiteout:
                self.all_removed = True
            else:
                self.ancestors.add(b"/" + b"/".join(parts))
        elif inside and len(parts) > len(store):
            if whiteout:
                self.removed.add(parts[len(store)])
            elif len(parts) == len(store) + 1:
                self.held.add(parts[-1])


@dataclass(slots=True)
class BaseListing:
    """The listing of a layer: its changes to the store, its entries, the contents of some
    entries by their number, a summary, and its programs. Each is filled only on request.
    """

    store: StoreListing = field(default_factory=StoreListing)
    entries: Listing = field(default_factory=Listing)
    contents: dict[int, Kept] = field(default_factory=dict)
    summary: Summary = field(default_factory=Summary)
    programs: ProgramListing | None = None


class Lister:
    """Lists layers: the `peruse` of an archive. Lists what the conf needs; with `entries`
    always the entries, with `summaries` a summary, with `programs` its programs; `keep` reads
    the content of some entries.
    Raises ArchiveError for layers that exceed the limits.
    """

    def __init__(
        self,
        conf: ImageConf,
        *,
        entries: bool = False,
        summaries: bool = False,
        programs: bool = False,
        keep: Keep | None = None,
    ) -> None:
        recipe = conf.customisation_layer
        skip = conf.base is not None and conf.base.skip_store_paths
        wanted = skip or conf.customisation_store_paths
        self._store = parts_of(conf.store_dir) if wanted else None
        self._budget = Budget() if entries or isinstance(recipe, Recipe) else None
        self._summaries = summaries
        self._programs = ProgramBudget() if programs else None
        self._keep = keep

    @property
    def is_needed(self) -> bool:
        """True if there is anything to list."""
        listed = self._store is not None or self._budget is not None
        return listed or self._summaries or self._programs is not None

    def __call__(self, layer: ByteSource) -> BaseListing:
        found = BaseListing()
        if self._programs is not None:
            found.programs = ProgramListing(self._programs)
        for member in read_members(layer):
            if self._summaries:
                found.summary.add(member.name)
            if self._store is not None:
                found.store.add(member.name, self._store)
            content = None
            if self._budget is not None:
                self._budget.take(member, layer.name)
                content = self._keep(member, layer) if self._keep else None
                if content is not None:
                    kept = Kept(content, member.mode & 0o7777, member.uid, member.gid)
                    found.contents[len(found.entries.entries)] = kept
                found.entries.add(member)
            if found.programs is not None:
                read = layer if content is None else StreamBytes(io.BytesIO(content), layer.name)
                found.programs.add(member, read)
        if self._summaries:
            found.summary.size = size_of(layer)
        return found


class Held(NamedTuple):
    """The names in the store directory of an image, and the paths of that directory and those
    above it, so far as the image has them.
    """

    names: set[bytes]
    ancestors: set[bytes]


def find_held(layers: Iterable[StoreListing]) -> Held:
    """Return what `layers`, applied bottom to top, hold of the store."""
    names: set[bytes] = set()
    ancestors: set[bytes] = set()
    for layer in layers:
        if layer.all_removed:
            names.clear()
            ancestors.clear()
        names = (names - layer.removed) | (layer.held - layer.removed)
        ancestors |= layer.ancestors
    return Held(names, ancestors)

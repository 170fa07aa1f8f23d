"""Store layers: store paths walked into entries, then written with their content.

Knows a store layer's entries, their order and its fingerprint; not how tar encodes entries
nor where they go. Layer content is that of nixpkgs' `dockerTools`: the store directory's
ancestors first, then each store path.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

import xxhash

from stream.interfaces import ContentWriter
from stream.model import ImageConf, LayerPlan
from stream.oci.documents import store_paths_comment
from stream.sources.layer import ReadableLayer
from stream.tarwriter import Entries
from stream.text import printable

ANCESTOR_MODE = 0o755


@dataclass(frozen=True, slots=True, kw_only=True)
class StoreLayer(ReadableLayer):
    """A store layer that has been walked. `path_sizes` has the number of bytes that each of
    its store paths takes in it.
    """

    entries: Entries
    path_sizes: tuple[int, ...]

    def write_to(self, writer: ContentWriter) -> None:
        """Write every entry. Raises SourceError for a file that has changed."""
        writer.write_entries(self.entries)


def _ancestors(store_dir: bytes) -> list[bytes]:
    """Return `store_dir` and the directories above it, top down, without `/`."""
    parts = [part for part in store_dir.split(b"/") if part]
    return [b"/" + b"/".join(parts[: i + 1]) for i in range(len(parts))]


def _fingerprint(conf: ImageConf, entries: Entries) -> str:
    """Return 128 bits of xxh3 over everything in the layer except file content, in hex."""
    owner = conf.owner
    digest = xxhash.xxh3_128(entries.records)
    digest.update(
        f"\0{owner.uid}\0{owner.gid}\0{owner.uname}\0{owner.gname}\0{conf.mtime}".encode()
    )
    return digest.hexdigest()


def walk(conf: ImageConf, plan: LayerPlan) -> StoreLayer:
    """Read the metadata of `plan`'s store paths. Raises SourceError."""
    entries = Entries(owner=conf.owner, mtime=conf.mtime, root=conf.store_root)
    for ancestor in _ancestors(conf.store_dir):
        entries.add_directory(ancestor, ANCESTOR_MODE)
    ends = [entries.size]
    for path in plan.store_paths:
        entries.walk(path)
        ends.append(entries.size)
    return StoreLayer(
        fingerprint=_fingerprint(conf, entries),
        size=entries.layer_size,
        comment=store_paths_comment([path.decode() for path in plan.store_paths]),
        label=printable(plan.store_paths[0])
        + (f" and {len(plan.store_paths) - 1} more" if len(plan.store_paths) > 1 else ""),
        entry_count=len(entries),
        entries=entries,
        path_sizes=tuple(end - start for start, end in pairwise(ends)),
    )

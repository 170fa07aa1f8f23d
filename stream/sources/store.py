"""Store layers: store paths walked into entries, then written with their content.

Knows a store layer's entries, their order and its fingerprint; not how tar encodes entries
nor where they go. Layer content is that of nixpkgs' `dockerTools`: the store directory's
ancestors first, then each store path.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import pairwise
from typing import TYPE_CHECKING, TypeAlias

import xxhash

from stream.digests import file_key, is_settled, path_key
from stream.interfaces import ContentWriter
from stream.model import ImageConf, LayerKey, LayerPlan, Owner
from stream.nix.hashes import is_hashed_path
from stream.oci.documents import store_paths_comment
from stream.sources.layer import ReadableLayer
from stream.tarwriter import Entries
from stream.text import printable
from stream.values import dataclass, replace

if TYPE_CHECKING:
    from stream.archives.tarreader import Member

Walk: TypeAlias = Callable[[ImageConf, LayerPlan], ReadableLayer]
"""Lists the entries of a store layer, as `walk` does."""

ANCESTOR_MODE = 0o755
CLOSED_MODE = 0o555


@dataclass(frozen=True, slots=True, kw_only=True)
class StoreLayer(ReadableLayer):
    """A store layer that has been walked. `path_sizes` has the number of bytes that each of
    its store paths takes in it. Every entry has `owner` and `mtime` (seconds).
    """

    entries: Entries
    store_paths: tuple[bytes, ...]
    path_sizes: tuple[int, ...]
    owner: Owner
    mtime: int

    def write_to(self, writer: ContentWriter) -> None:
        """Write every entry. Raises SourceError for a file that has changed."""
        writer.write_entries(self.entries)

    def members(self) -> Iterator[Member]:
        """Yield the members of its tar, in order, without the sizes of their content."""
        from stream.archives.tarreader import Member

        owner = self.owner
        for typeflag, name, mode, link in self.entries.list():
            yield Member(
                name, typeflag, 0, mode, owner.uid, owner.gid, owner.uname.encode(),
                owner.gname.encode(), self.mtime, link, (0, 0), 0, {},
            )  # fmt: skip


def ancestors(store_dir: bytes) -> list[bytes]:
    """Return `store_dir` and the directories above it, top down, without `/`."""
    parts = [part for part in store_dir.split(b"/") if part]
    return [b"/" + b"/".join(parts[: i + 1]) for i in range(len(parts))]


def _fingerprint(owner: Owner, mtime: int, entries: Entries) -> str:
    """Return 128 bits of xxh3 over everything in the layer except file content, in hex."""
    digest = xxhash.xxh3_128(entries.records)
    digest.update(_stamp(owner, mtime))
    return digest.hexdigest()


def _stamp(owner: Owner, mtime: int) -> bytes:
    """Return what all entries have in common, encoded."""
    return f"\0{owner.uid}\0{owner.gid}\0{owner.uname}\0{owner.gname}\0{mtime}".encode()


def _file_key(layer: StoreLayer, began_ns: int) -> LayerKey:
    """Return the key in file form of a layer whose walk began at `began_ns`."""
    identities, newest = layer.entries.identities
    return file_key(_metadata(layer), [identities], settled=is_settled(newest, began_ns))


def _with_path_key(conf: ImageConf, layer: StoreLayer) -> StoreLayer:
    """Return `layer` with its key in path form, if the hashes of all store paths are known. Only
    the content of a path with a hash in its name stays what Nix says it is.
    """
    hashes = conf.store_path_hashes
    paths = layer.store_paths
    if not all(path in hashes and is_hashed_path(path, conf.store_dir) for path in paths):
        return layer
    key = path_key(_metadata(layer), ((path, hashes[path]) for path in paths))
    return replace(layer, keys=(*layer.keys, key))


def _metadata(layer: StoreLayer) -> tuple[memoryview | bytes, bytes]:
    return layer.entries.records, _stamp(layer.owner, layer.mtime)


def walk(conf: ImageConf, plan: LayerPlan) -> StoreLayer:
    """Read the metadata of `plan`'s store paths. Raises SourceError."""
    entries = Entries(owner=conf.owner, mtime=conf.mtime, root=conf.store_root)
    for ancestor in ancestors(conf.store_dir):
        entries.add_directory(ancestor, ANCESTOR_MODE)
    return _with_path_key(conf, _walk_into(entries, plan.store_paths, plan, conf.owner, conf.mtime))


def walk_relative(
    conf: ImageConf, plan: LayerPlan, directories: Iterable[bytes], mtime: int
) -> StoreLayer:
    """Read the metadata of `plan`'s store paths, for entries whose names have no `/` in front and
    that are modified at `mtime` (seconds). They come after `directories`, to which nobody but
    root may add. Raises SourceError.
    """
    entries = Entries(owner=conf.owner, mtime=mtime, root=conf.store_root + b"/")
    for path in directories:
        entries.add_directory(path, CLOSED_MODE)
    names = [path.removeprefix(b"/") for path in plan.store_paths]
    return _with_path_key(conf, _walk_into(entries, names, plan, conf.owner, mtime))


def walk_alone(path: bytes) -> StoreLayer:
    """Read the metadata of the files at `path` on disk, for a layer that does not depend on where
    they are. Raises SourceError.
    """
    root, _, name = path.rpartition(b"/")
    entries = Entries(owner=Owner(), mtime=0, root=root)
    plan = LayerPlan(store_paths=(b"/" + name,))
    return _walk_into(entries, plan.store_paths, plan, Owner(), 0)


def comment(plan: LayerPlan) -> str:
    """Return the line of `plan`'s layer in the image's history."""
    return store_paths_comment([path.decode() for path in plan.store_paths])


def label(plan: LayerPlan) -> str:
    """Return what `plan`'s layer is called in messages."""
    first, *others = plan.store_paths
    return printable(first) + (f" and {len(others)} more" if others else "")


def _walk_into(
    entries: Entries, names: Sequence[bytes], plan: LayerPlan, owner: Owner, mtime: int
) -> StoreLayer:
    """Walk `plan`'s store paths into `entries`, which have `owner` and `mtime`, under `names`."""
    began_ns = time.time_ns()
    ends = [entries.size]
    for name in names:
        entries.walk(name)
        ends.append(entries.size)
    layer = StoreLayer(
        fingerprint=_fingerprint(owner, mtime, entries),
        size=entries.layer_size,
        comment=comment(plan),
        label=label(plan),
        entry_count=len(entries),
        entries=entries,
        store_paths=plan.store_paths,
        owner=owner,
        mtime=mtime,
        path_sizes=tuple(end - start for start, end in pairwise(ends)),
    )
    return replace(layer, keys=(_file_key(layer, began_ns),))

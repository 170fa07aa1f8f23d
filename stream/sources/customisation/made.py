"""The customisation layer made from a recipe: a tree in memory, encoded as GNU tar does.

The bytes are those of `tar --sort=name --numeric-owner --mtime=@MTIME --hard-dereference
--format=gnu -cf - -C DIRECTORY .`, with which nixpkgs' `dockerTools` packs its own. Knows
neither where a tree's nodes come from nor where the bytes go.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator

import xxhash

from stream.archives.tarreader import XATTR, Member
from stream.digests import file_key, is_settled, path_key
from stream.errors import RecipeError
from stream.faults import WHITEOUT
from stream.interfaces import ContentWriter
from stream.model import LayerKey, Recipe
from stream.sources.customisation.content import opened
from stream.sources.customisation.tree import Identity, Node, Tree, file
from stream.sources.layer import ListedLayer
from stream.tarwriter import (
    encode_header,
    encode_record,
    padded,
    tar_size,
)
from stream.text import printable
from stream.typeflags import CHARACTER_DEVICE, FILE, HARD_LINK
from stream.values import dataclass, replace

_WHITEOUT = WHITEOUT.encode()

# Headers are written in batches: a call for each costs more than its bytes.
_BATCH = 256


@dataclass(frozen=True, slots=True, kw_only=True)
class MadeLayer(ListedLayer):
    """A tree as a layer; every entry has `mtime` (seconds). The first name of a file has its
    content; others are hard links to it.
    """

    tree: Tree
    mtime: int
    members_size: int  # bytes, of all entries

    def end(self) -> int:
        """See ListedLayer."""
        return self.members_size

    def write_to(self, writer: ContentWriter) -> None:
        """Write every entry. Raises SourceError for a file that has changed."""
        self.write_members(writer)
        writer.write_trailer()

    def write_members(self, writer: ContentWriter) -> None:
        """See ListedLayer."""
        waiting: list[bytes] = []
        for path, node, first in _entries(self.tree):
            waiting.append(_header(path, node, self.mtime, first))
            if first:
                continue
            if node.source or node.data or len(waiting) == _BATCH:
                writer.write(b"".join(waiting))
                waiting.clear()
            if node.data:
                writer.write(node.data)
                writer.pad()
            elif node.source:
                with opened(node) as fd:
                    if node.head:
                        writer.write(node.head)
                        os.lseek(fd, len(node.head), os.SEEK_SET)
                    writer.copy(fd, node.size - len(node.head), node.source)
                writer.pad()
        writer.write(b"".join(waiting))

    def members(self) -> Iterator[Member]:
        """See ListedLayer."""
        for path, node, first in _entries(self.tree):
            pax = {
                XATTR + key.decode("utf-8", "surrogateescape"): value
                for key, value in (node.xattrs or {}).items()
            }
            yield Member(
                _name(path, node), HARD_LINK if first else node.typeflag,
                0 if first else _size(node), node.mode & 0o7777, node.uid, node.gid, b"", b"",
                self.mtime, first or node.link, node.device, 0, {} if first else pax,
            )  # fmt: skip


def _entries(tree: Tree) -> Iterator[tuple[bytes, Node, bytes]]:
    """Yield all nodes of `tree` with their paths, each with the name in the tar of the first
    entry that is the same file; empty for the first itself.
    """
    names: dict[int, bytes] = {}
    for path, node in tree.entries():
        first = b""
        if node.typeflag == FILE:
            name = _name(path, node)
            known = names.setdefault(id(node), name)
            first = known if known != name else b""
        yield path, node, first


def _name(path: bytes, node: Node) -> bytes:
    if node.is_directory and path:
        path += b"/"
    return b"./" + path


def _size(node: Node) -> int:
    """Return the size of a node's content in bytes. Links and the like have none, although
    they may have a size on disk.
    """
    if node.data is not None:
        return len(node.data)
    return node.size if node.source else 0


def _header(path: bytes, node: Node, mtime: int, first: bytes) -> bytes:
    """Return the header of `node`; `first` is the name that it is a hard link to, if it is."""
    records = b""
    if node.xattrs and not first:
        # GNU tar's own format cannot hold them. It and Go's archive/tar accept a header in
        # that format after a pax one.
        records = b"".join(
            encode_record(XATTR.encode() + key, value) for key, value in sorted(node.xattrs.items())
        )
    return encode_header(
        _name(path, node),
        node.mode,
        0 if first else _size(node),
        mtime,
        link=first or node.link,
        typeflag=HARD_LINK if first else node.typeflag,
        uid=node.uid,
        gid=node.gid,
        device=node.device,
        records=records,
        gnu=True,
    )


def _refuse_whiteout(path: bytes, node: Node) -> None:
    """Raise RecipeError for an entry that would delete a file of a lower layer: one named like
    a whiteout, or a device that overlay file systems take for one.
    """
    if path.rpartition(b"/")[2].startswith(_WHITEOUT):
        wrong = f"begins with {WHITEOUT}, which marks a deleted file in a layer"
    elif node.typeflag == CHARACTER_DEVICE and node.device == (0, 0):
        wrong = "is device 0:0, which marks a deleted file in an overlay file system"
    else:
        return
    origin = f" (from {printable(node.origin)})" if node.origin else ""
    raise RecipeError(f"/{printable(path)}{origin}", f"{wrong}; rename or remove it")


def _add_whiteouts(tree: Tree) -> None:
    """Add an entry for each path that `tree` hides."""
    for path in tree.hidden:
        above, _, name = path.rpartition(b"/")
        parent = tree.find(above)
        assert parent is not None, "the tree has what is above a hidden path"
        parent.children[_WHITEOUT + name] = file(b"", 0)


def _keys(
    metadata: bytes, identities: list[Identity | None], began_ns: int
) -> tuple[LayerKey, ...]:
    """Return the keys of a layer: none if a file has no identity that outlives this run, as is so
    for those that commands made. Without files from disk, such as a tree of links, everything is in
    the metadata.
    """
    if not identities:
        return (path_key([metadata], []),)
    newest, numbers = 0, []
    for one in identities:
        if one is None or one.ctime_ns is None:
            return ()
        numbers.append((one.device, one.inode, one.size, one.mtime_ns, one.ctime_ns))
        newest = max(newest, one.ctime_ns)
    packed = repr(numbers).encode()
    return (file_key([metadata], [packed], settled=is_settled(newest, began_ns)),)


def made_layer(  # noqa: PLR0913 — each of its own
    tree: Tree,
    recipe: Recipe,
    *,
    mtime: int,
    began_ns: int = 0,
    complete: bool = True,
    above: str = "",
) -> MadeLayer:
    """Return `tree`, which `recipe` has made since `began_ns`, as a layer source. It is not
    complete if the recipe's commands were not run. What the tree hides becomes whiteouts in it.

    Its fingerprint is 128 bits of xxh3 over everything in the layer except the content of
    files on disk, which the recipe represents, together with `above`, the ID of the image that
    its commands ran in. Raises RecipeError for other whiteouts.
    """
    digest = xxhash.xxh3_128(ascii(replace(recipe, database=None)).encode())
    digest.update(above.encode())
    for path, node in tree.entries():
        _refuse_whiteout(path, node)
    _add_whiteouts(tree)
    size = count = 0
    metadata = hashlib.sha256()
    identities: list[Identity | None] = []
    for path, node, first in _entries(tree):
        header = _header(path, node, mtime, first)
        digest.update(header)
        metadata.update(header)
        size += len(header)
        count += 1
        if not first:
            content = node.data or node.head
            digest.update(content)
            metadata.update(len(content).to_bytes(8, "little") + content)
            size += padded(_size(node))
            if node.source:
                identities.append(node.identity)
    return MadeLayer(
        fingerprint=digest.hexdigest(),
        size=tar_size(size),
        comment="customisation layer",
        label="customisation layer" if complete else "customisation layer, without its commands",
        complete=complete,
        entry_count=count,
        keys=_keys(metadata.digest(), identities, began_ns) if complete else (),
        tree=tree,
        mtime=mtime,
        members_size=size,
    )

"""What a base image has that matters to a tree above it: directories and symbolic links, and
of files those that the tree would bring or lead to otherwise.

Knows layers by their listings; not what the tree will be.
"""

from __future__ import annotations

from dataclasses import dataclass

from stream.archives.flatten import Directory, Leaf, flatten
from stream.archives.tarreader import XATTR, Member
from stream.customisation.builtin import SHADOW_PATHS
from stream.customisation.redirect import BaseEntry
from stream.model import ImageConf
from stream.sources.base import BaseImage
from stream.sources.base_listing import BaseListing
from stream.typeflags import DIRECTORY, FILE, LINK


@dataclass(frozen=True, slots=True)
class BaseTree:
    """A base image's layers as one tree; its leaves have the numbers of `layers`."""

    name: str  # the archive's, for errors
    root: Directory
    layers: list[BaseListing]

    def entry(self, leaf: Leaf) -> tuple[bytes, bytes]:
        """The type and the link target of what is no directory."""
        number, index = leaf
        _, typeflag, link = self.layers[number].entries.entries[index]
        return typeflag, link


def base_tree(base: BaseImage) -> BaseTree:
    """The tree of `base`, whose entries were listed. Raises ArchiveError."""
    layers = list(base.listings.values())
    numbers = {blob: number for number, blob in enumerate(base.listings)}
    root = flatten(
        (numbers[layer.blob], base.listings[layer.blob].entries, f"{base.name}: {layer.name}")
        for layer in base.layers
    )
    return BaseTree(base.name, root, layers)


def base_entries(tree: BaseTree, conf: ImageConf) -> dict[bytes, BaseEntry]:
    """The directories and symbolic links of `tree` by path, files that shadowSetup has, and
    those in the store directory. The directories above the store are as the store layers
    of `conf` make them, if there are any.
    """
    store_prefix = conf.store_dir.strip(b"/") + b"/"
    found = {b"": _directory(tree.root.member)}
    waiting = [(b"", tree.root)]
    while waiting:
        prefix, directory = waiting.pop()
        for name, child in directory.children.items():
            path = prefix + name
            if isinstance(child, Directory):
                found[path] = _directory(child.member)
                waiting.append((path + b"/", child))
                continue
            typeflag, link = tree.entry(child)
            if typeflag == LINK:
                found[path] = BaseEntry(LINK, link=link)
            elif path in SHADOW_PATHS or prefix == store_prefix:
                found[path] = BaseEntry(FILE)
    if conf.store_layers:
        above = b""
        for part in conf.store_dir.strip(b"/").split(b"/"):
            above = above + b"/" + part if above else part
            found[above] = BaseEntry(DIRECTORY, uid=conf.owner.uid, gid=conf.owner.gid)
    return found


def _directory(member: Member | None) -> BaseEntry:
    if member is None:
        return BaseEntry(DIRECTORY)
    return BaseEntry(
        DIRECTORY,
        mode=member.mode,
        uid=member.uid,
        gid=member.gid,
        xattrs={
            key.removeprefix(XATTR).encode("utf-8", "surrogateescape"): value
            for key, value in member.pax.items()
            if key.startswith(XATTR)
        },
    )

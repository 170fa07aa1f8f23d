"""The entries of a base image that matter to a tree above it: directories, symbolic links,
and those files that the tree would otherwise add or link to.

Knows layers by their listings; not what the tree will be.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import NamedTuple

from stream.archives.flatten import Directory, Leaf
from stream.archives.tarreader import XATTR, Member
from stream.model import ImageConf
from stream.sources.base.listing import BaseListing
from stream.typeflags import DIRECTORY, FILE, LINK
from stream.values import dataclass

IMPLIED_MODE = 0o755  # of a directory without an entry


class BaseEntry(NamedTuple):
    """A directory or symbolic link of the base, or a file that the tree may lack. Other
    attributes do not matter.
    """

    typeflag: bytes
    mode: int = IMPLIED_MODE
    uid: int = 0
    gid: int = 0
    link: bytes = b""
    xattrs: Mapping[bytes, bytes] = {}


# By path, as in a tree.
Base = Mapping[bytes, BaseEntry]


@dataclass(frozen=True, slots=True)
class BaseTree:
    """A base image's layers as one tree; its leaves have the numbers of `layers`."""

    name: str  # the archive's name, for errors
    root: Directory
    layers: list[BaseListing]

    def entry(self, leaf: Leaf) -> tuple[bytes, bytes]:
        """Return the typeflag and link target of an entry that is not a directory."""
        number, index = leaf
        _, typeflag, link = self.layers[number].entries.entries[index]
        return typeflag, link


def base_entries(
    tree: BaseTree, conf: ImageConf, files: Collection[bytes] = ()
) -> dict[bytes, BaseEntry]:
    """Return by path the directories and symbolic links of `tree`, those of `files` that it
    has, and the files in the store directory. If `conf` has store layers, the directories
    above the store are as those make them.
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
            elif path in files or prefix == store_prefix:
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

"""What a base image has that matters to a tree above it: directories and symbolic links.

Its layers are listed and flattened in memory, bounded; no content is read but by archives
that have to be read from their front. Knows archives; not what the tree will be.
"""

from __future__ import annotations

from stream.archives.flatten import Directory, Listing, flatten, lister
from stream.archives.images import open_archive
from stream.archives.tarreader import DIRECTORY, LINK, Member
from stream.customisation.redirect import BaseEntry
from stream.model import ImageConf
from stream.sources.base import check_listing

_XATTR = "SCHILY.xattr."  # pax records' names, as GNU tar and Go's archive/tar write them


def base_entries(conf: ImageConf) -> dict[bytes, BaseEntry]:
    """The directories and symbolic links of the conf's base image by path; none if there
    is no base. The directories above the store are as our store layers make them, if
    there are any. Raises ArchiveError.
    """
    if conf.base is None:
        return {}
    with open_archive(conf.base.path, lister()) as archive:
        image = archive.choose(conf.base.repo_tag, conf.architecture)
        check_listing(archive.name, image)
        numbers = {
            blob: number for number, blob in enumerate({layer.blob for layer in image.layers})
        }
        listings = {number: archive.container.perused(blob) for blob, number in numbers.items()}
        root = flatten(
            (numbers[layer.blob], listings[numbers[layer.blob]], f"{archive.name}: {layer.name}")
            for layer in image.layers
        )
    found = _entries(root, listings)
    if conf.store_layers:
        above = b""
        for part in conf.store_dir.strip(b"/").split(b"/"):
            above = above + b"/" + part if above else part
            found[above] = BaseEntry(DIRECTORY, uid=conf.owner.uid, gid=conf.owner.gid)
    return found


def _entries(root: Directory, listings: dict[int, Listing]) -> dict[bytes, BaseEntry]:
    found = {b"": _directory(root.member)}
    waiting = [(b"", root)]
    while waiting:
        prefix, directory = waiting.pop()
        for name, child in directory.children.items():
            path = prefix + name
            if isinstance(child, Directory):
                found[path] = _directory(child.member)
                waiting.append((path + b"/", child))
            else:
                number, index = child
                _, typeflag, link = listings[number].entries[index]
                if typeflag == LINK:
                    found[path] = BaseEntry(LINK, link=link)
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
            key.removeprefix(_XATTR).encode("utf-8", "surrogateescape"): value
            for key, value in member.pax.items()
            if key.startswith(_XATTR)
        },
    )

"""The files of a base image that list its users and groups.

Knows their names; not their contents.
"""

from __future__ import annotations

from collections.abc import Mapping

from stream.archives.bytesource import ByteSource, pieces
from stream.archives.flatten import Directory, Leaf, parts_of
from stream.archives.tarreader import Member
from stream.sources.base.listing import Keep, Kept
from stream.sources.base.tree import BaseTree
from stream.typeflags import FILE

PASSWD, GROUP, SHADOW, GSHADOW = b"etc/passwd", b"etc/group", b"etc/shadow", b"etc/gshadow"
PATHS = (PASSWD, GROUP, SHADOW, GSHADOW)
MAX_FILE = 1 << 20  # bytes
_MAX_KEPT = 1 << 24  # bytes, in all layers together

# By path; None for one that cannot be read: a link, or too large. Absent ones are left out.
Accounts = Mapping[bytes, Kept | None]


def keep_accounts() -> Keep:
    """Return a function that reads these files while layers are listed, if they are small."""
    kept = 0

    def keep(member: Member, layer: ByteSource) -> bytes | None:
        nonlocal kept
        if member.typeflag != FILE or b"/".join(parts_of(member.name)) not in PATHS:
            return None
        kept += member.size
        if member.size > MAX_FILE or kept > _MAX_KEPT:
            return None
        return b"".join(pieces(layer, member.size))

    return keep


def base_accounts(tree: BaseTree) -> Accounts:
    """Return the files in `tree`, which was listed with `keep_accounts`."""
    found: dict[bytes, Kept | None] = {}
    for path in PATHS:
        entry: Directory | Leaf | None = tree.root
        for part in path.split(b"/"):
            entry = entry.children.get(part) if isinstance(entry, Directory) else entry
        if isinstance(entry, tuple):
            number, index = entry
            found[path] = tree.layers[number].contents.get(index)
    return found

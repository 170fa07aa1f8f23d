"""A layer in brief: how many entries its tar has, its size, and its store paths.

Memory is bounded, however many entries there are. Knows names; not where layers come from.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field

from stream.archives.bytesource import ByteSource, pieces
from stream.archives.tarreader import read_members
from stream.nix.hashes import DIGITS
from stream.text import printable

# A store path as Nix and Guix make them: 32 digits of a hash, then a name.
_STORE_PATH = re.compile(rf"((?:[^/]+/)*store)/([{DIGITS}]{{32}}-[^/]+)".encode())
_MAX_STORE_PATHS = 1 << 20  # of one layer
# Entries near the root that may turn out to be store paths of another kind, when the
# history names them. More are not worth their memory.
_MAX_SHALLOW = 4096
_MAX_DEPTH = 8


@dataclass(slots=True)
class Summary:
    """The summary of a layer. `size` is the bytes of its tar. `stores` has the items of each
    directory `…/store`, `shallow` other paths near the root, all without the leading `/`.
    """

    entries: int = 0
    size: int = 0
    stores: dict[bytes, dict[bytes, None]] = field(default_factory=dict)
    shallow: dict[bytes, None] = field(default_factory=dict)

    def add(self, name: bytes) -> None:
        """Count the entry `name`."""
        self.entries += 1
        path = b"/".join(part for part in name.split(b"/") if part not in (b"", b"."))
        if match := _STORE_PATH.match(path):
            names = self.stores.setdefault(match[1], {})
            if len(names) < _MAX_STORE_PATHS:
                names[match[2]] = None
        elif len(self.shallow) < _MAX_SHALLOW and path.count(b"/") < _MAX_DEPTH:
            self.shallow[path] = None

    def store_paths(self, named: set[bytes]) -> tuple[str, ...]:
        """Return the store paths, in order. Those `named` count as such if they are here."""
        found = [
            b"%s/%s" % (directory, name)
            for directory, names in self.stores.items()
            for name in names
        ]
        found += [path for path in self.shallow if path in named]
        return tuple("/" + printable(path) for path in found)


def summarise(layer: ByteSource) -> Summary:
    """Read all of `layer`, a tar. Raises ArchiveError."""
    summary = Summary()
    for member in read_members(layer):
        summary.add(member.name)
    summary.size = size_of(layer)
    return summary


def size_of(layer: ByteSource) -> int:
    """Return the bytes of `layer`; read what is left of it."""
    return layer.position + sum(map(len, pieces(layer)))

"""The summary of a layer: the number of entries in its tar, its size, and its store paths.

Memory is bounded for any number of entries. Must not know where layers come from.
"""

from __future__ import annotations

import re

from stream.archives.bytesource import ByteSource, pieces
from stream.archives.tarreader import read_members
from stream.nix.hashes import DIGITS
from stream.text import printable
from stream.values import dataclass, field

# A store path of Nix or Guix: 32 digits of a hash, then a name.
_STORE_PATH = re.compile(rf"((?:[^/]+/)*store)/([{DIGITS}]{{32}}-[^/]+)".encode())
_MAX_STORE_PATHS = 1 << 20  # per layer
# Entries near the root, which count as store paths of another kind if the history mentions
# them. More are not worth their memory.
_MAX_SHALLOW = 4096
_MAX_DEPTH = 8


@dataclass(slots=True)
class Summary:
    """The summary of a layer. `size` is that of its tar in bytes. `stores` has the items of
    each directory `…/store`, `shallow` other paths near the root, all without leading `/`.
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
        """Return the store paths, then those of `named`, other paths, that the layer has."""
        found = [
            b"%s/%s" % (directory, name)
            for directory, names in self.stores.items()
            for name in names
        ]
        found += [path for path in self.shallow if path in named]
        return tuple("/" + printable(path) for path in found)


def summarise(layer: ByteSource) -> Summary:
    """Read all of `layer`, a tar, and return its summary. Raises ArchiveError."""
    summary = Summary()
    for member in read_members(layer):
        summary.add(member.name)
    summary.size = size_of(layer)
    return summary


def size_of(layer: ByteSource) -> int:
    """Read the rest of `layer`, and return its size in bytes."""
    return layer.position + sum(map(len, pieces(layer)))

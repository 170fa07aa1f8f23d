"""The programs, links and directories of layers, so far as a container's start depends on them.

OCI Image Specification, layer.md: whiteouts hide entries of lower layers. Memory is bounded for
any number of entries. Knows entries; not why they matter.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from stream.archives.bytesource import ByteSource, pieces
from stream.archives.flatten import OPAQUE, WHITEOUT, parts_of
from stream.archives.tarreader import Member
from stream.oci.start import GROUP, HEAD, MAX_ACCOUNTS, PASSWD, Entry, interpreter_of
from stream.typeflags import DIRECTORY, FILE, HARD_LINK, LINK
from stream.values import dataclass, field

MAX_LISTED = 1 << 18  # entries, in all layers together
MAX_BYTES = 1 << 25  # of names, targets and contents

_EXECUTABLE = 0o111
_ACCOUNTS = (b"/" + PASSWD, b"/" + GROUP)
_HIDDEN = Entry(b"")  # an entry that hides one of a lower layer, and is not there itself


class ProgramBudget:
    """The memory that the listings of all layers may use together."""

    def __init__(self) -> None:
        self.is_spent = False
        self._entries = self._bytes = 0

    def take(self, count: int) -> None:
        """Count an entry of `count` bytes."""
        self._entries += 1
        self._bytes += count
        self.is_spent |= self._entries > MAX_LISTED or self._bytes > MAX_BYTES


@dataclass(slots=True)
class ProgramListing:
    """The entries of a layer that can matter, by path, and the contents of its passwd and group
    files, wherever they are. Without `is_complete`, nothing is known about the layer.
    """

    budget: ProgramBudget
    is_complete: bool = True
    entries: dict[bytes, Entry] = field(default_factory=dict)
    contents: dict[bytes, bytes] = field(default_factory=dict)
    removed: set[bytes] = field(default_factory=set)
    opaque: set[bytes] = field(default_factory=set)

    def add(self, member: Member, layer: ByteSource) -> None:
        """Add an entry, whose content is next in `layer`. Raises ArchiveError."""
        parts = parts_of(member.name)
        if not self.is_complete or not parts:
            return
        path = b"/".join(parts)
        if parts[-1] == OPAQUE:
            self.opaque.add(b"/".join(parts[:-1]))
            return
        if parts[-1].startswith(WHITEOUT):
            self.removed.add(b"/".join([*parts[:-1], parts[-1].removeprefix(WHITEOUT)]))
            return
        entry = self._entry(path, member, layer)
        if entry is None:
            return
        self._note(path, entry)
        while (path := path.rpartition(b"/")[0]) and path not in self.entries:
            self._note(path, Entry(DIRECTORY))
        # Where an entry below a link ends up depends on who unpacks it.
        self.is_complete &= not path or self.entries[path].typeflag == DIRECTORY
        if self.budget.is_spent or not self.is_complete:
            self.is_complete = False
            for kept in (self.entries, self.contents, self.removed, self.opaque):
                kept.clear()

    def _note(self, path: bytes, entry: Entry) -> None:
        self.budget.take(len(path) + len(entry.link) + len(entry.interpreter))
        self.entries[path] = entry

    def _entry(self, path: bytes, member: Member, layer: ByteSource) -> Entry | None:
        kind = member.typeflag
        if kind == DIRECTORY:
            return Entry(DIRECTORY)
        if kind == LINK:
            return Entry(LINK, link=member.link)
        if kind == HARD_LINK:
            target = b"/".join(parts_of(member.link))
            if target in self.contents:
                self.contents[path] = self.contents[target]
            # The target may be in a lower layer, and executable for all that is known.
            return self.entries.get(target, Entry(FILE, is_executable=True))
        if kind != FILE or member.is_sparse:
            return Entry(kind, is_executable=True)
        return self._file(path, member, layer)

    def _file(self, path: bytes, member: Member, layer: ByteSource) -> Entry | None:
        if (b"/" + path).endswith(_ACCOUNTS):
            if member.size <= MAX_ACCOUNTS:
                self.budget.take(member.size)
                self.contents[path] = b"".join(pieces(layer, member.size))
            return Entry(FILE)
        if not member.mode & _EXECUTABLE:
            return Entry(FILE) if path in self.entries else None
        head = b"".join(pieces(layer, min(member.size, HEAD)))
        return Entry(FILE, is_executable=True, interpreter=interpreter_of(head))

    # ---- looking up

    def find(self, path: bytes) -> Entry | None:
        """Return the entry at `path`; one without a typeflag if this layer hides it."""
        found = self.entries.get(path)
        if found is not None:
            return found
        while path:
            if path in self.removed:
                return _HIDDEN
            path = path.rpartition(b"/")[0]
            above = self.entries.get(path)
            if path in self.opaque or (above is not None and above.typeflag != DIRECTORY):
                return _HIDDEN
        return None

    def read(self, path: bytes) -> bytes | None:
        """Return the content of the passwd or group file at `path`."""
        return self.contents.get(path)


class LayerFiles(Protocol):
    """The files of one layer. An entry without a typeflag hides those of lower layers."""

    def find(self, path: bytes) -> Entry | None:
        """Return the entry at `path`, or None."""

    def read(self, path: bytes) -> bytes | None:
        """Return the content of the passwd or group file at `path`, or None."""


class LayeredPrograms:
    """The files of layers, bottom to top, applied over each other: see `stream.oci.start.Files`.
    `mounted` is the path of a directory that comes from elsewhere when a container starts.
    """

    def __init__(self, layers: Sequence[LayerFiles], *, mounted: bytes | None = None) -> None:
        self._layers = layers[::-1]
        self._mounted = mounted

    def find(self, path: bytes) -> Entry | None:
        """See Files."""
        for layer in self._layers:
            if (entry := layer.find(path)) is not None:
                return entry if entry.typeflag else None
        return None

    def read(self, path: bytes) -> bytes | None:
        """See Files."""
        for layer in self._layers:
            if layer.find(path) is not None:
                return layer.read(path)
        return None

    def is_mounted(self, path: bytes) -> bool:
        """See Files."""
        mounted = self._mounted
        return mounted is not None and (path + b"/").startswith(mounted + b"/")

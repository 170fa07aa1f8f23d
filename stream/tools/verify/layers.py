"""Check the entries of a layer's tar, whatever image the layer is part of.

OCI Image Specification, layer.md; the other rules follow from extracting the entries
in order. Memory grows with the number of entries and the length of their paths alone.
Must not know archives or images.
"""

from __future__ import annotations

import posixpath
from collections.abc import Callable

from stream.archives import tarreader
from stream.archives.bytesource import ByteSource
from stream.archives.sparse import read_map
from stream.archives.tarreader import Member
from stream.errors import ArchiveError
from stream.limits import MAX_ENTRIES, MAX_LINKS, NAME_COST
from stream.text import printable
from stream.typeflags import DIRECTORY, HARD_LINK, LINK

_PARENT_SIZE = 100  # bytes that a path takes besides its own

MAX_NAMES = 1 << 29  # bytes of all paths and their parents' paths

Report = Callable[[str, str], None]  # rule, message


def check_layer(
    content: ByteSource, report: Report, look: Callable[[Member, ByteSource], object] | None = None
) -> int:
    """Report every rule that the layer in `content`, uncompressed, breaks. `look` is called with
    each member, whose content is next in `content`.

    Returns the number of entries. Raises ArchiveError where the tar becomes unreadable.
    """
    layer = _Layer(report)
    for member in tarreader.read_members(content):
        implied = layer.implied
        layer.add(member)
        if look is not None and not member.is_sparse:
            look(member, content)
        if member.is_sparse:
            _check_sparse(member, content)
        if layer.implied > implied:
            try:
                cost = NAME_COST * (layer.implied - implied)
                content.budget.take(cost, content.name, "has too many directories")
            except ArchiveError:
                report("too-many-entries", "too many long names; the rest is not checked")
                break
        if layer.entries >= MAX_ENTRIES:
            report("too-many-entries", f"more than {MAX_ENTRIES} entries; the rest is not checked")
            break
        if layer.names + layer.implied > MAX_NAMES:
            report("too-many-entries", "too many long names; the rest is not checked")
            break
    layer.end()
    return layer.entries


def _check_sparse(member: Member, content: ByteSource) -> None:
    try:
        read_map(member.pax, member.size, content)
    except ValueError as error:
        shown = printable(member.name)
        raise ArchiveError(content.name, f"{shown}: is a sparse file, but {error}") from None


def _parts(name: bytes) -> list[bytes]:
    return [part for part in name.split(b"/") if part not in (b"", b".")]


def _is_normal(member: Member) -> bool:
    """Return True for `a/b`, `./a/b` and `/a/b`; a trailing slash is allowed for
    directories only.
    """
    name = member.name.removeprefix(b"./") or b"."
    name = name.removeprefix(b"/")
    if member.typeflag == DIRECTORY:
        if name in (b"", b"."):
            return True
        name = name.removesuffix(b"/")
    return not {b"", b".", b".."} & set(name.split(b"/"))


class _Layer:
    """The state after the entries read so far, by path without the leading slash."""

    def __init__(self, report: Report) -> None:
        self.entries = 0
        self.names = 0  # bytes
        self.implied = 0  # bytes of the paths of all parents, and of what refers to each
        self._report = report
        self._paths: dict[bytes, bytes] = {}  # typeflag of the first entry of each path
        self._links: dict[bytes, bytes] = {}  # targets of symlinks by path
        self._absolute: set[bytes] = set()  # paths written with a leading slash
        self._parents: set[bytes] = set()  # paths that have entries below them
        self._waiting: list[tuple[bytes, bytes]] = []  # hard links whose target is not there yet

    def add(self, member: Member) -> None:
        """Check the next entry."""
        self.entries += 1
        shown = printable(member.name)
        if not _is_normal(member):
            self._report("path-not-normalized", f"{shown}: path is not normalized")
        parts = _parts(member.name)
        if b".." in parts:
            return
        path = b"/".join(parts)
        self._check_repetition(path, member, shown)
        self._check_parents(path, shown)
        if member.typeflag != DIRECTORY and path in self._parents:
            self._report(
                "directory-replaced", f"{shown}: not a directory, but has entries below it"
            )
        if member.typeflag == HARD_LINK:
            self._check_hard_link(path, member, shown)
        self._paths.setdefault(path, member.typeflag)
        self.names += len(path)
        if member.typeflag == LINK:
            self._links[path] = member.link
            self.names += len(member.link)

    def _check_repetition(self, path: bytes, member: Member, shown: str) -> None:
        absolute = member.name.startswith(b"/")
        if path in self._paths:
            same = absolute == (path in self._absolute)
            what = "directory" if member.typeflag == DIRECTORY else "path"
            self._report(
                "duplicate-path" if same else "duplicate-path-slash",
                f"{shown}: duplicate {what}{'' if same else ', once with a leading slash'}",
            )
        elif absolute:
            self._absolute.add(path)

    def _check_parents(self, path: bytes, shown: str) -> None:
        at = len(path)
        while (at := path.rfind(b"/", 0, at)) > 0:
            parent = path[:at]
            if parent in self._parents:
                return
            self._parents.add(parent)
            self.implied += at + _PARENT_SIZE
            kind = self._paths.get(parent, DIRECTORY)
            if kind == LINK:
                own = self._leads_to_own_directory(parent)
                self._report(
                    "path-through-symlink" if own else "path-through-symlink-to-other-layer",
                    f"{shown}: below the symbolic link {printable(parent)}"
                    + ("" if own else ", which leads to no directory of this layer"),
                )
            elif kind != DIRECTORY:
                self._report(
                    "parent-not-directory",
                    f"{shown}: below {printable(parent)}, which is not a directory",
                )

    def _leads_to_own_directory(self, path: bytes) -> bool:
        """Return True if the symlink at `path` leads to a directory of this layer."""
        for _ in range(MAX_LINKS):
            link = self._links.get(path)
            if link is None:
                return not path or path in self._parents or self._paths.get(path) == DIRECTORY
            path = posixpath.normpath(posixpath.join(b"/" + posixpath.dirname(path), link))
            path = path.lstrip(b"/")
        return False

    def _check_hard_link(self, path: bytes, member: Member, shown: str) -> None:
        target = b"/".join(_parts(member.link))
        if b".." in _parts(member.link):
            message = f"{shown}: hard link to {printable(member.link)}, which is not normalized"
            self._report("path-not-normalized", message)
        elif target not in self._paths or target == path:
            self._waiting.append((path, target))
        elif self._paths[target] == DIRECTORY:
            message = f"{shown}: hard link to the directory {printable(target)}"
            self._report("hard-link-to-directory", message)

    def end(self) -> None:
        """Check what only the end decides: hard links whose target came late or never."""
        for path, target in self._waiting:
            link = f"{printable(path)}: hard link to {printable(target)}"
            if target in self._paths:
                self._report("hard-link-before-target", f"{link}, which comes later")
            else:
                self._report("hard-link-to-other-layer", f"{link}, which is not in this layer")

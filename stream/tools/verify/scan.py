"""Read an archive once from the front, hashing each member as stored and uncompressed.

Every member is checked as a layer, since only the documents tell which ones are, and
these may come last. Faults of the container are findings at once; faults of a member as
a layer are kept with the member and count only if it is one. Must not know documents.
"""

from __future__ import annotations

import io
import os
import posixpath
from collections.abc import Iterator

from stream.archives import tarreader
from stream.archives.bytesource import (
    Budget,
    ByteSource,
    FileBytes,
    HashedBytes,
    Part,
    StreamBytes,
    join,
    pieces,
    reading,
)
from stream.archives.container import may_be_document
from stream.archives.decompress import MAGIC_SIZE, compression_of, decompress
from stream.archives.programs import ProgramBudget, ProgramListing
from stream.archives.sequential import Sequential
from stream.archives.summary import Summary
from stream.errors import ArchiveError
from stream.limits import MAX_DOCUMENT, MAX_DOCUMENTS, MAX_LINKS, MAX_MEMBER_NAMES, MAX_MEMBERS
from stream.text import printable
from stream.tools.verify.findings import Findings
from stream.tools.verify.layers import check_layer
from stream.typeflags import FILE, HARD_LINK, LINK
from stream.values import dataclass, field, replace


@dataclass(slots=True, kw_only=True)
class Stored:
    """The content of a member: `size` and `digest` as stored, `content_digest`
    uncompressed (empty if it cannot be read to its end). `document` holds the bytes if
    they may be JSON; `entries`, `findings`, `programs` and `summary`, if it was asked for, are those
    of the member as a layer.
    """

    name: str
    size: int
    digest: str
    compression: str | None
    content_digest: str
    entries: int
    document: bytes | None
    findings: Findings
    programs: ProgramListing
    summary: Summary | None


@dataclass(frozen=True, slots=True)
class Link:
    """A symbolic or hard link to the member `target`, whose name is from the root of the
    archive. `absolute` if it was written that way.
    """

    target: str
    hard: bool
    absolute: bool


@dataclass(slots=True)
class Members:
    """The members of an archive by normalized name. Of different ones that have the same name,
    the first is in `by_name`, the last in `last`. `readable` is false if reading
    stopped before the end.
    """

    by_name: dict[str, Stored | Link] = field(default_factory=dict)
    last: dict[str, Stored | Link] = field(default_factory=dict)
    readable: bool = True
    in_directory: bool = False

    def with_last(self) -> Members:
        """Return the members as those see them who take the last one of a name."""
        return replace(self, by_name=self.by_name | self.last)

    def follow(self, name: str) -> tuple[Stored | None, list[Link]]:
        """Return the member called `name` and the links on the way to it; None for the
        member if there is none or the links go in a circle.
        """
        member = self.by_name.get(posixpath.normpath(name).lstrip("/"))
        links: list[Link] = []
        while isinstance(member, Link):
            links.append(member)
            if len(links) > MAX_LINKS:
                return None, links
            member = self.by_name.get(member.target)
        return member, links


class Scan:
    """One reading of an archive, which `summarises` each layer on request. `size` counts the bytes
    of the file, or of all files of a directory.
    """

    def __init__(self, findings: Findings, *, summarises: bool = False) -> None:
        self._summarises = summarises
        self.members = Members()
        self.compression: str | None = None
        self.size = 0
        self._findings = findings
        self._kept = 0
        self._programs = ProgramBudget()
        self._names = 0
        self._budget = Budget()  # of a directory's files

    # ---- containers

    def tar(self, file: Sequential) -> None:
        """Read a tar in any compression."""
        try:
            self.compression = file.compression
            self._tar(file.content())
        except ArchiveError as error:
            self._unreadable(error.reason)
        self.size = file.count

    def _tar(self, source: ByteSource) -> None:
        end = 0  # of the last member
        for count, member in enumerate(tarreader.read_members(source, is_argument=True), 1):
            end = member.offset + member.size + -member.size % tarreader.BLOCK
            if count > MAX_MEMBERS:
                raise ArchiveError(source.name, f"has more than {MAX_MEMBERS} members")
            self._names += len(member.name) + len(member.link)
            if self._names > MAX_MEMBER_NAMES:
                raise ArchiveError(
                    source.name, f"has more than {MAX_MEMBER_NAMES} bytes of members' names"
                )
            name = self._normal(member.name)
            if name is None:
                continue
            if member.typeflag == FILE:
                part = Part(source, member.size, name)
                self._add(name, self._stored(part, member.size))
            elif member.typeflag == LINK:
                self._add_symlink(name, member.link)
            elif member.typeflag == HARD_LINK:
                target = self._normal(member.link)
                if target is not None:
                    self._add(name, Link(target, hard=True, absolute=False))
        if not source.position:
            raise ArchiveError(source.name, "is empty")
        if source.position < end + 2 * tarreader.BLOCK:
            self._findings.add("no-trailer", "", "ends without the two blocks of zeros of a tar")
        # Bytes after the tar's end are ignored, but a compressed file must be whole.
        for _ in pieces(source):
            pass

    def directory(self, path: str) -> None:
        """Read a directory; every file below it is a member."""
        root = os.fsencode(path)
        self._findings.add("directory", "", "is a directory")
        self.members.in_directory = True
        try:
            for count, name in enumerate(_files_below(root), 1):
                if count > MAX_MEMBERS:
                    self._unreadable(f"has more than {MAX_MEMBERS} files")
                    return
                self._file(root, name)
        except OSError as error:  # of the walk, so it has a name
            place = os.path.relpath(os.fsencode(error.filename or root), root)
            self._unreadable(f"cannot be read: {error.strerror}", os.fsdecode(place))
        except ArchiveError as error:
            self._unreadable(error.reason, error.where)

    def _file(self, root: bytes, name: bytes) -> None:
        text = name.decode("utf-8", "surrogateescape")
        full = os.path.join(root, name)
        if not os.path.isfile(full):
            return  # nothing can be read from it
        with reading(text):
            fd = os.open(full, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
        try:
            source = FileBytes.whole(fd, text, self._budget)
            size = os.fstat(fd).st_size
            self.members.by_name[text] = self._stored(source, size)
            self.size += size
        finally:
            os.close(fd)

    def _unreadable(self, reason: str, place: str = "") -> None:
        self.members.readable = False
        self._findings.add("archive-unreadable", place, reason)

    # ---- names

    def _normal(self, name: bytes) -> str | None:
        """Return the normalized name, or None for one that points outside the archive."""
        text = name.decode("utf-8", "surrogateescape")
        parts = [part for part in text.split("/") if part not in ("", ".")]
        if text.startswith("/") or ".." in parts:
            self._findings.add(
                "member-outside-archive", printable(name), "name points outside the archive"
            )
            return None
        return "/".join(parts)

    def _add(self, name: str, member: Stored | Link) -> None:
        known = self.members.by_name.setdefault(name, member)
        if not _is_same(known, member):
            self.members.last[name] = member
            message = "two members have this name, and different contents"
            self._findings.add("duplicate-member", name, message)

    def _add_symlink(self, name: str, link: bytes) -> None:
        text = link.decode("utf-8", "surrogateescape")
        target = posixpath.normpath(posixpath.join(posixpath.dirname(name), text)).lstrip("/")
        if target == ".." or target.startswith("../"):
            message = f"link points outside the archive ({printable(link)})"
            self._findings.add("link-outside-archive", name, message)
        else:
            self._add(name, Link(target, hard=False, absolute=text.startswith("/")))

    # ---- content

    def _stored(self, source: ByteSource, size: int) -> Stored:
        """Read the next `size` bytes of `source`, the content of a member."""
        head = source.read(min(size, MAGIC_SIZE))
        compression = compression_of(head)
        document = None
        rest: ByteSource = source
        if size <= MAX_DOCUMENT and may_be_document(source.name, head):
            self._kept += size
            if self._kept > MAX_DOCUMENTS:
                raise ArchiveError(source.name, f"more than {MAX_DOCUMENTS} bytes of documents")
            document = head + b"".join(pieces(source, size - len(head)))
            head, rest = document, StreamBytes(io.BytesIO(), source.name, source)
        stored = HashedBytes(join(head, rest))
        content = stored
        if compression:
            content = HashedBytes(decompress(stored, compression))
        findings = Findings()
        programs = ProgramListing(self._programs)
        summary = Summary() if self._summarises else None
        entries, wrong = _examined(content, findings, programs, summary)
        content_digest = _finished(content, findings)
        if wrong and content_digest:
            findings.add("layer-unreadable", "", wrong)
        digest = stored.finish()
        if stored.position != size:
            raise ArchiveError(source.name, "is cut short")
        return Stored(
            name=source.name,
            size=size,
            digest=digest,
            compression=compression,
            content_digest=content_digest,
            entries=entries,
            document=document,
            findings=findings,
            programs=programs,
            summary=summary,
        )


def _is_same(one: Stored | Link, other: Stored | Link) -> bool:
    if isinstance(one, Stored) and isinstance(other, Stored):
        return (one.size, one.digest) == (other.size, other.digest)
    return one == other


def _examined(
    content: ByteSource, findings: Findings, programs: ProgramListing, summary: Summary | None
) -> tuple[int, str]:
    """Check `content` as a layer, list its programs, and summarise it. Returns the number of entries,
    and why the tar cannot be read, or an empty string.
    """

    def look(member: tarreader.Member, layer: ByteSource) -> None:
        if summary is not None:
            summary.add(member.name)
        programs.add(member, layer)

    try:
        count = check_layer(content, lambda rule, message: findings.add(rule, "", message), look)
    except ArchiveError as error:
        return 0, error.reason
    return count, ""


def _finished(content: HashedBytes, findings: Findings) -> str:
    """Read `content` to its end and return its digest, or an empty string if it cannot
    be read that far.
    """
    try:
        return content.finish()
    except ArchiveError as error:
        findings.add("layer-damaged", "", error.reason)
        return ""


def _files_below(root: bytes) -> Iterator[bytes]:
    """Yield the paths of all files and directories below `root`, relative to it, in order,
    through links, but not to a directory above them. Raises OSError.
    """
    above: dict[bytes, frozenset[tuple[int, int]]] = {}  # by directory: those it is in

    def fail(error: OSError) -> None:
        raise error

    for directory, directories, names in os.walk(root, onerror=fail, followlinks=True):
        status = os.stat(directory)
        outer = above.pop(directory, frozenset())
        if (key := (status.st_dev, status.st_ino)) in outer:
            directories.clear()
            continue
        directories.sort()
        for name in directories:
            above[os.path.join(directory, name)] = outer | {key}
        for name in (*directories, *sorted(names)):
            yield os.path.relpath(os.path.join(directory, name), root)

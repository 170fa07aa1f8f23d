"""Parse Nix's descriptions of a closure into a references graph and database records.

JSON: Nix manual, "Store object info JSON format", in all its versions: a list of objects
with a `path` (`exportReferencesGraph` of structured attributes, `nix path-info --json` up
to 2.18), an object by path (from 2.19 on), and one with `storeDir` and the objects by the
last component of their path in `info` (`--json-format 2`); also a build's `.attrs.json`,
whose `exportReferencesGraph` names the lists in it. Lines: the plain form of
`exportReferencesGraph` (path, deriver, number of references, references), and, with hash
and size after the path, the registration that `nix-store --dump-db` and nixpkgs'
`closureInfo` write. Must not know stores.
"""

from __future__ import annotations

import contextlib
import posixpath
import re
from collections.abc import Iterable, Iterator
from typing import Any, NamedTuple

import orjson

from stream.errors import ConfError, Fault
from stream.faults import kind
from stream.graph import Graph, Node
from stream.limits import MAX_FAULTS, MAX_SIZE
from stream.model import StoreObject
from stream.nix.hashes import parse_sha256
from stream.values import dataclass

MAX_PATHS = 1 << 15  # planning takes memory that grows with the square: here 128 MiB
MAX_REFERENCES = 1 << 22
_NUMBER = re.compile("[0-9]{1,18}")
_HINT = "list a whole closure, as `nix path-info --json -r` does"


class Statement(NamedTuple):
    """A document's statement about a store path, at `place` in it. `references` are in order
    and may contain the path itself; hash and deriver are as written, unchecked.
    """

    place: str
    references: list[str]
    nar_hash: object
    deriver: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class References:
    """A closure as described by the document `name`. If it is not `sized`, the document
    states no sizes and those in `graph` are 0. `directory` is the store directory of paths
    written without one.
    """

    name: str
    graph: Graph
    statements: dict[str, Statement]
    sized: bool = True
    directory: str = ""

    def nar_hashes(self, paths: Iterable[str]) -> dict[str, str]:
        """Return the hashes of the NARs of `paths`, so far as the document states them: `sha256:` and
        64 hex digits.
        """
        stated = ((path, self.statements.get(path)) for path in paths)
        hashes = ((path, _sha256(found.nar_hash)) for path, found in stated if found)
        return {path: nar_hash for path, nar_hash in hashes if nar_hash}

    def objects(self, paths: Iterable[str]) -> tuple[StoreObject, ...]:
        """Return the database records of `paths`, which are in `graph`, in order of path.

        Raises ConfError, with the first faults, if the document lacks hashes or sizes.
        """
        if not self.sized:
            fault = Fault("", "has neither hashes nor sizes; a Nix database needs both")
            raise ConfError(self.name, [fault])
        faults: list[Fault] = []
        found = []
        for path in sorted(paths):
            place, references, value, deriver = self.statements[path]
            nar_hash = _sha256(value)
            if nar_hash is None:
                wrong = "is missing" if value is None else "is not a SHA-256 as Nix writes it"
                faults.append(Fault(f"{place}.narHash", f"{wrong}; a Nix database needs one"))
                if len(faults) == MAX_FAULTS:
                    break
                continue
            found.append(
                StoreObject(
                    path=path,
                    nar_hash=nar_hash,
                    nar_size=self.graph[path].size,
                    references=tuple(sorted(set(references))),
                    deriver=_absolute(deriver or "", self.directory),
                )
            )
        if faults:
            raise ConfError(self.name, faults)
        return tuple(found)


def parse_references(data: bytes, name: str) -> References:
    """Parse the closure in `data`; `name` stands for it in messages.

    Every reference has to be in the closure; a path's reference to itself is left out of
    the graph. Sizes are `narSize`, in bytes. Raises ConfError, with the first faults found.
    """
    reader = _Reader()
    with contextlib.suppress(_TooManyFaultsError):
        reader.read(data)
    if reader.faults:
        raise ConfError(name, reader.faults)
    return References(
        name=name,
        graph=reader.graph,
        statements=reader.statements,
        sized=reader.sized,
        directory=reader.directory,
    )


class _TooManyFaultsError(Exception):
    """Stops reading after MAX_FAULTS faults."""


class _Reader:
    """A reader of one document, which collects its faults."""

    def __init__(self) -> None:
        self.faults: list[Fault] = []
        self.graph: dict[str, Node] = {}
        self.statements: dict[str, Statement] = {}
        self.sized = True
        self.directory = ""
        self._good: set[str] = set()

    def _fault(self, place: str, message: str) -> None:
        self.faults.append(Fault(place, message))
        if len(self.faults) >= MAX_FAULTS:
            raise _TooManyFaultsError

    def read(self, data: bytes) -> None:
        """Read the whole document. The result is of no use if there are faults."""
        if data.startswith(b"/"):  # JSON cannot begin like this
            return self._read(self._records(data))
        try:
            document = orjson.loads(data)
        except orjson.JSONDecodeError as error:
            place = f"line {error.lineno} column {error.colno}"
            return self._fault(place, f"not JSON: {error.msg}")
        if not isinstance(document, (list, dict)):
            return self._fault("", f"must be a list or an object, not {kind(document)}")
        return self._read(self._objects(document))

    def _read(self, objects: Iterator[tuple[str, str, dict[str, Any]]]) -> None:
        count = 0
        for place, path, info in objects:
            if len(self.statements) >= MAX_PATHS:
                return self._fault(place, f"too many store paths: at most {MAX_PATHS} are allowed")
            references = self._references(place, info)
            deriver = info.get("deriver")
            if not isinstance(deriver, str):
                deriver = None
            node = Node(self._size(place, info), frozenset(references) - {path})
            statement = Statement(place, references, info.get("narHash"), deriver)
            if known := self.statements.get(path):
                # Graphs that overlap may have been put together.
                alike = set(known.references) == set(references) and known[2:] == statement[2:]
                if not alike or self.graph[path] != node:
                    self._fault(place, f"{path} is already listed at {known.place}, differently")
                continue
            self.statements[path] = statement
            count += len(references)
            if count > MAX_REFERENCES:
                return self._fault(
                    place, f"too many references: at most {MAX_REFERENCES} are allowed"
                )
            self.graph[path] = node
        for path, node in self.graph.items():
            # Not `references - keys`, which goes through all keys.
            for other in sorted(o for o in node.references if o not in self.statements):
                self._fault(
                    self.statements[path].place, f"refers to {other}, which is not listed; {_HINT}"
                )
        return None

    def _records(self, data: bytes) -> Iterator[tuple[str, str, dict[str, Any]]]:
        """Yield the same as `_objects`, from lines."""
        try:
            text = data.decode()
        except UnicodeDecodeError:
            return self._fault("", "is neither JSON nor lines in UTF-8")
        if all(line.startswith("/") for line in text.removesuffix("\n").split("\n")):
            wrong = "lists store paths without their references, as `nix-store -qR` does"
            return self._fault("", f"{wrong}; {_HINT}")
        lines = text.rstrip("\n").split("\n")
        # The second line is a hash, or a deriver, which may be missing.
        self.sized = len(lines) > 1 and lines[1] != "" and not lines[1].startswith("/")
        fields = 5 if self.sized else 3
        at = 0
        while at < len(lines):
            place = f"line {at + 1}"
            head = lines[at : at + fields]
            at += fields
            if len(head) == fields and not _NUMBER.fullmatch(head[-1]):
                return self._fault(f"line {at}", f"{head[-1]!r} is not a number of references")
            references = lines[at : at + int(head[-1])] if len(head) == fields else []
            if len(head) < fields or len(references) < int(head[-1]):
                return self._fault(place, "record is truncated")
            at += len(references)
            info: dict[str, Any] = {"narSize": 0, "deriver": head[-2], "references": references}
            if self.sized:
                if not _NUMBER.fullmatch(head[2]):
                    return self._fault(f"{place}.narSize", f"{head[2]!r} is not a number of bytes")
                info |= {"narHash": head[1], "narSize": int(head[2])}
            path = self._path(place, head[0])
            if path is not None:
                yield place, path, info
        return None

    def _objects(self, document: Any) -> Iterator[tuple[str, str, dict[str, Any]]]:
        """Yield each store path with its place and the statement about it."""
        prefix = ""
        if isinstance(document, dict) and isinstance(document.get("info"), dict):
            directory = document.get("storeDir")
            if not isinstance(directory, str) or not directory.startswith("/"):
                return self._fault("storeDir", "must be the absolute path of the store directory")
            self.directory = directory.rstrip("/")
            document, prefix = document["info"], "info"
        elif isinstance(document, dict) and isinstance(
            graphs := document.get("exportReferencesGraph"), dict
        ):
            for name in graphs:
                if not isinstance(listed := document.get(name), list):
                    return self._fault(name, f"must be a list, not {kind(listed)}")
                yield from self._listed(listed, name)
            return None
        yield from self._listed(document, prefix)
        return None

    def _listed(
        self, document: dict[str, Any] | list[Any], prefix: str
    ) -> Iterator[tuple[str, str, dict[str, Any]]]:
        """Yield the same as `_objects`, for the objects of `document`, which is at `prefix`."""
        items = document.items() if isinstance(document, dict) else enumerate(document)
        for key, info in items:
            place = f"{prefix}[{orjson.dumps(key).decode()}]"
            # As `nix path-info` writes a path that is not in the store.
            absent = info is None if isinstance(document, dict) else _is_invalid(info)
            if absent:
                self._fault(place, "is not in the Nix store that was queried")
            elif not isinstance(info, dict):
                self._fault(place, f"must be an object, not {kind(info)}")
            else:
                at = place if isinstance(document, dict) else f"{place}.path"
                path = self._path(at, key if isinstance(document, dict) else info.get("path"))
                if path is not None:
                    yield place, path, info

    def _path(self, place: str, value: object) -> str | None:
        """Return the store path `value`, or None, with a fault, if it is not one."""
        if value is None:
            self._fault(place, "is missing")
        elif not isinstance(value, str):
            self._fault(place, f"must be a store path, not {kind(value)}")
        else:
            path = _absolute(value, self.directory)
            if path in self._good or _is_normal(path):
                self._good.add(path)
                return path
            self._fault(place, f"{value!r} is not a store path")
        return None

    def _references(self, place: str, info: dict[str, Any]) -> list[str]:
        value = info.get("references")
        if isinstance(value, list):
            found = [self._path(f"{place}.references[{n}]", item) for n, item in enumerate(value)]
            return [path for path in found if path is not None]
        wrong = "is missing" if value is None else f"must be a list, not {kind(value)}"
        self._fault(f"{place}.references", wrong)
        return []

    def _size(self, place: str, info: dict[str, Any]) -> int:
        value = info.get("narSize")
        if type(value) is int and 0 <= value <= MAX_SIZE:
            return value
        shown = value if type(value) in (int, float) else kind(value)
        wrong = f"must be a number of bytes, not {shown}"
        self._fault(f"{place}.narSize", "is missing" if value is None else wrong)
        return 0


def _sha256(value: object) -> str | None:
    """Return a hash as `sha256:` and 64 hex digits, or None if `value` is not one. Nix 2.33
    wrote an object.
    """
    if isinstance(value, dict) and value.get("format") == "base64":
        value = f"{value.get('algorithm')}-{value.get('hash')}"
    try:
        return f"sha256:{parse_sha256(value).hex()}" if isinstance(value, str) else None
    except ValueError:
        return None


def _absolute(path: str, directory: str) -> str:
    return f"{directory}/{path}" if path and directory and "/" not in path else path


def _is_invalid(info: object) -> bool:
    return isinstance(info, dict) and info.get("valid") is False


def _is_normal(path: str) -> bool:
    rooted = path.startswith("/") and not path.startswith("//") and path != "/"
    return rooted and "\0" not in path and posixpath.normpath(path) == path

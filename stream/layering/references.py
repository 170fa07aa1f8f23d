"""The JSON that Nix writes of a closure, as a references graph.

Nix manual, "Store object info JSON format", in the forms it has had: a list of objects
with a `path` (`exportReferencesGraph` of structured attributes, `nix path-info --json` up
to 2.18), an object by path (from 2.19 on), and one with `storeDir` and the objects by the
last component of their path in `info` (`--json-format 2`). Knows no store.
"""

from __future__ import annotations

import contextlib
import posixpath
from collections.abc import Iterator
from typing import Any

import orjson

from stream.checks import kind
from stream.errors import ConfError, Fault
from stream.layering.graph import Graph, Node

MAX_PATHS = 1 << 15  # planning takes memory that grows with the square: 128 MiB for these
MAX_REFERENCES = 1 << 22
MAX_FAULTS = 20
_HINT = "list a whole closure, as `nix path-info --json -r` does"


def parse_references(data: bytes, name: str) -> Graph:
    """The graph in `data`; `name` stands for it in messages. What a path refers to has to
    be in it; that a path refers to itself is left out. Sizes are `narSize`. Raises
    ConfError, with the first faults found.
    """
    try:
        document = orjson.loads(data)
    except orjson.JSONDecodeError as error:
        place = f"line {error.lineno} column {error.colno}"
        raise ConfError(name, [Fault(place, f"not JSON: {error.msg}")]) from None
    reader = _Reader()
    graph = reader.graph(document)
    if reader.faults:
        raise ConfError(name, reader.faults)
    return graph


class _TooManyFaultsError(Exception):
    """There is no use in more of them."""


class _Reader:
    """Reads one document and collects what is wrong with it."""

    def __init__(self) -> None:
        self.faults: list[Fault] = []
        self._directory = ""  # what stands before paths
        self._good: set[str] = set()
        self._places: dict[str, str] = {}
        self._graph: dict[str, Node] = {}

    def _fault(self, place: str, message: str) -> None:
        self.faults.append(Fault(place, message))
        if len(self.faults) >= MAX_FAULTS:
            raise _TooManyFaultsError

    def graph(self, document: object) -> Graph:
        """The graph, of no use if there are faults."""
        with contextlib.suppress(_TooManyFaultsError):
            self._read(document)
        return self._graph

    def _read(self, document: object) -> None:
        if not isinstance(document, (list, dict)):
            return self._fault("", f"must be a list or an object, not {kind(document)}")
        count = 0
        for place, path, info in self._objects(document):
            if len(self._places) >= MAX_PATHS:
                return self._fault(place, f"is one too many: {MAX_PATHS} store paths are allowed")
            if path in self._places:
                self._fault(place, f"{path} is listed already, at {self._places[path]}")
                continue
            self._places[path] = place
            references = self._references(place, info)
            count += len(references)
            if count > MAX_REFERENCES:
                return self._fault(place, f"has the {MAX_REFERENCES}th reference: that is too many")
            self._graph[path] = Node(self._size(place, info), frozenset(references) - {path})
        for path, node in self._graph.items():
            # Not `references - keys`, which goes through all keys.
            for other in sorted(o for o in node.references if o not in self._places):
                self._fault(self._places[path], f"refers to {other}, which is not here: {_HINT}")
        return None

    def _objects(self, document: Any) -> Iterator[tuple[str, str, dict[str, Any]]]:
        """Of each store path its place, itself and what is said of it."""
        prefix = ""
        if isinstance(document, dict) and isinstance(document.get("info"), dict):
            directory = document.get("storeDir")
            if not isinstance(directory, str) or not directory.startswith("/"):
                return self._fault("storeDir", "must be the absolute path of the store directory")
            self._directory = directory.rstrip("/")
            document, prefix = document["info"], "info"
        items = document.items() if isinstance(document, dict) else enumerate(document)
        for key, info in items:
            place = f"{prefix}[{orjson.dumps(key).decode()}]"
            # `nix path-info` of a path that is not in the store.
            absent = info is None if isinstance(document, dict) else _is_invalid(info)
            if absent:
                self._fault(place, "is not in the store that Nix was asked about")
            elif not isinstance(info, dict):
                self._fault(place, f"must be an object, not {kind(info)}")
            else:
                at = place if isinstance(document, dict) else f"{place}.path"
                path = self._path(at, key if isinstance(document, dict) else info.get("path"))
                if path is not None:
                    yield place, path, info
        return None

    def _path(self, place: str, value: object) -> str | None:
        """The store path that is meant by `value`."""
        if value is None:
            self._fault(place, "is missing")
        elif not isinstance(value, str):
            self._fault(place, f"must be a store path, not {kind(value)}")
        else:
            path = f"{self._directory}/{value}" if self._directory and "/" not in value else value
            if path in self._good or _is_normal(path):
                self._good.add(path)
                return path
            self._fault(place, f"{value!r} is not the path of a store path")
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
        if isinstance(value, int) and not isinstance(value, bool) and value >= 0:
            return value
        shown = value if type(value) is int else kind(value)
        wrong = f"must be a number of bytes, not {shown}"
        self._fault(f"{place}.narSize", "is missing" if value is None else wrong)
        return 0


def _is_invalid(info: object) -> bool:
    return isinstance(info, dict) and info.get("valid") is False


def _is_normal(path: str) -> bool:
    rooted = path.startswith("/") and not path.startswith("//") and path != "/"
    return rooted and "\0" not in path and posixpath.normpath(path) == path

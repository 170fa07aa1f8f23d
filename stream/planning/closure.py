"""Find the closure of an image: its store paths, their sizes and their references.

The closure comes from a references graph in a file or from Nix on this machine; without
either, it consists of the paths alone. Must not know layers, or what the paths are for.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Collection

from stream.errors import ConfError, Fault
from stream.faults import is_text, why_not_normal
from stream.graph import Graph, Node, closure, part
from stream.model import DEFAULT_STORE_DIR, StoreObject
from stream.nix import query
from stream.nix.nar import nar_size
from stream.nix.references import MAX_PATHS, References, parse_references
from stream.nix.store_root import Disk, why_not_readable
from stream.planning.mentions import find_in_value, is_hashed
from stream.values import dataclass, replace

MAX_GRAPH = 1 << 26  # bytes; 10,000 store paths take about a tenth


@dataclass(frozen=True, slots=True, kw_only=True)
class Wanted:
    """The paths whose closure is wanted. `paths` are store paths, or paths in them, each with
    the place that needs it in the document `name`; so are those `found` in files. Store paths
    mentioned in the JSON value `mentions` are wanted as well. With `known_only`, those found and
    mentioned are passed over if the source of the closure does not know them. The files are on
    this machine, below `store_root`.
    """

    name: str
    paths: tuple[tuple[str, str], ...] = ()
    found: tuple[tuple[str, str], ...] = ()
    mentions: object = None
    known_only: bool = False
    store_dir: str = DEFAULT_STORE_DIR
    store_root: str = ""

    @property
    def disk(self) -> Disk:
        """The mapping of store paths to files on this machine."""
        return Disk(self.store_dir.encode(), self.store_root.encode())

    def has(self, path: str) -> bool:
        """Return True if the store path `path` exists on this machine."""
        return is_text(path) and self.disk.lexists(path.encode())


@dataclass(frozen=True, slots=True, kw_only=True)
class Closure:
    """The `wanted` store paths and all that they reach. `references` is Nix's description of
    them, or None if the paths were taken alone because their references are unknown.
    """

    graph: Graph
    wanted: tuple[str, ...]
    references: References | None = None

    def objects(self) -> tuple[StoreObject, ...] | None:
        """Return the records of the closure for a Nix database, ordered by path; None if the
        paths were taken alone. Raises ConfError for a graph without hashes.
        """
        return None if self.references is None else self.references.objects(self.graph)


def find_closure(
    wanted: Wanted, *, references_graph: str | None = None, store: str | None = None
) -> Closure:
    """Find the closure in the file `references_graph`. Without one, query the Nix store `store`
    (as for `nix-store --store`), or the store below the root of the files. Without these,
    query this machine's Nix if it knows any of the paths; otherwise take the paths alone.
    Raises ConfError, NixError and SourceError.
    """
    if references_graph is not None:
        return find_in_graph(parse_references(_read(references_graph), references_graph), wanted)
    root = wanted.store_root
    if (
        store is None
        and root
        and wanted.store_dir == DEFAULT_STORE_DIR
        and query.has_database(root)
    ):
        store = query.below(root)
    if store is None and not _nix_has_any(wanted):
        return take_alone(wanted)
    return find_in_nix(wanted, store)


def find_in_graph(references: References, wanted: Wanted) -> Closure:
    """Find the closure in a references graph; paths that are not needed are left out. Sizes
    that the graph lacks are measured. Raises ConfError for a graph of another store directory
    or with paths missing, and SourceError.
    """
    needed, optional = _collect_needed(wanted, references.graph.__contains__)
    needed = _leave_out(needed, optional - references.graph.keys())
    return _reach(references, wanted, needed)


def find_in_nix(wanted: Wanted, store: str | None = None) -> Closure:
    """Find the closure in a Nix store: this machine's, or `store`. Derivers are left out, as
    the one that Nix remembers differs between machines. Raises NixError, and ConfError for a
    path that is not valid in the store or, if it is another store, not on this disk.
    """
    needed, optional = _collect_needed(wanted)
    # Nix accepts no other names as arguments.
    invalid = {path for path in needed if not is_hashed(path)}
    invalid |= query.invalid([path for path in needed if path not in invalid], store)
    needed = _leave_out(needed, optional & invalid)
    _refuse(
        wanted.name,
        {path: place for path, place in needed.items() if path in invalid},
        f"is not in the Nix store{f' {store}' if store else ''}; build it or copy it there",
    )
    data = query.registration([*needed], store)
    references = parse_references(data or b"[]", query.PROGRAM)
    statements = {path: x._replace(deriver=None) for path, x in references.statements.items()}
    found = _reach(replace(references, statements=statements), wanted, needed)
    other = store is not None or wanted.store_root
    absent = [path for path in found.graph if not wanted.has(path)] if other else []
    if absent:
        path = next((path for path in absent if path in needed), absent[0])
        place = f"at {wanted.store_root}{path}" if wanted.store_root else "on this disk"
        lacking = f"{len(absent)} of {len(found.graph)} store paths are missing"
        reason = (
            f"is in the Nix store{f' {store}' if store else ''}, but not {place} ({lacking});"
            " set store_root to the root that contains the files of that store"
        )
        _refuse(wanted.name, {path: needed.get(path, "")}, reason)
    return found


def take_alone(wanted: Wanted) -> Closure:
    """Take the wanted store paths as if they had no references, with the sizes of their NARs.
    Only a link refers to the store path that it leads to. Raises ConfError for a missing path,
    and SourceError.
    """
    needed, optional = _collect_needed(wanted)
    needed = _leave_out(needed, {path for path in optional if not wanted.has(path)})
    named = tuple(needed)
    links: dict[str, str] = {}
    waiting = [*needed]
    while waiting:
        path = waiting.pop()
        target = _link_target(path, wanted)
        if target is not None and target != path:
            links[path] = target
            if target not in needed:
                needed[target] = needed[path]
                waiting.append(target)
    disk = wanted.disk
    wrong = ((path, place, why_not_readable(path, disk)) for path, place in needed.items())
    faults = [Fault(place, f"{path}: {reason}") for path, place, reason in wrong if reason]
    if faults:
        raise ConfError(wanted.name, faults)
    graph = {
        path: Node(_measure(path, disk), frozenset({links[path]} if path in links else ()))
        for path in needed
    }
    return Closure(graph=graph, wanted=named)


def _measure(path: str, disk: Disk) -> int:
    return nar_size(disk.at(path.encode()))


def _link_target(path: str, wanted: Wanted) -> str | None:
    """Return the existing store path that the store path `path` links to or into, or None."""
    try:
        text = os.readlink(wanted.disk.at(path.encode())).decode()
    except (OSError, UnicodeDecodeError):  # not a link, or one to a path that no conf can name
        return None
    prefix = wanted.store_dir.rstrip("/") + "/"
    target = os.path.normpath(os.path.join(os.path.dirname(path), text))
    found = prefix + target.removeprefix(prefix).partition("/")[0]
    return found if target.startswith(prefix) and wanted.has(found) else None


def _nix_has_any(wanted: Wanted) -> bool:
    paths = [path for path in _collect_needed(wanted)[0] if is_hashed(path)]
    return bool(paths) and query.knows(wanted.store_dir) and len(query.invalid(paths)) < len(paths)


def _reach(references: References, wanted: Wanted, needed: dict[str, str]) -> Closure:
    """Return the closure of `needed` in `references`. See `find_in_graph`."""
    directory = wanted.store_dir.rstrip("/")
    faults = [
        Fault(statement.place, f"{path} is not in the store directory, {wanted.store_dir}")
        for path, statement in references.statements.items()
        if path.rpartition("/")[0] != directory
    ]
    if faults:
        raise ConfError(references.name, faults)
    _refuse(
        wanted.name,
        {path: place for path, place in needed.items() if path not in references.graph},
        f"is not in {references.name}; list the closure of every wanted path",
    )
    graph = part(references.graph, closure(references.graph, needed))
    if not references.sized:
        disk = wanted.disk
        graph = {path: Node(_measure(path, disk), graph[path].references) for path in graph}
    return Closure(graph=graph, wanted=tuple(needed), references=references)


def store_path_of(path: str, store_dir: str) -> str:
    """Return the store path that is or contains `path`, a path below `store_dir`."""
    prefix = store_dir.rstrip("/") + "/"
    return prefix + path[len(prefix) :].partition("/")[0]


def _leave_out(needed: dict[str, str], absent: Collection[str]) -> dict[str, str]:
    return {path: place for path, place in needed.items() if path not in absent}


def _collect_needed(
    wanted: Wanted, known: Callable[[str], bool] | None = None
) -> tuple[dict[str, str], frozenset[str]]:
    """Return the store paths that are wanted, or contain a wanted path, each with the first
    place that needs it, and those of them that count only if they are known. A mention of a path
    that is not named as Nix names them counts if the path is `known`, by default if it exists.
    """
    prefix = wanted.store_dir.rstrip("/") + "/"
    needed: dict[str, str] = {}
    faults: list[Fault] = []
    for path, place in (*wanted.paths, *wanted.found):
        wrong = why_not_normal(path)
        if wrong is None and not path.startswith(prefix):
            wrong = f"is not in the store directory, {wanted.store_dir}"
        if wrong is None:
            needed.setdefault(store_path_of(path, wanted.store_dir), place)
        else:
            faults.append(Fault(place, f"{path} {wrong}"))
    for path, place in find_in_value(
        wanted.mentions, wanted.store_dir, known or wanted.has
    ).items():
        needed.setdefault(path, place)
    if len(needed) > MAX_PATHS:
        faults = [Fault("", f"needs {len(needed)} store paths; at most {MAX_PATHS} are allowed")]
    if faults:
        raise ConfError(wanted.name, faults)
    named = {store_path_of(path, wanted.store_dir) for path, _ in wanted.paths}
    return needed, frozenset(needed) - named if wanted.known_only else frozenset()


def _refuse(name: str, lacking: dict[str, str], reason: str) -> None:
    """Raise ConfError for the paths `lacking`, given with their places, if there are any."""
    faults = [Fault(place, f"{path} {reason}") for path, place in lacking.items()]
    if faults:
        raise ConfError(name, faults)


def _read(path: str) -> bytes:
    """Return the content of the file at `path`, or of the registration in it if that is a
    directory as nixpkgs' closureInfo makes it.
    """
    try:
        if os.path.isdir(path):
            path = os.path.join(path, "registration")
        with open(path, "rb") as file:
            data = file.read(MAX_GRAPH + 1)
    except OSError as error:
        raise ConfError(path, [Fault("", f"cannot be read: {error.strerror}")]) from error
    if len(data) > MAX_GRAPH:
        raise ConfError(
            path, [Fault("", f"is too large for a references graph (more than {MAX_GRAPH} bytes)")]
        )
    return data

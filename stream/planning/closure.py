"""The closure of what an image needs: which store paths, how large, what they refer to.

It comes from a references graph in a file, from a Nix on this machine, or is the paths
alone. Knows neither what wants the paths nor which layers they go into.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass, replace

from stream.errors import ConfError, Fault
from stream.faults import is_text, not_normal
from stream.limits import MAX_FAULTS
from stream.model import DEFAULT_STORE_DIR, StoreObject
from stream.nix import query
from stream.nix.nar import nar_size
from stream.nix.references import MAX_PATHS, References, parse_references
from stream.nix.store_root import Disk, not_readable
from stream.planning.mentions import in_value, is_hashed
from stream.strategies.graph import Graph, Node, closure, part

MAX_GRAPH = 1 << 26  # bytes; 10,000 store paths take about a tenth


@dataclass(frozen=True, slots=True, kw_only=True)
class Wanted:
    """What a closure is asked for. `paths` are store paths, or paths in them, each with the
    place that wants it in the document called `name`. Store paths that the JSON value
    `mentions` mentions are wanted as well. Their files are on this machine, below
    `store_root`.
    """

    name: str
    paths: tuple[tuple[str, str], ...] = ()
    mentions: object = None
    store_dir: str = DEFAULT_STORE_DIR
    store_root: str = ""

    @property
    def disk(self) -> Disk:
        """Where the files are."""
        return Disk(self.store_dir.encode(), self.store_root.encode())

    def has(self, path: str) -> bool:
        """Whether the file of a store path is there."""
        return is_text(path) and self.disk.lexists(path.encode())


@dataclass(frozen=True, slots=True, kw_only=True)
class Closure:
    """Store paths that are `wanted` and all that they reach. `references` is what Nix says
    of them, None if they were taken alone and nobody knows what they refer to.
    """

    graph: Graph
    wanted: tuple[str, ...]
    references: References | None = None

    def objects(self) -> tuple[StoreObject, ...] | None:
        """What a Nix database says of the closure, in the order of paths; None if they were
        taken alone. Raises ConfError for a graph without hashes.
        """
        return None if self.references is None else self.references.objects(self.graph)


def closure_of(
    wanted: Wanted, *, references_graph: str | None = None, store: str | None = None
) -> Closure:
    """The closure from the graph in the file `references_graph`; without one, from the Nix
    store that `store` names, as `nix-store --store` takes it, or that is below the root
    where the files are; without either, from this machine's Nix, if there is one and it has
    any of the paths, or else the paths alone. Raises ConfError, NixError and SourceError.
    """
    if references_graph is not None:
        return from_graph(parse_references(_read(references_graph), references_graph), wanted)
    root = wanted.store_root
    if (
        store is None
        and root
        and wanted.store_dir == DEFAULT_STORE_DIR
        and query.has_database(root)
    ):
        store = query.below(root)
    if store is None and not _nix_has_any(wanted):
        return alone(wanted)
    return from_nix(wanted, store)


def from_graph(references: References, wanted: Wanted) -> Closure:
    """The closure in a references graph. What nobody wants is left out, even if the graph
    has it. Sizes that it does not tell are measured. Raises ConfError for a graph of another
    store directory and for what it lacks; SourceError.
    """
    return _reached(references, wanted, _needed(wanted, references.graph.__contains__))


def from_nix(wanted: Wanted, store: str | None = None) -> Closure:
    """The closure that a Nix store knows: this machine's, or `store`. Derivers are left out:
    which one Nix remembers, if any, differs between machines. Raises NixError, and ConfError
    for what is not valid in the store or, of another store's, not on this disk.
    """
    needed = _needed(wanted)
    # Nix takes no other names as arguments.
    invalid = {path for path in needed if not is_hashed(path)}
    invalid |= query.invalid([path for path in needed if path not in invalid], store)
    _refuse(
        wanted.name,
        {path: place for path, place in needed.items() if path in invalid},
        f"is not in the Nix store{f' {store}' if store else ''}: build it or copy it there",
    )
    data = query.registration([*needed], store)
    references = parse_references(data or b"[]", query.PROGRAM)
    told = {path: told._replace(deriver=None) for path, told in references.told.items()}
    found = _reached(replace(references, told=told), wanted, needed)
    other = store is not None or wanted.store_root
    absent = [path for path in found.graph if not wanted.has(path)] if other else []
    if absent:
        path = next((path for path in absent if path in needed), absent[0])
        place = f"at {wanted.store_root}{path}" if wanted.store_root else "on this disk"
        reason = (
            f"is in the Nix store{f' {store}' if store else ''}, but not {place}, as"
            f" {len(absent)} of the closure: set store_root to the root below which that store's"
            " files are"
        )
        _refuse(wanted.name, {path: needed.get(path, "")}, reason)
    return found


def alone(wanted: Wanted) -> Closure:
    """The store paths as if they referred to nothing, with the size of their NAR. Only one
    that is a link refers to the store path that it leads to. Raises ConfError for what is
    not there, and SourceError.
    """
    needed = _needed(wanted)
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
    wrong = ((path, place, not_readable(path, disk)) for path, place in needed.items())
    faults = [Fault(place, f"{path} {reason}") for path, place, reason in wrong if reason]
    if faults:
        raise ConfError(wanted.name, faults[:MAX_FAULTS])
    graph = {
        path: Node(_size(path, disk), frozenset({links[path]} if path in links else ()))
        for path in needed
    }
    return Closure(graph=graph, wanted=named)


def _size(path: str, disk: Disk) -> int:
    return nar_size(disk.at(path.encode()))


def _link_target(path: str, wanted: Wanted) -> str | None:
    """The store path that the store path `path` is a link to or into, if it is there."""
    try:
        text = os.readlink(wanted.disk.at(path.encode())).decode()
    except (OSError, UnicodeDecodeError):  # no link, or one to what no conf can name
        return None
    prefix = wanted.store_dir.rstrip("/") + "/"
    target = os.path.normpath(os.path.join(os.path.dirname(path), text))
    found = prefix + target.removeprefix(prefix).partition("/")[0]
    return found if target.startswith(prefix) and wanted.has(found) else None


def _nix_has_any(wanted: Wanted) -> bool:
    paths = [path for path in _needed(wanted) if is_hashed(path)]
    return bool(paths) and query.knows(wanted.store_dir) and len(query.invalid(paths)) < len(paths)


def _reached(references: References, wanted: Wanted, needed: dict[str, str]) -> Closure:
    """What `needed` reaches: see `from_graph`."""
    directory = wanted.store_dir.rstrip("/")
    faults = [
        Fault(told.place, f"{path} is not in the store directory, {wanted.store_dir}")
        for path, told in references.told.items()
        if path.rpartition("/")[0] != directory
    ]
    if faults:
        raise ConfError(references.name, faults[:MAX_FAULTS])
    _refuse(
        wanted.name,
        {path: place for path, place in needed.items() if path not in references.graph},
        f"is not in {references.name}: list the closure of all that is wanted",
    )
    graph = part(references.graph, closure(references.graph, needed))
    if not references.sized:
        disk = wanted.disk
        graph = {path: Node(_size(path, disk), graph[path].references) for path in graph}
    return Closure(graph=graph, wanted=tuple(needed), references=references)


def _needed(wanted: Wanted, known: Callable[[str], bool] | None = None) -> dict[str, str]:
    """The store paths that are wanted, or hold what is, each with the first place. Those that
    are mentioned may be `known`, or there, if they are not named as Nix names them.
    """
    prefix = wanted.store_dir.rstrip("/") + "/"
    needed: dict[str, str] = {}
    faults: list[Fault] = []
    for path, place in wanted.paths:
        wrong = not_normal(path)
        if wrong is None and not path.startswith(prefix):
            wrong = f"is not in the store directory, {wanted.store_dir}"
        if wrong is None:
            needed.setdefault(prefix + path[len(prefix) :].partition("/")[0], place)
        else:
            faults.append(Fault(place, f"{path} {wrong}"))
    for path, place in in_value(wanted.mentions, wanted.store_dir, known or wanted.has).items():
        needed.setdefault(path, place)
    if len(needed) > MAX_PATHS:
        faults = [Fault("", f"wants {len(needed)} store paths: {MAX_PATHS} are allowed")]
    if faults:
        raise ConfError(wanted.name, faults[:MAX_FAULTS])
    return needed


def _refuse(name: str, lacking: dict[str, str], reason: str) -> None:
    """Raise ConfError for paths, by the places that want them, if there are any."""
    faults = [Fault(place, f"{path} {reason}") for path, place in lacking.items()]
    if faults:
        raise ConfError(name, faults[:MAX_FAULTS])


def _read(path: str) -> bytes:
    try:
        with open(path, "rb") as file:
            data = file.read(MAX_GRAPH + 1)
    except OSError as error:
        raise ConfError(path, [Fault("", f"cannot be read: {error.strerror}")]) from error
    if len(data) > MAX_GRAPH:
        raise ConfError(path, [Fault("", f"has more than {MAX_GRAPH} bytes: is it a graph?")])
    return data

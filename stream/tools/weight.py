"""Why the store paths of an image are in it, and what each brings along: the chains of references
that lead to one, and the tree in which each is below the last one that it depends on.

Sizes are those of an explanation. Knows neither argv nor terminals, nor where files are.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator, Mapping

from stream.errors import ArgumentError, ConfError
from stream.graph import Graph, Node, find_chains, find_dominators, find_nearest, find_starts
from stream.model import Builtin, ImageConf, Recipe
from stream.nix import query
from stream.nix.hashes import DIGITS
from stream.planning.closure import Wanted, find_closure, store_path_of
from stream.planning.mentions import find_in_value
from stream.sbom.inventory import known_references
from stream.text import one_line, printable
from stream.tools.explain import Explanation
from stream.values import dataclass

_HASH = re.compile(rf"^[{DIGITS}]{{32}}-")

UNNAMED = ""  # the place of a store path that nothing in the conf names and no other refers to


@dataclass(frozen=True, slots=True, kw_only=True)
class Chain:
    """Store paths, each of which refers to the next. `place` is where the conf or specification
    names the first: `config.Cmd[0]`, `contents`; UNNAMED if it only lists it.
    """

    place: str
    paths: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Reason:
    """Why the store path `path` is in the image: the shortest of the `chains` from each path that
    brings it in. It takes `size` bytes in the layer with the number `layer`, from 1 at the bottom;
    None if it is in none of ours, but in the base image's. `only` are the other paths that are there
    for it alone, and `only_size` the bytes that all of these take with it.
    """

    path: str
    size: int
    layer: int | None
    chains: tuple[Chain, ...]
    only: tuple[str, ...]
    only_size: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Branch:
    """A store path of `size` bytes in a tree, `depth` steps from its root. Those after it that are
    deeper would not be in the image without it; `total` is the size in bytes of all of these.
    """

    path: str
    depth: int
    size: int
    total: int


class Weighing:
    """The store paths of the image of `conf`, which `explanation` is about, with their references.
    Asks the Nix on this machine for those of a conf that does not know them. With
    `is_known` false, nobody knows them: nothing refers to anything. Raises NixError or
    SourceError.
    """

    def __init__(self, conf: ImageConf, explanation: Explanation) -> None:
        self._layers = {
            path: number
            for number, layer in enumerate(explanation.layers, 1)
            for path, _ in layer.paths
        }
        sizes = dict(item for layer in explanation.layers for item in layer.paths)
        references = _find_references(conf)
        self.is_known = bool(references)
        self._graph = _graph(sizes, references)
        self._places = {path: place for path, place in _named(conf) if path in self._graph}
        self._starts = find_starts(self._graph, self._places)
        self._dominators = find_dominators(self._graph, self._starts)
        self._nearest = find_nearest(self._graph, self._starts)

    def reasons(self, wanted: str) -> tuple[Reason, ...]:
        """Return why the store path `wanted` is in the image. It may be given as a path in it, or
        by its name, with or without the hash or the version, which can mean several. Raises
        ArgumentError if it is not in the image.
        """
        found = self._find(wanted)
        if not found:
            raise ArgumentError("path", wanted, "is not among the store paths of the image")
        return tuple(map(self._reason, found))

    def tree(self) -> tuple[Branch, ...]:
        """Return the tree of the store paths, each after the last one that it depends on: of those
        with the same one, the largest first. Nothing is above a path that several bring in.
        """
        totals = {path: node.size for path, node in self._graph.items()}
        children: dict[str | None, list[str]] = {}
        for path, above in reversed(self._dominators.items()):
            children.setdefault(above, []).append(path)
            if above is not None:  # it is later in this order, so that all of `path` is counted
                totals[above] += totals[path]
        for below in children.values():
            below.sort(key=lambda path: (-totals[path], path))
        branches = []
        waiting = [(path, 0) for path in reversed(children.get(None, []))]
        while waiting:
            path, depth = waiting.pop()
            size = self._graph[path].size
            branches.append(Branch(path=path, depth=depth, size=size, total=totals[path]))
            waiting += ((child, depth + 1) for child in reversed(children.get(path, [])))
        return tuple(branches)

    def chain(self, path: str) -> tuple[str, ...]:
        """Return the shortest chain of references that brings in the store path `path`, which ends
        it.
        """
        chain: list[str] = []
        at: str | None = path
        while at is not None:
            chain.append(at)
            at = self._nearest[at]
        return tuple(reversed(chain))

    def _find(self, wanted: str) -> list[str]:
        if wanted in self._graph:
            return [wanted]
        store_dirs = {path.rpartition("/")[0] for path in self._graph}
        if "/" in wanted:
            inside = (
                store_path_of(wanted, one) for one in store_dirs if wanted.startswith(f"{one}/")
            )
            return [path for path in inside if path in self._graph]
        found: dict[int, list[str]] = {}
        for path in sorted(self._graph):
            if (rank := _rank(path.rpartition("/")[2], wanted)) is not None:
                found.setdefault(rank, []).append(path)
        return found[min(found)] if found else []

    def _reason(self, path: str) -> Reason:
        only = tuple(sorted(self._below(path)))
        chains = find_chains(self._graph, self._starts, path)
        size = self._graph[path].size
        return Reason(
            path=path,
            size=size,
            layer=self._layers.get(path),
            chains=tuple(
                Chain(place=self._places.get(chain[0], UNNAMED), paths=chain) for chain in chains
            ),
            only=only,
            only_size=size + sum(self._graph[other].size for other in only),
        )

    def _below(self, path: str) -> set[str]:
        """Return the paths that `path` dominates, without itself."""
        below = {path}
        for other, above in self._dominators.items():
            if above in below:
                below.add(other)
        return below - {path}


def _rank(name: str, wanted: str) -> int | None:
    """Return how well the name of a store path is `wanted`: 0 best, None if it is not."""
    bare = _HASH.sub("", name)
    if wanted == name:
        return 0
    if wanted == bare:
        return 1
    return 2 if bare.startswith(f"{wanted}-") else None


def _graph(sizes: Mapping[str, int], references: Mapping[str, Collection[str]]) -> Graph:
    """Return the graph of all paths that have a size or references. Only those in our layers have
    a size.
    """
    paths = dict.fromkeys((*sizes, *references))
    return {
        path: Node(
            sizes.get(path, 0),
            frozenset(other for other in references.get(path, ()) if other in paths) - {path},
        )
        for path in paths
    }


def _find_references(conf: ImageConf) -> dict[str, list[str]]:
    known = known_references(conf)
    if known or not conf.store_paths:
        return {printable(path): [*map(printable, others)] for path, others in known.items()}
    store_dir, root = conf.store_dir.decode(), conf.store_root.decode()
    if not query.knows(store_dir) and not (root and query.has_database(root)):
        return {}  # without asking, all paths would be measured
    wanted = Wanted(
        name=conf.repo_tag or "the conf",
        paths=tuple((path.decode(), "store_layers") for path in sorted(conf.store_paths)),
        store_dir=store_dir,
        store_root=root,
    )
    try:
        found = find_closure(wanted)
    except ConfError:  # Nix does not have all of them
        return {}
    if found.references is None:
        return {}
    ours = conf.store_paths
    return {
        one_line(path): [*map(one_line, node.references)]
        for path, node in found.graph.items()
        if path.encode() in ours
    }


def _named(conf: ImageConf) -> Iterator[tuple[str, str]]:
    """Yield the store paths that the conf names other than in its layers, each with the place."""
    store_dir = conf.store_dir.decode()
    paths = frozenset(map(bytes.decode, conf.store_paths))
    places = find_in_value({"config": conf.container_config}, store_dir, paths.__contains__)
    yield from ((one_line(path), one_line(place)) for path, place in places.items())
    recipe = conf.customisation_layer
    if isinstance(recipe, Recipe):
        for key in ("contents", "copy_to_root"):
            for content in getattr(recipe, key):
                path = content.path if isinstance(content, Builtin) else content
                if path.startswith(conf.store_dir + b"/"):
                    yield one_line(store_path_of(path.decode(), store_dir)), key

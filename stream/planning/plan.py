"""Plan an image: turn a specification into a conf. The customisation layer is made once to
find its references; these, the contents and the container config determine the closure, which
is split into layers.

The only place where the parts of planning meet. Must not write anything that lasts.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Collection, Iterator, Sequence
from typing import TYPE_CHECKING, Any

from stream import config
from stream.digests import NO_DIGESTS, Digests
from stream.errors import ArgumentError, ConfError, Fault
from stream.graph import Graph, Node, part
from stream.interfaces import Takes
from stream.known import Known
from stream.layering import KEEPS_LAYERS, find_strangers, split_into_layers
from stream.model import (
    DEFAULT_STORE_DIR,
    Builtin,
    CustomisationLayer,
    ImageConf,
    LayerPlan,
    NixDatabase,
    StoreObject,
)
from stream.nix import query
from stream.nix.hashes import STORE_NAME
from stream.nix.nar import directory_nar_size
from stream.nix.store_root import Disk
from stream.planning import mentions
from stream.planning.closure import Closure, Wanted, find_closure, find_in_graph, store_path_of
from stream.planning.previous import PreviousImage
from stream.planning.spec import LAYER, Spec
from stream.planning.tag import derive_tag
from stream.schema.reading import ignore
from stream.sources.image import ImageSources, opened
from stream.sources.layer import ListedLayer
from stream.sources.start import find_start_problems
from stream.text import one_line
from stream.typeflags import FILE, LINK
from stream.values import dataclass, replace

if TYPE_CHECKING:
    from stream.sources.base.image import BaseImage


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """The image of a specification: `conf` for streaming, and the same as a JSON `document`.
    They differ only in instants: `now` in the document is the time of planning in the conf.
    """

    conf: ImageConf
    document: dict[str, Any]


def plan(
    spec: Spec,
    previous: Sequence[Sequence[str]] | PreviousImage | None = None,
    *,
    warn: Callable[[str], None] = ignore,
    digests: Digests = NO_DIGESTS,
) -> Plan:
    """Plan the image of `spec`, with all checks that are made when it is streamed. `previous`
    are the store layers of the previous build, or its image. `warn` is called with each warning, a line.
    Files on which a derived tag depends are read if `digests` does not have theirs. Raises
    StreamImageError.
    """
    ArgumentError.require("spec", spec, Spec)
    _check_previous(previous)
    if previous is not None and spec.strategy != KEEPS_LAYERS:
        program = spec.layering_pipeline is not None
        key = "layeringPipeline" if program else f"layering {spec.layering}"
        wrong = f"{key} does not keep layers of the previous build; use layering stable"
        warn(one_line(f"{spec.source}: {wrong}"))
    with opened(
        spec.conf, warn, check=lambda base: _check_budget(spec, base), programs=True
    ) as sources:
        base = sources.base
        if isinstance(previous, PreviousImage):
            previous = previous.above([layer.diff_id for layer in base.layers] if base else [])
        conf = _with_closure(spec, sources, previous, warn)
        _warn_of_many(spec, replace(sources, conf=conf), warn)
        for problem in find_start_problems(conf, sources):
            warn(one_line(f"{spec.source}: {problem}; a container will not start"))
        base_image_id = base.image.image_id if base else None
    document = _document(spec, conf)
    if conf.repo_tag is None:
        described = {**document, "repository": spec.repository}
        tag = derive_tag(described, conf, base_image_id, Known(digests, Takes()))
        conf = replace(conf, repo_tag=f"{spec.repository}:{tag}")
        document = _document(spec, conf)
    return Plan(conf=conf, document=document)


def _check_previous(previous: object) -> None:
    if previous is None or isinstance(previous, PreviousImage):
        return
    ArgumentError.require("previous", previous, list, tuple, PreviousImage)
    assert isinstance(previous, (list, tuple))
    for layer in previous:
        ArgumentError.require("previous", layer, list, tuple)
        for path in layer:
            ArgumentError.require("previous", path, str)


def _document(spec: Spec, conf: ImageConf) -> dict[str, Any]:
    """Return `conf` as JSON: keys by name, but the layers and hashes, which are long, last."""
    document = config.conf_document(conf)
    # The other instants of the conf are written in one way, so that the tag does not depend on
    # how they were given. Beside `now` they must not be left out: it will be another instant.
    if "now" in spec.instants.values():
        document |= spec.instants
    long = ("store_layers", "store_path_hashes")
    return {key: document[key] for key in sorted(document, key=lambda key: (key in long, key))}


def _check_budget(spec: Spec, base: BaseImage | None) -> None:
    _budget(spec, len(base.layers) if base else 0, least=0)


def _warn_of_many(spec: Spec, sources: ImageSources, warn: Callable[[str], None]) -> None:
    """Warn of more layers than consumers accept. The planner's own limit is below theirs, unless
    the specification raises it or has a program, which is not limited.
    """
    for problem in sources.warnings:
        warn(one_line(f"{spec.source}: {problem}"))


def _with_closure(
    spec: Spec,
    sources: ImageSources,
    previous: Sequence[Sequence[str]] | None,
    warn: Callable[[str], None],
) -> ImageConf:
    """Return the conf of `spec` with the parts that depend on the closure: store layers and
    database.
    """
    conf, base = spec.conf, sources.base
    base_layers = len(base.layers) if base else 0
    made = _made(sources)
    if not spec.include_store_paths and not spec.include_nix_database:
        return conf
    wanted = _wanted(spec, made)
    closure = find_closure(wanted, references_graph=spec.references_graph, store=spec.nix_store)
    if spec.roots is not None and closure.references and not spec.include_nix_database:
        # Contents have to be known, but only what the layer made of them refers to is needed.
        paths = tuple(_named(spec, contents=False))
        closure = find_in_graph(closure.references, replace(wanted, paths=paths))
    unshipped = _unshipped(spec)
    _warn_of_unknown(spec, closure, warn)
    if spec.include_nix_database:
        with_database = replace(spec.recipe, database=_database(spec, _without(closure, unshipped)))
        conf = replace(conf, customisation_layer=with_database)
    if spec.include_store_paths:
        graph = _without_held(spec.conf, base, closure.graph)
        if spec.is_single:
            conf = _with_single_layer(spec, conf, graph.keys() - unshipped)
            return _with_statements(spec, conf, closure)
        if LAYER in spec.unshipped:
            layer, node = _layer_node(sources, graph, made)
            graph, unshipped = {**graph, layer: node}, unshipped | {layer}
        budget = _budget(spec, base_layers, least=1 if graph.keys() - unshipped else 0)
        layers = split_into_layers(
            graph,
            _roots(graph, closure.wanted, unshipped),
            budget,
            spec.strategy,
            previous,
            unshipped=unshipped,
            name=spec.source,
        )
        conf = replace(conf, store_layers=_checked(spec, layers))
        conf = _with_statements(spec, conf, closure)
        _warn_of_strangers(spec, closure.graph, warn)
    return conf


def _with_single_layer(spec: Spec, conf: ImageConf, paths: Collection[str]) -> ImageConf:
    """Return `conf` with the store paths in the customisation layer, as in nixpkgs'
    `buildImage`, which writes them sorted.
    """
    if not paths:
        return conf
    (plan,) = _checked(spec, [sorted(paths)])
    return replace(conf, customisation_store_paths=plan.store_paths)


def _with_statements(spec: Spec, conf: ImageConf, closure: Closure) -> ImageConf:
    """Return `conf` with what is stated of its store paths, so far as that is known: their NAR
    hashes, and the references of those in the image, be they copied or in the base image.
    """
    if closure.references is None:
        return conf
    hashes = closure.references.nar_hashes(path.decode() for path in conf.store_paths)
    shipped = closure.graph.keys() - _unshipped(spec)
    store_dir = spec.conf.store_dir.decode()
    copied = {
        store_path_of(path, store_dir)
        for path in map(_path, spec.recipe.copy_to_root)
        if path.startswith(f"{store_dir}/")
    }
    graph = closure.references.graph
    held = sorted(shipped | copied & graph.keys())
    return replace(
        conf,
        store_path_hashes={path.encode(): nar_hash for path, nar_hash in hashes.items()},
        references={
            path.encode(): frozenset(other.encode() for other in graph[path].references)
            for path in held
        },
    )


def _checked(spec: Spec, layers: Sequence[Sequence[str]]) -> tuple[LayerPlan, ...]:
    """Return the store layers, checked as for streaming. Faults are reported as the closure's:
    the user has not seen the layers, so a place among them would not help.
    """
    faults: list[Fault] = []
    plans = config.read_store_layers(
        layers,
        "store_layers",
        lambda _place, message: faults.append(Fault("the closure", message)),
        Disk.of(spec.conf),
    )
    if faults:
        raise ConfError(spec.source, faults)
    return plans


# ---- what is wanted


def _made(sources: ImageSources) -> list[str]:
    """Return the existing store paths that the customisation layer, once made, refers to. A
    text may mention others that were removed long ago.
    """
    disk = Disk.of(sources.conf)
    if not disk.lexists(sources.conf.store_dir):
        return []  # without Nix, nothing need be read to find that
    from stream.sources.customisation.made import MadeLayer

    top = sources.customisation
    if isinstance(top, MadeLayer):
        found = mentions.find_in_tree(top.tree, sources.conf.store_dir)
    else:
        found = _in_ready_layer(top, sources.conf)
    return [os.fsdecode(path) for path in sorted(found) if disk.lexists(path)]


def _in_ready_layer(layer: ListedLayer | None, conf: ImageConf) -> set[bytes]:
    from stream.archives.bytesource import pieces
    from stream.archives.tarreader import read_members

    found: set[bytes] = set()
    if layer is None:
        return found
    # By member, as in a tree: a layer refers to the same paths before and after it is made.
    with layer.content() as content:
        for member in read_members(content):
            if member.typeflag == LINK:
                found |= mentions.find_in_link(member.name, member.link, conf.store_dir)
            elif member.typeflag == FILE and not mentions.is_database(member.name):
                found |= mentions.find_in_bytes(pieces(content, member.size), conf.store_dir)
    return found


def _wanted(spec: Spec, made: Sequence[str]) -> Wanted:
    """Return the store paths that the image is made for, with the place that needs each."""
    return Wanted(
        name=spec.source,
        paths=tuple(_named(spec)),
        found=tuple((path, "the customisation layer") for path in made),
        mentions=spec.mentions,
        known_only=spec.roots is not None,
        store_dir=spec.conf.store_dir.decode(),
        store_root=spec.conf.store_root.decode(),
    )


def _named(spec: Spec, *, contents: bool = True) -> Iterator[tuple[str, str]]:
    """Yield the store paths that the specification names, with their places, or those of them
    that are not `contents`. Copied paths are not needed themselves.
    """
    for key, paths in ("roots", spec.roots or ()), ("unshipped", spec.unshipped):
        for index, path in enumerate(paths):
            if (key, path) != ("unshipped", LAYER):
                yield path, f"{key}[{index}]"
    if not contents:
        return
    recipe = spec.recipe
    for index, content in enumerate(recipe.contents):
        if path := _path(content):
            yield path, f"contents[{index}]"
    for index, content in enumerate(recipe.copy_to_root):
        if isinstance(content, Builtin) and content.path:
            yield _path(content), f"copyToRoot[{index}]"


def _path(content: bytes | Builtin) -> str:
    return (content.path if isinstance(content, Builtin) else content).decode()


def _unshipped(spec: Spec) -> frozenset[str]:
    store_dir = spec.conf.store_dir.decode()
    return frozenset(store_path_of(path, store_dir) for path in spec.unshipped if path != LAYER)


def _layer_node(sources: ImageSources, graph: Graph, made: Sequence[str]) -> tuple[str, Node]:
    """Return the customisation layer as a node of `graph`: the directory that dockerTools makes
    of it. `made` are the store paths that it refers to.
    """
    top, ready = sources.customisation, sources.conf.customisation_layer
    size = directory_nar_size({"checksum": 65, "layer.tar": top.size if top else 0})
    path = ready.path if isinstance(ready, CustomisationLayer) else LAYER
    known = graph[path].references if path in graph else frozenset(made) & graph.keys()
    return path, Node(size, known)


def _roots(graph: Graph, wanted: Sequence[str], unshipped: Collection[str]) -> list[str]:
    """Return the paths of `graph` that the image is made for: instead of a path that it does not
    hold, those that this refers to.
    """
    found: dict[str, None] = {}
    for path in wanted:
        if path in unshipped and path in graph:
            found |= dict.fromkeys(sorted(graph[path].references))
        else:
            found[path] = None
    return [path for path in found if path in graph and path not in unshipped]


# ---- the closure


def _without(closure: Closure, unshipped: Collection[str]) -> Closure:
    """Return `closure` without the paths that the image does not hold."""
    return replace(closure, graph=part(closure.graph, closure.graph.keys() - unshipped))


def _database(spec: Spec, closure: Closure) -> NixDatabase:
    objects = closure.objects()
    if objects is None:
        wrong = "needs the references of the store paths, which are unknown; give references_graph"
        raise ConfError(spec.source, [Fault("includeNixDB", wrong)])
    _check_paths(objects, closure, spec.conf.store_dir)
    recipe = spec.recipe
    store_dir = spec.conf.store_dir.decode()
    paths = (
        store_path_of(path, store_dir)
        for path in map(_path, recipe.contents + recipe.copy_to_root)
        if path.startswith(f"{store_dir}/")
    )
    # A store path that is copied need not be in the image itself.
    roots = dict.fromkeys(path for path in paths if path in closure.graph)
    return NixDatabase(objects=objects, roots=tuple(roots))


def _check_paths(objects: Sequence[StoreObject], closure: Closure, store_dir: bytes) -> None:
    """Raise ConfError for the paths of `objects` that cannot be in a Nix database."""
    assert closure.references is not None  # the objects are from there
    statements = closure.references.statements
    is_store_path = re.compile(f"{re.escape(store_dir.decode())}/{STORE_NAME}").fullmatch
    faults = [
        Fault(statements[item.path].place, f"{path!r} is not a store path in {store_dir.decode()}")
        for item in objects
        for path in filter(None, (item.path, item.deriver))
        if not is_store_path(path)
    ]
    if faults:
        raise ConfError(closure.references.name, faults)


def _without_held(conf: ImageConf, base: BaseImage | None, graph: Graph) -> Graph:
    """Return `graph` without the store paths that the base image contains, if the conf asks to
    skip them: they need no layers.
    """
    if not graph or base is None:
        return graph
    everything = LayerPlan(store_paths=tuple(path.encode() for path in graph))
    left = base.without_held(replace(conf, store_layers=(everything,)))
    kept = {path.decode() for plan in left.store_layers for path in plan.store_paths}
    return graph if len(kept) == len(graph) else part(graph, kept)


# ---- layers


def _budget(spec: Spec, base_layers: int, *, least: int) -> int | None:
    """Return the maximum number of store layers; None with a program, which is not limited, as
    in nixpkgs, and where there are none. Raises ConfError if it is below `least`.
    """
    if spec.layering_pipeline is not None or spec.is_single:
        return None
    budget = spec.max_layers - 1 - base_layers
    if budget < least:
        taken = f"the base image takes {base_layers} and " if base_layers else ""
        left = "; none is left for store paths" if least else ""
        wrong = f"is {spec.max_layers}, but {taken}the customisation layer takes 1{left}"
        raise ConfError(spec.source, [Fault("maxLayers", wrong)])
    return budget


def _warn_of_unknown(spec: Spec, closure: Closure, warn: Callable[[str], None]) -> None:
    """Warn of Nix's store paths whose references are unknown. For example, `nix-store` is not
    found under sudo, and the image would silently lack libraries.
    """
    usual = os.fsdecode(spec.conf.store_dir) == DEFAULT_STORE_DIR
    if closure.references is not None or not usual:
        return
    unknown = [path for path in closure.wanted if mentions.is_hashed(path)]
    if unknown:
        more = f" (and {len(unknown) - 1} more)" if len(unknown) > 1 else ""
        why = "Nix does not know it" if query.is_installed() else f"{query.PROGRAM} is not on PATH"
        wrong = f"{unknown[0]}{more} is included without its references: {why}"
        warn(one_line(f"{spec.source}: {wrong}; give a references graph"))


def _warn_of_strangers(spec: Spec, graph: Graph, warn: Callable[[str], None]) -> None:
    """Warn of paths in the pipeline that are not in the graph. It ignores them, as nixpkgs
    does, and a typing error would leave one large layer where several were intended.
    """
    if not spec.layering_pipeline:
        return
    if strangers := find_strangers(spec.layering_pipeline, graph):
        more = f" (and {len(strangers) - 1} more)" if len(strangers) > 1 else ""
        wrong = f"ignoring {strangers[0]}{more}: not in the closure"
        warn(one_line(f"{spec.source}: layeringPipeline: {wrong}"))

"""The plan: a specification becomes a conf. The customisation layer is made once to see
what it refers to; what it, the contents and the container config need makes the closure;
the closure is split into layers.

The only place where planning's parts meet. Writes nothing that lasts.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from stream import config
from stream.errors import ArgumentError, ConfError, Fault
from stream.layering import KEEPS_LAYERS, split_into_layers
from stream.model import DEFAULT_STORE_DIR, Builtin, ImageConf, LayerPlan, NixDatabase
from stream.nix import query
from stream.nix.store_root import Disk
from stream.planning import mentions
from stream.planning.closure import Closure, Wanted, closure_of
from stream.planning.spec import Spec
from stream.planning.tag import derived_tag
from stream.schema.reading import ignore
from stream.sources.image import ImageSources, opened
from stream.sources.layer import ListedLayer
from stream.strategies.graph import Graph, part
from stream.text import one_line
from stream.typeflags import LINK

if TYPE_CHECKING:
    from stream.sources.base.image import BaseImage


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """The image that a specification becomes: `conf` as it is streamed, and `document` as
    JSON has it. They differ in one thing: what is `now` in the document is an instant in the
    conf, that of planning.
    """

    conf: ImageConf
    document: dict[str, Any]


def plan(
    spec: Spec,
    previous: Sequence[Sequence[str]] | None = None,
    *,
    warn: Callable[[str], None] = ignore,
) -> Plan:
    """Plan the image of `spec`: complete, and checked as it will be when it is streamed.
    `previous` are the store layers of the build before. `warn` is called with a line for a
    person. Raises StreamImageError.
    """
    ArgumentError.require("spec", spec, Spec)
    _check_previous(previous)
    if previous is not None and spec.strategy != KEEPS_LAYERS:
        program = spec.layering_pipeline is not None
        key = "layeringPipeline" if program else f"layering {spec.layering}"
        told = f"{key} keeps no layers of the build before: stable does"
        warn(one_line(f"{spec.source}: {told}"))
    with opened(spec.conf, warn, check=lambda base: _check_budget(spec, base)) as sources:
        base = sources.base
        conf = _with_closure(spec, sources, previous, warn)
        base_image_id = base.image.image_id if base else None
    document = _document(spec, conf)
    if conf.repo_tag is None:
        tag = derived_tag({**document, "repository": spec.repository}, conf, base_image_id)
        conf = replace(conf, repo_tag=f"{spec.repository}:{tag}")
        document = _document(spec, conf)
    return Plan(conf=conf, document=document)


def _check_previous(previous: object) -> None:
    if previous is None:
        return
    ArgumentError.require("previous", previous, list, tuple)
    assert isinstance(previous, (list, tuple))
    for layer in previous:
        ArgumentError.require("previous", layer, list, tuple)
        for path in layer:
            ArgumentError.require("previous", path, str)


def _document(spec: Spec, conf: ImageConf) -> dict[str, Any]:
    """The conf as JSON: keys by name, the layers, which are long, last."""
    document = {**config.conf_document(conf), **spec.instants}
    return {
        key: document[key] for key in sorted(document, key=lambda key: (key == "store_layers", key))
    }


def _check_budget(spec: Spec, base: BaseImage | None) -> None:
    _budget(spec, len(base.layers) if base else 0, least=0)


def _with_closure(
    spec: Spec,
    sources: ImageSources,
    previous: Sequence[Sequence[str]] | None,
    warn: Callable[[str], None],
) -> ImageConf:
    """The conf of `spec` with what is known only of the closure: store layers and database."""
    conf, base = spec.conf, sources.base
    base_layers = len(base.layers) if base else 0
    made = _made(sources)
    if not spec.include_store_paths and not spec.include_nix_database:
        return conf
    closure = closure_of(
        _wanted(spec, made), references_graph=spec.references_graph, store=spec.nix_store
    )
    _warn_of_unknown(spec, closure, warn)
    if spec.include_nix_database:
        with_database = replace(spec.recipe, database=_database(spec, closure))
        conf = replace(conf, customisation_layer=with_database)
    if spec.include_store_paths:
        graph = _without_held(spec.conf, base, closure.graph)
        budget = _budget(spec, base_layers, least=1 if graph else 0)
        roots = [path for path in closure.wanted if path in graph]
        layers = split_into_layers(graph, roots, budget, spec.strategy, previous, name=spec.source)
        conf = replace(conf, store_layers=_checked(spec, layers))
        _warn_of_strangers(spec, closure.graph, warn)
    return conf


def _checked(spec: Spec, layers: Sequence[Sequence[str]]) -> tuple[LayerPlan, ...]:
    """The store layers, if they can be streamed. A store path that is wrong is one of the
    closure: its place among the layers, which nobody has seen, says nothing.
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
    """The store paths that the customisation layer, once made, refers to, as far as they
    are there: what is mentioned in a text may be long gone.
    """
    from stream.sources.customisation.made import MadeLayer

    top = sources.customisation
    if isinstance(top, MadeLayer):
        found = mentions.in_tree(top.tree, sources.conf.store_dir)
    else:
        found = _in_ready_layer(top, sources.conf)
    disk = Disk.of(sources.conf)
    return [os.fsdecode(path) for path in sorted(found) if disk.lexists(path)]


def _in_ready_layer(layer: ListedLayer | None, conf: ImageConf) -> set[bytes]:
    from stream.archives.bytesource import pieces

    if layer is None:
        return set()
    with layer.content() as content:
        found = mentions.in_bytes(pieces(content), conf.store_dir)
    # A header may cut a target, or have no end between it and what follows.
    for member in layer.members():
        if member.typeflag == LINK:
            found |= mentions.in_link(member.name, member.link, conf.store_dir)
    return found


def _wanted(spec: Spec, made: Sequence[str]) -> Wanted:
    """The store paths that the image is made for, and who wants each."""
    return Wanted(
        name=spec.source,
        paths=(*_named(spec), *((path, "the customisation layer") for path in made)),
        mentions=spec.mentions,
        store_dir=spec.conf.store_dir.decode(),
        store_root=spec.conf.store_root.decode(),
    )


def _named(spec: Spec) -> Iterator[tuple[str, str]]:
    """Those that the recipe names. What is copied is not needed itself."""
    recipe = spec.recipe
    for index, content in enumerate(recipe.contents):
        if path := _path(content):
            yield path, f"contents[{index}]"
    for index, content in enumerate(recipe.copy_to_root):
        if isinstance(content, Builtin) and content.path:
            yield _path(content), f"copyToRoot[{index}]"


def _path(content: bytes | Builtin) -> str:
    return (content.path if isinstance(content, Builtin) else content).decode()


# ---- the closure


def _database(spec: Spec, closure: Closure) -> NixDatabase:
    objects = closure.objects()
    if objects is None:
        wrong = "is set, and nobody knows the references of the store paths: give references_graph"
        raise ConfError(spec.source, [Fault("includeNixDB", wrong)])
    recipe = spec.recipe
    store_dir = spec.conf.store_dir.decode()
    contents = filter(None, map(_path, recipe.contents))
    roots = (path.removeprefix(f"{store_dir}/").split("/", 1)[0] for path in contents)
    return NixDatabase(
        objects=objects, roots=tuple(dict.fromkeys(f"{store_dir}/{name}" for name in roots))
    )


def _without_held(conf: ImageConf, base: BaseImage | None, graph: Graph) -> Graph:
    """What is left of `graph` without the store paths that the base image holds, if they
    are to be left out: they take no layers.
    """
    if not graph or base is None:
        return graph
    everything = LayerPlan(store_paths=tuple(path.encode() for path in graph))
    left = base.without_held(replace(conf, store_layers=(everything,)))
    kept = {path.decode() for plan in left.store_layers for path in plan.store_paths}
    return graph if len(kept) == len(graph) else part(graph, kept)


# ---- layers


def _budget(spec: Spec, base_layers: int, *, least: int) -> int:
    """How many layers there may be for store paths. Raises ConfError for less than `least`."""
    budget = spec.max_layers - 1 - base_layers
    if budget < least:
        taken = f"the base image has {base_layers} and " if base_layers else ""
        left = ", and none is left for store paths" if least else ""
        wrong = f"is {spec.max_layers}: {taken}one is the customisation's{left}"
        raise ConfError(spec.source, [Fault("maxLayers", wrong)])
    return budget


def _warn_of_unknown(spec: Spec, closure: Closure, warn: Callable[[str], None]) -> None:
    """Tell of Nix's store paths of which nobody knows what they refer to: under sudo, say,
    `nix-store` is not found, and an image would lack its libraries without a word.
    """
    usual = os.fsdecode(spec.conf.store_dir) == DEFAULT_STORE_DIR
    if closure.references is not None or not usual:
        return
    unknown = [path for path in closure.wanted if mentions.is_hashed(path)]
    if unknown:
        more = f" (and {len(unknown) - 1} more)" if len(unknown) > 1 else ""
        why = "Nix does not know it" if query.is_installed() else f"{query.PROGRAM} is not on PATH"
        told = f"{unknown[0]}{more} comes without what it refers to: {why}"
        warn(one_line(f"{spec.source}: {told}; give a references graph"))


def _warn_of_strangers(spec: Spec, graph: Graph, warn: Callable[[str], None]) -> None:
    """Tell of paths that the pipeline names and passes over, as nixpkgs' does: a slip there
    makes one large layer of what was to be split.
    """
    if not spec.layering_pipeline:
        return
    from stream.strategies.program import WORDS

    waiting: list[Any] = [spec.layering_pipeline]
    strangers: dict[str, None] = {}
    while waiting:
        item = waiting.pop()
        if isinstance(item, str) and item not in graph and item not in WORDS:
            strangers[item] = None
        elif isinstance(item, list):
            waiting += reversed(item)
        elif isinstance(item, dict):
            waiting += item.values()
    if strangers:
        more = f" (and {len(strangers) - 1} more like it)" if len(strangers) > 1 else ""
        path = next(iter(strangers))
        warn(
            one_line(
                f"{spec.source}: layeringPipeline: {path} is not in the closure{more}, ignored"
            )
        )

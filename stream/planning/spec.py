"""SPEC.json: what goes into an image, in the words of nixpkgs' `dockerTools`.

The keys are the arguments of `streamLayeredImage` (and of `buildImage` where they mean
something here), with their defaults; a conf's keys that dockerTools does not have stand
beside them. What a specification says of the image is written as a conf without layers
and tag, and checked as one. Knows neither closures nor layers.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from stream import config
from stream.archives.target import split_archive
from stream.errors import ConfError, Fault
from stream.faults import depth_of, kind, meant
from stream.layering import STRATEGIES
from stream.limits import MAX_DEPTH
from stream.model import DEFAULT_STORE_DIR, ImageConf, Recipe
from stream.nix import query
from stream.nix.store_root import Disk
from stream.schema import recipe as recipe_config
from stream.schema.fields import Fields
from stream.schema.reading import ignore, parse_object

# Handed on to the conf as they are.
_PASSED = frozenset(
    {
        "annotations", "architecture", "base_config", "base_history", "config", "created", "gid", "gname",
        "labels", "mtime", "os", "skip_base_paths", "store_dir", "store_root", "uid", "uname",
    }
)  # fmt: skip
_OWN = frozenset(
    {
        "customisation_layer", "fromImage", "fromImageName", "fromImageTag", "includeNixDB",
        "includeStorePaths", "layering", "layeringPipeline", "maxLayers", "name", "nix_store",
        "references_graph", "tag",
    }
)  # fmt: skip
# The recipe's, but the database: the closure is not known here.
_RECIPE = recipe_config.KEYS - {"nix_database"}
_CONTENTS = {"contents", "copyToRoot"}
KEYS = _PASSED | _OWN | _RECIPE

# Arguments of dockerTools that mean nothing here, and what does their work.
_ELSEWHERE = {
    "compressor": "is given when the image is written: --compress",
    "diskSize": "is not needed: there is no virtual machine",
    "from_image": "is a conf's: fromImage is meant",
    "repo_tag": "is a conf's: name and tag are meant",
    "runAsRoot": "needs a virtual machine: use fakeRootCommands with enableFakechroot",
    "store_layers": "is a conf's: what is not planned needs no specification",
}
DEFAULT_MAX_LAYERS = 100
_DRAFT_TAG = "draft"  # until there is one


@dataclass(frozen=True, slots=True, kw_only=True)
class Spec:
    """A valid specification. `draft` is the conf without layers and tag, `conf` the same
    as it is read. `recipe` is what the customisation layer is made of or, if one is ready,
    what it needs. `layering_pipeline` is a program, checked, or None. `tag` is None for one
    that is derived; `source` stands for the document in messages.
    """

    source: str
    draft: dict[str, Any]
    conf: ImageConf
    recipe: Recipe
    repository: str
    tag: str | None
    max_layers: int
    include_store_paths: bool
    include_nix_database: bool
    layering: str
    layering_pipeline: list[Any] | None
    references_graph: str | None
    nix_store: str | None

    @property
    def strategy(self) -> str | list[Any]:
        """How the closure is split into layers: the program, or the name of a strategy."""
        return self.layering if self.layering_pipeline is None else self.layering_pipeline


def is_spec(data: bytes) -> bool:
    """Whether `data` is rather a specification than a conf."""
    try:
        document = json.loads(data)
    except (RecursionError, ValueError):
        return False
    return isinstance(document, dict) and "name" in document and "repo_tag" not in document


def parse_spec(
    data: bytes, *, name: str = "spec.json", warn: Callable[[str], None] = ignore
) -> Spec:
    """The specification in `data`; `name` stands for it in messages. `warn` is called
    with one line for what is odd and no fault. Raises ConfError, with every fault: a key
    that is not known is one, as it is to the function whose arguments they are.
    """
    parse_object(data, name)  # which knows half a character, and the standard's not
    try:
        document = json.loads(data)  # of which large integers stay such
    except (RecursionError, ValueError) as error:
        raise ConfError(name, [Fault("", f"cannot be read: {error}")]) from None
    if (depth := depth_of(document)) > MAX_DEPTH:
        wrong = f"is nested {depth} deep, {MAX_DEPTH} are allowed"
        raise ConfError(name, [Fault("", wrong)])
    if "repo_tag" in document and "name" not in document:
        raise ConfError(name, [Fault("", "is a conf already: stream it, there is nothing to plan")])
    reader = _Reader(name, {key: value for key, value in document.items() if value is not None})
    spec = reader.spec(warn)
    for key in document:
        if key in _ELSEWHERE:
            reader.fault(key, _ELSEWHERE[key])
        elif key not in KEYS:
            reader.fault(key, f"unknown key{meant(key, KEYS)}")
    if reader.faults or spec is None:
        raise ConfError(name, reader.faults)
    return spec


def _anywhere(contents: Any) -> Any:
    """`contents` with those paths absolute that start from the current directory."""
    if isinstance(contents, list):
        return [_anywhere(item) for item in contents]
    # Another word is a built-in content, or a mistake.
    relative = isinstance(contents, str) and f"{contents}/".startswith(("./", "../"))
    return os.path.abspath(contents) if relative else contents


class _Reader(Fields):
    """Reads one document, and collects what is wrong with it. `null` is absence: it is
    what Nix writes for an argument that is not given.
    """

    def __init__(self, source: str, document: dict[str, Any]) -> None:
        self.faults: list[Fault] = []
        super().__init__(document, "", self._note)
        self._source = source

    def _note(self, place: str, message: str) -> None:
        self.faults.append(Fault(place, message))

    def spec(self, warn: Callable[[str], None]) -> Spec | None:
        repository = self.text("name").lower()
        if "name" not in self.document:
            self.fault("name", "is missing: it becomes the repository name")
        tag = self.text("tag") if self.has("tag") else None
        max_layers = self._max_layers()
        layering, program = self.choice("layering", STRATEGIES), self._program()
        named = isinstance(self.document.get("name"), str)
        draft = self._draft(repository if named else "x", tag)
        conf = self._checked(draft, warn)
        if conf is None or self.faults:
            return None
        recipe = conf.customisation_layer
        if not isinstance(recipe, Recipe):
            recipe = self._recipe_of_ready(conf)
        return Spec(
            source=self._source,
            draft=draft,
            conf=conf,
            recipe=recipe,
            repository=repository,
            tag=tag,
            max_layers=max_layers,
            include_store_paths=self.boolean("includeStorePaths", default=True),
            include_nix_database=self.boolean("includeNixDB"),
            layering=layering,
            layering_pipeline=program,
            references_graph=self.text("references_graph") or None,
            nix_store=self.text("nix_store") or None,
        )

    def _draft(self, repository: str, tag: str | None) -> dict[str, Any]:
        document = self.document
        draft = {key: document[key] for key in document if key in _PASSED}
        draft["repo_tag"] = f"{repository}:{_DRAFT_TAG if tag is None else tag}"
        if base := self._base():
            draft["from_image"] = base
        if root := self._root_of_nix():
            draft["store_root"] = root
        ready = self.text("customisation_layer")
        recipe = {key: document[key] for key in document if key in _RECIPE}
        recipe |= {key: _anywhere(recipe[key]) for key in _CONTENTS & recipe.keys()}
        draft["customisation_layer"] = os.path.abspath(ready) if ready else recipe
        for key in ("includeStorePaths", "includeNixDB"):
            self.boolean(key)
        for key in ("references_graph", "nix_store"):
            self.text(key)
        store = self.text("nix_store")
        if store and store not in query.STORES and os.path.isdir(store) and "/" not in store:
            self.fault(
                "nix_store", f"{store!r} is no store of Nix: write ./{store} for the directory"
            )
        # As Nix writes attributes: their order decides nothing, not even an image's bytes.
        ordered: dict[str, Any] = json.loads(json.dumps(draft, sort_keys=True))
        return ordered

    def _root_of_nix(self) -> str | None:
        """The root below which Nix's store is, if nothing else is said of it."""
        # Nix puts /nix/store there whatever the store directory is called.
        usual = self.document.get("store_dir", DEFAULT_STORE_DIR) == DEFAULT_STORE_DIR
        if "store_root" in self.document or not usual:
            return None
        return query.root_of(self.text("nix_store"))

    def _recipe_of_ready(self, conf: ImageConf) -> Recipe:
        """Of a recipe only what belongs to the closure, for a layer that is made already."""
        for key in sorted(self.document.keys() & (_RECIPE - {"contents"})):
            self.fault(key, "changes a customisation layer, and customisation_layer is ready")
        if self.boolean("includeNixDB"):
            self.fault("includeNixDB", "needs a layer to be made, and customisation_layer is ready")
        document = {"contents": _anywhere(self.document.get("contents"))}
        return recipe_config.read_recipe(document, "", self.fault, Disk.of(conf))

    def _checked(self, draft: dict[str, Any], warn: Callable[[str], None]) -> ImageConf | None:
        """The draft as a conf; its faults have the places of the specification."""
        data = json.dumps(draft).encode()
        try:
            return config.parse_conf(data, name=self._source, warn=warn)
        except ConfError as error:
            for place, message in error.faults:
                if place == "repo_tag":
                    wrong_tag = "is not a tag" in message
                    self.fault("tag" if wrong_tag else "name", message)
                elif place == "store_root" and place not in self.document:
                    self.fault("nix_store", message)
                else:
                    at = place.removeprefix("customisation_layer.")
                    self.fault("fromImage" if at == "from_image" else at, message)
        return None

    def _base(self) -> str | None:
        """The base image as a conf names it, by its absolute path."""
        path = self.text("fromImage")
        name, tag = self.text("fromImageName"), self.text("fromImageTag")
        if bool(name) != bool(tag):
            self.fault("fromImageTag" if name else "fromImageName", "is missing: give both or none")
        if not path:
            if name and tag:
                self.fault("fromImage", "is missing: fromImageName and fromImageTag choose in it")
            return None
        file, chosen = split_archive(path)
        if name and tag:
            if chosen:
                self.fault("fromImageName", f"is given twice: fromImage says {chosen}")
            chosen = f"{name}:{tag}"
        file = os.path.abspath(file)
        return f"{file}:{chosen}" if chosen else file

    def _max_layers(self) -> int:
        value = self.document.get("maxLayers", DEFAULT_MAX_LAYERS)
        if type(value) is not int:
            self.fault("maxLayers", f"must be a number, not {kind(value)}")
        elif value < 2:
            self.fault(
                "maxLayers", f"must be more than 1, not {value}: one layer is the customisation's"
            )
        else:
            return value
        return DEFAULT_MAX_LAYERS

    def _program(self) -> list[Any] | None:
        program = self.document.get("layeringPipeline")
        if program is not None:
            from stream.strategies.program import program_faults

            self.faults += program_faults(program)
        return program

"""SPEC.json: what goes into an image, in the words of nixpkgs' `dockerTools`.

The keys are the arguments of `streamLayeredImage` (and of `buildImage` where they mean
something here), with their defaults; a conf's keys that dockerTools does not have stand
beside them, and are read as a conf's. Knows neither closures nor layers.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

from stream import config
from stream.archives.target import split_archive
from stream.errors import ArgumentError, ConfError, Fault
from stream.faults import depth_of, kind, meant
from stream.layering import STRATEGIES
from stream.limits import MAX_DEPTH
from stream.model import DEFAULT_STORE_DIR, CustomisationLayer, ImageConf, Recipe
from stream.nix import query
from stream.nix.store_root import Disk
from stream.oci.reference import BadReference, check_name, check_tag
from stream.schema import recipe
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
_CONTENTS = {"contents", "copyToRoot"}
_INSTANTS = ("created", "mtime")
_MENTIONING = ("config", "labels")
KEYS = _PASSED | _OWN | recipe.SPEC_KEYS

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


@dataclass(frozen=True, slots=True, kw_only=True)
class Spec:
    """A valid specification. `conf` is the image without store layers, and without a tag if
    one is to be derived: `tag` is None then. `instants` are `created` and `mtime` as far as
    they are given, as they are written: `now` is when the image is streamed. `mentions` are
    the config and labels, which may mention store paths. `recipe` is what the customisation
    layer is made of or, if one is ready, what it needs. `layering_pipeline` is a program,
    checked, or None; `source` stands for the document in messages.
    """

    source: str
    conf: ImageConf
    instants: dict[str, str]
    mentions: dict[str, Any]
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


def is_spec(document: dict[str, Any]) -> bool:
    """Whether a JSON object is rather a specification than a conf."""
    return "name" in document and "repo_tag" not in document


def parse_spec(
    data: bytes, *, name: str = "spec.json", warn: Callable[[str], None] = ignore
) -> Spec:
    """The specification in `data`; `name` stands for it in messages. `warn` is called
    with one line for what is odd and no fault. Raises ConfError, with every fault: a key
    that is not known is one, as it is to the function whose arguments they are.
    """
    ArgumentError.require("data", data, bytes)
    return read_spec_document(parse_object(data, name), name=name, warn=warn)


def read_spec_document(
    document: dict[str, Any], *, name: str = "spec.json", warn: Callable[[str], None] = ignore
) -> Spec:
    """The specification that the JSON object `document` is. See `parse_spec`."""
    if (depth := depth_of(document)) > MAX_DEPTH:
        wrong = f"is nested {depth} deep, {MAX_DEPTH} are allowed"
        raise ConfError(name, [Fault("", wrong)])
    if "repo_tag" in document and "name" not in document:
        raise ConfError(name, [Fault("", "is a conf already: stream it, there is nothing to plan")])
    reader = _Reader(name, {key: value for key, value in document.items() if value is not None})
    spec = reader.spec()
    for key in document:
        if key in _ELSEWHERE:
            reader.fault(key, _ELSEWHERE[key])
        elif key not in KEYS:
            reader.fault(key, f"unknown key{meant(key, KEYS)}")
    if reader.faults:
        raise ConfError(name, reader.faults)
    config.warn_of_architecture(spec.conf, name, warn)
    return spec


def _ordered(value: Any) -> Any:
    """`value` with the members of objects by name, as Nix writes attributes: their order
    decides nothing, not even an image's bytes. At most MAX_DEPTH deep.
    """
    if isinstance(value, dict):
        return {key: _ordered(value[key]) for key in sorted(value)}
    return [*map(_ordered, value)] if isinstance(value, list) else value


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

    def spec(self) -> Spec:
        """The specification, of use if there were no faults."""
        repository, tag = self._repository(), self._tag()
        conf = self._conf()
        conf, recipe = self._with_recipe(conf)
        if tag is not None:
            conf = replace(conf, repo_tag=f"{repository}:{tag}")
        return Spec(
            source=self._source,
            conf=conf,
            instants={key: self.document[key] for key in _INSTANTS if self.has(key)},
            mentions={key: _ordered(self.document[key]) for key in _MENTIONING if self.has(key)},
            recipe=recipe,
            repository=repository,
            tag=tag,
            max_layers=self._max_layers(),
            include_store_paths=self.boolean("includeStorePaths", default=True),
            include_nix_database=self._include_nix_database(conf),
            layering=self.choice("layering", STRATEGIES),
            layering_pipeline=self._program(),
            references_graph=self.text("references_graph") or None,
            nix_store=self._nix_store(),
        )

    def _repository(self) -> str:
        if not self.has("name"):
            self.fault("name", "is missing: it becomes the repository name")
        return self._part_of_reference("name", lambda name: check_name(name.lower())).lower()

    def _tag(self) -> str | None:
        return self._part_of_reference("tag", check_tag) if self.has("tag") else None

    def _part_of_reference(self, key: str, check: Callable[[str], None]) -> str:
        value = self.text(key)
        if value == self.get(key):
            try:
                check(value)
            except BadReference as wrong:
                self.fault(key, str(wrong))
        return value

    def _conf(self) -> ImageConf:
        """What a conf would say of the image, but for a recipe."""
        document = {key: self.document[key] for key in _PASSED if self.has(key)}
        if base := self._base():
            document["from_image"] = base
        if root := self._root_of_nix():
            document["store_root"] = root
        if ready := self.text("customisation_layer"):
            document["customisation_layer"] = os.path.abspath(ready)
        # By the keys of a conf that a specification does not have, those that they come from.
        keys = {"from_image": "fromImage"}
        if not self.has("store_root"):
            keys["store_root"] = "nix_store"
        return config.read_image(
            _ordered(document),
            lambda place, message: self._note(keys.get(place, place), message),
            need_tag=False,
            former=lambda _place, _key: None,
        )

    def _with_recipe(self, conf: ImageConf) -> tuple[ImageConf, Recipe]:
        """`conf` with the customisation layer that is made of the recipe, unless one is ready;
        and the recipe, of that layer only what belongs to the closure.
        """
        document = {key: self.document[key] for key in recipe.SPEC_KEYS if self.has(key)}
        document |= {key: _anywhere(document[key]) for key in _CONTENTS & document.keys()}
        ready = bool(self.get("customisation_layer"))
        if ready:
            for key in sorted(document.keys() - {"contents"}):
                self.fault(key, "changes a customisation layer, and customisation_layer is ready")
            document = {"contents": document.get("contents")}
        read = recipe.read_recipe(_ordered(document), "", self._note, Disk.of(conf))
        return conf if ready else replace(conf, customisation_layer=read), read

    def _include_nix_database(self, conf: ImageConf) -> bool:
        include = self.boolean("includeNixDB")
        if include and isinstance(conf.customisation_layer, CustomisationLayer):
            self.fault("includeNixDB", "needs a layer to be made, and customisation_layer is ready")
        return include

    def _nix_store(self) -> str | None:
        store = self.text("nix_store")
        if store and store not in query.STORES and os.path.isdir(store) and "/" not in store:
            self.fault(
                "nix_store", f"{store!r} is no store of Nix: write ./{store} for the directory"
            )
        return store or None

    def _root_of_nix(self) -> str | None:
        """The root below which Nix's store is, if nothing else is said of it."""
        # Nix puts /nix/store there whatever the store directory is called.
        usual = self.document.get("store_dir", DEFAULT_STORE_DIR) == DEFAULT_STORE_DIR
        store = self.get("nix_store")
        if self.has("store_root") or not usual or not isinstance(store, str) or "\0" in store:
            return None
        return query.root_of(store)

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

"""Read a specification of an image, written with the arguments of nixpkgs' `dockerTools`.

The keys are the arguments of `streamLayeredImage` (and those of `buildImage` that apply here),
with their defaults, and the keys of a conf that dockerTools does not have, read as in a conf.
Must not know closures or layers.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

from stream import config
from stream.archives.target import split_archive
from stream.errors import ArgumentError, ConfError, Fault
from stream.faults import kind, measure_depth, suggest
from stream.layering import KEEPS_LAYERS, STRATEGIES, find_program_faults
from stream.limits import MAX_DEPTH
from stream.model import DEFAULT_STORE_DIR, CustomisationLayer, ImageConf, Recipe
from stream.nix import query
from stream.nix.store_root import Disk
from stream.oci.reference import BadReference, check_name, check_tag
from stream.schema import platforms, recipe
from stream.schema.fields import Fields
from stream.schema.files import start_from
from stream.schema.instants import is_relative, parse_date
from stream.schema.reading import ignore, load_value, parse_object
from stream.values import dataclass, replace

# Passed to the conf unchanged.
_PASSED = frozenset(
    {
        "annotations", "architecture", "base_config", "base_history", "config", "created",
        "customisation_mtime", "gid", "gname", "labels", "mtime", "os", "skip_base_paths", "store_dir",
        "store_root", "uid", "uname", "variant",
    }
)  # fmt: skip
_OWN = frozenset(
    {
        "customisation_layer", "fromImage", "fromImageName", "fromImageTag", "includeNixDB",
        "includeStorePaths", "layering", "layeringPipeline", "maxLayers", "name", "nix_store",
        "references_graph", "roots", "tag", "unshipped",
    }
)  # fmt: skip
_CONTENTS = {"contents", "copyToRoot"}
_INSTANTS = ("created", "customisation_mtime", "mtime")
_MENTIONING = ("config", "labels")
KEYS = _PASSED | _OWN | recipe.SPEC_KEYS

# Keys that are not supported here, and what to use instead.
_ELSEWHERE = {
    "compressor": "is not part of a specification; choose the compression when the image is written",
    "diskSize": "is not needed; no virtual machine is used",
    "from_image": 'is a key of confs; did you mean "fromImage"?',
    "repo_tag": "is a key of confs; use name and tag",
    "store_layers": "is a key of confs; a specification leaves the layers to the planner",
}
DEFAULT_MAX_LAYERS = 100
LAYER = "customisation_layer"  # in `unshipped`: the layer of this image, whatever it is made from
SINGLE = "single"  # the layering that puts the closure into the customisation layer


@dataclass(frozen=True, slots=True, kw_only=True)
class Spec:
    """A valid specification. `conf` is the image without store layers and, if the tag is to be
    derived (`tag` is None), without a tag. `instants` are the given ones of `created`,
    `customisation_mtime` and `mtime`, as in a conf: `now` is the time of streaming. `mentions`
    are the config and labels, which may mention store paths. `recipe` describes the
    customisation layer or, if that is ready-made, names only the contents that it needs.
    `layering_pipeline` is a checked program, or None. `roots` are paths whose closure the image
    holds; unless they are None, mentioned paths outside of the references graph are passed over.
    `unshipped` are paths that count in the layering and are in no layer, and LAYER. Messages call the
    document `source`.
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
    roots: tuple[str, ...] | None
    unshipped: tuple[str, ...]
    references_graph: str | None
    nix_store: str | None

    @property
    def is_single(self) -> bool:
        """True if the closure is in the customisation layer, the image's only new layer."""
        return self.layering == SINGLE and self.layering_pipeline is None

    @property
    def keeps_layers(self) -> bool:
        """True if layers of the previous build are kept where that saves transfer."""
        return self.include_store_paths and self.strategy == KEEPS_LAYERS

    @property
    def strategy(self) -> str | list[Any]:
        """The way to split the closure into layers: a program, or the name of a strategy."""
        return self.layering if self.layering_pipeline is None else self.layering_pipeline


def parse_spec(
    data: bytes,
    *,
    name: str = "spec.json",
    warn: Callable[[str], None] = ignore,
    directory: str = "",
) -> Spec:
    """Parse the specification in `data`, which messages call `name`. Relative paths in it start
    from `directory`, or the current one. `warn` is called with each warning, a line. Raises
    ConfError, with every fault. An unknown key is a fault, as an unknown argument is in Nix.
    """
    ArgumentError.require("data", data, bytes)
    return read_spec_document(parse_object(data, name), name=name, warn=warn, directory=directory)


def read_spec_document(
    document: dict[str, Any],
    *,
    name: str = "spec.json",
    warn: Callable[[str], None] = ignore,
    directory: str = "",
) -> Spec:
    """Read the specification from the JSON object `document`. See `parse_spec`."""
    if (depth := measure_depth(document)) > MAX_DEPTH:
        wrong = f"is nested {depth} deep; at most {MAX_DEPTH} levels are allowed"
        raise ConfError(name, [Fault("", wrong)])
    if "repo_tag" in document and "name" not in document:
        raise ConfError(
            name, [Fault("", "is already a conf; nothing to plan (run: stream-image FILE)")]
        )
    if document.get(platforms.KEY) is not None:
        raise ConfError(name, [Fault(platforms.KEY, platforms.TOO_MANY)])
    given = {key: value for key, value in document.items() if value is not None}
    reader = _Reader(name, given, directory)
    spec = reader.spec()
    for key in document:
        if key in _ELSEWHERE:
            reader.fault(key, _ELSEWHERE[key])
        elif key not in KEYS:
            reader.fault(key, f"unknown key{suggest(key, KEYS)}")
    if reader.faults:
        raise ConfError(name, reader.faults)
    config.warn_of_oddities(spec.conf, name, warn)
    return spec


def _ordered(value: Any) -> Any:
    """Return `value`, at most MAX_DEPTH deep, with the members of objects ordered by name, as
    Nix writes attributes. Their order in the document must not affect the image's bytes.
    """
    if isinstance(value, dict):
        return {key: _ordered(value[key]) for key in sorted(value)}
    return [*map(_ordered, value)] if isinstance(value, list) else value


def _instant(value: Any) -> Any:
    """Return `value`, an instant in a form that GNU date reads, as a conf has it: what `date
    -Iseconds` prints in UTC. `now` and everything else is returned unchanged.
    """
    found = parse_date(value) if isinstance(value, str) else None
    return value if found is None else found.isoformat()


def _is_relative(path: object) -> bool:
    """Return True for a path that begins with `./` or `../`. Any other text without a leading slash
    is a built-in content or the name of a store, or a mistake.
    """
    return isinstance(path, str) and f"{path}/".startswith(("./", "../"))


class _Reader(Fields):
    """A reader of one document, which collects its faults. `null` counts as absent: Nix writes
    it for an argument that is not given.
    """

    def __init__(self, source: str, document: dict[str, Any], directory: str) -> None:
        self.faults: list[Fault] = []
        super().__init__(document, "", self._note)
        self._source = source
        self._directory = directory  # where relative paths start

    def _absolute(self, path: str) -> str:
        return os.path.abspath(os.path.join(self._directory, path))

    def _anywhere(self, contents: Any) -> Any:
        """Return `contents` with relative paths made absolute."""
        if isinstance(contents, list):
            return [self._anywhere(item) for item in contents]
        return self._absolute(contents) if _is_relative(contents) else contents

    def _note(self, place: str, message: str) -> None:
        self.faults.append(Fault(place, message))

    def spec(self) -> Spec:
        """Return the specification. It is not usable if there are faults."""
        repository, tag = self._repository(), self._tag()
        instants = self._instants()
        conf = self._conf(instants)
        conf, recipe = self._with_recipe(conf)
        if tag is not None:
            conf = replace(conf, repo_tag=f"{repository}:{tag}")
        return Spec(
            source=self._source,
            conf=conf,
            instants=instants,
            mentions={key: _ordered(self.document[key]) for key in _MENTIONING if self.has(key)},
            recipe=recipe,
            repository=repository,
            tag=tag,
            max_layers=self._max_layers(),
            include_store_paths=self.boolean("includeStorePaths", default=True),
            include_nix_database=self._include_nix_database(conf),
            layering=self.choice("layering", (*STRATEGIES, SINGLE)),
            layering_pipeline=self._program(),
            roots=self.texts("roots") if self.has("roots") else None,
            unshipped=self.texts("unshipped"),
            references_graph=self._references_graph(),
            nix_store=self._nix_store(),
        )

    def _repository(self) -> str:
        if not self.has("name"):
            self.fault("name", "is missing; it becomes the repository name")
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

    def _conf(self, instants: dict[str, Any]) -> ImageConf:
        """Return the image from the keys that a conf also has, without a recipe. `instants` are in
        the form of a conf.
        """
        passed = _PASSED - {*_INSTANTS}
        document = {key: self.document[key] for key in passed if self.has(key)} | instants
        if base := self._base():
            document["from_image"] = base
        if root := self._root_of_nix():
            document["store_root"] = root
        if self.get("layering") == SINGLE and base and not self.has("skip_base_paths"):
            document["skip_base_paths"] = True
        if ready := self.text("customisation_layer"):
            document["customisation_layer"] = self._absolute(ready)
        # The keys of the specification, by the keys of the conf that are made from them.
        keys = {"from_image": "fromImage"}
        if not self.has("store_root"):
            keys["store_root"] = "nix_store"
        return config.read_image(
            _ordered(document),
            lambda place, message: self._note(keys.get(place, place), message),
            need_tag=False,
            former=lambda _place, _key: None,
        )

    def _instants(self) -> dict[str, Any]:
        """Return the instants as in a conf; of a wrong type or form, as they are. A relative one is
        a fault and left out.
        """
        found = {key: _instant(self.document[key]) for key in _INSTANTS if self.has(key)}
        for key, value in [*found.items()]:
            if isinstance(value, str) and value != "now" and is_relative(value):
                self.fault(
                    key,
                    f"{value!r} is relative to the time when it is read, so the image would differ"
                    " from day to day; write a date, or 'now' for the time of streaming",
                )
                del found[key]
        return found

    def _with_recipe(self, conf: ImageConf) -> tuple[ImageConf, Recipe]:
        """Return `conf` with the recipe as its customisation layer, unless that is ready-made, and
        the recipe. For a ready-made layer, the recipe has only contents, for the closure.
        """
        document = {key: self.document[key] for key in recipe.SPEC_KEYS if self.has(key)}
        document |= {key: self._anywhere(document[key]) for key in _CONTENTS & document.keys()}
        if "files" in document:
            document["files"] = start_from(document["files"], self._directory)
        ready = bool(self.get("customisation_layer"))
        if ready:
            changing = document.keys() - {"contents"}
            if self.has("customisation_mtime") and self.get("layering") != SINGLE:
                changing.add("customisation_mtime")
            for key in sorted(changing):
                self.fault(
                    key, "changes a customisation layer, but customisation_layer is ready-made"
                )
            document = {"contents": document.get("contents")}
        read = recipe.read_recipe(_ordered(document), "", self._note, Disk.of(conf))
        return conf if ready else replace(conf, customisation_layer=read), read

    def _include_nix_database(self, conf: ImageConf) -> bool:
        include = self.boolean("includeNixDB")
        if include and isinstance(conf.customisation_layer, CustomisationLayer):
            self.fault(
                "includeNixDB",
                "changes a customisation layer, but customisation_layer is ready-made",
            )
        return include

    def _references_graph(self) -> str | None:
        path = self.text("references_graph")
        # A name in the current directory stays as it is, in messages as well.
        return os.path.join(self._directory, path) if path else None

    def _nix_store(self) -> str | None:
        store = self.text("nix_store")
        if store and store not in query.STORES and os.path.isdir(store) and "/" not in store:
            self.fault(
                "nix_store", f"{store!r} is not a Nix store; write ./{store} for the directory"
            )
        return (self._absolute(store) if _is_relative(store) else store) or None

    def _root_of_nix(self) -> str | None:
        """Return the root that Nix's store is below, unless the specification sets another."""
        # Below a root, Nix always uses /nix/store, whatever the store directory is called.
        usual = self.document.get("store_dir", DEFAULT_STORE_DIR) == DEFAULT_STORE_DIR
        store = self.get("nix_store")
        if self.has("store_root") or not usual or not isinstance(store, str) or "\0" in store:
            return None
        return query.root_of(self._absolute(store) if _is_relative(store) else store)

    def _base(self) -> str | None:
        """Return the base image in the notation of a conf, with an absolute path."""
        path = self.text("fromImage")
        name, tag = self.text("fromImageName"), self.text("fromImageTag")
        if not path:
            if name or tag:
                self.fault(
                    "fromImage", "is missing; fromImageName and fromImageTag select an image in it"
                )
            return None
        file, chosen = split_archive(path)
        if name or tag:
            if chosen:
                self.fault("fromImageName", f"is given twice; fromImage already selects {chosen}")
            chosen = f"{name or '*'}:{tag or '*'}"
        file = self._absolute(file)
        return f"{file}:{chosen}" if chosen else file

    def _max_layers(self) -> int:
        value = self.document.get("maxLayers", DEFAULT_MAX_LAYERS)
        if isinstance(value, float) and value.is_integer():
            value = int(value)  # Nix writes 1e2 as a float
        if type(value) is not int:
            shown = value if isinstance(value, float) else kind(value)
            self.fault("maxLayers", f"must be a whole number, not {shown}")
        elif value < 2 and not self.has("layeringPipeline"):
            self.fault(
                "maxLayers", f"must be at least 2, not {value}; the customisation layer is one"
            )
        else:
            return value
        return DEFAULT_MAX_LAYERS

    def _program(self) -> list[Any] | None:
        program = self.document.get("layeringPipeline")
        if isinstance(program, str):
            path = self.text("layeringPipeline")
            if "\0" in program:
                return None
            try:
                program = load_value(self._absolute(path))
            except ConfError as error:
                self.fault("layeringPipeline", str(error))
                return None
        if program is not None:
            self.faults += find_program_faults(program)
        return program

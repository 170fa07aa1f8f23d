"""What an image holds, so far as its conf says: the store paths with their names, hashes and
references, the base image, and what is not known.

Takes a conf as planned or as read. Must not know formats of SBOMs, files or registries.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from datetime import datetime
from urllib.parse import quote, urlencode

from stream.model import CustomisationLayer, Digest, ImageConf, Recipe
from stream.nix.hashes import is_hashed_path
from stream.nix.names import PackageName, parse_package_name
from stream.oci.reference import split
from stream.values import dataclass

UNNAMED = "image"  # the name of an image that has none


@dataclass(frozen=True, slots=True, kw_only=True)
class Component:
    """A store path in the image; with `copied`, files of it, in the root. `nar_hash` is `sha256:` and
    64 hex digits; it and the `references` to other components, in order, are None if they are
    unknown. If it `refers_elsewhere`, others of its references are not in the image.
    """

    path: str
    package: PackageName
    nar_hash: str | None
    references: tuple[str, ...] | None
    refers_elsewhere: bool = False
    copied: bool = False

    @property
    def purl(self) -> str | None:
        """The package URL, None for a name that Nix would not give. It has no namespace, which
        stands for where the package's expression is from: a store path does not say that.
        """
        if not self.package.digits:
            return None
        digits, name, version, output = self.package
        known = {"output": output, "outputhash": digits}
        qualifiers = urlencode({key: text for key, text in known.items() if text}, quote_via=quote)
        at = f"@{quote(version, safe='')}" if version else ""
        return f"pkg:nix/{quote(name, safe='')}{at}?{qualifiers}"


@dataclass(frozen=True, slots=True, kw_only=True)
class BaseImage:
    """The image that was built on: its tag, empty if it has none, and its ID."""

    name: str
    image_id: Digest


@dataclass(frozen=True, slots=True, kw_only=True)
class Inventory:
    """What the image `name` with the tag `version` holds: `components` in order of their paths, and
    the `base`. `unlisted` says what else is, or may be, in the image; `unknown` what is not
    known of the components. Each is a phrase for a person.
    """

    name: str
    version: str
    platform: str
    created: datetime
    components: tuple[Component, ...]
    base: BaseImage | None
    unlisted: tuple[str, ...]
    unknown: tuple[str, ...]

    @property
    def gaps(self) -> tuple[str, ...]:
        """Everything that is not known, each a phrase for a person."""
        base = () if self.base is None else (f"the content of the base image {self.base.name}",)
        return (*base, *self.unlisted, *self.unknown)


def take_inventory(
    conf: ImageConf, base: BaseImage | None = None, unnamed: str = UNNAMED
) -> Inventory:
    """Return what the image of `conf` holds; `base` is its base image, `unnamed` its name if it has
    none. References are known of a
    conf that was planned in this process, or has a Nix database.
    """
    references = known_references(conf)
    hashes = _hashes(conf)
    copied = {*_copied(conf)}
    paths = sorted({*conf.store_paths, *references, *copied})
    there = frozenset(paths)
    components = []
    for path in paths:
        known = references.get(path)
        name = path.decode()
        components.append(
            Component(
                path=name,
                package=parse_package_name(name),
                nar_hash=hashes.get(path),
                references=None
                if known is None
                else tuple(one.decode() for one in sorted(known & there - {path})),
                refers_elsewhere=bool((known or frozenset()) - there - {path}),
                copied=path in copied - conf.store_paths,
            )
        )
    name, version = split(conf.repo_tag) if conf.repo_tag else (unnamed, "")
    return Inventory(
        name=name,
        version=version,
        platform="/".join(filter(None, ("linux", conf.architecture, conf.variant))),
        created=conf.created,
        components=tuple(components),
        base=base,
        unlisted=tuple(_find_unlisted(conf)),
        unknown=tuple(_find_unknown(components)),
    )


def known_references(conf: ImageConf) -> Mapping[bytes, frozenset[bytes]]:
    """Return the references of the store paths in the image of `conf` to others, so far as it has
    them: if it was planned in this process, or has a Nix database.
    """
    if conf.references is not None:
        return conf.references
    held = conf.store_paths
    recipe = conf.customisation_layer
    database = recipe.database if isinstance(recipe, Recipe) else None
    stated = (
        (item.path.encode(), frozenset(other.encode() for other in item.references))
        for item in (database.objects if database else ())
    )
    return {path: references for path, references in stated if path in held}


def _hashes(conf: ImageConf) -> Mapping[bytes, str]:
    recipe = conf.customisation_layer
    database = recipe.database if isinstance(recipe, Recipe) else None
    stated = {item.path.encode(): item.nar_hash for item in (database.objects if database else ())}
    return {**stated, **conf.store_path_hashes}


def _copied(conf: ImageConf) -> Iterator[bytes]:
    """Yield the store paths whose files are copied into the image's root, in whole or in part."""
    recipe = conf.customisation_layer
    prefix = conf.store_dir + b"/"
    for path in recipe.copy_to_root if isinstance(recipe, Recipe) else ():
        if isinstance(path, bytes) and is_hashed_path(path, conf.store_dir):
            yield prefix + path.removeprefix(prefix).partition(b"/")[0]


def _find_unlisted(conf: ImageConf) -> Iterator[str]:
    layer = conf.customisation_layer
    if isinstance(layer, CustomisationLayer):
        yield "what is in the ready-made customisation layer"
    if not isinstance(layer, Recipe):
        return
    others = [
        path
        for path in layer.copy_to_root
        if isinstance(path, bytes) and not is_hashed_path(path, conf.store_dir)
    ]
    if others:
        yield f"files copied from outside of the store ({len(others)} of the contents)"
    if layer.files:
        yield f"what is in the files of the specification ({len(layer.files)})"
    if layer.has_commands:
        yield "what the commands of the customisation layer add"


def _find_unknown(components: list[Component]) -> Iterator[str]:
    lacking = sum(one.references is None for one in components)
    if lacking:
        yield f"the references of {lacking} of {len(components)} store paths"
    lacking = sum(one.refers_elsewhere for one in components)
    if lacking:
        yield f"what {lacking} of {len(components)} store paths refer to outside of the image"
    lacking = sum(one.nar_hash is None for one in components)
    if lacking:
        yield f"the hashes of {lacking} of {len(components)} store paths"

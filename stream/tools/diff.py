"""The difference between two images: their layers, files and configs.

Files are compared by their metadata; their contents only on request. Memory grows with the number
of entries, within the limits of `stream.archives.flatten`. Knows neither argv nor terminals.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, TypeAlias

from stream.archives.bytesource import pieces
from stream.archives.flatten import Budget, Listing, collect_entries, flatten
from stream.archives.images import ArchiveImage, open_archive
from stream.archives.sequential import Sequential
from stream.archives.tarreader import Member, read_members
from stream.digests import NO_DIGESTS, Digests
from stream.errors import ArgumentError
from stream.model import ImageConf
from stream.schema.reading import ignore
from stream.sources.image import opened
from stream.text import printable
from stream.tools.inspect import InspectedImage, InspectedLayer, inspect
from stream.tools.layers import peruse_base, sized_members
from stream.tools.planned import Planning
from stream.tools.target import ArchiveFile, read_target
from stream.typeflags import DIRECTORY, FILE
from stream.values import dataclass, field, replace

if TYPE_CHECKING:
    from stream.archives.bytesource import ByteSource

Fate: TypeAlias = Literal["removed", "added", "changed"]

_APART = frozenset(("rootfs", "history", "config"))  # of an image config: compared in other ways


class File(NamedTuple):
    """An entry as it is in the image: its typeflag, size in bytes, mode, owner's IDs, link target or
    device, and the SHA-256 of its content if that was read.
    """

    typeflag: bytes
    size: int
    mode: int
    uid: int
    gid: int
    target: bytes
    content: bytes = b""


@dataclass(frozen=True, slots=True, kw_only=True)
class FileChange:
    """A file of one of the images, or in both but not the same. Sizes in bytes are None where it is
    not there. `changed` says what of it has changed: `type`, `size`, `content`, `mode`, `owner`,
    `target`.
    """

    path: str
    before: int | None
    after: int | None
    changed: tuple[str, ...] = ()

    @property
    def fate(self) -> Fate:
        """What happens to it on the way to the second image."""
        if self.before is None:
            return "added"
        return "removed" if self.after is None else "changed"


@dataclass(frozen=True, slots=True, kw_only=True)
class ConfigChange:
    """A value of the image config that differs: its place, such as `config.Env[PATH]`, and the values
    in both, JSON; None where there is none.
    """

    place: str
    before: Any
    after: Any


@dataclass(frozen=True, slots=True, kw_only=True)
class Difference:
    """The difference between two images. Layers are from bottom to top: those that only the first
    one has, that only the second one has, which would move, and how many both have. Files are in
    order of their paths.
    """

    before: InspectedImage
    after: InspectedImage
    removed_layers: tuple[InspectedLayer, ...]
    added_layers: tuple[InspectedLayer, ...]
    files: tuple[FileChange, ...]
    config: tuple[ConfigChange, ...]

    @property
    def moving_size(self) -> int:
        """The size in bytes of the layers that only the second image has, uncompressed."""
        return sum(layer.size for layer in self.added_layers)

    @property
    def is_empty(self) -> bool:
        """True if nothing differs."""
        return not (self.removed_layers or self.added_layers or self.files or self.config)


@dataclass(slots=True)
class _Contents:
    """The entries of a layer, and what is compared of each."""

    listing: Listing = field(default_factory=Listing)
    files: list[File] = field(default_factory=list)


def diff(  # noqa: PLR0913 — the options of the command, each of its own
    before: ImageConf | str | os.PathLike[str],
    after: ImageConf | str | os.PathLike[str],
    *,
    contents: bool = False,
    run_commands: bool = False,
    warn: Callable[[str], None] = ignore,
    digests: Digests = NO_DIGESTS,
) -> Difference:
    """Return the difference between two images, each given as a conf, or the path of a conf, a
    specification or an archive, or `FILE:name:tag`; a conf may be on standard input (`-`). With
    `contents`, all files are read and compared. `digests` has the diff_ids of a conf's layers, so far as
    they are known; where they are not, names decide. A recipe's commands are run only with
    `run_commands`. `warn` is called with a line for a person.

    Raises ArgumentError for an archive on standard input, and StreamImageError.
    """
    planning = Planning(commands="sandboxed" if run_commands else "skipped", digests=digests)
    images = []
    for target in (before, after):
        found = _find(target, warn, planning)
        tree = _tree_of(found, contents=contents)
        looked_at = found if isinstance(found, ImageConf) else str(found)
        inspection = inspect(looked_at, ignore, run_commands=run_commands, digests=digests)
        images.append((inspection.images[0], tree))
    (first, first_tree), (second, second_tree) = images
    return Difference(
        before=first,
        after=second,
        removed_layers=tuple(_without(first.layers, second.layers)),
        added_layers=tuple(_without(second.layers, first.layers)),
        files=tuple(_file_changes(first_tree, second_tree)),
        config=tuple(_config_changes(first.document, second.document)),
    )


def _find(
    target: ImageConf | str | os.PathLike[str], warn: Callable[[str], None], planning: Planning
) -> ImageConf | ArchiveFile:
    if isinstance(target, ImageConf):
        return replace(target, commands=planning.commands)
    found = read_target(target, warn=warn, tagged=False, planning=planning)
    if isinstance(found, Sequential):
        reason = "is an archive, which must be read twice; save it to a file"
        raise ArgumentError("target", found.name, reason)
    return found


# ---- layers


def _without(
    layers: Iterable[InspectedLayer], others: Iterable[InspectedLayer]
) -> Iterator[InspectedLayer]:
    """Yield those of `layers` that are not among `others`."""
    diff_ids = {layer.diff_id for layer in others}
    names = {layer.name: layer.diff_id for layer in others}
    for layer in layers:
        if layer.diff_id is not None and layer.diff_id in diff_ids:
            continue
        # A layer of a conf may have no digest yet. Its name stands for all of its metadata.
        if layer.name in names and (layer.diff_id is None or names[layer.name] is None):
            continue
        yield layer


# ---- files


def _tree_of(found: ImageConf | ArchiveFile, *, contents: bool) -> dict[bytes, File]:
    if isinstance(found, ImageConf):
        return _conf_tree(found, contents=contents)
    return _archive_tree(found, contents=contents)


def _archive_tree(archive_file: ArchiveFile, *, contents: bool) -> dict[bytes, File]:
    lister = _lister(contents=contents)
    with open_archive(archive_file.path, lister) as archive:
        image: ArchiveImage = (
            archive.images[0]
            if archive_file.repo_tag is None and archive.images
            else archive.choose(archive_file.repo_tag)
        )
        layers = [archive.container.peruse(layer.blob) for layer in image.layers]
    return _tree(layers, archive_file.path)


def _conf_tree(conf: ImageConf, *, contents: bool) -> dict[bytes, File]:
    budget = Budget()
    peruse = _lister(budget, contents=contents)
    with opened(conf, ignore) as sources:
        layers = [] if sources.base is None else peruse_base(sources.base, peruse)
        top = sources.customisation
        for layer in (*sources.walk_store_layers(), *((top,) if top is not None else ())):
            if contents:
                with layer.content() as content:
                    layers.append(peruse(content))
            else:
                members = sized_members(layer, sources.conf.store_root)
                layers.append(_listed(members, layer.label, budget))
    return _tree(layers, conf.repo_tag or "the conf")


def _lister(budget: Budget | None = None, *, contents: bool) -> Callable[[ByteSource], _Contents]:
    """Return a function that lists the files of a layer, with their contents if asked for."""
    budget = budget or Budget()

    def listed(layer: ByteSource) -> _Contents:
        return _listed(read_members(layer), layer.name, budget, layer if contents else None)

    return listed


def _listed(
    members: Iterable[Member], name: str, budget: Budget, content: ByteSource | None = None
) -> _Contents:
    found = _Contents()
    for member in members:
        budget.take(member, name)
        digest = b""
        if content is not None and member.typeflag == FILE:
            hashed = hashlib.sha256()
            for piece in pieces(content, member.size):
                hashed.update(piece)
            digest = hashed.digest()
        target = member.link or b"%d:%d" % member.device
        found.files.append(
            File(member.typeflag, member.size, member.mode, member.uid, member.gid, target, digest)
        )
        found.listing.add(member)
    return found


def _tree(layers: list[_Contents], name: str) -> dict[bytes, File]:
    """Return the entries of an image by their paths, without those that upper layers hide."""
    numbered = ((number, one.listing, name) for number, one in enumerate(layers))
    visible = collect_entries(flatten(numbered))
    files = {
        path: layers[number].files[index]
        for number, leaves in visible.leaves.items()
        for index, paths in leaves.items()
        for path in paths
    }
    for path, member in visible.directories.items():
        if member is not None:
            files[path] = File(DIRECTORY, 0, member.mode, member.uid, member.gid, b"")
    return files


def _file_changes(
    before: Mapping[bytes, File], after: Mapping[bytes, File]
) -> Iterator[FileChange]:
    for path in sorted(before.keys() | after.keys()):
        old, new = before.get(path), after.get(path)
        if old == new:
            continue
        yield FileChange(
            path="/" + printable(path),
            before=None if old is None else old.size,
            after=None if new is None else new.size,
            changed=() if old is None or new is None else tuple(_changed(old, new)),
        )


def _changed(old: File, new: File) -> Iterator[str]:
    if old.typeflag != new.typeflag:
        yield "type"
        return
    if old.size != new.size:
        yield "size"
    if old.content != new.content:
        yield "content"
    if old.mode != new.mode:
        yield "mode"
    if (old.uid, old.gid) != (new.uid, new.gid):
        yield "owner"
    if old.target != new.target:
        yield "target"


# ---- config


def _config_changes(before: Mapping[str, Any], after: Mapping[str, Any]) -> Iterator[ConfigChange]:
    old, new = _values(before), _values(after)
    for place in dict.fromkeys((*old, *new)):
        if old.get(place) != new.get(place):
            yield ConfigChange(place=place, before=old.get(place), after=new.get(place))


def _values(document: Mapping[str, Any]) -> dict[str, Any]:
    """Return the values of an image config by their places: each variable and label by its name."""
    values = {key: value for key, value in document.items() if key not in _APART}
    config = document.get("config")
    for key, value in (config if isinstance(config, dict) else {}).items():
        if key == "Env" and isinstance(value, list):
            for item in value:
                name, equals, text = str(item).partition("=")
                values[f"config.Env[{name}]"] = text if equals else None
        elif isinstance(value, dict):
            values |= {f"config.{key}[{name}]": one for name, one in value.items()}
        else:
            values[f"config.{key}"] = value
    return values

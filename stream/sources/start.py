"""The files of the image of a conf, so far as a container's start depends on them.

Store paths are looked up on disk, one by one. Knows layers; not why their files matter.
"""

from __future__ import annotations

import json
import os
import stat
from collections.abc import Iterator
from typing import Any

from stream.archives.programs import LayeredPrograms, LayerFiles, ProgramBudget, ProgramListing
from stream.archives.tarreader import read_members
from stream.model import ImageConf
from stream.nix.store_root import Disk
from stream.oci.documents import image_config
from stream.oci.start import HEAD, MAX_ACCOUNTS, Entry, Problem, find_problems, interpreter_of
from stream.sources.customisation.content import pieces
from stream.sources.customisation.made import MadeLayer
from stream.sources.customisation.tree import Node, Tree
from stream.sources.image import ImageSources
from stream.sources.layer import ListedLayer
from stream.typeflags import DIRECTORY, FILE, LINK

_EXECUTABLE = 0o111


def find_start_problems(conf: ImageConf, sources: ImageSources) -> Iterator[Problem]:
    """Yield the reasons why a container of the image of `conf` cannot start. `sources` are
    those of `conf`, apart from its store layers, with the programs of a base image. Raises
    StreamImageError for files that cannot be read.
    """
    base, layers = sources.base, list[LayerFiles]()
    if base is not None:
        listings = [base.listings[layer.blob].programs for layer in base.layers]
        known = [listing for listing in listings if listing is not None and listing.is_complete]
        if len(known) < len(listings):
            return
        layers += known
    layers.append(_StoreFiles(conf))
    top = sources.customisation
    if isinstance(top, MadeLayer):
        layers.append(_TreeFiles(top.tree))
    elif top is not None:
        listing = _list_programs(top)
        if not listing.is_complete:
            return
        layers.append(listing)
    document = json.loads(image_config(conf, (), base.document if base else None))
    config: dict[str, Any] = document["config"]
    # Without store layers, the image relies on a store mounted where it runs.
    mounted = None if conf.store_paths else conf.store_dir.strip(b"/")
    yield from find_problems(config, LayeredPrograms(layers, mounted=mounted))


def _list_programs(layer: ListedLayer) -> ProgramListing:
    listing = ProgramListing(ProgramBudget())
    with layer.content() as content:
        for member in read_members(content):
            listing.add(member, content)
    return listing


class _StoreFiles:
    """The files of store paths."""

    def __init__(self, conf: ImageConf) -> None:
        self._disk = Disk.of(conf)
        self._store = conf.store_dir.strip(b"/")
        self._paths = conf.store_paths

    def find(self, path: bytes) -> Entry | None:
        """See LayerFiles."""
        if self._paths and (self._store + b"/").startswith(path + b"/"):
            return Entry(DIRECTORY)
        place = self._place(path)
        if place is None:
            return None
        try:
            mode = os.lstat(place).st_mode
            if stat.S_ISLNK(mode):
                return Entry(LINK, link=os.readlink(place))
            if stat.S_ISDIR(mode):
                return Entry(DIRECTORY)
            head = _head(place, HEAD) if mode & _EXECUTABLE else b""
        except OSError:
            return None
        return Entry(FILE, is_executable=bool(mode & _EXECUTABLE), interpreter=interpreter_of(head))

    def read(self, path: bytes) -> bytes | None:
        place = self._place(path)
        try:
            content = _head(place, MAX_ACCOUNTS + 1) if place else b""
        except OSError:
            return None
        return content if len(content) <= MAX_ACCOUNTS else None

    def _place(self, path: bytes) -> bytes | None:
        """Return the path on disk of a file in a store path of the image."""
        name = path.removeprefix(self._store + b"/").split(b"/", 1)[0]
        if b"/" + self._store + b"/" + name not in self._paths:
            return None
        try:
            return self._disk.at(b"/" + path)
        except OSError:
            return None


def _head(place: bytes, count: int) -> bytes:
    with open(place, "rb") as file:
        return file.read(count)


class _TreeFiles:
    """The files of a tree in memory."""

    def __init__(self, tree: Tree) -> None:
        self._tree = tree

    def find(self, path: bytes) -> Entry | None:
        node = self._tree.find(path)
        if node is None:
            return None
        if node.typeflag != FILE:
            return Entry(node.typeflag, link=node.link, is_executable=True)
        executable = bool(node.mode & _EXECUTABLE)
        head = _begin(node, HEAD) if executable else b""
        return Entry(FILE, is_executable=executable, interpreter=interpreter_of(head))

    def read(self, path: bytes) -> bytes | None:
        node = self._tree.find(path)
        if node is None or node.typeflag != FILE or node.size > MAX_ACCOUNTS:
            return None
        return _begin(node, MAX_ACCOUNTS)


def _begin(node: Node, count: int) -> bytes:
    """Return the first `count` bytes of a file."""
    found = b""
    for piece in pieces(node):
        found += piece
        if len(found) >= count:
            break
    return found[:count]

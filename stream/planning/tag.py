"""The tag that is derived: it changes exactly when something does that decides the
image's bytes, as the hash part of a store path does.

Knows conf documents and store paths; no planner.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from stream.model import ImageConf, Owner, Recipe
from stream.nix.hashes import STORE_NAME, compressed, nix_base32
from stream.nix.store_root import Disk
from stream.tarwriter import ArchiveWriter, Entries, MemberWriter

_HASHED = re.compile(STORE_NAME.encode())
_TAG_BYTES = 20  # 32 characters, as in the name of a store path


def derived_tag(document: dict[str, Any], conf: ImageConf, base_image_id: str | None) -> str:
    """The tag of what `document`, a conf that has a repository and no tag, yields: 32
    characters of Nix's base-32. `conf` is what it reads as. The name of a store path with
    a hash stands for its content; other paths are read, and those that are copied stand
    for nothing else. Raises StreamImageError.
    """
    # Where files are read does not show in the image.
    elsewhere = {"from_image", "store_root"}
    described = {key: value for key, value in document.items() if key not in elsewhere}
    described["base image"] = base_image_id
    disk = Disk.of(conf)
    described["content"] = {
        os.fsdecode(path): _content_digest(disk.at(path)) for path in sorted(_unhashed(conf))
    }
    recipe = conf.customisation_layer
    if isinstance(recipe, Recipe):
        # Where what is copied lies does not show in the image, and differs between checkouts.
        described["customisation_layer"] = {
            **document["customisation_layer"],
            "copy_to_root": [
                _copied_digest(content, recipe, disk)
                if isinstance(content, bytes) and not _is_hashed(content, conf.store_dir)
                else repr(content)
                for content in recipe.copy_to_root
            ],
        }
    elif recipe is not None:
        described["customisation_layer"] = recipe.checksum
    data = json.dumps(described, sort_keys=True, ensure_ascii=True).encode()
    return nix_base32(compressed(hashlib.sha256(data).digest(), _TAG_BYTES))


def _unhashed(conf: ImageConf) -> set[bytes]:
    """The paths in the image, or linked to from there, whose names do not say what is in
    them.
    """
    paths = {path for plan in conf.store_layers for path in plan.store_paths}
    recipe = conf.customisation_layer
    if isinstance(recipe, Recipe):
        paths.update(path for path in recipe.contents if isinstance(path, bytes))
        for content in recipe.contents + recipe.copy_to_root:
            if not isinstance(content, bytes) and content.path:
                paths.add(content.path)
    return {path for path in paths if not _is_hashed(path, conf.store_dir)}


def _is_hashed(path: bytes, store_dir: bytes) -> bool:
    """Whether `path` is a store path with a hash in its name, or in one."""
    name = path.removeprefix(store_dir + b"/").split(b"/", 1)[0]
    return path.startswith(store_dir + b"/") and _HASHED.fullmatch(name) is not None


def _content_digest(path: bytes) -> str:
    """The digest of what is at `path` on disk as a layer of its own, wherever that is."""
    root, _, name = path.rpartition(b"/")
    entries = Entries(owner=Owner(), mtime=0, root=root)
    entries.walk(b"/" + name)
    with _layer(entries.layer_size) as layer:
        layer.write_entries(entries)
        layer.close()
        return layer.hashed()


def _copied_digest(content: bytes, recipe: Recipe, disk: Disk) -> str:
    """The digest of what the recipe copies of `content`: as copying finds it, for links to
    directories lead to what stands beside a content.
    """
    from stream.sources.customisation.join import make_tree
    from stream.sources.customisation.made import made_layer

    tree = make_tree(
        Recipe(copy_to_root=(content,), first_wins=True, keep_dirlinks=recipe.keep_dirlinks),
        disk=disk,
    )
    source = made_layer(tree, Recipe(), mtime=0)
    with _layer(source.size) as layer:
        source.write_to(layer)
        layer.close()
        return layer.hashed()


@contextmanager
def _layer(size: int) -> Iterator[MemberWriter]:
    """A layer that is only hashed."""
    fd = os.open(os.devnull, os.O_WRONLY | os.O_CLOEXEC)
    try:
        with ArchiveWriter(fd, mtime=0) as archive:
            yield MemberWriter(archive, "layer.tar", size)
    finally:
        os.close(fd)

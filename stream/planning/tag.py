"""Derive the tag of an image. Like the hash of a store path, it changes exactly when
something changes that determines the image's bytes.

Knows conf documents and store paths; must not know the planner.
"""

from __future__ import annotations

import hashlib
import json
import os
import time
from typing import Any

from stream.known import Known
from stream.model import ImageConf, PlacedFile, Recipe
from stream.nix.hashes import compress_hash, encode_nix_base32, is_hashed_path
from stream.nix.store_root import Disk
from stream.sources.store import walk_alone

TAG_LENGTH = 32  # characters, the length of a store path's hash
_TAG_BYTES = 20


def derive_tag(
    document: dict[str, Any], conf: ImageConf, base_image_id: str | None, known: Known
) -> str:
    """Return the tag of the image of `document`, a conf with a repository and without a tag:
    32 characters of Nix32. `conf` is the same conf, parsed. A store path with a hash in its
    name is represented by the name, any other path by its content; of a path that is copied,
    or put into the image as `files`, only the content counts. What `known` does not have is read.
    Raises StreamImageError.
    """
    # The places where files are read do not affect the image. Nor does what is known of store paths.
    elsewhere = {"from_image", "store_path_hashes", "store_root"}
    described = {key: value for key, value in document.items() if key not in elsewhere}
    described["base image"] = base_image_id
    disk = Disk.of(conf)
    described["content"] = {
        os.fsdecode(path): known.diff_id(walk_alone(disk.at(path)))
        for path in sorted(_find_unhashed(conf))
    }
    recipe = conf.customisation_layer
    if isinstance(recipe, Recipe):
        # The paths of copied files do not affect the image, and differ between checkouts.
        described["customisation_layer"] = {
            **document["customisation_layer"],
            "copy_to_root": [
                _digest_copy(content, recipe, disk, known)
                if isinstance(content, bytes) and not is_hashed_path(content, conf.store_dir)
                else repr(content)
                for content in recipe.copy_to_root
            ],
        }
        if recipe.files:
            digests = [_digest_file(item, disk, known) for item in recipe.files]
            described["customisation_layer"]["files"] = digests
    elif recipe is not None:
        described["customisation_layer"] = [recipe.checksum, *filter(None, [recipe.comment])]
    data = json.dumps(described, sort_keys=True, ensure_ascii=True).encode()
    return encode_tag(hashlib.sha256(data).digest())


def encode_tag(digest: bytes) -> str:
    """Return a tag for a SHA-256, 32 bytes."""
    return encode_nix_base32(compress_hash(digest, _TAG_BYTES))


def _find_unhashed(conf: ImageConf) -> set[bytes]:
    """Return the paths in the image, or linked to from it, whose names do not identify their
    content.
    """
    paths = {*conf.store_paths}
    recipe = conf.customisation_layer
    if isinstance(recipe, Recipe):
        paths.update(path for path in recipe.contents if isinstance(path, bytes))
        for content in recipe.contents + recipe.copy_to_root:
            if not isinstance(content, bytes) and content.path:
                paths.add(content.path)
    return {path for path in paths if not is_hashed_path(path, conf.store_dir)}


def _digest_copy(content: bytes, recipe: Recipe, disk: Disk, known: Known) -> str:
    """Return the digest of the files that the recipe copies from `content`. They are copied as
    for the image, because links to directories can lead to files beside `content`.
    """
    one = Recipe(copy_to_root=(content,), conflicts="first", keep_dirlinks=recipe.keep_dirlinks)
    return _digest_tree(one, disk, known)


def _digest_file(item: PlacedFile, disk: Disk, known: Known) -> str:
    """Return the digest of the files that `item` puts into the image."""
    return _digest_tree(Recipe(files=(item,)), disk, known)


def _digest_tree(recipe: Recipe, disk: Disk, known: Known) -> str:
    from stream.sources.customisation.join import make_tree
    from stream.sources.customisation.made import made_layer
    from stream.sources.customisation.refresh import refresh_bytecode

    began_ns = time.time_ns()
    tree = make_tree(recipe, disk=disk)
    refresh_bytecode(tree, 0)
    return known.diff_id(made_layer(tree, Recipe(), mtime=0, began_ns=began_ns))

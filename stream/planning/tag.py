"""The tag that is derived: it changes exactly when something does that decides the
image's bytes, as the hash part of a store path does.

Knows conf documents and store paths; no planner.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
from typing import Any

from stream.model import ImageConf, Recipe
from stream.nixhash import STORE_NAME, compressed, nix_base32
from stream.tarwriter import ArchiveWriter, Entries

_HASHED = re.compile(STORE_NAME.encode())
_TAG_BYTES = 20  # 32 characters, as in the name of a store path


def derived_tag(document: dict[str, Any], conf: ImageConf, base_image_id: str | None) -> str:
    """The tag of what `document`, a conf that is complete but for its tag, yields: 32
    characters of Nix's base-32. `conf` is what it reads as. The name of a store path with
    a hash stands for its content; other paths are read. Raises SourceError.
    """
    described = {key: value for key, value in document.items() if key != "from_image"}
    described["base image"] = base_image_id
    described["content"] = {
        os.fsdecode(path): _content_digest(path, conf) for path in sorted(_unhashed(conf))
    }
    if conf.customisation_layer is not None and not isinstance(conf.customisation_layer, Recipe):
        described["customisation_layer"] = conf.customisation_layer.checksum
    data = json.dumps(described, sort_keys=True, ensure_ascii=True).encode()
    return nix_base32(compressed(hashlib.sha256(data).digest(), _TAG_BYTES))


def _unhashed(conf: ImageConf) -> set[bytes]:
    """The paths in the image whose names do not say what is in them."""
    paths = {path for plan in conf.store_layers for path in plan.store_paths}
    if isinstance(conf.customisation_layer, Recipe):
        for content in conf.customisation_layer.contents + conf.customisation_layer.copy_to_root:
            paths.add(content if isinstance(content, bytes) else content.path)
    prefix = conf.store_dir + b"/"
    return {
        path
        for path in paths
        if path
        and not (
            path.startswith(prefix)
            and _HASHED.fullmatch(path.removeprefix(prefix).split(b"/", 1)[0])
        )
    }


def _content_digest(path: bytes, conf: ImageConf) -> str:
    """The digest of `path` as a layer of its own."""
    entries = Entries(owner=conf.owner, mtime=conf.mtime)
    entries.walk(path)
    fd = os.open(os.devnull, os.O_WRONLY | os.O_CLOEXEC)
    try:
        with ArchiveWriter(fd, mtime=0) as archive:
            layer = archive.begin_layer("layer.tar", entries.layer_size)
            layer.write_entries(entries)
            layer.close()
            return layer.complete()
    finally:
        os.close(fd)

"""The JSON documents of an image, as bytes. Knows no tar and no files.

Image config: OCI Image Specification, config.md; its exact bytes are those of
nixpkgs' `dockerTools`, because their SHA-256 is the image ID. Archive manifest:
the `manifest.json` of `docker save`.
"""

from __future__ import annotations

import json
from collections.abc import Sequence

from stream.model import ImageConf, Layer


def image_config(conf: ImageConf, layers: Sequence[Layer]) -> bytes:
    """The image config of `conf` over `layers`, bottom to top."""
    created = conf.created.isoformat()
    document = {
        "created": created,
        "architecture": conf.architecture,
        "os": "linux",
        "config": conf.container_config,
        "rootfs": {"diff_ids": [layer.diff_id for layer in layers], "type": "layers"},
        "history": [{"created": created, "comment": layer.comment} for layer in layers],
    }
    return json.dumps(document, indent=4).encode("ascii")


def archive_manifest(config_name: str, repo_tag: str, layers: Sequence[Layer]) -> bytes:
    """The `manifest.json` that names config and layers by archive member."""
    document = [
        {
            "Config": config_name,
            "RepoTags": [repo_tag],
            "Layers": [layer.archive_name for layer in layers],
        }
    ]
    return json.dumps(document, sort_keys=True, separators=(",", ":")).encode("ascii")


def store_paths_comment(paths: Sequence[str]) -> str:
    """The history comment of a layer made of `paths`."""
    return f"store paths: {list(paths)}"

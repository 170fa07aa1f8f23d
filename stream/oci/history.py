"""What the history of an image says of its layers: the store paths in each, in the comment that
nixpkgs' `dockerTools` writes, and so do we. Anybody can write a history: what does not have exactly
that form says nothing.

OCI Image Specification, config.md. Must not know where a config comes from.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from stream.faults import why_not_normal
from stream.limits import MAX_LAYERS
from stream.model import RecordedLayer

_MAX_PATH = 4096  # characters, as in Linux
_MAX_PATHS = 1 << 15  # of all layers; as many as are planned at most
# As Python's repr() writes a string. Each branch begins in its own way: matching takes linear time.
_ESCAPED = r"\\(?:[\\'nrt]|x[0-9a-f]{2}|u[0-9a-f]{4}|U[0-9a-f]{8})"
_ITEM = rf"'(?:[^'\\]|{_ESCAPED})*+'|\"(?:[^\"\\]|{_ESCAPED})*+\""
_COMMENT = re.compile(rf"store paths: \[((?:{_ITEM})(?:, (?:{_ITEM}))*+)\]", re.DOTALL)
_ITEMS = re.compile(_ITEM, re.DOTALL)
_ESCAPES = re.compile(_ESCAPED)
_SHORT = {"\\\\": "\\", "\\'": "'", "\\n": "\n", "\\r": "\r", "\\t": "\t"}


def recorded_layers(config: Mapping[str, Any]) -> list[RecordedLayer]:
    """Return the layers with store paths of the image with this config, which may be anything, from
    bottom to top. It is empty if the image is not one of ours, or of dockerTools.
    """
    history, diff_ids = config.get("history"), config.get("rootfs")
    diff_ids = diff_ids.get("diff_ids") if isinstance(diff_ids, dict) else None
    if not isinstance(history, list) or not isinstance(diff_ids, list):
        return []
    comments = [
        one.get("comment")
        for one in history[-MAX_LAYERS:]
        if isinstance(one, dict) and not one.get("empty_layer")
    ]
    found: list[RecordedLayer] = []
    left = _MAX_PATHS
    # From the top: in a base image, the history may be that of other layers.
    for comment, diff_id in zip(reversed(comments), reversed(diff_ids), strict=False):
        paths = store_paths_in(comment)
        left -= len(paths)
        if left < 0:
            return []
        if paths and isinstance(diff_id, str):
            found.append(RecordedLayer(diff_id=diff_id, store_paths=paths))
    return found[::-1]


def store_paths_in(comment: object) -> tuple[str, ...]:
    """Return the paths of a comment that `documents.store_paths_comment` could have made, if each
    can be one of a store; else none.
    """
    match = _COMMENT.fullmatch(comment) if isinstance(comment, str) else None
    if match is None:
        return ()
    try:
        paths = tuple(_unquoted(item[1:-1]) for item in _ITEMS.findall(match[1]))
    except ValueError:  # a number that is not a character's
        return ()
    return () if any(len(path) > _MAX_PATH or why_not_normal(path) for path in paths) else paths


def _unquoted(text: str) -> str:
    return _ESCAPES.sub(_character, text) if "\\" in text else text


def _character(match: re.Match[str]) -> str:
    escape = match[0]
    return _SHORT.get(escape) or chr(int(f"0x{escape[2:]}", 0))

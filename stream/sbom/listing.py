"""What the formats of SBOMs have in common: instants, identities, and what is read of one.

Must not know the formats.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

from stream.values import dataclass


class Malformed(ValueError):
    """An SBOM that cannot be read. The message says what is wrong with it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Listed:
    """What an SBOM says of the image `name` with the tag `version`. `hashes` has its store paths,
    each with the NAR hash, `sha256:` and 64 hex digits, or None; `references` those of the paths
    whose references it knows; of the `copied` ones, files are elsewhere in the image. It lists
    everything in the image only if it `is_whole`. `gaps` are what it says that it does not know.
    """

    format: str
    name: str
    version: str
    hashes: Mapping[str, str | None]
    references: Mapping[str, frozenset[str]]
    copied: frozenset[str]
    is_whole: bool
    gaps: tuple[str, ...]


def plain_time(instant: datetime) -> str:
    """Return an instant in seconds and UTC, as both formats take it."""
    return instant.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ").rjust(20, "0")


def identify(document: dict[str, Any]) -> str:
    """Return a UUID for a document, which depends on its content alone: RFC 9562, version 8."""
    digest = bytearray(hashlib.sha256(json.dumps(document, sort_keys=True).encode()).digest()[:16])
    digest[6] = digest[6] & 0x0F | 0x80
    digest[8] = digest[8] & 0x3F | 0x80
    text = digest.hex()
    return "-".join((text[:8], text[8:12], text[12:16], text[16:20], text[20:]))


def find_objects(document: dict[str, Any], key: str) -> list[dict[str, Any]]:
    """Return the objects in the list at `key`; none if there is no list."""
    items = document.get(key)
    return [one for one in items if isinstance(one, dict)] if isinstance(items, list) else []

"""A conf or specification for several platforms, as JSON: `platforms` is a list of objects, one for
each, whose members replace those of the document.

Knows no keys besides `platforms`, `architecture` and `variant`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from stream.errors import ConfError, Fault
from stream.faults import kind

KEY = "platforms"
MAX_PLATFORMS = 64  # more than there are; each is a whole conf
# Of a document where one image is needed.
TOO_MANY = (
    "there are several, and only one image can be used here; take one out, as with"
    " jq 'del(.platforms) + .platforms[0]'"
)


def split_platforms(document: dict[str, Any], name: str) -> list[tuple[str, dict[str, Any]]]:
    """Return the document for each platform with its name for messages, which call the whole one
    `name`. A document without `platforms` is for one. Raises ConfError.
    """
    items = document.get(KEY)
    shared = {key: value for key, value in document.items() if key != KEY}
    if items is None:
        return [(name, shared)]
    faults: list[Fault] = []
    if not isinstance(items, list):
        raise ConfError(name, [Fault(KEY, f"must be a list, not {kind(items)}")])
    if not items:
        faults.append(Fault(KEY, "is empty; omit the key instead"))
    if len(items) > MAX_PLATFORMS:
        raise ConfError(
            name, [Fault(KEY, f"has {len(items)} items; at most {MAX_PLATFORMS} are allowed")]
        )
    documents = []
    places: dict[tuple[str, str], str] = {}  # the first place of each platform
    for number, item in enumerate(items):
        place = f"{KEY}[{number}]"
        if not isinstance(item, dict):
            faults.append(Fault(place, f"must be an object, not {kind(item)}"))
        elif KEY in item:
            faults.append(Fault(f"{place}.{KEY}", "is not possible within platforms"))
        else:
            whole = {**shared, **item}
            documents.append((f"{name}: {place}", whole))
            platform = _platform(whole)
            if not platform[0]:
                # The default is that of this machine.
                faults.append(
                    Fault(f"{place}.architecture", "is missing; give each platform its own")
                )
            elif (first := places.setdefault(platform, place)) != place:
                faults.append(Fault(place, f"is for the same architecture and variant as {first}"))
    if faults:
        raise ConfError(name, faults)
    return documents


def join_platforms(documents: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Return one document for those of several platforms; what all have in common is in it once.
    A single document is returned as it is.
    """
    first, *others = documents
    if not others:
        return first
    shared = {
        key: value
        for key, value in first.items()
        if key != "architecture"
        and all(key in other and _is_same(other[key], value) for other in others)
    }
    items = [{key: one[key] for key in one if key not in shared} for one in documents]
    return {**shared, KEY: items}


def _is_same(one: object, other: object) -> bool:
    # Equal objects may differ in the order of their members, and 1 equals True: other bytes.
    return repr(one) == repr(other)


def _platform(document: dict[str, Any]) -> tuple[str, str]:
    """Return architecture and variant as text, whatever they are: that is checked elsewhere."""
    return str(document.get("architecture") or ""), str(document.get("variant") or "")

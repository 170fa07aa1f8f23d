"""An inventory as SPDX, and back.

SPDX 2.3, JSON (ISO/IEC 5962:2021 is its predecessor). What is not known is said by NOASSERTION
at the other end of a relationship, as its clause 11.1 has it, and what is known not to be by
NONE. Must not know confs.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

from stream.sbom.inventory import Component, Inventory
from stream.sbom.listing import Listed, Malformed, find_objects, identify, plain_time

MEDIA_TYPE = "application/spdx+json"
_DOCUMENT = "SPDXRef-DOCUMENT"
_IMAGE = "SPDXRef-Image"
_BASE = "SPDXRef-BaseImage"
_PACKAGE = "SPDXRef-Package-"
_UNKNOWN, _NONE = "NOASSERTION", "NONE"
_NOT_IN_IDS = re.compile("[^a-zA-Z0-9.-]")
_GAPS = "Not known: "
_COPIED = "Its files are copied into the root"


def document(inventory: Inventory, tool: str) -> dict[str, Any]:
    """Return the document; `tool` is the version of the program that makes it."""
    ids = _ids(inventory)
    version = {"versionInfo": inventory.version} if inventory.version else {}
    image = {
        **_package(_IMAGE, inventory.name, "CONTAINER"),
        **version,
        "comment": f"A container image for {inventory.platform}",
    }
    gaps = "; ".join(inventory.gaps)
    described: dict[str, Any] = {
        "spdxVersion": "SPDX-2.3",
        "dataLicense": "CC0-1.0",
        "SPDXID": _DOCUMENT,
        "name": ":".join(filter(None, (inventory.name, inventory.version))),
        "creationInfo": {
            "created": plain_time(inventory.created),
            "creators": [f"Tool: stream-image-{tool}"],
        },
        **({"comment": f"{_GAPS}{gaps}"} if gaps else {}),
        "packages": [
            image,
            *(_component(ids[one.path], one) for one in inventory.components),
            *_base(inventory),
        ],
        "relationships": [*_relationships(inventory, ids)],
    }
    return {**described, "documentNamespace": f"urn:uuid:{identify(described)}"}


def _ids(inventory: Inventory) -> dict[str, str]:
    """Return an identifier for each store path. They hold only letters, digits, dots and dashes, so
    that those of two names may be alike.
    """
    ids: dict[str, str] = {}
    taken: dict[str, int] = {}
    for component in inventory.components:
        name = _NOT_IN_IDS.sub("-", component.path.rpartition("/")[2])
        taken[name] = count = taken.get(name, 0) + 1
        ids[component.path] = f"{_PACKAGE}{name}" if count == 1 else f"{_PACKAGE}{count}--{name}"
    return ids


def _package(spdx_id: str, name: str, purpose: str) -> dict[str, Any]:
    return {
        "SPDXID": spdx_id,
        "name": name,
        "downloadLocation": _UNKNOWN,
        "filesAnalyzed": False,
        "primaryPackagePurpose": purpose,
    }


def _component(spdx_id: str, component: Component) -> dict[str, Any]:
    package, purl = component.package, component.purl
    described = {**_package(spdx_id, package.name, "OTHER"), "packageFileName": component.path}
    if package.version:
        described["versionInfo"] = package.version
    if component.nar_hash is not None:
        value = component.nar_hash.removeprefix("sha256:")
        described["checksums"] = [{"algorithm": "SHA256", "checksumValue": value}]
    if component.copied:
        described["comment"] = _COPIED
    if purl is not None:
        locator = {"referenceType": "purl", "referenceLocator": purl}
        described["externalRefs"] = [{"referenceCategory": "PACKAGE-MANAGER", **locator}]
    return described


def _base(inventory: Inventory) -> Iterator[dict[str, Any]]:
    if (base := inventory.base) is not None:
        yield {**_package(_BASE, base.name, "CONTAINER"), "versionInfo": base.image_id}


def _relationships(inventory: Inventory, ids: dict[str, str]) -> Iterator[dict[str, str]]:
    def related(one: str, how: str, other: str) -> dict[str, str]:
        return {"spdxElementId": one, "relationshipType": how, "relatedSpdxElement": other}

    yield related(_DOCUMENT, "DESCRIBES", _IMAGE)
    for component in inventory.components:
        yield related(_IMAGE, "CONTAINS", ids[component.path])
    if inventory.unlisted:
        yield related(_IMAGE, "CONTAINS", _UNKNOWN)
    if inventory.base is not None:
        yield related(_IMAGE, "DESCENDANT_OF", _BASE)
        yield related(_BASE, "CONTAINS", _UNKNOWN)
    for component in inventory.components:
        known = component.references
        others = [_UNKNOWN] if known is None else [ids[one] for one in known]
        if component.refers_elsewhere:
            others.append(_UNKNOWN)
        others = others or [_NONE]
        for other in others:
            yield related(ids[component.path], "DEPENDS_ON", other)


# ---- back


def is_document(document: dict[str, Any]) -> bool:
    """Return True if a JSON object is of this format."""
    return str(document.get("spdxVersion", "")).startswith("SPDX-2.")


def read(document: dict[str, Any]) -> Listed:
    """Return the store paths that a document lists. Raises Malformed."""
    paths: dict[str, str] = {}  # by identifier
    hashes: dict[str, str | None] = {}
    copied = set()
    name = version = ""
    for one in find_objects(document, "packages"):
        path, spdx_id = one.get("packageFileName"), str(one.get("SPDXID"))
        if spdx_id == _IMAGE:
            name, version = str(one.get("name", "")), str(one.get("versionInfo", ""))
        if not isinstance(path, str):
            continue
        if path in hashes:
            raise Malformed(f"lists {path} twice")
        paths[spdx_id] = path
        if one.get("comment") == _COPIED:
            copied.add(path)
        stated = [
            item.get("checksumValue")
            for item in find_objects(one, "checksums")
            if item.get("algorithm") == "SHA256"
        ]
        hashes[path] = f"sha256:{stated[0]}" if stated else None
    found: dict[str, set[str]] = {}
    unknown = set()
    is_whole = True
    for one in find_objects(document, "relationships"):
        path = paths.get(str(one.get("spdxElementId")))
        other = str(one.get("relatedSpdxElement"))
        is_whole &= one.get("relationshipType") != "CONTAINS" or other != _UNKNOWN
        if path is None or one.get("relationshipType") != "DEPENDS_ON":
            continue
        if other == _UNKNOWN:
            unknown.add(path)
        found.setdefault(path, set()).update({paths[other]} if other in paths else ())
    comment = str(document.get("comment", ""))
    gaps = comment.removeprefix(_GAPS).split("; ") if comment.startswith(_GAPS) else []
    return Listed(
        format="spdx",
        name=name,
        version=version,
        hashes=hashes,
        references={path: frozenset(found[path]) for path in found.keys() - unknown},
        copied=frozenset(copied),
        is_whole=is_whole,
        gaps=tuple(gaps),
    )

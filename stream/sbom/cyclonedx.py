"""An inventory as CycloneDX, and back.

CycloneDX 1.5, JSON: ECMA-424's predecessor, which readers of some years' standing have. What is
not known is said by `compositions`. Must not know confs.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from stream.sbom.inventory import Component, Inventory
from stream.sbom.listing import Listed, Malformed, find_objects, identify, plain_time

MEDIA_TYPE = "application/vnd.cyclonedx+json"
_IMAGE = "image"
_BASE = "base-image"
_PATH = "nix:output_path"  # as sbomnix names it
_GAP = "stream-image:unknown"
_COPIED = "stream-image:copied"


def document(inventory: Inventory, tool: str) -> dict[str, Any]:
    """Return the document; `tool` is the version of the program that makes it."""
    image = {
        "type": "container",
        "bom-ref": _IMAGE,
        "name": inventory.name,
        **({"version": inventory.version} if inventory.version else {}),
        "properties": [{"name": "oci:platform", "value": inventory.platform}],
    }
    described: dict[str, Any] = {
        "$schema": "http://cyclonedx.org/schema/bom-1.5.schema.json",
        "bomFormat": "CycloneDX",
        "specVersion": "1.5",
        "version": 1,
        "metadata": {
            "timestamp": plain_time(inventory.created),
            "tools": {
                "components": [{"type": "application", "name": "stream-image", "version": tool}]
            },
            "component": image,
            **_properties((_GAP, gap) for gap in inventory.gaps),
        },
        "components": [*map(_component, inventory.components), *_base(inventory)],
        "dependencies": [*_dependencies(inventory)],
        "compositions": [*_compositions(inventory)],
    }
    return {**described, "serialNumber": f"urn:uuid:{identify(described)}"}


def _component(component: Component) -> dict[str, Any]:
    package, purl = component.package, component.purl
    described: dict[str, Any] = {
        "type": "library",
        "bom-ref": component.path,
        "name": package.name,
    }
    if package.version:
        described["version"] = package.version
    if component.nar_hash is not None:
        content = component.nar_hash.removeprefix("sha256:")
        described["hashes"] = [{"alg": "SHA-256", "content": content}]
    if purl is not None:
        described["purl"] = purl
    copied = [(_COPIED, "true")] if component.copied else []
    return {**described, **_properties([(_PATH, component.path), *copied])}


def _base(inventory: Inventory) -> Iterator[dict[str, Any]]:
    if (base := inventory.base) is not None:
        yield {
            "type": "container",
            "bom-ref": _BASE,
            "name": base.name,
            "version": base.image_id,
        }


def _dependencies(inventory: Inventory) -> Iterator[dict[str, Any]]:
    held = [component.path for component in inventory.components]
    held += [_BASE] if inventory.base else []
    yield {"ref": _IMAGE, "dependsOn": held}
    for component in inventory.components:
        if component.references is not None:
            yield {"ref": component.path, "dependsOn": list(component.references)}


def _compositions(inventory: Inventory) -> Iterator[dict[str, Any]]:
    """Yield what is complete and what is not: assemblies say what is in something, dependencies
    what it refers to.
    """
    of_image = "unknown" if inventory.unlisted else "complete"
    yield {"aggregate": of_image, "assemblies": [_IMAGE]}
    components = inventory.components
    known = [one for one in components if one.references is not None]
    whole = [one.path for one in known if not one.refers_elsewhere]
    partial = [one.path for one in known if one.refers_elsewhere]
    unknown = [one.path for one in components if one.references is None]
    if whole:
        yield {"aggregate": "complete", "dependencies": whole}
    if partial:
        yield {"aggregate": "incomplete", "dependencies": partial}
    if unknown:
        yield {"aggregate": "unknown", "dependencies": unknown}
    if inventory.base:
        yield {"aggregate": "unknown", "assemblies": [_BASE], "dependencies": [_BASE]}


def _properties(pairs: Any) -> dict[str, Any]:
    properties = [{"name": name, "value": value} for name, value in pairs]
    return {"properties": properties} if properties else {}


# ---- back


def is_document(document: dict[str, Any]) -> bool:
    """Return True if a JSON object is of this format."""
    return document.get("bomFormat") == "CycloneDX"


def read(document: dict[str, Any]) -> Listed:
    """Return the store paths that a document lists. Raises Malformed."""
    metadata = document.get("metadata")
    image = metadata.get("component") if isinstance(metadata, dict) else None
    names: dict[str, str] = {}  # store paths by reference
    hashes: dict[str, str | None] = {}
    copied = set()
    for one in find_objects(document, "components"):
        stated = {
            str(item.get("name")): item.get("value") for item in find_objects(one, "properties")
        }
        path = stated.get(_PATH)
        if not isinstance(path, str):
            continue
        if _COPIED in stated:
            copied.add(path)
        if path in hashes:
            raise Malformed(f"lists {path} twice")
        names[str(one.get("bom-ref"))] = path
        sums = [h.get("content") for h in find_objects(one, "hashes") if h.get("alg") == "SHA-256"]
        hashes[path] = f"sha256:{sums[0]}" if sums else None
    references: dict[str, frozenset[str]] = {}
    for one in find_objects(document, "dependencies"):
        others = one.get("dependsOn", [])
        if (path := names.get(str(one.get("ref")))) and isinstance(others, list):
            references[path] = frozenset(
                names[other] for other in map(str, others) if other in names
            )
    properties = find_objects(metadata, "properties") if isinstance(metadata, dict) else []
    return Listed(
        format="cyclonedx",
        name=str(image.get("name", "")) if isinstance(image, dict) else "",
        version=str(image.get("version", "")) if isinstance(image, dict) else "",
        hashes=hashes,
        references=references,
        copied=frozenset(copied),
        is_whole=not any(
            one.get("aggregate") != "complete" and one.get("assemblies")
            for one in find_objects(document, "compositions")
        ),
        gaps=tuple(str(one.get("value")) for one in properties if one.get("name") == _GAP),
    )

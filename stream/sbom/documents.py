"""The formats of SBOMs, and their bytes, which depend on the inventory and this version alone."""

from __future__ import annotations

import json

from stream import __version__
from stream.sbom import Format, cyclonedx, spdx
from stream.sbom.inventory import Inventory
from stream.sbom.listing import Listed, Malformed

MAX_SBOM = 32 << 20  # bytes; one of 10,000 store paths takes half
MEDIA_TYPES: dict[Format, str] = {"spdx": spdx.MEDIA_TYPE, "cyclonedx": cyclonedx.MEDIA_TYPE}
_MAKERS = {"spdx": spdx.document, "cyclonedx": cyclonedx.document}


def write_sbom(inventory: Inventory, sbom_format: Format) -> bytes:
    """Return the SBOM of an image."""
    document = _MAKERS[sbom_format](inventory, __version__)
    return json.dumps(document, indent=1).encode() + b"\n"


def read_sbom(data: bytes) -> Listed:
    """Return what an SBOM in either format says, which is not trusted. Raises Malformed."""
    import orjson

    if len(data) > MAX_SBOM:
        raise Malformed(f"has more than {MAX_SBOM} bytes")
    try:
        document = orjson.loads(data)
    except orjson.JSONDecodeError as error:
        if b"\0" in data:
            raise Malformed("is not JSON: it is binary") from None
        raise Malformed(f"is not JSON: {error.msg}") from None
    if isinstance(document, dict):
        if spdx.is_document(document):
            return spdx.read(document)
        if cyclonedx.is_document(document):
            return cyclonedx.read(document)
    raise Malformed("is neither SPDX 2 nor CycloneDX in JSON")

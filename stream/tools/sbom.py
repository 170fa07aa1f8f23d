"""The software bill of materials of a conf's image. Knows neither argv nor the formats."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import TYPE_CHECKING

from stream.errors import ArgumentError, SourceError
from stream.model import ImageConf
from stream.sbom import FORMATS, Format
from stream.sbom.documents import MAX_SBOM, write_sbom
from stream.sbom.inventory import UNNAMED, BaseImage, take_inventory
from stream.schema.reading import ignore
from stream.sources.image import opened_base
from stream.values import replace

if TYPE_CHECKING:
    from stream.sources.base.image import BaseImage as OpenBaseImage


def make_sbom(
    conf: ImageConf, sbom_format: Format = "spdx", warn: Callable[[str], None] = ignore
) -> bytes:
    """Return the SBOM of the image of `conf`, which is complete if it was planned in this process
    or has a Nix database: another conf has no references. `warn` is called with a line for a person
    about what the SBOM says is not known. Of files, only the base image's documents are read.

    Raises ArgumentError, or ArchiveError for the base image.
    """
    ArgumentError.require("conf", conf, ImageConf)
    if sbom_format not in FORMATS:
        raise ArgumentError.not_one_of("sbom_format", str(sbom_format), FORMATS)
    base = conf.base
    if base is not None:
        # Neither of these is asked for, and each would have the base image's layers listed.
        base = replace(base, skip_store_paths=False)
    with opened_base(replace(conf, base=base, customisation_layer=None)) as opened:
        return sbom_of(conf, opened, sbom_format, warn)


def sbom_of(
    conf: ImageConf,
    base: OpenBaseImage | None,
    sbom_format: Format,
    warn: Callable[[str], None] = ignore,
    *,
    name: str = UNNAMED,
) -> bytes:
    """Return the SBOM of the image of `conf` on the opened `base`; `name` is that of an image without
    one. See `make_sbom`.
    """
    inventory = take_inventory(conf, None if base is None else _summary(base), name)
    for gap in inventory.gaps:
        warn(f"the SBOM does not know {gap}")
    return write_sbom(inventory, sbom_format)


def _summary(base: OpenBaseImage) -> BaseImage:
    image = base.image
    return BaseImage(name=next(iter(image.repo_tags), "base image"), image_id=image.image_id)


def load_sbom(path: str) -> bytes:
    """Return the SBOM in the file at `path`. Raises SourceError if it cannot be read."""
    try:
        with open(os.fsencode(path), "rb") as file:
            data = file.read(MAX_SBOM + 1)
    except OSError as error:
        raise SourceError.unreadable(os.fsencode(path), error) from error
    if len(data) > MAX_SBOM:
        raise SourceError(
            os.fsencode(path), f"is too large for an SBOM (more than {MAX_SBOM} bytes)"
        )
    return data

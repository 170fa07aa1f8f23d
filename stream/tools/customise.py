"""Make the customisation layer of a conf's recipe, to be used as a ready-made one.

Knows neither argv nor where the files of the ready-made layer go.
"""

from __future__ import annotations

from collections.abc import Callable

from stream.errors import ConfError, Fault
from stream.model import Digest, ImageConf, Recipe
from stream.sources.image import opened
from stream.tarwriter import write_hashed_layer
from stream.values import dataclass, replace


@dataclass(frozen=True, slots=True, kw_only=True)
class MadeLayer:
    """The layer that was written: the digest of its tar, and its line in the image's history."""

    checksum: Digest
    comment: str


def write_customisation_layer(
    conf: ImageConf, fd: int, *, name: str, warn: Callable[[str], None]
) -> MadeLayer:
    """Write the tar of the customisation layer of `conf` to `fd`, made as for its image: above
    the base image, and its commands are run. Messages call the conf `name`; `warn` is called
    with a line for a person.

    Raises ConfError if the conf has no recipe, and every StreamImageError that streaming the
    image could.
    """
    if not isinstance(conf.customisation_layer, Recipe):
        is_ready = conf.customisation_layer is not None
        wrong = "is ready-made already" if is_ready else "is missing; it has the recipe"
        raise ConfError(name, [Fault("customisation_layer", wrong)])
    # Store paths behind the layer's own files are added when the image is written.
    with opened(replace(conf, customisation_store_paths=()), warn) as sources:
        layer = sources.customisation
        assert layer is not None, "a recipe makes one"
        checksum = write_hashed_layer(fd, layer.size, layer.write_to)
        return MadeLayer(checksum=checksum, comment=layer.comment)

"""The images that are one image for several platforms. Knows neither argv nor what is done with them."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import combinations

from stream.errors import ArgumentError
from stream.model import ImageConf
from stream.oci.platform import Platform


def check_platforms(confs: ImageConf | Sequence[ImageConf]) -> Sequence[ImageConf]:
    """Return the only conf, or several, each for another platform. Raises ArgumentError."""
    several = [confs] if isinstance(confs, ImageConf) else confs
    ArgumentError.require("confs", several, list, tuple)
    if not several:
        raise ArgumentError("confs", several, "is empty; give at least one")
    for conf in several:
        ArgumentError.require("confs", conf, ImageConf)
    for one, other in combinations(map(Platform.of_conf, several), 2):
        # Not by name: arm64 and arm64/v8 are one.
        if one.distance(other) == other.distance(one) == 0:
            reason = "is the platform of several images; a tag names one for each platform"
            raise ArgumentError("confs", str(other), reason)
    return several

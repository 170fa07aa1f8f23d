"""The previous build, whose layers a plan keeps where that saves transfer: from its image, wherever
that is, or from its conf. Must not know argv.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from stream.oci.history import recorded_layers
from stream.oci.platform import Platform
from stream.planning.previous import PreviousImage, check_previous
from stream.registry.trust import Access
from stream.schema.reading import conf_name, ignore
from stream.text import one_line
from stream.tools.existing import Place, read_existing

_ANYWHERE = Access()
_WITHOUT = "planned without the layers of a previous build"


def find_previous(
    place: Place | str,
    platform: Platform,
    *,
    access: Access = _ANYWHERE,
    is_expected: bool = True,
    warn: Callable[[str], None] = ignore,
) -> Sequence[Sequence[str]] | PreviousImage | None:
    """Return the previous build at `place`, in the notation of `Place.parse`, for `plan`. If there is
    none for `platform`, or if its history does not have the store paths of its layers, return None:
    `warn` is called with the reason, a line, if one `is_expected`.

    What cannot be read is an error, as the plan would be another one: raises ConfError, ArchiveError,
    RegistryError, DigestMismatch, EngineError, or ArgumentError for a place that is not one.
    """
    place = Place.parse(place) if isinstance(place, str) else place
    found = read_existing(place, platform, access)
    if isinstance(found, dict):
        return check_previous(found, conf_name(place.reference)).store_layers
    if found is None:
        reason = f"is not there, or has no image for {platform}"
    elif platform.distance(found.platform) is None:
        reason = f"is for {found.platform}, not for {platform}"
    elif layers := recorded_layers(found.config):
        return PreviousImage(layers=tuple(layers))
    else:  # it may have none, as images without Nix
        reason = "its history names no store paths"
    if is_expected:
        warn(one_line(f"{place}: {reason}; {_WITHOUT}"))
    return None

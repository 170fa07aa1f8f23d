"""Check the types of the members of a container config, `config` in an image config.

OCI Image Specification, config.md, and Docker's additions. Other members are not checked.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

_LISTS = ("Cmd", "Entrypoint", "Env", "OnBuild", "Shell")
_OBJECTS = ("ExposedPorts", "Healthcheck", "Labels", "Volumes")
_STRINGS = ("Domainname", "Hostname", "Image", "StopSignal", "User", "WorkingDir")


def wrong_types(config: dict[str, Any]) -> Iterator[tuple[str, str]]:
    """Yield the members whose type no consumer accepts: the place in `config`, and a message
    that gives the expected type. `null` counts as absent everywhere.
    """
    for key in _LISTS:
        value = config.get(key)
        if value is not None and not isinstance(value, list):
            yield key, "must be a list of strings"
        for index, item in enumerate(value if isinstance(value, list) else ()):
            if not isinstance(item, (str, type(None))):
                yield f"{key}[{index}]", "must be a string"
    for key in _OBJECTS:
        if not isinstance(config.get(key), (dict, type(None))):
            yield key, "must be an object"
    for key in _STRINGS:
        if not isinstance(config.get(key), (str, type(None))):
            yield key, "must be a string"
    labels = config.get("Labels")
    for name, value in labels.items() if isinstance(labels, dict) else ():
        if not isinstance(value, (str, type(None))):
            yield f"Labels[{name!r}]", "must be a string"

"""The members of a container config, `config` in an image config, and their types.

Two definitions exist: that of the OCI Image Specification, config.md, and Docker's
`container.Config`, which has more members and, for commands, more types. Both are Go types in the
programs that read them: `null` counts as absent everywhere, and the case of keys does not matter.
Must not know which consumer reads which.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, Literal, NamedTuple

from stream.faults import suggest

Definition = Literal["OCI", "Docker"]
_OCI: frozenset[Definition] = frozenset({"OCI"})
_DOCKER: frozenset[Definition] = frozenset({"Docker"})
_BOTH = _OCI | _DOCKER
_NEITHER: frozenset[Definition] = frozenset()  # only of later versions than those tried


class WrongType(NamedTuple):
    """A value of a type that readers of `definitions` refuse: its place in the config (empty
    for the config itself), and a message that gives the expected type.
    """

    place: str
    message: str
    definitions: frozenset[Definition]


# Yields each place below a value where its type is wrong, and the type expected there.
_Wrong = Iterator[tuple[str, str]]
_Check = Callable[[Any], _Wrong]


def _text(value: Any) -> _Wrong:
    if not isinstance(value, str):
        yield "", "a string"


def _boolean(value: Any) -> _Wrong:
    if not isinstance(value, bool):
        yield "", "a boolean"


def _number(value: Any) -> _Wrong:
    if type(value) is not int or not -(2**63) <= value < 2**63:
        yield "", "a whole number of at most 64 bits"


def _nanoseconds(value: Any) -> _Wrong:
    for place, _ in _number(value):
        yield place, "a whole number of nanoseconds"


def _texts(value: Any) -> _Wrong:
    if not isinstance(value, list):
        yield "", "a list of strings"
        return
    for index, item in enumerate(value):
        if not isinstance(item, (str, type(None))):
            yield f"[{index}]", "a string"


def _command(value: Any) -> _Wrong:
    """Docker's type for commands, which is also a string."""
    if not isinstance(value, str):
        yield from _texts(value)


def _keys(value: Any) -> _Wrong:
    """An object of which only the keys count."""
    return _members(value, dict, "an object")


def _labels(value: Any) -> _Wrong:
    return _members(value, str, "a string")


def _members(value: Any, of: type, expected: str) -> _Wrong:
    if not isinstance(value, dict):
        yield "", "an object"
        return
    for name, item in value.items():
        if not isinstance(item, (of, type(None))):
            yield f"[{name!r}]", expected


_HEALTHCHECK: dict[str, _Check] = {
    "Test": _texts,
    "Interval": _nanoseconds,
    "Timeout": _nanoseconds,
    "StartPeriod": _nanoseconds,
    "Retries": _number,
}
# Of Docker 25.
_LATER_HEALTHCHECK: dict[str, _Check] = {"StartInterval": _nanoseconds}
_ANYTHING = ("CpuShares", "Memory", "MemorySwap")  # of Docker's first versions; read by nobody

_OCI_TYPES: dict[str, _Check] = {
    "ArgsEscaped": _boolean,
    "Cmd": _texts,
    "Entrypoint": _texts,
    "Env": _texts,
    "ExposedPorts": _keys,
    "Labels": _labels,
    "StopSignal": _text,
    "User": _text,
    "Volumes": _keys,
    "WorkingDir": _text,
}
_DOCKER_TYPES: dict[str, _Check] = {
    **_OCI_TYPES,
    **dict.fromkeys(("Cmd", "Entrypoint", "Shell"), _command),
    **dict.fromkeys(("Domainname", "Hostname", "Image", "MacAddress"), _text),
    **dict.fromkeys(
        (
            "AttachStderr", "AttachStdin", "AttachStdout", "NetworkDisabled", "OpenStdin",
            "StdinOnce", "Tty",
        ),
        _boolean,
    ),
    "Healthcheck": lambda value: _fields(value, _HEALTHCHECK),
    "OnBuild": _texts,
    "StopTimeout": _number,
}  # fmt: skip
# What no tried reader refuses, and still is wrong: for Docker 25, and for the specification's text.
_STRICTEST: dict[str, _Check] = {
    "Healthcheck": lambda value: _fields(value, _LATER_HEALTHCHECK),
    "Shell": _texts,
}
KEYS = frozenset({*_DOCKER_TYPES, *_ANYTHING})
HEALTHCHECK_KEYS = frozenset({*_HEALTHCHECK, *_LATER_HEALTHCHECK})


def _fields(value: Any, types: dict[str, _Check]) -> _Wrong:
    """Check an object whose members have these types, whatever the case of its keys."""
    if not isinstance(value, dict):
        yield "", "an object"
        return
    by_lower = {key.lower(): check for key, check in types.items()}
    for key, item in value.items():
        check = by_lower.get(key.lower())
        if check is not None and item is not None:
            for place, expected in check(item):
                yield f".{key}{place}", expected


def wrong_types(config: object) -> Iterator[WrongType]:
    """Yield the values of `config`, of any type, that some reader refuses, in order of place."""
    found: dict[tuple[str, str], frozenset[Definition]] = {}
    for types, definitions in (
        (_OCI_TYPES, _OCI),
        (_DOCKER_TYPES, _DOCKER),
        (_STRICTEST, _NEITHER),
    ):
        for place, expected in _fields(config, types) if config is not None else ():
            key = place.removeprefix("."), f"must be {expected}"
            found[key] = found.get(key, _NEITHER) | definitions
    for (place, message), definitions in sorted(found.items()):
        yield WrongType(place, message, definitions)


def unusual_keys(config: dict[str, Any]) -> Iterator[tuple[str, str]]:
    """Yield the keys that no definition has as they are spelled: the place, and a message."""
    healthcheck = config.get("Healthcheck")
    below = healthcheck if isinstance(healthcheck, dict) else {}
    for place, members, known in (("", config, KEYS), ("Healthcheck.", below, HEALTHCHECK_KEYS)):
        by_lower = {key.lower(): key for key in known}
        for key in sorted(members.keys() - known):
            if usual := by_lower.get(key.lower()):
                yield f"{place}{key}", f'write "{usual}"; not every consumer ignores the case'
            else:
                yield f"{place}{key}", f"no consumer knows this key{suggest(key, known)}"

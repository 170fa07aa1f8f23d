"""Parse JSON documents that others wrote. Memory is bounded for any document.

RFC 8259. Must not know what the documents say.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from typing import Any, NoReturn

from stream.faults import measure_depth
from stream.limits import MAX_DEPTH, MAX_VALUES

# Called with the members of each object, to return the object.
Members = Callable[[list[tuple[str, Any]]], dict[str, Any]]

_OBJECT_COST = 4  # of an object or an array, in values


def count_values(data: bytes) -> int:
    """Return an upper bound of the number of values in the JSON document `data`. An object or
    an array counts as several, because it takes as much memory as several strings.
    """
    containers = data.count(b"{") + data.count(b"[")
    return _OBJECT_COST * containers + data.count(b",") + data.count(b":")


def parse_json(data: bytes, members: Members | None = None) -> Any:
    """Return the value of the JSON document `data`. Raises ValueError, whose text says what
    is wrong, for one that is invalid, too deep or has more than MAX_VALUES values.
    """
    if count_values(data) > MAX_VALUES:
        raise ValueError("has too many values")
    try:
        value = json.loads(
            data.decode(),
            parse_constant=_refuse_constant,
            parse_float=_finite,
            object_pairs_hook=members,
        )
    except RecursionError:
        raise ValueError("is nested too deeply") from None
    except ValueError as error:
        raise ValueError(f"is not JSON: {error}") from None
    if measure_depth(value) > MAX_DEPTH:
        raise ValueError("is nested too deeply")
    return value


def _refuse_constant(text: str) -> NoReturn:
    raise ValueError(f"{text} is not a JSON number")


def _finite(text: str) -> float:
    value = float(text)
    if math.isinf(value):
        raise ValueError(f"{text[:20]} is too large a number")
    return value

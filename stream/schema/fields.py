"""Read the members of a JSON object one by one, and report their faults.

Must not know the keys of any document.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from typing import Any

from stream.faults import NoteFault, kind, suggest
from stream.limits import MAX_ID

# Called with the place of each key in a former spelling, and its current spelling.
NoteFormer = Callable[[str, str], object]
_ID = re.compile("[0-9]{1,10}")


class Fields:
    """The members of the object at `place`, by key. `fault` is called with the place of each
    fault and what is wrong there; the value returned then is not usable.

    `null` and an empty choice count as absent, unless `strict`, which takes both as values.
    """

    def __init__(
        self, document: dict[str, Any], place: str, fault: NoteFault, *, strict: bool = False
    ) -> None:
        self.document = document
        self._place = place
        self._fault = fault
        self._strict = strict

    def spelled(self, key: str) -> str:
        """Return the spelling of `key` in this object."""
        return key

    # ---- places

    def at(self, key: str) -> str:
        """Return the place of `key`, or of the object itself."""
        return self._within(self.spelled(key))

    def _within(self, key: str) -> str:
        return ".".join(filter(None, (self._place, key)))

    def fault(self, key: str, message: str) -> None:
        """Report a fault of the value of `key`, or of the object itself."""
        self._fault(self.at(key), message)

    # ---- keys

    def check_keys(self, known: frozenset[str]) -> None:
        """Report each key that is not `known`."""
        for key in sorted(self.document.keys() - known):
            self._fault(self._within(key), f"unknown key{suggest(key, known)}")

    def has(self, *keys: str) -> bool:
        """Return True if one of `keys` is present."""
        spelled = map(self.spelled, keys)
        return any(
            key in self.document if self._strict else self.document.get(key) is not None
            for key in spelled
        )

    def get(self, key: str, default: Any = None) -> Any:
        """Return the value of `key`, of any type, or `default` if it is absent."""
        return self.document[self.spelled(key)] if self.has(key) else default

    # ---- values

    def text(self, key: str, default: str = "", *, nul: bool = False, empty: bool = True) -> str:
        """Return a string, which may contain NUL characters if `nul`, and be empty if `empty`."""
        value = self.get(key, default)
        if not isinstance(value, str):
            self.fault(key, f"must be a string, not {kind(value)}")
        elif "\0" in value and not nul:
            self.fault(key, "contains a NUL character")
        elif not value and not empty and self.has(key):
            self.fault(key, "is empty")
        else:
            return value
        return default

    def choice(self, key: str, choices: tuple[str, ...]) -> str:
        """Return one of `choices`, the first if `key` is absent."""
        value = self.text(key, choices[0], nul=True)
        if not value and not self._strict:
            return choices[0]
        if value not in choices:
            names = [repr(choice) for choice in choices]
            few = len(names) == 2
            wanted = " or ".join(names) if few else f"one of {', '.join(names)}"
            self.fault(key, f"must be {wanted}, not {value!r}")
        return value

    def boolean(self, key: str, *, default: bool = False) -> bool:
        """Return a boolean."""
        value = self.get(key, default)
        if isinstance(value, bool):
            return value
        self.fault(key, f"must be a boolean, not {kind(value)}")
        return default

    def id(self, key: str) -> int | None:
        """Return the numeric ID of a user or group, written as a number or a string."""
        if not self.has(key):
            return None
        value = self.get(key)
        number = int(value) if isinstance(value, str) and _ID.fullmatch(value) else value
        if type(number) is int and 0 <= number <= MAX_ID:
            return number
        shown = repr(value) if isinstance(value, (str, int, float)) else kind(value)
        self.fault(key, f"must be a number from 0 to {MAX_ID}, not {shown}")
        return None

    def list(self, key: str, of: str = "") -> list[Any]:
        """Return a list; `of` names its items in messages."""
        value = self.get(key, [])
        if isinstance(value, list):
            return value
        self.fault(key, f"must be a list{of and f' of {of}'}, not {kind(value)}")
        return []

    def texts(self, key: str) -> tuple[str, ...]:
        """Return a list of strings. Only the first item of another type is reported."""
        items = self.list(key)
        for index, item in enumerate(items):
            if not isinstance(item, str):
                self._fault(f"{self.at(key)}[{index}]", f"must be a string, not {kind(item)}")
                return ()
        return tuple(items)

    def object(self, key: str) -> dict[str, Any]:
        """Return an object."""
        value = self.get(key, {})
        if isinstance(value, dict):
            return value
        self.fault(key, f"must be an object, not {kind(value)}")
        return {}

    def strings(self, key: str) -> dict[str, str]:
        """Return an object whose members are strings with non-empty names."""
        value = self.object(key)
        for name, item in value.items():
            if not name:
                self.fault(key, "has an empty name")
            if not isinstance(item, str):
                place = f"{self.at(key)}[{json.dumps(name)}]"
                self._fault(place, f"must be a string, not {kind(item)}")
        return value

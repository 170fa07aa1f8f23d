"""Members of a JSON object: values, absence, and faults with their places."""

from collections.abc import Callable
from typing import Any

import pytest

from stream.schema.fields import Fields

Read = Callable[[Fields], Any]
CHOICES = ("error", "first")


def read(ask: Read, value: dict[str, Any], *, strict: bool = False) -> tuple[Any, Any]:
    """Return the result of `ask` on the object `value` at `at`, and the faults by place."""
    faults: list[tuple[str, str]] = []
    fields = Fields(value, "at", lambda *fault: faults.append(fault), strict=strict)
    return ask(fields), dict(faults)


ASKED: list[tuple[Read, Any]] = [
    (lambda fields: fields.text("x", "none"), "none"),
    (lambda fields: fields.choice("x", CHOICES), "error"),
    (lambda fields: fields.boolean("x", default=True), True),
    (lambda fields: fields.id("x"), None),
    (lambda fields: fields.list("x"), []),
    (lambda fields: fields.texts("x"), ()),
    (lambda fields: fields.object("x"), {}),
    (lambda fields: fields.strings("x"), {}),
    (lambda fields: fields.has("x"), False),
]


@pytest.mark.parametrize(("ask", "absent"), ASKED)
def test_absence(ask: Read, absent: Any) -> None:
    """Nix writes null for absent arguments; a conf, which is strict, omits the key."""
    assert read(ask, {}) == (absent, {})
    assert read(ask, {"x": None}) == (absent, {})
    assert read(ask, {}, strict=True) == (absent, {})


@pytest.mark.parametrize(("ask", "absent"), ASKED[:-1])
def test_null_as_a_value(ask: Read, absent: Any) -> None:
    """In a conf, null is a fault like any other value of the wrong type."""
    found, faults = read(ask, {"x": None}, strict=True)
    assert found == absent
    assert [*faults] == ["at.x"]
    assert faults["at.x"].endswith("not null")


@pytest.mark.parametrize(
    ("ask", "value", "place", "message"),
    [
        (lambda f: f.text("x"), 1, "at.x", "must be a string, not a number"),
        (lambda f: f.text("x"), "\0", "at.x", "contains a NUL character"),
        (lambda f: f.text("x", empty=False), "", "at.x", "is empty"),
        (lambda f: f.choice("x", CHOICES), "last", "at.x", "must be 'error' or 'first', not 'last'"),
        (lambda f: f.choice("x", ("a", "b", "c")), "d", "at.x", "must be one of 'a', 'b', 'c', not 'd'"),
        (lambda f: f.boolean("x"), "yes", "at.x", "must be a boolean, not a string"),
        (lambda f: f.id("x"), True, "at.x", "must be a number from 0 to 4294967294, not True"),
        (lambda f: f.id("x"), "-1", "at.x", "must be a number from 0 to 4294967294, not '-1'"),
        (lambda f: f.list("x", of="lists"), {}, "at.x", "must be a list of lists, not an object"),
        (lambda f: f.texts("x"), ["a", 1, 2], "at.x[1]", "must be a string, not a number"),
        (lambda f: f.object("x"), [], "at.x", "must be an object, not a list"),
        (lambda f: f.strings("x"), {"": "a"}, "at.x", "has an empty name"),
        (lambda f: f.strings("x"), {"a\n": 1}, 'at.x["a\\n"]', "must be a string, not a number"),
        (lambda f: f.check_keys(frozenset({"xs"})), 1, "at.x", "unknown key"),
    ],
)  # fmt: skip
def test_faults(ask: Read, value: object, place: str, message: str) -> None:
    """Each fault is reported once, with its place."""
    _, faults = read(ask, {"x": value})
    assert faults == {place: message}


def test_values() -> None:
    """Valid values are returned unchanged; an ID written as text is a number."""
    value = {"text": "a\0", "choice": "", "id": "007", "texts": ["a", ""], "strings": {"a": ""}}
    assert read(lambda fields: fields.text("text", nul=True), value) == ("a\0", {})
    assert read(lambda fields: fields.choice("choice", CHOICES), value) == ("error", {})
    assert read(lambda fields: fields.id("id"), value) == (7, {})
    assert read(lambda fields: fields.texts("texts"), value) == (("a", ""), {})
    assert read(lambda fields: fields.strings("strings"), value) == ({"a": ""}, {})

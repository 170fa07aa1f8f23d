"""The JSON of archives: what is refused, and that memory stays bounded."""

import json
import tracemalloc

import pytest

from stream.limits import MAX_DEPTH, MAX_VALUES
from stream.parsing import count_values, parse_json


def nested(depth: int) -> bytes:
    """Return arrays in arrays."""
    return b"[" * depth + b"]" * depth


def test_what_is_parsed() -> None:
    """Without it a sound document could be refused."""
    value = {"a": [1, 2.5, "x", None, True], "b": {"c": "é"}}
    assert parse_json(json.dumps(value).encode()) == value
    assert parse_json(nested(MAX_DEPTH)) is not None
    assert parse_json(b'{"a": 1, "a": 2}', lambda pairs: {"pairs": pairs}) == {
        "pairs": [("a", 1), ("a", 2)]
    }


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"{", "is not JSON"),
        (b"\xff", "is not JSON"),
        (b"NaN", "NaN is not a JSON number"),
        (b"1e999", "is too large a number"),
        (b"9" * 5000, "is not JSON"),
        (nested(MAX_DEPTH + 1), "is nested too deeply"),
        (nested(100_000), "is nested too deeply"),
    ],
)
def test_what_is_refused(data: bytes, message: str) -> None:
    """Without it a document would end the program with another exception."""
    with pytest.raises(ValueError, match=message):
        parse_json(data)


@pytest.mark.slow
@pytest.mark.parametrize("item", [b"{}", b"[]", b'{"":0}', b'"ab"', b"1e9", b"[[0]]"])
def test_memory_of_many_values(item: bytes) -> None:
    """Without it a document of 8 MiB could take a gigabyte once it is parsed."""
    # As many as are allowed, and one more.
    count = MAX_VALUES // (count_values(item) + 1)
    document = b"[" + b",".join([item] * (count - 4)) + b"]"
    tracemalloc.start()
    parse_json(document)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 100 << 20
    with pytest.raises(ValueError, match="has too many values"):
        parse_json(document[:-1] + (b"," + item) * 5 + b"]")

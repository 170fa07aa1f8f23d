"""Documents of any size are read alike: orjson, which reads large ones, is the oracle."""

import json
from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from stream.errors import ConfError
from stream.schema.reading import parse_object

_SCALARS = st.none() | st.booleans() | st.integers(-(2**63), 2**63) | st.floats() | st.text()
_VALUES = st.recursive(
    _SCALARS, lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner), max_leaves=8
)


def _expected(data: bytes) -> Any:
    try:
        found = orjson.loads(data)
    except ValueError:
        return None
    return found if isinstance(found, dict) else None


def _read(data: bytes) -> Any:
    try:
        return parse_object(data, "conf.json")
    except ConfError:
        return None


@given(st.dictionaries(st.text(), _VALUES), st.booleans(), st.data())
def test_small_documents(document: dict[str, Any], ascii_only: bool, data: st.DataObject) -> None:  # noqa: FBT001 — drawn
    """A small conf that is read in another way than a large one gives another image."""
    text = json.dumps(document, ensure_ascii=ascii_only).encode(errors="surrogatepass")
    cut = data.draw(st.integers(0, len(text)) | st.just(len(text)))
    assert _read(text[:cut]) == _expected(text[:cut])


@pytest.mark.parametrize(
    "text",
    [
        b'{"a": NaN}', b'{"a": Infinity}', b'{"a": 1e999}', b'{"a": "\\ud800"}', b'{"a": "\x01"}',
        b"\xef\xbb\xbf{}", '{"a": 1}'.encode("utf-16"), b'{"a": "\xff"}', b'{"a": 01}', b"{'a': 1}",
        b'{"a": 1,}', b'{"a": 1} {}', b'{"a": -0}', b'{"a": 1, "a": 2}', b'{"a": "\\u00e9"}',
        b'{"a": ' + b"1" * 400 + b"}", b'{"a": [' + b"1" * 5000 + b"]}",
        b'{"a": ' + b"[" * 500 + b"]" * 500 + b"}",
    ],
)  # fmt: skip
def test_doubtful_documents(text: bytes) -> None:
    """Python's own reader takes more for JSON than JSON is."""
    assert _read(text) == _expected(text)

"""Store paths mentioned in a container config."""

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stream.planning.mentions import find_in_value, is_hashed

STORE = "/nix/store"
HELLO = f"{STORE}/{'0' * 32}-hello-2.12.1"
GLIBC = f"{STORE}/{'z' * 32}-glibc-2.39+git_1?x=y"


def test_places_of_mentions() -> None:
    """Otherwise an image lacks paths that only its command, environment or labels name."""
    document = {
        "config": {
            "Cmd": [f"{HELLO}/bin/hello", "--greeting", "hi"],
            "Env": ["A=1", f"PATH={GLIBC}/bin:{HELLO}/bin:/bin"],
            "Volumes": {f"{STORE}/{'1' * 32}-data": {}},
            "Healthcheck": {"Interval": 3, "Test": [None, True, f"-I{STORE}/{'2' * 32}-check"]},
            "Labels": {"org.example.source": f"{STORE}/{'3' * 32}-source"},
        }
    }
    assert find_in_value(document, STORE) == {
        HELLO: "config.Cmd[0]",
        GLIBC: "config.Env[1]",
        f"{STORE}/{'1' * 32}-data": f'config.Volumes["{STORE}/{"1" * 32}-data"]',
        f"{STORE}/{'2' * 32}-check": "config.Healthcheck.Test[2]",
        f"{STORE}/{'3' * 32}-source": 'config.Labels["org.example.source"]',
    }


@pytest.mark.parametrize(
    ("text", "found"),
    [
        (f"see {HELLO}.", [HELLO]),
        (f"is it {HELLO}?", [HELLO]),
        (f"{HELLO}/", [HELLO]),
        (f"{HELLO}\n{GLIBC}", [HELLO, GLIBC]),
        (f"'{HELLO}','{GLIBC}'", [HELLO, GLIBC]),
        (f"{HELLO}{GLIBC}", [HELLO, GLIBC]),
        (f"/nix/store{HELLO}", [HELLO]),
        (f"{STORE}/{'e' * 32}-hello", []),
        (f"{STORE}/{'0' * 31}-hello", []),
        (f"{STORE}/{'0' * 33}-hello", []),
        (f"{STORE}/{'0' * 32}-", []),
        (f"{STORE}/{'0' * 32}", []),
        (f"{STORE}/", []),
        (STORE, []),
        (HELLO.replace("/nix", "/gnu"), []),
        (f"{STORE}/../x", []),
    ],
)
def test_where_a_path_ends(text: str, found: list[str]) -> None:
    """The text around a path is not part of it, and an incomplete path is not a path."""
    assert [*find_in_value([text], STORE)] == found


@pytest.mark.parametrize(
    ("text", "found"),
    [
        (f"{STORE}/foo/bin", [f"{STORE}/foo"]),
        (f"{STORE}/foo:{STORE}/foo-bar/bin", [f"{STORE}/foo", f"{STORE}/foo-bar"]),
        (f"{STORE}/a b/c", [f"{STORE}/a b"]),
        (f"{STORE}/foo.", [f"{STORE}/foo"]),
        (f"{STORE}/dot.", [f"{STORE}/dot."]),
        (f"{STORE}/fo", []),
        (f"{STORE}/foobar", []),
        (f"{STORE}/.", []),
        (f"{STORE}/..", []),
    ],
)
def test_known_paths_of_other_names(text: str, found: list[str]) -> None:
    """Directories of a store that Nix did not make can be mentioned as well."""
    names = ("foo", "foo-bar", "a b", "dot.", ".", "..")
    known = {f"{STORE}/{name}" for name in names}
    assert [*find_in_value(text, STORE, known.__contains__)] == found


def test_other_store_directories() -> None:
    """Not every store is in /nix, and its directory must not be read as a pattern."""
    assert [*find_in_value("/a+b/" + HELLO[11:], "/a+b")] == ["/a+b/" + HELLO[11:]]
    assert not find_in_value("/aab/" + HELLO[11:], "/a+b")
    assert [*find_in_value("/" + HELLO[11:], "/")] == ["/" + HELLO[11:]]


json_values = st.recursive(
    st.none() | st.booleans() | st.floats() | st.text() | st.just(HELLO),
    lambda inner: st.lists(inner) | st.dictionaries(st.text() | st.just(GLIBC), inner),
)


@given(value=json_values)
def test_mentions_of_any_json(value: Any) -> None:
    """A path is found anywhere, and its place points to it."""
    found = find_in_value({"config": value}, STORE)
    text = json.dumps(value)
    assert {path for path in (HELLO, GLIBC) if path in text} == found.keys()
    assert all(place.startswith("config") for place in found.values())


def test_deep_and_long_values() -> None:
    """A hostile config takes linear time and causes no traceback."""
    deep: Any = HELLO
    for _ in range(5000):
        deep = [deep]
    assert find_in_value(deep, STORE) == {HELLO: "[0]" * 5000}
    assert [*find_in_value(f"{STORE}/" * 100_000 + HELLO, STORE)] == [HELLO]


def test_names_as_nix_makes_them() -> None:
    """Nix refuses queries about other names."""
    assert is_hashed(HELLO)
    assert is_hashed(GLIBC)
    assert not is_hashed(f"{HELLO}/bin")
    assert not is_hashed(f"{STORE}/hello")
    assert not is_hashed(f"{HELLO}\n")

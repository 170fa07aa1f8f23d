"""Confs and specifications for several platforms: what is common, and what is each one's own."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stream.config import parse_conf
from stream.errors import ConfError
from stream.planning.spec import parse_spec
from stream.schema.platforms import join_platforms, split_platforms

AMD64, ARM = {"architecture": "amd64"}, {"architecture": "arm", "variant": "v6"}


def test_the_members_of_a_platform_replace_the_documents() -> None:
    """Without it each platform's paths would have to be beside those of another, or all in files
    of their own.
    """
    document = {"name": "x", "config": {"Cmd": ["/x"]}, "contents": ["/shared"]}
    own = ARM | {"contents": ["/own"]}
    assert split_platforms(document | {"platforms": [AMD64, own]}, "spec.json") == [
        ("spec.json: platforms[0]", document | AMD64),
        ("spec.json: platforms[1]", document | own),
    ]
    for more in ({}, {"platforms": None}):
        assert split_platforms(document | more, "x.json") == [("x.json", document)]


@pytest.mark.parametrize(
    ("platforms", "messages"),
    [
        ({}, ["platforms: must be a list, not an object"]),
        ([], ["platforms: is empty; omit the key instead"]),
        ([AMD64] * 65, ["platforms: has 65 items; at most 64 are allowed"]),
        (
            [1, AMD64, {"variant": "v6"}, AMD64 | {"platforms": []}, AMD64],
            [
                "platforms[0]: must be an object, not a number",
                "platforms[2].architecture: is missing; give each platform its own",
                "platforms[3].platforms: is not possible within platforms",
                "platforms[4]: is for the same architecture and variant as platforms[1]",
            ],
        ),
    ],
)
def test_faults(platforms: object, messages: list[str]) -> None:
    """Without it an image could be for the machine that it happened to be made on."""
    with pytest.raises(ConfError) as caught:
        split_platforms({"name": "x", "platforms": platforms}, "spec.json")
    assert str(caught.value).splitlines() == [f"spec.json: {message}" for message in messages]


@pytest.mark.parametrize("parse", [parse_conf, parse_spec])
def test_where_one_image_is_needed(parse: Any) -> None:
    """Without it `platforms` would be ignored, and an image be written that lacks everything."""
    with pytest.raises(ConfError, match="platforms: there are several, and only one image can"):
        parse(b'{"name": "x", "store_layers": [], "platforms": [{"architecture": "amd64"}]}')


VALUES = st.sampled_from([1, True, 1.0, "", {"a": 1, "b": 2}, {"b": 2, "a": 1}, [{}], []])
DOCUMENTS = st.dictionaries(st.sampled_from(["config", "x", "y"]), VALUES)


@given(documents=st.lists(DOCUMENTS, min_size=1, max_size=4))
def test_joined_and_split_again(documents: list[dict[str, Any]]) -> None:
    """Without it a planned image could differ from the one that is streamed from its conf."""
    documents = [one | {"architecture": str(n)} for n, one in enumerate(documents)]
    split = [one for _, one in split_platforms(join_platforms(documents), "")]
    assert [{key: repr(one[key]) for key in one} for one in split] == [
        {key: repr(one[key]) for key in one} for one in documents
    ]
    if len(documents) > 1:
        joined = join_platforms(documents)
        assert not [key for key in joined if key in joined["platforms"][0]]

"""What an image's history says of its layers."""

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stream.model import RecordedLayer
from stream.oci.documents import store_paths_comment
from stream.oci.history import recorded_layers, store_paths_in

NAMES = st.text(st.characters(exclude_characters="\0/", exclude_categories=["Cs"]), min_size=1)
PATHS = NAMES.filter(lambda name: name not in (".", "..")).map("/nix/store/{}".format)


def config(comments: list[Any], diff_ids: list[Any] | None = None, **more: Any) -> dict[str, Any]:
    """Return an image config with these comments, and letters for diff_ids."""
    letters = [chr(97 + number) for number in range(len(comments))]
    return {
        "history": [{"comment": comment} for comment in comments],
        "rootfs": {"diff_ids": letters if diff_ids is None else diff_ids},
        **more,
    }


@settings(max_examples=30)
@given(st.lists(PATHS, min_size=1, max_size=5))
def test_comments_are_read_as_they_are_written(paths: list[str]) -> None:
    """Without it a path with a quote or another script would be lost, and its layer moved."""
    assert store_paths_in(store_paths_comment(paths)) == tuple(paths)


@pytest.mark.parametrize(
    "comment",
    [
        None,
        7,
        "",
        "store paths: []",
        "store paths: ['/a'",
        "store paths: ['/a',]",
        "store paths: ['/a','/b']",
        "store paths: ['/a']\n",
        " store paths: ['/a']",
        "store paths: [__import__('os').system('x')]",
        "store paths: ['/a' * 9]",
        "store paths: ['/a' '/b']",
        "store paths: [b'/a']",
        "store paths: ['/a\\q']",
        "store paths: ['/a\\U00110000']",
        "store paths: ['/a\\ud800']",
        "store paths: ['/a\\x00']",
        "store paths: ['a/layer.tar']",
        "store paths: ['/a/../b']",
        "store paths: ['/a', 'b']",
        f"store paths: ['/{'a' * 5000}']",
    ],
)
def test_other_comments_say_nothing(comment: object) -> None:
    """Anybody can write a comment: what is not in the form must not be taken for paths."""
    assert store_paths_in(comment) == ()


def test_a_hostile_comment_is_read_in_linear_time() -> None:
    """Without it a registry could keep a build from ending."""
    assert store_paths_in("store paths: [" + "'/a\\'" * 50_000) == ()
    assert store_paths_in("store paths: [" + "'/a', " * 50_000) == ()


@pytest.mark.parametrize(
    "document",
    [
        {},
        {"history": 1, "rootfs": 2},
        {"history": [], "rootfs": []},
        {"history": [1, None, {"comment": {}}], "rootfs": {"diff_ids": [1, 2, 3]}},
        {"history": [{"comment": "store paths: ['/a']"}], "rootfs": {"diff_ids": [[]]}},
        {"history": [{"comment": "store paths: ['/a']"}], "rootfs": {}},
        config([store_paths_comment(["/a"] * 9000)] * 4),
    ],
)
def test_configs_that_nobody_made_here(document: dict[str, Any]) -> None:
    """A config of somebody else must be no previous build, and no traceback."""
    assert recorded_layers(document) == []


def test_each_layer_has_its_diff_id() -> None:
    """Without it the layers of a base image would count as layers of the image above it."""
    base = [{"created_by": "RUN a"}, {"created_by": "ENV", "empty_layer": True}]
    ours = [{"comment": "store paths: ['/s/a', '/s/b']"}, {"comment": "customisation layer"}]
    document = {"history": base + ours, "rootfs": {"diff_ids": ["x", "y", "z"]}}
    assert recorded_layers(document) == [RecordedLayer(diff_id="y", store_paths=("/s/a", "/s/b"))]
    # A base image's history may have too few lines, or say nothing of empty layers.
    document["history"] = [{"created_by": "a"}] * 5 + ours
    assert recorded_layers(document) == [RecordedLayer(diff_id="y", store_paths=("/s/a", "/s/b"))]
    document["history"] = ours
    assert recorded_layers(document) == [RecordedLayer(diff_id="y", store_paths=("/s/a", "/s/b"))]

"""The JSON documents: an image config's bytes are the image ID, manifests are for others."""

import hashlib
import json
from datetime import datetime
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stream.documents import archive_manifest, image_config, store_paths_comment
from stream.model import Digest, ImageConf, Layer, Owner

DIGESTS = [Digest("sha256:" + hashlib.sha256(name).hexdigest()) for name in (b"one", b"two")]
LAYERS = [
    Layer(
        archive_name="aa/layer.tar", diff_id=DIGESTS[0], size=10240, comment="store paths: ['/s/a']"
    ),
    Layer(
        archive_name="bb/layer.tar", diff_id=DIGESTS[1], size=20480, comment="store paths: ['/s/b']"
    ),
]


def conf_with(**changes: Any) -> ImageConf:
    """A conf, with what a test is about changed."""
    fields: dict[str, Any] = {
        "architecture": "arm64",
        "container_config": {"Cmd": ["/bin/true"], "Env": ["A=1"]},
        "store_dir": b"/nix/store",
        "store_layers": (),
        "customisation_layer": None,
        "repo_tag": "x:1",
        "created": datetime.fromisoformat("1970-01-01T00:00:01+00:00"),
        "mtime": 1,
        "owner": Owner(),
    }
    return ImageConf(**{**fields, **changes})


# As nixpkgs' script prints it: the one place where the format is written out in full.
CONFIG = """\
{
    "created": "1970-01-01T00:00:01+00:00",
    "architecture": "arm64",
    "os": "linux",
    "config": {
        "Cmd": [
            "/bin/true"
        ],
        "Env": [
            "A=1"
        ]
    },
    "rootfs": {
        "diff_ids": [
            "sha256:7692c3ad3540bb803c020b3aee66cd8887123234ea0c6e7143c0add73ff431ed",
            "sha256:3fc4ccfe745870e2c0d99f71f30ff0656c8dedd41cc1d7d3d376b0dbe685e2f3"
        ],
        "type": "layers"
    },
    "history": [
        {
            "created": "1970-01-01T00:00:01+00:00",
            "comment": "store paths: ['/s/a']"
        },
        {
            "created": "1970-01-01T00:00:01+00:00",
            "comment": "store paths: ['/s/b']"
        }
    ]
}"""


def test_image_config() -> None:
    """Its bytes are a contract: indent 4, this order of keys, no newline at the end."""
    assert image_config(conf_with(), LAYERS) == CONFIG.encode()


def test_image_config_of_nothing() -> None:
    """An image of nothing has empty lists and an empty object, on one line each."""
    lines = image_config(conf_with(container_config={}), []).decode().splitlines()
    assert '    "config": {},' in lines
    assert '        "diff_ids": [],' in lines
    assert '    "history": []' in lines


@pytest.mark.parametrize(
    ("instant", "printed"),
    [
        ("2024-05-17T08:30:00Z", "2024-05-17T08:30:00+00:00"),
        ("2024-05-17T08:30:00.5+05:30", "2024-05-17T08:30:00.500000+05:30"),
        ("0001-01-01T00:00:00-12:00", "0001-01-01T00:00:00-12:00"),
    ],
)
def test_created_is_printed_by_isoformat(instant: str, printed: str) -> None:
    """The offset stays as it was given: normalising it would change image IDs."""
    conf = conf_with(created=datetime.fromisoformat(instant))
    document = json.loads(image_config(conf, LAYERS))
    assert document["created"] == printed
    assert [entry["created"] for entry in document["history"]] == [printed, printed]


values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(),
    lambda items: st.lists(items, max_size=3) | st.dictionaries(st.text(), items, max_size=3),
    max_leaves=10,
)


@given(st.dictionaries(st.text(), values, max_size=4))
def test_container_config_passes_untouched(config: dict[str, Any]) -> None:
    """Whatever the runtime configuration holds comes out, in its order, as ASCII."""
    data = image_config(conf_with(container_config=config), LAYERS)
    found = json.loads(data)["config"]
    assert data.isascii()
    assert found == config
    assert list(found) == list(config)


def test_archive_manifest() -> None:
    """Compact, sorted, one image with one tag, its layers bottom to top."""
    assert archive_manifest("cc.json", "x:1", LAYERS) == (
        b'[{"Config":"cc.json","Layers":["aa/layer.tar","bb/layer.tar"],"RepoTags":["x:1"]}]'
    )


@pytest.mark.parametrize(
    ("paths", "comment"),
    [
        (["/nix/store/a"], "store paths: ['/nix/store/a']"),
        (["/s/a", "/s/b"], "store paths: ['/s/a', '/s/b']"),
        (["/s/it's"], """store paths: ["/s/it's"]"""),
        (["/s/\n\\"], r"store paths: ['/s/\n\\']"),
    ],
)
def test_store_paths_comment(paths: list[str], comment: str) -> None:
    """The history comment is Python's repr of the list, quotes and escapes as they fall."""
    assert store_paths_comment(paths) == comment

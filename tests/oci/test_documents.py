"""The JSON documents of an image; the bytes of the image config determine the image ID."""

import dataclasses
import hashlib
import json
from datetime import datetime
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stream.model import Descriptor, Digest, ImageConf, ImageDocuments, Layer, Owner
from stream.oci.documents import (
    IndexEntry,
    archive_item,
    archive_manifest,
    image_config,
    oci_index,
    oci_manifest,
    platform_index,
    store_paths_comment,
)

DIGESTS = [Digest("sha256:" + hashlib.sha256(name).hexdigest()) for name in (b"one", b"two")]
LAYERS = [
    Layer(
        archive_name=f"{name}/layer.tar", diff_id=diff_id, size=size, comment=comment,
        descriptor=Descriptor(
            media_type="application/vnd.oci.image.layer.v1.tar", digest=diff_id, size=size
        ),
    )
    for name, diff_id, size, comment in (
        ("aa", DIGESTS[0], 10240, "store paths: ['/s/a']"),
        ("bb", DIGESTS[1], 20480, "store paths: ['/s/b']"),
    )
]  # fmt: skip


def documents_with(*repo_tags: str) -> ImageDocuments:
    """Return the documents of an image with these tags."""
    return ImageDocuments(config=b"{}", repo_tags=repo_tags, layers=(), architecture="arm64")


def conf_with(**changes: Any) -> ImageConf:
    """Return a conf with the given changes."""
    fields: dict[str, Any] = {
        "architecture": "arm64",
        "container_config": {"Cmd": ["/bin/true"], "Env": ["A=1"]},
        "store_dir": b"/nix/store",
        "store_layers": (),
        "customisation_layer": None,
        "repo_tag": "x:1",
        "created": datetime.fromisoformat("1970-01-01T00:00:01+00:00"),
        "mtime": 1,
        "customisation_mtime": 1,
        "owner": Owner(),
    }
    return ImageConf(**{**fields, **changes})


# As nixpkgs' script prints it: the format in full.
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


def test_image_config_with_a_variant() -> None:
    """Without it a machine of an earlier variant would take the image for its own."""
    document = json.loads(image_config(conf_with(architecture="arm", variant="v6"), LAYERS))
    assert (document["architecture"], document["variant"]) == ("arm", "v6")


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
    """The offset stays as given: normalising it would change image IDs."""
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
    """The container config is written completely, in its order, as ASCII."""
    data = image_config(conf_with(container_config=config), LAYERS)
    found = json.loads(data)["config"]
    assert data.isascii()
    assert found == config
    assert list(found) == list(config)


def test_archive_manifest() -> None:
    """The archive manifest is compact and sorted, with the layers from bottom to top."""
    assert archive_manifest([archive_item("cc.json", ["x:1"], LAYERS)]) == (
        b'[{"Config":"cc.json","Layers":["aa/layer.tar","bb/layer.tar"],"RepoTags":["x:1"]}]'
    )


def test_oci_manifest() -> None:
    """The OCI manifest is compact and sorted; a layer stored compressed is described as stored."""
    kept = Descriptor(media_type="x+gzip", digest=DIGESTS[0], size=7)
    layers = [LAYERS[0], dataclasses.replace(LAYERS[1], descriptor=kept)]
    assert oci_manifest(b"{}", layers, {"ü": "1", "a": "2"}) == (
        b'{"annotations":{"a":"2","\\u00fc":"1"}'
        b',"config":{"digest":"sha256:44136fa355b3678a1146ad16f7e8649e94fb4fc21fe77e8310c060f61caaff8a"'
        b',"mediaType":"application/vnd.oci.image.config.v1+json","size":2}'
        b',"layers":[{"digest":"' + DIGESTS[0].encode() + b'"'
        b',"mediaType":"application/vnd.oci.image.layer.v1.tar","size":10240}'
        b',{"digest":"' + DIGESTS[0].encode() + b'","mediaType":"x+gzip","size":7}]'
        b',"mediaType":"application/vnd.oci.image.manifest.v1+json","schemaVersion":2}'
    )


MANIFEST = Descriptor(media_type="x", digest=DIGESTS[0], size=2)


def test_several_images_in_the_oci_index() -> None:
    """Without an entry for each tag, a tag would be lost; without a nameless one, an untagged image."""
    entries = [IndexEntry(MANIFEST, documents_with(*tags)) for tags in (("x:1", "y:2"), ())]
    manifests = json.loads(oci_index(entries).data)["manifests"]
    assert [entry.get("annotations", {}).get("io.containerd.image.name") for entry in manifests] == [
        "docker.io/library/x:1", "docker.io/library/y:2", None,
    ]  # fmt: skip
    assert {entry["digest"] for entry in manifests} == {DIGESTS[0]}


def test_images_of_one_tag_in_the_oci_index() -> None:
    """Without an index of its own, a tag would name one of its images, or be there twice."""
    images = [("x:1", "y:1"), ("docker.io/x:1",), ("z:1",)]
    entries = [IndexEntry(MANIFEST, documents_with(*tags)) for tags in images]
    index = oci_index(entries)
    (nested,) = index.indexes
    assert nested == platform_index(entries[:2])
    assert "annotations" not in json.loads(nested)["manifests"][0]
    found = json.loads(index.data)["manifests"]
    assert [(one["digest"], one["annotations"]["io.containerd.image.name"]) for one in found] == [
        (f"sha256:{hashlib.sha256(nested).hexdigest()}", "docker.io/library/x:1"),
        (MANIFEST.digest, "docker.io/library/y:1"),
        (MANIFEST.digest, "docker.io/library/z:1"),
    ]


def test_annotations_that_all_images_of_an_index_have() -> None:
    """Without it a registry that shows a tag's annotations would show none for several platforms;
    or those of one platform for all.
    """
    images = [
        dataclasses.replace(documents_with("x:1"), annotations={"a": "1", "b": str(n), "c": "3"})
        for n in range(2)
    ]
    entries = [IndexEntry(MANIFEST, image) for image in images]
    assert json.loads(platform_index(entries))["annotations"] == {"a": "1", "c": "3"}
    entries[0] = IndexEntry(MANIFEST, documents_with("x:1"))
    assert "annotations" not in json.loads(platform_index(entries))


@pytest.mark.parametrize(
    ("repo_tag", "image_name", "ref_name"),
    [
        ("x:1", "docker.io/library/x:1", "1"),
        ("user/x:1", "docker.io/user/x:1", "1"),
        ("a/b/c:latest", "docker.io/a/b/c:latest", "latest"),
        ("docker.io/x:1", "docker.io/library/x:1", "1"),
        ("docker.io/user/x:1", "docker.io/user/x:1", "1"),
        ("index.docker.io/x:1", "docker.io/library/x:1", "1"),
        ("registry.example/x:1", "registry.example/x:1", "1"),
        ("registry:5000/x:v1.0", "registry:5000/x:v1.0", "v1.0"),
        ("localhost/x:1", "localhost/x:1", "1"),
        ("[fd00::1]:80/x:1", "[fd00::1]:80/x:1", "1"),
        ("HOST/x:1", "HOST/x:1", "1"),
    ],
)
def test_names_in_the_oci_index(repo_tag: str, image_name: str, ref_name: str) -> None:
    """Podman and containerd read the whole name from here; without it the image has none."""
    index = json.loads(oci_index([IndexEntry(MANIFEST, documents_with(repo_tag))]).data)
    (entry,) = index["manifests"]
    assert entry["annotations"] == {
        "io.containerd.image.name": image_name,
        "org.opencontainers.image.ref.name": ref_name,
    }
    assert entry["platform"] == {"architecture": "arm64", "os": "linux"}


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
    """The history comment is Python's repr of the list, including its quotes and escapes."""
    assert store_paths_comment(paths) == comment

"""Our OCI archive in real consumers with cold stores, beyond the table of outputs (test_table.py)."""

import json
import tarfile
from pathlib import Path

import pytest

from .consumer import Consumer, LoadError, Runner
from .daemonless import OciSkopeo
from .images import REPO_TAG, BuiltImage, producer

pytestmark = pytest.mark.consumers


def test_skopeo_finds_every_layer_in_the_layout(
    oci_skopeo: OciSkopeo, oci_archive: Path, expected_id: str
) -> None:
    """Without it the OCI manifest could list other layers than the config; skopeo copies blobs by the manifest."""
    oci_skopeo.load_file(oci_archive)
    copied = oci_skopeo.isolation.path(oci_skopeo.blobs)
    manifest = json.loads((copied / "manifest.json").read_bytes())
    config = json.loads((copied / expected_id.removeprefix("sha256:")).read_bytes())

    assert manifest["mediaType"] == "application/vnd.oci.image.manifest.v1+json"
    assert [layer["digest"] for layer in manifest["layers"]] == config["rootfs"]["diff_ids"]


@pytest.mark.parametrize("name", ["docker", "oci_podman", "containerd", "buildah", "umoci"])
def test_layer_listed_twice(
    name: str,
    request: pytest.FixtureRequest,
    image: BuiltImage,
    oci_archive: Path,
    tmp_path: Path,
) -> None:
    """Without it a base image from our own archive with an equal layer, one blob used twice, would be untested."""
    conf = json.loads(image.conf.read_bytes())
    conf |= {"from_image": str(oci_archive), "store_layers": [], "annotations": {"a": "b"}}
    again = tmp_path / "conf.json"
    again.write_text(json.dumps(conf))
    runner: Runner = request.getfixturevalue(name)

    loaded = runner.load(producer(again, "--format", "oci-archive"))

    assert loaded.producer is not None
    assert loaded.producer.status == 0, loaded.producer.stderr
    assert f"{REPO_TAG} {next(iter(loaded.images.values()))}: 5 layers" in loaded.producer.stderr
    ran = runner.run(REPO_TAG)
    assert (ran.returncode, ran.stdout) == (0, image.greeting("hello")), ran.stderr


@pytest.mark.parametrize("name", ["docker", "oci_podman", "containerd", "skopeo", "umoci"])
@pytest.mark.parametrize("before", ["oci-layout", "index.json"])
def test_cut_stream(
    name: str, before: str, request: pytest.FixtureRequest, oci_archive: Path, tmp_path: Path
) -> None:
    """Without it a truncated stream could load: all blobs precede the documents that refer to them."""
    with tarfile.open(oci_archive) as tar:
        length = tar.getmember(before).offset
    cut = tmp_path / "cut.tar"
    cut.write_bytes(oci_archive.read_bytes()[:length])
    consumer: Consumer = request.getfixturevalue(name)

    with pytest.raises(LoadError):
        consumer.load(["cat", str(cut)])
    assert consumer.image_id(REPO_TAG) is None

"""Our OCI archive in real consumers with cold stores, as a layout and as a docker-archive: always the same image."""

import json
import subprocess
import tarfile
from pathlib import Path

import pytest

from .consumer import Consumer, Loaded, LoadError, Runner
from .daemonless import OciSkopeo, Skopeo, Umoci
from .images import REPO_TAG, BuiltImage, producer

pytestmark = pytest.mark.consumers


@pytest.mark.parametrize("name", ["docker", "oci_podman", "containerd", "buildah"])
def test_runs(
    name: str, request: pytest.FixtureRequest, image: BuiltImage, expected_id: str
) -> None:
    """Without it a layout that looks right on paper passes for one that runs, or loads as another image."""
    runner: Runner = request.getfixturevalue(name)
    loaded = runner.load(image.oci_producer)

    _assert_loaded(loaded, runner, expected_id)
    _assert_runs(runner, image)


@pytest.mark.parametrize(
    "name",
    ["docker", "oci_podman", "containerd", "buildah", "oci_buildah", "skopeo", "oci_skopeo"],
)
def test_reads_a_file(
    name: str,
    request: pytest.FixtureRequest,
    image: BuiltImage,
    oci_archive: Path,
    expected_id: str,
) -> None:
    """Without it nobody knows whether an archive that was saved serves both transports of skopeo and buildah."""
    consumer: Consumer = request.getfixturevalue(name)
    loaded = consumer.load_file(oci_archive)

    _assert_loaded(loaded, consumer, expected_id)
    if isinstance(consumer, Runner):
        _assert_runs(consumer, image)


def test_skopeo_reads_a_pipe(skopeo: Skopeo, image: BuiltImage, expected_id: str) -> None:
    """Without it the documented way through a compressor might hold for docker-archives alone."""
    _assert_loaded(skopeo.load(image.oci_producer), skopeo, expected_id)


def test_skopeo_finds_every_layer_in_the_layout(
    oci_skopeo: OciSkopeo, oci_archive: Path, expected_id: str
) -> None:
    """Without it the OCI manifest might list other layers than the config, and skopeo is who copies blobs by it."""
    oci_skopeo.load_file(oci_archive)
    copied = oci_skopeo.isolation.path(oci_skopeo.blobs)
    manifest = json.loads((copied / "manifest.json").read_bytes())
    config = json.loads((copied / expected_id.removeprefix("sha256:")).read_bytes())

    assert manifest["mediaType"] == "application/vnd.oci.image.manifest.v1+json"
    assert [layer["digest"] for layer in manifest["layers"]] == config["rootfs"]["diff_ids"]


def test_umoci_unpacks_and_crun_runs(umoci: Umoci, image: BuiltImage, expected_id: str) -> None:
    """Without it what tar makes of the stream might be no layout: its blobs are hard links."""
    loaded = umoci.load(image.oci_producer)

    assert loaded.images == {"one": expected_id}
    ran = umoci.run("one")
    assert (ran.returncode, ran.stdout) == (0, image.greeting("hello")), ran.stderr


@pytest.mark.parametrize("name", ["docker", "oci_podman", "containerd", "buildah", "umoci"])
def test_layer_listed_twice(
    name: str,
    request: pytest.FixtureRequest,
    image: BuiltImage,
    oci_archive: Path,
    tmp_path: Path,
) -> None:
    """Without it an image on our own archive, with the same top layer as its base, is unproven: two layers, a blob."""
    conf = json.loads(image.conf.read_bytes())
    conf |= {"from_image": str(oci_archive), "store_layers": [], "annotations": {"a": "b"}}
    again = tmp_path / "conf.json"
    again.write_text(json.dumps(conf))
    runner: Runner = request.getfixturevalue(name)

    loaded = runner.load(producer(again, "--format", "oci-archive"))

    assert loaded.producer is not None
    assert loaded.producer.status == 0, loaded.producer.stderr
    assert f"{REPO_TAG} {next(iter(loaded.images.values()))}: 5 layers" in loaded.producer.stderr
    ran = runner.run("one" if name == "umoci" else REPO_TAG)
    assert (ran.returncode, ran.stdout) == (0, image.greeting("hello")), ran.stderr


@pytest.mark.parametrize("name", ["docker", "oci_podman", "containerd", "skopeo", "umoci"])
@pytest.mark.parametrize("before", ["oci-layout", "index.json"])
def test_cut_stream(
    name: str, before: str, request: pytest.FixtureRequest, oci_archive: Path, tmp_path: Path
) -> None:
    """Without it a stream that breaks off might load: all blobs are there before any document names them."""
    with tarfile.open(oci_archive) as tar:
        length = tar.getmember(before).offset
    cut = tmp_path / "cut.tar"
    cut.write_bytes(oci_archive.read_bytes()[:length])
    consumer: Consumer = request.getfixturevalue(name)

    if name == "umoci":  # tar unpacks it, but it is no layout
        assert consumer.load(["cat", str(cut)]).images == {}
        return
    with pytest.raises(LoadError):
        consumer.load(["cat", str(cut)])
    assert consumer.image_id(REPO_TAG) is None


def _assert_loaded(loaded: Loaded, consumer: Consumer, expected_id: str) -> None:
    assert loaded.images == {consumer.reference(REPO_TAG): expected_id}
    if loaded.producer is not None:
        assert loaded.producer.status == 0, loaded.producer.stderr


def _assert_runs(runner: Runner, image: BuiltImage) -> None:
    ran: subprocess.CompletedProcess[str] = runner.run(REPO_TAG)
    assert (ran.returncode, ran.stdout) == (0, image.greeting("hello")), ran.stderr
    through_links = runner.run(REPO_TAG, image.script, "by a script")
    assert (through_links.returncode, through_links.stdout) == (0, image.greeting("by a script")), (
        through_links.stderr
    )

"""Our stream in real consumers with cold stores, beyond the loading and running of test_table.py."""

import json
import tarfile
from pathlib import Path

import pytest

from .consumer import Runner
from .daemonless import Podman, Skopeo, Umoci
from .daemons import Registry
from .images import REPO_TAG, BuiltImage

pytestmark = pytest.mark.consumers


def test_runs_what_is_in_it(runner: Runner, image: BuiltImage) -> None:
    """Without it links between store paths, and the additions of the customisation layer, would not be run."""
    runner.load(image.producer)

    through_links = runner.run(REPO_TAG, image.script, "by a script")
    assert (through_links.returncode, through_links.stdout) == (0, image.greeting("by a script")), (
        through_links.stderr
    )
    customised = runner.run(REPO_TAG, image.program, "customised")
    assert (customised.returncode, customised.stdout) == (0, image.greeting("customised")), (
        customised.stderr
    )


def test_skopeo_finds_every_diff_id(
    skopeo: Skopeo, image: BuiltImage, archive: Path, expected_id: str
) -> None:
    """Without it a diff_id that is not its layer's digest could pass where layers are stored under other names."""
    loaded = skopeo.load(image.producer)

    assert loaded.producer is not None
    assert loaded.producer.status == 0, loaded.producer.stderr
    assert set(loaded.images.values()) == {expected_id}
    copied = skopeo.isolation.path(skopeo.blobs)
    with tarfile.open(archive) as tar:
        member = tar.extractfile(f"{expected_id.removeprefix('sha256:')}.json")
        assert member is not None
        diff_ids = json.load(member)["rootfs"]["diff_ids"]
    manifest = json.loads((copied / "manifest.json").read_bytes())
    assert [layer["digest"] for layer in manifest["layers"]] == diff_ids


def test_umoci_unpacks_and_crun_runs(skopeo: Skopeo, umoci: Umoci, image: BuiltImage) -> None:
    """Without it layers that only lenient consumers unpack could pass for correct."""
    skopeo.load(image.producer)
    layout = "/run/skopeo/layout"
    skopeo.copy(f"oci:{layout}:one")
    umoci.load(skopeo.isolation.stage(("tar", "--create", f"--directory={layout}", ".")).argv)

    ran = umoci.run("one")

    assert (ran.returncode, ran.stdout) == (0, image.greeting("hello")), ran.stderr


def test_registry_serves_it(
    skopeo: Skopeo, registry: Registry, podman: Podman, image: BuiltImage, expected_id: str
) -> None:
    """Without it an image that loads but cannot be pushed and pulled could go unnoticed."""
    skopeo.load(image.producer)
    pushed = f"{registry.address}/{REPO_TAG}"
    skopeo.copy(f"docker://{pushed}")
    podman.output("podman", "pull", "--quiet", "--tls-verify=false", pushed)

    assert podman.images() == {pushed: expected_id}

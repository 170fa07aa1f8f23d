"""An image for two platforms in real consumers: each takes this machine's, and the other one is whole."""

import hashlib
import json
import subprocess
import sys
import tarfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from support import unpack

from stream.oci.platform import Platform

from .consumer import Runner
from .daemons import Registry
from .images import REPO_TAG, BuiltImage, producer
from .pulling import pull_command

pytestmark = pytest.mark.consumers

_STREAM = (sys.executable, "-m", "stream")


@dataclass(frozen=True, kw_only=True)
class Pair:
    """The confs of an image for two platforms: first another than this machine's."""

    other: Path
    own: Path
    other_platform: Platform

    @property
    def confs(self) -> tuple[str, str]:
        """The confs in the order in which they are given."""
        return str(self.other), str(self.own)


@pytest.fixture(scope="session")
def pair(image: BuiltImage, tmp_path_factory: pytest.TempPathFactory) -> Pair:
    """Make the conf of an image that this machine does not run, with a layer less."""
    document = json.loads(image.conf.read_bytes())
    own = Platform.of_this_machine().architecture
    platform = (
        Platform(os="linux", architecture="arm64", variant="v8")
        if own != "arm64"
        else Platform(os="linux", architecture="amd64", variant="v1")
    )
    document |= {"architecture": platform.architecture, "variant": platform.variant}
    document["config"]["Cmd"] = ["/none"]
    del document["store_layers"][0]
    other = tmp_path_factory.mktemp("platforms") / "other.json"
    other.write_text(json.dumps(document))
    return Pair(other=other, own=image.conf, other_platform=platform)


@pytest.fixture(params=["docker", "podman", "containerd"])
def engine(request: pytest.FixtureRequest) -> Runner:
    """Return each consumer that pulls from an index and runs."""
    chosen = request.getfixturevalue(request.param)
    assert isinstance(chosen, Runner)
    return chosen


def test_pushed_and_pulled(
    engine: Runner, registry: Registry, image: BuiltImage, pair: Pair, expected_id: str
) -> None:
    """Without it a machine could pull another one's image, or the registry refuse the index."""
    reference = f"{registry.address}/{REPO_TAG}"
    pushed = engine.command(*_STREAM, "push", *pair.confs, reference, "--compress", "gzip:1")
    assert pushed.returncode == 0, pushed.stderr
    ended = engine.command("sh", "-c", pull_command(engine, reference))
    assert ended.returncode == 0, ended.stderr
    assert engine.image_id(REPO_TAG) == expected_id
    ran = engine.run(REPO_TAG)
    assert (ran.returncode, ran.stdout) == (0, image.greeting("hello")), ran.stderr


def test_served_and_pulled(engine: Runner, image: BuiltImage, pair: Pair, expected_id: str) -> None:
    """Without it a machine could get another one's image from our own registry."""
    command = pull_command(engine, "$STREAM_IMAGE_REF")
    ended = engine.command(*_STREAM, "serve", "-q", *pair.confs, "--run", command)
    assert ended.returncode == 0, ended.stderr
    assert engine.image_id(REPO_TAG) == expected_id
    ran = engine.run(REPO_TAG)
    assert (ran.returncode, ran.stdout) == (0, image.greeting("hello")), ran.stderr


def test_loaded_into_an_engine(
    engine: Runner, image: BuiltImage, pair: Pair, expected_id: str
) -> None:
    """Without it an engine could be asked for its platform in a way that it does not know."""
    name = type(engine).__name__.lower()
    options = [f"--engine={name}"]
    if name == "containerd":
        options += ["--host=/run/containerd/grpc.sock", "--namespace=stream-image"]
    ended = engine.command(*_STREAM, "load", "-q", *pair.confs, *options)
    assert ended.returncode == 0, ended.stderr
    assert engine.image_id(REPO_TAG) == expected_id
    ran = engine.run(REPO_TAG)
    assert (ran.returncode, ran.stdout) == (0, image.greeting("hello")), ran.stderr


def test_the_other_platform(
    skopeo: Any, registry: Registry, pair: Pair, expected_id: str, tmp_path: Path
) -> None:
    """Without it the image for a machine that is not there could lack a layer, or state another
    platform than its index.
    """
    reference = f"{registry.address}/{REPO_TAG}"
    pushed = skopeo.command(*_STREAM, "push", *pair.confs, reference, "--compress", "gzip:1")
    assert pushed.returncode == 0, pushed.stderr
    inspect = ("skopeo", "inspect", "--tls-verify=false")
    raw = skopeo.output(*inspect, "--raw", f"docker://{reference}").encode()
    assert pushed.stdout.strip().partition("@")[2] == f"sha256:{hashlib.sha256(raw).hexdigest()}"
    index = json.loads(raw)
    platform = pair.other_platform
    assert [one["platform"] for one in index["manifests"]] == [
        {"architecture": platform.architecture, "os": "linux", "variant": platform.variant},
        {"architecture": Platform.of_this_machine().architecture, "os": "linux"},
    ]
    chosen = f"--override-arch={platform.architecture}"
    seen = json.loads(skopeo.output(*inspect[:1], chosen, *inspect[1:], f"docker://{reference}"))
    assert seen["Architecture"] == platform.architecture
    copied = tmp_path / "copied"
    skopeo.output(
        *("skopeo", chosen, "copy", "--quiet", "--src-tls-verify=false"),
        *(f"docker://{reference}", f"dir:{copied}"),
    )
    manifest = json.loads((copied / "manifest.json").read_bytes())
    for one in (manifest["config"], *manifest["layers"]):
        data = (copied / one["digest"].removeprefix("sha256:")).read_bytes()
        assert (f"sha256:{hashlib.sha256(data).hexdigest()}", len(data)) == (
            one["digest"], one["size"],
        )  # fmt: skip
    config = json.loads(
        (copied / manifest["config"]["digest"].removeprefix("sha256:")).read_bytes()
    )
    assert (config["architecture"], config["variant"]) == (platform.architecture, platform.variant)
    assert len(config["rootfs"]["diff_ids"]) == len(manifest["layers"]) == 3
    assert manifest["config"]["digest"] != expected_id


@pytest.mark.parametrize("name", ["oci_podman", "containerd", "docker"])
def test_loaded_from_an_archive(
    request: pytest.FixtureRequest, name: str, image: BuiltImage, pair: Pair, expected_id: str
) -> None:
    """Without it an archive of several platforms could not be loaded without a registry."""
    runner: Runner = request.getfixturevalue(name)
    # docker of this age reads manifest.json, which has no platforms: the last one gets the tag.
    loaded = runner.load((*_STREAM, "merge", "-q", "--format", "oci-archive", *pair.confs))
    assert loaded.producer is not None
    assert loaded.producer.status == 0, loaded.producer.stderr
    assert runner.image_id(REPO_TAG) == expected_id
    ran = runner.run(REPO_TAG)
    assert (ran.returncode, ran.stdout) == (0, image.greeting("hello")), ran.stderr


def test_every_platform_of_an_archive(skopeo: Any, pair: Pair, tmp_path: Path) -> None:
    """Without it one of two images could be in the archive where no consumer looks for it."""
    archive = tmp_path / "both.tar"
    merge = [*_STREAM, "merge", "-q", "--format", "oci-archive", *pair.confs, "-o", str(archive)]
    subprocess.run(merge, check=True)
    layout = tmp_path / "layout"
    with tarfile.open(archive) as tar:
        unpack(tar, layout)
    skopeo.output(
        *(
            "skopeo",
            "copy",
            "--quiet",
            "--all",
            "--preserve-digests",
            f"oci:{layout}:one",
            f"oci:{tmp_path}/copied:one",
        )
    )
    copied = tmp_path / "copied"
    (top,) = json.loads((copied / "index.json").read_bytes())["manifests"]
    index = json.loads((copied / "blobs/sha256" / top["digest"][7:]).read_bytes())
    alone = []
    for conf in pair.confs:
        subprocess.run(
            [*producer(Path(conf), "-q", "--format", "oci-archive", "-o", f"{tmp_path}/one.tar")],
            check=True,
        )
        with tarfile.open(f"{tmp_path}/one.tar") as tar:
            file = tar.extractfile("index.json")
            assert file is not None
            alone.append(json.load(file)["manifests"][0]["digest"])
    assert [one["digest"] for one in index["manifests"]] == alone

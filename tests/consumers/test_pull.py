"""`stream-image pull` and `prefetch` with skopeo itself and a registry on loopback."""

import json
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from conftest import Run
from handmade import Base, Layout, digest, layer_tar
from registries import PROGRAMS, STORED, HttpRegistry, add_image, started

from .daemons import Docker
from .images import REPO_TAG
from .requirements import require

pytestmark = [pytest.mark.consumers]
BASE = Base(layers=[layer_tar({"one": b"1" * 9000}), layer_tar({"two": b"2"})], tags=None)
OPEN = ("--tls-verify", "false")


@pytest.fixture(scope="module")
def registry(tmp_path_factory: pytest.TempPathFactory) -> Iterator[HttpRegistry]:
    """Start a registry."""
    require(PROGRAMS)
    with started(tmp_path_factory.mktemp("registry")) as running:
        yield running


@pytest.fixture(autouse=True)
def _own_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Give the test its own home, without credentials, and check that temporary files go."""
    for name in ("home", "tmp"):
        (tmp_path / name).mkdir()
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setenv("TMPDIR", str(tmp_path / "tmp"))
    for name in ("REGISTRY_AUTH_FILE", "XDG_RUNTIME_DIR", "XDG_CONFIG_HOME", "DOCKER_CONFIG"):
        monkeypatch.delenv(name, raising=False)
    yield
    assert os.listdir(tmp_path / "tmp") == []


def test_the_same_bytes_from_every_manifest(registry: HttpRegistry, stream_image: Run) -> None:
    """Without it the hash would depend on who pushed the image last, and with what."""
    found = set()
    for kind, compressor in STORED:
        layout = Layout()
        image = add_image(layout, BASE, kind, compressor)
        registry.push("same", layout, [image])
        options = {"umask": 0o077} if compressor == "plain" else {}
        done = stream_image(
            "pull", f"{registry.address}/same@{image['digest']}", *OPEN, "-t", "same:1", "-q",
            **options,
        )  # fmt: skip
        assert (done.returncode, done.stderr) == (0, b"")
        found.add(digest(done.stdout))
    # Not only here and today, but for ever.
    assert found == {"sha256:946e5a929d4a4f0875c9aa92d16149d65df685d21a6a6fea2a371009a3330048"}


def test_platforms(registry: HttpRegistry, stream_image: Run) -> None:
    """Without it a base image could be that of another machine."""
    layout = Layout()
    images = [
        add_image(layout, BASE, kind, architecture="arm", os="linux", variant=variant)
        for kind, variant in (("oci", "v6"), ("docker", "v7"))
    ]
    index = layout.index(images)
    registry.push("platforms", layout, [*images, index], "1")
    name = f"{registry.address}/platforms"
    for variant, image in zip(("v6", "v7"), images, strict=True):
        words = ["--arch", "arm", "--variant", variant, *OPEN]
        chosen, named = (
            stream_image("pull", f"{name}@{digest}", *more).stdout
            for digest, more in ((index["digest"], words), (image["digest"], OPEN))
        )
        assert chosen == named != b""
        document = json.loads(stream_image("prefetch", "--json", name, "1", *words).stdout)
        assert document["imageDigest"] == image["digest"]
    done = stream_image("pull", f"{name}@{index['digest']}", "--arch", "amd64", *OPEN)
    assert b"has no image for linux/amd64 (it has: linux/arm/v6, linux/arm/v7)" in done.stderr
    assert (done.returncode, done.stdout) == (1, b"")


def test_credentials(
    tmp_path: Path, tmp_path_factory: pytest.TempPathFactory, stream_image: Run
) -> None:
    """Without it a private image could be pulled only by skopeo."""
    require(PROGRAMS)
    with started(tmp_path_factory.mktemp("private"), private=True) as registry:
        layout = Layout()
        image = add_image(layout, BASE)
        registry.push("private", layout, [image])
        reference = f"{registry.address}/private@{image['digest']}"
        done = stream_image("pull", reference, *OPEN, "-q")
        assert (done.returncode, done.stdout) == (1, b"")
        assert done.stderr.startswith(f"stream-image: {reference}: skopeo: ".encode())
        files = {
            "mine.json": (["--authfile", str(tmp_path / "mine.json")], {}),
            "other.json": ([], {"REGISTRY_AUTH_FILE": str(tmp_path / "other.json")}),
            "run/containers/auth.json": ([], {"XDG_RUNTIME_DIR": str(tmp_path / "run")}),
            "home/.docker/config.json": ([], {}),
        }
        for name, (words, variables) in files.items():
            (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / name).write_text(registry.credentials, "utf-8")
            done = stream_image("pull", reference, *OPEN, "-q", *words, env=variables)
            assert (done.returncode, done.stderr) == (0, b""), name
            (tmp_path / name).unlink()


def test_failures(registry: HttpRegistry, tmp_path: Path, stream_image: Run) -> None:
    """Without it half an image could be left, or an error that names nothing."""
    layout = Layout()
    image = add_image(layout, Base(layers=[layer_tar({"cut": os.urandom(5000)})]))
    registry.push("cut", layout, [image])
    manifest = json.loads(layout.blobs[f"blobs/sha256/{image['digest'][7:]}"])
    blob = registry.blob_file(manifest["layers"][0]["digest"])
    os.truncate(blob, 3000)
    here, gone = registry.address, "127.0.0.1:1"
    output = tmp_path / "image.tar"
    for reference, words in (
        (f"{here}/cut@{image['digest']}", OPEN),
        (f"{here}/cut@{image['digest']}", ()),  # no TLS there
        (f"{here}/cut@sha256:{'0' * 64}", OPEN),
        (f"{here}/none@{image['digest']}", OPEN),
        (f"{gone}/cut@{image['digest']}", OPEN),
    ):
        done = stream_image("pull", reference, *words, "-q", "-o", str(output))
        assert done.returncode == 1
        assert done.stderr.startswith(f"stream-image: {reference}: skopeo: ".encode())
        assert done.stderr.count(b"\n") == 1
        assert not output.exists()


def test_fetched_images_run(
    registry: HttpRegistry, docker: Docker, archive: Path, tmp_path: Path, stream_image: Run
) -> None:
    """Without it an archive could have the right bytes, and be of use to nobody."""
    place = f"docker://{registry.address}/run:1"
    subprocess.run(
        ["skopeo", "--insecure-policy", "copy", "--quiet", "--dest-tls-verify=false",
         f"docker-archive:{archive}", place], check=True,
    )  # fmt: skip
    document = stream_image("prefetch", "--json", f"{registry.address}/run", "1", *OPEN)
    named = f"{registry.address}/run@{json.loads(document.stdout)['imageDigest']}"
    output, above = tmp_path / "image.tar", tmp_path / "above.tar"
    done = stream_image("pull", named, *OPEN, "-t", REPO_TAG, "-o", str(output))
    assert done.returncode == 0, done.stderr
    conf = {"repo_tag": "above:1", "from_image": str(output)}
    done = stream_image("-", "-o", str(above), stdin=json.dumps(conf).encode())
    assert done.returncode == 0, done.stderr
    for file, tag in ((output, REPO_TAG), (above, "above:1")):
        assert docker.reference(tag) in docker.load_file(file).images
    ended = docker.run(REPO_TAG)
    assert ended.returncode == 0, ended.stderr

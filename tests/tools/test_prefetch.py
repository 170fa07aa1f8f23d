"""`stream-image prefetch`: what Nix's pullImage must be given, and the image in the store."""

import base64
import hashlib
import json
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from conftest import Run
from handmade import Base, Layout, layer_tar
from registries import DirectoryRegistry, add_image

NAME = "quay.example/team/app"
BASE = Base(layers=[layer_tar({"one": b"1"})], tags=None)

Prefetch = Callable[..., "subprocess.CompletedProcess[bytes]"]

_NIX_STORE = r"""#!/bin/sh
printf '%s\n' "$*" >> "$REGISTRY/added"
for file; do :; done
echo "/nix/store/00000000000000000000000000000000-${file##*/}"
"""


@pytest.fixture
def registry(tmp_path: Path) -> DirectoryRegistry:
    """Make an empty registry, and a program that stands for nix-store."""
    made = DirectoryRegistry.below(tmp_path)
    made.program("nix-store", _NIX_STORE)
    return made


@pytest.fixture
def prefetch(registry: DirectoryRegistry, stream_image: Run) -> Prefetch:
    """Return a function that prefetches, and checks that nothing temporary is left."""

    def run(*args: str, algorithm: str = "") -> "subprocess.CompletedProcess[bytes]":
        env = {**registry.environment, "NIX_HASH_ALGO": algorithm}
        done = stream_image("prefetch", *args, env=env)
        assert registry.leftovers() == []
        return done

    return run


def archive(registry: DirectoryRegistry, stream_image: Run, digest: str, tag: str) -> bytes:
    """Return the archive that pullImage makes."""
    words = ["pull", f"{NAME}@{digest}", "-q", "-t", tag]
    return bytes(stream_image(*words, env=registry.environment).stdout)


def sri(data: bytes, algorithm: str = "sha256") -> str:
    """Return the hash as Nix writes it."""
    return f"{algorithm}-{base64.b64encode(hashlib.new(algorithm, data).digest()).decode()}"


def test_nix_expression(registry: DirectoryRegistry, prefetch: Prefetch, stream_image: Run) -> None:
    """Without it the output could not be pasted, or would name another archive than pullImage's."""
    layout = Layout()
    image = add_image(layout, BASE)
    registry.push(layout, ("latest", image))
    done = prefetch(NAME)
    hashed = sri(archive(registry, stream_image, image["digest"], f"{NAME}:latest"))
    assert done.stdout.decode() == (
        "{\n"
        f'  imageName = "{NAME}";\n'
        f'  imageDigest = "{image["digest"]}";\n'
        f'  hash = "{hashed}";\n'
        f'  finalImageName = "{NAME}";\n'
        '  finalImageTag = "latest";\n'
        "}\n"
    )
    file = "docker-image-quay.example-team-app-latest.tar"
    (added,) = (registry.directory / "added").read_text("utf-8").splitlines()
    assert added.startswith("--add-fixed sha256 ")
    assert added.endswith(f"/{file}")
    assert [line for line in done.stderr.decode().splitlines() if line.startswith("->")] == [
        f"-> ImageName: {NAME}",
        f"-> ImageDigest: {image['digest']}",
        f"-> FinalImageName: {NAME}",
        "-> FinalImageTag: latest",
        f"-> ImagePath: /nix/store/00000000000000000000000000000000-{file}",
        f"-> ImageHash: {hashed}",
    ]


def found(done: "subprocess.CompletedProcess[bytes]") -> dict[str, Any]:
    """Return the JSON that was printed."""
    assert done.returncode == 0, done.stderr
    document: dict[str, Any] = json.loads(done.stdout)
    return document


def test_json_and_other_hashes(
    registry: DirectoryRegistry, prefetch: Prefetch, stream_image: Run
) -> None:
    """Without it programs would parse Nix, and NIX_HASH_ALGO be in vain."""
    layout = Layout()
    image = add_image(layout, BASE)
    registry.push(layout, ("2", image))
    for algorithm in ("sha512", "sha1", "md5"):
        words = ["--final-image-name", "app", "--final-image-tag", "mine"]
        done = prefetch(NAME, "2", "--json", "--quiet", *words, algorithm=algorithm)
        assert done.stderr == b""
        data = archive(registry, stream_image, image["digest"], "app:mine")
        assert found(done) == {
            "imageName": NAME,
            "imageDigest": image["digest"],
            "hash": sri(data, algorithm),
            "finalImageName": "app",
            "finalImageTag": "mine",
        }
    refused = prefetch(NAME, algorithm="crc")
    assert refused.returncode == 2
    assert b"NIX_HASH_ALGO: 'crc' is not sha256" in refused.stderr


@pytest.mark.slow
def test_digest_of_the_platform(registry: DirectoryRegistry, prefetch: Prefetch) -> None:
    """Without it the digest of an index would be printed, which says nothing of the platform."""
    layout = Layout()
    images = [
        add_image(layout, BASE, architecture=arch, os="linux", variant=variant)
        for arch, variant in (("amd64", ""), ("arm", "v6"), ("arm", "v7"))
    ]
    index = layout.index(images)
    registry.push(layout, ("latest", index))
    for words, number, more in (
        ([], 0, {}),
        (["--arch", "amd64", "--os", "linux"], 0, {}),
        (["--arch", "arm"], 2, {"arch": "arm"}),
        (["--arch", "arm", "--variant", "v6"], 1, {"arch": "arm", "variant": "v6"}),
        (["--tls-verify", "false"], 0, {"tlsVerify": False}),
    ):
        for version in ([], [index["digest"]]):
            document = found(prefetch("--json", NAME, *version, *words))
            assert document["imageDigest"] == images[number]["digest"]
            assert {key: document[key] for key in [*document][5:]} == more
    done = prefetch(NAME, "--arch", "arm", "--tls-verify", "false")
    assert b'\n  arch = "arm";\n  tlsVerify = false;\n}\n' in done.stdout


@pytest.mark.parametrize(
    ("words", "tag"),
    [
        ([NAME, "2"], "2"),
        ([f"{NAME}:2"], "2"),
        (["--image-name", NAME, "2"], "2"),
        (["--image-name", NAME, "--image-tag", "2"], "2"),
        (["--image-tag", "2", NAME, "DIGEST"], "2"),
        ([f"{NAME}:2@DIGEST"], "2"),
        ([NAME, "DIGEST"], "latest"),
        ([f"{NAME}@DIGEST"], "latest"),
        (["--image-name", NAME, "DIGEST"], "latest"),
        (["--image-name", NAME, "--image-digest", "DIGEST", "--image-tag", "2"], "2"),
    ],
)
def test_ways_to_name_an_image(
    registry: DirectoryRegistry, prefetch: Prefetch, words: list[str], tag: str
) -> None:
    """Without it a command line of nix-prefetch-docker could mean another image here."""
    layout = Layout()
    image = add_image(layout, BASE)
    registry.push(layout, ("2", image))
    given = [word.replace("DIGEST", image["digest"]) for word in words]
    document = found(prefetch("--json", *given))
    assert (document["imageName"], document["imageDigest"]) == (NAME, image["digest"])
    assert (document["finalImageName"], document["finalImageTag"]) == (NAME, tag)


def test_bad_usage(prefetch: Prefetch) -> None:
    """Without it skopeo would report them, in words of its own."""
    for words, reason in (
        ([], "no image"),
        (["A"], "a repository name is lower-case"),
        (["a", "sha256:1"], "is not a digest"),
        (["a", "+"], "is not a tag"),
        (["a", "--final-image-tag", "+"], "is not a tag"),
        (["a", "--final-image-name", "+"], "is not a repository name"),
    ):
        done = prefetch(*words)
        assert (done.returncode, done.stdout) == (2, b"")
        assert reason in done.stderr.decode()


@pytest.mark.parametrize(
    ("program", "reason"),
    [
        (None, "a Nix store: Nix is not installed"),
        ("#!/bin/sh\necho 'error: no store' >&2; exit 1\n", "the Nix store: nix-store --add-fixed"),
    ],
)
def test_without_a_store(
    registry: DirectoryRegistry, prefetch: Prefetch, program: str | None, reason: str
) -> None:
    """Without it a machine without Nix could not tell the hash, or somebody wait for a build offline."""
    layout = Layout()
    registry.push(layout, ("latest", add_image(layout, BASE)))
    expected = found(prefetch("--json", NAME))
    (registry.directory / "bin" / "nix-store").unlink()
    if program is not None:
        registry.program("nix-store", program)
    done = prefetch("--json", NAME)
    assert found(done) == expected
    said = done.stderr.decode()
    assert f"stream-image: warning: the image is not in {reason}" in said
    assert ("no store" in said) == (program is not None)
    assert "references_graph" not in said
    assert "ImagePath" not in said


def test_a_single_image_for_another_platform(
    registry: DirectoryRegistry, prefetch: Prefetch
) -> None:
    """Without it an image that cannot run would be found out only when it does not."""
    layout = Layout()
    image = add_image(layout, BASE, architecture="arm64", os="linux")
    registry.push(layout, ("latest", image))
    done = prefetch("--json", "--quiet", NAME)
    assert found(done)["imageDigest"] == image["digest"]
    assert done.stderr.decode().endswith("is for linux/arm64, not for linux/amd64\n")
    assert prefetch("--json", "--quiet", "--arch", "arm64", NAME).stderr == b""


def test_no_output_after_a_failure(registry: DirectoryRegistry, prefetch: Prefetch) -> None:
    """Without it a script would paste half an answer."""
    done = prefetch(NAME)
    assert (done.returncode, done.stdout) == (1, b"")
    assert f"stream-image: {NAME}:latest: skopeo: " in done.stderr.decode()
    assert not (registry.directory / "added").exists()

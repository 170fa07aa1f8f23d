"""`stream-image pull`: an image from a registry, verified, in bytes that depend on it alone."""

import io
import json
import os
import signal
import subprocess
import sys
import tarfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from conftest import Run
from handmade import Base, Layout, artifacts, digest, layer_tar
from registries import STORED, DirectoryRegistry, add_image
from support import COMMAND

BASE = Base(layers=[layer_tar({"one": b"1" * 9000}), layer_tar({"two": b"2"})], tags=None)
NAME = "registry.example/team/app"

Pull = Callable[..., "subprocess.CompletedProcess[bytes]"]


@pytest.fixture
def registry(tmp_path: Path) -> DirectoryRegistry:
    """Make an empty registry."""
    return DirectoryRegistry.below(tmp_path)


@pytest.fixture
def pull(registry: DirectoryRegistry, stream_image: Run) -> Pull:
    """Return a function that pulls from the registry, and checks that nothing temporary is left."""

    def run(
        version: str, *args: str, env: dict[str, str] | None = None, **more: Any
    ) -> "subprocess.CompletedProcess[bytes]":
        reference = f"{NAME}{version}"
        env = {**registry.environment, **(env or {})}
        done = stream_image("pull", reference, *args, env=env, **more)
        assert registry.leftovers() == []
        return done

    return run


def read(data: bytes) -> tuple[dict[str, Any], dict[str, bytes]]:
    """Return the item of the manifest, and the members."""
    with tarfile.open(fileobj=io.BytesIO(data)) as tar:
        members = {info.name: tar.extractfile(info).read() for info in tar}  # type: ignore[union-attr]
    (item,) = json.loads(members["manifest.json"])
    return item, members


def refused(done: "subprocess.CompletedProcess[bytes]", *words: str, status: int = 1) -> None:
    """Check for a failure of one line, and no image."""
    error = done.stderr.decode()
    assert done.returncode == status, error
    assert error.startswith("stream-image: ")
    assert error.count("\n") == 1
    for word in words:
        assert word in error
    assert done.stdout == b""


@pytest.mark.parametrize(("kind", "compressor"), STORED)
def test_the_bytes_depend_on_the_image_alone(
    registry: DirectoryRegistry, pull: Pull, kind: str, compressor: str
) -> None:
    """Without it the hash of a fixed output would change when a registry compresses anew."""
    layout = Layout()
    image = add_image(layout, BASE, kind, compressor)
    registry.push(layout)
    done = pull(f":3@{image['digest']}", "-q")
    assert (done.returncode, done.stderr) == (0, b"")
    item, members = read(done.stdout)
    assert item["RepoTags"] == [f"{NAME}:3"]
    assert members[item["Config"]] == json.dumps(BASE.document()).encode()
    assert [members[name] for name in item["Layers"]] == BASE.layers
    # whatever the kind and the compressor
    assert digest(done.stdout) == (
        "sha256:a7c656881d2a9d5fc42ea239cf6c3a08b31fb2b56a0f767d45a0bc7767fd451d"
    )


@pytest.mark.slow
@pytest.mark.parametrize("umask", [0, 0o077])
def test_the_bytes_do_not_depend_on_the_umask(
    registry: DirectoryRegistry, pull: Pull, umask: int
) -> None:
    """Without it another machine would make a file of another hash."""
    layout = Layout()
    image = add_image(layout, BASE)
    registry.push(layout)
    before = pull(f"@{image['digest']}", "-q").stdout
    assert pull(f"@{image['digest']}", "-q", umask=umask).stdout == before


def test_final_name_and_tag(registry: DirectoryRegistry, pull: Pull) -> None:
    """Without it an image could be loaded only under the registry's name for it."""
    layout = Layout()
    image = add_image(layout, BASE)
    registry.push(layout)
    for words, tag in ((["-t", "mine:2"], "mine:2"), ([], f"{NAME}:latest")):
        done = pull(f"@{image['digest']}", *words)
        assert read(done.stdout)[0]["RepoTags"] == [tag]


def variants(layout: Layout) -> dict[str, dict[str, Any]]:
    """Add images of several platforms."""
    platforms = [("amd64", ""), ("arm", "v6"), ("arm", "v7"), ("arm64", "v8")]
    found = {}
    for arch, variant in platforms:
        platform = {"architecture": arch, "os": "linux"} | ({"variant": variant} if variant else {})
        base = Base(layers=[layer_tar({"platform": f"{arch}{variant}".encode()})])
        found[arch + variant] = add_image(layout, base, **platform)
    return found


@pytest.mark.parametrize("nested", [False, True])
@pytest.mark.parametrize(
    ("words", "chosen"),
    [
        (["--arch", "amd64"], "amd64"),
        (["--os", "linux", "--arch", "arm"], "armv7"),
        (["--arch", "arm", "--variant", "v6"], "armv6"),
        (["--arch", "arm64"], "arm64v8"),
    ],
)
def test_platform_of_an_index(
    registry: DirectoryRegistry, pull: Pull, words: list[str], chosen: str, *, nested: bool
) -> None:
    """Without it another version of skopeo could choose another image for the same digest."""
    layout = Layout()
    images = variants(layout)
    index = layout.index([artifacts(layout)["attestation"], *images.values()])
    if nested:
        index = layout.index([index | {"platform": images[chosen]["platform"]}])
    registry.push(layout)
    item, members = read(pull(f"@{index['digest']}", *words).stdout)
    assert chosen.encode() in members[item["Layers"][0]]


def test_a_platform_that_is_missing(registry: DirectoryRegistry, pull: Pull) -> None:
    """Without it an image that cannot run here would be fetched, or the error not say what there is."""
    layout = Layout()
    index = layout.index([artifacts(layout)["attestation"], *variants(layout).values()])
    registry.push(layout)
    done = pull(f"@{index['digest']}", "--arch", "s390x")
    refused(
        done,
        f"{NAME}@{index['digest']}: has no image for linux/s390x"
        " (it has: linux/amd64, linux/arm/v6, linux/arm/v7, linux/arm64/v8)",
    )


def test_a_single_image_for_another_platform(registry: DirectoryRegistry, pull: Pull) -> None:
    """Its digest names it, whatever the platform: only who asked for another one is warned."""
    layout = Layout()
    image = add_image(layout, BASE, architecture="s390x", os="linux")
    registry.push(layout)
    assert pull(f"@{image['digest']}", "-q").stderr == b""
    done = pull(f"@{image['digest']}", "-q", "--arch", "arm64")
    assert done.returncode == 0
    assert b"is for linux/s390x, not for linux/arm64" in done.stderr


def changed(registry: DirectoryRegistry, which: dict[str, Any], data: bytes) -> None:
    """Make the registry answer with other bytes than those of the digest."""
    digits = which["digest"][7:]
    (registry.directory / "blobs" / digits).write_bytes(data)
    (registry.directory / "manifests" / f"sha256:{digits}").write_bytes(data)


@pytest.mark.parametrize("what", ["index", "manifest", "config", "layer"])
def test_everything_is_verified(registry: DirectoryRegistry, pull: Pull, what: str) -> None:
    """Without it an image would be only as trustworthy as the registry, or this skopeo."""
    layout = Layout()
    image = add_image(layout, BASE, "oci", "plain", architecture="amd64", os="linux")
    other = add_image(layout, Base(layers=[layer_tar({"one": b"2"})]), architecture="amd64")
    index = layout.index([image])
    manifest = json.loads(layout.blobs[f"blobs/sha256/{image['digest'][7:]}"])
    registry.push(layout)
    data = layout.blobs[f"blobs/sha256/{other['digest'][7:]}"]
    if what == "config":
        changed(registry, manifest["config"], json.dumps(BASE.document()).encode() + b" ")
    elif what == "layer":
        old = BASE.layers[0]
        changed(registry, manifest["layers"][0], old.replace(b"1111", b"2222", 1))
    else:
        changed(registry, {"index": index, "manifest": image}[what], data)
    done = pull(f"@{index['digest']}", "-o", str(registry.directory / "out.tar"), "-q")
    refused(done, manifest["layers"][0]["digest"][7:] if what == "layer" else NAME)
    assert not (registry.directory / "out.tar").exists()


def test_a_skopeo_that_gives_another_image(registry: DirectoryRegistry, pull: Pull) -> None:
    """Without it the manifest that was read would be verified, and another one used."""
    layout = Layout()
    image = add_image(layout, BASE)
    other = add_image(layout, Base(layers=[layer_tar({"one": b"2"})]))
    registry.push(layout)
    program = registry.directory / "bin" / "skopeo"
    text = program.read_text("utf-8")
    registry.program("skopeo", text.replace('$version" "$target', f'{other["digest"]}" "$target'))
    refused(pull(f"@{image['digest']}", "-q"), "sha256 is", image["digest"][7:])


def test_what_is_not_an_image(registry: DirectoryRegistry, pull: Pull) -> None:
    """Without it a chart would become an archive that nothing loads, and schema 1 a riddle."""
    layout = Layout()
    chart = artifacts(layout)["chart"]
    old = layout.blob(b'{"schemaVersion": 1, "fsLayers": []}', "application/json")
    words = layout.blob(b"hello", "text/plain")
    numbers = layout.blob(b"[1]", "application/json")
    empty = layout.index([])
    strange = layout.index([{"digest": "md5:1", "platform": {"os": "linux"}}])
    registry.push(layout)
    for descriptor, reason in (
        (chart, "contains no image"),
        (old, "schema 1"),
        (words, "is not JSON"),
        (numbers, "is not a JSON object"),
        (empty, "(it has: none)"),
        (strange, "'md5:1' is not a digest"),
    ):
        refused(pull(f"@{descriptor['digest']}", "-q"), descriptor["digest"], reason)


def test_indexes_without_end(registry: DirectoryRegistry, pull: Pull) -> None:
    """Without a limit a registry could keep us busy for ever."""
    layout = Layout()
    index = layout.index([add_image(layout, BASE)])
    for _ in range(6):
        index = layout.index([index])
    registry.push(layout)
    refused(pull(f"@{index['digest']}"), "nested too deeply")


def test_what_skopeo_says(registry: DirectoryRegistry, pull: Pull) -> None:
    """Without it nobody would learn whether the name, the network or the password is wrong."""
    missing = f"sha256:{'0' * 64}"
    done = pull(f"@{missing}")
    refused(done, f'{NAME}@{missing}: skopeo: reading "{missing}": manifest unknown')
    registry.program("skopeo", "#!/bin/sh\necho odd >&2; echo words >&2; exit 3\n")
    refused(pull(f"@{missing}"), "skopeo: words")
    registry.program("skopeo", "#!/bin/sh\nexit 3\n")
    refused(pull(f"@{missing}"), "skopeo: ended with status 3")
    registry.program("skopeo", "#!/missing\n")
    refused(pull(f"@{missing}"), "cannot be started: No such file")
    (registry.directory / "bin" / "skopeo").unlink()
    refused(pull(f"@{missing}"), "needs skopeo, which is not installed")


def test_options_for_skopeo(registry: DirectoryRegistry, pull: Pull) -> None:
    """Without them there would be no credentials, and no registry without TLS."""
    layout = Layout()
    image = add_image(layout, BASE)
    registry.push(layout)
    pull(f"@{image['digest']}", "-q")
    assert not [call for call in registry.calls() if "tls" in call or "authfile" in call]
    words = ["--tls-verify", "false", "--authfile", "/auth.json"]
    done = pull(f"@{image['digest']}", *words, "--progress", "plain")
    assert b"Copying\n" in done.stderr
    look, copy = registry.calls()[-2:]
    assert " --tls-verify=false --authfile /auth.json " in look
    assert " --src-tls-verify=false --src-authfile /auth.json " in copy
    for call in (look, copy):
        assert call.startswith("--insecure-policy ")
        assert f"docker://{NAME}@{image['digest']}" in call
    for mode in ("json", "none"):
        assert b"Copying" not in pull(f"@{image['digest']}", "--progress", mode).stderr


@pytest.mark.parametrize(
    ("version", "words", "reason"),
    [
        ("", [], "has no digest"),
        (":1", [], "has no digest"),
        ("@sha256:12", [], "'sha256:12' is not a digest"),
        ("/A@sha256:" + "0" * 64, [], "a repository name is lower-case"),
        (":-@sha256:" + "0" * 64, [], "is not a tag"),
        ("@sha256:" + "0" * 64, ["-t", "x"], "has no tag"),
    ],
)
def test_bad_references(pull: Pull, version: str, words: list[str], reason: str) -> None:
    """Without it skopeo would report them, in words of its own, or fetch an image that changes."""
    refused(pull(version, *words), reason, status=2)


def test_temporary_files_after_a_signal(registry: DirectoryRegistry) -> None:
    """Without it each image that is not waited for would fill the disk."""
    layout = Layout()
    image = add_image(layout, BASE)
    registry.push(layout)
    (registry.directory / "slow").touch()
    command = [*COMMAND, "pull", f"{NAME}@{image['digest']}"]
    environment = {**os.environ, **registry.environment}
    pipe = subprocess.PIPE
    with subprocess.Popen(command, env=environment, stdout=pipe, stderr=pipe) as process:
        deadline = time.monotonic() + 20
        while not [*(registry.directory / "tmp").glob("*/image")]:
            assert time.monotonic() < deadline
            time.sleep(0.01)
        process.send_signal(signal.SIGTERM)
        assert process.communicate(timeout=20)[0] == b""
        assert process.returncode == 128 + signal.SIGTERM
    assert registry.leftovers() == []


def test_from_python(registry: DirectoryRegistry) -> None:
    """Without it the function could need what only the command line gives."""
    layout = Layout()
    image = add_image(layout, BASE)
    registry.push(layout)
    code = (
        "import stream, sys; image = stream.pull(sys.argv[1], open('image.tar', 'wb'),"
        " repo_tag='a:1', access=stream.Access(tls_verify=False)); print(image.image_id)\n"
        "for bad in ({'reference': 1}, {'reference': 'a@b'}, {'reference': sys.argv[1], 'repo_tag': 'b'}):\n"
        "    try: stream.pull(output=1, **bad)\n"
        "    except stream.ArgumentError as error: print(error.argument)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, f"{NAME}@{image['digest']}"],
        cwd=registry.directory, env={**os.environ, **registry.environment}, check=True,
        capture_output=True, text=True,
    )  # fmt: skip
    config = json.dumps(BASE.document()).encode()
    assert done.stdout.split() == [digest(config), "reference", "reference", "repo_tag"]
    assert done.stderr == ""
    assert read((registry.directory / "image.tar").read_bytes())[0]["RepoTags"] == ["a:1"]

"""Images pushed to a real registry, which consumers pull and run."""

import hashlib
import json
import os
import re
import subprocess
import sys
import urllib.request
from pathlib import Path

import pytest
from registries import started
from support import until

from .consumer import Consumer, Runner
from .daemons import Registry
from .images import REPO_TAG, BuiltImage, specification
from .pulling import pull_command
from .requirements import require

pytestmark = pytest.mark.consumers

_CODECS = {
    "Docker": "gzip:1",  # zstd only from 23
    "Podman": "zstd:1",
    "Containerd": "zstd:1",
    "Buildah": "gzip:1",
    "Skopeo": "none",
}


def test_pushed_and_pulled(
    consumer: Consumer, registry: Registry, image: BuiltImage, expected_id: str, tmp_path: Path
) -> None:
    """Without it a registry could take what a consumer then refuses, or runs as another image."""
    name = f"{registry.address}/{REPO_TAG}"
    document = json.loads(image.conf.read_bytes())
    document["customisation_layer"] = None
    without_top = tmp_path / "without-top.json"
    without_top.write_text(json.dumps(document))

    codec = _CODECS[type(consumer).__name__]

    def push(conf: Path, *words: str) -> str:
        ended = consumer.command(
            *(sys.executable, "-m", "stream", "push", str(conf), name, "--compress", codec),
            *("--digest-cache", str(tmp_path / "digests"), *words),
        )
        assert ended.returncode == 0, ended.stderr
        assert ended.stdout.startswith(f"{registry.address}/greeter@sha256:")
        return ended.stderr

    assert ", sent 4 blobs (" in push(without_top)
    # The new layer and the config. What is too young to be known is small, and looked for.
    # Consumers see what the registry remembers, which is more than they do without.
    ended_with = push(image.conf, "--registry-cache")
    assert re.search(r", sent 2 blobs \(.*\), held 3 blobs \(", ended_with)
    ended = consumer.command("sh", "-c", pull_command(consumer, name))
    assert ended.returncode == 0, ended.stderr
    assert consumer.image_id(REPO_TAG) == expected_id
    if isinstance(consumer, Runner):
        ran = consumer.run(REPO_TAG)
        assert (ran.returncode, ran.stdout) == (0, image.greeting("hello")), ran.stderr


def test_killed_and_pushed_again(image: BuiltImage, tmp_path: Path) -> None:
    """Without it a push that is killed could leave a real registry with a tag that is not whole."""
    require(["docker-registry", "skopeo"])
    (tmp_path / "registry").mkdir()
    log = tmp_path / "registry" / "log"

    def requests() -> int:
        return log.read_bytes().count(b"response completed")

    def tags(name: str) -> list[str]:
        with urllib.request.urlopen(f"http://{registry.address}/v2/{name}/tags/list") as answer:
            return list(json.load(answer)["tags"] or ())

    with started(tmp_path / "registry") as registry:
        push = [sys.executable, "-m", "stream", "push", str(image.conf), "--no-digest-cache", "-q"]
        subprocess.run([*push, f"{registry.address}/whole"], check=True, capture_output=True)
        total = requests()
        assert tags("whole") == ["one"]
        for number in (total // 2, total - 2):
            name, before = f"killed-{number}", requests()
            with subprocess.Popen([*push, f"{registry.address}/{name}"]) as process:
                until(lambda: requests() >= before + number)  # noqa: B023 — in this turn alone
                process.kill()
            uploads = registry.data / f"docker/registry/v2/repositories/{name}"
            assert not (uploads / "_manifests/tags").exists()
            subprocess.run([*push, f"{registry.address}/{name}"], check=True, capture_output=True)
            assert tags(name) == ["one"]
            place = f"docker://{registry.address}/{name}:one"
            copy = ["skopeo", "--insecure-policy", "copy", "--quiet", "--src-tls-verify=false"]
            subprocess.run([*copy, place, f"dir:{tmp_path}/{name}"], check=True)


def test_previous_build_in_a_real_registry(image: BuiltImage, tmp_path: Path) -> None:
    """Without it an image would be laid out afresh by each machine, or once another tool has copied it."""
    require(["docker-registry", "skopeo"])
    (tmp_path / "registry").mkdir()
    spec = str(specification(image))

    def layers(*words: str) -> list[list[str]]:
        command = [sys.executable, "-m", "stream", "plan", spec, *words]
        done = subprocess.run(command, check=True, capture_output=True, text=True)
        assert done.stderr == ""
        return list(json.loads(done.stdout)["store_layers"])

    kept = layers("--previous", str(image.conf))
    assert kept != layers()
    with started(tmp_path / "registry") as registry:
        name = f"{registry.address}/greeter:one"
        push = [sys.executable, "-m", "stream", "push", "--no-digest-cache", "--compress=none"]
        first = [*push, spec, name, "--previous", str(image.conf)]
        subprocess.run(first, check=True, capture_output=True)
        assert layers("--previous", f"docker://{name}") == kept
        again = subprocess.run([*push, spec, name], check=True, capture_output=True, text=True)
        assert ", sent nothing, held 5 blobs (" in again.stderr
        copy = ["skopeo", "--insecure-policy", "copy", "--quiet", "--format=v2s2"]
        copy += ["--src-tls-verify=false", "--dest-tls-verify=false", "--dest-compress-format=gzip"]
        copied = f"docker://{registry.address}/elsewhere:two"
        subprocess.run([*copy, f"docker://{name}", copied], check=True)
        assert layers("--previous", copied) == kept


def test_remembered_by_a_real_registry(tmp_path: Path) -> None:
    """Without it a registry that drops or refuses annotations would make every machine send all."""
    require(["docker-registry", "skopeo"])
    layers = []
    for number, letter in enumerate("abcd"):
        path = tmp_path / "store" / f"{letter * 32}-{number}"
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(os.urandom(5 << 20))  # more than what is looked for unasked
        layers.append(str(path))
    (tmp_path / "registry").mkdir()

    def push(paths: list[str], tag: str, *words: str) -> str:
        hashes = {path: f"sha256:{hashlib.sha256(path.encode()).hexdigest()}" for path in paths}
        document: dict[str, object] = {
            "repo_tag": "app:1",
            "store_dir": str(tmp_path / "store"),
            "store_layers": [[path] for path in paths],
            "store_path_hashes": hashes,
        }
        (tmp_path / "conf.json").write_text(json.dumps(document))
        command = [sys.executable, "-m", "stream", "push", str(tmp_path / "conf.json")]
        command += [f"{registry.address}/{tag}", "--no-digest-cache", "--registry-cache", *words]
        return subprocess.run(command, check=True, capture_output=True, text=True).stderr

    with started(tmp_path / "registry") as registry:
        assert ", sent 4 blobs (" in push(layers[:3], "app:main")
        assert ", sent nothing, held 4 blobs (" in push(layers[:3], "app:main")
        found = push([*layers[:2], layers[3]], "app:branch", "--cache-from", ":main")
        assert re.search(r", sent 2 blobs \(.*\), held 2 blobs \(", found)
        mounted = push(layers[1:], "fork:new", "--cache-from", f"{registry.address}/app:main")
        assert re.search(r", sent 2 blobs \(.*\), mounted 2 blobs \(", mounted)
        place = f"docker://{registry.address}/app:branch"
        copy = ["skopeo", "--insecure-policy", "copy", "--quiet", "--src-tls-verify=false"]
        subprocess.run([*copy, place, f"dir:{tmp_path}/copied"], check=True)

"""Many images pushed to a real registry at once, and two machines that push one tag."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from registries import started
from support import Store

from .requirements import require

pytestmark = pytest.mark.consumers

PUSH = (sys.executable, "-m", "stream")


def pulled(address: str, name: str, directory: Path) -> list[str]:
    """Return the layers of an image that skopeo has pulled and verified."""
    copy = ["skopeo", "--insecure-policy", "copy", "--quiet", "--src-tls-verify=false"]
    subprocess.run([*copy, f"docker://{address}/{name}", f"dir:{directory}"], check=True)
    layers = json.loads((directory / "manifest.json").read_bytes())["layers"]
    return [layer["digest"] for layer in layers]


def test_many_images_and_two_machines(tmp_path: Path) -> None:
    """Without it a real registry could refuse mounts as they are asked for here, or two jobs could
    leave a tag with layers of both.
    """
    require(["docker-registry", "skopeo"])
    store = Store.below(tmp_path)
    store.file("shared", os.urandom(3 << 20))
    confs = tmp_path / "confs"
    for directory in (confs, tmp_path / "registry"):
        directory.mkdir()
    for name in ("one", "two", "three"):
        store.file(name, os.urandom(100_000))
        document = json.loads(store.conf(["shared"], [name]).read_bytes())
        (confs / f"{name}.json").write_text(json.dumps(document | {"repo_tag": f"{name}:v1"}))
    with started(tmp_path / "registry") as registry:
        team = f"{registry.address}/team"
        words = ["push-all", str(confs), team, "--progress", "json", "--compress", "zstd:1"]
        done = subprocess.run([*PUSH, *words], check=True, capture_output=True)
        last = json.loads(done.stderr.splitlines()[-1])
        assert (last["sent"]["blobs"], last["mounted"]["blobs"]) == (7, 2)
        found = {name: pulled(team, f"{name}:v1", tmp_path / name) for name in ("one", "two")}
        assert found["one"][0] == found["two"][0]
        again = subprocess.run([*PUSH, *words], check=True, capture_output=True)
        assert json.loads(again.stderr.splitlines()[-1])["sent"]["blobs"] == 0
        assert again.stdout == done.stdout

        machines = []
        for name in ("one", "two"):
            push = ["push", str(confs / f"{name}.json"), f"{team}/both:v1", "-q"]
            caches = {**os.environ, "XDG_CACHE_HOME": str(tmp_path / "caches" / name)}
            words = [*PUSH, *push, "--compress", "zstd:1", "--registry-cache"]
            machines.append(subprocess.Popen(words, env=caches, stdout=subprocess.DEVNULL))
        assert [machine.wait(60) for machine in machines] == [0, 0]
        assert pulled(team, "both:v1", tmp_path / "both") in [found["one"], found["two"]]

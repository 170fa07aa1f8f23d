"""`stream-image load` into real engines: what is sent, what stays if it fails, and what runs."""

import json
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import pytest

from .consumer import Runner
from .daemonless import Podman
from .daemons import Containerd, Docker
from .images import MOTTO, REPO_TAG, BuiltImage, build_image, specification
from .requirements import require

pytestmark = pytest.mark.consumers

_SETTLING: Final = 2.1  # seconds until the digest of a layer with a new file is kept
_PROGRAM: Final = Path(__file__).with_name("loading.py")
_LAYERS: Final = 4  # tree, motto, program and script, and the customisation layer
_SSH: Final = """#!/bin/sh
while [ "$1" != -- ]; do shift; done
shift 2
exec sh -c "$1"
"""


@dataclass(frozen=True, kw_only=True)
class Loader:
    """A consumer that our command loads an image into, from a store of its own."""

    consumer: Runner
    engine: str
    image: BuiltImage
    remove: str
    """The shell command that removes all images with their layers."""

    def load(self, *options: str) -> dict[str, Any]:
        """Load the image. Return the event that reports it; a warning is a failure."""
        argv = (sys.executable, "-m", "stream", "load", str(self.image.conf), "--progress=json")
        ended = self.consumer.command(*argv, f"--engine={self.engine}", *options)
        assert ended.returncode == 0, ended.stderr
        events = [json.loads(line) for line in ended.stderr.splitlines()]
        assert "warning" not in {event["event"] for event in events}, ended.stderr
        assert ended.stdout == events[-1]["name"] + "\n"
        return dict(events[-1])

    def sent(self, *options: str) -> int:
        """Load the image. Return how many layers were sent."""
        event = self.load(*options)
        assert event["sent"]["layers"] + event["held"]["layers"] == _LAYERS
        return int(event["sent"]["layers"])

    def interfere(self, *command: str) -> subprocess.CompletedProcess[str]:
        """Load with the program that interferes."""
        argv = (sys.executable, str(_PROGRAM), str(self.image.conf), self.engine, *command)
        return self.consumer.command(*argv)

    def greeting(self) -> str:
        """Return what a container of the image prints."""
        ran = self.consumer.run(REPO_TAG)
        assert ran.returncode == 0, ran.stderr
        return ran.stdout

    def expect(self, motto: str) -> None:
        """Run a container; it must have all of the image, with this motto."""
        assert self.greeting() == self.image.greeting("hello").replace(MOTTO, motto)

    def layers(self, *options: str) -> list[list[str]]:
        """Plan a specification of the same store paths. Return the layers; a warning is a failure."""
        argv = (sys.executable, "-m", "stream", "plan", str(specification(self.image)))
        ended = self.consumer.command(*argv, *options)
        assert (ended.returncode, ended.stderr) == (0, "")
        return list(json.loads(ended.stdout)["store_layers"])

    def write(self, name: str, text: str) -> None:
        """Replace the content of a file in the store."""
        (path,) = self.image.conf.parent.glob(f"store/*-{name}")
        path.write_text(text)


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> dict[str, BuiltImage]:
    """Build an image for each engine, and wait until digests of its layers are kept."""
    require(["gcc"])
    engines = ("docker", "podman", "containerd")
    built = {one: build_image(tmp_path_factory.mktemp(f"load-{one}")) for one in engines}
    time.sleep(_SETTLING)
    return built


_REMOVE: Final = {
    "docker": "docker rmi --force $(docker images --quiet | sort --unique)",
    "podman": "podman rmi --all --force",
    "containerd": "ctr images rm --sync $(ctr images ls --quiet)",
}


_PLACES: Final = {
    "docker": "docker-daemon",
    "podman": "containers-storage",
    "containerd": "containerd",
}


@pytest.fixture(params=sorted(_REMOVE))
def loader(request: pytest.FixtureRequest, images: dict[str, BuiltImage]) -> Loader:
    """Return each engine, with a cold store, and an ssh that stays on this host."""
    consumer: Docker | Podman | Containerd = request.getfixturevalue(request.param)
    consumer.environment = {
        **consumer.environment,
        "CONTAINERD_ADDRESS": "/run/containerd/grpc.sock",
        "CONTAINERD_NAMESPACE": "stream-image",
        "PATH": "/run/programs:/usr/sbin:/usr/bin:/sbin:/bin",
    }
    ssh = consumer.isolation.path(consumer.isolation.directory("/run/programs")) / "ssh"
    ssh.write_text(_SSH)
    ssh.chmod(0o755)
    return Loader(
        consumer=consumer,
        engine=request.param,
        image=images[request.param],
        remove=_REMOVE[request.param],
    )


def test_load(loader: Loader) -> None:
    """An image's life in an engine. One test, since it takes a daemon, and each step another's result:
    without it, layers could be sent for nothing, or left out and then missing.
    """
    by_chain = loader.engine == "docker"
    assert loader.sent() == _LAYERS
    loader.expect(MOTTO)
    assert loader.sent() == 0
    kept = loader.layers("--previous", f"{_PLACES[loader.engine]}:{REPO_TAG}")
    assert kept == loader.layers("--previous", str(loader.image.conf)) != loader.layers()
    assert loader.sent("--host=ssh://me@elsewhere", "--repo-tag=other:1") == 0

    loader.write("script-3.0/greet", "changed near the top")
    assert loader.sent() == (2 if by_chain else 1)
    loader.write("motto-1.0/text", "changed in the middle")
    assert loader.sent() == (3 if by_chain else 2)
    loader.expect("changed in the middle")

    # The image goes while it is loaded: what was left out of the archive is not there any more.
    loader.write("motto-1.0/text", "loaded after all")
    interfered = loader.interfere("run", "sh", "-c", loader.remove)
    assert interfered.returncode == 0, interfered.stderr
    assert interfered.stdout.endswith("; sending every layer\n")
    loader.expect("loaded after all")

    # The program is killed while it writes.
    loader.write("motto-1.0/text", "never loaded")
    assert loader.interfere("kill").returncode != 0
    loader.expect("loaded after all")

    loader.write("motto-1.0/text", "at last")
    assert loader.sent() < _LAYERS
    loader.expect("at last")
    removed = loader.consumer.command("sh", "-c", loader.remove)
    assert removed.returncode == 0, removed.stderr
    assert loader.sent() == _LAYERS
    loader.expect("at last")
    assert not [name for name in loader.consumer.images() if "stream-image.invalid" in name]

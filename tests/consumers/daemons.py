"""The consumers that are daemons with a client: dockerd, containerd, and a registry."""

import json
import os
import re
import subprocess
from collections.abc import Mapping, Sequence
from itertools import count
from typing import ClassVar, Final

from stream.oci.platform import Platform

from .consumer import Runner, pairs
from .isolation import Isolation

_SNAPSHOTTER: Final = "overlayfs"
MACHINE: Final = Platform.of_this_machine().architecture


class Docker(Runner):
    """A dockerd without networks."""

    programs: ClassVar[Sequence[str]] = ("dockerd", "docker", "containerd", "runc")

    def __init__(self, isolation: Isolation) -> None:
        """Start a daemon on an empty data root."""
        super().__init__(isolation)
        socket = "unix:///run/docker.sock"
        self.environment = {"DOCKER_HOST": socket}
        daemon = (
            "dockerd",
            f"--host={socket}",
            "--data-root=/run/docker/data",
            "--exec-root=/run/docker/exec",
            "--pidfile=/run/docker.pid",
            "--storage-driver=overlay2",
            f"--cgroup-parent=/{isolation.cgroup}",
            "--exec-opt=native.cgroupdriver=cgroupfs",
            "--bridge=none",
            "--iptables=false",
            "--ip6tables=false",
            "--ip-forward=false",
            "--ip-masq=false",
            "--userland-proxy=false",
        )
        isolation.start(daemon, self._answers)

    def load_command(self) -> Sequence[str]:
        """Docker reads its input to the end in any case."""
        return ("docker", "load", "--quiet")

    def images(self) -> Mapping[str, str]:
        """Return everything that the daemon lists."""
        return pairs(
            self.output(
                "docker", "images", "--no-trunc", "--format", "{{.ID}} {{.Repository}}:{{.Tag}}"
            )
        )

    def run(self, tag: str, *argv: str) -> subprocess.CompletedProcess[str]:
        """Run the container without a network, and never contact a registry."""
        return self.command("docker", "run", "--rm", "--network=none", "--pull=never", tag, *argv)

    def _answers(self) -> bool:
        return (
            self.isolation.path("/run/docker.sock").exists()
            and self.command("docker", "version").returncode == 0
        )


# On a busy machine, the shim of containerd 1.6 may lose the output of a container that ends at
# once. What it never loses is the exit status, so an image that does not run is seen at once.
_RUNS = 3


class Containerd(Runner):
    """A containerd, used through ctr."""

    programs: ClassVar[Sequence[str]] = ("containerd", "ctr", "runc")

    def __init__(self, isolation: Isolation) -> None:
        """Start a daemon on an empty root."""
        super().__init__(isolation)
        self._containers = count()
        self._image_ids: dict[str, str] = {}
        # Without plugins that need kernel modules or networks, or write below /opt.
        unused = ["io.containerd.grpc.v1.cri", "io.containerd.internal.v1.opt"]
        unused += [
            f"io.containerd.snapshotter.v1.{name}" for name in ("aufs", "btrfs", "zfs", "devmapper")
        ]
        configuration = isolation.directory("/run/containerd") + "/config.toml"
        isolation.path(configuration).write_text(
            "version = 2\n"
            'root = "/run/containerd/root"\n'
            'state = "/run/containerd/state"\n'
            f"disabled_plugins = {json.dumps(unused)}\n"
            "[grpc]\n"
            'address = "/run/containerd/grpc.sock"\n'
            "[ttrpc]\n"
            'address = "/run/containerd/ttrpc.sock"\n'
        )
        isolation.start(("containerd", "--config", configuration), self._answers)

    def reference(self, tag: str) -> str:
        """Containerd uses full references."""
        return f"docker.io/library/{tag}"

    def load_command(self) -> Sequence[str]:
        """Import and unpack in one command. It stops reading at the archive's end marker."""
        return self._ctr("images", "import", f"--snapshotter={_SNAPSHOTTER}", "-")

    def images(self) -> Mapping[str, str]:
        """Return the unpacked images: a failed import leaves only the name of its image."""
        return {reference: self._image_id(digest) for reference, digest in self.unpacked().items()}

    def unpacked(self) -> Mapping[str, str]:
        """Return the images that are complete and unpacked: digests of manifests by reference."""
        table = self.output(*self._ctr("images", "check", f"--snapshotter={_SNAPSHOTTER}"))
        # A heading, then: the reference, the manifest's media type and digest, columns with spaces, unpacked or not.
        rows = [line.split() for line in table.splitlines()[1:]]
        return {
            reference: digest for reference, _, digest, *_, unpacked in rows if unpacked == "true"
        }

    def run(self, tag: str, *argv: str) -> subprocess.CompletedProcess[str]:
        """Run the container without a cgroup, so that none is left."""
        options = ("--rm", "--cgroup=", f"--snapshotter={_SNAPSHOTTER}")
        for _ in range(_RUNS):
            # The name becomes that of a cgroup all the same for a moment, and those are the machine's.
            container = f"container-{os.getpid()}-{next(self._containers)}"
            ended = self.command(*self._ctr("run", *options, self.reference(tag), container, *argv))
            if ended.returncode or ended.stdout:
                break
        return ended

    def _image_id(self, manifest_digest: str) -> str:
        if manifest_digest not in self._image_ids:
            manifest = json.loads(self.output(*self._ctr("content", "get", manifest_digest)))
            if "manifests" in manifest:
                (own,) = (
                    one["digest"]
                    for one in manifest["manifests"]
                    if one["platform"]["architecture"] == MACHINE
                )
                manifest = json.loads(self.output(*self._ctr("content", "get", own)))
            self._image_ids[manifest_digest] = str(manifest["config"]["digest"])
        return self._image_ids[manifest_digest]

    def _ctr(self, *argv: str) -> Sequence[str]:
        return ("ctr", "--address=/run/containerd/grpc.sock", "--namespace=stream-image", *argv)

    def _answers(self) -> bool:
        return self.isolation.path("/run/containerd/grpc.sock").exists() and (
            self.command(*self._ctr("version")).returncode == 0
        )


class Registry:
    """A registry on loopback, at a port of its own choice."""

    programs: ClassVar[Sequence[str]] = ("docker-registry",)

    def __init__(self, isolation: Isolation) -> None:
        """Start with an empty registry."""
        configuration = isolation.directory("/run/registry") + "/config.json"
        # JSON is a subset of YAML.
        settings = {
            "version": 0.1,
            "storage": {
                "filesystem": {"rootdirectory": "/run/registry/data"},
                "delete": {"enabled": True},
            },
            "http": {"addr": "127.0.0.1:0", "relativeurls": True},
        }
        isolation.path(configuration).write_text(json.dumps(settings))
        log = isolation.logs / "docker-registry.log"
        listening = re.compile(r"listening on (127\.0\.0\.1:\d+)")
        isolation.start(
            ("docker-registry", "serve", configuration),
            lambda: listening.search(log.read_text(errors="replace")) is not None,
        )
        found = listening.search(log.read_text(errors="replace"))
        assert found is not None
        self.address = found[1]
        """The host and port, inside the namespaces."""

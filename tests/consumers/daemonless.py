"""The consumers that are commands without a daemon: podman, buildah, skopeo and umoci."""

import json
import subprocess
from collections.abc import Mapping, Sequence
from itertools import count
from typing import ClassVar, Final

from .consumer import Consumer, Runner, pairs
from .isolation import Isolation

# Skopeo and buildah open their input twice, which fails on a plain pipe. They first copy compressed input to a file,
# but Debian's builds of them cannot read an archive compressed with gzip.
_ZSTD: Final = ("zstd", "-1", "--quiet", "--stdout")


def _containers_environment(isolation: Isolation) -> dict[str, str]:
    """Write the settings that podman, buildah and skopeo share, for an empty store."""
    home = isolation.directory("/run/containers")
    settings = isolation.path(home)
    # Without explicit limits, podman raises them, which root without CAP_SYS_RESOURCE may not do.
    (settings / "containers.conf").write_text(
        "[containers]\n"
        'default_ulimits = ["nofile=1024:1024", "nproc=1024:1024"]\n'
        'netns = "none"\n'
        'cgroups = "disabled"\n'
        "[engine]\n"
        'cgroup_manager = "cgroupfs"\n'
        'events_logger = "none"\n'
        'runtime = "crun"\n'
    )
    (settings / "storage.conf").write_text(
        f'[storage]\ndriver = "overlay"\ngraphroot = "{home}/graph"\nrunroot = "{home}/run"\n'
    )
    return {
        "CONTAINERS_CONF": f"{home}/containers.conf",
        "CONTAINERS_STORAGE_CONF": f"{home}/storage.conf",
    }


class Podman(Runner):
    """Podman, as root."""

    programs: ClassVar[Sequence[str]] = ("podman", "conmon", "crun")

    def __init__(self, isolation: Isolation) -> None:
        """Configure an empty store."""
        super().__init__(isolation)
        self.environment = _containers_environment(isolation)

    def reference(self, tag: str) -> str:
        """Podman reports that an image did not come from a registry."""
        return f"localhost/{tag}"

    def load_command(self) -> Sequence[str]:
        """Podman reads a plain pipe."""
        return ("podman", "load", "--quiet")

    def images(self) -> Mapping[str, str]:
        """Return everything that the store lists."""
        return pairs(
            self.output(
                "podman", "images", "--no-trunc", "--format", "{{.ID}} {{.Repository}}:{{.Tag}}"
            )
        )

    def run(self, tag: str, *argv: str) -> subprocess.CompletedProcess[str]:
        """Run the container, and never contact a registry."""
        return self.command("podman", "run", "--rm", "--pull=never", self.reference(tag), *argv)


class OciPodman(Podman):
    """Podman with an OCI archive: it uses the full name of the image from the archive's index."""

    def reference(self, tag: str) -> str:
        """Return the full name."""
        return f"docker.io/library/{tag}"


class Buildah(Runner):
    """Buildah, which runs commands in a working container."""

    programs: ClassVar[Sequence[str]] = ("buildah", "zstd")
    filters: ClassVar[Sequence[Sequence[str]]] = (_ZSTD,)

    def __init__(self, isolation: Isolation) -> None:
        """Configure an empty store."""
        super().__init__(isolation)
        self.environment = _containers_environment(isolation)

    def reference(self, tag: str) -> str:
        """Buildah reports that an image did not come from a registry."""
        return f"localhost/{tag}"

    def load_command(self) -> Sequence[str]:
        """Buildah has no load command: it pulls from a transport."""
        return ("buildah", "pull", "--quiet", "docker-archive:/dev/stdin")

    def images(self) -> Mapping[str, str]:
        """Return everything that the store lists."""
        return pairs(
            self.output("buildah", "images", "--no-trunc", "--format", "{{.ID}} {{.Name}}:{{.Tag}}")
        )

    def run(self, tag: str, *argv: str) -> subprocess.CompletedProcess[str]:
        """Run in a fresh working container; buildah has no default command, so it is taken from the image."""
        container = self.command("buildah", "from", "--pull-never", self.reference(tag))
        if container.returncode != 0:
            return container
        name = container.stdout.strip()
        inspected = json.loads(self.output("buildah", "inspect", name))
        command = argv or inspected["Docker"]["config"]["Cmd"]
        return self.command("buildah", "run", "--isolation=chroot", name, "--", *command)


class OciBuildah(Buildah):
    """Buildah with its transport for OCI archives, which accepts only regular files."""

    def load_command(self) -> Sequence[str]:
        """Pull the archive's only image."""
        return ("buildah", "pull", "--quiet", "oci-archive:/dev/stdin")

    def reference(self, tag: str) -> str:
        """Return the full name of the image in the archive's index."""
        return f"docker.io/library/{tag}"


class Skopeo(Consumer):
    """Skopeo, which copies an archive into a directory of blobs and cannot run it."""

    programs: ClassVar[Sequence[str]] = ("skopeo", "zstd")
    filters: ClassVar[Sequence[Sequence[str]]] = (_ZSTD,)
    blobs: ClassVar[str] = "/run/skopeo/blobs"

    def __init__(self, isolation: Isolation) -> None:
        """Configure an empty store, and an empty cache of blob information."""
        super().__init__(isolation)
        self.environment = _containers_environment(isolation)
        isolation.directory("/run/skopeo")

    def load_command(self) -> Sequence[str]:
        """Copy to a directory, which leaves blobs unchanged."""
        return ("skopeo", "copy", "--quiet", "docker-archive:/dev/stdin", f"dir:{self.blobs}")

    def images(self) -> Mapping[str, str]:
        """Return the copied image, if there is one."""
        manifest = self.isolation.path(f"{self.blobs}/manifest.json")
        if not manifest.exists():
            return {}
        return {f"dir:{self.blobs}": str(json.loads(manifest.read_bytes())["config"]["digest"])}

    def reference(self, tag: str) -> str:
        """Return the directory for any tag, since it stores none."""
        del tag
        return f"dir:{self.blobs}"

    def copy(self, destination: str) -> None:
        """Copy the loaded image, for example to `oci:DIRECTORY:TAG` or `docker://HOST/NAME:TAG`."""
        self.output(
            "skopeo", "copy", "--quiet", "--dest-tls-verify=false", f"dir:{self.blobs}", destination
        )


class OciSkopeo(Skopeo):
    """Skopeo with its transport for OCI archives, which accepts only regular files."""

    def load_command(self) -> Sequence[str]:
        """Copy the archive's only image to a directory, which leaves blobs unchanged."""
        return ("skopeo", "copy", "--quiet", "oci-archive:/dev/stdin", f"dir:{self.blobs}")


class Umoci(Runner):
    """Umoci, which unpacks an OCI layout; crun runs the result."""

    programs: ClassVar[Sequence[str]] = ("umoci", "crun", "tar")
    layout: ClassVar[str] = "/run/umoci/layout"

    def __init__(self, isolation: Isolation) -> None:
        """Make an empty directory for the layout."""
        super().__init__(isolation)
        self._bundles = count()
        isolation.directory(self.layout)

    def load_command(self) -> Sequence[str]:
        """Umoci reads only the directory in an archive, not the archive; listing its images proves that it does."""
        unpack = 'tar --extract --file=- --directory="$1" && umoci list --layout "$1"'
        return ("sh", "-c", unpack, "sh", self.layout)

    def reference(self, tag: str) -> str:
        """A layout is a single repository, in which `name:tag` is called by its tag alone."""
        return tag.rpartition(":")[2]

    def images(self) -> Mapping[str, str]:
        """Return the tags of the layout, with the digests of their image configs."""
        layout = self.isolation.path(self.layout)
        if not (layout / "index.json").exists():
            return {}
        images = {}
        for descriptor in json.loads((layout / "index.json").read_bytes())["manifests"]:
            algorithm, _, encoded = descriptor["digest"].partition(":")
            manifest = json.loads((layout / "blobs" / algorithm / encoded).read_bytes())
            images[descriptor["annotations"]["org.opencontainers.image.ref.name"]] = manifest[
                "config"
            ]["digest"]
        return images

    def unpack(self, tag: str) -> subprocess.CompletedProcess[str]:
        """Unpack into a new bundle."""
        self._bundle = f"/run/umoci/bundle-{next(self._bundles)}"
        return self.command(
            "umoci", "unpack", f"--image={self.layout}:{self.reference(tag)}", self._bundle
        )

    def run(self, tag: str, *argv: str) -> subprocess.CompletedProcess[str]:
        """Unpack into a bundle, and run it without a terminal or a cgroup."""
        unpacked = self.unpack(tag)
        if unpacked.returncode != 0:
            return unpacked
        bundle = self._bundle
        runtime = self.isolation.path(f"{bundle}/config.json")
        settings = json.loads(runtime.read_bytes())
        settings["process"]["terminal"] = False
        settings["process"]["args"] = argv or settings["process"]["args"]
        # The limits that umoci proposes are higher than root without CAP_SYS_RESOURCE may set.
        settings["process"].pop("rlimits", None)
        runtime.write_text(json.dumps(settings))
        return self.command(
            "crun",
            "--cgroup-manager=disabled",
            "run",
            f"--bundle={bundle}",
            bundle.rpartition("/")[2],
        )

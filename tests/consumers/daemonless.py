"""The consumers that are commands without a daemon: podman, buildah, skopeo and umoci."""

import json
import subprocess
from collections.abc import Mapping, Sequence
from itertools import count
from typing import ClassVar, Final

from .consumer import Consumer, Runner, pairs
from .isolation import Isolation

# Skopeo and buildah open their input twice, which a plain pipe does not survive. What is compressed they copy to a file
# first; but Debian's builds of them cannot read an archive that gzip compressed.
_ZSTD: Final = ("zstd", "-1", "--quiet", "--stdout")


def _containers_environment(isolation: Isolation) -> dict[str, str]:
    """Write the settings that podman, buildah and skopeo share, for an empty store."""
    home = isolation.directory("/run/containers")
    settings = isolation.path(home)
    # Without limits of its own, podman raises them, which a root without CAP_SYS_RESOURCE is not allowed to.
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
        """Point it to an empty store."""
        super().__init__(isolation)
        self.environment = _containers_environment(isolation)

    def reference(self, tag: str) -> str:
        """Podman says that an image came from no registry."""
        return f"localhost/{tag}"

    def load_command(self) -> Sequence[str]:
        """Podman reads a plain pipe."""
        return ("podman", "load", "--quiet")

    def images(self) -> Mapping[str, str]:
        """All that the store lists."""
        return pairs(
            self.output(
                "podman", "images", "--no-trunc", "--format", "{{.ID}} {{.Repository}}:{{.Tag}}"
            )
        )

    def run(self, tag: str, *argv: str) -> subprocess.CompletedProcess[str]:
        """Run, and never ask a registry."""
        return self.command("podman", "run", "--rm", "--pull=never", self.reference(tag), *argv)


class OciPodman(Podman):
    """Podman, given an OCI archive: it calls the image by the name that the archive's index has in full."""

    def reference(self, tag: str) -> str:
        """Return that name."""
        return f"docker.io/library/{tag}"


class Buildah(Runner):
    """Buildah, which runs commands in a working container."""

    programs: ClassVar[Sequence[str]] = ("buildah", "zstd")
    filters: ClassVar[Sequence[Sequence[str]]] = (_ZSTD,)

    def __init__(self, isolation: Isolation) -> None:
        """Point it to an empty store."""
        super().__init__(isolation)
        self.environment = _containers_environment(isolation)

    def reference(self, tag: str) -> str:
        """Buildah says that an image came from no registry."""
        return f"localhost/{tag}"

    def load_command(self) -> Sequence[str]:
        """Buildah has no load: it pulls from a transport."""
        return ("buildah", "pull", "--quiet", "docker-archive:/dev/stdin")

    def images(self) -> Mapping[str, str]:
        """All that the store lists."""
        return pairs(
            self.output("buildah", "images", "--no-trunc", "--format", "{{.ID}} {{.Name}}:{{.Tag}}")
        )

    def run(self, tag: str, *argv: str) -> subprocess.CompletedProcess[str]:
        """Run in a fresh working container; buildah knows no default command, so the image's own is looked up."""
        container = self.command("buildah", "from", "--pull-never", self.reference(tag))
        if container.returncode != 0:
            return container
        name = container.stdout.strip()
        inspected = json.loads(self.output("buildah", "inspect", name))
        command = argv or inspected["Docker"]["config"]["Cmd"]
        return self.command("buildah", "run", "--isolation=chroot", name, "--", *command)


class OciBuildah(Buildah):
    """Buildah, reading by its transport for OCI archives, which takes regular files alone."""

    def load_command(self) -> Sequence[str]:
        """Pull the archive's only image."""
        return ("buildah", "pull", "--quiet", "oci-archive:/dev/stdin")

    def reference(self, tag: str) -> str:
        """Return the name that the archive's index has in full."""
        return f"docker.io/library/{tag}"


class Skopeo(Consumer):
    """Skopeo, which copies an archive into a directory of blobs and runs nothing."""

    programs: ClassVar[Sequence[str]] = ("skopeo", "zstd")
    filters: ClassVar[Sequence[Sequence[str]]] = (_ZSTD,)
    blobs: ClassVar[str] = "/run/skopeo/blobs"

    def __init__(self, isolation: Isolation) -> None:
        """Point it to an empty store, and an empty cache of what it knows about blobs."""
        super().__init__(isolation)
        self.environment = _containers_environment(isolation)
        isolation.directory("/run/skopeo")

    def load_command(self) -> Sequence[str]:
        """Copy to a directory, which changes no blob."""
        return ("skopeo", "copy", "--quiet", "docker-archive:/dev/stdin", f"dir:{self.blobs}")

    def images(self) -> Mapping[str, str]:
        """Return the one copied image, if there is one."""
        manifest = self.isolation.path(f"{self.blobs}/manifest.json")
        if not manifest.exists():
            return {}
        return {f"dir:{self.blobs}": str(json.loads(manifest.read_bytes())["config"]["digest"])}

    def reference(self, tag: str) -> str:
        """Return the directory, whatever the tag: it keeps none."""
        del tag
        return f"dir:{self.blobs}"

    def copy(self, destination: str) -> None:
        """Copy the loaded image on, for example to `oci:DIRECTORY:TAG` or `docker://HOST/NAME:TAG`."""
        self.output(
            "skopeo", "copy", "--quiet", "--dest-tls-verify=false", f"dir:{self.blobs}", destination
        )


class OciSkopeo(Skopeo):
    """Skopeo, reading by its transport for OCI archives, which takes regular files alone."""

    def load_command(self) -> Sequence[str]:
        """Copy the archive's only image to a directory, which changes no blob."""
        return ("skopeo", "copy", "--quiet", "oci-archive:/dev/stdin", f"dir:{self.blobs}")


class Umoci(Runner):
    """Umoci, which unpacks an OCI layout; crun runs the result."""

    programs: ClassVar[Sequence[str]] = ("umoci", "crun", "tar")
    layout: ClassVar[str] = "/run/umoci/layout"

    def __init__(self, isolation: Isolation) -> None:
        """Have an empty directory for the layout."""
        super().__init__(isolation)
        self._bundles = count()
        isolation.directory(self.layout)

    def load_command(self) -> Sequence[str]:
        """Umoci reads no archives, only the directory that is in them; listing its images shows that it does."""
        unpack = 'tar --extract --file=- --directory="$1" && umoci list --layout "$1"'
        return ("sh", "-c", unpack, "sh", self.layout)

    def reference(self, tag: str) -> str:
        """A layout is of one repository: what is left of `name:tag` is the tag."""
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

    def run(self, tag: str, *argv: str) -> subprocess.CompletedProcess[str]:
        """Unpack into a bundle, and run it without a terminal or a cgroup."""
        number = next(self._bundles)
        bundle = f"/run/umoci/bundle-{number}"
        unpacked = self.command(
            "umoci", "unpack", f"--image={self.layout}:{self.reference(tag)}", bundle
        )
        if unpacked.returncode != 0:
            return unpacked
        runtime = self.isolation.path(f"{bundle}/config.json")
        settings = json.loads(runtime.read_bytes())
        settings["process"]["terminal"] = False
        settings["process"]["args"] = argv or settings["process"]["args"]
        # Limits that umoci proposes are higher than a root without CAP_SYS_RESOURCE may set.
        settings["process"].pop("rlimits", None)
        runtime.write_text(json.dumps(settings))
        return self.command(
            "crun", "--cgroup-manager=disabled", "run", f"--bundle={bundle}", f"bundle-{number}"
        )

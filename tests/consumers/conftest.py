"""Fixtures: one per consumer, each with a cold store in its own namespaces, and the image that they load."""

import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import pytest

from .consumer import Consumer, Runner
from .daemonless import Buildah, OciBuildah, OciPodman, OciSkopeo, Podman, Skopeo, Umoci
from .daemons import Containerd, Docker, Registry
from .images import BuiltImage, build_image, image_id
from .isolation import Isolation, IsolationError, isolated
from .nix import VERSIONS, Nix, find_programs
from .requirements import require, unmet

_NAMESPACES: Final = ("unshare", "nsenter", "mount", "umount", "ip")


@pytest.fixture
def isolation(tmp_path: Path) -> Iterator[Isolation]:
    """Make private namespaces that end with the test."""
    require(_NAMESPACES)
    try:
        with isolated(tmp_path) as namespaces:
            yield namespaces
    except IsolationError as error:
        unmet(str(error))


@pytest.fixture
def docker(isolation: Isolation) -> Docker:
    """Start a dockerd with a cold store."""
    require(Docker.programs)
    return Docker(isolation)


@pytest.fixture
def containerd(isolation: Isolation) -> Containerd:
    """Start a containerd with a cold store."""
    require(Containerd.programs)
    return Containerd(isolation)


@pytest.fixture
def podman(isolation: Isolation) -> Podman:
    """Return a podman with a cold store."""
    require(Podman.programs)
    return Podman(isolation)


@pytest.fixture
def buildah(isolation: Isolation) -> Buildah:
    """Return a buildah with a cold store."""
    require(Buildah.programs)
    return Buildah(isolation)


@pytest.fixture
def skopeo(isolation: Isolation) -> Skopeo:
    """Return a skopeo with a cold store."""
    require(Skopeo.programs)
    return Skopeo(isolation)


@pytest.fixture
def oci_podman(isolation: Isolation) -> OciPodman:
    """Return a podman with a cold store, for OCI archives."""
    require(OciPodman.programs)
    return OciPodman(isolation)


@pytest.fixture
def oci_buildah(isolation: Isolation) -> OciBuildah:
    """Return a buildah with a cold store, for OCI archives."""
    require(OciBuildah.programs)
    return OciBuildah(isolation)


@pytest.fixture
def oci_skopeo(isolation: Isolation) -> OciSkopeo:
    """Return a skopeo with a cold store, for OCI archives."""
    require(OciSkopeo.programs)
    return OciSkopeo(isolation)


@pytest.fixture
def umoci(isolation: Isolation) -> Umoci:
    """Return an umoci with an empty layout."""
    require(Umoci.programs)
    return Umoci(isolation)


@pytest.fixture
def registry(isolation: Isolation) -> Registry:
    """Start an empty registry on loopback."""
    require(Registry.programs)
    return Registry(isolation)


@pytest.fixture(params=VERSIONS)
def nix_programs(request: pytest.FixtureRequest) -> str:
    """Return the directory of each Nix's programs, empty for those in PATH."""
    return find_programs(request.param)


@pytest.fixture
def nix(tmp_path: Path, nix_programs: str) -> Nix:
    """Return each Nix with an empty store."""
    return Nix.below(tmp_path / "nix", nix_programs)


@pytest.fixture(params=["docker", "podman", "containerd", "buildah"])
def runner(request: pytest.FixtureRequest) -> Runner:
    """Return each consumer that loads a docker-archive and runs it."""
    chosen = request.getfixturevalue(request.param)
    assert isinstance(chosen, Runner)
    return chosen


@pytest.fixture(params=["docker", "podman", "containerd", "buildah", "skopeo"])
def consumer(request: pytest.FixtureRequest) -> Consumer:
    """Return each consumer that loads a docker-archive."""
    chosen = request.getfixturevalue(request.param)
    assert isinstance(chosen, Consumer)
    return chosen


@pytest.fixture(scope="session")
def image(tmp_path_factory: pytest.TempPathFactory) -> BuiltImage:
    """Build the image once, since no test changes it."""
    require(["gcc"])
    try:
        return build_image(tmp_path_factory.mktemp("image"))
    except subprocess.CalledProcessError as error:
        unmet(f"no statically linked program can be made: {error}")


@pytest.fixture(scope="session")
def archive(image: BuiltImage, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the archive that our command writes, as a file to inspect and to damage."""
    path = tmp_path_factory.mktemp("archive") / "image.tar"
    with path.open("wb") as output:
        subprocess.run(image.producer, stdout=output, check=True)
    return path


@pytest.fixture(scope="session")
def oci_archive(image: BuiltImage, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the OCI archive that our command writes, as a file."""
    path = tmp_path_factory.mktemp("oci-archive") / "image.tar"
    with path.open("wb") as output:
        subprocess.run(image.oci_producer, stdout=output, check=True)
    return path


@pytest.fixture(scope="session")
def expected_id(archive: Path) -> str:
    """Return the image ID computed from the archive's own bytes."""
    return image_id(archive)

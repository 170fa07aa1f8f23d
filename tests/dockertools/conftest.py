"""The functions of `nix/` with a real Nix: the newest of the one on PATH and one that STREAM_IMAGE_NIX
names, or each of them.
"""

import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from consumers.daemonless import Podman
from consumers.isolation import IsolationError, isolated
from consumers.nix import NEWEST, VERSIONS, Nix, find_programs
from consumers.requirements import require, unmet

from .flakes import Flakes, copy_flake, write_nixpkgs, write_programs, write_stub
from .harness import Functions, write_command

# Where Nix matters: it evaluates, builds from each kind of attributes, reads flakes, and has a shell.
# The other functions are built in the same way.
EACH_NIX = {"test_evaluation", "test_flake", "test_layered", "test_shell"}


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Give each test its versions of Nix."""
    if "programs" in metafunc.fixturenames:
        module = metafunc.module.__name__.rpartition(".")[2]
        versions = VERSIONS if module in EACH_NIX else [NEWEST]
        metafunc.parametrize("programs", versions, indirect=True, scope="session")


@pytest.fixture(scope="session")
def programs(request: pytest.FixtureRequest) -> str:
    """Return the directory of Nix's programs; an empty string for those on PATH."""
    return find_programs(request.param)


@pytest.fixture(scope="session")
def functions(programs: str, tmp_path_factory: pytest.TempPathFactory) -> Functions:
    """Return the functions in a Nix that builds in its sandbox."""
    if os.geteuid() != 0:
        pytest.skip("Nix makes its sandbox as root")
    require(["bwrap", "fakeroot"])
    return Functions.below(tmp_path_factory.mktemp("nix"), programs=programs)


@pytest.fixture(scope="session")
def evaluated(programs: str, tmp_path_factory: pytest.TempPathFactory) -> Functions:
    """Return the functions in a Nix that is only asked for values: needs no root."""
    return Functions.below(tmp_path_factory.mktemp("nix"), programs=programs, sandbox=False)


@pytest.fixture(scope="session")
def flake(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a copy of this project's flake."""
    return copy_flake(tmp_path_factory.mktemp("flake") / "stream-image")


@pytest.fixture(scope="session")
def flakes(flake: Path, programs: str, tmp_path_factory: pytest.TempPathFactory) -> Flakes:
    """Return flakes that get this project's flake, and a stub of nixpkgs with this installation."""
    require(["bwrap", "fakeroot"])
    place = tmp_path_factory.mktemp("flakes")
    command = {"stream-image": str(write_command(place / "installed"))}
    inputs = {"nixpkgs": write_nixpkgs(place / "nixpkgs", **command), "stream-image": flake}
    project = shutil.copytree(flake, place / "project")
    write_stub(project, **command)
    nix = Nix.below(place / "nix", programs)
    return Flakes(
        nix=nix, inputs=inputs, programs=write_programs(place / "bin", nix, inputs, project)
    )


@pytest.fixture
def podman(tmp_path: Path) -> Iterator[Podman]:
    """Return a podman with a cold store."""
    require(["unshare", "nsenter", "mount", "umount", "ip", *Podman.programs])
    try:
        with isolated(tmp_path) as namespaces:
            yield Podman(namespaces)
    except IsolationError as error:
        unmet(str(error))

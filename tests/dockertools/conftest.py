"""The functions of `nix/` with each Nix: the one on PATH, and a newer one that STREAM_IMAGE_NIX names."""

import os

import pytest
from consumers.nix import PROGRAMS
from consumers.requirements import require

from .harness import Functions

NEWER = os.environ.get("STREAM_IMAGE_NIX", "")


@pytest.fixture(
    scope="session", params=["", NEWER] if NEWER else [""], ids=lambda p: "newer" if p else "nix"
)
def programs(request: pytest.FixtureRequest) -> str:
    """Return the directory of Nix's programs; an empty string for those on PATH."""
    require(PROGRAMS)
    found: str = request.param
    return found


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

"""A store, and the library that injects faults into system calls."""

import os
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
from support import Store

World = Callable[..., dict[str, str]]


@pytest.fixture
def store(tmp_path: Path) -> Store:
    """Return an empty store."""
    return Store.below(tmp_path)


@pytest.fixture(scope="session")
def world_library(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return world.c, compiled."""
    if not shutil.which("gcc"):
        pytest.skip("gcc is needed to make the world misbehave")
    library = tmp_path_factory.mktemp("world") / "world.so"
    source = Path(__file__).parent / "world.c"
    subprocess.run(["gcc", "-shared", "-fPIC", "-O1", source, "-o", library, "-ldl"], check=True)
    return library


@pytest.fixture
def world(world_library: Path, store: Store) -> World:
    """Return an environment in which files below the store misbehave: `world(read="eintr")`."""

    def environment(**how: str) -> dict[str, str]:
        loaded = os.environ.get("LD_PRELOAD", "")  # a sanitizer's runtime must come first
        return {
            "LD_PRELOAD": f"{loaded} {world_library}".strip(),
            "WORLD_ROOT": str(store.directory),
            **{f"WORLD_{name.upper()}": value for name, value in how.items()},
        }

    return environment

"""A home without credentials, and a repository to push to."""

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import distribution
import pytest
from distribution import Registry

from stream.oci.reference import Location
from stream.registry.client import Repository
from stream.registry.trust import Access

Opened = Callable[..., Repository]


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Make an empty home directory, which has no credentials, certificates or proxies."""
    path = tmp_path / "home"
    path.mkdir()
    for name in ("REGISTRY_AUTH_FILE", "DOCKER_CONFIG", "XDG_RUNTIME_DIR", "XDG_CONFIG_HOME"):
        monkeypatch.delenv(name, raising=False)
    for name in ("http_proxy", "https_proxy", "all_proxy", "no_proxy"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)
    monkeypatch.setenv("HOME", str(path))
    monkeypatch.setattr("stream.registry.credentials.RUN", str(tmp_path / "uids"))
    return path


@pytest.fixture
def log_in(home: Path) -> Callable[[dict[str, Any]], Path]:
    """Return a function that writes docker's file of credentials."""

    def write(document: dict[str, Any]) -> Path:
        path = home / ".docker" / "config.json"
        path.parent.mkdir(exist_ok=True)
        path.write_text(json.dumps(document), "utf-8")
        return path

    return write


@pytest.fixture
def registry() -> Iterator[Registry]:
    """Run an empty registry."""
    with distribution.running() as running:
        yield running


@pytest.fixture
def slept() -> list[float]:
    """Return the seconds that a client would have slept."""
    return []


@pytest.fixture
def opened(registry: Registry, slept: list[float]) -> Iterator[Opened]:
    """Return a function that opens a repository of the registry."""
    repositories: list[Repository] = []

    def open_repository(
        name: str = "team/app", access: Access | None = None, address: str = "", **more: Any
    ) -> Repository:
        location = Location.parse(f"{address or registry.address}/{name}")
        repository = Repository(location, access or Access(), sleep=slept.append, **more)
        repositories.append(repository)
        return repository

    yield open_repository
    for repository in repositories:
        repository.close()


@pytest.fixture
def repository(opened: Opened) -> Repository:
    """Return a repository of the registry."""
    return opened()

"""Where docker is, as the docker command finds it."""

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path

import pytest

import stream
from stream.engines.docker_host import DockerConnection, Endpoint, find_endpoint

USUAL = Endpoint(url="unix:///var/run/docker.sock", is_default=True)


def context(home: Path, name: str, host: object) -> None:
    """Write a context as `docker context create` does."""
    identity = hashlib.sha256(name.encode()).hexdigest()
    directory = home / "contexts" / "meta" / identity
    directory.mkdir(parents=True)
    meta = {"Name": name, "Endpoints": {"docker": {"Host": host, "SkipTLSVerify": False}}}
    (directory / "meta.json").write_text(json.dumps(meta))
    (home / "config.json").write_text(json.dumps({"currentContext": name, "auths": {}}))


@pytest.mark.parametrize(
    ("host", "environment", "expected"),
    [
        (None, {}, USUAL),
        (None, {"DOCKER_HOST": ""}, USUAL),
        (None, {"DOCKER_HOST": "tcp://h:1"}, Endpoint(url="tcp://h:1")),
        ("ssh://h", {"DOCKER_HOST": "tcp://h:1"}, Endpoint(url="ssh://h")),
        ("/run/d.sock", {}, Endpoint(url="unix:///run/d.sock")),
        (
            "tcp://h",
            {"DOCKER_TLS_VERIFY": "1", "DOCKER_CERT_PATH": "/c"},
            Endpoint(url="tcp://h", certificates=Path("/c")),
        ),
        ("tcp://h", {"DOCKER_CERT_PATH": "/c"}, Endpoint(url="tcp://h")),
        ("unix:///s", {"DOCKER_TLS_VERIFY": "1"}, Endpoint(url="unix:///s")),
    ],
)
def test_chosen_as_docker_chooses(
    host: str | None, environment: Mapping[str, str], expected: Endpoint, tmp_path: Path
) -> None:
    """Otherwise an image lands on another machine than `docker load` would bring it to."""
    assert find_endpoint(host, {"DOCKER_CONFIG": str(tmp_path), **environment}) == expected


def test_context(tmp_path: Path) -> None:
    """The current context counts, unless DOCKER_HOST is set or another context is named."""
    context(tmp_path, "far", "ssh://me@far")
    home = {"DOCKER_CONFIG": str(tmp_path)}
    assert find_endpoint(None, home) == Endpoint(url="ssh://me@far")
    assert find_endpoint(None, {**home, "DOCKER_HOST": "tcp://h"}).url == "tcp://h"
    assert find_endpoint(None, {**home, "DOCKER_CONTEXT": "default"}) == USUAL
    with pytest.raises(stream.EngineError, match="docker's context near: cannot be read"):
        find_endpoint(None, {**home, "DOCKER_CONTEXT": "near"})


def test_context_with_certificates(tmp_path: Path) -> None:
    """A context's own certificates are those of its TLS."""
    context(tmp_path, "far", "tcp://far:2376")
    identity = hashlib.sha256(b"far").hexdigest()
    certificates = tmp_path / "contexts" / "tls" / identity / "docker"
    certificates.mkdir(parents=True)
    found = find_endpoint(None, {"DOCKER_CONFIG": str(tmp_path)})
    assert found == Endpoint(url="tcp://far:2376", certificates=certificates)


@pytest.mark.parametrize("text", ["{", "[]", '{"currentContext": null}', "[" * 10**5])
def test_broken_settings(tmp_path: Path, text: str) -> None:
    """Docker's own file is for docker to complain of."""
    (tmp_path / "config.json").write_text(text)
    assert find_endpoint(None, {"DOCKER_CONFIG": str(tmp_path)}) == USUAL


@pytest.mark.parametrize(
    "host", ["npipe:////./pipe/docker", "h:1", "unix://", "ftp://h", "unix:///\0s", "ssh://h\0"]
)
def test_unknown_places(host: str) -> None:
    """They are refused by name, before anything is opened."""
    with pytest.raises(stream.ArgumentError, match="host"):
        find_endpoint(host, {})


@pytest.mark.parametrize("host", ["a..b", "h" * 64, "\udcff"])
def test_hosts_that_cannot_be(host: str) -> None:
    """A name that no resolver takes is a mistake in the URL, not one of the program."""
    with pytest.raises(stream.ArgumentError, match="host"):
        DockerConnection(find_endpoint(f"tcp://{host}:1", {})).connect()


def test_without_a_home(monkeypatch: pytest.MonkeyPatch) -> None:
    """In a container, the user may be a mere number, who has no home directory."""
    monkeypatch.delenv("HOME", raising=False)
    monkeypatch.setattr("pwd.getpwuid", {}.__getitem__)
    assert find_endpoint(None, {}) == USUAL

"""Where docker is, as the docker command finds it."""

import hashlib
import json
import shutil
import ssl
import sys
from collections.abc import Mapping
from pathlib import Path

import pytest
from registries import make_certificate

import stream
from stream.engines.docker_host import DockerConnection, Endpoint, find_endpoint

from .conftest import Workshop
from .scripted import ScriptedDocker, running_on_loopback

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


def load(workshop: Workshop, host: str) -> stream.Loaded:
    """Load the workshop's image."""
    return stream.load(workshop.conf(), engine="docker", host=host, digests=workshop.digests)


def test_over_tcp(workshop: Workshop, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A docker on another machine is reached as `docker` reaches it: with TLS only if that is asked
    for, and then with certificates on both sides.
    """
    daemon = ScriptedDocker(socket=tmp_path)
    with running_on_loopback(daemon, None) as address:
        load(workshop, f"tcp://{address}")
    assert daemon.tags

    certificate = make_certificate(tmp_path)
    for name in ("ca.pem", "cert.pem"):
        shutil.copy(certificate, tmp_path / name)
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH, cafile=str(certificate))
    context.verify_mode = ssl.CERT_REQUIRED
    context.load_cert_chain(certificate, tmp_path / "key.pem")
    daemon = ScriptedDocker(socket=tmp_path)
    with running_on_loopback(daemon, context) as address:
        with pytest.raises(stream.EngineError, match="does not answer"):
            load(workshop, f"tcp://{address}")
        monkeypatch.setenv("DOCKER_TLS_VERIFY", "1")
        monkeypatch.setenv("DOCKER_CERT_PATH", str(tmp_path))
        load(workshop, f"tcp://{address}")
        assert daemon.tags
        (tmp_path / "ca.pem").unlink()
        with pytest.raises(stream.EngineError, match="certificate verify failed"):
            load(workshop, f"tcp://{address}")


# Joins its standard input and output to a socket, as docker system dial-stdio does.
_RELAY = """
import os, socket, sys, threading
docker = socket.socket(socket.AF_UNIX)
docker.connect(sys.argv[1])
def copy(read, write):
    while data := read(65536):
        write(data)
threading.Thread(target=copy, args=(lambda n: os.read(0, n), docker.sendall), daemon=True).start()
copy(docker.recv, lambda data: os.write(1, data))
"""


def test_over_ssh(
    docker: ScriptedDocker, workshop: Workshop, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing but ssh and docker is needed to load into a docker elsewhere."""
    (tmp_path / "relay.py").write_text(_RELAY)
    ssh = tmp_path / "ssh"
    ssh.write_text(
        f'#!/bin/sh\necho "$*" >> {tmp_path}/log\n'
        f"exec {sys.executable} -IS {tmp_path}/relay.py {docker.socket}\n"
    )
    ssh.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
    load(workshop, "ssh://me@far:22/run/d.sock")
    assert docker.tags
    words = "docker --host=unix:///run/d.sock system dial-stdio"
    logged = (tmp_path / "log").read_text().splitlines()
    assert set(logged) == {f"-o ConnectTimeout=30 -T -l me -p 22 -- far {words}"}


@pytest.mark.parametrize("url", ["tcp://", "tcp://:1", "tcp://h:x", "ssh://me:secret@h"])
def test_bad_urls(workshop: Workshop, url: str) -> None:
    """A mistake in a URL is the user's, and named as such."""
    with pytest.raises(stream.ArgumentError):
        load(workshop, url)

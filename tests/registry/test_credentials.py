"""Credentials are found wherever podman, skopeo and docker keep them, and helpers cannot do harm."""

import base64
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from stream.errors import RegistryError
from stream.registry import credentials
from stream.registry.credentials import find_credentials

HUB = "https://index.docker.io/v1/"
Helper = Callable[[str, str], None]


def entry(user: str, password: str = "word") -> dict[str, str]:
    """Return an entry of a file."""
    return {"auth": base64.b64encode(f"{user}:{password}".encode()).decode()}


def write(path: Path, document: Any) -> Path:
    """Write a file of credentials."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(document), "utf-8")
    return path


def user(domain: str = "r.example", repository: str = "team/app", file: Path | None = None) -> Any:
    """Return the user that is found."""
    found = find_credentials(domain, repository, None if file is None else str(file))
    return None if found is None else found.username


@pytest.fixture
def helper(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Helper:
    """Return a function that installs a credential helper, a shell script."""
    directory = tmp_path / "bin"
    directory.mkdir()
    monkeypatch.setenv("PATH", f"{directory}{os.pathsep}{os.environ['PATH']}")

    def install(name: str, script: str) -> None:
        program = directory / f"docker-credential-{name}"
        program.write_text(f"#!/bin/sh\n{script}\n", "utf-8")
        program.chmod(0o755)

    return install


def test_files_in_order(home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A login for one tool counts for all, and the latest kind of login wins as it does there."""
    assert user() is None
    places = [
        (home / ".dockercfg", {}),
        (home / ".docker" / "config.json", {}),
        (tmp_path / "docker" / "config.json", {"DOCKER_CONFIG": tmp_path / "docker"}),
        (home / ".config" / "containers" / "auth.json", {}),
        (
            tmp_path / "config" / "containers" / "auth.json",
            {"XDG_CONFIG_HOME": tmp_path / "config"},
        ),
        (tmp_path / "uids" / str(os.getuid()) / "auth.json", {}),
        (tmp_path / "run" / "containers" / "auth.json", {"XDG_RUNTIME_DIR": tmp_path / "run"}),
        (tmp_path / "named.json", {"REGISTRY_AUTH_FILE": tmp_path / "named.json"}),
    ]
    for number, (path, variables) in enumerate(places):
        auths = {"r.example": entry(f"user{number}")}
        write(path, auths if path.name == ".dockercfg" else {"auths": auths})
        for name, value in variables.items():
            monkeypatch.setenv(name, str(value))
        assert user() == f"user{number}"
    only = write(tmp_path / "only.json", {"auths": {"r.example": entry("only")}})
    assert user(file=only) == "only"
    assert user("other.example", file=only) is None


def test_directory_of_somebody_else(home: Path, tmp_path: Path) -> None:
    """Where root has logged in, nobody else could push any more: /run/containers is root's."""
    write(home / ".docker" / "config.json", {"auths": {"r.example": entry("own")}})
    closed = tmp_path / "uids"
    closed.mkdir()
    closed.chmod(0)
    assert user() == "own"
    closed.chmod(0o700)


def test_keys(tmp_path: Path) -> None:
    """A login may be for a part of a registry: the longest that fits is meant."""
    auths: dict[str, Any] = {"r.example": entry("all")}
    file = write(tmp_path / "auth.json", {"auths": auths})
    assert user(file=file) == "all"
    for key in ("r.example/team", "r.example/team/app"):
        auths[key] = entry(key)
        write(file, {"auths": auths})
        assert user(file=file) == key
    assert user(repository="team/application", file=file) == "r.example/team"
    assert user(repository="teams/app", file=file) == "all"
    assert user("r.example:5000", file=file) is None
    assert user("ar.example", file=file) is None


@pytest.mark.parametrize("key", [HUB, "docker.io", "index.docker.io", "https://docker.io"])
def test_docker_hub(tmp_path: Path, key: str) -> None:
    """Docker keeps its own registry's login under a name of long ago."""
    file = write(tmp_path / "auth.json", {"auths": {key: entry("hub")}})
    assert user("docker.io", "library/alpine", file=file) == "hub"
    assert user("r.example", file=file) is None


@pytest.mark.parametrize(
    "key", ["https://r.example", "https://r.example/v2/", "http://r.example/v1"]
)
def test_urls_as_keys(tmp_path: Path, key: str) -> None:
    """Docker wrote URLs."""
    assert user(file=write(tmp_path / "auth.json", {"auths": {key: entry("url")}})) == "url"


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ({"auth": base64.b64encode(b"u:p:w\0\0").decode()}, ("u", "p:w", "")),
        ({"username": "u", "password": "p"}, ("u", "p", "")),
        ({"identitytoken": "t"}, ("", "", "t")),
        ({"auth": base64.b64encode(b"u:").decode(), "identitytoken": "t"}, ("u", "", "t")),
        ({}, None),
        ({"auth": ""}, None),
        ({"auth": 5, "username": []}, None),
        (5, None),
    ],
)
def test_entries(tmp_path: Path, given: Any, expected: tuple[str, str, str] | None) -> None:
    """Each form in which tools write an entry; docker leaves empty ones beside a helper."""
    file = write(tmp_path / "auth.json", {"auths": {"r.example": given}})
    found = find_credentials("r.example", "app", str(file))
    if expected is None:
        assert found is None
    else:
        assert found is not None
        assert (found.username, found.password, found.identity_token) == expected
        assert found.origin == str(file)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"{", "is not a JSON object"),
        (b"[]", "is not a JSON object"),
        (b'{"auths":{"r.example":{"auth":"???"}}}', "is not Base64"),
        (b'{"auths":{"r.example":{"auth":"/w=="}}}', "is not Base64"),
        (b'{"credsStore":"../../bin/sh"}', "is not the name of a credential helper"),
        (b'{"credHelpers":{"r.example":"a b"}}', "is not the name of a credential helper"),
        (b'{"credsStore":"absent"}', "docker-credential-absent for r.example, which is not"),
    ],
)
def test_files_that_are_wrong(tmp_path: Path, content: bytes, words: str) -> None:
    """A login that is silently not found ends in a refusal that says nothing of the file."""
    file = tmp_path / "auth.json"
    file.write_bytes(content)
    with pytest.raises(RegistryError, match=words) as caught:
        find_credentials("r.example", "app", str(file))
    assert str(file) in str(caught.value)


@pytest.mark.parametrize("content", [b"", b"\n", b"{}", b'{"auths":5,"credHelpers":[]}'])
def test_empty_files(tmp_path: Path, content: bytes) -> None:
    """A file without logins is not an error; podman leaves an empty one."""
    file = tmp_path / "auth.json"
    file.write_bytes(content)
    assert user(file=file) is None


def test_file_that_is_absent(tmp_path: Path) -> None:
    """One that was asked for has to be there."""
    with pytest.raises(RegistryError, match=r"none\.json: cannot be read: No such file"):
        user(file=tmp_path / "none.json")
    with pytest.raises(RegistryError, match="cannot be read: Is a directory"):
        user(file=tmp_path)


def test_helpers(tmp_path: Path, helper: Helper) -> None:
    """The helper of a registry is asked before that of all, and what it does not know is in the
    file.
    """
    answer = 'read server; echo "$server" >> "%s"; echo \'{"Username":"%s","Secret":"s"}\''
    asked = tmp_path / "asked"
    helper("one", answer % (asked, "one"))
    helper("all", answer % (asked, "all"))
    helper("none", "cat > /dev/null; echo 'credentials not found in native keychain'; exit 1")
    document: dict[str, Any] = {"credsStore": "all", "credHelpers": {"r.example": "one"}}
    document["auths"] = {"r.example": {}, "o.example": entry("other")}
    file = write(tmp_path / "auth.json", document)
    assert user(file=file) == "one"
    assert user("o.example", file=file) == "all"
    assert user("docker.io", file=file) == "all"
    assert asked.read_text("utf-8").split() == ["r.example", "o.example", HUB]
    write(file, document | {"credHelpers": {"o.example": "none"}, "credsStore": "none"})
    assert user("o.example", file=file) == "other"
    assert user(file=file) is None


def test_identity_token_of_a_helper(tmp_path: Path, helper: Helper) -> None:
    """Its user's name says what it is."""
    helper("token", 'echo \'{"ServerURL":"x","Username":"<token>","Secret":"t"}\'')
    file = write(tmp_path / "auth.json", {"credsStore": "token"})
    found = find_credentials("r.example", "app", str(file))
    assert found is not None
    assert (found.username, found.password, found.identity_token) == ("", "", "t")
    assert found.origin == f"docker-credential-token, named in {file}"


@pytest.mark.parametrize(
    ("script", "words"),
    [
        ("echo s3cret; exit 3", "fails with status 3"),
        ("echo s3cret", "answers with nonsense"),
        ('echo \'{"Username":"s3cret"}\'', "answers with nonsense"),
        ("echo '[]'", "answers with nonsense"),
        ("exec cat /dev/zero", "more than 65536 bytes of output"),
        ("sleep 60 & sleep 60", "no answer in"),
        ("exec > /dev/null; sleep 60 & sleep 60", "no end in"),
        ("kill -9 $$", "fails with status -9"),
    ],
)
def test_helpers_that_fail(
    tmp_path: Path, helper: Helper, monkeypatch: pytest.MonkeyPatch, script: str, words: str
) -> None:
    """A helper that hangs, floods or dies is reported, without what it printed."""
    monkeypatch.setattr(credentials, "_HELPER_TIME", 0.3)
    if "/dev/zero" in script:
        monkeypatch.setattr(credentials, "_HELPER_TIME", 30.0)
    helper("bad", script)
    file = write(tmp_path / "auth.json", {"credsStore": "bad"})
    with pytest.raises(RegistryError, match=words) as caught:
        user(file=file)
    assert "s3cret" not in str(caught.value)


def test_helper_that_cannot_run(tmp_path: Path, helper: Helper) -> None:
    """A program that the system does not start is reported as such."""
    helper("odd", "")
    program = tmp_path / "bin" / "docker-credential-odd"
    program.write_bytes(b"\x7fELF")
    file = write(tmp_path / "auth.json", {"credsStore": "odd"})
    with pytest.raises(RegistryError, match=r"docker-credential-odd.*Exec format error"):
        user(file=file)

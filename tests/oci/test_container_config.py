"""The types of a container config. tests/consumers proves who refuses what."""

from typing import Any

import pytest

from stream.oci.container_config import unusual_keys, wrong_types

MEMBERS_OF_OCI = {
    "ArgsEscaped": True, "Cmd": ["x"], "Entrypoint": ["x"], "Env": ["A=b"], "ExposedPorts": {"80": {}},
    "Labels": {"a": "b"}, "StopSignal": "TERM", "User": "x", "Volumes": {"/d": {}}, "WorkingDir": "/",
}  # fmt: skip
MEMBERS_OF_DOCKER = {
    "AttachStderr": True, "AttachStdin": False, "AttachStdout": True, "Domainname": "x",
    "Healthcheck": {"Test": ["NONE"], "Interval": 1, "Timeout": 2, "StartPeriod": 3, "Retries": 4},
    "Hostname": "x", "Image": "x", "MacAddress": "x", "NetworkDisabled": False, "OnBuild": ["x"],
    "OpenStdin": True, "Shell": ["x"], "StdinOnce": True, "StopTimeout": 10, "Tty": True,
}  # fmt: skip
BOTH, DOCKER, OCI = {"OCI", "Docker"}, {"Docker"}, {"OCI"}


def found(config: object) -> dict[str, set[str]]:
    """Return the definitions that `config` does not fit, by place."""
    return {wrong.place: set(wrong.definitions) for wrong in wrong_types(config)}


@pytest.mark.parametrize("config", [None, {}, MEMBERS_OF_OCI | MEMBERS_OF_DOCKER])
def test_right_types(config: object) -> None:
    """Without it an image that every consumer loads would be refused."""
    assert found(config) == {}


@pytest.mark.parametrize("key", [*MEMBERS_OF_OCI, *MEMBERS_OF_DOCKER])
def test_each_member_is_checked(key: str) -> None:
    """Without it an image would be written that docker and podman refuse to load."""
    expected = BOTH if key in MEMBERS_OF_OCI else DOCKER
    for spelled in (key, key.lower(), key.upper()):
        for value in (1.5, [[1]], {"a": [1]}):
            wrong = found({spelled: value})
            assert (key == "Healthcheck" and value == {"a": [1]}) or wrong, value
            assert all(place.startswith(spelled) for place in wrong)
            assert all(definitions == expected for definitions in wrong.values()) or key == "Shell"
        assert found({spelled: None}) == {}


@pytest.mark.parametrize(
    ("config", "place", "definitions"),
    [
        ([], "", BOTH),
        ({"Cmd": "x"}, "Cmd", OCI),  # Docker's type is also a string
        ({"Entrypoint": "x"}, "Entrypoint", OCI),
        ({"Env": ["a", 1]}, "Env[1]", BOTH),
        ({"ExposedPorts": {"80/tcp": ""}}, "ExposedPorts['80/tcp']", BOTH),
        ({"ExposedPorts": {"80/tcp": []}}, "ExposedPorts['80/tcp']", BOTH),
        ({"Volumes": {"/d": True}}, "Volumes['/d']", BOTH),
        ({"labels": {"a": 1}}, "labels['a']", BOTH),
        ({"StopTimeout": "10"}, "StopTimeout", DOCKER),
        ({"StopTimeout": True}, "StopTimeout", DOCKER),
        ({"StopTimeout": 10.0}, "StopTimeout", DOCKER),
        ({"StopTimeout": 2**63}, "StopTimeout", DOCKER),
        ({"Tty": 1}, "Tty", DOCKER),
        ({"Healthcheck": []}, "Healthcheck", DOCKER),
        ({"Healthcheck": {"Test": "x"}}, "Healthcheck.Test", DOCKER),
        ({"Healthcheck": {"Test": [1]}}, "Healthcheck.Test[0]", DOCKER),
        ({"healthcheck": {"interval": "30s"}}, "healthcheck.interval", DOCKER),
        ({"Healthcheck": {"Interval": 1500000000.0}}, "Healthcheck.Interval", DOCKER),
        ({"Healthcheck": {"StartInterval": "30s"}}, "Healthcheck.StartInterval", set()),
    ],
)
def test_who_refuses_a_type(config: Any, place: str, definitions: set[str]) -> None:
    """Without it verify would blame a consumer that loads the image, or miss one that does not."""
    assert found(config) == {place: definitions}


@pytest.mark.parametrize(
    "config",
    [
        {"ExposedPorts": {"80/tcp": None, "81": {"a": 1}}, "Volumes": {"/d": None}},
        {"Env": ["FOO", "", None], "Labels": {"a": None}, "Healthcheck": {"Test": [None]}},
        {"X": 1, "Healthcheck": {"X": 1}, "Memory": 1.5},
        {"StopTimeout": -(2**63), "Healthcheck": {"Retries": -1}},
    ],
)
def test_values_that_everybody_takes(config: Any) -> None:
    """Without it a conf would be refused that dockerTools streams and docker loads."""
    assert found(config) == {}


def test_keys() -> None:
    """Without it a typo would be ignored by consumers, and nobody would know."""
    config = {
        "Cmd": [], "cmd": ["x"], "Entripoint": [], "X": 1, "Memory": 1,
        "Healthcheck": {"test": [], "Intervall": 1, "StartInterval": 1},
    }  # fmt: skip
    assert dict(unusual_keys(config)) == {
        "Entripoint": 'no consumer knows this key (did you mean "Entrypoint"?)',
        "X": "no consumer knows this key",
        "cmd": 'write "Cmd"; not every consumer ignores the case',
        "Healthcheck.Intervall": 'no consumer knows this key (did you mean "Interval"?)',
        "Healthcheck.test": 'write "Test"; not every consumer ignores the case',
    }
    assert not [*unusual_keys({**MEMBERS_OF_OCI, **MEMBERS_OF_DOCKER, "Healthcheck": None})]

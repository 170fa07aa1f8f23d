"""Which consumer refuses which type in a container config: what verify says of each, each does."""

from pathlib import Path
from typing import Any

import pytest
from handmade import Base, layer_tar, tar_of

import stream

from .consumer import Consumer, LoadError
from .daemonless import OciPodman, Umoci

pytestmark = pytest.mark.consumers

# Each with the kind of archive that it loads.
DOCKER_ARCHIVE = {name: name for name in ("docker", "podman", "containerd", "skopeo", "buildah")}
OCI_ARCHIVE = {"oci_skopeo": "skopeo", "umoci": "umoci"}


def _each(keys: str, *values: Any) -> list[Any]:
    return [{key: value} for key in keys.split() for value in values]


REFUSED_BY_SOME: list[Any] = [
    [],
    "x",
    *_each("Env Cmd Entrypoint OnBuild", "x", {"a": "b"}, [1]),
    *_each("Shell", {"a": "b"}, [1]),
    *_each("ExposedPorts Volumes", ["x"], {"/x": ""}, {"/x": []}),
    *_each("labels Labels", ["x"], {"a": 1}),
    *_each("User WorkingDir StopSignal Hostname Domainname Image MacAddress", 1),
    *_each("Tty ArgsEscaped AttachStdin AttachStdout AttachStderr", "x"),
    *_each("NetworkDisabled OpenStdin StdinOnce", 1),
    *_each("StopTimeout", "x", 1.0, 2**63),
    *_each("Healthcheck", "x", {"Test": "x"}, {"Test": [1]}, {"interval": "30s"}),
    *({"Healthcheck": item} for item in _each("Interval Timeout StartPeriod Retries", 1.0)),
]
TAKEN_BY_ALL: list[Any] = [
    {
        "Healthcheck": {"Test": ["CMD", "/x"], "Interval": 30_000_000_000, "Retries": 3},
        "ExposedPorts": {"80/tcp": None, "81/udp": {"a": 1}, "8000-8010/tcp": {}},
        "Volumes": {"/d": None},
        "Labels": {"a": None},
        "cmd": ["/x"],
        "X": 1,
        "Memory": "x",
        "StopTimeout": -1,
    },
    dict.fromkeys(("Env", "Cmd", "Healthcheck", "ExposedPorts", "Labels", "StopTimeout")),
    None,
]


@pytest.mark.parametrize("fixture", [*DOCKER_ARCHIVE, *OCI_ARCHIVE])
def test_types(fixture: str, request: pytest.FixtureRequest, tmp_path: Path) -> None:
    """Without it verify could call an image sound that docker refuses, or blame a consumer that loads it."""
    consumer: Consumer = request.getfixturevalue(fixture)
    name = {**DOCKER_ARCHIVE, **OCI_ARCHIVE}[fixture]
    path = tmp_path / "image.tar"
    wrong = {}
    for number, config in enumerate([*REFUSED_BY_SOME, *TAKEN_BY_ALL]):
        oci = fixture in OCI_ARCHIVE
        tag = str(number) if oci else f"test:{number}"
        base = Base(layers=[layer_tar({"x": b"y"})], config=config, tags=[tag])
        path.write_bytes(tar_of([*base.oci_files().items()]) if oci else base.docker_archive())
        found = stream.verify(path).refusals[name]
        expected = any(finding.rule == "config-invalid" for finding in found)
        assert not (expected and config in TAKEN_BY_ALL)
        if _refuses(consumer, path, tag) != expected:
            wrong[repr(config)] = expected
    assert not wrong, sorted(wrong.items())


@pytest.mark.parametrize(
    "config", [{"Cmd": "x"}, {"Labels": {"a": 1}}, {"Tty": "x"}, {"StopTimeout": 1.0}]
)
def test_podman_with_an_oci_archive(oci_podman: OciPodman, config: Any, tmp_path: Path) -> None:
    """Without it verify could pass an image that podman loads, and then lists no image at all."""
    path = tmp_path / "image.tar"
    base = Base(layers=[layer_tar({"x": b"y"})], config=config, tags=["1"])
    path.write_bytes(tar_of([*base.oci_files().items()]))

    # It fails to load the image, or to list its images afterwards.
    with pytest.raises((LoadError, AssertionError), match=r"cannot unmarshal|config"):
        oci_podman.load_file(path)

    assert "podman" in {name for name, found in stream.verify(path).refusals.items() if found}


def _refuses(consumer: Consumer, archive: Path, tag: str) -> bool:
    try:
        consumer.load_file(archive)
    except LoadError:
        return True
    # Umoci reads an image config only when it unpacks the image.
    return isinstance(consumer, Umoci) and consumer.unpack(tag).returncode != 0

"""`verify` says of every consumer what the consumer does: each loads each specimen."""

from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from stream.tools.verify import CONSUMERS, verify

from .consumer import Consumer
from .daemonless import Buildah, Podman, Skopeo, Umoci
from .daemons import Containerd, Docker
from .isolation import Isolation
from .pipe import run_pipe
from .requirements import require
from .specimens import Specimen, specimens

pytestmark = [pytest.mark.consumers, pytest.mark.slow]

# Tells whether a specimen at a path is loaded, as far as the command's exit status tells.
_Loads = Callable[[Specimen, Path], bool]

# umoci reads the files of a layout, whose tar somebody else extracts.
_UMOCI = """
set -e
rm -rf "$1" && mkdir "$1"
tar --extract --file=/dev/stdin --directory="$1" 2>/dev/null
umoci raw unpack --image "$1:one" "$1/rootfs"
"""


def test_verify_knows_what_consumers_do(isolation: Isolation, tmp_path: Path) -> None:
    """Without it the list of those who refuse an archive would be what somebody once believed.

    All consumers keep their stores, for time's sake: specimens have no layer in common.
    """
    for consumer in (Docker, Containerd, Podman, Skopeo, Buildah, Umoci):
        require(consumer.programs)
    found = specimens()
    paths = {}
    for number, (name, specimen) in enumerate(found.items()):
        paths[name] = tmp_path / f"{number}.tar"
        paths[name].write_bytes(specimen.data)

    refusing = _refusing(isolation, found, paths)

    wrong = []
    for name, path in paths.items():
        findings = verify(path).findings
        said = {consumer for finding in findings for consumer in finding.refused_by}
        rules = ", ".join(sorted({finding.rule for finding in findings}))
        refusing[name] -= _UNKNOWN.get(name, set())
        if refusing[name] != said:
            wrong.append(
                f"{name}: refused by {sorted(refusing[name])}, not {sorted(said)} ({rules})"
            )
    assert not wrong, "\n".join(wrong)


# What verify cannot tell: it checks each layer by itself, and umoci accepts a hard link to a
# lower layer.
_UNKNOWN = {"hard link to nothing": {"umoci"}}


def _refusing(
    isolation: Isolation, found: Mapping[str, Specimen], paths: Mapping[str, Path]
) -> dict[str, set[str]]:
    """Return the consumers that refuse each specimen."""
    docker, containerd, podman = Docker(isolation), Containerd(isolation), Podman(isolation)
    skopeo, buildah, umoci = Skopeo(isolation), Buildah(isolation), Umoci(isolation)

    def run(consumer: Consumer, argv: Sequence[str], path: Path) -> bool:
        stage = isolation.stage(argv, consumer.environment)
        (ended,) = run_pipe(stage, source=path)
        return ended.status == 0

    loads: dict[str, _Loads] = {
        "docker": lambda _, path: run(docker, docker.load_command(), path),
        "containerd": lambda _, path: run(containerd, containerd.load_command(), path),
        "podman": lambda _, path: run(podman, podman.load_command(), path),
        "skopeo": lambda one, path: run(
            skopeo, ("skopeo", "copy", one.transport, "dir:/run/skopeo/copy"), path
        ),
        # Not the store of podman, which would have the layers already.
        "buildah": lambda one, path: run(
            buildah,
            ("buildah", "--root=/run/b/g", "--runroot=/run/b/r", "pull", one.transport),
            path,
        ),
        "umoci": lambda _, path: run(umoci, ("sh", "-c", _UMOCI, "sh", "/run/umoci/one"), path),
    }
    assert set(loads) == set(CONSUMERS)

    def load_all(consumer: str) -> set[str]:
        return {name for name, one in found.items() if loads[consumer](one, paths[name])}

    with ThreadPoolExecutor(3) as pool:
        loaded = dict(zip(loads, pool.map(load_all, loads), strict=True))
    # A command may end well and load nothing.
    held = {
        "docker": _held(docker.output("docker", "images", "--no-trunc", "--format", _FORMAT)),
        "podman": _held(podman.output("podman", "images", "--no-trunc", "--format", _FORMAT)),
        "containerd": {name.rpartition("/")[2] for name in containerd.unpacked()},
    }
    for consumer, images in held.items():
        loaded[consumer] &= {
            name for name, one in found.items() if {one.tag, one.image_id} & images
        }
    return {
        name: {consumer for consumer in CONSUMERS if name not in loaded[consumer]} for name in found
    }


_FORMAT = "{{.ID}} {{.Repository}}:{{.Tag}}"


def _held(listing: str) -> set[str]:
    """Return the image IDs and references in a listing."""
    return {word.rpartition("/")[2] for word in listing.split()}

"""Which engine an image is loaded into: the one that is named, or the first that is there."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from stream.digests import NO_DIGESTS, Digests
from stream.engines.engine import ENGINES, Engine, EngineName
from stream.errors import ArgumentError, EngineError


@contextmanager
def opened_engine(
    name: EngineName | None = None,
    host: str | None = None,
    *,
    namespace: str | None = None,
    digests: Digests = NO_DIGESTS,
) -> Iterator[Engine]:
    """Open the engine called `name` at `host`, a URL; the defaults are those of its own
    client. Without a name, it is docker if that answers, else podman.

    `namespace` is containerd's. A docker with containerd's store is asked about the images that
    `digests` says it was given; without those, it gets everything every time. At the end, whatever
    a failed load has left in the engine is removed. Raises ArgumentError or EngineError.
    """
    if name is not None and name not in ENGINES:
        raise ArgumentError.not_one_of("engine", name, ENGINES)
    if namespace is not None and name != "containerd":
        raise ArgumentError("namespace", namespace, "is for containerd only")
    match name:
        case "podman":
            from stream.engines.podman import Podman

            yield Podman(host)
        case "containerd":
            from stream.engines.containerd import Containerd

            with Containerd(host, namespace) as containerd:
                yield containerd
        case _:
            from stream.engines.docker import Docker
            from stream.engines.docker_host import find_endpoint

            endpoint = find_endpoint(host)
            with Docker(endpoint, digests) as docker:
                found: Engine = docker
                try:
                    docker.connect()
                except EngineError as error:
                    if name is not None or not endpoint.is_default:
                        raise
                    found = _podman_instead(error)
                yield found


def _podman_instead(error: EngineError) -> Engine:
    from stream.engines.podman import Podman

    podman = Podman(None)
    if not podman.is_installed():
        reason = f"{error.reason}, and podman is not installed; start docker, or give --engine"
        raise EngineError(error.engine, reason) from error
    return podman

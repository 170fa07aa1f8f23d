"""Who moves an image to a registry or an engine: our verbs, and what people use today.

Knows command lines only. Peers get the image from us, as an archive: they start from a conf as well.
"""

from __future__ import annotations

from collections.abc import Callable

from bench.installed import STREAM_IMAGE

Mover = Callable[[str, str], tuple[str, ...]]
"""Takes the path of a conf and the registry's address."""

_NAME = "bench/app:v1"
_OURS = (STREAM_IMAGE,)
_ARCHIVE = "/run/tmp/image.tar"
# $1 is stream-image, $2 the conf, $3 the registry's address.
_STREAM = '"$1" -q "$2"'
_SKOPEO = (
    f"{_STREAM} -o {_ARCHIVE}; skopeo --insecure-policy copy -q --dest-tls-verify=false %s"
    f" docker-archive:{_ARCHIVE} docker://$3/{_NAME}"
)


def _script(text: str) -> Mover:
    return lambda conf, address: ("sh", "-euc", text, "sh", STREAM_IMAGE, conf, address)


def _push(compression: str, *options: str, secret: str = "") -> Mover:
    variable = ("env", f"STREAM_IMAGE_REGISTRY_CACHE_SECRET={secret}") if secret else ()
    return lambda conf, address: (
        *variable, *_OURS, "push", "-q", "--compress", compression, *options, conf,
        f"{address}/{_NAME}",
    )  # fmt: skip


def _load(engine: str) -> Mover:
    return lambda conf, _address: (*_OURS, "load", "-q", "--engine", engine, conf)


def _serve(command: str) -> Mover:
    return lambda conf, _address: (*_OURS, "serve", "-q", conf, "--run", command)


PUSHERS = {
    "push zstd:1": _push("zstd:1"),
    "push gzip:1": _push("gzip:1"),
    "push gzip": _push("gzip"),
    "push none": _push("none"),
    "skopeo": _script(_SKOPEO % ""),
    "skopeo zstd:1": _script(_SKOPEO % "--dest-compress-format=zstd --dest-compress-level=1"),
}
# Each on a machine that knows nothing, after the same on another one.
FRESH_PUSHERS = {
    "push zstd:1 remembered": _push("zstd:1", "--registry-cache"),
    "push zstd:1 sealed": _push("zstd:1", "--registry-cache", secret="0123456789abcdef"),
    **{name: PUSHERS[name] for name in ("push zstd:1", "skopeo zstd:1", "skopeo")},
}
_LOADS = {
    "docker": "docker load -q",
    "podman": "podman load -q",
    "containerd": "ctr images import -",
}
LOADERS = {
    engine: {f"load {engine}": _load(engine), program: _script(f"{_STREAM} | {program}")}
    for engine, program in _LOADS.items()
}
_PULLS = {
    "docker": "docker pull -q $STREAM_IMAGE_REF",
    "podman": "podman pull -q --tls-verify=false $STREAM_IMAGE_REF",
    "containerd": "ctr images pull --plain-http $STREAM_IMAGE_REF",
}
PULLERS = {
    engine: {
        f"serve {engine}": _serve(_PULLS[engine]),
        program: _script(f"{_STREAM} | {program}"),
    }
    for engine, program in _LOADS.items()
}
NAMES = sorted({
    *PUSHERS,
    *FRESH_PUSHERS,
    *(name for movers in (*LOADERS.values(), *PULLERS.values()) for name in movers),
})  # fmt: skip

"""Podman, through its command line: as root or not, on this host or, by ssh, on another.

It takes a layer from its store, whichever image has it there and whatever lies under it, if an
OCI archive names it. Must not know tar.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from typing import Any, ClassVar

from stream.engines.answers import promising, understanding
from stream.engines.engine import Answer, EngineName, Found
from stream.engines.programs import Program
from stream.engines.ssh import SCHEME, SshHost
from stream.model import Digest, Image
from stream.oci.platform import Platform
from stream.parsing import parse_json
from stream.temporary.directory import private_directory
from stream.values import replace

_TEMPORARY = "/var/tmp"  # noqa: S108 — podman's own default, which has room for images
# What an image is shown as, in the language of Go's templates: JSON.
_LAYERS = "{{json .RootFS.Layers}}"
_CONFIG = "[{{json .RootFS.Layers}}, {{json .History}}, {{json .Os}}, {{json .Architecture}}]"
_IMAGE = "[{{json .RootFS.Layers}}, {{json .RepoTags}}]"


class Podman:
    """Podman. See `stream.engines.engine.Engine`. `host` is `ssh://…`, where podman is run, or the URL
    of a podman service.
    """

    name: ClassVar[EngineName] = "podman"
    prefers_docker_archives: ClassVar[bool] = True  # it unpacks OCI archives into a directory first

    def __init__(self, host: str | None) -> None:
        if host is None:
            self._podman = Program(words=("podman",))
        elif host.startswith(SCHEME):
            self._podman = Program(words=("podman",), host=SshHost.parse(host))
        else:
            self._podman = Program(words=("podman", "--remote", f"--url={host}"))
        self.label = self._podman.label

    def is_installed(self) -> bool:
        """Return whether podman can be run."""
        return self._podman.is_installed()

    def platform(self) -> Platform:
        """See the interface."""
        with understanding(self.label):
            host = parse_json(self._podman.output("info", "--format", "{{json .Host}}").encode())
            return Platform(
                os=str(host["os"]),
                architecture=str(host["arch"]),
                variant=str(host.get("variant") or ""),
            )

    def held(self, layers: Sequence[Digest | None], repo_tag: str) -> frozenset[Digest]:
        """See the interface. Most often, the image that has the tag now has all that is known."""
        wanted = {layer for layer in layers if layer is not None}
        if not wanted:
            return frozenset()
        there = self._layers_of([repo_tag])
        if not wanted <= there:
            with understanding(self.label):
                listing = parse_json(self._podman.output("images", "--format", "json").encode())
                images = ((one["Id"], one.get("Names") or ()) for one in listing)
                there |= self._layers_of(promising(images, repo_tag))
        return frozenset(wanted & there)

    def _layers_of(self, names: Sequence[str]) -> set[str]:
        """Return the layers of those images that exist."""
        if not names:
            return set()
        # If one is not there, the command fails, but prints the others.
        inspect = ("image", "inspect", "--format", _LAYERS, *names)
        lines = self._podman.output(*inspect, partial=True).splitlines()
        with understanding(self.label):
            return {layer for line in lines for layer in parse_json(line.encode()) or ()}

    def find(self, image: Image) -> Found | None:
        """See the interface."""
        inspect = ("image", "inspect", "--format", _IMAGE, image.image_id)
        line = self._podman.output(*inspect, partial=True)
        if not line.strip():
            return None
        with understanding(self.label):
            layers, names = parse_json(line.encode())
            if layers != [layer.diff_id for layer in image.layers]:
                return None
            return Found(name=image.image_id, names=frozenset(names or ()))

    def config(self, repo_tag: str, platform: Platform) -> dict[str, Any] | None:
        """See the interface. A tag of podman's is one image, or a list of images."""
        line = self._podman.output("image", "inspect", "--format", _CONFIG, repo_tag, partial=True)
        if not line.strip():
            self._podman.output("images", "--quiet")  # fails if it cannot be asked at all
            return None
        with understanding(self.label):
            layers, history, system, architecture = parse_json(line.encode())
        stated = {"os": system, "architecture": architecture}
        return {**stated, "rootfs": {"diff_ids": layers}, "history": history}

    def load(self, write: Callable[[int], Image]) -> Answer:
        """See the interface. Podman first copies what it is given into a file below TMPDIR, which
        it leaves there if it is killed.
        """
        with ExitStack() as stack:
            podman = self._podman
            if podman.host is None:
                above = os.environ.get("TMPDIR") or _TEMPORARY
                place = os.fsdecode(stack.enter_context(private_directory(above)))
                podman = replace(podman, variables={"TMPDIR": place})
            image = podman.feed(write, "load", "--quiet")
        return Answer(image=image, found=self.find(image))

    def tag(self, found: Found, repo_tag: str) -> None:
        """See the interface."""
        if found.names.isdisjoint((repo_tag, f"localhost/{repo_tag}")):
            self._podman.output("tag", found.name, repo_tag)

    def name_of(self, repo_tag: str) -> str:
        """See the interface. Podman puts `localhost/` before a name without a domain, and does
        not need it to find the image.
        """
        return repo_tag

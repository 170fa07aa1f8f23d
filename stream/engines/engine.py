"""What a container engine is, for whoever loads images into one. Must not know any one engine."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, ClassVar, Literal, Protocol, get_args

from stream.model import Digest, Image
from stream.oci.platform import Platform
from stream.values import dataclass

EngineName = Literal["docker", "podman", "containerd"]
ENGINES: tuple[EngineName, ...] = get_args(EngineName)


@dataclass(frozen=True, slots=True, kw_only=True)
class Found:
    """An image that an engine has with all its layers. `name` is one by which the engine
    knows it, `names` are all its tags.
    """

    name: str
    names: frozenset[str]


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """An engine's answer to an archive: the image as it was written, `found` if it is there with
    all its layers, and `remarks`, whatever the engine said beyond that it took the image.
    """

    image: Image
    found: Found | None
    remarks: str = ""


class Engine(Protocol):
    """A container engine. Each method raises EngineError if the engine cannot be reached, or
    refuses.
    """

    @property
    def name(self) -> EngineName: ...
    @property
    def label(self) -> str:
        """The engine and where it is, for messages."""

    prefers_docker_archives: ClassVar[bool]
    """Whether it loads a docker-archive faster than an OCI archive of which nothing is left out."""

    def platform(self) -> Platform:
        """Return the platform of the engine's machine."""

    def held(self, layers: Sequence[Digest | None], repo_tag: str) -> frozenset[Digest]:
        """Return those of `layers` that an archive for this engine may leave out. They are the
        diff_ids of an image, bottom to top, None where unknown; it will be tagged `repo_tag`. The engine need not
        hold on to them.
        """

    def find(self, image: Image) -> Found | None:
        """Return `image` if the engine has it with all its layers, else None."""

    def config(self, repo_tag: str, platform: Platform) -> dict[str, Any] | None:
        """Return the image config of the image with that tag, or at least its platform, diff_ids
        and history; None if there is none. Of several, it is the one that fits `platform` best.
        """

    def load(self, write: Callable[[int], Image]) -> Answer:
        """Load the archive of an image without tags, which `write` writes to a descriptor."""

    def tag(self, found: Found, repo_tag: str) -> None:
        """Tag an image as `repo_tag`."""

    def name_of(self, repo_tag: str) -> str:
        """Return the name of an image in this engine that is tagged `repo_tag`."""

"""Platforms: operating system, architecture and variant, and which image fits which.

OCI Image Specification, image-index.md (GOOS, GOARCH). Which variants fit is as in containerd's
platforms package, which docker and podman follow.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Self

from stream.model import ImageConf
from stream.values import dataclass

# GOARCH names, by the values of `platform.machine()`.
ARCHITECTURES = {
    "x86_64": "amd64",
    "aarch64": "arm64",
    "armv7l": "arm",
    "armv6l": "arm",
    "i686": "386",
    "i386": "386",
    "ppc64le": "ppc64le",
    "riscv64": "riscv64",
    "s390x": "s390x",
    "loongarch64": "loong64",
}

# The level of an architecture's images that have no variant, such as 7 for v7.
_LEVELS = {"arm": 7, "arm64": 8, "amd64": 1}
_VARIANT = re.compile("v?([0-9]{1,3})")


@dataclass(frozen=True, slots=True, kw_only=True)
class Platform:
    """The platform of an image. A member that is unknown is empty."""

    os: str = ""
    architecture: str = ""
    variant: str = ""

    @classmethod
    def parse(cls, document: Mapping[str, object]) -> Self:
        """Return the platform that an image config or a descriptor's `platform` states. Values
        that are not strings count as absent.
        """
        values = (document.get(key) for key in ("os", "architecture", "variant"))
        system, architecture, variant = (v if isinstance(v, str) else "" for v in values)
        return cls(os=system, architecture=architecture, variant=variant)

    @classmethod
    def of_this_machine(cls) -> Self:
        """Return the platform of containers on this machine: Linux, without a variant."""
        import platform

        machine = platform.machine()
        return cls(os="linux", architecture=ARCHITECTURES.get(machine, machine))

    @classmethod
    def of_conf(cls, conf: ImageConf) -> Self:
        """Return the platform of the image of `conf`."""
        return cls(os="linux", architecture=conf.architecture, variant=conf.variant)

    def __str__(self) -> str:
        parts = (self.os or "unknown", self.architecture or "unknown", self.variant)
        return "/".join(filter(None, parts))

    def distance(self, image: Platform) -> int | None:
        """Return how well `image` fits: 0 for the same platform, more for an earlier variant,
        None if it does not fit. What an image does not state fits, but not as well.
        """
        wanted = ARCHITECTURES.get(self.architecture, self.architecture)
        found = ARCHITECTURES.get(image.architecture, image.architecture)
        if (image.os and image.os != self.os) or (found and found != wanted):
            return None
        unknown = _UNKNOWN if not (image.os and found) else 0
        levels = _level(wanted, self.variant), _level(wanted, image.variant)
        if levels[0] is None or levels[1] is None:
            return unknown if self.variant == image.variant else None
        return unknown + levels[0] - levels[1] if levels[1] <= levels[0] else None

    def closest(self, images: Iterable[Platform]) -> int | None:
        """Return the number of the first of `images` that fits best, None if none fits."""
        fitting = [
            (distance, number)
            for number, image in enumerate(images)
            if (distance := self.distance(image)) is not None
        ]
        return min(fitting)[1] if fitting else None


_UNKNOWN = 1000  # more than any level


def _level(architecture: str, variant: str) -> int | None:
    """Return the level that `variant` is, or None if it is not a number."""
    if not variant:
        return _LEVELS.get(architecture)
    match = _VARIANT.fullmatch(variant)
    return int(match[1]) if match else None

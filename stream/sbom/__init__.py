"""Software bills of materials: what is in an image, in the formats that scanners read."""

from __future__ import annotations

from typing import Literal, TypeAlias

Format: TypeAlias = Literal["spdx", "cyclonedx"]
FORMATS: tuple[Format, ...] = ("spdx", "cyclonedx")

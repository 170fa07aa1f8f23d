"""Platforms as OCI names them. OCI Image Specification, image-index.md (GOARCH)."""

from __future__ import annotations

# GOARCH names of what `platform.machine()` says.
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

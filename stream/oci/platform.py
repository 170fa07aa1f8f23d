"""Names of platforms. OCI Image Specification, image-index.md (GOARCH)."""

from __future__ import annotations

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

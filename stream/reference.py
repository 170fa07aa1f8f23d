"""Image references, `name:tag`: what is filled in where they are short, and the
annotations under which an OCI index carries them. Distribution's reference
grammar; knows no archives.
"""

from __future__ import annotations

# OCI Image Specification, annotations.md; in a layout it holds the tag alone
REF_NAME = "org.opencontainers.image.ref.name"
# containerd's and podman's, which have no other way to the whole name
IMAGE_NAME = "io.containerd.image.name"


def split(reference: str) -> tuple[str, str]:
    """Name and tag of `reference`; without one it means `latest`."""
    name, colon, tag = reference.rpartition(":")
    return (name, tag) if colon and "/" not in tag else (reference, "latest")


def qualified(reference: str) -> str:
    """`reference` with what Docker fills in: docker.io, library, latest."""
    name, tag = split(reference)
    domain, slash, rest = name.partition("/")
    # In lower case it might be a user's name, too.
    if not slash or not (
        {".", ":"} & set(domain) or domain == "localhost" or domain != domain.lower()
    ):
        domain, rest = "docker.io", name
    if domain == "index.docker.io":
        domain = "docker.io"
    if domain == "docker.io" and "/" not in rest:
        rest = f"library/{rest}"
    return f"{domain}/{rest}:{tag}"

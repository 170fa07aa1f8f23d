"""Image references, `name:tag`: what is filled in where they are short, and the
annotations under which an OCI index carries them. Distribution's reference
grammar; knows no archives.
"""

from __future__ import annotations

import re

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


# The grammar of github.com/distribution/reference, for `name:tag`.
_DOMAIN_COMPONENT = r"(?:[a-zA-Z0-9]|[a-zA-Z0-9][a-zA-Z0-9-]*[a-zA-Z0-9])"
_DOMAIN = rf"(?:{_DOMAIN_COMPONENT}(?:\.{_DOMAIN_COMPONENT})*|\[[a-fA-F0-9:]+\])(?::[0-9]+)?"
_PATH_COMPONENT = r"[a-z0-9]+(?:(?:[._]|__|-+)[a-z0-9]+)*"
_NAME = re.compile(rf"(?:{_DOMAIN}/)?{_PATH_COMPONENT}(?:/{_PATH_COMPONENT})*", re.ASCII)
_TAG = re.compile(r"\w[\w.-]{0,127}", re.ASCII)
MAX_NAME_LENGTH = 255


def check_repo_tag(repo_tag: str) -> str | None:
    """What is wrong with `repo_tag` as `name:tag`, or None."""
    name, colon, tag = repo_tag.rpartition(":")
    if not colon or "/" in tag:
        return f"{repo_tag!r} has no tag: write name:tag"
    if not _NAME.fullmatch(name):
        rule = "a repository name is lower-case"
        if not _NAME.fullmatch(name.lower()):
            rule = "letters, digits, and one of '.', '_', '-', '/' between them"
        return f"{name!r} is not a repository name: {rule}"
    if len(name) > MAX_NAME_LENGTH:
        return f"the repository name has {len(name)} characters, {MAX_NAME_LENGTH} are allowed"
    if not _TAG.fullmatch(tag):
        return f"{tag!r} is not a tag: letters, digits, '_', '.', '-', at most 128"
    return None

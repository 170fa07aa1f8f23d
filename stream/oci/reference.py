"""Image references, `name:tag` and `name:tag@digest`: their grammar, Docker's defaults for the
parts left out, and the annotations that contain them in an OCI index.

The grammar is that of github.com/distribution/reference. Must not know JSON or archives.
"""

from __future__ import annotations

import re
from enum import Enum, auto
from typing import Self

from stream.model import Digest
from stream.values import dataclass

# OCI Image Specification, annotations.md; in an image layout, only the tag
REF_NAME = "org.opencontainers.image.ref.name"
# used by containerd and podman; contains the whole name
IMAGE_NAME = "io.containerd.image.name"

_DOMAIN_COMPONENT = r"(?:[a-zA-Z0-9]|[a-zA-Z0-9][a-zA-Z0-9-]*[a-zA-Z0-9])"
_DOMAIN = rf"(?:{_DOMAIN_COMPONENT}(?:\.{_DOMAIN_COMPONENT})*|\[[a-fA-F0-9:]+\])(?::[0-9]+)?"
_PATH_COMPONENT = r"[a-z0-9]+(?:(?:[._]|__|-+)[a-z0-9]+)*"
_NAME = re.compile(rf"(?:{_DOMAIN}/)?{_PATH_COMPONENT}(?:/{_PATH_COMPONENT})*", re.ASCII)
_TAG = re.compile(r"\w[\w.-]{0,127}", re.ASCII)
_AFTER_PORT = re.compile("[0-9]*/.*", re.DOTALL)  # the part after the colon of HOST:PORT/PATH
MAX_NAME_LENGTH = 255
_SHOWN = 40  # characters of a name that is too long
_DIGEST = re.compile("sha256:[0-9a-f]{64}")


class Part(Enum):
    """The part of a reference that is wrong."""

    NAME = auto()
    TAG = auto()
    NO_TAG = auto()  # the tag is missing
    DIGEST = auto()


class BadReference(ValueError):
    """The error for an invalid reference. `part` is the part that is wrong, `text` its text, and
    `reason` what is wrong with it.
    """

    def __init__(self, part: Part, text: str, reason: str) -> None:
        self.part = part
        self.text = text
        self.reason = reason
        super().__init__(f"{text!r} {reason}")

    def within(self, reference: str) -> str:
        """Return the message for a line that begins with `reference`."""
        return self.reason if self.text == reference else str(self)


@dataclass(frozen=True, slots=True, kw_only=True)
class Reference:
    """A valid `name:tag`."""

    name: str
    tag: str

    def __str__(self) -> str:
        return f"{self.name}:{self.tag}"

    @classmethod
    def parse(cls, text: str) -> Self:
        """Parse `name:tag`. Raises BadReference."""
        name, tag = _cut(text)
        if tag is None:
            before, colon, after = text.rpartition(":")
            if not colon or _AFTER_PORT.fullmatch(after):
                raise BadReference(Part.NO_TAG, text, "has no tag; write name:tag")
            name, tag = before, after
        check_name(name)
        check_tag(tag)
        return cls(name=name, tag=tag)


@dataclass(frozen=True, slots=True, kw_only=True)
class Location:
    """The place of an image in a registry: `name`, `name:tag`, `name@digest` or
    `name:tag@digest`. With a digest, the tag is only a note for people.
    """

    name: str
    tag: str | None = None
    digest: Digest | None = None

    def __str__(self) -> str:
        """Return the reference, without what a digest makes superfluous."""
        if self.digest is not None:
            return f"{self.name}@{self.digest}"
        return f"{self.name}:{self.tag or 'latest'}"

    @classmethod
    def parse(cls, text: str) -> Self:
        """Parse a reference. Raises BadReference."""
        named, at, digest = text.partition("@")
        name, tag = _cut(named)
        check_name(name)
        if tag is not None:
            check_tag(tag)
        return cls(name=name, tag=tag, digest=parse_digest(digest) if at else None)


def parse_digest(text: str) -> Digest:
    """Return `text` as a digest. Raises BadReference if it is not a SHA-256."""
    if not _DIGEST.fullmatch(text):
        wrong = "is not a digest: 'sha256:' and 64 digits from 0 to f"
        raise BadReference(Part.DIGEST, text, wrong)
    return Digest(text)


def check_name(name: str) -> None:
    """Raise BadReference if `name` is not a repository name."""
    if not _NAME.fullmatch(name):
        rule = "a repository name is lower-case"
        if not _NAME.fullmatch(name.lower()):
            rule = "letters, digits, and one of '.', '_', '-', '/' between them"
        if "://" in name:
            scheme, _, _ = name.partition("://")
            rule = f"leave out {scheme}://"
        raise BadReference(Part.NAME, name, f"is not a repository name: {rule}")
    if len(name) > MAX_NAME_LENGTH:
        wrong = f"has {len(name)} characters; a repository name has at most {MAX_NAME_LENGTH}"
        raise BadReference(Part.NAME, f"{name[:_SHOWN]}…", wrong)


def check_tag(tag: str) -> None:
    """Raise BadReference if `tag` is not a tag."""
    if not _TAG.fullmatch(tag):
        wrong = "is not a tag: letters, digits, '_', '.', '-', at most 128"
        raise BadReference(Part.TAG, tag, wrong)


def _cut(reference: str) -> tuple[str, str | None]:
    """Split a possible reference into name and tag. A colon before a slash precedes a port."""
    name, colon, tag = reference.rpartition(":")
    return (name, tag) if colon and "/" not in tag else (reference, None)


def split(reference: str) -> tuple[str, str]:
    """Split `reference`, which may be untrusted, into name and tag without checking them. A
    missing tag is `latest`.
    """
    name, tag = _cut(reference)
    return name, "latest" if tag is None else tag


def cut_registry(name: str) -> tuple[str, str]:
    """Split a repository name into the registry that it begins with, empty if there is none, and
    the rest.
    """
    domain, slash, rest = name.partition("/")
    # A first component in lower case, without a dot or colon, may be a user's name.
    is_domain = {".", ":"} & set(domain) or domain == "localhost" or domain != domain.lower()
    return (domain, rest) if slash and is_domain else ("", name)


def below(prefix: str, reference: str) -> str:
    """Return `reference` with `prefix`, a registry or a part of one, in place of its registry."""
    return f"{prefix.rstrip('/')}/{cut_registry(reference)[1]}"


def qualified(reference: str) -> str:
    """Return `reference` with Docker's defaults filled in: docker.io, library, latest."""
    name, tag = split(reference)
    domain, rest = cut_registry(name)
    if domain in ("", "index.docker.io"):
        domain = "docker.io"
    if domain == "docker.io" and "/" not in rest:
        rest = f"library/{rest}"
    return f"{domain}/{rest}:{tag}"


def fits(reference: str, pattern: str) -> bool:
    """Return True if `reference` and `pattern` are the same with Docker's defaults filled in; the
    name or the tag of `pattern` may be `*`, for any.
    """
    name, tag = split(qualified(reference))
    wanted_name, wanted_tag = split(qualified(pattern))
    return wanted_name in (name, _ANY_NAME) and wanted_tag in (tag, "*")


_ANY_NAME = split(qualified("*"))[0]

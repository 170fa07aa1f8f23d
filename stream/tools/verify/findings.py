"""The rules that an archive can break, the consumers that refuse it for each, and the
findings.

The table is proved by tests/consumers/test_specimens.py with docker 20.10, podman 4.3,
containerd 1.6, skopeo 1.9, buildah 1.28 and umoci 0.4. Must not know how an archive is read or checked.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable

from stream.oci.container_config import Definition
from stream.text import one_line
from stream.values import dataclass

DOCKER, PODMAN, CONTAINERD = "docker", "podman", "containerd"
SKOPEO, BUILDAH, UMOCI = "skopeo", "buildah", "umoci"
CONSUMERS = (DOCKER, PODMAN, CONTAINERD, SKOPEO, BUILDAH, UMOCI)
ALL = frozenset(CONSUMERS)
TAKE_FIRST = frozenset({PODMAN, SKOPEO, BUILDAH})  # of members that have the same name

# By definition of the container config, the consumers that read it. Podman and buildah convert
# an image from one to the other.
CONFIG_READERS: dict[Definition, frozenset[str]] = {
    "OCI": frozenset({PODMAN, CONTAINERD, BUILDAH, UMOCI}),
    "Docker": frozenset({DOCKER, PODMAN, SKOPEO, BUILDAH}),
}

MAX_SHOWN = 1000  # characters of a place or a message; both can contain names of any length
MAX_ALIKE = 20  # findings of one rule that are kept; the rest is counted


@dataclass(frozen=True, slots=True, kw_only=True)
class Rule:
    """A rule: the consumers that refuse an archive that breaks it. `fault` is false for
    sound archives that some consumers reject.
    """

    refused_by: frozenset[str]
    fault: bool


def _fault(*consumers: str) -> Rule:
    return Rule(refused_by=frozenset(consumers), fault=True)


def _taste(*consumers: str) -> Rule:
    return Rule(refused_by=frozenset(consumers), fault=False)


RULES: dict[str, Rule] = {
    # The archive
    "archive-unreadable": _fault(*CONSUMERS),  # not a tar, truncated, damaged, a bomb
    "no-image": _fault(*CONSUMERS),
    "member-outside-archive": _fault(),  # a name with .. or a leading slash
    "link-outside-archive": _fault(CONTAINERD),
    "duplicate-member": _fault(),
    "no-trailer": _fault(),
    # Its documents
    "document-invalid": _fault(*CONSUMERS),  # not JSON, lacks a key, has a wrong type
    "member-missing": _fault(*CONSUMERS),  # a document refers to it
    "size-mismatch": _fault(UMOCI),
    "config-size-mismatch": _fault(PODMAN, SKOPEO, BUILDAH, UMOCI),
    "digest-mismatch": _fault(
        SKOPEO, PODMAN, CONTAINERD, BUILDAH, UMOCI
    ),  # of a blob in blobs/sha256
    "config-name-mismatch": _fault(),  # its name is the digest of something else
    "media-type-mismatch": _fault(UMOCI),
    "media-type-uncompressed": _fault(CONTAINERD, UMOCI),  # of a compressed layer
    "no-oci-layout-file": _fault(),
    "manifest-index-conflict": _fault(),  # different images or tags
    "duplicate-key": _fault(),  # readers disagree on which one counts
    "layer-count-mismatch": _fault(*CONSUMERS),
    "diff-id-mismatch": _fault(*CONSUMERS),
    "rootfs-type-invalid": _fault(),
    "history-too-long": _fault(DOCKER),
    "history-too-short": _fault(),
    "no-architecture": _fault(CONTAINERD),
    "no-os": _fault(),
    "config-invalid": _fault(*CONSUMERS),  # a wrong type in `config`, for those in CONFIG_READERS
    "tag-incomplete": _fault(DOCKER, PODMAN),
    "tag-invalid": _fault(DOCKER, PODMAN, CONTAINERD, BUILDAH),
    # A layer's tar
    "layer-damaged": _fault(*CONSUMERS),  # cannot be decompressed
    "layer-unreadable": _fault(*ALL - {SKOPEO}),  # not a tar
    "path-not-normalized": _fault(),  # has .., //, or a . inside
    "duplicate-path": _fault(DOCKER, PODMAN, BUILDAH),
    "duplicate-path-slash": _fault(),
    "path-through-symlink": _fault(),
    "path-through-symlink-to-other-layer": _fault(DOCKER, PODMAN, BUILDAH),
    "parent-not-directory": _fault(DOCKER, PODMAN, CONTAINERD, BUILDAH, UMOCI),
    "directory-replaced": _fault(),  # one that has entries, by something else
    "hard-link-before-target": _fault(DOCKER, PODMAN, CONTAINERD, BUILDAH, UMOCI),
    "hard-link-to-other-layer": _fault(DOCKER, PODMAN, CONTAINERD, BUILDAH),
    "hard-link-to-directory": _fault(DOCKER, PODMAN, CONTAINERD, BUILDAH, UMOCI),
    "too-many-entries": _fault(),
    # Compared with a conf
    "conf-mismatch": _fault(),
    "sbom-mismatch": _fault(),
    # Sound archives that some consumers reject
    "directory": _taste(DOCKER, CONTAINERD),
    "gzip-archive": _taste(PODMAN, CONTAINERD, SKOPEO, BUILDAH),
    "oci-gzip-archive": _taste(CONTAINERD),
    "zstd-archive": _taste(DOCKER, CONTAINERD),
    "bzip2-archive": _taste(CONTAINERD),
    "xz-archive": _taste(CONTAINERD),
    "no-manifest": _taste(DOCKER),
    "artifact": _taste(),
    "index-of-several": _taste(PODMAN),
    "nested-index": _taste(UMOCI),
    "dangling-link": _taste(CONTAINERD),
    "image-left-out": _taste(),
    "no-index": _taste(UMOCI),
    "zstd-layer": _taste(DOCKER),
    "oci-zstd-layer": _taste(UMOCI),
    "untagged": _taste(CONTAINERD),
    "no-ref-name": _taste(UMOCI),
    "no-image-name": _taste(CONTAINERD),
    "dot-slash-name": _taste(CONTAINERD),
    "layer-link-absolute": _taste(CONTAINERD),
    "layer-link-hard": _taste(CONTAINERD),
    "layer-link-unlisted": _taste(PODMAN, SKOPEO, BUILDAH),
    # Sound archives whose containers do not start
    "start-command": _taste(),  # Cmd or Entrypoint
    "start-user": _taste(),
    "start-directory": _taste(),  # WorkingDir
    "docker-layer-limit": _taste(DOCKER),
    "overlay-layer-limit": _taste(DOCKER, PODMAN),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """A breach of `rule` at `place` (a member's name, or empty for the whole archive),
    and the consumers that refuse the archive for it. Without a place and with a `count`, it
    stands for that many further findings of its rule.
    """

    rule: str
    place: str
    message: str
    refused_by: tuple[str, ...]
    count: int = 1

    @property
    def fault(self) -> bool:
        """True if the archive is wrong, not only rejected by some consumers."""
        return RULES[self.rule].fault

    def __str__(self) -> str:
        return f"{self.place}: {self.message}" if self.place else self.message


class Findings:
    """A collection of findings. Of those of one rule it keeps the first MAX_ALIKE and counts
    the rest.
    """

    def __init__(self) -> None:
        self._found: dict[tuple[str, str, str], frozenset[str]] = {}
        self._kept: Counter[str] = Counter()  # by rule
        self._more: Counter[str] = Counter()  # by rule
        self._more_refused_by: dict[str, frozenset[str]] = {}

    def add(self, rule: str, place: str, message: str, readers: Iterable[str] = CONSUMERS) -> None:
        """Add a finding. `readers` are the consumers that read that part of the archive."""
        key = (rule, one_line(place[:MAX_SHOWN]), one_line(message[:MAX_SHOWN]))
        refused_by = RULES[rule].refused_by.intersection(readers)
        if key in self._found:
            self._found[key] |= refused_by
        elif self._kept[rule] < MAX_ALIKE:
            self._kept[rule] += 1
            self._found[key] = refused_by
        else:
            self._add_more(rule, 1, refused_by)

    def _add_more(self, rule: str, count: int, refused_by: frozenset[str]) -> None:
        self._more[rule] += count
        self._more_refused_by[rule] = self._more_refused_by.get(rule, frozenset()) | refused_by

    def include(self, place: str, other: Findings, readers: Iterable[str] = CONSUMERS) -> None:
        """Add the findings of `other`, which are about the member at `place`."""
        for rule, _, message in other._found:
            self.add(rule, place, message, readers)
        for rule, count in other._more.items():
            self._add_more(rule, count, RULES[rule].refused_by.intersection(readers))

    def all(self) -> tuple[Finding, ...]:
        """Return the findings in the order in which they were added."""
        found = []
        left = self._kept.copy()
        for (rule, place, message), refused_by in self._found.items():
            found.append(_finding(rule, place, message, refused_by))
            left[rule] -= 1
            if not left[rule] and (more := self._more[rule]):
                rest = f"{more} more of this kind"
                found.append(_finding(rule, "", rest, self._more_refused_by[rule], more))
        return tuple(found)


def _finding(
    rule: str, place: str, message: str, refused_by: frozenset[str], count: int = 1
) -> Finding:
    ordered = tuple(name for name in CONSUMERS if name in refused_by)
    return Finding(rule=rule, place=place, message=message, refused_by=ordered, count=count)

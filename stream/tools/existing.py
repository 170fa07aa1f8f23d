"""An image that exists already, wherever it is: in an archive, a registry or a container engine. Only
its config is read: its platform, the diff_ids of its layers, and its history. Where an image is meant,
a conf will do.

The notation for places is that of containers-transports(5), as skopeo has it. Must not know what
the image is looked for.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Self

from stream.archives.target import split_archive
from stream.engines.engine import EngineName
from stream.errors import ArchiveError, ArgumentError
from stream.model import Digest
from stream.oci.platform import Platform
from stream.oci.reference import BadReference, Location, Reference
from stream.registry.trust import Access
from stream.schema.platforms import split_platforms
from stream.schema.reading import (
    HEAD,
    begins_conf,
    conf_in,
    conf_name,
    head_of,
    load_object,
    parse_object,
)
from stream.values import dataclass

if TYPE_CHECKING:
    from stream.archives.images import Archive

UNTAGGED = "untagged"
_ANYWHERE = Access()
_REGISTRY = "docker"
_DIGEST = re.compile("sha256:[0-9a-f]{64}")
_ENGINES: dict[str, EngineName] = {
    "docker-daemon": "docker",
    "containers-storage": "podman",
    "containerd": "containerd",
}
_FILES = ("docker-archive", "oci-archive", "oci", "dir")


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """Where an image is: in a `registry`, in an `engine`, or in a file. `reference` is its name
    there, or the path of the file, `-` for standard input. Of an engine, the one that is named and
    its host and namespace are as in `stream.engines.opening.opened_engine`.
    """

    kind: str
    reference: str
    engine: EngineName | None = None
    host: str | None = None
    namespace: str | None = None

    @classmethod
    def parse(cls, text: str) -> Self:
        """Parse `docker://NAME[:TAG]`, `docker-daemon:NAME:TAG`, `containers-storage:NAME:TAG`,
        `containerd:NAME:TAG`, or the path of a conf or an archive, `FILE` or `FILE:name:tag`, for
        which `docker-archive:` and others of skopeo's words may come first. Raises ArgumentError.
        """
        word, colon, rest = text.partition(":")
        try:
            if colon and word == _REGISTRY and rest.startswith("//"):
                return cls(kind="registry", reference=str(Location.parse(rest[2:])))
            if colon and word in _ENGINES:
                return cls(kind="engine", reference=_tagged(rest), engine=_ENGINES[word])
        except BadReference as wrong:
            raise ArgumentError("image", text, wrong.within(text)) from None
        return cls(kind="file", reference=rest if colon and word in _FILES else text)

    def __str__(self) -> str:
        """Return its notation; without an engine's name, the reference."""
        if self.kind == "registry":
            return f"{_REGISTRY}://{self.reference}"
        words = [word for word, name in _ENGINES.items() if name == self.engine]
        return ":".join([*words, self.reference]) if self.kind == "engine" else self.reference


@dataclass(frozen=True, slots=True, kw_only=True)
class ExistingImage:
    """An image that exists: its tag, and its config, or what is known of that. Anybody can have
    made it.
    """

    repo_tag: str
    config: Mapping[str, Any]

    @property
    def diff_ids(self) -> frozenset[Digest]:
        """The diff_ids of its layers, so far as they are digests."""
        rootfs = self.config.get("rootfs")
        listed = rootfs.get("diff_ids") if isinstance(rootfs, dict) else None
        listed = listed if isinstance(listed, list) else []
        texts = (one for one in listed if isinstance(one, str))
        return frozenset(Digest(one) for one in texts if _DIGEST.fullmatch(one))

    @property
    def platform(self) -> Platform:
        """The platform that it states."""
        return Platform.parse(self.config)


def read_existing(
    place: Place, platform: Platform | None = None, access: Access = _ANYWHERE
) -> ExistingImage | dict[str, Any] | None:
    """Read the image at `place`, or the conf, as a JSON object. Of several images, it is the one
    that fits `platform` best. Return None if a registry or an engine does not have it, if what is
    there is not an image, or if none of several is for the platform.

    Raises ConfError, ArchiveError, RegistryError, DigestMismatch or EngineError.
    """
    if place.kind == "registry":
        return _in_registry(Location.parse(place.reference), platform, access)
    if place.kind == "engine":
        return _in_engine(place, platform)
    return _in_file(place.reference, platform)


def _tagged(text: str) -> str:
    location = Location.parse(text)
    return str(Reference(name=location.name, tag=location.tag or "latest"))


# ---- files


def _in_file(source: str, platform: Platform | None) -> ExistingImage | dict[str, Any] | None:
    if source == "-":
        return _on_standard_input(platform)
    path, repo_tag = split_archive(source)
    if _is_archive(path):
        from stream.archives.images import open_archive

        with open_archive(path) as archive:
            return _in_archive(archive, repo_tag, platform)
    return _conf_for(load_object(source), conf_name(source), platform)


def _is_archive(path: str) -> bool:
    """Return True for a directory, or a file that is not text: JSON is, and its faults are a conf's."""
    if os.path.isdir(path):
        return True
    from stream.archives.decompress import MAGIC_SIZE, compression_of

    head = head_of(path)
    return b"\0" in head or compression_of(head[:MAGIC_SIZE]) is not None


def _on_standard_input(platform: Platform | None) -> ExistingImage | dict[str, Any] | None:
    from stream.archives.bytesource import StreamBytes, pieces
    from stream.archives.images import read_archive
    from stream.archives.sequential import STANDARD_INPUT, Sequential, SequentialTar

    file = Sequential(0, STANDARD_INPUT)
    if begins_conf(file.peek(HEAD)):
        data = b"".join(pieces(StreamBytes(file, file.name)))
        return _conf_for(parse_object(conf_in(data, file.name), file.name), file.name, platform)
    return _in_archive(read_archive(SequentialTar(file).scan(None)), None, platform)


def _in_archive(
    archive: Archive[Any], repo_tag: str | None, platform: Platform | None
) -> ExistingImage | None:
    try:
        image = archive.choose(repo_tag, platform)
    except ArchiveError:
        archive.choose(repo_tag)  # raises as well if it is not only the platform
        return None
    tag = repo_tag or next(iter(image.repo_tags), UNTAGGED)
    return ExistingImage(repo_tag=tag, config=image.document)


def _conf_for(
    document: dict[str, Any], name: str, platform: Platform | None
) -> dict[str, Any] | None:
    """Return the conf, or that for the platform of a conf for several."""
    documents = [one for _, one in split_platforms(document, name)]
    if len(documents) == 1 or platform is None:
        return documents[0]
    stated = [Platform.parse({"os": "linux", **one}) for one in documents]
    closest = platform.closest(stated)
    return None if closest is None else documents[closest]


# ---- registries


def _in_registry(
    location: Location, platform: Platform | None, access: Access
) -> ExistingImage | None:
    from contextlib import closing

    from stream.registry.client import Repository
    from stream.tools.registry_image import find_image

    wanted = platform or Platform.of_this_machine()
    with closing(Repository(location, access, only_pulls=True)) as repository:
        found = find_image(repository, location, wanted)
    return None if found is None else ExistingImage(repo_tag=str(location), config=found.config)


# ---- engines


def _in_engine(place: Place, platform: Platform | None) -> ExistingImage | None:
    from stream.engines.opening import opened_engine

    with opened_engine(place.engine, place.host, namespace=place.namespace) as engine:
        config = engine.config(place.reference, platform or Platform.of_this_machine())
    return None if config is None else ExistingImage(repo_tag=place.reference, config=config)

"""The archives that an engine loads: an OCI archive without the layers that it has, or a
docker-archive of the whole image.

The documents name every layer; the bytes of those that the engine has are left out of an OCI archive,
and the image has no tags. Must not know which engine it is, nor how it was asked.
"""

from __future__ import annotations

from collections.abc import Collection

from stream.interfaces import Takes
from stream.model import Digest, Image, ImageDocuments, KnownLayer, Layer
from stream.sinks.docker_archive import DockerArchive
from stream.sinks.oci_archive import OciArchive, blob_name
from stream.values import replace


class PartialArchive(OciArchive):
    """A partial archive being written to `fd`, without the layers whose diff_ids are in `held`.
    See OciArchive. Layers are never compressed, so that the digest of each is its diff_id.
    """

    takes = Takes(annotations=True, held_layers=True)

    def __init__(self, fd: int, *, mtime: int, held: Collection[Digest]) -> None:
        super().__init__(fd, mtime=mtime)
        self._held = held
        self.left_out: set[Digest] = set()  # the diff_ids of layers that were not written

    def holds(self, known: KnownLayer) -> Layer | None:
        """See the interface: what the engine has. The manifest needs the layer's size as well."""
        blob = known.descriptor
        if known.diff_id not in self._held or known.size is None or blob is None:
            return None
        self.left_out.add(known.diff_id)
        self._blobs.add(blob.digest)
        return Layer(
            archive_name=blob_name(blob.digest),
            diff_id=known.diff_id,
            size=known.size,
            comment="",
            descriptor=blob,
        )

    def add_image(self, image: ImageDocuments) -> Image:
        """See the interface."""
        added = super().add_image(replace(image, repo_tags=()))
        return replace(added, repo_tags=image.repo_tags)


class WholeArchive(DockerArchive):
    """A docker-archive being written to `fd`, without tags. See DockerArchive."""

    left_out: frozenset[Digest] = frozenset()

    def add_image(self, image: ImageDocuments) -> Image:
        """See the interface."""
        added = super().add_image(replace(image, repo_tags=()))
        return replace(added, repo_tags=image.repo_tags)

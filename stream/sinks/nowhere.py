"""An image that is hashed and written nowhere: its documents and digests are all that is left.

Every layer that is known beforehand is held here, and so not read.
"""

from __future__ import annotations

import os
from typing import Self

from stream.interfaces import Takes
from stream.model import Image, ImageDocuments, KnownLayer, Layer
from stream.oci import documents
from stream.sinks.docker_archive import DockerArchive, member_name

TAKES = Takes(annotations=True, held_layers=True)


class Nowhere(DockerArchive):
    """A docker-archive that nobody reads. See DockerArchive. `manifest` of its images describes
    the OCI manifest of their layers as they are, uncompressed unless `takes` says otherwise.
    """

    def __init__(self, takes: Takes = TAKES) -> None:
        self.takes = takes
        self._fd = os.open(os.devnull, os.O_WRONLY | os.O_CLOEXEC)
        super().__init__(self._fd, mtime=0)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc_info: object) -> None:
        super().__exit__(*exc_info)
        os.close(self._fd)

    def holds(self, known: KnownLayer) -> Layer | None:
        """See the interface."""
        blob = known.descriptor
        if blob is None and known.size is not None:
            blob = documents.uncompressed(known.diff_id, known.size)
        if blob is None or known.size is None:
            return None
        return Layer(
            archive_name=member_name(known.diff_id.removeprefix("sha256:")),
            diff_id=known.diff_id,
            size=known.size,
            comment="",
            descriptor=blob,
        )

    def add_image(self, image: ImageDocuments) -> Image:
        """See the interface."""
        manifest = documents.oci_manifest(image.config, image.layers, image.annotations)
        return Image(
            image_id=documents.digest(image.config),
            repo_tags=image.repo_tags,
            layers=image.layers,
            config=image.config,
            manifest=documents.describe(documents.MANIFEST_TYPE, manifest),
            size=0,
        )

    def finish(self) -> int:
        """See the interface: the number of bytes that were hashed."""
        return self.position

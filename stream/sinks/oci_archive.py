"""The OCI image layout as a tar that is also a docker-archive.

A blob is named by its digest, which is not known before its bytes have passed. So each layer
is written once under a name of our choice, and its blob follows as a hard link to it. With
`manifest.json` at the end, all tools that read a docker-archive read this. OCI Image
Specification, image-layout.md.

Knows the order and names of members; not where the layers' bytes come from, nor how tar
encodes them.
"""

from __future__ import annotations

from stream.interfaces import Takes
from stream.model import Descriptor, Digest, ImageDocuments
from stream.oci import documents
from stream.sinks.docker_archive import DockerArchive


def blob_name(digest: Digest) -> str:
    """Return the name of the member that holds a blob."""
    return f"blobs/{digest.replace(':', '/')}"


class OciArchive(DockerArchive):
    """An OCI archive being written to `fd`. See DockerArchive."""

    takes = Takes(annotations=True, compressed_layers=True, indexes=True)

    def __init__(self, fd: int, *, mtime: int) -> None:
        super().__init__(fd, mtime=mtime)
        self._blobs: set[Digest] = set()  # written, or not needed
        self._index: list[documents.IndexEntry] = []

    def finish(self) -> int:
        """See the interface."""
        index = documents.oci_index(self._index)
        for data in index.indexes:
            self._write_blob(data)
        self._archive.write_member("oci-layout", documents.OCI_LAYOUT)
        self._archive.write_member("index.json", index.data)
        return super().finish()

    def _write_documents(self, image: ImageDocuments) -> tuple[str, Descriptor | None]:
        for layer in image.layers:
            if layer.descriptor.digest not in self._blobs:
                self._blobs.add(layer.descriptor.digest)
                self._archive.write_link(blob_name(layer.descriptor.digest), layer.archive_name)
        self._write_blob(image.config)
        manifest = documents.oci_manifest(image.config, image.layers, image.annotations)
        self._write_blob(manifest)
        descriptor = documents.describe(documents.MANIFEST_TYPE, manifest)
        self._index.append(documents.IndexEntry(descriptor, image))
        return blob_name(documents.digest(image.config)), descriptor

    def _write_blob(self, data: bytes) -> None:
        digest = documents.digest(data)
        if digest not in self._blobs:
            self._blobs.add(digest)
            self._archive.write_member(blob_name(digest), data)

"""The OCI image layout as a tar that is a docker-archive, too.

A blob is named by its digest, which is known when its bytes have passed: each
layer goes out once under its free name, and gets the name of a blob as a hard link
behind. With `manifest.json` at the end, whoever reads a docker-archive reads this.
OCI Image Specification, image-layout.md.

Knows the order of members and their names; not where the layers' bytes come
from, nor how tar encodes them.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

from stream.model import Digest, Layer
from stream.oci import documents
from stream.sinks.docker_archive import DockerArchive


def _blob_name(digest: Digest) -> str:
    return f"blobs/{digest.replace(':', '/')}"


class OciArchive(DockerArchive):
    """An OCI archive being written to `fd`. Layers first, then `finish`."""

    carries_annotations: ClassVar[bool] = True
    carries_compressed: ClassVar[bool] = True

    def _write_config(self, config: bytes, layers: Sequence[Layer]) -> str:
        members = {documents.layer_descriptor(layer).digest: layer.archive_name for layer in layers}
        for digest, archive_name in members.items():
            self._archive.write_link(_blob_name(digest), archive_name)
        manifest = documents.oci_manifest(config, layers, self._conf.annotations)
        index = documents.oci_index(manifest, self._conf)
        for blob in config, manifest:
            self._archive.write_member(_blob_name(documents.digest(blob)), blob)
        self._archive.write_member("oci-layout", documents.OCI_LAYOUT)
        self._archive.write_member("index.json", index)
        return _blob_name(documents.digest(config))

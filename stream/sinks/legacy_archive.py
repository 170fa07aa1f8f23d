"""The docker-archive with the members of Docker before 1.10 beside `manifest.json`, as nixpkgs'
`buildImage` writes it: a directory for each layer, with `layer.tar`, `json` and `VERSION`, and
`repositories`, which names the top layer of each tag. Docker Image Specification v1.

In that format, a layer has one parent and an ID of its own. The ID here follows from the layer's
fingerprint, as its directory is named before its bytes pass. Where a layer occurs above another
parent as well, it has another ID and a hard link there.

Knows the order and names of members; not where the layers' bytes come from, nor how tar
encodes them.
"""

from __future__ import annotations

from hashlib import sha256

from stream.interfaces import LayerSource
from stream.model import Descriptor, ImageDocuments, Layer
from stream.oci import documents
from stream.oci.reference import split
from stream.sinks.docker_archive import DockerArchive

_LAYER = "/layer.tar"


class LegacyArchive(DockerArchive):
    """A docker-archive with legacy members being written to `fd`. See DockerArchive."""

    def __init__(self, fd: int, *, mtime: int) -> None:
        super().__init__(fd, mtime=mtime)
        self._described: dict[tuple[str, str, bytes], str] = {}  # IDs, once written
        self._used: set[str] = set()
        self._repositories: dict[str, dict[str, str]] = {}

    def layer_name(self, source: LayerSource) -> str:
        """See the interface: the name of the layer's member, in a directory named by an ID."""
        return sha256(source.fingerprint.encode()).hexdigest() + _LAYER

    def finish(self) -> int:
        """See the interface."""
        self._archive.write_member("repositories", documents.repositories(self._repositories))
        return super().finish()

    def _write_documents(self, image: ImageDocuments) -> tuple[str, Descriptor | None]:
        layer_id = ""
        for number, layer in enumerate(image.layers, 1):
            is_top = number == len(image.layers)
            layer_id = self._describe(layer, layer_id, image.config, is_top=is_top)
        for tag in image.repo_tags if layer_id else ():
            name, label = split(tag)
            self._repositories.setdefault(name, {})[label] = layer_id
        return super()._write_documents(image)

    def _describe(self, layer: Layer, parent: str, config: bytes, *, is_top: bool) -> str:
        """Write the legacy members of `layer`, which lies on the layer with the ID `parent`, unless
        that is done. Return its ID. The top layer has the image's container config.
        """
        place = (layer.archive_name, parent, config if is_top else b"")
        if (known := self._described.get(place)) is not None:
            return known
        layer_id = layer.archive_name.removesuffix(_LAYER)
        if layer_id in self._used:
            distinct = "\0".join((layer_id, parent, documents.digest(config) if is_top else ""))
            layer_id = sha256(distinct.encode()).hexdigest()
            self._archive.write_link(layer_id + _LAYER, layer.archive_name)
        self._described[place] = layer_id
        self._used.add(layer_id)
        document = documents.legacy_layer(layer_id, parent, layer.size, config, is_top=is_top)
        self._archive.write_member(f"{layer_id}/VERSION", b"1.0")
        self._archive.write_member(f"{layer_id}/json", document)
        return layer_id

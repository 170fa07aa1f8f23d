"""The docker-archive, which `docker load` reads: layers first, the manifest last.

Knows the order and names of members; not where the layers' bytes come from, nor how tar
encodes them.
"""

from __future__ import annotations

from typing import Any, ClassVar, Self

from stream.interfaces import LayerSource, LayerWriter, Takes
from stream.model import Descriptor, Digest, Image, ImageDocuments, KnownLayer, Layer
from stream.oci import documents
from stream.tarwriter import ArchiveWriter, MemberWriter

# The file name extension of a compressed layer.
_ENDINGS = {"gzip": ".gz", "zstd": ".zst"}


def member_name(fingerprint: str, compression: str | None = None) -> str:
    """Return the name of the member that holds the layer with this fingerprint."""
    return f"{fingerprint}/layer.tar{_ENDINGS[compression] if compression else ''}"


def layer_name(source: LayerSource) -> str:
    """Return the name of the member that holds the layer of `source`."""
    return member_name(source.fingerprint, source.compression)


class _ArchiveLayer(MemberWriter):
    """A layer being written into an archive. See `stream.interfaces.LayerWriter`."""

    def __init__(
        self, archive: ArchiveWriter, name: str, source: LayerSource, known: KnownLayer | None
    ) -> None:
        # Only plain tars have keys, and so can be known: the digest is that of the member.
        super().__init__(archive, name, source.size, known.diff_id if known else None)
        self._comment = source.comment
        self._compression = source.compression
        self._content: tuple[Digest, int] | None = None

    def describe_content(self, diff_id: Digest, size: int) -> None:
        """See the interface."""
        self._content = diff_id, size

    def complete(self) -> Layer:
        """See the interface."""
        digest = self.hashed()
        diff_id, size = self._content or (digest, self.size)
        return Layer(
            archive_name=self.archive_name,
            diff_id=diff_id,
            size=size,
            comment=self._comment,
            descriptor=Descriptor(
                media_type=documents.layer_type(self._compression), digest=digest, size=self.size
            ),
        )

    def abort(self) -> None:
        """See the interface. The archive ends with it."""


class DockerArchive:
    """A docker-archive being written to `fd`, its members modified at `mtime` (seconds). See
    `stream.interfaces.Sink`. An unfinished archive has no manifest and no trailer.
    """

    takes: Takes = Takes()
    concurrency: ClassVar[int] = 1

    def __init__(self, fd: int, *, mtime: int) -> None:
        self._archive = ArchiveWriter(fd, mtime=mtime)
        self._items: list[dict[str, Any]] = []  # of manifest.json

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self._archive.__exit__(*exc_info)

    @property
    def position(self) -> int:
        """See the interface."""
        return self._archive.position

    def holds(self, known: KnownLayer) -> Layer | None:
        """See the interface. A new archive holds nothing."""
        return None

    def layer_name(self, source: LayerSource) -> str:
        """See the interface: the name of the layer's member."""
        return layer_name(source)

    def begin_layer(self, source: LayerSource, known: KnownLayer | None) -> LayerWriter:
        """See the interface."""
        return _ArchiveLayer(self._archive, self.layer_name(source), source, known)

    def add_image(self, image: ImageDocuments) -> Image:
        """See the interface."""
        config_name, manifest = self._write_documents(image)
        self._items.append(documents.archive_item(config_name, image.repo_tags, image.layers))
        return Image(
            image_id=documents.digest(image.config),
            repo_tags=image.repo_tags,
            layers=image.layers,
            config=image.config,
            manifest=manifest,
            size=0,
        )

    def finish(self) -> int:
        """See the interface."""
        self._archive.write_member("manifest.json", documents.archive_manifest(self._items))
        return self._archive.finish()

    def _write_documents(self, image: ImageDocuments) -> tuple[str, Descriptor | None]:
        """Write the documents of one image. Return the name of its config's member and the
        descriptor of its OCI manifest, if it has one.
        """
        name = f"{documents.digest(image.config).removeprefix('sha256:')}.json"
        self._archive.write_member(name, image.config)
        return name, None

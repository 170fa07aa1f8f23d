"""The docker-archive: what `docker load` reads, its manifest last.

Knows the order of members and their names; not where the layers' bytes come
from, nor how tar encodes them.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar, Self

from stream.model import Image, ImageConf, Layer
from stream.oci import documents
from stream.tarwriter import ArchiveWriter, LayerWriter


class DockerArchive:
    """A docker-archive being written to `fd`. Layers first, then `finish`."""

    carries_annotations: ClassVar[bool] = False
    carries_compressed: ClassVar[bool] = False  # layers, each for itself

    def __init__(self, fd: int, conf: ImageConf) -> None:
        self._conf = conf
        self._archive = ArchiveWriter(fd, mtime=conf.mtime)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self._archive.__exit__(*exc_info)

    @property
    def position(self) -> int:
        """Bytes of the archive so far; any thread may look."""
        return self._archive.position

    def begin_layer(self, archive_name: str, size: int) -> LayerWriter:
        """Begin the next layer, bottom to top."""
        return self._archive.begin_layer(archive_name, size)

    def finish(self, layers: Sequence[Layer], base: dict[str, Any] | None = None) -> Image:
        """Write config, manifest and trailer: from here on the archive loads. `base`
        is the config of the image it is built on.
        """
        config = documents.image_config(self._conf, layers, base)
        config_name = self._write_config(config, layers)
        manifest = documents.archive_manifest(
            [documents.archive_item(config_name, [self._conf.repo_tag], layers)]
        )
        self._archive.write_member("manifest.json", manifest)
        return Image(
            image_id=documents.digest(config),
            repo_tags=(self._conf.repo_tag,),
            layers=tuple(layers),
            size=self._archive.finish(),
        )

    def _write_config(self, config: bytes, layers: Sequence[Layer]) -> str:
        """Write all documents but `manifest.json`. Returns the config's member name."""
        name = f"{documents.digest(config).removeprefix('sha256:')}.json"
        self._archive.write_member(name, config)
        return name

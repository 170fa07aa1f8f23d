"""The values that travel through the package: plans before the bytes have
passed, records after. No behaviour, no knowledge of JSON, tar or files.

Paths that end up in a tar are bytes; digests are `sha256:` and 64 hex digits.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, NewType

Digest = NewType("Digest", str)


@dataclass(frozen=True, slots=True, kw_only=True)
class Owner:
    """Who owns the store files in the image."""

    uid: int = 0
    gid: int = 0
    uname: str = "root"
    gname: str = "root"


@dataclass(frozen=True, slots=True, kw_only=True)
class LayerPlan:
    """A store layer to be written: its store paths, in order."""

    store_paths: tuple[bytes, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class CustomisationLayer:
    """The ready-made top layer: `path` is its directory as the conf names it,
    `checksum` the digest its `layer.tar` (of `size` bytes) must have.
    """

    path: str
    checksum: Digest
    size: int


@dataclass(frozen=True, slots=True, kw_only=True)
class BaseReference:
    """The image to build on: the archive at `path`, in it the one tagged `repo_tag`,
    or the first. `config` is what is inherited (`env` or `full`), `history` what
    becomes of its history (`rewrite` or `keep`). With `skip_store_paths`, store
    paths that it holds are left out of our layers.
    """

    path: str
    repo_tag: str | None = None
    config: str = "env"
    history: str = "rewrite"
    skip_store_paths: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class ImageConf:
    """A valid conf, every default filled in. `created` is aware; `mtime` is in
    seconds since the epoch; `container_config` is passed through as it is;
    `annotations` are the OCI manifest's.
    """

    architecture: str
    container_config: dict[str, Any]
    store_dir: bytes
    store_layers: tuple[LayerPlan, ...]
    customisation_layer: CustomisationLayer | None
    repo_tag: str
    created: datetime
    mtime: int
    owner: Owner
    base: BaseReference | None = None
    annotations: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Descriptor:
    """OCI Image Specification, descriptor.md: what bytes are, and which ones."""

    media_type: str
    digest: Digest
    size: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Layer:
    """A layer that has been written. `archive_name` is its member name in the
    archive, `size` its bytes, `comment` its line in the image's history. If the
    member holds it compressed, `compressed` describes the member's bytes.
    """

    archive_name: str
    diff_id: Digest
    size: int
    comment: str
    compressed: Descriptor | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Image:
    """An image that has been written. `image_id` is the digest of its config,
    `size` the bytes of the whole archive.
    """

    image_id: Digest
    repo_tags: tuple[str, ...]
    layers: tuple[Layer, ...]
    size: int

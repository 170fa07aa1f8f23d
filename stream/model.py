"""The values that travel through the package: plans before the bytes have
passed, records after. No behaviour, no knowledge of JSON, tar or files.

Paths that end up in a tar are bytes; digests are `sha256:` and 64 hex digits.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, NewType

Digest = NewType("Digest", str)

DEFAULT_STORE_DIR = "/nix/store"
DEFAULT_CREATED = "1970-01-01T00:00:01+00:00"


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
class Builtin:
    """A small content that is built in: `fakeNss`, `binSh` and their like. `path` is the
    store path that it links to, where it needs one; lines are added to passwd and group.
    """

    name: str
    path: bytes = b""
    extra_passwd_lines: tuple[str, ...] = ()
    extra_group_lines: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Permission:
    """What the entry at `path`, or those whose path `regex` matches as a whole, get. Paths
    begin with `/`. With `create`, a directory is made at `path` if nothing is there. None:
    stays as it is. `capabilities` is in the notation of cap_from_text(3).
    """

    path: bytes = b""
    regex: str = ""
    create: bool = False
    mode: int | None = None
    uid: int | None = None
    gid: int | None = None
    xattrs: tuple[tuple[bytes, bytes], ...] = ()
    capabilities: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class StoreObject:
    """What a Nix database says of a store path. `nar_hash` is `sha256:` and 64 hex digits,
    `deriver` may be empty.
    """

    path: str
    nar_hash: str
    nar_size: int
    references: tuple[str, ...]
    deriver: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class NixDatabase:
    """The Nix database to be put into the image: what it says, and the store paths that
    are garbage collector roots.
    """

    objects: tuple[StoreObject, ...]
    roots: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Recipe:
    """How to make the customisation layer: `contents` are joined as links, `copy_to_root`
    are copied, then the rest happens in the order of the fields. `keep_dirlinks`: where a
    copied directory meets a link to a directory, the link stays and is merged into.
    `first_wins`: of two contents that disagree about a file, else an error.
    """

    contents: tuple[bytes | Builtin, ...] = ()
    copy_to_root: tuple[bytes | Builtin, ...] = ()
    keep_dirlinks: bool = False
    first_wins: bool = False
    database: NixDatabase | None = None
    extra_commands: str = ""
    fake_root_commands: str = ""
    fakechroot: bool = False
    owner: tuple[int, int] | None = None
    permissions: tuple[Permission, ...] = ()


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
    """A valid conf, every default filled in. `repo_tag` is None if it has none: an archive
    needs one, layers do not. `created` is aware; `mtime` is in
    seconds since the epoch; `container_config` is passed through as it is;
    `annotations` are the OCI manifest's. On disk `store_root` stands before what is in
    the store directory: see `stream.nix.store_root`.
    """

    architecture: str
    container_config: dict[str, Any]
    store_dir: bytes
    store_layers: tuple[LayerPlan, ...]
    customisation_layer: CustomisationLayer | Recipe | None
    repo_tag: str | None
    created: datetime
    mtime: int
    owner: Owner
    base: BaseReference | None = None
    annotations: dict[str, str] = field(default_factory=dict)
    store_root: bytes = b""


@dataclass(frozen=True, slots=True, kw_only=True)
class Descriptor:
    """OCI Image Specification, descriptor.md: what bytes are, and which ones."""

    media_type: str
    digest: Digest
    size: int


@dataclass(frozen=True, slots=True, kw_only=True)
class KnownLayer:
    """A layer known before its bytes are written. `diff_id` is the digest of its tar, `size`
    the tar's bytes, if known; `digest` is that of the blob as stored, if known.
    """

    diff_id: Digest
    size: int | None = None
    digest: Digest | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Layer:
    """A layer that has been written. `diff_id` is the digest of its tar, `size` the tar's
    bytes, `comment` its line in the image's history. `descriptor` describes the bytes as
    stored, which may be compressed; `archive_name` is the member of an archive that holds
    them.
    """

    archive_name: str
    diff_id: Digest
    size: int
    comment: str
    descriptor: Descriptor


@dataclass(frozen=True, slots=True, kw_only=True)
class ImageDocuments:
    """What the documents of one image are made from: its config's bytes, the tags it gets,
    its layers from bottom to top, its platform, and the annotations of its manifest.
    """

    config: bytes
    repo_tags: tuple[str, ...]
    layers: tuple[Layer, ...]
    architecture: str
    os: str = "linux"
    annotations: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Image:
    """An image that has been written. `image_id` is the digest of `config`, the bytes of its
    image config; `manifest` describes its OCI manifest, if there is one; `size` is the bytes
    of everything that was written.
    """

    image_id: Digest
    repo_tags: tuple[str, ...]
    layers: tuple[Layer, ...]
    config: bytes
    manifest: Descriptor | None
    size: int

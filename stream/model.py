"""The values that the package passes around: plans before the bytes are written, records
afterwards. They have no behaviour, and know nothing of JSON, tar or files.

Paths that end up in a tar are bytes; digests are `sha256:` and 64 hex digits.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import Any, Literal, NewType, TypeAlias

from stream.values import dataclass, field

Digest = NewType("Digest", str)

DEFAULT_STORE_DIR = "/nix/store"
DEFAULT_CREATED = "1970-01-01T00:00:01+00:00"


@dataclass(frozen=True, slots=True, kw_only=True)
class Owner:
    """The owner of the store files in the image."""

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
    """The ready-made top layer: `path` is its directory as the conf gives it, `checksum` the
    digest that its `layer.tar` (of `size` bytes) must have, `comment` its line in the image's
    history (empty: the line names the directory, as in nixpkgs).
    """

    path: str
    checksum: Digest
    size: int
    comment: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Builtin:
    """A built-in content, such as `fakeNss` or `binSh`. `path` is the store path that it
    links to, if it needs one; the extra lines are added to passwd and group.
    """

    name: str
    path: bytes = b""
    extra_passwd_lines: tuple[str, ...] = ()
    extra_group_lines: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class PlacedFile:
    """A file or directory that is put at `path` in the image: that at `source` on disk, without
    what the patterns `exclude` match (gitignore(5)), or, where `source` is empty, a file that holds
    `text`. `mode` is that of a file; None is 0755 for one that its owner may execute, otherwise
    0644. Whoever owns it on disk, everything in it belongs to `uid` and `gid`, or to root.
    """

    path: bytes
    source: bytes = b""
    text: str | None = None
    exclude: tuple[str, ...] = ()
    mode: int | None = None
    uid: int | None = None
    gid: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Permission:
    """The attributes given to the entry at `path`, or to those whose whole path matches
    `regex`. Paths begin with `/`. With `create`, a directory is made at `path` if nothing is
    there. None leaves an attribute as it is. `capabilities` is in cap_from_text(3) notation.
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
class User:
    """A user: a line of passwd(5), without a password."""

    name: str
    uid: int
    gid: int
    comment: str = ""
    home: str = "/"
    shell: str = "/bin/sh"


@dataclass(frozen=True, slots=True, kw_only=True)
class Group:
    """A group: a line of group(5). `members` are the names of users."""

    name: str
    gid: int
    members: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class StoreObject:
    """A store path as a Nix database describes it. `nar_hash` is `sha256:` and 64 hex digits;
    `deriver` may be empty.
    """

    path: str
    nar_hash: str
    nar_size: int
    references: tuple[str, ...]
    deriver: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class NixDatabase:
    """The Nix database to be put into the image: its store objects, and the store paths that
    are garbage collector roots.
    """

    objects: tuple[StoreObject, ...]
    roots: tuple[str, ...]


Conflicts: TypeAlias = Literal["error", "first", "last"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Recipe:
    """The steps that make the customisation layer: `contents` are joined as links, `copy_to_root`
    are copied, `files` are put at their paths, then the rest happens in the order of the fields.
    With `keep_dirlinks`, a link to a directory stays where a copied directory meets it, and the copy
    is merged into its target. `conflicts` says which of two contents that differ in a file is taken.
    `users` and `groups` are added to those of the base image and of the tree.
    """

    contents: tuple[bytes | Builtin, ...] = ()
    copy_to_root: tuple[bytes | Builtin, ...] = ()
    files: tuple[PlacedFile, ...] = ()
    keep_dirlinks: bool = False
    conflicts: Conflicts = "error"
    users: tuple[User, ...] = ()
    groups: tuple[Group, ...] = ()
    database: NixDatabase | None = None
    pre_mount: str = ""
    post_mount: str = ""
    run_as_root: str = ""
    post_umount: str = ""
    extra_commands: str = ""
    fake_root_commands: str = ""
    fakechroot: bool = False
    network: bool = False
    owner: tuple[int, int] | None = None
    permissions: tuple[Permission, ...] = ()

    @property
    def has_commands(self) -> bool:
        """True if anything is run to make the layer."""
        return bool(self.changes_image or self.extra_commands or self.fake_root_commands)

    @property
    def changes_image(self) -> bool:
        """True if the layer is what has changed of the base image, rather than the tree alone."""
        return bool(self.pre_mount or self.post_mount or self.run_as_root or self.post_umount)


Commands: TypeAlias = Literal["sandboxed", "unsandboxed", "skipped"]


@dataclass(frozen=True, slots=True, kw_only=True)
class BaseReference:
    """The image to build on: the one tagged `repo_tag` in the archive at `path`, or the first.
    `config` says how much of its config is inherited (`env` or `full`), `history` whether
    its history is kept (`rewrite` or `keep`). With `skip_store_paths`, store paths that it
    holds are left out of our layers.
    """

    path: str
    repo_tag: str | None = None
    config: str = "env"
    history: str = "rewrite"
    skip_store_paths: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class ImageConf:
    """A valid conf with every default filled in. `repo_tag` is None if it has none: an
    archive needs one, layers do not. `created` is timezone-aware; `mtime`, and
    `customisation_mtime` for a customisation layer made from a recipe, are in seconds since the
    epoch; `container_config` is passed through unchanged; `annotations` are the OCI manifest's.
    `customisation_store_paths` are in the customisation layer, behind its own files.
    `store_path_hashes` has the NAR hash of store paths, so far as Nix knows them.
    On disk, paths in the store directory are prefixed with `store_root`: see
    `stream.nix.store_root`. `variant` is the architecture's, such as `v7`; empty if it has none.

    `commands` is the caller's decision about a recipe's commands, not part of a conf: run them
    in the sandbox, without it, or not at all, as for somebody who only looks. Nor are
    `references`, which planning knows and no layer depends on: those of each store path in the
    image, None if they are unknown.
    """

    architecture: str
    container_config: dict[str, Any]
    store_dir: bytes
    store_layers: tuple[LayerPlan, ...]
    customisation_layer: CustomisationLayer | Recipe | None
    repo_tag: str | None
    created: datetime
    mtime: int
    customisation_mtime: int
    owner: Owner
    base: BaseReference | None = None
    annotations: dict[str, str] = field(default_factory=dict)
    store_root: bytes = b""
    customisation_store_paths: tuple[bytes, ...] = ()
    store_path_hashes: Mapping[bytes, str] = field(default_factory=dict)
    variant: str = ""
    commands: Commands = "sandboxed"
    references: Mapping[bytes, frozenset[bytes]] | None = field(
        default=None, compare=False, repr=False
    )

    @property
    def store_paths(self) -> frozenset[bytes]:
        """The store paths that the image holds, except those of its base image."""
        in_layers = (path for plan in self.store_layers for path in plan.store_paths)
        return frozenset((*in_layers, *self.customisation_store_paths))


@dataclass(frozen=True, slots=True, kw_only=True)
class Descriptor:
    """A content descriptor: OCI Image Specification, descriptor.md."""

    media_type: str
    digest: Digest
    size: int


@dataclass(frozen=True, slots=True, kw_only=True)
class LayerKey:
    """Everything that a layer's bytes depend on, as a SHA-256 (`value`, 64 hex digits). Nothing
    may be recorded under a key that is not `recordable`: a file was changed so recently that it
    may change again without a new ctime. A `portable` key is the same on all machines.
    """

    value: str
    recordable: bool = True
    portable: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class KnownLayer:
    """A layer known before its bytes are written. `diff_id` is the digest of its tar, `size`
    the tar's size in bytes, if known; `descriptor` describes the blob as the sink at hand
    stores it, if known. What is only `claimed`, by somebody else, counts for a layer that the
    sink holds, and says nothing of one that is written.
    """

    diff_id: Digest
    size: int | None = None
    descriptor: Descriptor | None = None
    claimed: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Layer:
    """A layer that has been written, or is held. `diff_id` is the digest of its tar, `size` the
    tar's size in bytes (the blob's, for one that is held compressed and was never measured),
    `comment` its line in the image's history. `descriptor` describes the bytes as stored, which
    may be compressed; `archive_name` is the archive member that holds them.
    """

    archive_name: str
    diff_id: Digest
    size: int
    comment: str
    descriptor: Descriptor


@dataclass(frozen=True, slots=True, kw_only=True)
class ImageDocuments:
    """The contents of one image's documents: its config's bytes, its tags, its layers from
    bottom to top, its platform, and the annotations of its manifest.
    """

    config: bytes
    repo_tags: tuple[str, ...]
    layers: tuple[Layer, ...]
    architecture: str
    os: str = "linux"
    variant: str = ""
    annotations: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Image:
    """An image that has been written. `image_id` is the digest of `config`, the bytes of its
    image config; `manifest` describes its OCI manifest, if there is one; `size` is the number
    of bytes written in total.
    """

    image_id: Digest
    repo_tags: tuple[str, ...]
    layers: tuple[Layer, ...]
    config: bytes
    manifest: Descriptor | None
    size: int


# How a blob of an image that is pushed came to be in the repository: it was there, it was in
# another repository of the registry, or its bytes were sent.
Passage: TypeAlias = Literal["held", "mounted", "sent"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Blob:
    """A blob of an image that is pushed, confirmed by the registry."""

    descriptor: Descriptor
    passage: Passage


@dataclass(frozen=True, slots=True, kw_only=True)
class RecordedLayer:
    """A layer that has these store paths according to the history of its image."""

    diff_id: str
    store_paths: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Pushed:
    """What is in a registry after a push: `tags` of `name` are now what `named` describes, the
    manifest of the only one of `images`, or an index of several. `platforms` has the platform of
    each, such as `linux/arm64/v8`. `blobs`
    are each image's layers, from bottom to top, and its config, each blob once. `sboms` are the
    manifests of the SBOMs, one for each image, if they were asked for. If it was `rehearsed`, none of
    that has happened.
    """

    images: tuple[Image, ...]
    platforms: tuple[str, ...]
    name: str
    named: Descriptor
    tags: tuple[str, ...]
    blobs: tuple[Blob, ...]
    sboms: tuple[Descriptor, ...] = ()
    rehearsed: bool = False

    @property
    def image(self) -> Image:
        """The image, or the first of several."""
        return self.images[0]

    @property
    def digest(self) -> Digest:
        """The digest of what the tags name."""
        return self.named.digest

    @property
    def reference(self) -> str:
        """The image's name for ever: `name@sha256:…`."""
        return f"{self.name}@{self.digest}"

    def total(self, passage: Passage) -> tuple[int, int]:
        """Return how many blobs came by `passage`, and their size in bytes."""
        sizes = [blob.descriptor.size for blob in self.blobs if blob.passage == passage]
        return len(sizes), sum(sizes)


@dataclass(frozen=True, slots=True, kw_only=True)
class Loaded:
    """An image in the container engine `engine`, which knows it as `name`. `held` are the diff_ids
    of the layers that were there before; the others were sent. The image's `size` is the number of
    bytes sent. If it was `rehearsed`, nothing was sent.
    """

    image: Image
    engine: str
    name: str
    held: frozenset[Digest]
    rehearsed: bool = False

    def total(self, *, held: bool) -> tuple[int, int]:
        """Return how many layers were held, or sent, each counted once, and their size in bytes."""
        sizes = {layer.diff_id: layer.size for layer in self.image.layers}
        chosen = [size for diff_id, size in sizes.items() if (diff_id in self.held) == held]
        return len(chosen), sum(chosen)

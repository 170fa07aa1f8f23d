"""Image archives made with CPython's tarfile, in every form that occurs in practice.

Must not know the package.
"""

import bz2
import gzip
import hashlib
import io
import json
import lzma
import tarfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import pyzstd

MANIFEST_TYPE = "application/vnd.oci.image.manifest.v1+json"
INDEX_TYPE = "application/vnd.oci.image.index.v1+json"
CONFIG_TYPE = "application/vnd.oci.image.config.v1+json"
LAYER_TYPE = "application/vnd.oci.image.layer.v1.tar"


def seekable_zstd(data: bytes) -> bytes:
    """Return `data` as seekable zstd: many small frames and a table of them."""
    file = io.BytesIO()
    with pyzstd.SeekableZstdFile(file, "w", max_frame_content_size=20_000) as zstd:
        zstd.write(data)
    return file.getvalue()


COMPRESSORS: dict[str, Callable[[bytes], bytes]] = {
    "plain": bytes,
    "gzip": lambda data: gzip.compress(data, 1, mtime=0),
    "gzip-two-members": lambda data: gzip.compress(data[:700]) + gzip.compress(data[700:]),
    "bzip2": bz2.compress,
    "xz": lzma.compress,
    "zstd": pyzstd.compress,
    "zstd-frames": lambda data: b"".join(
        pyzstd.compress(data[at : at + 9000]) for at in range(0, len(data), 9000)
    ),
    "zstd-seekable": seekable_zstd,
}


def digest(data: bytes) -> str:
    """Return the OCI digest of `data`."""
    return "sha256:" + hashlib.sha256(data).hexdigest()


DIGEST = digest(b"{}")  # of the payload of an attestation

# A member of a tar: a file's name and content, or a ready-made header.
Entry = tuple[str, bytes | tarfile.TarInfo]


def layer_tar(files: Mapping[str, bytes]) -> bytes:
    """Return a layer of regular files."""
    return tar_of([(name, content) for name, content in files.items()])


def tar_of(members: Sequence[Entry]) -> bytes:
    """Return a tar of files (name and content) and of ready-made headers."""
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w", format=tarfile.PAX_FORMAT) as tar:
        for name, content in members:
            if isinstance(content, tarfile.TarInfo):
                content.name = name
                tar.addfile(content)
            else:
                info = tarfile.TarInfo(name)
                info.size = len(content)
                tar.addfile(info, io.BytesIO(content))
    return file.getvalue()


def sound(members: Sequence[Entry]) -> list[Entry]:
    """Return the members that occur once in the layer, and whose parents are directories."""
    kept: list[Entry] = []
    for path, what in members:
        is_directory = isinstance(what, tarfile.TarInfo) and what.isdir()
        if not any(
            path == known
            or (
                path.startswith(f"{known}/")
                and not (isinstance(one, tarfile.TarInfo) and one.isdir())
            )
            or (known.startswith(f"{path}/") and not is_directory)
            for known, one in kept
        ):
            kept.append((path, what))
    return kept


def link(target: str, kind: bytes = tarfile.SYMTYPE) -> tarfile.TarInfo:
    """Return the header of a link, without a name."""
    info = tarfile.TarInfo()
    info.type, info.linkname = kind, target
    return info


@dataclass(kw_only=True)
class Base:
    """An image to be written as an archive. `stored` are the layers as stored, possibly
    compressed.
    """

    layers: list[bytes] = field(default_factory=list)
    config: dict[str, Any] = field(default_factory=dict)
    tags: list[str] | None = field(default_factory=lambda: ["base:1"])
    history: list[dict[str, Any]] | None = None
    architecture: str = "amd64"

    def document(self) -> dict[str, Any]:
        """The image config."""
        document: dict[str, Any] = {
            "architecture": self.architecture,
            "os": "linux",
            "config": self.config,
            "rootfs": {"type": "layers", "diff_ids": [digest(layer) for layer in self.layers]},
        }
        if self.history is not None:
            document["history"] = self.history
        return document

    def docker_members(
        self, names: Sequence[str] | None = None, stored: Sequence[bytes] | None = None
    ) -> tuple[list[tuple[str, bytes | tarfile.TarInfo]], dict[str, Any]]:
        """Return the members of a docker-archive without its manifest, and the manifest's item."""
        names = names or [f"{number}/layer.tar" for number in range(len(self.layers))]
        config = json.dumps(self.document()).encode()
        config_name = f"{digest(config)[7:]}.json"
        item = {"Config": config_name, "RepoTags": self.tags, "Layers": list(names)}
        members: list[tuple[str, bytes | tarfile.TarInfo]] = []
        for name, content in zip(names, stored or self.layers, strict=True):
            if name not in [known for known, _ in members]:
                members.append((name, content))
        return [*members, (config_name, config)], item

    def docker_archive(self, **more: Any) -> bytes:
        """Return a docker-archive, with its manifest last."""
        members, item = self.docker_members(**more)
        return tar_of([*members, ("manifest.json", json.dumps([item]).encode())])

    def oci_files(self, stored: Sequence[bytes] | None = None) -> dict[str, bytes]:
        """Return the files of an OCI layout."""
        config = json.dumps(self.document()).encode()
        blobs = [config, *(stored or self.layers)]
        manifest = json.dumps(
            {
                "schemaVersion": 2,
                "config": _descriptor(config, "application/vnd.oci.image.config.v1+json"),
                "layers": [
                    _descriptor(blob, "application/vnd.oci.image.layer.v1.tar")
                    for blob in blobs[1:]
                ],
            }
        ).encode()
        entry = _descriptor(manifest, "application/vnd.oci.image.manifest.v1+json")
        entry["platform"] = {"os": "linux", "architecture": self.architecture}
        if self.tags:
            entry["annotations"] = {"org.opencontainers.image.ref.name": self.tags[0]}
        return {
            "oci-layout": b'{"imageLayoutVersion": "1.0.0"}',
            "index.json": json.dumps({"schemaVersion": 2, "manifests": [entry]}).encode(),
            **{f"blobs/sha256/{digest(blob)[7:]}": blob for blob in [*blobs, manifest]},
        }


@dataclass(kw_only=True)
class Layout:
    """An OCI image layout of several images, indexes and artifacts. `top` are the descriptors
    in `index.json`; those that methods return go there, or into an index.
    """

    blobs: dict[str, bytes] = field(default_factory=dict)
    top: list[dict[str, Any]] = field(default_factory=list)

    def blob(self, data: bytes, media_type: str) -> dict[str, Any]:
        """Add a blob, and return its descriptor."""
        self.blobs[f"blobs/sha256/{digest(data)[7:]}"] = data
        return _descriptor(data, media_type)

    def image(self, base: Base, config: bytes = b"", /, **platform: str) -> dict[str, Any]:
        """Add an image; its platform is in its descriptor, and in its config if that is made
        here.
        """
        document = base.document() | platform
        described = self.blob(config or json.dumps(document).encode(), CONFIG_TYPE)
        layers = [self.blob(layer, LAYER_TYPE) for layer in base.layers]
        descriptor = self.manifest(described, layers)
        return descriptor | ({"platform": platform} if platform else {})

    def manifest(
        self, config: dict[str, Any], layers: Sequence[dict[str, Any]], **more: Any
    ) -> dict[str, Any]:
        """Add a manifest."""
        document = {"schemaVersion": 2, "mediaType": MANIFEST_TYPE, "config": config}
        data = json.dumps({**document, "layers": layers, **more}).encode()
        return self.blob(data, MANIFEST_TYPE)

    def index(self, descriptors: Sequence[dict[str, Any]]) -> dict[str, Any]:
        """Add an index."""
        document = {"schemaVersion": 2, "mediaType": INDEX_TYPE, "manifests": descriptors}
        return self.blob(json.dumps(document).encode(), INDEX_TYPE)

    def files(self) -> dict[str, bytes]:
        """Return the files of the layout."""
        return {
            "oci-layout": b'{"imageLayoutVersion": "1.0.0"}',
            "index.json": json.dumps({"schemaVersion": 2, "manifests": self.top}).encode(),
            **self.blobs,
        }

    def tar(self) -> bytes:
        """Return the layout as a tar."""
        return tar_of([*self.files().items()])


def named(descriptor: dict[str, Any], name: str) -> dict[str, Any]:
    """Return a descriptor with a name, as containerd and podman read it, and a tag."""
    annotations = {
        "io.containerd.image.name": f"docker.io/library/{name}",
        "org.opencontainers.image.ref.name": name.rpartition(":")[2],
    }
    return descriptor | {"annotations": annotations}


def artifacts(layout: Layout) -> dict[str, dict[str, Any]]:
    """Add one artifact of each kind that is found beside images, and return descriptors."""
    payload = layout.blob(b'{"critical": {}}', "application/vnd.dev.cosign.simplesigning.v1+json")
    empty = layout.blob(b"{}", "application/vnd.oci.empty.v1+json")
    signed = {"architecture": "", "os": "", "rootfs": {"diff_ids": [payload["digest"]]}}
    attested = {"architecture": "unknown", "os": "unknown", "rootfs": {"diff_ids": [DIGEST]}}
    old = b'{"mediaType": "application/vnd.oci.artifact.manifest.v1+json", "blobs": []}'
    attestation = layout.manifest(
        layout.blob(json.dumps(attested).encode(), CONFIG_TYPE),
        [layout.blob(b"{}", "application/vnd.in-toto+json")],
    )
    return {
        "SBOM": layout.manifest(
            empty,
            [layout.blob(b'{"spdxVersion": "SPDX-2.3"}', "application/spdx+json")],
            artifactType="application/spdx+json",
        ),
        "signature": layout.manifest(
            layout.blob(json.dumps(signed).encode(), CONFIG_TYPE), [payload]
        ),
        "chart": layout.manifest(
            layout.blob(b'{"name": "chart"}', "application/vnd.cncf.helm.config.v1+json"),
            [layout.blob(b"tgz", "application/vnd.cncf.helm.chart.content.v1.tar+gzip")],
        ),
        "attestation": attestation | {"platform": {"architecture": "unknown", "os": "unknown"}},
        "attestation without a platform": attestation,
        "artifact manifest": layout.blob(old, "application/vnd.oci.artifact.manifest.v1+json"),
    }


def _descriptor(blob: bytes, media_type: str) -> dict[str, Any]:
    return {"mediaType": media_type, "digest": digest(blob), "size": len(blob)}

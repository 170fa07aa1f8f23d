"""Read an image from a stream and verify that its layers match its config.

Knows the docker-archive format; must not know who wrote the image.
"""

from __future__ import annotations

import hashlib
import json
import subprocess
import tarfile

_CHUNK = 1 << 20


class ImageError(Exception):
    """The stream is not a sound image."""


def image_id(argv: tuple[str, ...]) -> str:
    """Run a command, verify every layer of the image it writes, and return the image ID."""
    digests: dict[str, str] = {}
    documents: dict[str, bytes] = {}
    with subprocess.Popen(argv, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        with tarfile.open(mode="r|", fileobj=process.stdout) as archive:
            for member in archive:
                digests[member.name], kept = _read(archive, member)
                if kept:
                    documents[member.name] = kept
        while process.stdout.read(_CHUNK):
            pass
    if process.returncode:
        raise ImageError(f"exit status {process.returncode} of: {' '.join(argv)[:200]}")
    return _verified(digests, documents)


def _read(archive: tarfile.TarFile, member: tarfile.TarInfo) -> tuple[str, bytes]:
    """Return a member's digest, and its content if it is a document."""
    content = archive.extractfile(member)
    if content is None:
        raise ImageError(f"{member.name} is not a file")
    digest = hashlib.sha256()
    kept = b""
    while chunk := content.read(_CHUNK):
        digest.update(chunk)
        if member.name.endswith(".json"):
            kept += chunk
    return digest.hexdigest(), kept


def _verified(digests: dict[str, str], documents: dict[str, bytes]) -> str:
    if "manifest.json" not in documents:
        raise ImageError("no manifest.json")
    item = json.loads(documents["manifest.json"])[0]
    config = json.loads(documents[item["Config"]])
    named = [f"sha256:{digests.get(name)}" for name in item["Layers"]]
    if named != config["rootfs"]["diff_ids"]:
        raise ImageError("the layers differ from the config's diff_ids")
    return f"sha256:{digests[item['Config']]}"

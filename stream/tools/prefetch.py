"""An image fetched from a registry into the Nix store, where `pullImage` of nix/pull.nix would
put it: it need not be fetched then.

Must not know argv.
"""

from __future__ import annotations

import base64
import hashlib
import os

from stream.errors import NixError, OutputError
from stream.nix import query
from stream.observer import Observer
from stream.oci.platform import Platform
from stream.oci.reference import Location, Reference
from stream.registry.trust import Access
from stream.temporary.directory import private_directory
from stream.tools.pull import fetched, resolve, warn_of_platform, write_pulled
from stream.values import dataclass

ALGORITHMS = ("sha256", "sha512", "sha1", "md5")  # of Nix's fixed-output derivations


@dataclass(frozen=True, slots=True, kw_only=True)
class Prefetched:
    """An image that was fetched: `location` has the digest of its manifest, `final` is its name
    and tag in the archive, `hash` the archive's (SRI), and `store_path` where it is in the store,
    or None if it is not.
    """

    location: Location
    final: Reference
    hash: str
    store_path: str | None


def archive_name(final: Reference) -> str:
    """Return the name of the archive in the Nix store. The same is in nix/pull.nix."""
    return f"docker-image-{final.name}-{final.tag}.tar".replace("/", "-").replace(":", "-")


def prefetch(  # noqa: PLR0913 — the options of the command, each of its own
    location: Location,
    final: Reference,
    platform: Platform,
    *,
    access: Access,
    algorithm: str,
    observer: Observer,
    progress: int | None = None,
) -> Prefetched:
    """Fetch the image at `location` for `platform`, tag it `final`, and add its archive to the
    Nix store. If there is none, or it does not take the archive, `observer` is warned.
    `algorithm` is one of ALGORITHMS.

    Raises RegistryError, ArchiveError, DigestMismatch, SourceError or OutputError.
    """
    found = resolve(location, platform, access)
    with private_directory() as place:
        path = os.path.join(os.fsdecode(place), archive_name(final))
        with fetched(found, access, progress) as (archive, image):
            warn_of_platform(found, image, platform, observer)
            try:
                fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
            except OSError as error:
                raise OutputError.unwritable(error, path) from error
            try:
                write_pulled(archive, image, final, fd, observer)
            finally:
                os.close(fd)
        with open(path, "rb") as file:
            digest = hashlib.file_digest(file, algorithm).digest()
        return Prefetched(
            location=found,
            final=final,
            hash=f"{algorithm}-{base64.b64encode(digest).decode()}",
            store_path=_add(algorithm, path, observer),
        )


def _add(algorithm: str, path: str, observer: Observer) -> str | None:
    """Add the archive to the Nix store, if there is one. Return its store path."""
    if not query.is_installed():
        observer.warning("the image is not in a Nix store: Nix is not installed")
        return None
    try:
        return query.add_fixed(algorithm, path)
    except NixError as error:
        observer.warning(f"the image is not in the Nix store: {error}")
        return None

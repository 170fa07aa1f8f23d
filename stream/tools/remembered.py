"""What a registry remembers of layers: the images whose manifests a push reads for that, and the
known digests in them. One that cannot be read does not keep a push from succeeding.

Knows neither argv nor how layers are sent.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import TYPE_CHECKING, Any, TypeAlias

from stream.compression import Compression
from stream.digests import Digests
from stream.errors import DigestMismatch, RegistryError
from stream.model import Digest
from stream.oci.documents import layer_type
from stream.values import dataclass

if TYPE_CHECKING:
    from stream.digests.annotations import AnnotatedDigests

# An image that may remember layers: its name for messages, and what returns its manifests, as they
# were parsed, by their digests. The first is the one that is pushed to.
Memory: TypeAlias = tuple[str, Callable[[], Mapping[Digest, Mapping[str, Any]]]]


@dataclass(frozen=True, slots=True, kw_only=True)
class RegistryCache:
    """The registry remembers the layers of what is pushed, in its manifest. What the tag's present
    manifest remembers is believed, and the images `read_from` of the same registry: `name`,
    `name:tag` or `name@digest`, or `:tag` of the same repository. With a `secret`, only what was
    written with the same one counts.
    """

    read_from: tuple[str, ...] = ()
    secret: bytes = b""


def annotated_digests(
    digests: Digests,
    memories: Callable[[], Iterable[Memory]],
    *,
    compression: Compression,
    secret: bytes,
    warn: Callable[[str], None],
) -> AnnotatedDigests:
    """Return `digests`, and besides them those of the images that `memories` returns, for layers
    stored with `compression`. `warn` is told of what cannot be read, or is wrong.
    """
    from stream.digests.annotations import AnnotatedDigests

    return AnnotatedDigests(
        digests,
        lambda: _manifests(memories(), warn),
        media_type=layer_type(compression.codec if compression.encoding else None),
        encoding=compression.encoding,
        secret=secret,
        warn=warn,
    )


def _manifests(
    memories: Iterable[Memory], warn: Callable[[str], None]
) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """Yield each manifest of `memories` with the name of its image. What cannot be read is a
    failure only of the first one.
    """
    for number, (name, fetch) in enumerate(memories):
        try:
            found = fetch()
        except (RegistryError, DigestMismatch) as error:
            if not number:
                raise
            warn(f"{name}: no layers are known from there: {error}")
            continue
        if number and not found:
            warn(f"{name}: no layers are known from there: there is no such image")
        yield from ((name, one) for one in found.values())

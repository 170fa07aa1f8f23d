"""Known digests that a registry remembers: annotations of the layers in an image's manifest, for
machines that have never seen the image.

Each layer's annotations say which blob it is in which encoding, and a seal covers all of them
together with the descriptor: HMAC, RFC 2104, with SHA-256. With a secret, it shows who wrote
them; without one, only that nobody has compressed the layers since. Whatever is not
as it would be written here is not there. Knows neither registries nor how manifests are fetched.
"""

from __future__ import annotations

import hmac
import json
import re
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, TypeAlias

from stream.digests import Digests
from stream.limits import MAX_SIZE
from stream.model import Descriptor, Digest, KnownLayer, Layer, LayerKey
from stream.values import dataclass

PREFIX = "dev.stream-image.layer."
_KEY = f"{PREFIX}key"  # of the layer, if it has one besides its diff ID
_DIFF_ID = f"{PREFIX}diff-id"
_SIZE = f"{PREFIX}size"  # of its tar, in bytes
_ENCODING = f"{PREFIX}encoding"
_SEAL = f"{PREFIX}seal"

_FORMAT = "stream-image annotations 1"
_HEX = re.compile("[0-9a-f]{64}")
_NUMBER = re.compile("0|[1-9][0-9]{0,18}")

# Manifests as they were parsed, each with its name for messages.
Manifests: TypeAlias = Iterable[tuple[str, Mapping[str, Any]]]


@dataclass(frozen=True, slots=True, kw_only=True)
class _Claim:
    """What the manifest called `where` says of a layer."""

    where: str
    layer: KnownLayer


class AnnotatedDigests:
    """Known `digests`, and besides them those in the annotations of the manifests that
    `remembered` returns: it is called once, when they are needed. See `stream.digests.Digests`.

    Of the annotations, only those count that have a seal with `secret`, and are of a blob of
    `media_type` in `encoding`. They are claims: nothing of them gets into `digests`. One of two
    that contradict each other is wrong, so neither counts. `warn` is told of each that turns out
    wrong.
    """

    def __init__(  # noqa: PLR0913 — each of its own
        self,
        digests: Digests,
        remembered: Callable[[], Manifests],
        *,
        media_type: str,
        encoding: str,
        secret: bytes = b"",
        warn: Callable[[str], None] = lambda _message: None,
    ) -> None:
        self._digests = digests
        self._remembered = remembered
        self._media_type = media_type
        self._encoding = encoding
        self._secret = secret
        self._warn = warn
        self._lock = threading.Lock()  # for what follows
        self._claims: dict[str, _Claim | None] | None = None  # by keys; None: contradictory
        self._diff_ids: dict[str, Digest] = {}  # by portable keys
        self._own: set[Digest] = set()  # diff_ids of layers stored in this encoding
        self._warned: set[Digest] = set()  # blobs

    # ---- the interface

    def lookup(self, keys: Sequence[LayerKey], encoding: str) -> KnownLayer | None:
        """See the interface. What others claim must not contradict what is known here."""
        known = self._digests.lookup(keys, encoding)
        if known is None or known.descriptor is None:
            claim = next(filter(None, map(self._claim, keys)), None)
            if claim is not None and (known is None or _is_same(known, claim.layer)):
                known = claim.layer
        # The key may be a diff ID: then it is one of ours, if it is known or not.
        asked = [Digest(f"sha256:{key.value}") for key in keys if key.portable]
        self._note(keys, known.diff_id if known else None, *asked)
        return known

    def record(self, keys: Sequence[LayerKey], layer: Layer, encoding: str) -> None:
        """See the interface."""
        for key in keys:
            claim = self._claim(key)
            if claim is not None and not _is_same(layer, claim.layer):
                self._reject(key)
        self._note(keys, layer.diff_id)
        self._digests.record(keys, layer, encoding)

    def forget(self, keys: Sequence[LayerKey]) -> str | None:
        """See the interface."""
        for key in keys:
            self._reject(key)
        return self._digests.forget(keys)

    # ---- annotations

    def annotations(self, layer: Layer) -> dict[str, str]:
        """Return the annotations of a layer whose keys have been looked up or recorded; none for
        one that is stored as it came.
        """
        if layer.diff_id not in self._own:
            return {}
        keys = [key for key, diff_id in self._diff_ids.items() if diff_id == layer.diff_id]
        return self.sealed(min(keys, default=""), layer.diff_id, layer.size, layer.descriptor)

    def sealed(self, key: str, diff_id: str, size: int | str, blob: Descriptor) -> dict[str, str]:
        """Return the annotations that say that `blob` is a layer with this key (empty: none), diff
        ID and size of its tar in bytes.
        """
        annotations = {_DIFF_ID: diff_id, _SIZE: str(size), _ENCODING: self._encoding}
        if key:
            annotations[_KEY] = key
        sealed = [_FORMAT, annotations, blob.media_type, blob.digest, blob.size]
        text = json.dumps(sealed, sort_keys=True).encode()
        return annotations | {_SEAL: hmac.digest(self._secret, text, "sha256").hex()}

    def _note(self, keys: Sequence[LayerKey], known: Digest | None, *own: Digest) -> None:
        """Note that `keys` are those of the layer `known`, and that layers are stored by us."""
        with self._lock:
            self._own.update(own)
            if known is None:
                return
            self._own.add(known)
            for key in keys:
                if key.portable and key.value != _digits(known):
                    self._diff_ids[key.value] = known

    # ---- claims

    def _claim(self, key: LayerKey) -> _Claim | None:
        if not key.portable:
            return None
        with self._lock:
            if self._claims is None:
                self._claims = self._read()
            return self._claims.get(key.value)

    def _reject(self, key: LayerKey) -> None:
        """Ignore what is claimed of `key` from now on."""
        claim = self._claim(key)
        if claim is not None:
            assert self._claims is not None, "there are claims"
            self._claims[key.value] = None
            self._diff_ids.pop(key.value, None)
            self._warn_of(claim, "are not those of the layer")

    def _read(self) -> dict[str, _Claim | None]:
        claims: dict[str, _Claim | None] = {}
        for where, manifest in self._remembered():
            layers = manifest.get("layers")
            for descriptor in layers if isinstance(layers, list) else ():
                for key, layer in self._parse(descriptor):
                    claim = _Claim(where=where, layer=layer)
                    other = claims.setdefault(key, claim)
                    if other is not None and other.layer != layer:
                        claims[key] = None
                        self._warn_of(claim, f"contradict those in {other.where}")
        return claims

    def _warn_of(self, claim: _Claim, wrong: str) -> None:
        blob = claim.layer.descriptor
        assert blob is not None, "claims are of blobs"
        if blob.digest not in self._warned:
            self._warned.add(blob.digest)
            annotations = f"the annotations of {blob.digest}"
            self._warn(
                f"{claim.where}: {annotations} {wrong}, and are ignored; who can push there?"
            )

    def _parse(self, descriptor: object) -> Iterator[tuple[str, KnownLayer]]:
        """Yield what the annotations of a layer's descriptor claim, by each of its keys."""
        match descriptor:
            case {
                "mediaType": self._media_type,
                "digest": str(digest),
                "size": int(stored),
                "annotations": dict(given),
            }:
                pass
            case _:
                return
        key, diff_id, size = (given.get(name, "") for name in (_KEY, _DIFF_ID, _SIZE))
        texts_fit = (
            _matches(_HEX, key or "0" * 64)
            and all(_matches(_HEX, _digits(one)) for one in (digest, diff_id))
            and _matches(_NUMBER, size)
        )
        if not texts_fit or type(stored) is not int or not 0 <= stored <= MAX_SIZE >= int(size):
            return
        blob = Descriptor(media_type=self._media_type, digest=Digest(digest), size=stored)
        expected = self.sealed(key, diff_id, size, blob)
        if any(not _is_equal(given.get(name), text) for name, text in expected.items()):
            return
        if not self._encoding and (diff_id, int(size)) != (digest, stored):
            return
        layer = KnownLayer(diff_id=Digest(diff_id), size=int(size), descriptor=blob, claimed=True)
        yield _digits(diff_id), layer
        if key:
            yield key, layer


def _is_same(known: KnownLayer | Layer, claimed: KnownLayer) -> bool:
    return (known.diff_id, known.size) == (claimed.diff_id, claimed.size)


def _digits(digest: object) -> str:
    """Return the digits of a SHA-256; empty for anything else."""
    return digest.removeprefix("sha256:") if isinstance(digest, str) and ":" in digest else ""


def _matches(pattern: re.Pattern[str], text: object) -> bool:
    return isinstance(text, str) and pattern.fullmatch(text) is not None


def _is_equal(given: object, expected: str) -> bool:
    if not isinstance(given, str):
        return False
    return hmac.compare_digest(given.encode(errors="surrogatepass"), expected.encode())

"""One repository of a registry, as the distribution protocol has it: blobs and manifests.

OCI Distribution Specification. A blob is uploaded by a POST, one PATCH and an empty PUT that names
its digest, which needs to be known only then. Never in ranges: some registries refuse them, and
one silently drops all but the first (docs/adr/0013). Requests without a layer's bytes are repeated
where another try may succeed; a layer's bytes are sent once. Must not know layers, or what a
manifest says.
"""

from __future__ import annotations

import contextlib
import hashlib
import re
import threading
import time
from collections.abc import Iterable, Sequence
from http import HTTPStatus
from typing import Any
from urllib.parse import quote

from stream.errors import DigestMismatch, RegistryError
from stream.model import Digest
from stream.oci.reference import Location, qualified, split
from stream.registry.session import Session, open_session
from stream.registry.transport import Answer, Request, Sleep
from stream.registry.trust import URL, Access
from stream.values import dataclass, field, replace

_ANYWHERE = Access()
MAX_MANIFEST = 4 << 20  # bytes, as other registries and clients have it
_COMMIT = 15 * 60.0  # seconds; some registries take minutes to finish a large blob
_CANCEL = 10.0  # seconds
_DIGEST = re.compile("sha256:[0-9a-f]{64}")
_ACCEPT = {
    "Accept": "application/vnd.oci.image.manifest.v1+json,"
    " application/vnd.oci.image.index.v1+json,"
    " application/vnd.docker.distribution.manifest.v2+json,"
    " application/vnd.docker.distribution.manifest.list.v2+json"
}
_INDEX_TYPE = "application/vnd.oci.image.index.v1+json"
_PAGES = 50  # of a list
_NEXT = re.compile(r'<([^>]*)>\s*;\s*rel="?next')
_OCTETS = {"Content-Type": "application/octet-stream"}
_UPLOADS = "blobs/uploads/"
_ABSENT = (HTTPStatus.NOT_FOUND, HTTPStatus.FORBIDDEN)  # Artifactory answers 403
_FOUND = (HTTPStatus.OK, *_ABSENT)
# Registries without lists of referrers do not know the path, or the method there.
_NO_LISTS = (
    *_ABSENT,
    HTTPStatus.BAD_REQUEST,
    HTTPStatus.METHOD_NOT_ALLOWED,
    HTTPStatus.NOT_IMPLEMENTED,
)
_LOST = "BLOB_UPLOAD_UNKNOWN"  # of a registry that has forgotten an upload: begin another
_STORED = range(200, 205)  # the statuses of a PUT that was taken
_TAKEN = (HTTPStatus.CREATED, HTTPStatus.ACCEPTED, HTTPStatus.NO_CONTENT)  # of a PATCH


@dataclass(frozen=True, slots=True, kw_only=True)
class Manifest:
    """A manifest or index as it is in a registry. `media_type` is empty if it was not sent."""

    data: bytes = field(repr=False)
    media_type: str
    digest: Digest


class Repository:
    """The repository that `location` names, on its registry. Blobs may be mounted from the
    repositories `pull_from` of the same registry, named without it. Several threads may use it at
    once. Nothing is sent before it is needed; `sleep` is called with the seconds between tries. With
    `only_pulls`, the right to push is not asked for.

    Its methods raise RegistryError.
    """

    def __init__(
        self,
        location: Location,
        access: Access = _ANYWHERE,
        pull_from: Sequence[str] = (),
        *,
        only_pulls: bool = False,
        sleep: Sleep = time.sleep,
    ) -> None:
        name, _ = split(qualified(location.name))
        self.domain, _, self.path = name.partition("/")
        self._access = access
        self._sleep = sleep
        self._lock = threading.Lock()
        self._opened: Session | None = None
        # The one to write to comes first: some registries look at no other.
        others = (f"repository:{other}:pull" for other in pull_from if other != self.path)
        actions = "pull" if only_pulls else "pull,push"
        self._scopes = list(dict.fromkeys((f"repository:{self.path}:{actions}", *others)))

    def __str__(self) -> str:
        """Return its name, with the registry's."""
        return f"{self.domain}/{self.path}"

    def close(self) -> None:
        """Close the connections. The repository can be used again. Neither a registry nor a
        credential helper that has not answered yet, to another thread, is waited for.
        """
        opened = self._opened
        if opened is not None:
            opened.close()

    def manifest(self, reference: str) -> Manifest | None:
        """Return the manifest with a tag or digest, None if there is none. Raises DigestMismatch
        if it is not the one asked for.
        """
        request = self._to("GET", f"manifests/{reference}", headers=_ACCEPT, limit=MAX_MANIFEST)
        answer = self._session().request(request, _named(reference), _FOUND)
        if answer.status in _ABSENT:
            return None
        digest = Digest(f"sha256:{hashlib.sha256(answer.data).hexdigest()}")
        promised = reference if _DIGEST.fullmatch(reference) else _stated_digest(answer)
        if promised not in (None, digest):
            raise DigestMismatch(f"{self}: {_named(reference)}", str(promised), digest)
        kind = answer.headers.get("Content-Type", "").partition(";")[0].strip()
        return Manifest(data=answer.data, media_type=kind, digest=digest)

    def has_manifest(self, reference: str) -> Digest | None:
        """Return the digest of the manifest with a tag or digest, None if there is none."""
        request = self._to("HEAD", f"manifests/{reference}", headers=_ACCEPT)
        answer = self._session().request(request, _named(reference), _FOUND)
        if answer.status in _ABSENT:
            return None
        stated = _stated_digest(answer)
        if stated is None:  # a registry need not say it
            found = self.manifest(reference)
            return None if found is None else found.digest
        return stated if stated == reference or not _DIGEST.fullmatch(reference) else None

    def put_manifest(self, data: bytes, media_type: str, reference: str) -> bool:
        """Put a manifest under a tag or its digest. Under its digest, it is looked up afterwards:
        a registry that answers 200 to everything is not believed. Return whether the registry has
        taken note of the manifest's subject.
        """
        digest = f"sha256:{hashlib.sha256(data).hexdigest()}"
        headers = {"Content-Type": media_type}
        request = self._to(
            "PUT", f"manifests/{reference}", headers=headers, body=data, patience=_COMMIT
        )
        session, what = self._session(), _named(reference)
        answer = session.request(request, what, _STORED)
        if _stated_digest(answer) not in (None, digest):
            raise session.error("PUT", what, "stored under another digest", status=answer.status)
        if reference == digest and self.has_manifest(reference) != digest:
            raise session.error("HEAD", what, "not there, although the registry took it")
        return "OCI-Subject" in answer.headers

    def referrers(self, digest: Digest) -> list[bytes] | None:
        """Return the list of manifests that refer to one, in pages, each an index; None if the
        registry keeps no such lists.
        """
        session, what = self._session(), f"referrers of {digest}"
        accept = {"Accept": _INDEX_TYPE}
        request = self._to("GET", f"referrers/{digest}", headers=accept, limit=MAX_MANIFEST)
        pages: list[bytes] = []
        while len(pages) < _PAGES:
            answer = session.request(request, what, (HTTPStatus.OK, *_NO_LISTS))
            kind = answer.headers.get("Content-Type", "").partition(";")[0].strip()
            if answer.status != HTTPStatus.OK or kind != _INDEX_TYPE:
                return None  # a page for people is not a list, either
            pages.append(answer.data)
            following = _NEXT.search(answer.headers.get("Link", ""))
            if following is None:
                return pages
            request = replace(
                request, url=session.follow(following[1], answer, what, "GET", "Link")
            )
        raise session.error("GET", what, f"has more than {_PAGES} pages")

    def has_blob(self, digest: Digest, size: int | None = None) -> bool:
        """Return whether there is a blob, of `size` bytes if that is known."""
        request = self._to("HEAD", f"blobs/{digest}")
        answer = self._session().request(request, f"blob {digest}", _FOUND)
        if answer.status in _ABSENT or _stated_digest(answer) not in (None, digest):
            return False
        stated = answer.headers.get("Content-Length")
        return size is None or stated is None or stated == str(size)

    def blob(self, digest: Digest, limit: int) -> bytes | None:
        """Return the bytes of a blob, None if there is none. Raises DigestMismatch if they are not
        those asked for, and RegistryError if there are more than `limit`.
        """
        request = self._to("GET", f"blobs/{digest}", limit=limit)
        answer = self._session().request(request, f"blob {digest}", _FOUND)
        if answer.status in _ABSENT:
            return None
        found = Digest(f"sha256:{hashlib.sha256(answer.data).hexdigest()}")
        if found != digest:
            raise DigestMismatch(f"{self}: blob {digest}", digest, found)
        return answer.data

    def mount(self, digest: Digest, repository: str) -> Upload | None:
        """Make the blob of another repository of this registry one of this one, and return None.
        If that is refused, or the blob is not there, return an upload for it.
        """
        if repository != self.path:
            self._session().authorization.widen(f"repository:{repository}:pull")
        query = f"?mount={quote(digest, safe='')}&from={quote(repository, safe='')}"
        request = self._to("POST", f"{_UPLOADS}{query}")
        taken = (HTTPStatus.CREATED, HTTPStatus.ACCEPTED)
        try:
            answer = self._session().request(request, f"mount of {digest}", taken)
        except RegistryError as error:
            if error.status is None or error.is_passing:
                raise
            return self.begin_upload()  # each that refuses has a status of its own for it
        if answer.status == HTTPStatus.CREATED:
            # Some answer so to whatever they are asked, but without its digest.
            is_named = _stated_digest(answer) == digest
            return None if is_named or self.has_blob(digest) else self.begin_upload()
        return self._upload(answer)

    def begin_upload(self) -> Upload:
        """Begin the upload of a blob."""
        request = self._to("POST", _UPLOADS)
        return self._upload(self._session().request(request, "upload", (HTTPStatus.ACCEPTED,)))

    def _upload(self, answer: Answer) -> Upload:
        session = self._session()
        location = answer.headers.get("Location")
        if location is None:
            reason = "no Location in the answer; is this a registry?"
            raise session.error("POST", "upload", reason, status=answer.status)
        return Upload(self, session, session.follow(location, answer, "upload"))

    def _session(self) -> Session:
        with self._lock:
            if self._opened is None:
                self._opened = open_session(str(self), self._access, self._scopes, self._sleep)
            return self._opened

    def _to(self, method: str, what: str, **more: Any) -> Request:
        """Return a request to something in this repository."""
        url = URL(self._session().origin, f"/v2/{self.path}/{what}")
        return Request(method=method, url=url, **more)


class Upload:
    """A blob on its way into a repository: begun, sent once, then committed or cancelled."""

    def __init__(self, repository: Repository, session: Session, url: URL) -> None:
        self._repository = repository
        self._session = session
        self._url = url

    def send(self, pieces: Iterable[bytes | memoryview], size: int | None = None) -> None:
        """Send the bytes of the blob, `size` of them if that is known, in one request. Each piece
        is used before the next is taken. What `pieces` raises passes; then, and when the registry
        answers early, nothing more is sent. Raises RegistryError, or SizeMismatch if `pieces` have
        not `size` bytes.
        """
        request = Request(method="PATCH", url=self._url, headers=_OCTETS, body=pieces)
        try:
            answer = self._session.send(request, "upload", _TAKEN, size)
        except RegistryError as error:
            error.is_passing |= error.code == _LOST
            raise
        if location := answer.headers.get("Location"):
            self._url = self._session.follow(location, answer, "upload")

    def commit(self, digest: Digest) -> None:
        """End the upload: the blob is there when this returns. Raises RegistryError."""
        joint = "&" if "?" in self._url.target else "?"
        url = self._url._replace(target=f"{self._url.target}{joint}digest={quote(digest, safe='')}")
        request = Request(method="PUT", url=url, headers=_OCTETS, body=b"", patience=_COMMIT)
        what = f"blob {digest}"
        try:
            answer = self._session.request(request, what, _STORED)
        except RegistryError as error:
            # The answer that was lost may have been that it is there.
            is_open = error.is_passing or error.status in (None, HTTPStatus.NOT_FOUND)
            if is_open and self._repository.has_blob(digest):
                return
            error.is_passing |= error.code == _LOST
            raise
        if _stated_digest(answer) not in (None, digest):
            reason = "stored under another digest"
            raise self._session.error("PUT", what, reason, status=answer.status)

    def cancel(self) -> None:
        """Tell the registry that the blob will not come. What it answers does not matter. Another
        thread may be sending.
        """
        request = Request(method="DELETE", url=self._url, patience=_CANCEL)
        with contextlib.suppress(RegistryError):
            self._session.request(request, "upload", range(600), is_repeatable=False)


def _named(reference: str) -> str:
    return f"manifest {reference}"


def _stated_digest(answer: Answer) -> Digest | None:
    """Return the digest that an answer names, None if it has none or one of another algorithm."""
    text = answer.headers.get("Docker-Content-Digest", "")
    return Digest(text) if _DIGEST.fullmatch(text) else None

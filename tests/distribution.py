"""A registry in this process, on loopback: the OCI Distribution Specification, with logins, and
with whatever a registry may do wrong.

    with distribution.running(tokens=True) as registry:
        ... f"{registry.address}/team/app:v1" ...
        registry.repository("team/app").tags["v1"]

Must not know the package.
"""

import base64
import hashlib
import itertools
import json
import re
import socket
import ssl
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO
from urllib.parse import parse_qs, unquote, urlsplit

USER, PASSWORD, IDENTITY = "maria", "s3cret-pass", "identity-0123456789"  # of the one who may push
_PATIENCE = 20.0  # seconds; no client of a test is silent for longer
_NAME = "(?P<name>[a-z0-9]+(?:[._/-]+[a-z0-9]+)*)"
_ROUTES = [
    (re.compile(rf"/v2/{_NAME}/blobs/uploads/"), "uploads"),
    (re.compile(rf"/v2/{_NAME}/blobs/uploads/(?P<upload>[^/]+)"), "upload"),
    (re.compile(rf"/v2/{_NAME}/blobs/(?P<digest>sha256:[0-9a-f]{{64}})"), "blob"),
    (re.compile(rf"/v2/{_NAME}/manifests/(?P<reference>[^/]+)"), "manifest"),
    (re.compile(rf"/v2/{_NAME}/tags/list"), "tags"),
    (re.compile(rf"/v2/{_NAME}/referrers/(?P<digest>[^/]+)"), "referrers"),
]
_INDEX = "application/vnd.oci.image.index.v1+json"


def digest_of(data: bytes) -> str:
    """Return the digest of a blob or manifest."""
    return f"sha256:{hashlib.sha256(data).hexdigest()}"


@dataclass(kw_only=True)
class Request:
    """A request. `body` is what has been read of its body; names of headers are in lower case."""

    number: int
    method: str
    target: str
    headers: dict[str, str]
    body: bytes = b""
    status: int | None = None  # of the answer, once that was sent

    @property
    def path(self) -> str:
        """Return the target without its query."""
        return unquote(urlsplit(self.target).path)

    @property
    def query(self) -> dict[str, list[str]]:
        """Return the parameters of the target."""
        return parse_qs(urlsplit(self.target).query, keep_blank_values=True)


@dataclass(kw_only=True)
class Answer:
    """An answer. `raw` is sent in place of everything else; then, and with `closes`, the
    connection is closed.
    """

    status: int = 200
    headers: dict[str, str] = field(default_factory=dict)
    body: bytes = b""
    raw: bytes | None = None
    closes: bool = False


@dataclass(kw_only=True)
class Fault:
    """What goes wrong with a request: with the one of this `number`, counted from 0 over all, or
    with the first `times` of a `method` whose target has a match of the expression `path`.

    With `status`, that is the answer, before the body is read. With `cut`, the connection is
    closed after so many bytes of the body. With `loses_answer`, the request takes effect, and the
    connection is closed. With `cut_answer`, it is closed after so many bytes of the answer.
    """

    number: int | None = None
    method: str = ""
    path: str = ""
    times: int = 1
    status: int | None = None
    headers: dict[str, str] = field(default_factory=dict)
    body: bytes = b""
    cut: int | None = None
    loses_answer: bool = False
    cut_answer: int | None = None

    def meets(self, request: Request) -> bool:
        """Return whether it is the turn of `request`."""
        if self.number is not None:
            return self.number == request.number
        fits = self.method in ("", request.method) and re.search(self.path, request.target)
        return self.times > 0 and bool(fits)


@dataclass(kw_only=True)
class Repository:
    """The content of a repository: blobs and manifests by digest, a manifest with its media type;
    tags; uploads that have begun, each with what has come.
    """

    blobs: dict[str, bytes] = field(default_factory=dict)
    manifests: dict[str, tuple[str, bytes]] = field(default_factory=dict)
    tags: dict[str, str] = field(default_factory=dict)
    uploads: dict[str, bytearray] = field(default_factory=dict)


@dataclass(kw_only=True)
class Registry:
    """A running registry. Its switches and faults may be changed while it runs.

    `script` is asked about each request before its body is read: None lets the registry answer.
    """

    address: str = ""
    scheme: str = "http"
    basic: bool = False  # asks for USER and PASSWORD
    tokens: bool = False  # asks for a token, which USER and IDENTITY may push with
    anonymous: bool = True  # tokens to pull are for everybody
    mounts: bool = True
    zstd: bool = True  # takes layers compressed so
    creates: bool = True  # a repository that is pushed to need not be there
    referrers: bool = False  # has that API
    faults: list[Fault] = field(default_factory=list)
    script: Callable[[Request, "Connection"], Answer | None] | None = None
    requests: list[Request] = field(default_factory=list)
    repositories: dict[str, Repository] = field(default_factory=dict)
    issued: dict[str, set[str]] = field(default_factory=dict)  # tokens and what each is good for
    lock: threading.RLock = field(default_factory=threading.RLock)

    def repository(self, name: str) -> Repository:
        """Return a repository, which is made if it is not there."""
        return self.repositories.setdefault(name, Repository())

    @property
    def log(self) -> list[str]:
        """Return the methods and paths of all requests."""
        return [f"{request.method} {request.path}" for request in self.requests]

    def credentials(self, user: str = USER, password: str = PASSWORD) -> dict[str, Any]:
        """Return the content of a file of credentials, as podman and docker write it."""
        login = base64.b64encode(f"{user}:{password}".encode()).decode()
        return {"auths": {self.address: {"auth": login}}}

    def answer(self, request: Request, read: Callable[[], bytes]) -> Answer:
        """Return the answer to a request. `read` returns its body."""
        path = request.path
        if path == "/token":
            request.body = read()
            return self._token(request)
        if refused := self._refusal(request):
            return refused
        if path in ("/v2", "/v2/"):
            return Answer(headers={"Docker-Distribution-API-Version": "registry/2.0"})
        found = ((route.fullmatch(path), name) for route, name in _ROUTES)
        match, name = next(((match, name) for match, name in found if match), (None, ""))
        function: Callable[..., Answer] | None = getattr(
            self, f"_{request.method.lower()}_{name}", None
        )
        if match is None or function is None:
            return _error(405 if match else 404, "UNSUPPORTED", "no such operation")
        names = match.groupdict()
        creates = self.creates and request.method in ("POST", "PUT")
        if names["name"] not in self.repositories and not creates:
            is_manifest = name == "manifest" and self.creates
            return _error(404, "MANIFEST_UNKNOWN" if is_manifest else "NAME_UNKNOWN", "not known")
        # The bytes of a layer come while others are answered.
        request.body = read()
        with self.lock:
            return function(request, **names)

    # Logins

    def _refusal(self, request: Request) -> Answer | None:
        given = request.headers.get("authorization", "")
        if self.basic:
            login = base64.b64encode(f"{USER}:{PASSWORD}".encode()).decode()
            if given == f"Basic {login}":
                return None
            return _error(
                401,
                "UNAUTHORIZED",
                "authentication required",
                {"WWW-Authenticate": 'Basic realm="r"'},
            )
        if not self.tokens:
            return None
        found = re.match(rf"/v2/{_NAME}/(?:blobs|manifests|tags|referrers)/", request.path)
        action = "pull" if request.method in ("GET", "HEAD") else "push"
        needed = f"repository:{found['name']}:{action}" if found else ""
        granted = self.issued.get(given.removeprefix("Bearer "))
        if granted is not None and (not needed or needed in granted):
            return None
        realm = f'Bearer realm="{self.scheme}://{self.address}/token",service="registry"'
        scope = f',scope="{needed}"' if needed else ""
        return _error(
            401, "UNAUTHORIZED", "authentication required", {"WWW-Authenticate": realm + scope}
        )

    def _may_pull(self, request: Request, name: str) -> bool:
        token = request.headers.get("authorization", "").removeprefix("Bearer ")
        return not self.tokens or f"repository:{name}:pull" in self.issued[token]

    def _token(self, request: Request) -> Answer:
        asked = request.query
        is_known = False
        if request.method == "POST":
            asked = parse_qs(request.body.decode())
            is_known = asked.get("refresh_token") == [IDENTITY]
            if not is_known:
                return _error(401, "UNAUTHORIZED", "unknown identity token")
        elif given := request.headers.get("authorization"):
            login = base64.b64decode(given.removeprefix("Basic ")).decode()
            is_known = login == f"{USER}:{PASSWORD}"
            if not is_known:
                return Answer(status=401, body=b'{"details":"incorrect username or password"}')
        scopes = " ".join(asked.get("scope", [])).split()
        granted = set()
        for scope in scopes:
            kind, _, rest = scope.partition(":")
            name, _, actions = rest.rpartition(":")
            for action in actions.split(","):
                if is_known or (action == "pull" and self.anonymous):
                    granted.add(f"{kind}:{name}:{action}")
        with self.lock:
            token = (
                f"token-{len(self.issued)}-{hashlib.sha256(request.target.encode()).hexdigest()}"
            )
            self.issued[token] = granted
        return Answer(body=json.dumps({"token": token, "expires_in": 300}).encode())

    # Blobs

    def _post_uploads(self, request: Request, name: str) -> Answer:
        repository = self.repository(name)
        query = request.query
        if "digest" in query:
            return self._store(name, query["digest"][0], request.body)
        if "mount" in query and self.mounts:
            digest = query["mount"][0]
            names = [one for one in query.get("from", []) if self._may_pull(request, one)]
            sources = [self.repositories.get(one) for one in names]
            for source in (one for one in sources if one is not None):
                if digest in source.blobs:
                    return self._store(name, digest, source.blobs[digest])
        upload = f"u{next(_COUNTER)}"
        repository.uploads[upload] = bytearray()
        return Answer(status=202, headers=_session(name, upload, 0))

    def _get_upload(self, request: Request, name: str, upload: str) -> Answer:
        begun = self.repository(name).uploads.get(upload)
        if begun is None:
            return _UNKNOWN_UPLOAD
        return Answer(status=204, headers=_session(name, upload, len(begun)))

    def _patch_upload(self, request: Request, name: str, upload: str) -> Answer:
        begun = self.repository(name).uploads.get(upload)
        if begun is None:
            return _UNKNOWN_UPLOAD
        span = re.fullmatch(r"(\d+)-(\d+)", request.headers.get("content-range", ""))
        if span and int(span[1]) != len(begun):
            return Answer(status=416, headers=_session(name, upload, len(begun)))
        begun += request.body
        return Answer(status=202, headers=_session(name, upload, len(begun)))

    def _put_upload(self, request: Request, name: str, upload: str) -> Answer:
        repository = self.repository(name)
        begun = repository.uploads.get(upload)
        if begun is None:
            return _UNKNOWN_UPLOAD
        span = re.fullmatch(r"(\d+)-(\d+)", request.headers.get("content-range", ""))
        if span and int(span[1]) != len(begun):
            return Answer(status=416, headers=_session(name, upload, len(begun)))
        answer = self._store(
            name, request.query.get("digest", [""])[0], bytes(begun) + request.body
        )
        if answer.status == 201:
            del repository.uploads[upload]
        return answer

    def _delete_upload(self, request: Request, name: str, upload: str) -> Answer:
        begun = self.repository(name).uploads.pop(upload, None)
        return _UNKNOWN_UPLOAD if begun is None else Answer(status=204)

    def _store(self, name: str, digest: str, data: bytes) -> Answer:
        if digest_of(data) != digest:
            return _error(400, "DIGEST_INVALID", "provided digest did not match uploaded content")
        self.repository(name).blobs[digest] = data
        place = {"Location": f"/v2/{name}/blobs/{digest}", "Docker-Content-Digest": digest}
        return Answer(status=201, headers=place)

    def _get_blob(self, request: Request, name: str, digest: str) -> Answer:
        data = self.repository(name).blobs.get(digest)
        if data is None:
            return _error(404, "BLOB_UNKNOWN", "blob unknown to registry")
        headers = {"Docker-Content-Digest": digest, "Content-Type": "application/octet-stream"}
        span = re.fullmatch(r"bytes=(\d*)-(\d*)", request.headers.get("range", ""))
        if span is None or span[0] == "bytes=-":
            return Answer(headers=headers | {"Accept-Ranges": "bytes"}, body=data)
        start = int(span[1]) if span[1] else max(0, len(data) - int(span[2]))
        end = min(int(span[2]), len(data) - 1) if span[1] and span[2] else len(data) - 1
        if start > end:
            return Answer(status=416, headers={"Content-Range": f"bytes */{len(data)}"})
        place = {"Content-Range": f"bytes {start}-{end}/{len(data)}"}
        return Answer(status=206, headers=headers | place, body=data[start : end + 1])

    _head_blob = _get_blob

    def _delete_blob(self, request: Request, name: str, digest: str) -> Answer:
        found = self.repository(name).blobs.pop(digest, None)
        if found is None:
            return _error(404, "BLOB_UNKNOWN", "blob unknown to registry")
        return Answer(status=202)

    # Manifests

    def _get_manifest(self, request: Request, name: str, reference: str) -> Answer:
        repository = self.repository(name)
        digest = repository.tags.get(reference, reference)
        found = repository.manifests.get(digest)
        if found is None:
            return _error(404, "MANIFEST_UNKNOWN", "manifest unknown")
        kind, data = found
        return Answer(headers={"Content-Type": kind, "Docker-Content-Digest": digest}, body=data)

    _head_manifest = _get_manifest

    def _put_manifest(self, request: Request, name: str, reference: str) -> Answer:
        repository = self.repository(name)
        digest = digest_of(request.body)
        if ":" in reference and reference != digest:
            return _error(400, "DIGEST_INVALID", "provided digest did not match uploaded content")
        try:
            document = json.loads(request.body)
            blobs = [document["config"], *document["layers"]] if "layers" in document else []
            named = [one["digest"] for one in blobs if not one.get("urls")]
            children = [one["digest"] for one in document.get("manifests", [])]
            types = [str(one.get("mediaType", "")) for one in blobs]
        except (ValueError, KeyError, TypeError):
            return _error(400, "MANIFEST_INVALID", "manifest invalid")
        missing = [one for one in named if one not in repository.blobs]
        missing += [one for one in children if one not in repository.manifests]
        if missing:
            return _error(404, "MANIFEST_BLOB_UNKNOWN", f"blob unknown to registry: {missing[0]}")
        if not self.zstd and any("zstd" in kind for kind in types):
            return _error(400, "MANIFEST_INVALID", "unsupported media type of a layer")
        kind = request.headers.get("content-type", "")
        repository.manifests[digest] = (kind, request.body)
        if ":" not in reference:
            repository.tags[reference] = digest
        headers = {"Location": f"/v2/{name}/manifests/{digest}", "Docker-Content-Digest": digest}
        if self.referrers and "subject" in document:
            headers["OCI-Subject"] = document["subject"]["digest"]
        return Answer(status=201, headers=headers)

    def _delete_manifest(self, request: Request, name: str, reference: str) -> Answer:
        repository = self.repository(name)
        if reference in repository.tags:
            del repository.tags[reference]
            return Answer(status=202)
        if repository.manifests.pop(reference, None) is None:
            return _error(404, "MANIFEST_UNKNOWN", "manifest unknown")
        repository.tags = {tag: one for tag, one in repository.tags.items() if one != reference}
        return Answer(status=202)

    # Discovery

    def _get_tags(self, request: Request, name: str) -> Answer:
        tags = sorted(self.repository(name).tags)
        query = request.query
        if "last" in query:
            tags = [tag for tag in tags if tag > query["last"][0]]
        headers = {"Content-Type": "application/json"}
        if "n" in query:
            count = int(query["n"][0])
            if 0 < count < len(tags):
                link = f"/v2/{name}/tags/list?n={count}&last={tags[count - 1]}"
                headers["Link"] = f'<{link}>; rel="next"'
            tags = tags[:count]
        return Answer(headers=headers, body=json.dumps({"name": name, "tags": tags}).encode())

    def _get_referrers(self, request: Request, name: str, digest: str) -> Answer:
        if not self.referrers:
            return _error(404, "UNSUPPORTED", "page not found")
        found = []
        for own, (kind, data) in self.repository(name).manifests.items():
            document = json.loads(data)
            if document.get("subject", {}).get("digest") == digest:
                artifact = document.get("artifactType") or document["config"]["mediaType"]
                item = {"mediaType": kind, "digest": own, "size": len(data)}
                found.append(item | {"artifactType": artifact})
        headers = {"Content-Type": _INDEX}
        if only := request.query.get("artifactType"):
            found = [item for item in found if item["artifactType"] == only[0]]
            headers["OCI-Filters-Applied"] = "artifactType"
        index = {"schemaVersion": 2, "mediaType": _INDEX, "manifests": found}
        return Answer(headers=headers, body=json.dumps(index).encode())


_COUNTER = itertools.count()


def _session(name: str, upload: str, size: int) -> dict[str, str]:
    place = f"/v2/{name}/blobs/uploads/{upload}?_state=signed%2Bstate"
    return {"Location": place, "Range": f"0-{max(0, size - 1)}", "Docker-Upload-UUID": upload}


def _error(status: int, code: str, message: str, headers: dict[str, str] | None = None) -> Answer:
    body = json.dumps({"errors": [{"code": code, "message": message}]}).encode()
    return Answer(
        status=status, headers={"Content-Type": "application/json"} | (headers or {}), body=body
    )


_UNKNOWN_UPLOAD = _error(404, "BLOB_UPLOAD_UNKNOWN", "blob upload unknown to registry")


class _Cut(Exception):
    """The connection ends here."""


class Connection:
    """One connection, with the registry at this end."""

    def __init__(self, registry: Registry, sock: socket.socket) -> None:
        self.registry = registry
        self.sock = sock
        self.file: BinaryIO = sock.makefile("rb")

    def serve(self) -> None:
        """Answer requests until one side has enough."""
        with self.file, suppress(OSError, ValueError, _Cut):
            while self._serve_one():
                pass

    def read(self, size: int) -> bytes:
        """Return `size` bytes of what comes."""
        data = self.file.read(size)
        if len(data) < size:
            raise _Cut
        return data

    def _serve_one(self) -> bool:
        line = self.file.readline(65536).split()
        if len(line) != 3:
            return False
        headers: dict[str, str] = {}
        while (field_line := self.file.readline(65536)) not in (b"\r\n", b""):
            name, _, value = field_line.decode("latin-1").partition(":")
            headers[name.lower()] = value.strip()
        registry = self.registry
        method, target = line[0].decode(), line[1].decode()
        with registry.lock:
            number = len(registry.requests)
            request = Request(number=number, method=method, target=target, headers=headers)
            registry.requests.append(request)
            fault = next((one for one in registry.faults if one.meets(request)), None)
            if fault is not None:
                fault.times -= 1
        answer = registry.script(request, self) if registry.script is not None else None
        if answer is None and fault is not None and fault.status is not None:
            answer = Answer(status=fault.status, headers=fault.headers, body=fault.body)
        if answer is None:
            cut = fault.cut if fault is not None else None
            if cut is not None and not self._has_body(headers):
                return False
            answer = registry.answer(request, lambda: self._body(headers, cut))
        if fault is not None and fault.loses_answer:
            return False
        request.status = answer.status
        keeps = bool(request.body) or not self._has_body(headers)
        self._send(request, answer, fault.cut_answer if fault is not None else None)
        if not keeps:  # what is left of the body would be taken for a request
            with suppress(OSError):
                self.sock.shutdown(socket.SHUT_WR)
                while self.file.read(65536):
                    pass
        return keeps and not answer.closes and answer.raw is None

    def read_body(self, request: Request) -> bytes:
        """Read the body of a request, for a script."""
        return self._body(request.headers)

    def _has_body(self, headers: dict[str, str]) -> bool:
        return headers.get("content-length", "0") != "0" or "transfer-encoding" in headers

    def _body(self, headers: dict[str, str], cut: int | None = None) -> bytes:
        """Read a body, or the first `cut` bytes of it, after which the connection ends."""
        if headers.get("expect"):
            self.sock.sendall(b"HTTP/1.1 100 Continue\r\n\r\n")
        body = bytearray()
        if "transfer-encoding" not in headers:
            size = int(headers.get("content-length", "0"))
            if cut is None:
                return self.read(size)
            self.read(min(cut, size))
            raise _Cut
        while size := int(self.file.readline(100), 16):
            body += self.read(size if cut is None else min(size, cut - len(body)))
            if cut is not None and len(body) >= cut:
                raise _Cut
            self.read(2)
        self.read(2)
        return bytes(body)

    def _send(self, request: Request, answer: Answer, cut: int | None) -> None:
        if answer.raw is not None:
            self.sock.sendall(answer.raw)
            return
        lines = [f"HTTP/1.1 {answer.status} Status"]
        lines += [f"{name}: {value}" for name, value in answer.headers.items()]
        if answer.status != 204 and "Content-Length" not in answer.headers:
            lines.append(f"Content-Length: {len(answer.body)}")
        if answer.closes:
            lines.append("Connection: close")
        data = "\r\n".join([*lines, "", ""]).encode("latin-1")
        if request.method != "HEAD" and answer.status != 204:
            data += answer.body
        self.sock.sendall(data if cut is None else data[:cut])
        if cut is not None:
            raise _Cut


class _Server:
    def __init__(self, registry: Registry, context: ssl.SSLContext | None, host: str) -> None:
        self._registry = registry
        self._context = context
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        self._listening = socket.create_server((host, 0), family=family, backlog=64)
        port = self._listening.getsockname()[1]
        registry.address = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
        self._open: set[socket.socket] = set()
        self._threads = [threading.Thread(target=self._accept, daemon=True)]
        self._threads[0].start()

    def _accept(self) -> None:
        while True:
            try:
                sock, _ = self._listening.accept()
            except OSError:
                return
            thread = threading.Thread(target=self._serve, args=[sock], daemon=True)
            self._threads.append(thread)
            thread.start()

    def _serve(self, sock: socket.socket) -> None:
        sock.settimeout(_PATIENCE)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._open.add(sock)
        try:
            is_tls = sock.recv(1, socket.MSG_PEEK) == b"\x16"
            if is_tls != (self._context is not None):
                # As Go's servers answer one who speaks the other protocol.
                sock.sendall(b"HTTP/1.0 400 Bad Request\r\n\r\nwrong protocol\n")
                return
            if self._context is not None:
                self._open.discard(sock)
                sock = self._context.wrap_socket(sock, server_side=True)
                self._open.add(sock)
            Connection(self._registry, sock).serve()
        except OSError:
            pass
        finally:
            self._open.discard(sock)
            with suppress(OSError):
                sock.shutdown(socket.SHUT_RDWR)
            sock.close()

    def close(self) -> None:
        with suppress(OSError):
            self._listening.shutdown(socket.SHUT_RDWR)
        self._listening.close()
        for sock in list(self._open):
            with suppress(OSError):
                sock.shutdown(socket.SHUT_RDWR)
        for thread in self._threads:
            thread.join(5)


@contextmanager
def running(
    *,
    certificate: Path | None = None,
    knows_clients: bool = False,
    host: str = "127.0.0.1",
    **switches: Any,
) -> Iterator[Registry]:
    """Run an empty registry with `switches`, attributes of Registry. One with a certificate, as
    registries.make_certificate makes it, speaks HTTPS; then, one that knows its clients wants the
    same certificate of them.
    """
    registry = Registry(**switches)
    context = None
    if certificate is not None:
        registry.scheme = "https"
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(certificate, certificate.with_name("key.pem"))
        if knows_clients:
            context.verify_mode = ssl.CERT_REQUIRED
            context.load_verify_locations(certificate)
    server = _Server(registry, context, host)
    try:
        yield registry
    finally:
        server.close()

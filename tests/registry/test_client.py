"""The client of registries: what it sends, what it makes of each registry's own ways, and when it
tries again.
"""

import contextlib
import json
import socket
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import distribution
import pytest
from consumers.requirements import require
from distribution import IDENTITY, USER, Answer, Connection, Fault, Registry, Request
from distribution import digest_of as _digest_of
from registries import LOGIN, make_certificate, started

from registry.conftest import Opened
from stream.errors import DigestMismatch, RegistryError, SizeMismatch
from stream.model import Digest
from stream.oci.reference import Location
from stream.registry import transport
from stream.registry.client import Repository
from stream.registry.transport import Request as Sent
from stream.registry.transport import Transport
from stream.registry.trust import Access, Origin

IMAGE = "application/vnd.oci.image.manifest.v1+json"
LAYER = bytes(range(256)) * 4000
ABSENT = Digest("sha256:" + "0" * 64)
CERTS = "containers/certs.d"
ANY_CERTIFICATE = Access(tls_verify=False)


def digest_of(data: bytes) -> Digest:
    """Return the digest of a blob."""
    return Digest(_digest_of(data))


def upload(repository: Repository, data: bytes = LAYER, *, is_sized: bool = True) -> Digest:
    """Upload a blob as a push does."""
    begun = repository.begin_upload()
    pieces = (data[start : start + 100_000] for start in range(0, len(data), 100_000))
    begun.send(pieces, len(data) if is_sized else None)
    begun.commit(digest_of(data))
    return digest_of(data)


def manifest(*layers: Digest) -> bytes:
    """Return the manifest of an image whose config is `{}`."""
    document = {
        "schemaVersion": 2,
        "mediaType": IMAGE,
        "config": {"mediaType": "a/b", "digest": digest_of(b"{}"), "size": 2},
        "layers": [{"mediaType": "a/b", "digest": layer, "size": 1} for layer in layers],
    }
    return json.dumps(document).encode()


def check_push(repository: Repository) -> None:
    """Push an image, and look at what is there."""
    assert repository.manifest("v1") is None
    layer = upload(repository)
    upload(repository, b"{}", is_sized=False)
    data = manifest(layer)
    repository.put_manifest(data, IMAGE, digest_of(data))
    repository.put_manifest(data, IMAGE, "v1")
    found = repository.manifest("v1")
    assert found is not None
    assert (found.data, found.media_type, found.digest) == (data, IMAGE, digest_of(data))
    assert repository.manifest(digest_of(data)) == found
    assert repository.has_manifest("v1") == digest_of(data)
    assert repository.has_manifest("v2") is None
    assert repository.has_manifest(ABSENT) is None
    assert repository.has_blob(layer, len(LAYER))
    assert not repository.has_blob(layer, 1)
    assert not repository.has_blob(ABSENT)


def refused(call: Callable[[], Any], *words: str) -> RegistryError:
    """Check that a call fails with one line, and return the error."""
    with pytest.raises(RegistryError) as caught:
        call()
    message = str(caught.value)
    assert "\n" not in message
    for word in words:
        assert word in message, message
    return caught.value


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Make a certificate, which signs itself."""
    return make_certificate(tmp_path_factory.mktemp("certificate"))


# What is sent


def test_push(registry: Registry, repository: Repository) -> None:
    """The whole protocol, in as few requests as it takes."""
    check_push(repository)
    assert registry.repository("team/app").blobs[digest_of(LAYER)] == LAYER
    assert registry.log[:5] == [
        "GET /v2/",
        "GET /v2/team/app/manifests/v1",
        "POST /v2/team/app/blobs/uploads/",
        registry.log[3],
        registry.log[4],
    ]
    patches = [request for request in registry.requests if request.method == "PATCH"]
    assert patches[0].headers["content-length"] == str(len(LAYER))
    assert patches[1].headers["transfer-encoding"] == "chunked"
    assert "content-length" not in patches[1].headers


def test_one_patch_without_ranges(registry: Registry, repository: Repository) -> None:
    """Google refuses ranges, GitHub large ones, and Amazon drops all patches but the first."""
    upload(repository)
    methods = [request.method for request in registry.requests]
    assert methods == ["GET", "POST", "PATCH", "PUT"]
    assert not any("content-range" in request.headers for request in registry.requests)
    assert registry.requests[-1].headers["content-length"] == "0"
    assert registry.requests[-1].query["_state"] == ["signed+state"]


@pytest.mark.parametrize(("status", "final"), [(201, 201), (202, 204), (204, 200), (202, 202)])
def test_statuses_of_success(
    registry: Registry, repository: Repository, status: int, final: int
) -> None:
    """ECR answers a PATCH with 201; others end an upload in ways of their own."""

    def script(request: Request, _connection: Connection) -> Answer | None:
        if request.method in ("PATCH", "PUT"):
            answer = registry.answer(request, lambda: _connection.read_body(request))
            assert answer.status in (201, 202)
            answer.status = status if request.method == "PATCH" else final
            return answer
        return None

    registry.script = script
    assert upload(repository, b"x") in registry.repository("team/app").blobs


@pytest.mark.parametrize("form", ["absolute", "relative to the request", "no query"])
def test_location(registry: Registry, repository: Repository, form: str) -> None:
    """A Location comes in any form that a URL has; its query is part of it."""

    def script(request: Request, _connection: Connection) -> Answer | None:
        if request.method != "POST":
            return None
        answer = registry.answer(request, lambda: b"")
        place = answer.headers["Location"]
        answer.headers["Location"] = {
            "absolute": f"http://{registry.address}{place}",
            "relative to the request": place.rpartition("/uploads/")[2],
            "no query": place.partition("?")[0],
        }[form]
        return answer

    registry.script = script
    digest = upload(repository, b"x")
    assert digest in registry.repository("team/app").blobs
    patch = next(request for request in registry.requests if request.method == "PATCH")
    assert patch.query == ({} if form == "no query" else {"_state": ["signed+state"]})


def test_upload_to_another_host(
    registry: Registry, opened: Opened, log_in: Callable[[dict[str, Any]], Path]
) -> None:
    """The registry may store elsewhere; whoever that is must not be told the login."""
    registry.basic = True
    log_in(registry.credentials())
    with distribution.running() as elsewhere:
        elsewhere.repository("team/app").uploads["u"] = bytearray()
        place = f"http://{elsewhere.address}/v2/team/app/blobs/uploads/u?signature=s3cr3t"

        def script(request: Request, _connection: Connection) -> Answer | None:
            if request.method == "POST":
                return Answer(status=202, headers={"Location": place})
            return None

        registry.script = script
        upload(opened(), b"x")
        assert digest_of(b"x") in elsewhere.repository("team/app").blobs
        assert not any("authorization" in request.headers for request in elsewhere.requests)
        assert "authorization" in registry.requests[-1].headers
        assert elsewhere.requests[0].query["signature"] == ["s3cr3t"]


def test_cancelled_upload(registry: Registry, repository: Repository) -> None:
    """A session that is left open takes room in the registry for a week."""
    begun = repository.begin_upload()
    begun.send(iter([b"half"]), 4)
    begun.cancel()
    assert registry.repository("team/app").uploads == {}
    begun.cancel()  # whatever the registry says to that


def test_mount(registry: Registry, opened: Opened) -> None:
    """A blob of another repository costs a request, not its bytes."""
    repository = opened(pull_from=["team/base"])
    layer = upload(opened("team/base"))
    assert repository.mount(layer, "team/base") is None
    assert registry.repository("team/app").blobs == {layer: LAYER}
    begun = repository.mount(ABSENT, "team/base")
    assert begun is not None
    begun.send([b"x"])
    begun.commit(digest_of(b"x"))


def test_mount_from_where_nobody_foresaw(
    registry: Registry, opened: Opened, log_in: Callable[[dict[str, Any]], Path]
) -> None:
    """Without a token for that repository too, a registry begins an upload: all is sent again."""
    registry.tokens, registry.anonymous = True, False
    log_in(registry.credentials())
    layer = upload(opened("team/base"))
    repository = opened()
    assert repository.manifest("v1") is None  # with a token for this repository alone
    assert repository.mount(layer, "team/base") is None
    assert repository.mount(layer, "team/base") is None
    tokens = [request for request in registry.requests if request.path == "/token"]
    assert len(tokens) == 3


def test_token_refused_for_a_mount(
    registry: Registry, opened: Opened, log_in: Callable[[dict[str, Any]], Path]
) -> None:
    """Where the other repository is not for this user, the push goes on without it."""
    registry.tokens = True
    log_in(registry.credentials())
    registry.faults = [Fault(path="token.*secret", status=403, times=9)]
    repository = opened()
    begun = repository.mount(ABSENT, "secret/base")
    assert begun is not None
    begun.send([LAYER])
    begun.commit(digest_of(LAYER))
    assert registry.repository("team/app").blobs == {digest_of(LAYER): LAYER}


@pytest.mark.parametrize("status", [400, 403, 404, 405, 501])
def test_refused_mount(registry: Registry, opened: Opened, status: int) -> None:
    """Artifactory refuses to mount, and others each in their way: then the blob is sent."""
    registry.faults = [Fault(method="POST", path="mount=", status=status, times=4)]
    begun = opened().mount(ABSENT, "team/base")
    assert begun is not None
    begun.cancel()


def test_mount_that_was_none(registry: Registry, repository: Repository) -> None:
    """A registry that only says so would leave the image without a layer."""
    registry.faults = [Fault(method="POST", path="mount=", status=201)]
    assert repository.mount(ABSENT, "team/base") is not None


@pytest.mark.parametrize(
    ("name", "domain", "path", "host"),
    [
        ("alpine", "docker.io", "library/alpine", "registry-1.docker.io"),
        ("team/app", "docker.io", "team/app", "registry-1.docker.io"),
        ("ghcr.io/team/app", "ghcr.io", "team/app", "ghcr.io"),
        ("[::1]:5000/app", "[::1]:5000", "app", "::1"),
    ],
)
def test_names(name: str, domain: str, path: str, host: str) -> None:
    """Docker's short names would go to a host that does not exist."""
    repository = Repository(Location.parse(name))
    assert (repository.domain, repository.path) == (domain, path)
    assert Origin.of_registry(repository.domain, "https").host == host


def test_ipv6(opened: Opened) -> None:
    """An address with colons is a host like any other."""
    with distribution.running(host="::1") as registry:
        repository = opened(address=registry.address)
        check_push(repository)


# What fails


def test_read_only_registry(opened: Opened) -> None:
    """Whoever pushes to a mirror, or during maintenance, would be told a bare number."""
    with distribution.running() as registry:
        registry.script = lambda request, _: (
            Answer(status=405) if request.method == "POST" else None
        )
        repository = opened(address=registry.address)
        refused(repository.begin_upload, "POST upload: 405; it may be read-only")


@pytest.mark.parametrize("is_tls", [False, True])
@pytest.mark.parametrize("listens", [False, True])
def test_early_refusal(opened: Opened, certificate: Path, *, is_tls: bool, listens: bool) -> None:
    """A registry that says why, and hangs up while we send, must not be reported as a broken pipe."""
    body = b'{"errors":[{"code":"SIZE","message":"too big"}]}'

    def script(request: Request, connection: Connection) -> Answer | None:
        if request.method != "PATCH":
            return None
        if listens:
            return Answer(status=413, body=body, closes=True)
        connection.sock.sendall(b"HTTP/1.1 413 Large\r\nContent-Length: 48\r\n\r\n" + body)
        raise ConnectionError  # what is still on its way is answered with a reset

    with distribution.running(certificate=certificate if is_tls else None) as registry:
        registry.script = script
        begun = opened(access=ANY_CERTIFICATE, address=registry.address).begin_upload()
        sent = 0

        def pieces() -> Iterator[bytes]:
            nonlocal sent
            for _ in range(100):
                sent += 1
                yield bytes(1 << 20)

        error = refused(lambda: begun.send(pieces(), 100 << 20), "413 SIZE: too big", "larger than")
        assert (error.status, error.code, error.is_passing) == (413, "SIZE", False)
        assert sent < 50 or (is_tls and listens)


@pytest.mark.parametrize("is_tls", [False, True])
def test_refusal_of_one_who_does_not_listen(
    opened: Opened,
    slept: list[float],
    certificate: Path,
    monkeypatch: pytest.MonkeyPatch,
    *,
    is_tls: bool,
) -> None:
    """A registry may answer, keep the connection open, and read nothing more."""
    end = threading.Event()
    if is_tls:  # where bytes that come need not be an answer
        monkeypatch.setattr(transport, "_STALLED", 0.2)

    def script(request: Request, connection: Connection) -> Answer | None:
        if request.method != "PATCH":
            return None
        connection.sock.sendall(b"HTTP/1.1 400 Bad\r\nContent-Length: 0\r\n\r\n")
        end.wait(20)
        return Answer(raw=b"")

    with distribution.running(certificate=certificate if is_tls else None) as registry:
        registry.script = script
        repository = opened(access=ANY_CERTIFICATE, address=registry.address)
        begun = repository.begin_upload()
        error = refused(lambda: begun.send((bytes(1 << 20) for _ in range(1000)), None), "400")
        assert error.status == 400
        # The rest of the body is not sent: this connection is of no more use.
        assert repository.has_blob(ABSENT) is False
        assert slept == []
        end.set()


def test_lost_layer(registry: Registry, repository: Repository) -> None:
    """Its bytes are not here any more: who made them is told that another try may succeed."""
    registry.faults = [Fault(method="PATCH", cut=300_000)]
    begun = repository.begin_upload()
    error = refused(lambda: begun.send([LAYER], len(LAYER)), "PATCH upload")
    assert (error.status, error.is_passing) == (None, True)
    assert len([one for one in registry.requests if one.method == "PATCH"]) == 1


@pytest.mark.parametrize("size", [None, 200_000])
def test_source_that_fails(registry: Registry, repository: Repository, size: int | None) -> None:
    """A file that changed must not end in a blob: the request stays incomplete."""

    def pieces() -> Iterator[bytes]:
        yield bytes(100_000)
        raise OSError(5, "it changed")

    begun = repository.begin_upload()
    with pytest.raises(OSError, match="it changed") as caught:
        begun.send(pieces(), size)
    assert not isinstance(caught.value, RegistryError)
    begun.cancel()
    assert registry.repository("team/app").blobs == {}
    assert upload(repository, b"next") in registry.repository("team/app").blobs


@pytest.mark.parametrize("size", [3, 5])
def test_size_that_is_wrong(repository: Repository, size: int) -> None:
    """Bytes beyond the announced ones would be taken for the next request."""
    begun = repository.begin_upload()
    with pytest.raises(SizeMismatch):
        begun.send([b"ab", b"cd"], size)
    assert not repository.has_blob(digest_of(b"abcd"))


def test_repository_that_is_not_made(registry: Registry, repository: Repository) -> None:
    """ECR does not make it, and says only that it does not know the name."""
    registry.creates = False
    error = refused(repository.begin_upload, "NAME_UNKNOWN", "create the repository first")
    assert (error.status, error.code, error.is_passing) == (404, "NAME_UNKNOWN", False)


def test_absent_manifest_as_forbidden(registry: Registry, repository: Repository) -> None:
    """Artifactory answers 403 for a tag that is not there; a first push would end with that."""
    registry.faults = [Fault(path="manifests/", status=403, times=2)]
    assert repository.manifest("v1") is None
    assert repository.has_manifest("v1") is None


def test_manifest_without_digest_header(registry: Registry, repository: Repository) -> None:
    """A registry need not send Docker-Content-Digest."""

    def script(request: Request, _connection: Connection) -> Answer | None:
        if "/manifests/" not in request.path or request.method == "PUT":
            return None
        answer = registry.answer(request, lambda: b"")
        answer.headers.pop("Docker-Content-Digest", None)
        return answer

    registry.script = script
    check_push(repository)


def test_long_end_of_an_upload(repository: Repository, monkeypatch: pytest.MonkeyPatch) -> None:
    """Registries take minutes to finish a large blob; half a minute kills pushes."""
    patience = {}
    request = Transport.request

    def noting(self: Transport, sent: Sent, *args: Any, **more: Any) -> Any:
        patience[sent.method] = sent.patience
        return request(self, sent, *args, **more)

    monkeypatch.setattr(Transport, "request", noting)
    upload(repository, b"x")
    assert patience["PUT"] == 900
    assert patience["POST"] == 60


# What is tried again


@pytest.mark.parametrize("status", [408, 429, 499, 500, 503, 524])
def test_passing_statuses(
    registry: Registry, repository: Repository, slept: list[float], status: int
) -> None:
    """A registry in trouble for some seconds would end a push of an hour."""
    registry.faults = [Fault(method="HEAD", status=status, times=3)]
    assert not repository.has_blob(ABSENT)
    assert len(slept) == 3
    for seconds, delay in zip(slept, (1, 3, 9), strict=True):
        assert 0.75 * delay <= seconds <= 1.25 * delay


@pytest.mark.parametrize("number", range(5))
@pytest.mark.parametrize(
    "fault", [{"status": 503}, {"cut_answer": 4}, {"cut_answer": 12}, {"loses_answer": True}]
)
def test_any_request_that_fails_once(
    registry: Registry, opened: Opened, slept: list[float], number: int, fault: dict[str, Any]
) -> None:
    """Each request but that of a layer's bytes is sent again, and the blob is there at the end."""
    registry.faults = [Fault(number=number, **fault)]
    repository = opened()
    begun = repository.begin_upload()
    if number == 2:
        assert refused(lambda: begun.send([b"x"], 1)).is_passing
        begun = repository.begin_upload()
    begun.send([b"x"], 1)
    begun.commit(digest_of(b"x"))
    assert registry.repository("team/app").blobs == {digest_of(b"x"): b"x"}
    assert len(slept) <= 1


def test_it_ends(registry: Registry, repository: Repository, slept: list[float]) -> None:
    """A registry that stays broken is reported."""
    registry.faults = [Fault(method="POST", status=503, times=99)]
    error = refused(repository.begin_upload, "POST upload: 503")
    assert (error.status, error.is_passing, len(slept)) == (503, True, 3)


@pytest.mark.parametrize(
    ("value", "least", "most"),
    [
        ("7", 7, 7),
        ("0", 0.75, 1.25),
        ("60", 60, 60),
        ("Sun, 06 Nov 1994 08:49:37 GMT", 0.75, 1.25),
        ("soon", 0.75, 1.25),
        ("-5", 0.75, 1.25),
        ("Mon, 99 Foo 9999 99:99:99 GMT", 0.75, 1.25),
    ],
)
def test_retry_after(  # noqa: PLR0913, PLR0917
    registry: Registry,
    repository: Repository,
    slept: list[float],
    value: str,
    least: float,
    most: float,
) -> None:
    """Without it the registry would go on refusing."""
    registry.faults = [Fault(method="POST", status=429, headers={"Retry-After": value})]
    repository.begin_upload()
    (seconds,) = slept
    assert least <= seconds <= most


@pytest.mark.parametrize("value", ["61", "1" * 5000, "Fri, 31 Dec 2199 23:59:59 GMT"])
def test_long_retry_after(
    registry: Registry, repository: Repository, slept: list[float], value: str
) -> None:
    """Nobody waits for hours before a prompt: the push ends, and says how long it would be."""
    registry.faults = [Fault(method="POST", status=429, headers={"Retry-After": value})]
    error = refused(repository.begin_upload, "429")
    assert error.is_passing
    assert error.retry_after is not None
    assert error.retry_after > 60
    assert slept == []


@pytest.mark.parametrize("method", ["PATCH", "PUT"])
def test_upload_that_was_forgotten(registry: Registry, repository: Repository, method: str) -> None:
    """A registry that was restarted knows no uploads; the layer can be sent to it again."""
    begun = repository.begin_upload()
    if method == "PUT":
        begun.send([b"x"], 1)
    registry.repository("team/app").uploads.clear()

    def call() -> None:
        begun.send([b"x"], 1) if method == "PATCH" else begun.commit(digest_of(b"x"))

    error = refused(call, "404 BLOB_UPLOAD_UNKNOWN")
    assert error.is_passing


@pytest.mark.parametrize(
    ("body", "is_passing"),
    [
        (b'{"errors":[{"code":"TOOMANYREQUESTS","message":"slow down"}]}', True),
        (b'{"message":"You have exceeded a secondary rate limit."}', True),
        (b'{"errors":[{"code":"DENIED","message":"requested access is denied"}]}', False),
    ],
)
def test_rate_limit_as_forbidden(
    registry: Registry,
    repository: Repository,
    slept: list[float],
    *,
    body: bytes,
    is_passing: bool,
) -> None:
    """GitHub's secondary rate limit comes as 403, which is otherwise final."""
    registry.faults = [Fault(method="POST", status=403, body=body)]
    if is_passing:
        repository.begin_upload()
    else:
        error = refused(repository.begin_upload, "DENIED: requested access is denied")
        assert (error.code, error.is_passing) == ("DENIED", False)
    assert bool(slept) is is_passing


def test_rate_limit_of_a_layer(registry: Registry, repository: Repository) -> None:
    """Who makes the layer again has to know how long to wait."""
    registry.faults = [Fault(method="PATCH", status=429, headers={"Retry-After": "5"})]
    error = refused(lambda: repository.begin_upload().send([b"x"], 1), "429")
    assert (error.is_passing, error.retry_after) == (True, 5)


def test_nobody_there(opened: Opened, slept: list[float]) -> None:
    """A port that is misspelt is not worth waiting for."""
    error = refused(lambda: opened(address="127.0.0.1:1").has_blob(ABSENT), "Connection refused")
    assert (error.is_passing, slept) == (False, [])


# Logins


def test_basic(
    registry: Registry, repository: Repository, log_in: Callable[[dict[str, Any]], Path]
) -> None:
    """ECR has no token service: the password goes with each request."""
    registry.basic = True
    log_in(registry.credentials())
    check_push(repository)


def test_token(
    registry: Registry, opened: Opened, log_in: Callable[[dict[str, Any]], Path]
) -> None:
    """One token for all that a push does, and what it is for in the order that registries need."""
    registry.tokens = True
    log_in(registry.credentials())
    check_push(opened(pull_from=["team/base", "team/app", "team/other"]))
    (asked,) = (one for one in registry.requests if one.path == "/token")
    assert asked.query == {
        "account": [USER],
        "service": ["registry"],
        "scope": [
            "repository:team/app:pull,push",
            "repository:team/base:pull",
            "repository:team/other:pull",
        ],
    }
    assert registry.log[:2] == ["GET /v2/", "GET /token"]
    assert [one.status for one in registry.requests].count(401) == 1


def test_anonymous_token(registry: Registry, repository: Repository) -> None:
    """Public images are read without credentials, and a push without them says what is missing."""
    registry.tokens = True
    assert repository.manifest("v1") is None
    error = refused(repository.begin_upload, "401 UNAUTHORIZED", "no credentials were used")
    assert not error.is_passing


@pytest.mark.parametrize("has_post", [True, False])
def test_identity_token(
    registry: Registry,
    repository: Repository,
    log_in: Callable[[dict[str, Any]], Path],
    *,
    has_post: bool,
) -> None:
    """Azure's logins are identity tokens; where OAuth 2 is unknown, the older request is made."""
    registry.tokens = True
    log_in({"auths": {registry.address: {"auth": "", "identitytoken": IDENTITY}}})
    if not has_post:
        registry.faults = [Fault(method="POST", path="^/token", status=404)]
        refused(repository.begin_upload, "incorrect username or password", "config.json")
        assert registry.log[-2:] == ["POST /token", "GET /token"]
        return
    check_push(repository)
    (asked,) = (one for one in registry.requests if one.path == "/token")
    assert b"grant_type=refresh_token" in asked.body
    assert b"scope=repository%3Ateam%2Fapp%3Apull%2Cpush" in asked.body
    assert IDENTITY not in asked.target


@pytest.mark.parametrize(
    "document",
    [
        {"token": "abc"},
        {"access_token": "abc", "expires_in": 5},
        {"token": "abc", "expires_in": -1},
        {"token": "abc", "expires_in": "300"},
        {"token": "abc", "access_token": "xyz", "expires_in": 1e300},
    ],
)
def test_what_token_services_send(
    registry: Registry, repository: Repository, document: dict[str, Any]
) -> None:
    """A lifetime that is absent, or too short to be meant, counts as a minute."""
    registry.tokens = True
    registry.issued["abc"] = {"repository:team/app:push", "repository:team/app:pull"}

    def script(request: Request, _connection: Connection) -> Answer | None:
        return Answer(body=json.dumps(document).encode()) if request.path == "/token" else None

    registry.script = script
    upload(repository, b"x")
    assert registry.log.count("GET /token") == 1


@pytest.mark.parametrize("method", ["POST", "PUT", "PATCH"])
def test_token_that_ends(
    registry: Registry,
    repository: Repository,
    log_in: Callable[[dict[str, Any]], Path],
    method: str,
) -> None:
    """A push takes longer than a token lives. A layer's bytes cannot be sent again from here."""
    registry.tokens = True
    log_in(registry.credentials())
    upload(repository, b"first")

    def script(request: Request, _connection: Connection) -> Answer | None:
        if request.method == method:
            registry.issued.clear()
            registry.script = None
        return None

    registry.script = script
    if method == "PATCH":
        error = refused(lambda: upload(repository, b"second"), "401")
        assert error.is_passing
    upload(repository, b"second")
    assert registry.log.count("GET /token") == 2


def test_token_is_renewed_before_it_ends(
    registry: Registry,
    repository: Repository,
    log_in: Callable[[dict[str, Any]], Path],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The PUT after an hour of PATCH would be refused, and the layer sent in vain."""
    registry.tokens = True
    log_in(registry.credentials())
    begun = repository.begin_upload()
    now = time.monotonic()
    monkeypatch.setattr(time, "monotonic", lambda: now + 290)
    begun.send([b"x"], 1)
    begun.commit(digest_of(b"x"))
    assert registry.log.count("GET /token") == 2
    assert [one.status for one in registry.requests].count(401) == 1


def test_scope_that_is_named_later(
    registry: Registry, repository: Repository, log_in: Callable[[dict[str, Any]], Path]
) -> None:
    """A registry may want more than was asked for, and says so with 401; gcr's has no challenge."""
    registry.tokens = True
    log_in(registry.credentials())
    challenge = 'Bearer realm="https://elsewhere.example/",scope="repository:team/app:delete"'
    registry.faults = [
        Fault(method="HEAD", status=401, headers={"WWW-Authenticate": challenge}),
        Fault(method="POST", status=401),
    ]
    assert not repository.has_blob(ABSENT)
    repository.begin_upload()
    asked = [one.query["scope"] for one in registry.requests if one.path == "/token"]
    assert asked[0] == ["repository:team/app:pull,push"]
    assert asked[1] == asked[2] == [*asked[0], "repository:team/app:delete"]


def test_refused_login(
    registry: Registry, opened: Opened, log_in: Callable[[dict[str, Any]], Path]
) -> None:
    """A person with several files of credentials has to know which one was used."""
    registry.tokens = True
    path = log_in(registry.credentials(password="old"))
    error = refused(opened().begin_upload, "incorrect username or password", str(path))
    assert error.status == 401
    registry.basic, registry.tokens = True, False
    refused(opened().begin_upload, "401 UNAUTHORIZED", str(path))


def test_unknown_login(registry: Registry, repository: Repository) -> None:
    """A login that is not supported is named."""
    header = {"WWW-Authenticate": "Negotiate, NTLM realm=x"}
    registry.faults = [Fault(path="^/v2/$", status=401, headers=header)]
    refused(repository.begin_upload, "not supported: negotiate, ntlm")


# Threads


def test_eight_threads(
    registry: Registry, repository: Repository, log_in: Callable[[dict[str, Any]], Path]
) -> None:
    """Layers are sent at once: one login, and no answer goes to another's request."""
    registry.tokens = True
    log_in(registry.credentials())
    blobs = [bytes([number]) * (1000 + number) for number in range(40)]
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda data: upload(repository, data), blobs))
        registry.issued.clear()
        assert all(pool.map(lambda data: repository.has_blob(digest_of(data), len(data)), blobs))
    assert registry.repository("team/app").blobs == {digest_of(data): data for data in blobs}
    assert registry.log.count("GET /v2/") == 1
    assert registry.log.count("GET /token") == 2


# TLS and proxies


@pytest.mark.parametrize("is_named", [True, False])
def test_tls(opened: Opened, certificate: Path, home: Path, *, is_named: bool) -> None:
    """A certificate of nobody known is refused, unless its CA is in certs.d."""
    with distribution.running(certificate=certificate) as registry:
        repository = opened(address=registry.address)
        if is_named:
            directory = home / ".config" / CERTS / registry.address
            directory.mkdir(parents=True)
            (directory / "ca.crt").write_bytes(certificate.read_bytes())
            check_push(repository)
        else:
            error = refused(repository.begin_upload, "not trusted", f"certs.d/{registry.address}/")
            assert not error.is_passing
            assert registry.requests == []


def test_tls_without_verification(opened: Opened, certificate: Path) -> None:
    """A person may trust one host, whatever its certificate."""
    with distribution.running(certificate=certificate) as registry:
        check_push(opened(access=Access(tls_verify=False), address=registry.address))


def test_client_certificate(opened: Opened, certificate: Path, home: Path) -> None:
    """Registries that know their users by certificates ask for one."""
    with distribution.running(certificate=certificate, knows_clients=True) as registry:
        directory = home / ".config" / CERTS / registry.address
        directory.mkdir(parents=True)
        (directory / "ca.crt").write_bytes(certificate.read_bytes())
        refused(opened(address=registry.address).begin_upload)
        (directory / "own.cert").write_bytes(certificate.read_bytes())
        refused(opened(address=registry.address).begin_upload, "certificates cannot be used")
        (directory / "own.key").write_bytes(certificate.with_name("key.pem").read_bytes())
        check_push(opened(address=registry.address))


def test_proxy(registry: Registry, opened: Opened, monkeypatch: pytest.MonkeyPatch) -> None:
    """In many companies nothing is reached otherwise. Its password goes to the proxy alone."""
    proxy = f"http://user:pr0xy-pass@{registry.address}"
    monkeypatch.setenv("http_proxy", proxy)
    monkeypatch.setenv("https_proxy", proxy)
    repository = opened(access=Access(tls_verify=False), address="registry.example")
    assert not repository.has_blob(ABSENT)
    methods = [request.method for request in registry.requests]
    assert methods == ["CONNECT", "GET", "HEAD"]
    assert registry.requests[-1].target.startswith("http://registry.example/v2/team/app/")
    assert registry.requests[-1].headers["proxy-authorization"].startswith("Basic ")
    monkeypatch.setenv("https_proxy", "socks5://user:pr0xy-pass@127.0.0.1")
    error = refused(opened(address="registry.example").begin_upload, "proxy")
    assert "pr0xy-pass" not in str(error)
    monkeypatch.setenv("https_proxy", "http://user:pr0xy-pass@127.0.0.1:1")
    said = "through the proxy 127.0.0.1:1: Connection refused"
    error = refused(opened(address="registry.example").begin_upload, said)
    assert "pr0xy-pass" not in str(error)


def test_tunnel(
    registry: Registry, opened: Opened, certificate: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Through a proxy, TLS is spoken with the registry; the proxy sees its name alone."""

    def script(request: Request, connection: Connection) -> Answer | None:
        assert request.method == "CONNECT"
        connection.sock.sendall(b"HTTP/1.1 200 Go ahead\r\n\r\n")
        host, _, port = target.address.rpartition(":")
        with socket.create_connection((host, int(port))) as other:
            back = threading.Thread(target=pass_on, args=[other, connection.sock])
            back.start()
            pass_on(connection.sock, other)
            back.join()
        return Answer(raw=b"")

    registry.script = script
    monkeypatch.setenv("HTTPS_PROXY", f"http://user:pr0xy-pass@{registry.address}")
    with distribution.running(certificate=certificate) as target:
        repository = opened(access=ANY_CERTIFICATE, address="registry.example")
        check_push(repository)
        repository.close()
        assert {request.target for request in registry.requests} == {"registry.example:443"}
        assert target.requests[0].headers["host"] == "registry.example"
        assert not any("proxy-authorization" in request.headers for request in target.requests)


def pass_on(source: socket.socket, target: socket.socket) -> None:
    """Send what comes from one end of a tunnel to the other."""
    with contextlib.suppress(OSError):
        while data := source.recv(1 << 20):
            target.sendall(data)
        target.shutdown(socket.SHUT_WR)


@pytest.mark.parametrize(
    "value", ["registry.example", ".example", "*", "other,registry.example:443"]
)
def test_no_proxy(
    registry: Registry, opened: Opened, monkeypatch: pytest.MonkeyPatch, value: str
) -> None:
    """A registry inside a company is not reached by its proxy, and one on this machine never is."""
    monkeypatch.setenv("https_proxy", f"http://{registry.address}")
    monkeypatch.setenv("http_proxy", f"http://{registry.address}")
    monkeypatch.setenv("no_proxy", value)
    origin = Origin.of_registry("registry.example", "https")
    assert transport.find_proxy(origin) is None
    assert transport.find_proxy(origin._replace(host="other.org")) is not None or value == "*"
    assert not opened().has_blob(ABSENT)
    assert registry.log == ["GET /v2/", f"HEAD /v2/team/app/blobs/{ABSENT}"]


# A real registry


@pytest.mark.consumers
@pytest.mark.parametrize("is_private", [False, True])
def test_real_registry(
    opened: Opened,
    certificate: Path,
    home: Path,
    tmp_path: Path,
    *,
    is_private: bool,
) -> None:
    """docker-registry, plain and open, or with TLS and a password, takes what the client sends."""
    require(["docker-registry"])
    more: dict[str, Any] = {"private": True, "certificate": certificate} if is_private else {}
    (tmp_path / "registry").mkdir()
    with started(tmp_path / "registry", **more) as registry:
        authfile = None
        if is_private:
            directory = home / ".config" / CERTS / registry.address
            directory.mkdir(parents=True)
            (directory / "ca.crt").write_bytes(certificate.read_bytes())
            authfile = tmp_path / "auth.json"
            authfile.write_text(registry.credentials, "utf-8")
        access = Access(authfile=str(authfile) if authfile else None)
        repository = opened(access=access, address=registry.address)
        check_push(repository)
        other = opened("team/other", access, registry.address, pull_from=["team/app"])
        assert other.mount(digest_of(LAYER), "team/app") is None
        assert other.has_blob(digest_of(LAYER), len(LAYER))
        begun = other.begin_upload()
        begun.send([b"half"])
        error = refused(lambda: begun.commit(ABSENT), "DIGEST_INVALID")
        assert error.status == 400
        begun.cancel()
        if is_private:
            assert LOGIN[1] not in str(
                refused(opened(address=registry.address).begin_upload, "401")
            )


def test_manifest_that_is_another(registry: Registry, repository: Repository) -> None:
    """Bytes that are not those of the digest are not what was asked for."""
    store = registry.repository("team/app")
    store.manifests[ABSENT] = (IMAGE, b"{}")
    store.tags["v1"] = ABSENT
    for reference in (ABSENT, "v1"):
        with pytest.raises(DigestMismatch):
            repository.manifest(reference)

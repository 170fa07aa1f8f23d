"""A registry that means harm: credentials stay with the host that they are for, nothing of them is
printed or logged, every answer ends, and nothing is believed that was not shown.
"""

import base64
import contextlib
import gzip
import itertools
import json
import logging
import os
import resource
import threading
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import distribution
import pytest
from distribution import PASSWORD, USER, Answer, Connection, Fault, Registry, Request
from hypothesis import given
from hypothesis import strategies as st
from support import PATIENCE

from registry.conftest import Opened
from registry.test_client import ABSENT, IMAGE, digest_of, manifest, refused, upload
from stream.errors import RegistryError
from stream.registry import transport
from stream.registry.client import Repository
from stream.registry.transport import ConnectionFailure, Transport
from stream.registry.trust import URL, Access, Trust

LogIn = Callable[[dict[str, Any]], Path]
ENDLESS = b"HTTP/1.1 %d OK\r\nContent-Type: application/json\r\n%b\r\n\r\n"


def answering(answers: dict[str, Answer]) -> Callable[[Request, Connection], Answer | None]:
    """Return a script that answers each request that begins with `METHOD /path` so."""

    def script(request: Request, _connection: Connection) -> Answer | None:
        asked = f"{request.method} {request.path}"
        return next((answers[key] for key in answers if asked.startswith(key)), None)

    return script


def _short(value: object) -> str:
    return str(value)[:40]


# Where requests go

PRIVATE = [
    "http://127.0.0.2:{port}/u",
    "http://127.1:{port}/u",
    "http://0x7f000001:{port}/u",
    "http://2130706433:{port}/u",
    "http://localhost:{port}/u",
    "http://any.localhost.:{port}/u",
    "http://[::1]:{port}/u",
    "http://[::ffff:127.0.0.1]:{port}/u",
    "http://[fe80::1%25lo]/u",
    "http://0.0.0.0:{port}/u",
    "http://169.254.169.254/latest/meta-data",
    "https://10.0.0.1/u",
    "https://192.168.1.1/u",
    "https://100.64.0.1/u",
    "https://[fd00::1]/u",
]
ODD = [
    "file:///etc/passwd",
    "ftp://registry.example/u",
    "//:1",
    "http://user:word@registry.example/u",
    "http://registry.example:99999/u",
    "http://registry.example:port/u",
    "http://registry.example\\@evil.example/u",
    "http://ex ample/u",
    "/u\tv",
    "/\u00fc",
    "http://[::1/u",
    "/" + "u" * 20_000,
]


def test_upload_to_where_nobody_should_go(registry: Registry, repository: Repository) -> None:
    """A registry must not make this machine speak to its neighbours, or to itself."""
    port = registry.address.rpartition(":")[2]
    for place in PRIVATE + ODD:
        location = {"Location": place.replace("{port}", port)}
        registry.script = answering({"POST": Answer(status=202, headers=location)})
        registry.requests.clear()
        error = refused(repository.begin_upload, "Location")
        assert not error.is_passing, place
        assert registry.log[-1:] == ["POST /v2/team/app/blobs/uploads/"], place
        assert "word" not in str(error)


def test_token_from_where_nobody_should_go(
    registry: Registry, opened: Opened, log_in: LogIn
) -> None:
    """Whoever is the realm gets the password."""
    log_in(registry.credentials())
    port = registry.address.rpartition(":")[2]
    for place in [*PRIVATE, "file:///etc/passwd", "", "/token", "x" * 9000]:
        header = {"WWW-Authenticate": f'Bearer realm="{place.replace("{port}", port)}"'}
        registry.script = answering({"GET /v2/": Answer(status=401, headers=header)})
        registry.requests.clear()
        refused(opened().begin_upload, "token service")
        assert registry.log == ["GET /v2/"], place


@pytest.mark.parametrize("place", ["http://registry.example/u", "http://cdn.example/u"])
def test_from_https_to_http(place: str) -> None:
    """What was encrypted stays so, also on the registry's own host."""
    trust = Trust(
        registry=URL.parse("https://registry.example").origin, access=Access(tls_verify=False)
    )
    with pytest.raises(ValueError, match="leads from https to http"):
        trust.follow(place)
    assert trust.follow(place.replace("http:", "https:")).target == "/u"


def test_other_hosts_are_verified() -> None:
    """A person who trusts one host without a certificate does not trust those that it names."""
    trust = Trust(
        registry=URL.parse("https://registry.example").origin, access=Access(tls_verify=False)
    )
    own = trust.context(URL.parse("https://registry.example:444/u").origin)
    other = trust.context(URL.parse("https://cdn.example/u").origin)
    assert (own.check_hostname, own.verify_mode) == (False, 0)
    assert (other.check_hostname, other.verify_mode) == (True, 2)
    assert own.minimum_version == other.minimum_version == 0x303  # TLS 1.2


@pytest.mark.parametrize("count", [5, 6])
def test_redirects(registry: Registry, repository: Repository, count: int) -> None:
    """A circle of redirects ends; a few are ordinary."""
    left = itertools.count(1)

    def script(request: Request, _connection: Connection) -> Answer | None:
        if request.method == "HEAD" and next(left) <= count:
            return Answer(status=307, headers={"Location": request.target})
        return None

    registry.script = script
    if count > 5:
        refused(lambda: repository.has_blob(ABSENT), "redirects more than 5 times")
    else:
        assert not repository.has_blob(ABSENT)


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
def test_redirect_elsewhere(registry: Registry, opened: Opened, log_in: LogIn, status: int) -> None:
    """A manifest may be kept elsewhere; the password is not for there."""
    registry.basic = True
    log_in(registry.credentials())
    with distribution.running() as elsewhere:
        elsewhere.repository("x").blobs[digest_of(b"")] = b""
        place = f"http://{elsewhere.address}/v2/x/blobs/{digest_of(b'')}"
        registry.faults = [Fault(method="HEAD", status=status, headers={"Location": place})]
        assert opened().has_blob(digest_of(b""))
        (request,) = elsewhere.requests
        assert "authorization" not in request.headers


@pytest.mark.parametrize("path", ["/v2/", "blobs"])
def test_login_elsewhere(registry: Registry, opened: Opened, log_in: LogIn, path: str) -> None:
    """Where a registry redirects to may ask who we are; the password is not for there."""
    log_in(registry.credentials())
    with distribution.running(tokens=True) as elsewhere:
        place = f"http://{elsewhere.address}/v2/x/blobs/{ABSENT}"
        registry.faults = [Fault(path=path, status=307, headers={"Location": place}, times=9)]
        with suppress(RegistryError):
            opened().has_blob(ABSENT)
        assert elsewhere.log
        assert all("authorization" not in request.headers for request in elsewhere.requests)


@pytest.mark.parametrize("method", ["POST", "PATCH", "PUT"])
def test_redirected_upload(registry: Registry, repository: Repository, method: str) -> None:
    """What is sent goes only where the registry's Location said beforehand."""
    place = {"Location": f"http://{registry.address}/elsewhere"}
    registry.faults = [Fault(method=method, status=307, headers=place, times=9)]
    refused(lambda: upload(repository, b"x"), "307")
    assert not any("elsewhere" in line for line in registry.log)


def test_redirect_to_a_neighbour(registry: Registry, repository: Repository) -> None:
    """A redirect is no way around what a Location may not do."""
    place = {"Location": "http://169.254.169.254/latest"}
    registry.faults = [Fault(method="HEAD", status=302, headers=place)]
    refused(lambda: repository.has_blob(ABSENT), "a private address")


# What is believed


@pytest.mark.parametrize("headers", [{}, {"Docker-Content-Digest": ABSENT}, {"Location": "/x"}])
def test_ok_to_everything(
    registry: Registry, repository: Repository, headers: dict[str, str]
) -> None:
    """A page that welcomes everybody is not a registry, and nothing was pushed to it."""
    registry.script = lambda _request, _connection: Answer(headers=headers, body=b"welcome")
    refused(repository.begin_upload, "200")
    data = manifest()
    with pytest.raises((RegistryError, ValueError)):
        repository.put_manifest(data, IMAGE, digest_of(data))
    assert not repository.has_blob(digest_of(b"x"), 1)


@pytest.mark.parametrize("location", [None, "", "x:y"])
def test_upload_without_place(
    registry: Registry, repository: Repository, location: str | None
) -> None:
    """An upload that was accepted goes nowhere without a Location."""
    headers = {} if location is None else {"Location": location}
    registry.script = answering({"POST": Answer(status=202, headers=headers)})
    refused(repository.begin_upload, "Location")


def test_truncated_layer(registry: Registry, repository: Repository) -> None:
    """A registry that drops bytes silently has another blob, and must not name it as ours."""

    def script(request: Request, connection: Connection) -> Answer | None:
        if request.method != "PATCH":
            return None
        data = connection.read_body(request)
        return registry.answer(request, lambda: data[:-1])

    registry.script = script
    error = refused(lambda: upload(repository, b"xyz"), "DIGEST_INVALID")
    assert not error.is_passing
    assert registry.repository("team/app").blobs == {}


def test_other_digest(registry: Registry, repository: Repository) -> None:
    """A registry that says that it stored something else is believed in that."""
    for what in ("PUT", "HEAD"):
        answer = Answer(status=200, headers={"Docker-Content-Digest": digest_of(b"other")})
        registry.script = answering({what: answer})
        if what == "HEAD":
            assert not repository.has_blob(digest_of(b"x"))
        else:
            refused(lambda: upload(repository, b"x"), "another digest")
            refused(lambda: repository.put_manifest(b"{}", IMAGE, "v1"), "another digest")


def test_early_success(registry: Registry, repository: Repository) -> None:
    """A layer of which half was sent is not taken, whatever the registry answers."""
    place = {"Location": "/v2/team/app/blobs/uploads/u"}
    registry.faults = [Fault(method="PATCH", status=202, headers=place)]
    begun = repository.begin_upload()
    error = refused(
        lambda: begun.send((bytes(1 << 20) for _ in range(999)), None), "before all of it was sent"
    )
    assert error.is_passing


def test_forgotten_manifest(registry: Registry, repository: Repository) -> None:
    """A manifest that was taken and is not there cannot be pulled; its tag must not be put."""
    registry.faults = [Fault(method="PUT", path="manifests", status=201)]
    data = manifest()
    refused(lambda: repository.put_manifest(data, IMAGE, digest_of(data)), "not there, although")


# What ends


@pytest.mark.parametrize(
    ("begin", "piece"),
    [
        (ENDLESS % (200, b"Transfer-Encoding: chunked"), b"1000\r\n" + b"x" * 4096 + b"\r\n"),
        (ENDLESS % (200, b"Content-Length: 99999999999"), b"x" * 4096),
        (ENDLESS % (200, b"Connection: close"), b"x" * 4096),
        (ENDLESS % (500, b"Content-Length: 99999999999"), b"x" * 4096),
        (b"HTTP/1.1 200 OK\r\n", b"X-More: more\r\n" * 100),
        (b"HTTP/1.1 200 OK\r\nX-Long: ", b"x" * 4096),
        (b"", b"x" * 4096),
    ],
    ids=_short,
)
@pytest.mark.parametrize("path", ["/token", "/v2/team/app/manifests/v1"])
def test_endless_answers(
    registry: Registry, repository: Repository, begin: bytes, piece: bytes, path: str
) -> None:
    """An answer without an end would fill the memory, or hold the push for good."""
    registry.tokens = path == "/token"
    sent = 0

    def script(request: Request, connection: Connection) -> Answer | None:
        nonlocal sent
        if request.path != path:
            return None
        connection.sock.sendall(begin)
        while True:  # until the client has enough
            connection.sock.sendall(piece)
            sent += len(piece)

    registry.script = script
    refused(lambda: repository.manifest("v1"))
    assert sent < 30 << 20


def test_close_while_a_helper_is_asked(
    registry: Registry, repository: Repository, log_in: LogIn, tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    """After Ctrl-C, a helper that waits for its user would go on waiting."""
    registry.basic = True
    log_in({"credsStore": "waiting"})
    program = tmp_path / "docker-credential-waiting"
    program.write_text(f"#!/bin/sh\n: > {tmp_path}/asked\nread -r never < {tmp_path}/fifo\n")
    program.chmod(0o755)
    os.mkfifo(tmp_path / "fifo")
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    failures = []
    look = threading.Thread(
        target=lambda: failures.append(refused(lambda: repository.has_blob(ABSENT), "status -9"))
    )
    look.start()
    while not (tmp_path / "asked").exists():
        time.sleep(0.01)
    while look.is_alive():  # it may have begun before it is known
        repository.close()
        look.join(0.05)
    assert failures


def test_close_while_nothing_is_answered(registry: Registry, repository: Repository) -> None:
    """Ctrl-C at a registry that hangs would wait for its answer."""
    asked, ended = threading.Event(), threading.Event()

    def script(_request: Request, _connection: Connection) -> None:
        asked.set()
        ended.wait(PATIENCE)

    registry.script = script
    look = threading.Thread(target=lambda: repository.has_blob(ABSENT))
    look.start()
    assert asked.wait(PATIENCE)
    repository.close()
    assert look.is_alive()
    ended.set()
    look.join(PATIENCE)


@pytest.mark.parametrize("begin", [b"", b"HTTP/1.1 200 OK\r\n", ENDLESS % (200, b"A: b")])
def test_slow_answers(
    registry: Registry, home: Path, begin: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A byte now and then must not keep a request alive: the time is for the whole answer."""
    del home
    end = threading.Event()

    def script(_request: Request, connection: Connection) -> Answer | None:
        connection.sock.sendall(begin)
        for byte in itertools.repeat(b"X"):
            if end.wait(0.02):
                break
            connection.sock.sendall(byte)
        return Answer(raw=b"")

    registry.script = script
    monkeypatch.setattr(transport, "_CONNECT", 5.0)
    url = URL.parse(f"http://{registry.address}/v2/")
    sender = Transport(Trust(registry=url.origin, access=Access()), lambda _: None)
    with pytest.raises(ConnectionFailure) as caught:
        sender.request(transport.Request(method="GET", url=url, patience=0.2), is_repeatable=False)
    end.set()
    sender.close()
    assert caught.value.is_timeout


def test_registry_that_takes_nothing(
    registry: Registry, repository: Repository, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A registry that stops to read would hold the push for good."""
    monkeypatch.setattr(transport, "_STALLED", 0.2)
    end = threading.Event()

    def script(request: Request, _connection: Connection) -> Answer | None:
        if request.method == "PATCH":
            end.wait(20)
        return None

    registry.script = script
    begun = repository.begin_upload()
    error = refused(lambda: begun.send((bytes(1 << 20) for _ in range(999)), None), "in time")
    end.set()
    assert error.is_passing


NO_ANSWERS = [
    b"",
    b"\0" * 100,
    b"SSH-2.0-OpenSSH_9.2\r\n",
    b"HTTP/1.1 abc OK\r\n\r\n",
    b"HTTP/1.1 200 OK\r\nContent-Length: x\r\n\r\n",
    b"HTTP/1.1 200 OK\r\nContent-Length: -1\r\n\r\n",
    b"HTTP/1.1 200 OK\r\nContent-Length: 50\r\n\r\nx",
    b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
    b"HTTP/1.1 200 OK\r\nContent-Le",
    b"HTTP/1.1 101 Switching\r\n\r\n",
    b"HTTP/1.1 302 Found\r\n\r\n",
    b"HTTP/1.1 999 ?\r\n\r\n",
    b"HTTP/1.1 200 OK\r\n" + b"A: b\r\n" * 5000 + b"\r\n",
    b"HTTP/1.1 200 OK\r\nno colon\r\n\x00: y\r\n\r\n",
]


def test_answers_that_are_none(registry: Registry, repository: Repository) -> None:
    """Whatever bytes come, the push ends with one line."""
    for raw in NO_ANSWERS:
        registry.script = answering({"POST": Answer(raw=raw)})
        refused(repository.begin_upload, registry.address)


ANSWER = (
    b"HTTP/1.1 202 Accepted\r\nLocation: /v2/team/app/blobs/uploads/u?a=b\r\n"
    b"Docker-Content-Digest: sha256:0\r\nTransfer-Encoding: chunked\r\n\r\n2\r\n{}\r\n0\r\n\r\n"
)


@st.composite
def _damaged(draw: st.DrawFn) -> bytes:
    """Return an answer of which some bytes are others."""
    start = draw(st.integers(0, len(ANSWER)))
    end = draw(st.integers(start, len(ANSWER)))
    return ANSWER[:start] + draw(st.binary(max_size=40)) + ANSWER[end:]


@given(data=_damaged() | st.binary(max_size=200))
def test_any_answer(registry: Registry, repository: Repository, data: bytes) -> None:
    """Bytes that nobody has thought of must end in one line as well."""
    registry.script = answering({"POST": Answer(raw=data)})
    with contextlib.suppress(RegistryError):
        repository.begin_upload()


NO_TOKENS = [
    b"",
    b"[]",
    b"null",
    b"[" * 60_000,
    b'{"token":',
    b'{"token":null}',
    b'{"token":5}',
    b'{"token":""}',
    b'{"token":"a\\nX-Header: b"}',
    b'{"token":"\\u00fc"}',
    b'{"access_token":["a"]}',
    gzip.compress(b'{"token":"a"}', mtime=0),
]


def test_tokens_that_are_none(registry: Registry, repository: Repository) -> None:
    """A token goes into a header as it is."""
    registry.tokens = True
    for body in NO_TOKENS:
        registry.script = answering({"GET /token": Answer(body=body)})
        refused(repository.begin_upload, "sends no token")


@pytest.mark.parametrize(
    "header",
    [
        "Bearer " + "a=b," * 100_000,
        "Bearer " * 20_000,
        'Bearer realm="' + "\\" * 60_000,
        'Bearer realm="' + 'a"' * 30_000,
        "," * 60_000,
    ],
    ids=_short,
)
def test_challenge_of_great_length(registry: Registry, repository: Repository, header: str) -> None:
    """A challenge that takes quadratic time to parse holds the push."""
    headers = {"WWW-Authenticate": header[:60_000]}
    registry.faults = [Fault(status=401, headers=headers, times=99)]
    before = resource.getrusage(resource.RUSAGE_SELF).ru_utime
    refused(repository.begin_upload)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_utime - before < 5


def test_compressed_answer(registry: Registry, repository: Repository) -> None:
    """An answer that was not asked to be compressed is not expanded: 4 MiB could be 4 GB."""
    bomb = gzip.compress(bytes(16 << 20))
    headers = {"Content-Encoding": "gzip", "Content-Type": IMAGE}
    registry.script = answering({"GET /v2/team": Answer(headers=headers, body=bomb)})
    found = repository.manifest("v1")
    assert found is not None
    assert found.data == bomb


# What is printed and logged


@pytest.fixture
def everything(caplog: pytest.LogCaptureFixture) -> Iterator[list[str]]:
    """Log all that libraries have to say, and return a list for other output."""
    caplog.set_level(logging.DEBUG)
    output: list[str] = []
    yield output
    text = "\n".join([*output, *(record.getMessage() for record in caplog.get_records("call"))])
    encoded = base64.b64encode(f"{USER}:{PASSWORD}".encode()).decode()
    for secret in (PASSWORD, encoded, "token-0", "s1gned", "signed"):
        assert secret[:12] not in text, text


@pytest.mark.parametrize(
    ("kind", "before"), [*itertools.product(["basic", "tokens"], ["", "x" * 470])]
)
def test_secrets_that_are_repeated(  # noqa: PLR0913, PLR0917 — fixtures
    registry: Registry,
    repository: Repository,
    log_in: LogIn,
    everything: list[str],
    kind: str,
    before: str,
) -> None:
    """A registry that quotes the header in its error has it printed, and kept in the logs of CI.
    So is the part of it that is left when a long error is cut.
    """
    setattr(registry, kind, True)
    log_in(registry.credentials())

    def script(request: Request, _connection: Connection) -> Answer | None:
        if request.method != "POST":
            return None
        text = f"{request.headers.get('authorization')} {USER}:{PASSWORD}"
        body = {"errors": [{"code": text, "message": f"you sent {before}{text}\n\x1b[2J{text}"}]}
        return Answer(status=400, body=json.dumps(body).encode())

    registry.script = script
    error = refused(repository.begin_upload, "you sent")
    everything += [str(error), repr(error), error.code, error.reason]
    everything += traceback.format_exception(error)


@pytest.mark.parametrize("status", [None, 400, 503])
def test_signed_places(
    registry: Registry, repository: Repository, everything: list[str], status: int | None
) -> None:
    """Who has the place of an upload can write to it."""
    place = f"http://{registry.address}/v2/team/app/blobs/uploads/u?_state=s1gned&X-Sig=s1gned"
    registry.script = answering({"POST": Answer(status=202, headers={"Location": place})})
    registry.repository("team/app").uploads["u"] = bytearray()
    cut = 0 if status is None else None
    registry.faults = [Fault(method="PATCH", status=status, cut=cut)]
    begun = repository.begin_upload()
    error = refused(lambda: begun.send([b"x"]))
    # An answer whose headers urllib3 complains of, with its URL.
    raw = b"HTTP/1.1 400 Bad\r\nA: b\r\nno colon\r\nC: d\r\n\r\n"
    registry.script = answering({"PATCH": Answer(raw=raw)})
    refused(lambda: begun.send([b"x"]))
    everything += [str(error), repr(error), *traceback.format_exception(error), repr(begun)]


def test_words_of_a_registry(registry: Registry, repository: Repository) -> None:
    """An error of a megabyte, or with escape sequences, would fill or change the terminal."""
    for message in ("x" * 7000, "\x1b]0;owned\x07\r\n\u202e", "\ud800"):
        body = json.dumps({"errors": [{"code": message, "message": message}]}).encode()
        registry.script = answering({"POST": Answer(status=400, body=body)})
        error = refused(repository.begin_upload)
        assert len(str(error)) < 1500
        assert str(error).isprintable()
        assert error.code.isprintable()


ERRORS = [
    b"<html>Bad gateway</html>",
    b'{"errors":[]}',
    b'{"errors":[5]}',
    b'{"errors":{"code":"A"}}',
    b'{"errors":[{"code":5,"message":[]}]}',
    b'{"errors":[{"code":"A"}]}',
    b'{"message":"b"}',
    b'{"errors":[{"code":"A","message":"b","detail":{"c":"d"}}]}',
    b"\xff\xfe",
]


def test_errors_of_any_form(registry: Registry, repository: Repository) -> None:
    """A proxy before the registry answers in its own way."""
    for body in ERRORS:
        registry.script = answering({"POST": Answer(status=400, body=body)})
        assert refused(repository.begin_upload, "POST upload: 400").status == 400


def test_no_secret_in_a_representation(log_in: LogIn, home: Path) -> None:
    """What is shown by a debugger, or by pytest -l, is kept with a bug report."""
    from stream.registry.credentials import find_credentials

    del home
    log_in({"auths": {"r.example": {"username": USER, "password": PASSWORD}}})
    found = find_credentials("r.example", "app", None)
    assert found is not None
    assert found.password == PASSWORD
    assert PASSWORD not in repr(found)
    url = URL.parse("https://r.example/u?sig=s1gned")
    request = transport.Request(method="GET", url=url, headers={"Authorization": PASSWORD})
    assert PASSWORD not in repr(request)
    assert "s1gned" not in str(url)


@pytest.mark.parametrize(
    ("domain", "words"),
    [
        ("r.example:65536", "port of its registry"),
        (f"{'r' * 64}.example", "host has no valid name"),
    ],
)
def test_registries_that_cannot_be(opened: Opened, domain: str, words: str) -> None:
    """What passes for an image's name need not be a host and a port."""
    refused(opened(address=domain).begin_upload, words)

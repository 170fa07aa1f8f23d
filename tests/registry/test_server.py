"""A registry that can only be read: the protocol, hostile clients, and its end."""

import errno
import http.client
import json
import socket
import ssl
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from hashlib import sha256

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from stream import pipes
from stream.errors import OutputError, SourceError
from stream.model import Digest
from stream.registry import server as module
from stream.registry.server import (
    Answer,
    Blob,
    Manifest,
    Range,
    RegistryServer,
    ServedRepository,
    WriteRange,
    is_local_name,
)

DATA = bytes(range(256)) * 400
MANIFEST = b'{"schemaVersion":2}'
MANIFEST_TYPE = "application/vnd.oci.image.manifest.v1+json"


def digest(data: bytes) -> Digest:
    """Return the digest of `data`."""
    return Digest(f"sha256:{sha256(data).hexdigest()}")


def blob(data: bytes) -> Blob:
    """Return a blob of `data`."""

    @contextmanager
    def opened() -> Iterator[WriteRange]:
        def write(fd: int, wanted: Range) -> None:
            try:
                pipes.write_all(fd, data[wanted.start : wanted.end])
            except OSError as error:
                raise OutputError.unwritable(error, "gone") from error

        yield write

    return Blob(size=len(data), open=opened)


def broken(*, begins: bool) -> Blob:
    """Return a blob whose bytes end too early, or are not even there at the beginning."""

    @contextmanager
    def opened() -> Iterator[WriteRange]:
        def write(fd: int, _wanted: Range) -> None:
            pipes.write_all(fd, b"1234")
            raise SourceError(b"/f", "changed since it was walked")

        if not begins:
            raise SourceError(b"/f", "changed")
        yield write

    return Blob(size=8, open=opened)


CUT, GONE = Digest("sha256:" + "c" * 64), Digest("sha256:" + "d" * 64)
LARGE = Digest("sha256:" + "e" * 64)


@dataclass(kw_only=True)
class Running:
    """A running registry, and what it has answered."""

    server: RegistryServer
    port: int
    answers: list[Answer] = field(default_factory=list)
    clients: list[socket.socket] = field(default_factory=list)

    def connect(self) -> http.client.HTTPConnection:
        """Return a connection to it, to be closed by `close`."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=20)
        connection.connect()
        self.clients.append(connection.sock)
        return connection

    def close(self) -> None:
        """Close all clients, and end the registry once it has answered."""
        for client in self.clients:
            client.close()
        self.server.close()
        self.server.wait()

    def ask(
        self, path: str, method: str = "GET", **headers: str
    ) -> tuple[int, http.client.HTTPMessage, bytes]:
        """Return the status, the head and the body of the answer to one request."""
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        connection = self.connect()
        connection.request(method, path, headers=named)
        answer = connection.getresponse()
        body = answer.read()
        connection.close()
        return answer.status, answer.headers, body

    def raw(self, sent: bytes) -> bytes:
        """Return all that is answered to `sent`, until the server closes the connection."""
        with socket.create_connection(("127.0.0.1", self.port), timeout=20) as client:
            client.sendall(sent)
            received = b""
            while data := client.recv(1 << 16):
                received += data
        return received


def _start() -> Running:
    listener = socket.create_server(("127.0.0.1", 0))
    repository = ServedRepository(
        tags={"1": digest(MANIFEST), "2": digest(MANIFEST), "10": digest(MANIFEST)},
        manifests={digest(MANIFEST): Manifest(media_type=MANIFEST_TYPE, data=MANIFEST)},
        blobs={
            digest(DATA): blob(DATA),
            CUT: broken(begins=True),
            GONE: broken(begins=False),
            LARGE: blob(bytes(1 << 26)),  # more than sockets hold
        },
    )
    answers: list[Answer] = []
    server = RegistryServer(
        listener,
        {"team/app": repository, "b": ServedRepository()},
        may_ask=is_local_name,
        answered=answers.append,
    )
    running = Running(server=server, port=listener.getsockname()[1], answers=answers)
    threading.Thread(target=server.run, daemon=True).start()
    return running


@pytest.fixture(scope="module")
def running() -> Iterator[Running]:
    """A running registry."""
    started = _start()
    yield started
    started.close()


BLOB = f"/v2/team/app/blobs/{digest(DATA)}"


@pytest.mark.parametrize("path", ["/v2/", "/v2"])
def test_version_check(running: Running, path: str) -> None:
    """Without it no client would take this for a registry."""
    status, headers, body = running.ask(path)
    assert (status, body) == (200, b"{}")
    assert headers["Docker-Distribution-API-Version"] == "registry/2.0"


@pytest.mark.parametrize("reference", ["1", "2", digest(MANIFEST)])
def test_manifest(running: Running, reference: str) -> None:
    """Without it an image could not be found by its tag or by its digest."""
    path = f"/v2/team/app/manifests/{reference}"
    for method, body in (("GET", MANIFEST), ("HEAD", b"")):
        status, headers, received = running.ask(path, method)
        assert (status, received) == (200, body)
        assert headers["Content-Type"] == MANIFEST_TYPE
        assert headers["Content-Length"] == str(len(MANIFEST))
        assert headers["Docker-Content-Digest"] == digest(MANIFEST)


def test_blob(running: Running) -> None:
    """Without it the bytes that a client gets would not be those of the digest."""
    status, headers, received = running.ask(BLOB)
    assert (status, digest(received)) == (200, digest(DATA))
    assert headers["Docker-Content-Digest"] == digest(DATA)
    status, headers, received = running.ask(BLOB.replace(":", "%3A"), "HEAD")
    assert (status, received, headers["Content-Length"]) == (200, b"", str(len(DATA)))


@pytest.mark.parametrize(
    ("asked", "start", "end"),
    [
        ("bytes=0-0", 0, 1),
        ("bytes=1000-", 1000, len(DATA)),
        ("bytes=1000-1999", 1000, 2000),
        ("bytes=102399-999999", 102399, len(DATA)),
        ("bytes=-1", len(DATA) - 1, len(DATA)),
        ("bytes=-999999", 0, len(DATA)),
    ],
)
def test_range(running: Running, asked: str, start: int, end: int) -> None:
    """Without it a pull that was interrupted could not go on, or would go on elsewhere."""
    status, headers, received = running.ask(BLOB, Range=asked)
    assert (status, received) == (206, DATA[start:end])
    assert headers["Content-Range"] == f"bytes {start}-{end - 1}/{len(DATA)}"


@pytest.mark.parametrize("asked", ["bytes=102400-", "bytes=-0", "bytes=999999-1000000"])
def test_range_beyond_the_end(running: Running, asked: str) -> None:
    """Without it a client that has everything would be sent it again."""
    status, headers, received = running.ask(BLOB, Range=asked)
    assert (status, headers["Content-Range"]) == (416, f"bytes */{len(DATA)}")
    assert json.loads(received)["errors"][0]["code"] == "RANGE_INVALID"


@pytest.mark.parametrize("asked", ["bytes=0-1,4-5", "bytes=-", "bytes=5-1", "lines=1-2", "x"])
def test_range_that_is_ignored(running: Running, asked: str) -> None:
    """Without it a server that does not know a kind of range would refuse the whole blob."""
    status, _, received = running.ask(BLOB, Range=asked)
    assert (status, len(received)) == (200, len(DATA))


@pytest.mark.parametrize(
    ("path", "code"),
    [
        ("/v2/other/manifests/1", "NAME_UNKNOWN"),
        ("/v2/team/app/manifests/3", "MANIFEST_UNKNOWN"),
        (f"/v2/team/app/manifests/{digest(DATA)}", "MANIFEST_UNKNOWN"),
        (f"/v2/team/app/blobs/sha256:{'0' * 64}", "BLOB_UNKNOWN"),
        (f"/v2/b/blobs/{digest(DATA)}", "BLOB_UNKNOWN"),
        (f"/v2/team/app/referrers/{digest(DATA)}", "UNSUPPORTED"),
        ("/v2/team/app/tags/other", "UNSUPPORTED"),
        ("/v2/../../etc/passwd", "UNSUPPORTED"),
        ("/", "UNSUPPORTED"),
    ],
)
@pytest.mark.parametrize("method", ["GET", "HEAD"])
def test_unknown(running: Running, path: str, code: str, method: str) -> None:
    """Without it a client could not tell an absent image from a broken registry."""
    status, _, received = running.ask(path, method)
    assert status == 404
    assert method == "HEAD" or json.loads(received)["errors"][0]["code"] == code


@pytest.mark.parametrize("method", ["POST", "PUT", "PATCH", "DELETE"])
def test_no_writing(running: Running, method: str) -> None:
    """Without it a push would fail in a way that no client explains."""
    connection = running.connect()
    connection.request(method, "/v2/team/app/blobs/uploads/", b"x" * 100_000)
    answer = connection.getresponse()
    assert (answer.status, answer.headers["Allow"]) == (405, "GET, HEAD")
    assert json.loads(answer.read())["errors"][0]["code"] == "UNSUPPORTED"


def test_tags(running: Running) -> None:
    """Without it the tags could not be listed, or not page by page."""
    path = "/v2/team/app/tags/list"
    assert json.loads(running.ask(path)[2]) == {"name": "team/app", "tags": ["1", "10", "2"]}
    status, headers, received = running.ask(f"{path}?n=2")
    assert (status, json.loads(received)["tags"]) == (200, ["1", "10"])
    assert headers["Link"] == f'<{path}?n=2&last=10>; rel="next"'
    status, headers, received = running.ask(f"{path}?n=2&last=10")
    assert (status, json.loads(received)["tags"], headers["Link"]) == (200, ["2"], None)
    assert json.loads(running.ask(f"{path}?n=0")[2])["tags"] == []
    assert json.loads(running.ask(f"{path}?n={'0' * 5000}1")[2])["tags"] == ["1", "10", "2"]
    assert json.loads(running.ask(f"{path}?n=x&last=")[2])["tags"] == ["1", "10", "2"]


def test_catalog(running: Running) -> None:
    """Without it nobody could ask which repositories there are."""
    assert json.loads(running.ask("/v2/_catalog")[2]) == {"repositories": ["b", "team/app"]}


def test_one_connection(running: Running) -> None:
    """Without it each blob would cost a connection, or an answer begin inside the one before."""
    connection = running.connect()
    first = connection.sock
    for path, method in ((BLOB, "HEAD"), (BLOB, "GET"), ("/v2/x/tags/list", "GET"), (BLOB, "GET")):
        connection.request(method, path)
        received = connection.getresponse().read()
        assert len(received) in (0, len(DATA)) or b"NAME_UNKNOWN" in received
        assert connection.sock is first
    connection.close()


@pytest.mark.parametrize(
    ("host", "status"),
    [
        ("127.0.0.1:5000", 200),
        ("localhost", 200),
        ("LOCALHOST.:1", 200),
        ("a.localhost:5000", 200),
        ("[::1]:5000", 200),
        ("192.168.1.2", 200),
        ("evil.example:5000", 421),
        ("127.0.0.1.evil.example", 421),
        ("localhost.evil.example", 421),
        ("", 421),
    ],
)
def test_host(running: Running, host: str, status: int) -> None:
    """Without it a web page could read the image, by giving its own name this address."""
    assert running.ask("/v2/team/app/tags/list", Host=host)[0] == status


def test_blob_that_changed(running: Running) -> None:
    """Without it a client could take a part of a blob for the whole, or wait for the rest."""
    connection = running.connect()
    connection.request("GET", f"/v2/team/app/blobs/{CUT}")
    answer = connection.getresponse()
    assert (answer.status, answer.headers["Content-Length"]) == (200, "8")
    with pytest.raises(http.client.IncompleteRead) as short:
        answer.read()
    assert short.value.partial == b"1234"
    answer.close()
    error = _answered(running, CUT).error
    assert isinstance(error, SourceError)
    assert error.path == b"/f"


def test_blob_that_cannot_be_opened(running: Running) -> None:
    """Without it the client would be told that the connection broke, and nothing else."""
    status, _, received = running.ask(f"/v2/team/app/blobs/{GONE}")
    assert status == 500
    assert json.loads(received)["errors"] == [{"code": "UNKNOWN", "message": "/f: changed"}]
    assert isinstance(_answered(running, GONE).error, SourceError)


def _answered(running: Running, what: str) -> Answer:
    """Wait until a request for `what` is answered, and return that."""
    deadline = time.monotonic() + 20
    while time.monotonic() < deadline:
        for answer in running.answers:
            if what in answer.target:
                return answer
        time.sleep(0.01)
    raise AssertionError(what)


@pytest.mark.parametrize(
    "sent",
    [
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(506),
        b"\x16",
        b"GET\r\n\r\n",
        b"nonsense and more of it\r\n\r\n",
        b"GET /v2/ HTTP/2.0\r\n\r\n",
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
        b"OPTIONS /v2/ HTTP/1.1\r\n\r\n",
        b"GET /v2/ HTTP/1.1\r\nHost: localhost\r\n" + b"A: b\r\n" * 1000 + b"\r\n",
        b"GET /v2/ HTTP/1.1\r\nHost: localhost\r\nA: " + b"x" * 100_000,
        b"GET /" + b"x" * 100_000,
    ],
    ids=range(10),
)
def test_what_is_not_a_request(running: Running, sent: bytes) -> None:
    """Without it Docker 29, which says a TLS hello first, would not turn to HTTP, and a
    client without end would fill the memory.
    """
    head, _, body = running.raw(sent).partition(b"\r\n\r\n")
    assert head.startswith((b"HTTP/1.1 4", b"HTTP/1.1 5"))
    assert json.loads(body)["errors"]


_WORDS = st.sampled_from(
    ("GET", "HEAD", "PUT", " ", "/", "//[", "http://[", "/v2/", "team/app", "tags/list", "?n=1&", "%",
     "blobs/", "HTTP/1.1", "HTTP/0.9", "\r\n", "\n", "Host:", "Range: bytes=", "-", ":", "\0", "é")
)  # fmt: skip


@given(words=st.lists(_WORDS | st.text(max_size=3), max_size=12))
@example(words=["http://["])
def test_any_request(running: Running, words: list[str]) -> None:
    """Without it a client could end a thread with a traceback, or the connection without a word."""
    sent = "".join(words).encode("utf-8", "surrogatepass")
    for line in (b"GET " + sent + b" HTTP/1.1", b"GET /v2/" + sent + b" HTTP/1.1", sent):
        running.raw(line + b"\r\nConnection: close\r\n\r\n")
    assert running.ask("/v2/")[0] == 200


def test_tls_client(running: Running) -> None:
    """Without it the hello of a real client could be taken for something else."""
    context = ssl.create_default_context()
    with (
        socket.create_connection(("127.0.0.1", running.port), timeout=20) as plain,
        pytest.raises(ssl.SSLError) as error,
    ):
        context.wrap_socket(plain, server_hostname="localhost")
    assert error.value.reason in ("WRONG_VERSION_NUMBER", "HTTP_REQUEST", "PACKET_LENGTH_TOO_LONG")
    assert _answered(running, "a TLS handshake").method == ""  # what the log shows


def test_body_of_a_request(running: Running) -> None:
    """Without it the body of one request would be read as the next one."""
    hidden = b"GET /v2/ HTTP/1.1\r\n\r\n"
    sent = b"GET /v2/ HTTP/1.1\r\nContent-Length: %d\r\n\r\n" % len(hidden)
    assert running.raw(sent + hidden).count(b"HTTP/1.1") == 1


def test_expected_body_is_not_asked_for(running: Running) -> None:
    """Without it a client would send a layer only to be told that nobody takes it."""
    sent = (
        b"PUT /v2/b/blobs/uploads/1 HTTP/1.1\r\nContent-Length: 9\r\nExpect: 100-continue\r\n\r\n"
    )
    assert running.raw(sent).startswith(b"HTTP/1.1 405 ")


def test_slow_and_vanished_clients(running: Running) -> None:
    """Without it one client that takes nothing, or goes away, would hold up all others."""
    request = f"GET /v2/team/app/blobs/{LARGE} HTTP/1.1\r\n\r\n".encode()
    with socket.create_connection(("127.0.0.1", running.port), timeout=20) as slow:
        slow.sendall(request)
        with socket.create_connection(("127.0.0.1", running.port), timeout=20) as vanished:
            vanished.sendall(request)
            assert vanished.recv(100)
        assert isinstance(_answered(running, LARGE).error, OutputError)
        assert running.ask(BLOB)[2] == DATA
        assert slow.recv(100).startswith(b"HTTP/1.1 200 ")


@pytest.mark.slow
def test_client_that_takes_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without it clients that hang would take up all connections, one after the other."""
    monkeypatch.setattr(module, "_STALL_SECONDS", 1)
    running = _start()
    connection = running.connect()
    connection.request("GET", f"/v2/team/app/blobs/{LARGE}")
    answer = connection.getresponse()
    answered = _answered(running, LARGE)
    assert isinstance(answered.error, OutputError)
    assert answered.error.errno == errno.ETIMEDOUT
    assert answered.sent is None
    answer.close()
    running.close()


def test_many_connections(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without it clients could start threads without end, or one too many be refused."""
    monkeypatch.setattr(module, "MAX_CONNECTIONS", 2)
    few = _start()
    idle = [socket.create_connection(("127.0.0.1", few.port)) for _ in range(2)]
    waiting = few.connect()
    waiting.request("GET", "/v2/")
    idle[0].close()
    assert waiting.getresponse().status == 200
    idle[1].close()
    few.close()


def test_head_that_takes_too_long(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without it a client could hold a thread for ever with a byte now and then."""
    monkeypatch.setattr(module, "_HEAD_SECONDS", 0.1)
    monkeypatch.setattr(module, "_LINGER_SECONDS", 0.1)
    running = _start()
    with socket.create_connection(("127.0.0.1", running.port), timeout=20) as slow:
        slow.sendall(b"GET /v2/ HTTP/1.1\r\n")
        ended = False
        for _ in range(2000):
            try:
                slow.sendall(b"A")
            except ConnectionError:
                ended = True
                break
            time.sleep(0.01)
    assert ended
    running.close()


def test_end() -> None:
    """Without it the end of the server would break off a transfer, or wait for idle clients."""
    running = _start()
    running.connect()  # and asks nothing
    busy = running.connect()
    busy.request("GET", BLOB)
    answer = busy.getresponse()
    running.server.close()
    assert answer.read() == DATA
    running.server.wait()
    with pytest.raises(ConnectionError):
        running.connect()
    running.close()


def test_end_at_once() -> None:
    """Without it a client that takes nothing could keep the server from ending."""
    running = _start()
    busy = running.connect()
    busy.request("GET", f"/v2/team/app/blobs/{LARGE}")
    answer = busy.getresponse()
    running.server.close()
    running.server.cut()
    running.server.wait()
    with pytest.raises((http.client.IncompleteRead, ConnectionError)):
        answer.read()
    answer.close()
    running.close()

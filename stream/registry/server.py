"""The server side of the distribution protocol: a registry that can only be read.

OCI Distribution Specification, the categories "pull" and "content discovery" without referrers,
over plain HTTP/1.1. What it serves is a table; a blob is written to the socket by whoever put it
there. Must not know confs, layers, or how a blob comes to be.
"""

from __future__ import annotations

import io
import json
import math
import re
import socket
import threading
import time
from collections.abc import Callable, Iterable, Mapping
from contextlib import AbstractContextManager, suppress
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler
from ipaddress import ip_address
from typing import TYPE_CHECKING, Any, NamedTuple
from urllib.parse import parse_qs, quote, unquote

from stream.model import Digest
from stream.values import dataclass, field

if TYPE_CHECKING:
    from _typeshed import WriteableBuffer

MAX_CONNECTIONS = 64  # at once, each with a thread; others wait to be accepted
_HEAD_SECONDS = 30.0  # for a request to arrive, counted from the answer before it
_STALL_SECONDS = 300  # after which a client that takes nothing is given up
_LINGER_SECONDS = 1.0  # for a client to read an answer that it did not wait for
_PAUSE_SECONDS = 0.1  # after the system had no descriptor, and between looks for a signal
_TLS_HANDSHAKE = b"\x16"  # the first byte of a TLS client: RFC 8446, 5.1
_RANGE = re.compile(r"bytes=(\d{0,19})-(\d{0,19})", re.ASCII)
_COUNT = re.compile(r"\d{1,9}", re.ASCII)
_ROUTE = re.compile(r"/v2/(.+)/(manifests|blobs|tags)/([^/]+)", re.DOTALL)
_OCTETS = "application/octet-stream"
_PORT = re.compile(r":\d*\Z", re.ASCII)


class Range(NamedTuple):
    """The bytes of a blob from `start` up to `end`, which is not among them."""

    start: int
    end: int


# Writes a range of the blob to a descriptor, which may be non-blocking. Raises OutputError if the
# client does not take it, and another StreamImageError if the bytes are not there any more.
WriteRange = Callable[[int, Range], None]


@dataclass(frozen=True, slots=True, kw_only=True)
class Blob:
    """A blob of `size` bytes. `open` may be called by several threads at once, and may raise
    StreamImageError: then nothing of the blob is sent.
    """

    size: int
    open: Callable[[], AbstractContextManager[WriteRange]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Manifest:
    """The bytes of a manifest or index."""

    media_type: str
    data: bytes


@dataclass(slots=True, kw_only=True)
class ServedRepository:
    """The contents of one repository: manifests and blobs by digest, and what tags refer to."""

    tags: dict[str, Digest] = field(default_factory=dict)
    manifests: dict[Digest, Manifest] = field(default_factory=dict)
    blobs: dict[Digest, Blob] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """A request and what became of it. `client` is its address and port, `target` the path as it
    was sent; without a `method`, what came in place of a request. `sent` is the number of bytes of
    the body, None if it was cut short. `error` is the reason for that, or for not beginning it: an
    OutputError if the client went away.
    """

    client: str
    method: str
    target: str
    status: int
    sent: int | None
    seconds: float
    error: Exception | None = None


def is_local_name(host: str) -> bool:
    """Return True if `host`, of a Host header, is an IP address or `localhost`. A page of another
    origin can make a browser send any other name here, by giving its own name this address.
    """
    host = _PORT.sub("", host).removeprefix("[").removesuffix("]").rstrip(".").lower()
    if host == "localhost" or host.endswith(".localhost"):
        return True
    try:
        ip_address(host)
    except ValueError:
        return False
    return True


class RegistryServer:
    """A registry that answers on `listener`, a listening socket, which it closes. `answered` is
    called after each request, by any thread. A request whose Host header `may_ask` does not accept
    is refused; one without that header is not a browser's.
    """

    def __init__(
        self,
        listener: socket.socket,
        repositories: Mapping[str, ServedRepository],
        *,
        may_ask: Callable[[str], bool],
        answered: Callable[[Answer], None],
    ) -> None:
        self.repositories = repositories
        self.may_ask = may_ask
        self.answered = answered
        self.is_closing = False
        self._listener = listener
        self._slots = threading.BoundedSemaphore(MAX_CONNECTIONS)
        self._changed = threading.Condition()
        self._connections: set[socket.socket] = set()

    def run(self) -> None:
        """Accept connections until the server is closed, each in a thread of its own."""
        with self._listener:
            while not self.is_closing:
                self._slots.acquire()
                if not self._accept():
                    self._slots.release()

    def _accept(self) -> bool:
        """Return True if a thread now answers the next connection."""
        try:
            connection, address = self._listener.accept()
        except ConnectionError:
            return False
        except OSError:
            if not self.is_closing:
                time.sleep(_PAUSE_SECONDS)
            return False
        with self._changed:
            self._connections.add(connection)
        if self.is_closing:
            self._shut(socket.SHUT_RD)
        work = threading.Thread(
            target=self._serve, args=(connection, address), name="connection", daemon=True
        )
        try:
            work.start()
        except RuntimeError:  # the system starts no more threads
            self._forget(connection)
            return False
        return True

    def _serve(self, connection: socket.socket, address: Any) -> None:
        try:
            with suppress(OSError):  # the client went away
                _Connection(connection, address, self)  # type: ignore[arg-type]
        finally:
            self._forget(connection)
            self._slots.release()

    def _forget(self, connection: socket.socket) -> None:
        connection.close()
        with self._changed:
            self._connections.discard(connection)
            self._changed.notify_all()

    def close(self) -> None:
        """Accept nothing more, and let running answers end: see `wait`."""
        self.is_closing = True
        with suppress(OSError):  # ends accept() in another thread
            self._listener.shutdown(socket.SHUT_RDWR)
        self._shut(socket.SHUT_RD)

    def wait(self, seconds: float = math.inf) -> None:
        """Wait until all answers of a server that is being closed are sent, for `seconds` at most."""
        end = time.monotonic() + seconds
        with self._changed:
            while self._connections and (left := end - time.monotonic()) > 0:
                # Not longer: a signal may have arrived before the wait began, unnoticed.
                self._changed.wait(min(left, _PAUSE_SECONDS))

    def cut(self) -> None:
        """Break off all answers of a server that is being closed."""
        self._shut(socket.SHUT_RDWR)

    def _shut(self, how: int) -> None:
        with self._changed:
            for connection in self._connections:
                with suppress(OSError):  # not connected any more
                    connection.shutdown(how)


class _Deadline(io.RawIOBase):
    """The bytes that arrive on a connection. Reading raises TimeoutError after `deadline`,
    however few bytes come at a time.
    """

    def __init__(self, connection: socket.socket) -> None:
        self.deadline = 0.0
        self._connection = connection

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: WriteableBuffer, /) -> int:
        left = self.deadline - time.monotonic()
        if left <= 0:
            raise TimeoutError
        self._connection.settimeout(left)
        return self._connection.recv_into(buffer)


class _Connection(BaseHTTPRequestHandler):
    """Answers the requests of one connection, one after the other."""

    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    server: RegistryServer  # type: ignore[assignment]

    # ---- the connection

    def setup(self) -> None:
        super().setup()
        self.rfile.close()
        self._arriving = _Deadline(self.connection)
        self.rfile = io.BufferedReader(self._arriving)
        # Also for a client that is there, but takes nothing.
        stall = _STALL_SECONDS * 1000
        self.connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, stall)

    def handle(self) -> None:
        self._arriving.deadline = time.monotonic() + _HEAD_SECONDS
        self.connection.settimeout(_HEAD_SECONDS)
        if self.connection.recv(1, socket.MSG_PEEK) == _TLS_HANDSHAKE:
            # Clients that try HTTPS first turn to HTTP only if the answer is one of HTTP.
            self._begin_request("a TLS handshake")
            self.send_error(HTTPStatus.BAD_REQUEST, "this registry speaks plain HTTP")
            self._linger()
            return
        super().handle()

    def handle_one_request(self) -> None:
        self._arriving.deadline = time.monotonic() + _HEAD_SECONDS
        self._begin_request()
        super().handle_one_request()
        if self.server.is_closing:
            self.close_connection = True
        elif self.close_connection:
            self._linger()

    def _begin_request(self, what: str = "a malformed request") -> None:
        """Forget the last request. `what` is reported of this one unless it can be parsed."""
        self.command, self.path, self.requestline = "", what, ""
        self.request_version = self.protocol_version
        self.close_connection = True
        self._began = time.monotonic()

    def _linger(self) -> None:
        """Let the client read the answer: closed with bytes unread, the connection would be
        reset, and the answer be lost.
        """
        with suppress(OSError):
            self.connection.shutdown(socket.SHUT_WR)
            self._arriving.deadline = time.monotonic() + _LINGER_SECONDS
            while self._arriving.read(1 << 16):
                pass

    # ---- requests

    def parse_request(self) -> bool:
        self._began = time.monotonic()
        if not super().parse_request():
            return False
        headers = self.headers
        if headers.get("Content-Length", "0") != "0" or "Transfer-Encoding" in headers:
            self.close_connection = True  # the body is not read
        self.connection.settimeout(_STALL_SECONDS)
        return True

    def handle_expect_100(self) -> bool:
        return True  # the final answer follows at once, without the body

    def do_GET(self) -> None:
        host = self.headers.get("Host")
        if host is not None and not self.server.may_ask(host):
            # As for a page of another origin, which can have this server asked in its name.
            self._refuse(
                HTTPStatus.MISDIRECTED_REQUEST, "DENIED", f"not a name of this registry: {host}"
            )
            return
        path, _, query = self.path.partition("?")
        path = unquote(path)
        if path in ("/v2", "/v2/"):
            self._send_json({})
        elif path == "/v2/_catalog":
            self._send_page("repositories", self.server.repositories, {}, query)
        elif route := _ROUTE.fullmatch(path):
            self._answer(*route.groups(), query=query)
        else:
            self._refuse(HTTPStatus.NOT_FOUND, "UNSUPPORTED", "no such endpoint")

    do_HEAD = do_GET  # noqa: N815 — http.server's names

    def _refuse_to_write(self) -> None:
        self.close_connection = True
        self._refuse(
            HTTPStatus.METHOD_NOT_ALLOWED, "UNSUPPORTED", "this registry can only be read",
            Allow="GET, HEAD",
        )  # fmt: skip

    do_POST = do_PUT = do_PATCH = do_DELETE = _refuse_to_write  # noqa: N815

    def _answer(self, name: str, kind: str, what: str, *, query: str) -> None:
        repository = self.server.repositories.get(name)
        if repository is None:
            self._refuse(HTTPStatus.NOT_FOUND, "NAME_UNKNOWN", f"no repository {name}")
        elif kind == "tags":
            if what == "list":
                self._send_page("tags", repository.tags, {"name": name}, query)
            else:
                self._refuse(HTTPStatus.NOT_FOUND, "UNSUPPORTED", "no such endpoint")
        elif kind == "manifests":
            digest = repository.tags.get(what, Digest(what))
            if manifest := repository.manifests.get(digest):
                self._send(manifest.data, manifest.media_type, {"Docker-Content-Digest": digest})
            else:
                self._refuse(HTTPStatus.NOT_FOUND, "MANIFEST_UNKNOWN", f"no manifest {what}")
        elif blob := repository.blobs.get(Digest(what)):
            self._send_blob(blob, what)
        else:
            self._refuse(HTTPStatus.NOT_FOUND, "BLOB_UNKNOWN", f"no blob {what}")

    # ---- answers

    def _send_blob(self, blob: Blob, digest: str) -> None:
        headers = {"Docker-Content-Digest": digest, "Accept-Ranges": "bytes"}
        status, wanted = HTTPStatus.OK, Range(0, blob.size)
        if self.command == "GET" and (asked := self.headers.get("Range")):
            found = _range_of(asked, blob.size)
            if found is None:
                self._refuse(
                    HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE, "RANGE_INVALID",
                    f"the blob has {blob.size} bytes", Content_Range=f"bytes */{blob.size}",
                )  # fmt: skip
                return
            if found is not _WHOLE:
                status, wanted = HTTPStatus.PARTIAL_CONTENT, found
                headers["Content-Range"] = f"bytes {found.start}-{found.end - 1}/{blob.size}"
        count = wanted.end - wanted.start
        if self.command == "HEAD":
            self._send_head(status, _OCTETS, count, headers)
            self._report(status, 0)
            return
        begun = False
        try:
            with blob.open() as write_range:
                self._send_head(status, _OCTETS, count, headers)
                begun = True
                write_range(self.connection.fileno(), wanted)
        except Exception as error:  # noqa: BLE001 — a thread has nobody to raise it to
            if not begun:
                self._refuse(HTTPStatus.INTERNAL_SERVER_ERROR, "UNKNOWN", str(error), error)
                return
            self.close_connection = True  # with less than was announced
            self._report(status, None, error)
        else:
            self._report(status, count)

    def _send_page(
        self, key: str, names: Iterable[str], document: dict[str, Any], query: str
    ) -> None:
        """Send the part of `names` that the query asks for, in order, with a link to the next."""
        asked = parse_qs(query, keep_blank_values=True)
        (last,), (limit,) = asked.get("last", [""])[:1], asked.get("n", [""])[:1]
        found = [name for name in sorted(names) if name > last]
        page = found[: int(limit)] if _COUNT.fullmatch(limit) else found
        headers = {}
        if page and len(page) < len(found):
            here = self.path.partition("?")[0]
            after = f"{here}?n={limit}&last={quote(page[-1], safe='')}"
            headers["Link"] = f'<{after}>; rel="next"'
        self._send_json({**document, key: page}, headers)

    def _send_json(self, document: object, headers: Mapping[str, str] | None = None) -> None:
        self._send(json.dumps(document).encode(), "application/json", headers or {})

    def _send(
        self, data: bytes, media_type: str, headers: Mapping[str, str], status: int = HTTPStatus.OK,
        error: Exception | None = None,
    ) -> None:  # fmt: skip
        sent = None  # a client that was told enough by the head may be gone before the rest
        try:
            self._send_head(status, media_type, len(data), headers)
            sent = 0 if self.command == "HEAD" else self.wfile.write(data)
        finally:
            self._report(status, sent, error)

    def _refuse(
        self, status: int, code: str, message: str, error: Exception | None = None,
        **headers: str,
    ) -> None:  # fmt: skip
        document = {"errors": [{"code": code, "message": message}]}
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        self._send(json.dumps(document).encode(), "application/json", named, status, error)

    def _send_head(
        self, status: int, media_type: str, size: int, headers: Mapping[str, str]
    ) -> None:
        self.send_response(status)
        self.send_header("Content-Type", media_type)
        self.send_header("Content-Length", str(size))
        self.send_header("Docker-Distribution-API-Version", "registry/2.0")
        self.send_header("X-Content-Type-Options", "nosniff")
        for name, value in headers.items():
            self.send_header(name, value)
        if self.close_connection:
            self.send_header("Connection", "close")
        self.end_headers()

    def send_error(self, code: int, message: str | None = None, explain: str | None = None) -> None:
        """Answer a request that could not be parsed as all others are answered."""
        self.request_version = self.protocol_version  # HTTP/0.9 has no head
        self.close_connection = True
        self._refuse(code, "UNSUPPORTED", message or HTTPStatus(code).phrase)

    def version_string(self) -> str:
        return "stream-image"

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 — http.server's name
        """Print nothing: `answered` is told instead."""

    def _report(self, status: int, sent: int | None, error: Exception | None = None) -> None:
        host, port = self.client_address[:2]
        self.server.answered(
            Answer(
                client=f"[{host}]:{port}" if ":" in host else f"{host}:{port}",
                method=self.command or "",
                target=self.path,
                status=int(status),
                sent=sent,
                seconds=time.monotonic() - self._began,
                error=error,
            )
        )


_WHOLE = Range(0, -1)  # a range that is ignored, as RFC 9110, 14.2 allows


def _range_of(header: str, size: int) -> Range | None:
    """Return the range that `header` asks for of `size` bytes; _WHOLE for several ranges and for
    what is not one, None if it is beyond the end. RFC 9110, 14.1.2.
    """
    match = _RANGE.fullmatch(header.strip())
    if match is None or match[0] == "bytes=-":
        return _WHOLE
    first, last = match[1], match[2]
    if not first:
        start, end = max(size - int(last), 0), size
    else:
        start, end = int(first), min(int(last) + 1, size) if last else size
        if last and int(last) < start:
            return _WHOLE
    return Range(start, end) if start < end else None

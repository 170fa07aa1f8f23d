"""HTTP requests, each with bounds on what is read, how long it takes and how often it is repeated.

On urllib3, which has what the standard library lacks: connections that are kept, proxies, and
types. What is added here: an answer that comes while a body is being sent ends the sending and is
read, a deadline for a whole answer rather than for each byte of it, and proxies from the
environment. Must not know registries, credentials or images.
"""

from __future__ import annotations

import http.client
import io
import logging
import os
import select
import socket
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from enum import Enum, auto
from functools import partial
from typing import Any, cast

import urllib3
from urllib3.connection import HTTPConnection, HTTPSConnection

from stream import __version__
from stream.errors import SizeMismatch
from stream.parsing import parse_json
from stream.registry.trust import URL, Origin, Trust, UntrustedURL, is_local
from stream.retries import Retries
from stream.text import one_line
from stream.values import dataclass, field, replace

PATIENCE = 60.0  # seconds for an answer, from the end of the request to the answer's last byte
MAX_ERROR = 8 << 10  # bytes of an answer that are read where only its status matters
MAX_REDIRECTS = 5

_CONNECT = 30.0  # seconds, with TLS
_STALLED = 60.0  # seconds in which the server takes nothing of a body
_SLICE = 256 << 10  # bytes sent between two looks for an answer
_CHUNK = 128 << 10  # bytes of a chunk, where a body's size is unknown
_POOL = 16  # connections kept for each origin
_MAX_MESSAGE = 500  # characters of a server's own words
_REDIRECTS = frozenset({301, 302, 303, 307, 308})
_PASSING = frozenset({408, 429, 499, *range(500, 600)} - {501, 505})
_LIMITED = ("rate limit", "too many requests", "toomanyrequests")
_BEGINNING = "HTTP/1."  # of every answer
_INTERIM = b"HTTP/1.1 1"  # an answer that another follows, such as 100 Continue
_USER_AGENT = f"stream-image/{__version__}"
_AT_FIRST = (
    urllib3.exceptions.NewConnectionError,
    urllib3.exceptions.ConnectTimeoutError,
    urllib3.exceptions.SSLError,
    urllib3.exceptions.ProxyError,
)

Sleep = Callable[[float], None]


class ConnectionFailure(Exception):
    """A request without an answer: `reason` says why, without secrets. `is_passing` is True if
    another try may have one, `is_certificate` if the server's certificate is not trusted, and
    `is_timeout` if the server was waited for in vain.
    """

    def __init__(
        self,
        reason: str,
        *,
        is_passing: bool = False,
        is_certificate: bool = False,
        is_timeout: bool = False,
    ) -> None:
        self.reason = reason
        self.is_passing = is_passing
        self.is_certificate = is_certificate
        self.is_timeout = is_timeout
        super().__init__(reason)


class _BodyFailed(Exception):
    """The pieces of a body raised `error`. Not an OSError, which urllib3 takes for its own."""

    def __init__(self, error: BaseException) -> None:
        self.error = error
        super().__init__()


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """A request. The answer to a successful one may have `limit` bytes, if its bytes matter at
    all, and has to be there after `patience` seconds.
    """

    method: str
    url: URL
    headers: Mapping[str, str] = field(default_factory=dict, repr=False)
    body: bytes | Iterable[bytes | memoryview] | None = field(default=None, repr=False)
    limit: int | None = None
    patience: float = PATIENCE


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """An answer. `data` is its body, at most MAX_ERROR bytes of it unless more were asked for;
    `url` is where it came from, after redirects.
    """

    status: int
    headers: urllib3.HTTPHeaderDict = field(repr=False)
    data: bytes = field(repr=False)
    url: URL

    def error(self, redact: Callable[[str], str] = str) -> tuple[str, str]:
        """Return the error code and message of the body, each empty if it has none, and cut if it
        is long. `redact` removes secrets from them, before a cut could leave a part of one.

        OCI Distribution Specification, "Error Codes"; and what token services send.
        """
        try:
            document = parse_json(self.data)
        except ValueError:
            return "", ""
        errors = document.get("errors") if isinstance(document, dict) else None
        first = errors[0] if isinstance(errors, list) and errors else document
        if not isinstance(first, dict):
            return "", ""
        code, *texts = (
            value if isinstance(value := first.get(key), str) else ""
            for key in ("code", "message", "details", "error_description", "error")
        )
        message = next(filter(None, texts), "")
        return _shown(redact(code)), _shown(redact(message))

    @property
    def is_passing(self) -> bool:
        """Return whether another try may be answered otherwise. GitHub's rate limit is a 403."""
        if self.status == http.client.FORBIDDEN:
            text = self.data.decode("utf-8", "replace").lower()
            return any(words in text for words in _LIMITED)
        return self.status in _PASSING

    @property
    def retry_after(self) -> float | None:
        """Return how many seconds the server asks to wait, None if it does not say.

        RFC 9110, 10.2.3.
        """
        value = self.headers.get("Retry-After", "").strip()
        if value.isascii() and value.isdigit():
            return float(value[:9])
        try:
            from email.utils import parsedate_to_datetime

            return max(0.0, parsedate_to_datetime(value).timestamp() - time.time())
        except (ValueError, TypeError, OverflowError):
            return None


def _shown(text: str) -> str:
    return one_line(text if len(text) <= _MAX_MESSAGE else f"{text[:_MAX_MESSAGE]}…")


class Transport:
    """Sends requests on behalf of one registry. Several threads may use it at once. `sleep` is
    called with the seconds before a repetition.
    """

    def __init__(self, trust: Trust, sleep: Sleep = time.sleep) -> None:
        self.trust = trust
        self._sleep = sleep
        self._pools: dict[Origin, urllib3.HTTPConnectionPool] = {}
        self._lock = threading.Lock()
        self._reached: set[Origin] = set()  # those that have answered

    def close(self) -> None:
        """Close the connections that are kept."""
        with self._lock:
            for pool in self._pools.values():
                pool.close()
            self._pools.clear()

    def request(self, request: Request, *, is_repeatable: bool = True) -> Answer:
        """Send a request, and return the answer, also that of a failure. It is sent again where
        that may help, if `is_repeatable`. GET and HEAD follow redirects; to other origins they go
        without an Authorization. Raises ConnectionFailure.
        """
        retries = Retries()
        while True:
            pause: float | None = None
            try:
                answer = self._follow(request)
            except ConnectionFailure as failure:
                if is_repeatable and failure.is_passing:
                    pause = retries.pause()
                if pause is None:
                    raise
            else:
                if is_repeatable and answer.is_passing:
                    pause = retries.pause(answer.retry_after)
                if pause is None:
                    return answer
            self._sleep(pause)

    def _follow(self, request: Request) -> Answer:
        for _ in range(MAX_REDIRECTS + 1):
            answer = self._exchange(request)
            target = answer.headers.get("Location")
            is_redirect = answer.status in _REDIRECTS and request.method in ("GET", "HEAD")
            if not is_redirect or not target:
                return answer
            try:
                url = self.trust.follow(target, request.url)
            except UntrustedURL as wrong:
                raise ConnectionFailure(f"redirects to a URL that {wrong}") from None
            headers = dict(request.headers)
            if url.origin != request.url.origin:
                headers.pop("Authorization", None)
            request = replace(request, url=url, headers=headers)
        raise ConnectionFailure(f"redirects more than {MAX_REDIRECTS} times")

    def send(self, request: Request, size: int | None) -> Answer:
        """Send a request whose body has `size` bytes, None for an unknown number, once. An answer
        that comes before all of it is sent ends the sending. What the pieces of the body raise
        passes, and the request is aborted so that the server does not take it for whole. Raises
        ConnectionFailure, and SizeMismatch for a body of another size.
        """
        assert not isinstance(request.body, bytes | None)
        body = _Pieces(request.body, size)
        framing = (
            {"Transfer-Encoding": "chunked"} if size is None else {"Content-Length": str(size)}
        )
        try:
            answer = self._exchange(
                replace(request, body=body, headers={**request.headers, **framing})
            )
        except _BodyFailed as failed:
            raise failed.error from None
        if answer.status < http.client.MULTIPLE_CHOICES and not body.is_whole:
            raise ConnectionFailure("answered before all of it was sent", is_passing=True)
        return answer

    def _exchange(self, request: Request) -> Answer:
        """Send a request once, and return the answer. Raises ConnectionFailure."""
        url, limit = request.url, request.limit
        origin = url.origin
        pool = self._pool(origin)
        is_proxied = pool.proxy is not None and origin.scheme == "http"
        response: urllib3.BaseHTTPResponse | None = None
        try:
            response = pool.urlopen(
                request.method,
                f"{origin}{url.target}" if is_proxied else url.target,
                cast("Iterable[bytes]", request.body),  # it takes any bytes-like pieces
                {"User-Agent": _USER_AGENT, **request.headers},
                retries=False,
                redirect=False,
                assert_same_host=False,
                timeout=urllib3.Timeout(connect=_CONNECT, read=request.patience),
                preload_content=False,
                decode_content=False,
            )
            self._reached.add(origin)
            is_wanted = limit is not None and response.status < http.client.MULTIPLE_CHOICES
            most = limit if limit is not None and is_wanted else MAX_ERROR
            data = response.read(most + 1)
        except (
            urllib3.exceptions.HTTPError,
            http.client.HTTPException,
            OSError,
            ValueError,
        ) as error:
            raise self._failure(origin, pool.proxy, error) from None
        finally:
            if response is not None:
                response.close()  # closes the connection, unless the answer was read to its end
                response.release_conn()
        if is_wanted and len(data) > most:
            raise ConnectionFailure(f"sends more than {most} bytes")
        return Answer(status=response.status, headers=response.headers, data=data[:most], url=url)

    def _pool(self, origin: Origin) -> urllib3.HTTPConnectionPool:
        """Return the connections to `origin`, through the environment's proxy if it has one."""
        with self._lock:
            if (pool := self._pools.get(origin)) is None:
                pool = self._pools[origin] = self._make_pool(origin)
            return pool

    def _make_pool(self, origin: Origin) -> urllib3.HTTPConnectionPool:
        scheme, host, port = origin
        more: dict[str, Any] = {"maxsize": _POOL}
        if scheme == "https":
            try:
                more["ssl_context"] = self.trust.context(origin)
            except (OSError, ValueError) as error:
                reason = getattr(error, "strerror", None) or error
                raise ConnectionFailure(f"certificates cannot be used: {reason}") from None
        proxy = find_proxy(origin)
        if proxy is None:
            return _POOLS[scheme](host, port, **more)
        try:
            address = urllib3.util.parse_url(proxy if "://" in proxy else f"http://{proxy}")
            secret = urllib3.make_headers(proxy_basic_auth=address.auth) if address.auth else {}
            bare = address._replace(auth=None).url
            manager = urllib3.ProxyManager(bare, proxy_headers=secret, maxsize=_POOL)
        except (urllib3.exceptions.HTTPError, ValueError):
            reason = "is not an http or https URL; correct the environment's proxy variables"
            raise ConnectionFailure(f"its proxy {reason}") from None
        manager.pool_classes_by_scheme = _POOLS
        return manager.connection_from_host(
            host, port, scheme, pool_kwargs={**manager.connection_pool_kw, **more}
        )

    def _failure(
        self, origin: Origin, proxy: urllib3.util.Url | None, error: Exception
    ) -> ConnectionFailure:
        """Return why there is no answer, in one phrase."""
        # A host that was never reached is likely misspelt, and waiting would not help.
        is_passing = origin in self._reached or not isinstance(error, _AT_FIRST)
        reason, kind = _reason(list(_causes(error)), origin)
        if proxy is not None:
            reason = f"through the proxy {proxy.netloc}: {reason}"
        return ConnectionFailure(
            reason,
            is_passing=is_passing and kind not in (_Kind.CERTIFICATE, _Kind.NONSENSE),
            is_certificate=kind is _Kind.CERTIFICATE,
            is_timeout=kind is _Kind.TIMEOUT,
        )


class _Kind(Enum):
    """Why there is no answer."""

    LOST = auto()
    TIMEOUT = auto()
    CERTIFICATE = auto()
    NONSENSE = auto()


def _reason(causes: Sequence[BaseException], origin: Origin) -> tuple[str, _Kind]:
    """Return why there is no answer from `origin`: in one phrase, and its kind."""
    import ssl

    for cause in causes:
        if isinstance(cause, ssl.SSLCertVerificationError):
            hint = f"add its CA to ~/.config/containers/certs.d/{origin.authority}/ca.crt"
            text = f"its certificate is not trusted ({cause.verify_message}); {hint}"
            return _shown(text), _Kind.CERTIFICATE
        if isinstance(cause, TimeoutError | urllib3.exceptions.TimeoutError) and not isinstance(
            cause, urllib3.exceptions.NewConnectionError
        ):
            return "no answer in time", _Kind.TIMEOUT
        if isinstance(cause, urllib3.exceptions.LocationValueError):
            return "its host has no valid name", _Kind.NONSENSE
        if isinstance(cause, ssl.SSLError):
            return _shown(f"TLS fails ({cause.reason or 'connection closed'})"), _Kind.LOST
        if isinstance(cause, http.client.RemoteDisconnected | http.client.IncompleteRead):
            return "connection closed without a complete answer", _Kind.LOST
    known = (cause.strerror for cause in causes if isinstance(cause, OSError) and cause.strerror)
    text = next(known, "")
    return (_shown(text), _Kind.LOST) if text else ("the answer is not HTTP", _Kind.NONSENSE)


def _causes(error: BaseException) -> Iterator[BaseException]:
    """Yield an error of urllib3 and those in it."""
    yield error
    inner = (arg for arg in error.args if isinstance(arg, BaseException))
    for cause in (*inner, *filter(None, (error.__cause__,))):
        yield from _causes(cause)


def find_proxy(origin: Origin) -> str | None:
    """Return the URL of the proxy for `origin` that the environment names."""
    if is_local(origin.host) or not any(name.lower().endswith("_proxy") for name in os.environ):
        return None
    import urllib.request

    if urllib.request.proxy_bypass(f"{origin.host}:{origin.port}"):
        return None
    proxies = urllib.request.getproxies()
    return proxies.get(origin.scheme) or proxies.get("all")


class _Pieces:
    """A body of `size` bytes, or of unknown size, in pieces. `is_whole` is True once all of it was
    taken.
    """

    def __init__(self, pieces: Iterable[bytes | memoryview], size: int | None) -> None:
        self._pieces = pieces
        self._size = size
        self.is_whole = False

    def __iter__(self) -> Iterator[bytes | memoryview]:
        try:
            yield from self._sized()
        except GeneratorExit:
            raise
        except BaseException as error:  # noqa: BLE001 — send raises it again
            raise _BodyFailed(error) from None
        self.is_whole = True

    def _sized(self) -> Iterator[bytes | memoryview]:
        total = 0
        for piece in self._pieces:
            total += len(piece)
            if self._size is not None and total > self._size:
                break  # the rest would be taken for the next request
            if self._size is not None:
                yield piece
                continue
            # urllib3 copies each chunk to frame it, which large ones double the cost of.
            view = memoryview(piece)
            for start in range(0, len(view), _CHUNK):
                yield view[start : start + _CHUNK]
        if self._size not in (None, total):
            raise SizeMismatch("body of a request", self._size or 0, total)


class _Watchful:
    """The differences of our connections, plain and TLS, from urllib3's."""

    sock: socket.socket | None
    _is_spoiled = False  # part of a request was sent: no other may follow on this connection

    def send(self, data: Any) -> None:
        """Send `data` unless an answer comes meanwhile, or the connection is closed, perhaps after
        one. urllib3 takes BrokenPipeError as the cue to read it.
        """
        if self.sock is None:
            self.connect()  # type: ignore[attr-defined]
        assert self.sock is not None
        try:
            _send(self.sock, memoryview(data).cast("B"))
        except TimeoutError:
            self._is_spoiled = True
            raise
        except OSError as error:  # TLS has errors of its own for a connection that was closed
            self._is_spoiled = True
            raise BrokenPipeError from error

    @property
    def is_connected(self) -> bool:
        """Return whether the connection can be used for another request."""
        return not self._is_spoiled and super().is_connected  # type: ignore[misc]

    def close(self) -> None:
        """Close the connection; the next request opens it again."""
        self._is_spoiled = False
        super().close()  # type: ignore[misc]

    def getresponse(self) -> urllib3.HTTPResponse:
        """Read an answer, all of which has to come in the time set."""
        deadline = time.monotonic() + (self.timeout or PATIENCE)  # type: ignore[attr-defined]
        self.response_class = partial(_Response, deadline)
        try:
            return super().getresponse()  # type: ignore[misc, no-any-return]
        finally:
            del self.response_class


class _Connection(_Watchful, HTTPConnection):  # type: ignore[misc]
    pass


class _TLSConnection(_Watchful, HTTPSConnection):  # type: ignore[misc]
    def connect(self) -> None:
        """Connect. Whether the certificate matters was decided by Trust; urllib3 would warn."""
        super().connect()
        self.is_verified = True


class _Pool(urllib3.HTTPConnectionPool):
    ConnectionCls = _Connection


class _TLSPool(urllib3.HTTPSConnectionPool):
    ConnectionCls = _TLSConnection


_POOLS: dict[str, type[urllib3.HTTPConnectionPool]] = {"http": _Pool, "https": _TLSPool}


class _Response(http.client.HTTPResponse):
    """An answer whose last byte has to be there at `deadline`, of time.monotonic()."""

    def __init__(self, deadline: float, sock: socket.socket, *args: Any, **more: Any) -> None:
        super().__init__(sock, *args, **more)
        self._timed = _Timed(deadline, sock, self.fp.detach())
        self.fp = io.BufferedReader(self._timed)

    def begin(self) -> None:
        """Read the headers. http.client takes those that are cut off for whole, or for nonsense."""
        try:
            super().begin()
        except http.client.BadStatusLine as error:
            begun = str(error.args[0])[: len(_BEGINNING)]
            if not self._timed.is_ended or not _BEGINNING.startswith(begun):
                raise
        if self._timed.is_ended:
            raise http.client.IncompleteRead(b"")


class _Timed(io.RawIOBase):
    """The bytes that a socket receives until `deadline`. `is_ended` is True after the last one."""

    def __init__(self, deadline: float, sock: socket.socket, raw: io.RawIOBase) -> None:
        self._deadline = deadline
        self._sock = sock
        self._raw = raw
        self.is_ended = False

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int | None:
        remaining = self._deadline - time.monotonic()
        if remaining <= 0:
            raise TimeoutError
        self._sock.settimeout(remaining)
        size = self._raw.readinto(buffer)
        self.is_ended = size == 0
        return size

    def close(self) -> None:
        if not self.closed:
            self._raw.close()
        super().close()


def _send(sock: socket.socket, data: memoryview) -> None:
    """Send `data`. Raises BrokenPipeError if the server has answered already."""
    sock.settimeout(_STALLED)
    if type(sock) is not socket.socket:
        # In TLS, bytes that arrive need not be an answer: only a stalled connection is looked at.
        try:
            sock.sendall(data)
        except TimeoutError:
            if select.select([sock], [], [], 0)[0]:
                raise BrokenPipeError from None
            raise
        return
    poll = select.poll()
    poll.register(sock, select.POLLIN | select.POLLOUT)
    while data:
        events = poll.poll(_STALLED * 1000)
        if not events:
            raise TimeoutError
        if events[0][1] & select.POLLIN:
            if not sock.recv(len(_INTERIM), socket.MSG_PEEK).startswith(_INTERIM):
                raise BrokenPipeError
            poll.modify(sock, select.POLLOUT)
        else:
            data = data[sock.send(data[:_SLICE]) :]


class _WithoutQueries(logging.Filter):
    """Removes queries from what urllib3 logs when it is asked to: they may be signed."""

    def filter(self, record: logging.LogRecord) -> bool:
        args = record.args if isinstance(record.args, tuple) else ()
        record.args = tuple(
            f"{arg.partition('?')[0]}?…" if isinstance(arg, str) and "?" in arg else arg
            for arg in args
        )
        return True


for _name in ("urllib3.connection", "urllib3.connectionpool"):
    logging.getLogger(_name).addFilter(_WithoutQueries())

"""Where docker is, and connections to it: a Unix socket, TCP with or without TLS, or ssh.

Chosen as the docker command does: by DOCKER_HOST, else by the current context, else the usual
socket. Must not know docker's API.
"""

from __future__ import annotations

import os
import socket
import subprocess
from collections.abc import Mapping
from hashlib import sha256
from http.client import HTTPConnection
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from stream.engines.ssh import SCHEME, SshHost
from stream.errors import ArgumentError, EngineError
from stream.parsing import parse_json
from stream.values import dataclass

DEFAULT_HOST = "unix:///var/run/docker.sock"
_CONNECT_SECONDS = 30
_PORT, _TLS_PORT = 2375, 2376


@dataclass(frozen=True, slots=True, kw_only=True)
class Endpoint:
    """Where docker is: `url`; `certificates` is the directory with the files of TLS, None for
    plain TCP. With `is_default`, nobody has chosen it.
    """

    url: str
    certificates: Path | None = None
    is_default: bool = False

    @property
    def label(self) -> str:
        """Docker and its place, for messages."""
        return f"docker at {self.url}"


def find_endpoint(host: str | None, environment: Mapping[str, str] = os.environ) -> Endpoint:
    """Return the endpoint at `host`, or the one that the docker command would use. Raises
    ArgumentError, or EngineError for a context that cannot be read.
    """
    home = Path(environment.get("DOCKER_CONFIG") or os.path.expanduser("~/.docker"))
    wants_tls = bool(environment.get("DOCKER_TLS_VERIFY") or environment.get("DOCKER_TLS"))
    certificates = Path(environment.get("DOCKER_CERT_PATH") or home) if wants_tls else None
    if chosen := host or environment.get("DOCKER_HOST"):
        return _endpoint(chosen, certificates)
    context = environment.get("DOCKER_CONTEXT") or _current_context(home)
    if context in ("", "default"):
        return Endpoint(url=DEFAULT_HOST, is_default=True)
    identity = sha256(context.encode()).hexdigest()
    path = home / "contexts" / "meta" / identity / "meta.json"
    try:
        chosen = str(_parsed(path)["Endpoints"]["docker"]["Host"])
    except (OSError, ValueError, LookupError, TypeError) as error:
        raise EngineError(f"docker's context {context}", f"cannot be read: {error}") from error
    files = home / "contexts" / "tls" / identity / "docker"
    return _endpoint(chosen, files if files.is_dir() else None)


def _endpoint(url: str, certificates: Path | None) -> Endpoint:
    scheme, separator, rest = url.partition("://")
    if not separator and url.startswith("/"):
        scheme, rest, url = "unix", url, f"unix://{url}"
    if scheme not in ("unix", "tcp", "ssh") or not rest or "\0" in rest:
        raise ArgumentError("host", url, "is not a URL with unix://, tcp:// or ssh://")
    return Endpoint(url=url, certificates=certificates if scheme == "tcp" else None)


def _current_context(home: Path) -> str:
    try:
        return str(_parsed(home / "config.json").get("currentContext") or "")
    except (OSError, ValueError, TypeError):
        return ""


def _parsed(path: Path) -> dict[str, Any]:
    document = parse_json(path.read_bytes())
    if not isinstance(document, dict):
        raise TypeError(f"{path} is not an object")
    return document


class DockerConnection(HTTPConnection):
    """A connection to docker, made when it is first used."""

    def __init__(self, endpoint: Endpoint) -> None:
        super().__init__("docker")
        self._endpoint = endpoint
        self._ssh: subprocess.Popen[bytes] | None = None

    def connect(self) -> None:
        """Connect. Raises OSError, or ArgumentError for a URL that cannot be used."""
        url = self._endpoint.url
        if url.startswith(SCHEME):
            self.sock = self._connect_by_ssh(SshHost.parse(url))
        elif url.startswith("tcp://"):
            self.sock = self._connect_by_tcp(url)
        else:
            self.sock = socket.socket(socket.AF_UNIX)
            self.sock.connect(url.removeprefix("unix://"))

    def close(self) -> None:
        """Close the connection, and end what carries it."""
        super().close()
        if self._ssh is not None:
            self._ssh.terminate()
            self._ssh.wait()
            self._ssh = None

    def _connect_by_tcp(self, url: str) -> socket.socket:
        try:
            parts = urlsplit(url)
            host, port = parts.hostname, parts.port
        except ValueError:
            host, port = None, None
        if host is None:
            raise ArgumentError("host", url, "is not of the form tcp://HOST[:PORT]")
        certificates = self._endpoint.certificates
        usual = _PORT if certificates is None else _TLS_PORT
        try:
            plain = socket.create_connection((host, port or usual), timeout=_CONNECT_SECONDS)
        except UnicodeError:
            raise ArgumentError("host", url, "has no valid host") from None
        plain.settimeout(None)  # docker answers a load once it has unpacked everything
        plain.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        if certificates is None:
            return plain
        import ssl

        try:
            authority = certificates / "ca.pem"
            context = ssl.create_default_context(cafile=authority if authority.exists() else None)
            if (certificates / "cert.pem").exists():
                context.load_cert_chain(certificates / "cert.pem", certificates / "key.pem")
            return context.wrap_socket(plain, server_hostname=host)
        except BaseException:
            plain.close()
            raise

    def _connect_by_ssh(self, host: SshHost) -> socket.socket:
        """Connect through `docker system dial-stdio` on the other host, as the docker command
        does.
        """
        where = [f"--host=unix://{host.path}"] if host.path else []
        command = host.command(["docker", *where, "system", "dial-stdio"])
        ours, theirs = socket.socketpair()
        with theirs:
            # Its standard error is the user's: it may say why it cannot connect.
            fd = theirs.fileno()
            self._ssh = subprocess.Popen(command, stdin=fd, stdout=fd)  # noqa: S603 — no shell here; the words are quoted
        return ours

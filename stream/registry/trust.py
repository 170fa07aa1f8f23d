"""How registries are reached: which hosts may be contacted, over what, with which certificates.

A registry decides where its uploads and tokens go, so every URL that it sends is checked here:
HTTPS unless the registry itself is plain, and no private address but its own. Certificates are
those of the system, and of containers-certs.d(5). Must not know credentials or requests.
"""

from __future__ import annotations

import os
import re
from typing import TYPE_CHECKING, NamedTuple, Self
from urllib.parse import urljoin, urlsplit

from stream.values import dataclass

if TYPE_CHECKING:
    import ssl

_PORTS = {"http": 80, "https": 443}
_MAX_URL = 16 << 10  # characters; signed URLs have some thousand
_URL = re.compile(r"[\x21-\x7e]+")
_HOST = re.compile(r"[A-Za-z0-9._-]+|[0-9A-Fa-f:.]+(?:%[A-Za-z0-9._-]+)?")
_SYSTEM_DIRECTORIES = ("/etc/containers/certs.d", "/etc/docker/certs.d")
_DOCKER_HUB = "docker.io"
_DOCKER_HUB_HOST = "registry-1.docker.io"


@dataclass(frozen=True, slots=True, kw_only=True)
class Access:
    """How a registry is reached. Without `tls_verify`, plain HTTP and any certificate will do, of
    that registry's host alone. `authfile` replaces the files in which credentials are looked up.
    """

    tls_verify: bool = True
    authfile: str | None = None


class UntrustedURL(ValueError):
    """A URL that must not be followed; the text says why, and contains no query."""


class Origin(NamedTuple):
    """The scheme, host and port of a URL. An IPv6 address has no brackets here."""

    scheme: str
    host: str
    port: int

    @property
    def authority(self) -> str:
        """Return `HOST` or, unless the port is the scheme's own, `HOST:PORT`."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return host if _PORTS[self.scheme] == self.port else f"{host}:{self.port}"

    def __str__(self) -> str:
        return f"{self.scheme}://{self.authority}"

    @classmethod
    def of_registry(cls, domain: str, scheme: str) -> Self:
        """Return the origin of the registry `domain`, as an image's name begins with it."""
        parts = urlsplit(f"//{_DOCKER_HUB_HOST if domain == _DOCKER_HUB else domain}")
        return cls(scheme, parts.hostname or "", parts.port or _PORTS[scheme])


class URL(NamedTuple):
    """A URL as it is requested: `target` is its path and query."""

    origin: Origin
    target: str

    def __str__(self) -> str:
        """Return the URL without its query, which may contain a signature."""
        path, question, _ = self.target.partition("?")
        return f"{self.origin}{path}{question and '?…'}"

    @classmethod
    def parse(cls, text: str, base: URL | None = None) -> Self:
        """Parse a URL, which is relative to `base` if there is one. Raises UntrustedURL."""
        if len(text) > _MAX_URL or not _URL.fullmatch(text):
            raise UntrustedURL("is not a URL")
        try:
            # Before anything is done to it: what a URL is relative to must not hide what it is.
            parts = urlsplit(text if base is None else urljoin(f"{base.origin}{base.target}", text))
            port = parts.port
        except ValueError:
            raise UntrustedURL("is not a URL") from None
        if parts.scheme not in _PORTS:
            raise UntrustedURL("is neither https nor http")
        if parts.username is not None or not _HOST.fullmatch(parts.hostname or ""):
            raise UntrustedURL("has no valid host")
        origin = Origin(parts.scheme, parts.hostname or "", port or _PORTS[parts.scheme])
        path = parts.path or "/"
        return cls(origin, f"{path}?{parts.query}" if parts.query else path)


def is_local(host: str) -> bool:
    """Return whether `host` is this machine by its usual names: plain HTTP to it stays here."""
    name = host.rstrip(".").lower()
    return name in ("localhost", "127.0.0.1", "::1") or name.endswith(".localhost")


def schemes(domain: str, access: Access) -> tuple[str, ...]:
    """Return the schemes that the registry `domain` may speak, the likelier one first."""
    if is_local(Origin.of_registry(domain, "http").host):
        return ("http", "https")
    return ("https",) if access.tls_verify else ("https", "http")


@dataclass(frozen=True, slots=True, kw_only=True)
class Trust:
    """The hosts that may be contacted on behalf of the registry at `registry`, and how."""

    registry: Origin
    access: Access

    def follow(self, text: str, base: URL | None = None) -> URL:
        """Parse a URL that the registry sent, and raise UntrustedURL unless it may be followed."""
        url = URL.parse(text, base)
        scheme, host, _ = url.origin
        if scheme == "http" and self.registry.scheme != "http":
            raise UntrustedURL(f"leads from https to {url.origin}")
        if host != self.registry.host and _is_private(host):
            raise UntrustedURL(f"leads to {url.origin}, a private address")
        return url

    def context(self, origin: Origin) -> ssl.SSLContext:
        """Return new TLS settings for `origin`. Raises OSError or ValueError for certificates that
        cannot be read.
        """
        import ssl

        context = ssl.create_default_context()
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        if not self.access.tls_verify and origin.host == self.registry.host:
            context.check_hostname = False
            context.verify_mode = ssl.CERT_NONE
        for directory in _directories(origin)[:1]:  # the first there is, as containers and docker
            for name in sorted(os.listdir(directory)):
                path = os.path.join(directory, name)
                stem, ending = os.path.splitext(path)
                if ending == ".crt":
                    context.load_verify_locations(path)
                elif ending == ".cert":
                    # A password would be asked for on the terminal; an empty one is refused instead.
                    context.load_cert_chain(path, f"{stem}.key", password="")
        return context


def _is_private(host: str) -> bool:
    """Return whether `host` is an address that other networks do not reach, in any notation that
    resolvers accept (127.1, 0x7f000001), or a name of this machine.
    """
    import ipaddress
    import socket

    if is_local(host):
        return True
    address: ipaddress.IPv4Address | ipaddress.IPv6Address
    try:
        address = ipaddress.ip_address(host.partition("%")[0])
    except ValueError:
        try:
            address = ipaddress.IPv4Address(socket.inet_aton(host.rstrip(".")))
        except OSError:
            return False
    if isinstance(address, ipaddress.IPv6Address) and address.ipv4_mapped:
        address = address.ipv4_mapped
    return not address.is_global


def _directories(origin: Origin) -> list[str]:
    """Return the directories with certificates for `origin`, those that exist."""
    config = os.environ.get("XDG_CONFIG_HOME") or os.path.expanduser("~/.config")
    host = f"[{origin.host}]" if ":" in origin.host else origin.host
    names = dict.fromkeys((origin.authority, f"{host}:{origin.port}"))
    places = (os.path.join(config, "containers", "certs.d"), *_SYSTEM_DIRECTORIES)
    paths = [os.path.join(place, name) for place in places for name in names]
    return [path for path in paths if os.path.isdir(path)]

"""What a registry may make us contact, for any URL that it can send."""

import ipaddress
import socket

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stream.registry.challenge import parse_challenges
from stream.registry.trust import URL, Access, Origin, Trust, UntrustedURL, schemes

REGISTRY = Trust(registry=Origin("https", "registry.example", 443), access=Access())
PLAIN = Trust(registry=Origin("http", "registry.example", 80), access=Access(tls_verify=False))
BASE = URL.parse("http://registry.example/v2/a/blobs/uploads/u?state=1")

_NUMBERS = st.one_of(
    st.integers(0, 2**32 - 1).map(str),
    st.integers(0, 2**32 - 1).map(hex),
    st.integers(0, 2**32 - 1).map(lambda value: f"0{value:o}"),
    st.integers(0, 255).map(str),
    st.sampled_from(["127", "10", "0", "0x7f", "0177", "169", "254", "192", "168", "1"]),
)
_HOSTS = st.lists(_NUMBERS, min_size=1, max_size=4).map(".".join) | st.ip_addresses(v=6).map(
    lambda address: f"[{address}]"
)
_TEXTS = st.text(st.characters(codec="latin-1") | st.sampled_from(":/?#@\\[]%."), max_size=40)


@given(_HOSTS)
def test_no_private_address_in_any_notation(host: str) -> None:
    """What the system's resolver takes for an address is one, however it is written."""
    try:
        found = socket.getaddrinfo(host.strip("[]"), 80, flags=socket.AI_NUMERICHOST)
    except OSError:
        return
    addresses = [ipaddress.ip_address(item[4][0]) for item in found]
    try:
        PLAIN.follow(f"http://{host}/u")
    except UntrustedURL:
        return
    assert all(address.is_global for address in addresses)


@given(st.sampled_from(["", "http://", "https://", "//", "/", "HTTP:"]), _TEXTS)
def test_any_text(scheme: str, text: str) -> None:
    """Whatever comes is refused, or is a URL whose host and target mean the same to everybody."""
    for trust, base in ((REGISTRY, None), (PLAIN, BASE)):
        try:
            url = trust.follow(scheme + text, base)
        except UntrustedURL:
            continue
        assert url.target.startswith("/")
        assert url.target.isascii()
        assert url.target.isprintable()
        assert " " not in url.target
        assert not set(url.origin.host) & set("/\\@?#[] ")
        assert URL.parse(f"{url.origin}{url.target}") == url
        if trust is REGISTRY:
            assert url.origin.scheme == "https"


@given(st.lists(_TEXTS | st.text(st.sampled_from('Bearer =",\\ ')), max_size=3))
def test_any_challenge(values: list[str]) -> None:
    """A header that nobody can read is not a reason to end without a message."""
    for challenge in parse_challenges(values):
        assert challenge.scheme == challenge.scheme.lower()


@pytest.mark.parametrize(
    ("domain", "verified", "unverified"),
    [
        ("registry.example", ("https",), ("https", "http")),
        ("10.0.0.1:5000", ("https",), ("https", "http")),
        ("127.0.0.2", ("https",), ("https", "http")),
        ("localhost.example", ("https",), ("https", "http")),
        ("localhost:5000", ("http", "https"), ("http", "https")),
        ("a.localhost", ("http", "https"), ("http", "https")),
        ("127.0.0.1:1", ("http", "https"), ("http", "https")),
        ("[::1]:5000", ("http", "https"), ("http", "https")),
    ],
)
def test_plain_http(domain: str, verified: tuple[str, ...], unverified: tuple[str, ...]) -> None:
    """Unasked, nothing but this machine is spoken to in the clear."""
    assert schemes(domain, Access()) == verified
    assert schemes(domain, Access(tls_verify=False)) == unverified

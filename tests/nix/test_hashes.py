"""Nix32, shortened hashes, and the notations of a SHA-256.

The expected values were printed by Nix; `consumers/test_nix.py` runs a real one.
"""

import base64
import hashlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stream.nix.hashes import compress_hash, decode_nix_base32, encode_nix_base32, parse_sha256

EMPTY = hashlib.sha256(b"").digest()
EMPTY_BASE32 = "0mdqa9w1p6cmli6976v4wi0sw9r4p5prkj7lzfd1877wk11c9c73"


def bits(data: bytes) -> str:
    """Return the digits as Nix's manual defines them: five bits each, the last ones first."""
    text = "".join(f"{byte:08b}" for byte in reversed(data))
    text = text.zfill((len(text) + 4) // 5 * 5)
    digits = "0123456789abcdfghijklmnpqrsvwxyz"
    return "".join(digits[int(text[at : at + 5], 2)] for at in range(0, len(text), 5))


def test_known_hash() -> None:
    """People compare with the output of `nix-hash`."""
    assert encode_nix_base32(EMPTY) == EMPTY_BASE32
    assert decode_nix_base32(EMPTY_BASE32) == EMPTY


@given(data=st.binary(max_size=70))
def test_digits_of_any_bytes(data: bytes) -> None:
    """Nix's tools and users would not recognise a tag in other digits."""
    text = encode_nix_base32(data)
    assert text == bits(data)
    assert decode_nix_base32(text) == data


@pytest.mark.parametrize("text", ["0", "z", "e0", "0O", "1_", " 1", "+1", "zz", "000"])
def test_not_nix_base_32(text: str) -> None:
    """A hash that lost a digit must not be read as a different hash."""
    with pytest.raises(ValueError, match="is not Nix's base 32"):
        decode_nix_base32(text)


def test_path_of_a_text() -> None:
    """`builtins.toFile` makes this path: hash, shortening and digits together."""
    inner = hashlib.sha256(b"hello").hexdigest()
    name = f"text:sha256:{inner}:/nix/store:hello.txt"
    short = compress_hash(hashlib.sha256(name.encode()).digest(), 20)
    assert encode_nix_base32(short) == "q790zdjk75hm2cn42nh77pqw4gbv1b88"


@given(digest=st.binary(min_size=1, max_size=64), size=st.integers(1, 64))
def test_shortened_bytes(digest: bytes, size: int) -> None:
    """If a byte of the hash were lost, different inputs could share a tag."""
    folded = compress_hash(digest, size)
    assert len(folded) == size
    for place in range(size):
        expected = 0
        for byte in digest[place::size]:
            expected ^= byte
        assert folded[place] == expected


@pytest.mark.parametrize(
    "text",
    [
        EMPTY.hex(),
        f"sha256:{EMPTY.hex()}",
        f"sha256:{EMPTY.hex().upper()}",
        EMPTY_BASE32,
        f"sha256:{EMPTY_BASE32}",
        f"sha256-{base64.b64encode(EMPTY).decode()}",
        f"sha256:{base64.b64encode(EMPTY).decode()}",
    ],
)
def test_notations_of_all_nix_versions(text: str) -> None:
    """Nix commands use different notations, and the database requires one of them."""
    assert parse_sha256(text) == EMPTY


@pytest.mark.parametrize(
    "text",
    [
        "",
        "sha256:",
        "sha256-",
        EMPTY.hex()[:-1],
        f"sha256-{EMPTY.hex()}",
        f"md5:{EMPTY.hex()}",
        f"sha1-{base64.b64encode(b'x' * 20).decode()}",
        f"sha256-{base64.b64encode(b'x' * 31).decode()}",
        f" {EMPTY.hex()}",
        f"{EMPTY.hex()}\n",
        "e" * 52,
        "z" * 52,
        "sha256:" + "é" * 64,
        "sha256:" + "\N{ARABIC-INDIC DIGIT THREE}" * 64,
    ],
)
def test_not_a_sha256(text: str) -> None:
    """A wrong hash in a database would be noticed only when the container runs."""
    with pytest.raises(ValueError, match="is not"):
        parse_sha256(text)

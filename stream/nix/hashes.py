"""Hashes as Nix writes them: Nix32, shortened hashes, the notations of a SHA-256, and the
names of store paths.

Nix manual, "Store path", "Nix32 encoding". Must not know stores or documents.
"""

from __future__ import annotations

import base64
import re

DIGITS = "0123456789abcdfghijklmnpqrsvwxyz"  # without e, o, t and u
# The last component of a store path, as a regular expression: 32 digits and a name.
STORE_NAME = rf"[{DIGITS}]{{32}}-[0-9a-zA-Z+._?=-]{{1,211}}"
MAX_STORE_NAME = 32 + 1 + 211
_STORE_NAME = re.compile(STORE_NAME.encode())
_PYTHON_DIGITS = str.maketrans(DIGITS, "0123456789abcdefghijklmnopqrstuv")
_TEXT = re.compile(f"[{DIGITS}]*")
# The encoding is recognized by its length alone; after `sha256-` it is base64.
_SHA256 = re.compile(r"(?:sha256:)?([0-9a-fA-F]{64}|[0-9a-z]{52})|sha256[-:]([0-9a-zA-Z+/]{43}=)")
_SHA256_SIZE = 32


def is_hashed_path(path: bytes, store_dir: bytes) -> bool:
    """Return True if `path` is a store path with a hash in its name, or is in one: the name
    identifies its content.
    """
    name = path.removeprefix(store_dir + b"/").split(b"/", 1)[0]
    return path.startswith(store_dir + b"/") and _STORE_NAME.fullmatch(name) is not None


def encode_nix_base32(data: bytes) -> str:
    """Encode `data` in Nix32: as a little-endian number, most significant digit first."""
    value = int.from_bytes(data, "little")
    count = (len(data) * 8 + 4) // 5
    return "".join(DIGITS[value >> 5 * place & 31] for place in reversed(range(count)))


def decode_nix_base32(text: str) -> bytes:
    """Decode Nix32. Raises ValueError."""
    size = len(text) * 5 // 8
    value = int(text.translate(_PYTHON_DIGITS) or "0", 32) if _TEXT.fullmatch(text) else -1
    if value < 0 or value >> 8 * size or len(text) != (size * 8 + 4) // 5:
        raise ValueError(f"{text!r} is not Nix's base 32")
    return value.to_bytes(size, "little")


def compress_hash(digest: bytes, size: int) -> bytes:
    """Shorten `digest` to `size` bytes as Nix does: the bytes beyond are folded back onto
    them by exclusive or.
    """
    folded = bytearray(size)
    for place, byte in enumerate(digest):
        folded[place % size] ^= byte
    return bytes(folded)


def to_sri(digest: str) -> str:
    """Write a SHA-256 that is given as `sha256:` and 64 hex digits as Nix does, in base64 after
    `sha256-` (Subresource Integrity).
    """
    data = bytes.fromhex(digest.removeprefix("sha256:"))
    return f"sha256-{base64.b64encode(data).decode()}"


def parse_sha256(text: str) -> bytes:
    """Decode a SHA-256: hexadecimal or Nix32, with or without `sha256:`, or base64 after
    `sha256-` or `sha256:`. Raises ValueError.
    """
    match = _SHA256.fullmatch(text)
    if match is None:
        raise ValueError(f"{text!r} is not a SHA-256 as Nix writes it")
    plain, base = match.groups()
    if base is not None:
        return base64.b64decode(base)
    return bytes.fromhex(plain) if len(plain) == 2 * _SHA256_SIZE else decode_nix_base32(plain)

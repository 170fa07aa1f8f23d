"""Hashes as Nix writes them: its base 32, its shortening, the notations of a SHA-256, and
the names of store paths.

Nix manual, "Store path", "Nix32 encoding". Knows no store and no document.
"""

from __future__ import annotations

import base64
import re

DIGITS = "0123456789abcdfghijklmnpqrsvwxyz"  # without e, o, t and u
# The last component of a store path, as a regular expression: 32 digits and a name.
STORE_NAME = rf"[{DIGITS}]{{32}}-[0-9a-zA-Z+._?=-]{{1,211}}"
MAX_STORE_NAME = 32 + 1 + 211
_PYTHON_DIGITS = str.maketrans(DIGITS, "0123456789abcdefghijklmnopqrstuv")
_TEXT = re.compile(f"[{DIGITS}]*")
# The value of a hash is told by its length alone; base64 is what follows `sha256-`.
_SHA256 = re.compile(r"(?:sha256:)?([0-9a-fA-F]{64}|[0-9a-z]{52})|sha256[-:]([0-9a-zA-Z+/]{43}=)")
_SHA256_SIZE = 32


def nix_base32(data: bytes) -> str:
    """`data` in Nix's base 32: a number with the least significant byte first, its most
    significant digit first.
    """
    value = int.from_bytes(data, "little")
    count = (len(data) * 8 + 4) // 5
    return "".join(DIGITS[value >> 5 * place & 31] for place in reversed(range(count)))


def from_nix_base32(text: str) -> bytes:
    """The bytes that `text` stands for. Raises ValueError."""
    size = len(text) * 5 // 8
    value = int(text.translate(_PYTHON_DIGITS) or "0", 32) if _TEXT.fullmatch(text) else -1
    if value < 0 or value >> 8 * size or len(text) != (size * 8 + 4) // 5:
        raise ValueError(f"{text!r} is not Nix's base 32")
    return value.to_bytes(size, "little")


def compressed(digest: bytes, size: int) -> bytes:
    """`digest` as Nix shortens it to `size` bytes: what is behind them is folded over them,
    by exclusive or.
    """
    folded = bytearray(size)
    for place, byte in enumerate(digest):
        folded[place % size] ^= byte
    return bytes(folded)


def sha256_of(text: str) -> bytes:
    """The SHA-256 that `text` stands for: in hexadecimal or Nix's base 32, with or without
    `sha256:`, or in base64 behind `sha256-`. Raises ValueError.
    """
    match = _SHA256.fullmatch(text)
    if match is None:
        raise ValueError(f"{text!r} is not a SHA-256 as Nix writes it")
    plain, base = match.groups()
    if base is not None:
        return base64.b64decode(base)
    return bytes.fromhex(plain) if len(plain) == 2 * _SHA256_SIZE else from_nix_base32(plain)

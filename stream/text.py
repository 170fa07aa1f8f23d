"""Text made safe for one line of a terminal or a log. Knows nothing of the package."""

from __future__ import annotations


def printable(name: bytes) -> str:
    """`name` as text on one line: what is not printable UTF-8 stands escaped."""
    return one_line(name.decode("utf-8", "surrogateescape"))


def one_line(text: str) -> str:
    """`text` with what is not printable escaped, so that it stays on its line."""
    return "".join(
        char
        if char.isprintable()
        else (f"\\x{ord(char) - 0xDC00:02x}" if "\udc80" <= char <= "\udcff" else repr(char)[1:-1])
        for char in text
    )

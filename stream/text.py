"""Text made safe for a terminal or a log. Knows nothing of the rest of the package."""

from __future__ import annotations


def printable(name: bytes) -> str:
    """Return `name` as text on one line; bytes that are not printable UTF-8 are escaped."""
    return one_line(name.decode("utf-8", "surrogateescape"))


def one_line(text: str) -> str:
    """Return `text` on one line; characters that are not printable are escaped."""
    return "".join(
        char
        if char.isprintable()
        else (f"\\x{ord(char) - 0xDC00:02x}" if "\udc80" <= char <= "\udcff" else repr(char)[1:-1])
        for char in text
    )


def some_lines(text: str) -> str:
    """Return `text` with its line feeds; other characters that are not printable are escaped."""
    return "\n".join(map(one_line, text.split("\n")))

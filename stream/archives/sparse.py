"""Sparse files in pax headers: GNU tar's versions 0.0, 0.1 and 1.0, as Go's archive/tar reads
them, with which docker, podman and containerd read layers.

Format: GNU tar's manual, "Storing Sparse Files". The records of version 0.0, one for each
number, are turned into those of 0.1. What is stored of a file is its data without the holes,
after the map in version 1.0. Knows records and bytes; must not know tar headers.
"""

from __future__ import annotations

from collections.abc import Sequence

from stream.archives.bytesource import ByteSource, read_exactly
from stream.limits import NAME_COST

NUMBERS = b"GNU.sparse.offset", b"GNU.sparse.numbytes"  # of version 0.0, in turn
NAME = "GNU.sparse.name"

_PREFIX, _MAP, _BLOCKS = "GNU.sparse.", "GNU.sparse.map", "GNU.sparse.numblocks"
_MAJOR, _MINOR = "GNU.sparse.major", "GNU.sparse.minor"
_SIZES = "GNU.sparse.size", "GNU.sparse.realsize"
_BLOCK = 512
_MAX_MAP = 1 << 20  # bytes
_MAX_DIGITS = 20  # of a number; without a limit, a line of megabytes would be read again and again


def join_numbers(records: dict[str, bytes], numbers: Sequence[tuple[bytes, bytes]]) -> None:
    """Replace `numbers`, records of version 0.0 in order, by the map of version 0.1. If they
    are not in turn, the map is one that no file has.
    """
    in_turn = all(key == NUMBERS[index % 2] for index, (key, _) in enumerate(numbers))
    records[_MAP] = b",".join(value for _, value in numbers) if in_turn else b"-"
    for key in NUMBERS:
        records.pop(key.decode(), None)


def is_sparse(records: dict[str, bytes]) -> bool:
    """Return whether a file with these records is sparse, in a known version."""
    if not any(key.startswith(_PREFIX) for key in records):
        return False
    version = records.get(_MAJOR, b""), records.get(_MINOR, b"")
    if version == (b"", b""):  # GNU tar writes no version for 0.0 and 0.1
        return _MAP in records
    return version in {(b"0", b"0"), (b"0", b"1"), (b"1", b"0")}


def sparse_name(records: dict[str, bytes]) -> bytes | None:
    """Return the name of a sparse file with these records, or None if it is elsewhere."""
    return records.get(NAME) if NAME in records and is_sparse(records) else None


def read_map(
    records: dict[str, bytes], size: int, content: ByteSource
) -> tuple[int, list[tuple[int, int]]]:
    """Return the size of a sparse file of which `size` bytes are stored, and its map; `content`
    is at their beginning, and then at that of the data. A map is the offsets and sizes of data,
    in order, within the file, and of all that is stored. Raises ValueError for a malformed one,
    ArchiveError if `content` is cut.
    """
    if records.get(_MAJOR) == b"1":
        begin = content.position
        numbers = _stored_map(content, size)
        stored = size - (content.position - begin)
    else:
        numbers = [parse_decimal(text) for text in records.get(_MAP, b"").split(b",") if text]
        stored = size
        if len(numbers) != 2 * parse_decimal(records.get(_BLOCKS, b"")):
            raise ValueError("its map has another number of blocks")
    end = 0
    pairs = [*zip(numbers[::2], numbers[1::2], strict=True)]
    for offset, length in pairs:
        if offset < end or length < 0:
            raise ValueError("its map is not in order")
        end = offset + length
    whole = parse_decimal(next((records[key] for key in _SIZES if records.get(key)), b"%d" % size))
    if end > whole or sum(numbers[1::2]) != stored:
        raise ValueError("its map has another size")
    return whole, pairs


def _stored_map(content: ByteSource, size: int) -> list[int]:
    """Return the numbers of a map of version 1.0: the count of pairs, then the pairs, a line
    each, in whole blocks. Raises ValueError.
    """
    lines: list[bytes] = []
    rest = b""
    read = 0
    while not lines or len(lines) <= 2 * parse_decimal(lines[0]):
        read += _BLOCK
        if read > min(size, _MAX_MAP) or len(rest) > _MAX_DIGITS:
            raise ValueError("its map has no end")
        content.budget.take(NAME_COST * _BLOCK, content.name, "has too many maps of sparse files")
        *more, rest = (rest + read_exactly(content, _BLOCK)).split(b"\n")
        lines += more
    return [parse_decimal(line) for line in lines[1 : 1 + 2 * parse_decimal(lines[0])]]


def parse_decimal(text: bytes) -> int:
    """Parse a number. Raises ValueError, also for the spaces and underscores that int()
    accepts and other readers refuse.
    """
    if not text.removeprefix(b"-").isdigit():
        raise ValueError(f"{text!r} is not a number")
    return int(text)

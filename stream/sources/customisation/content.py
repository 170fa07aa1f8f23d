"""The content of a tree's files on disk, none of which may have changed since the walk.

Knows nodes; not where the bytes go.
"""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager

from stream.errors import SourceError
from stream.sources.customisation.tree import Node

CHANGED = "changed since it was walked"
PIECE = 1 << 20


@contextmanager
def opened(node: Node) -> Iterator[int]:
    """Open the file that has a node's content. Raises SourceError if it has changed since
    the walk, both when it is opened and when it is closed. Never blocks, even if a FIFO has
    taken its place.
    """
    try:
        fd = os.open(
            node.source, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC
        )
    except OSError as error:
        if error.errno == errno.ELOOP:
            raise SourceError(node.source, CHANGED) from error
        raise SourceError.unreadable(node.source, error) from error
    try:
        _check(fd, node)
        yield fd
        _check(fd, node)
    finally:
        os.close(fd)


def pieces(node: Node) -> Iterator[bytes]:
    """Yield the content of a file in the tree, in memory or on disk. Raises SourceError."""
    if node.data is not None:
        yield node.data
    elif node.source:
        with opened(node) as fd:
            if node.head:
                yield node.head
                os.lseek(fd, len(node.head), os.SEEK_SET)
            while piece := read(fd, node):
                yield piece


def read(fd: int, node: Node, count: int = PIECE) -> bytes:
    """Return at most `count` bytes of `fd`, the open file of `node`. Raises SourceError."""
    try:
        return os.read(fd, count)
    except OSError as error:
        raise SourceError.unreadable(node.source, error) from error


def _check(fd: int, node: Node) -> None:
    status = os.fstat(fd)
    same = node.identity is not None and node.identity.holds(status)
    if not stat.S_ISREG(status.st_mode) or not same:
        raise SourceError(node.source, CHANGED)

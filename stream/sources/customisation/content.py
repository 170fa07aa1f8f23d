"""The content of a tree's files on disk: each has to be the file that it was.

Knows nodes; not what becomes of the bytes.
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
    """The file that has a node's content. Raises SourceError unless it is the one that
    it was, before and after it is read. Never waits on what is no file any more.
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
    """The content of a file in the tree, wherever it is. Raises SourceError."""
    if node.data is not None:
        yield node.data
    elif node.source:
        with opened(node) as fd:
            while piece := _read(fd, node):
                yield piece


def _read(fd: int, node: Node) -> bytes:
    try:
        return os.read(fd, PIECE)
    except OSError as error:
        raise SourceError.unreadable(node.source, error) from error


def _check(fd: int, node: Node) -> None:
    status = os.fstat(fd)
    identity = (status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns)
    if not stat.S_ISREG(status.st_mode) or identity != node.identity:
        raise SourceError(node.source, CHANGED)

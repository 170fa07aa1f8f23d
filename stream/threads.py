"""Starting threads, which the system may refuse. Must not know what they do."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from stream.errors import ThreadError


@contextmanager
def starting() -> Iterator[None]:
    """Raise ThreadError if the body, which starts a thread and does nothing else, cannot."""
    try:
        yield
    except RuntimeError as error:  # Python has no class of its own for it
        raise ThreadError from error

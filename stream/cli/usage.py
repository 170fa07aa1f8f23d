"""The error for a command line that cannot be carried out. The library never raises it."""

from __future__ import annotations

from stream.errors import StreamImageError


class UsageError(StreamImageError, ValueError):
    """A command line that cannot be carried out; the message names the argument."""

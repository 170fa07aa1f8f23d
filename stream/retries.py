"""When something is tried again after an error that may pass. Knows errors, not what is tried."""

from __future__ import annotations

import random

from stream.errors import StreamImageError

# Seconds before each further attempt, and by how much that varies: many clients that failed
# together do not come back together.
BACK_OFF = (1.0, 3.0, 9.0)
JITTER = 0.25
MAX_RETRY_AFTER = 60.0  # seconds; who asks for more is not waited for


class Retries:
    """The further attempts at one thing."""

    def __init__(self) -> None:
        self._left = iter(BACK_OFF)

    def pause(self, asked: float | None = None) -> float | None:
        """Return for how many seconds to wait before the next attempt, at least those `asked` for;
        None if there is none.
        """
        pause, asked = next(self._left, None), asked or 0.0
        if pause is None or asked > MAX_RETRY_AFTER:
            return None
        return max(asked, pause * random.uniform(1 - JITTER, 1 + JITTER))  # noqa: S311

    def pause_after(self, error: BaseException) -> float | None:
        """Return the same after `error`, which may not be worth another attempt."""
        if not isinstance(error, StreamImageError) or not error.is_passing:
            return None
        return self.pause(error.retry_after)

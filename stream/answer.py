"""What a verb has found, on standard output: text for people, JSON for programs.

Knows nothing of what it says.
"""

from __future__ import annotations

import json
import os
import select
import sys
from typing import Any

from stream.errors import OutputError, ReaderClosedError
from stream.output import standard_output


def say_text(text: str) -> None:
    """Write `text` and a newline. Raises OutputError.

    Unbuffered: what a buffer still holds when the reader has gone would be an error
    again at exit. In a locale that cannot write a character it stands escaped.
    """
    encoding = sys.stdout.encoding if sys.stdout is not None else "utf-8"
    data = memoryview((text + "\n").encode(encoding, "backslashreplace"))
    with standard_output() as fd:
        try:
            while data:
                try:
                    data = data[os.write(fd, data) :]
                except BlockingIOError:  # others have made it non-blocking
                    select.select([], [fd], [])
        except BrokenPipeError as error:
            raise ReaderClosedError(error.errno, "the reader closed the pipe") from error
        except OSError as error:
            raise OutputError(
                error.errno, f"standard output cannot be written: {error.strerror}"
            ) from error


def say_json(document: Any) -> None:
    """Write `document`, in ASCII and indented. Raises OutputError."""
    say_text(json.dumps(document, indent=2))

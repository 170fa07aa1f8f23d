"""What a verb has found, on standard output: text for people, JSON for programs.

Knows nothing of what it says.
"""

from __future__ import annotations

import json
import sys
from typing import Any

from stream.output import standard_output, write_all


def say_text(text: str) -> None:
    """Write `text` and a newline. Raises OutputError.

    In a locale that cannot write a character it stands escaped.
    """
    encoding = sys.stdout.encoding if sys.stdout is not None else "utf-8"
    data = (text + "\n").encode(encoding, "backslashreplace")
    with standard_output() as fd:
        write_all(fd, data, "standard output")


def say_json(document: Any) -> None:
    """Write `document`, in ASCII and indented. Raises OutputError."""
    say_text(json.dumps(document, indent=2))

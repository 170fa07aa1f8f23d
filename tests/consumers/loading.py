"""A program that loads the image of a conf through the library, and interferes once its layers begin
to pass: `python loading.py CONF ENGINE (kill | run COMMAND…)`. Knows only the library.
"""

import os
import signal
import subprocess
import sys
from typing import Any

import stream
from stream.digests.store import default_directory


class Interfering(stream.Observer):
    """Kills this process, or runs a command, when the first archive has begun."""

    def __init__(self, *command: str) -> None:
        self._command = command

    def layer_started(self, number: int, label: str, archive_name: str, size: int) -> None:
        """Interfere."""
        if self._command == ("kill",):
            os.kill(os.getpid(), signal.SIGKILL)
        if self._command:
            subprocess.run(self._command[1:], check=True, stdout=subprocess.DEVNULL)
        self._command = ()

    def warning(self, message: str) -> None:
        """Print the message."""
        print(message)


def main(conf: str, engine: Any, *command: str) -> None:
    """Load and interfere."""
    digests = stream.DigestCache(str(default_directory(os.environ)))
    observer = Interfering(*command)
    stream.load(stream.load_conf(conf), observer, engine=engine, digests=digests)


if __name__ == "__main__":
    main(*sys.argv[1:])

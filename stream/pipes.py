"""Pipes, and the threads that empty or fill them. Knows nothing of what passes."""

from __future__ import annotations

import io
import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import BinaryIO

from stream.errors import OutputError


def _write_all(output: BinaryIO, data: bytes) -> None:
    """Write all of `data`: a raw object may take a part, or nothing yet (None)."""
    rest = memoryview(data)
    while rest:
        rest = rest[output.write(rest) or 0 :]


@contextmanager
def descriptor_of(output: int | BinaryIO) -> Iterator[int]:
    """A file descriptor whose bytes reach `output`: its own where it has one,
    else a pipe that a thread empties into it.
    """
    if isinstance(output, int):
        yield output
        return
    # Of these alone the descriptor is where their bytes go: others have one too
    # (gzip.GzipFile) and do more than write to it.
    if isinstance(output, (io.FileIO, io.BufferedWriter, io.BufferedRandom)):
        output.flush()
        yield output.fileno()
        return

    read_end, write_end = os.pipe()
    failure: list[BaseException] = []

    def pump() -> None:
        with open(read_end, "rb", buffering=0) as pipe:
            try:
                while data := pipe.read(1 << 18):
                    _write_all(output, data)
            except BaseException as error:  # noqa: BLE001 — raised again below
                failure.append(error)

    thread = threading.Thread(target=pump, name="pump", daemon=True)
    thread.start()
    try:
        yield write_end
    except OutputError:
        # The pump closed its end because the object failed: that is the cause.
        os.close(write_end)
        write_end = -1
        thread.join()
        if failure:
            raise failure[0] from None
        raise
    finally:
        if write_end >= 0:
            os.close(write_end)
            thread.join()
    if failure:
        raise failure[0]

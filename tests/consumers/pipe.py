"""Commands joined by pipes as a shell would do: no byte passes through Python.

Knows processes; must not know what they are.
"""

import subprocess
import tempfile
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Final

SECONDS: Final = 120
"""The time limit for a whole pipe."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Stage:
    """A command of a pipe. Without an environment it has the caller's."""

    argv: Sequence[str]
    environment: Mapping[str, str] | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Ended:
    """The result of a command. Standard output is kept only for the last one of a pipe."""

    argv: Sequence[str]
    status: int
    stdout: str
    stderr: str


def run_pipe(*stages: Stage, source: Path | None = None) -> tuple[Ended, ...]:
    """Run all stages at once; the first one reads a regular file or nothing."""
    with ExitStack() as stack:
        stdin: IO[bytes] | int | None = (
            stack.enter_context(source.open("rb")) if source else subprocess.DEVNULL
        )
        output = stack.enter_context(tempfile.TemporaryFile())
        errors = [stack.enter_context(tempfile.TemporaryFile()) for _ in stages]
        processes: list[subprocess.Popen[bytes]] = []
        for stage, error in zip(stages, errors, strict=True):
            last = len(processes) == len(stages) - 1
            process = subprocess.Popen(
                stage.argv,
                env=stage.environment,
                stdin=stdin,
                stdout=output if last else subprocess.PIPE,
                stderr=error,
            )
            stack.callback(_end, process)
            # The reader must be the only holder of the pipe, or its writer does not notice when the reader has gone.
            if processes and processes[-1].stdout:
                processes[-1].stdout.close()
            processes.append(process)
            stdin = process.stdout
        for process in reversed(processes):
            process.wait(SECONDS)
        return tuple(
            Ended(
                argv=stage.argv,
                status=process.returncode,
                stdout=_text(output) if process is processes[-1] else "",
                stderr=_text(error),
            )
            for stage, process, error in zip(stages, processes, errors, strict=True)
        )


def _end(process: subprocess.Popen[bytes]) -> None:
    if process.poll() is None:
        process.kill()
        process.wait()


def _text(file: IO[bytes]) -> str:
    file.seek(0)
    return file.read().decode(errors="replace")

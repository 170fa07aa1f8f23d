"""The programs of engines that are used through their command lines. Must not know what they
print.
"""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from tempfile import TemporaryFile
from typing import IO, TypeVar

from stream.engines.ssh import SshHost
from stream.errors import EngineError, ReaderClosedError
from stream.pipes import enlarge
from stream.text import one_line
from stream.values import dataclass, field

_MAX_COMPLAINT = 1 << 16  # bytes kept of what a program printed on standard error

Written = TypeVar("Written")


@dataclass(frozen=True, slots=True, kw_only=True)
class Program:
    """A program with its first arguments, on this host or another. `label` names it in errors. On
    this host, its environment is ours with `variables`.
    """

    words: tuple[str, ...]
    host: SshHost | None = None
    variables: Mapping[str, str] = field(default_factory=dict)

    @property
    def label(self) -> str:
        """The program and its host, for messages."""
        name = self.words[0]
        return name if self.host is None else f"{name} at {self.host.host}"

    def is_installed(self) -> bool:
        """Return whether the program is in PATH; on another host, whether ssh is."""
        return shutil.which(self._command()[0]) is not None

    def output(self, *words: str, partial: bool = False) -> str:
        """Run the program with the arguments `words`, and return its standard output. Raises
        EngineError if it fails; with `partial`, what it has printed by then will do.
        """
        with TemporaryFile() as errors:
            with self._started(words, subprocess.DEVNULL, subprocess.PIPE, errors) as process:
                output, _ = process.communicate()
            if process.returncode and not partial:
                raise self._failure(process.returncode, errors)
            return str(output.decode(errors="replace"))

    def feed(self, write: Callable[[int], Written], *words: str) -> Written:
        """Run the program with the arguments `words`. `write` writes its standard input to a
        descriptor; its result is returned. Raises EngineError if the program fails, and the
        exceptions of `write`.
        """
        with (
            TemporaryFile() as errors,
            self._started(words, subprocess.PIPE, subprocess.DEVNULL, errors) as process,
        ):
            assert process.stdin is not None, "a pipe"
            try:
                enlarge(process.stdin.fileno())
                written = write(process.stdin.fileno())
            except ReaderClosedError as closed:
                process.stdin.close()
                raise self._failure(process.wait(), errors) from closed
            process.stdin.close()
            if process.wait():
                raise self._failure(process.returncode, errors)
            return written

    def _command(self, words: tuple[str, ...] = ()) -> list[str]:
        command = [*self.words, *words]
        return command if self.host is None else self.host.command(command)

    @contextmanager
    def _started(
        self, words: tuple[str, ...], stdin: int, stdout: int, errors: IO[bytes]
    ) -> Iterator[subprocess.Popen[bytes]]:
        """Start the program. If the body fails, or is interrupted, it is killed."""
        command = self._command(words)
        try:
            process = subprocess.Popen(  # noqa: S603 — no shell here; for ssh, the words are quoted
                command,
                stdin=stdin,
                stdout=stdout,
                stderr=errors,
                env={**os.environ, **self.variables},
            )
        except FileNotFoundError:
            raise EngineError(self.label, f"needs {command[0]}, which is not installed") from None
        except OSError as error:
            reason = f"{command[0]} cannot be started: {error.strerror}"
            raise EngineError(self.label, reason) from error
        with process:
            try:
                yield process
            except BaseException:
                process.kill()  # before its input ends, which it could take for complete
                process.wait()  # which a KeyboardInterrupt would keep `with` from
                raise

    def _failure(self, status: int, errors: IO[bytes]) -> EngineError:
        """Return the error for a program that ended with `status`, in its own words."""
        errors.seek(0)
        lines = errors.read(_MAX_COMPLAINT).decode(errors="replace").strip().splitlines()
        return EngineError(self.label, one_line(" ".join(lines)) or f"ended with status {status}")

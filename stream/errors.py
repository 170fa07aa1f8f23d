"""The exceptions of this package: one tree, each also the builtin exception it resembles.

The text of each is one line for a person (where, what is wrong, what to do); the same facts
are attributes for a program. Knows nothing of the rest of the package but limits.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import NamedTuple, Self

from stream.limits import MAX_CONF_FAULTS
from stream.text import one_line, printable


class StreamImageError(Exception):
    """The base class of all exceptions that this package raises on purpose. One that
    `is_passing` need not occur again if the same is tried once more, after `retry_after`
    seconds if that is said.
    """

    is_passing: bool = False
    retry_after: float | None = None

    def __str__(self) -> str:
        """Return the message on one line; characters that are not printable are escaped."""
        return one_line(super().__str__())


class Fault(NamedTuple):
    """One fault of a conf: the JSON place (`store_layers[3][1]`, empty for the whole
    document) and a message that says what is wrong there.
    """

    place: str
    message: str


class ArgumentError(StreamImageError, ValueError):
    """An argument of a function or type that cannot be used: `argument` is its name, `value`
    what was passed, and `reason` says what is wrong with it.
    """

    def __init__(self, argument: str, value: object, reason: str) -> None:
        self.argument = argument
        self.value = value
        self.reason = reason
        super().__init__(f"{argument}: {value!r} {reason}")

    @classmethod
    def not_one_of(cls, argument: str, value: object, choices: Iterable[str]) -> Self:
        """Return the error for a `value` that is not among `choices`."""
        return cls(argument, value, f"is not one of {', '.join(choices)}")

    @classmethod
    def require(cls, argument: str, value: object, *types: type) -> None:
        """Raise the error for a `value` that is an instance of none of `types`."""
        if not isinstance(value, types):
            expected = " or ".join(one.__name__ for one in types)
            raise cls(argument, type(value), f"is not {expected}")


class ConfError(StreamImageError, ValueError):
    """A conf that cannot be streamed. `faults` are the faults found, at most MAX_CONF_FAULTS; `more`
    is the number of others.
    """

    def __init__(self, name: str, faults: Sequence[Fault], more: int = 0) -> None:
        self.name = name
        self.faults = tuple(faults[:MAX_CONF_FAULTS])
        self.more = more + len(faults) - len(self.faults)
        super().__init__(name, self.faults, self.more)

    def __str__(self) -> str:
        """Return one line for each of `faults`, and one for the number of others."""
        parts: list[tuple[str, ...]] = [*self.faults]
        if self.more:
            parts.append((f"{self.more} more fault{'' if self.more == 1 else 's'}",))
        return "\n".join(one_line(": ".join(filter(None, (self.name, *part)))) for part in parts)


class SourceError(StreamImageError, OSError):
    """A file that should be in the image and cannot be: unreadable, removed, changed while
    it was read, or of a type that layers do not hold.
    """

    def __init__(self, path: bytes, reason: str) -> None:
        self.path = path
        self.reason = reason
        super().__init__(f"{printable(path)}: {reason}")

    @classmethod
    def unreadable(cls, path: bytes, error: OSError) -> Self:
        """Return the error for the file at `path`, which could not be read due to `error`."""
        gone = isinstance(error, FileNotFoundError)
        if gone:
            return cls(path, "no such file (it may have been removed)")
        return cls(path, f"cannot be read: {error.strerror}")


class RecipeError(StreamImageError, ValueError):
    """A customisation layer that cannot be made from its recipe. `where` is a path in the
    image, the name of a built-in content, or another part of the recipe.
    """

    def __init__(self, where: str, reason: str) -> None:
        self.where = where
        self.reason = reason
        super().__init__(f"{where}: {reason}")


class ContentConflict(RecipeError):
    """Two contents with different entries at the path `where`. `first` and `second` are the
    paths of the contents, or the names of built-in ones.
    """

    def __init__(self, where: str, first: bytes, second: bytes) -> None:
        self.first = first
        self.second = second
        super().__init__(
            where,
            f"{printable(first)} and {printable(second)} differ here; remove one of them,"
            ' or set "conflicts" to "first" or "last"',
        )


class CommandsError(RecipeError):
    """Commands that failed, or cannot be run. `where` is their key in the recipe, `status`
    their exit status (-n: killed by signal n), or None if they did not exit.
    """

    def __init__(self, where: str, reason: str, status: int | None = None) -> None:
        self.status = status
        super().__init__(where, reason)


class ArchiveError(StreamImageError, ValueError):
    """An archive that cannot be used: malformed, truncated, or inconsistent with its own
    documents. `where` is the archive, or the archive and the member.
    """

    def __init__(self, where: str, reason: str) -> None:
        self.where = where
        self.reason = reason
        super().__init__(f"{where}: {reason}")


class DigestMismatch(StreamImageError, ValueError):
    """Bytes whose digest is not the expected one. Digests are `sha256:…`."""

    def __init__(self, where: str, expected: str, found: str) -> None:
        self.where = where
        self.expected = expected
        self.found = found
        super().__init__(
            f"{where}: sha256 is {found.removeprefix('sha256:')}, expected {expected.removeprefix('sha256:')}"
        )


class StaleDigest(DigestMismatch):
    """A known digest that is not that of the layer's bytes. `entry` is the path of the record
    that had it, which is removed; None if nothing is recorded any more.
    """

    def __init__(self, where: str, expected: str, found: str, entry: str | None) -> None:
        super().__init__(where, expected, found)
        self.entry = entry
        gone = f"its record {entry} was wrong and is removed" if entry else "its record was wrong"
        self.args = (f"{self.args[0]}; {gone}; run the command again",)


class SizeMismatch(StreamImageError, ValueError):
    """A layer whose size in bytes is not the one announced in its archive header."""

    def __init__(self, where: str, expected: int, found: int) -> None:
        self.where = where
        self.expected = expected
        self.found = found
        super().__init__(f"{where}: {found} bytes written, {expected} announced")


class OutputError(StreamImageError, OSError):
    """An image that could not be written: disk full, target not writable."""

    @staticmethod
    def unwritable(error: OSError, what: str) -> OutputError:
        """Return the error for output that the system does not take; `what` says in the
        message that it was not written.
        """
        if isinstance(error, BrokenPipeError):
            return ReaderClosedError(error.errno, "the reader closed the pipe")
        return OutputError(error.errno, f"{what}: {error.strerror}")

    def __str__(self) -> str:
        """Return the message without the error number that OSError puts before it."""
        return one_line(self.strerror or "cannot write the image")


class ReaderClosedError(OutputError, BrokenPipeError):
    """A pipe whose reader closed it before the end of the image."""


class ThreadError(StreamImageError, RuntimeError):
    """A thread that the system does not start."""

    def __init__(self) -> None:
        super().__init__(
            "cannot start a thread: the limit of processes or memory is reached; raise it"
            " (ulimit -u, or the container's limit of pids)"
        )


class NixError(StreamImageError, OSError):
    """A Nix command that cannot be run, or failed. `command` is its command line."""

    def __init__(self, command: str, reason: str) -> None:
        self.command = command
        self.reason = reason
        super().__init__(f"{command}: {reason}")


class RegistryError(StreamImageError, OSError):
    """An image that a registry does not give or take, or that cannot be used: `reference` is its
    name, with a tag or digest unless the whole repository is meant.

    `status` is the HTTP status of the registry's answer, and `code` its error code, such as
    `NAME_UNKNOWN`, empty if there is none. `is_passing` is True where another try may succeed, and
    `retry_after` is the number of seconds to wait before it, if the registry says so.
    """

    def __init__(  # noqa: PLR0913 — all but the first two have defaults
        self,
        reference: str,
        reason: str,
        *,
        status: int | None = None,
        code: str = "",
        is_passing: bool = False,
        retry_after: float | None = None,
    ) -> None:
        self.reference = reference
        self.reason = reason
        self.status = status
        self.code = code
        self.is_passing = is_passing
        self.retry_after = retry_after
        super().__init__(f"{reference}: {reason}")


class EngineError(StreamImageError, OSError):
    """A container engine that cannot be reached, or does not take an image: `engine` says which one,
    and where it is.
    """

    def __init__(self, engine: str, reason: str) -> None:
        self.engine = engine
        self.reason = reason
        super().__init__(f"{engine}: {reason}")


class ListenError(StreamImageError, OSError):
    """An address, `address` with its port, at which this machine does not let us listen."""

    def __init__(self, address: str, reason: str) -> None:
        self.address = address
        self.reason = reason
        super().__init__(f"{address}: cannot listen here: {reason}")


class InstallationError(StreamImageError, RuntimeError):
    """The running installation cannot be started again. `python` is its interpreter, empty if
    the program that embeds it does not name one.
    """

    def __init__(self, python: str, reason: str) -> None:
        self.python = python
        self.reason = reason
        super().__init__(f"{python or 'this Python'}: {reason}")

"""Reasons why a container of an image cannot start: its command, user or working directory.

OCI Image Specification, config.md: Entrypoint, Cmd, Env, User, WorkingDir. docker
20.10, podman 4.3 and containerd 1.6 agree, as tests/consumers/test_start.py shows. All of them
create a WorkingDir that does not exist. Knows the files of an image by path; not where they come from.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from enum import Enum, auto
from typing import Any, Literal, NamedTuple, Protocol

from stream.limits import MAX_LINKS
from stream.text import printable
from stream.typeflags import DIRECTORY, FILE, LINK
from stream.values import dataclass

HEAD = 4096  # bytes of a program; enough for the interpreter of most
MAX_ACCOUNTS = 1 << 20  # bytes of a passwd or group file that is read
PASSWD, GROUP = b"etc/passwd", b"etc/group"
DEFAULT_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
# A store path of Nix or Guix: where the store is missing as a whole, the host mounts it.
_IN_STORE = re.compile(rb"((?:[^/]+/)*store)/[0-9a-z]{32}-[^/]")
_SCRIPT = re.compile(rb"#![ \t]*(/[^\s\0]+)")


class Entry(NamedTuple):
    """A file, directory or link of an image. `interpreter` is the path of the program that
    runs it: of a script, or the dynamic loader.
    """

    typeflag: bytes
    link: bytes = b""
    is_executable: bool = False
    interpreter: bytes = b""


class Files(Protocol):
    """The files of an image. Paths have no leading `/`; links are not followed."""

    def find(self, path: bytes) -> Entry | None:
        """Return the entry at `path`. Only executable files need be found."""

    def read(self, path: bytes) -> bytes | None:
        """Return the content of the passwd or group file at `path`; None if it is unknown."""

    def is_mounted(self, path: bytes) -> bool:
        """Return True if `path` is where a host mounts files."""


class Problem(NamedTuple):
    """A reason why a container cannot start: `rule` is its kind, `place` a key of the config."""

    rule: str
    place: str
    message: str

    def __str__(self) -> str:
        return f"{self.place}: {self.message}"


RULES = COMMAND, USER, WORKING_DIR = "start-command", "start-user", "start-directory"


def find_problems(config: dict[str, Any], files: Files) -> Iterator[Problem]:
    """Yield the reasons why a container with the container config `config` cannot start. What
    depends on files that a host mounts is not one of them.
    """
    image = _Image(config, files)
    directory = image.directory()
    if directory.state is _State.FOUND and directory.typeflag != DIRECTORY:
        yield Problem(WORKING_DIR, "config.WorkingDir", f"{image.cwd} is not a directory")
    yield from image.command_problems()
    yield from image.user_problems()


class _State(Enum):
    FOUND = auto()
    MISSING = auto()
    UNKNOWN = auto()


@dataclass(frozen=True, slots=True)
class _Reached:
    """The end of a path through links."""

    state: _State
    path: bytes = b""
    entry: Entry | None = None

    @property
    def typeflag(self) -> bytes:
        return self.entry.typeflag if self.entry else b""


class _Image:
    def __init__(self, config: dict[str, Any], files: Files) -> None:
        self._config = config
        self._files = files
        cwd = config.get("WorkingDir")
        self.cwd = cwd if isinstance(cwd, str) and cwd.startswith("/") else "/"
        volumes = config.get("Volumes")
        self._volumes = [
            path.strip("/").encode("utf-8", "surrogateescape")
            for path in (volumes if isinstance(volumes, dict) else ())
        ]

    def directory(self) -> _Reached:
        return self._reach(self.cwd)

    # ---- the command

    def command_problems(self) -> Iterator[Problem]:
        for key in ("Entrypoint", "Cmd"):
            words = self._config.get(key)
            if isinstance(words, list) and words and isinstance(words[0], str) and words[0]:
                break
        else:
            return
        word = words[0]
        place = f"config.{key}[0]"
        candidates = [word] if "/" in word else [f"{part}/{word}" for part in self._search_path()]
        wrong: list[str] = []
        for candidate in candidates:
            reached = self._reach(candidate)
            if reached.state is _State.UNKNOWN:
                return
            if reached.state is _State.FOUND and reached.typeflag == FILE:
                if reached.entry is not None and reached.entry.is_executable:
                    yield from self._interpreter_problems(place, reached)
                    return
                wrong.append(f"{candidate} is not executable")
        if wrong:
            yield Problem(COMMAND, place, wrong[0])
        elif "/" in word:
            yield Problem(COMMAND, place, f"{word} is not an executable file in the image")
        else:
            where = ":".join(self._search_path()) or "empty"
            yield Problem(COMMAND, place, f"{word} is not an executable file in PATH ({where})")

    def _search_path(self) -> list[str]:
        found = DEFAULT_PATH
        environment = self._config.get("Env")
        for entry in environment if isinstance(environment, list) else ():
            if isinstance(entry, str) and entry.startswith("PATH="):
                found = entry.removeprefix("PATH=")
        return [part or "." for part in found.split(":")] if found else []

    def _interpreter_problems(self, place: str, program: _Reached) -> Iterator[Problem]:
        path = program.entry.interpreter if program.entry else b""
        if not path.startswith(b"/"):
            return
        reached = self._reach(path.decode("utf-8", "surrogateescape"))
        if reached.state is _State.MISSING:
            yield Problem(
                COMMAND,
                place,
                f"/{printable(program.path)} needs {printable(path)}, which is not in the image",
            )

    # ---- the user

    def user_problems(self) -> Iterator[Problem]:
        value = self._config.get("User")
        user, _, group = value.partition(":") if isinstance(value, str) else ("", "", "")
        for name, what, path in ((user, "user", PASSWD), (group, "group", GROUP)):
            if name and not name.isdecimal() and self._lacks(path, name):
                at = f"/{printable(path)}"
                yield Problem(USER, "config.User", f"{what} {name} is not in {at} of the image")

    def _lacks(self, path: bytes, name: str) -> bool:
        reached = self._reach("/" + path.decode())
        if reached.state is _State.MISSING:
            return True
        content = None
        if reached.state is _State.FOUND:
            content = self._files.read(reached.path)
        if content is None:
            return False
        wanted = name.encode("utf-8", "surrogateescape")
        return all(line.partition(b":")[0] != wanted for line in content.split(b"\n"))

    # ---- paths

    def _reach(self, path: str) -> _Reached:
        """Follow `path`, which may be relative to the working directory, in the image."""
        if not path.startswith("/"):
            path = f"{self.cwd}/{path}"
        todo = path.encode("utf-8", "surrogateescape").split(b"/")[::-1]
        at: list[bytes] = []
        entry: Entry | None = Entry(DIRECTORY)
        links = 0
        while todo:
            name = todo.pop()
            if name in (b"", b"."):
                continue
            if name == b"..":
                del at[-1:]
                continue
            found = b"/".join([*at, name])
            entry = self._files.find(found)
            if entry is None:
                return _Reached(self._missing(found, todo, through_link=links > 0))
            if entry.typeflag == LINK:
                links += 1
                if links > MAX_LINKS:
                    return _Reached(_State.MISSING)
                if entry.link.startswith(b"/"):
                    at.clear()
                todo += entry.link.split(b"/")[::-1]
                entry = Entry(DIRECTORY)
            elif entry.typeflag != DIRECTORY and any(part not in (b"", b".") for part in todo):
                return _Reached(_State.MISSING)
            else:
                at.append(name)
        return _Reached(_State.FOUND, b"/".join(at), entry)

    def _missing(self, path: bytes, todo: list[bytes], *, through_link: bool) -> _State:
        """Return whether `path`, followed by `todo` reversed, is missing for certain."""
        whole = b"/".join([path, *reversed(todo)])
        mounted = any(whole == at or whole.startswith(at + b"/") for at in self._volumes)
        store = _IN_STORE.match(whole)
        mounted |= store is not None and (store[1] + b"/").startswith(path + b"/")
        mounted |= through_link and b"/" not in path
        return _State.UNKNOWN if mounted or self._files.is_mounted(whole) else _State.MISSING


# ---- programs


def interpreter_of(head: bytes) -> bytes:
    """Return the path of the interpreter of the program that begins with `head`, HEAD bytes:
    that after `#!`, or the PT_INTERP segment of an ELF file. Empty if there is none in `head`.
    """
    if match := _SCRIPT.match(head):
        return match[1]
    if head[:4] != b"\x7fELF" or len(head) < 64 or head[4] not in (1, 2) or head[5] not in (1, 2):
        return b""
    order: Literal["little", "big"] = "little" if head[5] == 1 else "big"

    def number(at: int, size: int) -> int:
        return int.from_bytes(head[at : at + size], order)

    wide = head[4] == 2
    start = number(32, 8) if wide else number(28, 4)
    step, count = (number(54, 2), number(56, 2)) if wide else (number(42, 2), number(44, 2))
    for header in range(start, start + step * min(count, 64), step or 1):
        if number(header, 4) == 3:  # PT_INTERP
            at, size = (
                (number(header + 8, 8), number(header + 32, 8))
                if wide
                else (
                    number(header + 4, 4),
                    number(header + 16, 4),
                )
            )
            path = head[at : at + size]
            return path.rstrip(b"\0") if len(path) == size else b""
    return b""

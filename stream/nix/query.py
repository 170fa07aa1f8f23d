"""Query the Nix on this machine about store paths.

Queries use `nix-store`, whose options and output are the same from Nix 2.0 on and need no
experimental feature; `nix path-info` changed both. They are read-only: nothing is built or
fetched, and nothing but `add_fixed` adds to the store.
"""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Sequence
from urllib.parse import parse_qsl, quote

from stream.errors import NixError

PROGRAM = "nix-store"
STORES = frozenset({"auto", "daemon", "dummy", "local"})  # names that are not paths
AT_ONCE = 1000  # store paths per call: a program's arguments are limited to 2 MiB


def knows(store_dir: str) -> bool:
    """Return True if Nix is installed, has its store in `store_dir`, and has a database."""
    directory = os.environ.get("NIX_STORE_DIR") or os.environ.get("NIX_STORE") or "/nix/store"
    state = os.environ.get("NIX_STATE_DIR") or "/nix/var/nix"
    # As root, Nix would create a database if it found none.
    there = os.environ.get("NIX_REMOTE") or os.path.isdir(os.path.join(state, "db"))
    return bool(there and directory == store_dir and shutil.which(PROGRAM))


def root_of(store: str) -> str | None:
    """Return the root directory of the store `store`, as `nix-store --store` takes it.

    None for this machine's store, and for one whose files are not below a root.
    """
    place, _, query = store.partition("?")
    # As Nix reads them: a plus is not a space, and the first of several counts.
    parameters = dict(reversed(parse_qsl(query.replace("+", "%2B"))))
    if "real" in parameters or "://" in place:
        return None
    # Anything with a slash is a path, relative to the current directory.
    root = place if "/" in place else place in ("auto", "local") and parameters.get("root")
    return None if not root or os.path.abspath(root) == "/" else os.path.abspath(root)


def below(root: str) -> str:
    """Return the argument of `nix-store --store` for the store below `root`.

    Nix refuses a root reached through symbolic links, and takes anything after a question
    mark for parameters.
    """
    real = os.path.realpath(root)
    return f"local?root={quote(real)}" if "?" in real else real


def has_database(root: str) -> bool:
    """Return True if a Nix store is below `root` and `nix-store` is installed."""
    return bool(os.path.isdir(f"{root}/nix/var/nix/db") and shutil.which(PROGRAM))


def is_installed() -> bool:
    """Return True if `nix-store` is installed."""
    return shutil.which(PROGRAM) is not None


def invalid(paths: Sequence[str], store: str | None = None) -> set[str]:
    """Return those of `paths` that are not valid in `store` (None: this machine's).

    All paths must be in Nix's store directory and named as Nix names them. Raises NixError.
    """
    return set(_lines(_ask(["--check-validity", "--print-invalid"], paths, store)))


def registration(paths: Sequence[str], store: str | None = None) -> bytes:
    """Return the registrations of the closure of `paths` in the database of `store` (None:
    this machine's), in the format that `stream.nix.references` parses. Raises NixError.
    """
    reached = _lines(_ask(["--query", "--requisites"], paths, store))
    return _ask(["--dump-db"], list(dict.fromkeys(reached)), store)


def add_fixed(algorithm: str, path: str) -> str:
    """Add the file at `path` to this machine's store under its own name, as the output of a
    fixed-output derivation whose hash by `algorithm` is that of the file. Return its store path.
    Raises NixError.
    """
    return _lines(_ask(["--add-fixed", algorithm], [path], None, instead=""))[0]


def _lines(answer: bytes) -> list[str]:
    return os.fsdecode(answer).splitlines()


def _ask(
    words: list[str],
    paths: Sequence[str],
    store: str | None,
    instead: str = " (with references_graph, Nix is not needed)",
) -> bytes:
    program = shutil.which(PROGRAM)
    if program is None:
        raise NixError(PROGRAM, "is not installed; give a references graph instead")
    where = [] if store is None else ["--store", store]
    answers = []
    for start in range(0, len(paths), AT_ONCE):
        try:
            ended = subprocess.run(  # noqa: S603 — no shell; paths begin with "/"
                [program, *words, *where, *paths[start : start + AT_ONCE]],
                check=False,
                stdin=subprocess.DEVNULL,
                capture_output=True,
                env={**os.environ, "LC_ALL": "C"},
            )
        except OSError as error:
            raise NixError(PROGRAM, f"cannot be started: {error.strerror}") from error
        if ended.returncode:
            raise NixError(
                " ".join([PROGRAM, *words, *where]),
                f"{_reason(ended)}{instead}",
            )
        answers.append(ended.stdout)
    return b"".join(answers)


def _reason(ended: subprocess.CompletedProcess[bytes]) -> str:
    """Return the line that gives the cause: the last error, after warnings and a trace."""
    lines = [line.strip() for line in ended.stderr.decode(errors="replace").splitlines()]
    said = [line for line in lines if line and line != "error:"]
    errors = [line.removeprefix("error: ") for line in said if line.startswith("error: ")]
    return (errors[-1:] or said[:1] or [f"ended with status {ended.returncode}"])[0]

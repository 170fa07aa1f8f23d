"""What Nix on this machine knows of store paths.

It is asked by `nix-store`, whose queries and answers are the same from Nix 2.0 on and need
no experimental feature; `nix path-info` changed both. It only answers: nothing is built,
fetched or added.
"""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Sequence
from urllib.parse import parse_qsl, quote

from stream.errors import NixError

PROGRAM = "nix-store"
STORES = frozenset({"auto", "daemon", "dummy", "local"})  # by name, not by path
AT_ONCE = 1000  # store paths a call: the arguments of a program may have 2 MiB


def knows(store_dir: str) -> bool:
    """Whether there is a Nix whose store is in `store_dir`, and a database to ask."""
    directory = os.environ.get("NIX_STORE_DIR") or os.environ.get("NIX_STORE") or "/nix/store"
    state = os.environ.get("NIX_STATE_DIR") or "/nix/var/nix"
    # As root, Nix makes a new database where it finds none.
    there = os.environ.get("NIX_REMOTE") or os.path.isdir(os.path.join(state, "db"))
    return bool(there and directory == store_dir and shutil.which(PROGRAM))


def root_of(store: str) -> str | None:
    """The root below which the store that `store` names, as `nix-store --store` takes it, has
    its files; None for this machine's, and one whose files are elsewhere or nowhere.
    """
    place, _, query = store.partition("?")
    # As Nix reads them: a plus is no space, and of several the first counts.
    parameters = dict(reversed(parse_qsl(query.replace("+", "%2B"))))
    if "real" in parameters or "://" in place:
        return None
    # What has a slash is a path, from the current directory if it is not absolute.
    root = place if "/" in place else place in ("auto", "local") and parameters.get("root")
    return None if not root or os.path.abspath(root) == "/" else os.path.abspath(root)


def below(root: str) -> str:
    """What `nix-store --store` takes for the store below `root`: Nix refuses one that links lead
    to, and takes what follows a question mark for parameters.
    """
    real = os.path.realpath(root)
    return f"local?root={quote(real)}" if "?" in real else real


def has_database(root: str) -> bool:
    """Whether a Nix store is below `root`, and there is a program to ask it."""
    return bool(os.path.isdir(f"{root}/nix/var/nix/db") and shutil.which(PROGRAM))


def is_installed() -> bool:
    """Whether there is a program to ask at all."""
    return shutil.which(PROGRAM) is not None


def invalid(paths: Sequence[str], store: str | None = None) -> set[str]:
    """Those of `paths`, all in Nix's store directory and named as Nix does, that `store`
    does not have; None is this machine's. Raises NixError.
    """
    return set(_lines(_ask(["--check-validity", "--print-invalid"], paths, store)))


def registration(paths: Sequence[str], store: str | None = None) -> bytes:
    """What the database of `store` says of `paths` and all that they reach: see
    `layering.references`. Raises NixError.
    """
    reached = _lines(_ask(["--query", "--requisites"], paths, store))
    return _ask(["--dump-db"], list(dict.fromkeys(reached)), store)


def _lines(answer: bytes) -> list[str]:
    return os.fsdecode(answer).splitlines()


def _ask(words: list[str], paths: Sequence[str], store: str | None) -> bytes:
    program = shutil.which(PROGRAM)
    if program is None:
        raise NixError(PROGRAM, "is not installed: give a references graph instead")
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
                f"{_reason(ended)} (with references_graph, Nix is not asked)",
            )
        answers.append(ended.stdout)
    return b"".join(answers)


def _reason(ended: subprocess.CompletedProcess[bytes]) -> str:
    """The line in which Nix says why: its last error, after warnings and a trace."""
    lines = [line.strip() for line in ended.stderr.decode(errors="replace").splitlines()]
    said = [line for line in lines if line and line != "error:"]
    errors = [line.removeprefix("error: ") for line in said if line.startswith("error: ")]
    return (errors[-1:] or said[:1] or [f"ended with status {ended.returncode}"])[0]

"""Queries to Nix, with fake programs; `consumers/test_nix.py` runs a real one."""

from collections.abc import Callable
from pathlib import Path

import pytest

from stream.errors import NixError
from stream.nix import query

HELLO = f"/nix/store/{'0' * 32}-hello"

Install = Callable[[str], None]


@pytest.fixture
def install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Install:
    """Install a shell script as `nix-store`, on a machine without Nix."""
    for key in ("NIX_STORE_DIR", "NIX_STORE", "NIX_STATE_DIR", "NIX_REMOTE"):
        monkeypatch.delenv(key, raising=False)
    monkeypatch.setenv("NIX_STATE_DIR", str(tmp_path / "state"))
    monkeypatch.setenv("PATH", str(tmp_path))

    def put(script: str) -> None:
        path = tmp_path / query.PROGRAM
        path.write_text(f"#!/bin/sh\n{script}\n")
        path.chmod(0o755)

    return put


@pytest.mark.parametrize(
    ("script", "reason"),
    [
        ("echo 'error: path is not valid' >&2; exit 1", "path is not valid"),
        ("printf 'warning: odd\\nerror: no\\n' >&2; exit 1", "no"),
        ("printf 'error:\\n  … while x\\n\\n  error: the cause\\n' >&2; exit 1", "the cause"),
        ("printf '\\nnix-store: what?\\nusage\\n' >&2; exit 1", "nix-store: what?"),
        ("printf 'a\\377\\033[1mb' >&2; exit 1", "a\N{REPLACEMENT CHARACTER}\\x1b[1mb"),
        ("exit 3", "ended with status 3"),
    ],
)
def test_what_nix_says_is_one_line(install: Install, script: str, reason: str) -> None:
    """The message gives the reason, not a trace, and no terminal control characters."""
    install(script)
    with pytest.raises(NixError) as error:
        query.invalid([HELLO])
    way_out = "with references_graph, Nix is not needed"
    assert str(error.value) == f"nix-store --check-validity --print-invalid: {reason} ({way_out})"


def test_a_program_that_does_not_start(install: Install, tmp_path: Path) -> None:
    """A broken installation is reported on one line, not with a traceback."""
    install("")
    (tmp_path / query.PROGRAM).write_bytes(b"#!/no/such/shell\n")
    with pytest.raises(NixError, match="nix-store: cannot be started: No such file"):
        query.invalid([HELLO])


def test_thousands_of_paths_are_few_calls(install: Install, tmp_path: Path) -> None:
    """A closure of 10,000 paths must neither take 10,000 calls nor exceed the limit of one."""
    install('echo $# >> calls; for path; do case $path in /*) echo "$path";; esac; done')
    paths = [f"{HELLO}{number:0>160}" for number in range(2500)]
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(tmp_path)
        answer = query.registration([*paths, *paths[:10]], "local?root=/x")
    assert answer.decode().split() == paths
    # Besides paths, the arguments are two words, then one, and two for the store.
    calls = [int(line) for line in (tmp_path / "calls").read_text().split()]
    assert calls == [1004, 1004, 514, 1003, 1003, 503]


def test_when_there_is_a_nix(
    install: Install, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A Nix with another store directory cannot answer, and one without a database would create one."""
    assert not query.knows("/nix/store")
    install("")
    assert not query.knows("/nix/store")
    (tmp_path / "state" / "db").mkdir(parents=True)
    assert query.knows("/nix/store")
    assert not query.knows("/gnu/store")
    monkeypatch.setenv("NIX_STORE_DIR", "/gnu/store")
    assert query.knows("/gnu/store")
    assert not query.knows("/nix/store")
    monkeypatch.setenv("NIX_STATE_DIR", str(tmp_path / "elsewhere"))
    assert not query.knows("/gnu/store")
    monkeypatch.setenv("NIX_REMOTE", "daemon")
    assert query.knows("/gnu/store")
    (tmp_path / query.PROGRAM).unlink()
    assert not query.knows("/gnu/store")

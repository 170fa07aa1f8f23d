"""Patterns of .gitignore, with git as the judge."""

import os
import subprocess
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest
from consumers.requirements import require
from hypothesis import given
from hypothesis import strategies as st

from stream.schema.exclusions import Exclusions, why_not_pattern

NAMES = ["a", "b", "a.py", "b.pyc", ".a", "a b", "a\nb"]
ATOMS = [*NAMES, "*", "**", "?", "*.py", "a*", "[ab]", "[!a]", "\\a", "a\\ b", ".*"]


@pytest.fixture(scope="module")
def repository(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Make a repository with a file of each name, and of each two and three directories deep."""
    require(["git"])
    top = tmp_path_factory.mktemp("repository")
    for above in (top, *(top / f"{one}.d" for one in NAMES), top / "a.d" / "b.d"):
        above.mkdir(exist_ok=True)
        for name in NAMES:
            (above / name).write_bytes(b"")
    (top / "c" / "a" / "b").mkdir(parents=True)
    (top / "c" / "a" / "b" / "a.py").write_bytes(b"")
    git(top, "init", "--quiet")
    return top


def git(where: Path, *args: str) -> bytes:
    """Return the output of git, which reads no configuration of this machine."""
    environment = {**os.environ, "GIT_CONFIG_GLOBAL": "/dev/null", "GIT_CONFIG_SYSTEM": "/dev/null"}
    done = subprocess.run(
        ["git", *args], cwd=where, env=environment, check=True, capture_output=True
    )
    return done.stdout


def kept_by_git(repository: Path, patterns: Sequence[str]) -> set[bytes]:
    """Return the files that git does not ignore."""
    (repository / ".git" / "patterns").write_text("\n".join(patterns), "utf-8")
    listed = git(repository, "ls-files", "--others", "-z", "--exclude-from=.git/patterns")
    return {*filter(None, listed.split(b"\0"))}


def kept(repository: Path, patterns: Sequence[str]) -> set[bytes]:
    """Return the files that are not excluded, or in a directory that is."""

    def walk(above: bytes) -> Iterator[bytes]:
        with os.scandir(os.fsencode(repository) + b"/" + above) as entries:
            for entry in entries:
                path = above + entry.name
                if path == b".git" or exclusions.match(path, is_directory=entry.is_dir()):
                    continue
                if entry.is_dir():
                    yield from walk(path + b"/")
                else:
                    yield path

    exclusions = Exclusions(patterns)
    return {*walk(b"")}


@pytest.mark.parametrize(
    "patterns",
    [
        ["*.pyc"],
        ["/a"],
        ["a.d/"],
        ["a/"],
        ["*", "!*/", "!*.py"],
        ["a.d", "!a.d/a.py"],
        ["a.d/*", "!a.d/a.py"],
        ["**/b"],
        ["c/**/a.py"],
        ["# a", "", "\\#", "a b "],
        ["a?b"],
        ["*", "!*/", "!c/**"],
        ["*/", "!a.d/"],
        ["!a"],
        ["!#a", "\\!a", "/", "!", "["],
        ["/*", "!/c", "/c/*", "!/c/a"],
    ],
)
def test_git_agrees(repository: Path, patterns: list[str]) -> None:
    """A pattern taken from a .gitignore leaves out what git leaves out, whatever names have."""
    assert kept(repository, patterns) == kept_by_git(repository, patterns)


pattern_texts = st.builds(
    lambda no, first, parts, last: no + first + "/".join(parts) + last,
    st.sampled_from(["", "", "!"]),
    st.sampled_from(["", "/"]),
    st.lists(st.sampled_from([atom for atom in ATOMS if "\n" not in atom]), min_size=1, max_size=3),
    st.sampled_from(["", "", "/"]),
)


@pytest.mark.slow
@given(patterns=st.lists(pattern_texts, min_size=1, max_size=4))
def test_git_agrees_on_any_patterns(repository: Path, patterns: list[str]) -> None:
    """The same for combinations that nobody thought of."""
    assert kept(repository, patterns) == kept_by_git(repository, patterns)


@pytest.mark.parametrize("pattern", ["a\nb", "a\0", "\ud800"])
def test_faults(pattern: str) -> None:
    """A pattern that would be read as two, or is in no name, is a mistake worth a message."""
    assert why_not_pattern(pattern)


@pytest.mark.parametrize("pattern", ["a", "!a", "# comment", "", "a b", "[", "**", "/", "!"])
def test_patterns(pattern: str) -> None:
    """What git takes in a .gitignore can be copied from there."""
    assert why_not_pattern(pattern) is None

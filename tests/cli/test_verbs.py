"""Verbs: each module of `stream.cli.verbs` is one, and nothing else lists them."""

import argparse
import inspect
import shutil
import subprocess
import sys
import types
import typing
from pathlib import Path

import pytest

import stream
from stream.cli import verbs
from stream.cli.parsers import main_parser
from stream.cli.progress import Reporter

NAMES = sorted({*verbs.names(), verbs.MAIN_JOB})


def test_names() -> None:
    """Without it a verb could be lost, or the main job or another file be taken for a verb."""
    assert verbs.names() >= {
        "customise", "digests", "explain", "export", "inspect", "merge", "plan", "tarsum", "verify", "wrap",
    }  # fmt: skip
    assert not verbs.names() & {"stream", "__init__"}


@pytest.mark.parametrize("name", NAMES)
def test_interface(name: str) -> None:
    """Without it an incomplete module could fail only when a user runs it."""
    module = verbs.import_verb(name)
    assert isinstance(module, types.ModuleType)
    assert isinstance(module, verbs.Verb)
    for attribute, kind in typing.get_type_hints(verbs.Verb).items():
        assert isinstance(getattr(module, attribute), kind)
    for function, arguments in (
        (module.add_arguments, [argparse.ArgumentParser]),
        (module.run, [argparse.Namespace, Reporter]),
    ):
        hints = typing.get_type_hints(function)
        result = hints.pop("return")
        assert list(hints.values()) == arguments
        assert len(inspect.signature(function).parameters) == len(arguments)
        assert result in (types.NoneType, int, int | None)


@pytest.mark.parametrize("name", NAMES)
def test_help(name: str) -> None:
    """Without it the help of a verb could have broken lines, or not state its purpose."""
    module = verbs.import_verb(name)
    assert module.SUMMARY.isprintable()
    assert 0 < len(module.SUMMARY) <= 66  # the list of verbs is indented by 14
    text = main_parser(None if name == verbs.MAIN_JOB else name).format_help()
    assert module.DESCRIPTION in text
    assert module.EPILOG in text


GREET = '''
"""A verb of a test."""
SUMMARY = "greet somebody"
DESCRIPTION = "Greet."
EPILOG = ""
HAS_PROGRESS = False


def add_arguments(parser):
    parser.add_argument("name")


def run(args, reporter):
    print("hello", args.name)
    return 7
'''


@pytest.mark.slow
def test_a_new_verb_is_one_new_file(tmp_path: Path) -> None:
    """Without it a verb could be added in one place and forgotten in another."""
    package = tmp_path / "stream"
    shutil.copytree(stream.__path__[0], package, ignore=shutil.ignore_patterns("__pycache__"))
    (package / "cli" / "verbs" / "greet.py").write_text(GREET, "utf-8")

    def run(*arguments: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-m", "stream", *arguments],
            cwd=tmp_path, capture_output=True, text=True, check=False,
        )  # fmt: skip

    assert "\n  greet       greet somebody\n" in run("--help").stdout
    assert "usage: stream-image greet" in run("greet", "--help").stdout
    done = run("greet", "world")
    assert (done.returncode, done.stdout, done.stderr) == (7, "hello world\n", "")
    assert "did you mean 'stream-image greet'?" in run("geret", "world").stderr


@pytest.mark.parametrize("name", sorted(verbs.names()))
def test_summary_is_read_from_the_source(name: str) -> None:
    """Without it the help would have to import every verb, or show another text than it states."""
    assert verbs.summary(name) == verbs.import_verb(name).SUMMARY

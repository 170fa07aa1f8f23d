"""The verbs of the command line: each module here is one, found without a list of them.

`stream-image NAME …` runs the module NAME, in which `_` stands for `-`. The module `stream` is the
exception: it is the main job, which runs when no verb is named. A module has the members of `Verb`.
"""

from __future__ import annotations

import argparse
import os
from importlib import import_module
from typing import Protocol, cast, runtime_checkable

from stream.cli.progress import Reporter

MAIN_JOB = "stream"


@runtime_checkable
class Verb(Protocol):
    """The interface of a module that carries out a verb."""

    SUMMARY: str  # its line in `stream-image --help`
    DESCRIPTION: str  # above the arguments in its own --help
    EPILOG: str  # below them: examples
    HAS_PROGRESS: bool  # whether it has --progress

    def add_arguments(self, parser: argparse.ArgumentParser, /) -> None:
        """Add the verb's own arguments."""

    def run(self, args: argparse.Namespace, reporter: Reporter, /) -> int | None:
        """Carry out the verb. Return its exit status, None for 0. Raises StreamImageError."""


def names() -> frozenset[str]:
    """Return the names of all verbs, without importing any. The main job has none."""
    files = (name for directory in __path__ for name in os.listdir(directory))
    modules = (name.removesuffix(".py") for name in files if name.endswith(".py"))
    found = (name for name in modules if name.isidentifier() and name[0] != "_")
    return frozenset(name.replace("_", "-") for name in found) - {MAIN_JOB}


def summary(name: str) -> str:
    """Return the SUMMARY of the verb `name`, read from its source: importing every verb for
    one page of help would take twice as long, and one that is broken would break the page.
    """
    import ast

    (path,) = (
        path
        for directory in __path__
        if os.path.isfile(path := os.path.join(directory, f"{_module(name)}.py"))
    )
    with open(path, "rb") as source:
        module = ast.parse(source.read())
    for node in module.body:
        match node:
            case ast.Assign(targets=[ast.Name(id="SUMMARY")], value=ast.Constant(value=str(text))):
                return text
    return ""


def import_verb(name: str | None) -> Verb:
    """Import the verb `name`; None stands for the main job."""
    return cast(Verb, import_module(f"{__name__}.{_module(name or MAIN_JOB)}"))


def _module(name: str) -> str:
    return name.replace("-", "_")

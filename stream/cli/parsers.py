"""The parsers of argv: one for each verb, and one for the main job, whose help lists the verbs.

Their errors are one line with a hint. Must not know what any verb does, nor exit statuses but
that of a bad command line.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterable
from functools import partial
from typing import Any, NoReturn

import stream
from stream.cli import verbs
from stream.cli.output import say, say_lines
from stream.cli.progress import MODES

BAD_USAGE = 2
MAX_WORD = 30  # characters compared with the verbs, or the options


class Parser(argparse.ArgumentParser):
    """A parser whose errors are one line, like all others."""

    def error(self, message: str) -> NoReturn:
        self.refuse(f"{message}.")

    def refuse(self, sentence: str) -> NoReturn:
        """Print `sentence` and where to find help, and exit."""
        say(f"stream-image: {sentence} Try '{self.prog} --help'.")
        self.exit(BAD_USAGE)

    def has_option(self, name: str) -> bool:
        """Return whether there is an option `--NAME`."""
        return f"--{name}" in self._option_string_actions

    def closest_option(self, words: Iterable[str]) -> str | None:
        """Return the option that is meant by the first of the unknown `words` that is like one:
        misspelt, or without its dashes.
        """
        options = [name.lstrip("-") for name in self._option_string_actions if len(name) > 2]
        for word in words:
            name = word.partition("=")[0].lstrip("-")
            if self.has_option(name):
                return f"--{name}"
            if word.startswith("-") and (meant := closest(name, options)):
                return f"--{meant}"
        return None

    def _print_message(self, message: str, file: Any = None) -> None:
        """Print the help or the version. Raises OutputError, which argparse would ignore."""
        say_lines(message.removesuffix("\n").split("\n"))


class _MainParser(Parser):
    """The parser of the main job. Its help lists the verbs."""

    def format_help(self) -> str:
        lines = [f"  {name:<11} {verbs.summary(name)}" for name in sorted(verbs.names())]
        return "\n".join([super().format_help(), "Verbs, each with its own --help:", *lines, ""])


def make_parser(name: str | None, verb: verbs.Verb) -> Parser:
    """Return the parser of `verb`, called `name`, or of the main job, which has no name."""
    parser = (Parser if name else _MainParser)(
        prog=f"stream-image {name}" if name else "stream-image",
        description=verb.DESCRIPTION,
        epilog=verb.EPILOG,
        # Arguments that are added are formatted, and measuring the terminal imports shutil.
        formatter_class=partial(argparse.HelpFormatter, width=80),
    )
    verb.add_arguments(parser)
    if verb.HAS_PROGRESS:
        parser.add_argument(
            "--progress", choices=MODES, default="auto", metavar="MODE",
            help="on stderr: auto (bar on a terminal, else plain), bar, plain, json, none",
        )  # fmt: skip
    else:
        parser.set_defaults(progress="none")
    parser.add_argument("-q", "--quiet", action="store_true", help="only warnings and errors")
    parser.add_argument("--debug", action="store_true", help="show a traceback with an error")
    parser.add_argument("--version", action="version", version=f"%(prog)s {stream.__version__}")
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    return parser


def main_parser(verb: str | None = None) -> Parser:
    """Return the parser of `stream-image VERB`, or of the main job for None."""
    return make_parser(verb, verbs.import_verb(verb))


def closest(word: str, names: Iterable[str]) -> str | None:
    """Return the one of `names` that `word` resembles, or None."""
    from difflib import get_close_matches

    return next(iter(get_close_matches(word[:MAX_WORD], sorted(names), n=1)), None)

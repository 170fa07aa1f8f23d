"""Tables for people, no wider than the terminal and plain without one.

Nothing that a table shows reaches the terminal unescaped. Must not know what that is.
"""

from __future__ import annotations

import io
import os
import re
from typing import TYPE_CHECKING

from stream.cli.output import is_terminal
from stream.nix.hashes import DIGITS
from stream.text import one_line, some_lines

if TYPE_CHECKING:
    from collections.abc import Iterable

    from rich.console import RenderableType
    from rich.table import Table
    from rich.text import Text

WIDTH = 80  # without a terminal
MIN_WIDTH = 60
_STORE = re.compile(rf"^/(?:[^/]+/)*?store/[{DIGITS}]{{32}}-")
_HASH = re.compile(rf"^.*/(?:[{DIGITS}]{{32}}-)?")


def render(parts: Iterable[RenderableType]) -> str:
    """Return `parts`, one below the other, as lines for standard output."""
    from rich.console import Console, Group
    from rich.segment import Segment, Segments

    terminal = is_terminal("-")
    columns = os.get_terminal_size(1).columns if terminal else WIDTH
    console = Console(
        file=io.StringIO(),
        width=max(columns, MIN_WIDTH) if columns else WIDTH, force_terminal=terminal, highlight=False, markup=False,
        legacy_windows=False, emoji=False,
    )  # fmt: skip
    with console.capture() as captured:
        segments = console.render(Group(*parts))
        console.print(
            Segments([Segment(some_lines(text), style) for text, style, _ in segments]), crop=False
        )
    return "\n".join(line.rstrip() for line in captured.get().splitlines()).strip("\n")


def new_table() -> Table:
    """Return a table of layers, whose first columns are their number and size."""
    from rich.box import SIMPLE_HEAD
    from rich.table import Table

    table = Table(box=SIMPLE_HEAD, pad_edge=False, show_edge=False, header_style="dim")
    table.add_column("#", justify="right", no_wrap=True)
    table.add_column("size", justify="right", no_wrap=True)
    return table


def uncut_line(line: str) -> Text:
    """Return `line` in bold, on one line however long it is."""
    from rich.text import Text

    return Text(line, style="bold", no_wrap=True, overflow="ignore")


def cut_lines(lines: Iterable[str]) -> Text:
    """Return a cell whose lines are cut, not wrapped, where the terminal is narrow."""
    from rich.text import Text

    return Text("\n".join(lines), no_wrap=True, overflow="ellipsis")


def store_name(path: str) -> str:
    """Return the name of the store path `path` without its hash."""
    return one_line(_HASH.sub("", path))


def path_in_store(path: str) -> str:
    """Return `path` without the store directory and the hash, if it is in a store path."""
    return one_line(_STORE.sub("", path))

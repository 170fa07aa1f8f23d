"""The options of a benchmark."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """The options of the command line, which are the same for every benchmark."""

    directory: str
    scale: float
    runs: int
    slow_runs: int
    only: set[str] | None
    before: str | None
    check: bool

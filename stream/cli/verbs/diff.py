"""`stream-image diff`: what differs between two images."""

from __future__ import annotations

import argparse
import json
import re
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Any

from stream.cli.options import add_digest_arguments, add_run_argument, given_digests
from stream.cli.output import say_json, say_rendered
from stream.cli.progress import Reporter, readable_size
from stream.cli.tables import cut_lines, path_in_store, render, store_name, uncut_line
from stream.cli.usage import UsageError
from stream.nix.hashes import DIGITS
from stream.text import one_line
from stream.tools.diff import ConfigChange, Difference, FileChange, diff
from stream.tools.inspect import InspectedImage, InspectedLayer
from stream.values import dataclass

if TYPE_CHECKING:
    from rich.console import RenderableType
    from rich.table import Table

SUMMARY = "show what differs between two images"
DESCRIPTION = """\
Show what differs between two images: layers, of which those that only the second one has would
be transferred, files, and the config. Files are compared by size, mode, owner and target."""
EPILOG = """\
Examples: stream-image diff old.tar new.tar
          stream-image diff old.json spec.json
          stream-image diff --contents old.tar:app:1 new.tar:app:2
The JSON is described in docs/diff.md.
"""
HAS_PROGRESS = False

MAX_FILES = 40  # store paths and files shown; --json has all
MAX_NAMES = 4  # store paths shown for each layer
MAX_VALUE = 200  # characters shown of a config value
_STORE_PATH = re.compile(rf"^/(?:[^/]+/)*?store/[{DIGITS}]{{32}}-[^/]+")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the verb's own arguments."""
    parser.add_argument(
        "before", metavar="OLD",
        help="a conf, a specification, or an archive in a file (FILE or FILE:name:tag); - for a conf"
        " or specification on standard input",
    )  # fmt: skip
    parser.add_argument(
        "after", metavar="NEW", help="the image to compare it with, in the same way"
    )
    parser.add_argument(
        "--contents", action="store_true", help="read all files, and compare their contents as well"
    )
    parser.add_argument("--json", action="store_true", help="print one JSON object, for programs")
    add_run_argument(parser)
    add_digest_arguments(parser)


def run(args: argparse.Namespace, reporter: Reporter) -> None:
    """Compare and print. Raises StreamImageError."""
    if args.before == args.after == "-":
        raise UsageError("OLD and NEW: only one can be standard input; name a file for the other")
    difference = diff(
        args.before,
        args.after,
        contents=args.contents,
        run_commands=args.run_commands,
        warn=reporter.warning,
        digests=given_digests(args, reporter.warning),
    )
    if args.json:
        say_json(_document(difference))
    else:
        say_rendered(render(_parts(difference, contents=args.contents)))


# ---- for programs


def _document(difference: Difference) -> dict[str, Any]:
    return {
        "same": difference.is_empty,
        "before": _image_document(difference.before),
        "after": _image_document(difference.after),
        "moving_bytes": difference.moving_size,
        "layers": {
            "removed": [_layer_document(layer) for layer in difference.removed_layers],
            "added": [_layer_document(layer) for layer in difference.added_layers],
        },
        "files": [
            {
                "path": change.path,
                "fate": change.fate,
                "before": change.before,
                "after": change.after,
                "changed": list(change.changed),
            }
            for change in difference.files
        ],
        "config": [
            {"place": change.place, "before": change.before, "after": change.after}
            for change in difference.config
        ],
    }


def _image_document(image: InspectedImage) -> dict[str, Any]:
    return {"repo_tags": list(image.repo_tags), "image_id": image.image_id, "size": image.size}


def _layer_document(layer: InspectedLayer) -> dict[str, Any]:
    return {
        "name": layer.name,
        "diff_id": layer.diff_id,
        "size": layer.size,
        "store_paths": list(layer.store_paths),
    }


# ---- for people


def _parts(difference: Difference, *, contents: bool) -> Iterator[RenderableType]:
    from rich.text import Text

    yield uncut_line(f"{_name(difference.before)} -> {_name(difference.after)}")
    yield Text(f"{readable_size(difference.before.size)} -> {readable_size(difference.after.size)}")
    yield Text()
    if difference.is_empty:
        yield Text("no difference")
    if difference.removed_layers or difference.added_layers:
        yield _layer_table(difference)
        yield Text()
    if difference.files:
        yield from _file_parts(difference.files)
        yield Text()
    if difference.config:
        for change in difference.config:
            yield Text(_config_line(change), overflow="fold")
        yield Text()
    kept = len(difference.after.layers) - len(difference.added_layers)
    yield uncut_line(
        f"{len(difference.added_layers)} of {len(difference.after.layers)} layers would move,"
        f" {readable_size(difference.moving_size)}; {kept} would stay"
    )
    if not contents:
        yield Text("files were compared by size, mode, owner and target; --contents reads them")


def _name(image: InspectedImage) -> str:
    return ", ".join(map(one_line, image.repo_tags)) or "untagged"


def _new_table(*columns: str) -> Table:
    from rich.box import SIMPLE_HEAD
    from rich.table import Table

    table = Table(box=SIMPLE_HEAD, pad_edge=False, show_edge=False, header_style="dim")
    table.add_column("", no_wrap=True)
    table.add_column("size", justify="right", no_wrap=True)
    for name in columns:
        table.add_column(name, overflow="ellipsis")
    return table


def _layer_table(difference: Difference) -> Table:
    table = _new_table("layer")
    for sign, layers in (("-", difference.removed_layers), ("+", difference.added_layers)):
        for layer in layers:
            table.add_row(sign, readable_size(layer.size), cut_lines(_holds(layer)))
    return table


def _holds(layer: InspectedLayer) -> list[str]:
    if not layer.store_paths:
        return [one_line(layer.history or layer.name)]
    names = [store_name(path) for path in layer.store_paths[:MAX_NAMES]]
    if (more := len(layer.store_paths) - MAX_NAMES) > 0:
        names.append(f"and {more:,} more")
    return names


@dataclass(slots=True, kw_only=True)
class _Group:
    """The changes in a store path, or of one file: the bytes before and after, and their number."""

    name: str
    before: int = 0
    after: int = 0
    count: int = 0
    fates: frozenset[str] = frozenset()
    changed: tuple[str, ...] = ()

    @property
    def weight(self) -> int:
        """The bytes that are moved or no longer there."""
        return max(self.before, self.after)

    @property
    def sign(self) -> str:
        """One character for what happened."""
        (fate,) = self.fates if len(self.fates) == 1 else ("changed",)
        return {"added": "+", "removed": "-"}.get(fate, "~")


def _groups(files: Iterable[FileChange]) -> list[_Group]:
    groups: dict[str, _Group] = {}
    for change in files:
        match = _STORE_PATH.match(change.path)
        name = match[0] if match else change.path
        group = groups.setdefault(name, _Group(name=name))
        group.before += change.before or 0
        group.after += change.after or 0
        group.count += 1
        group.fates |= {change.fate}
        group.changed = change.changed
    return sorted(groups.values(), key=lambda group: (-group.weight, group.name))


def _file_parts(files: Iterable[FileChange]) -> Iterator[RenderableType]:
    from rich.text import Text

    groups = _groups(files)
    table = _new_table("file or store path", "")
    for group in groups[:MAX_FILES]:
        sizes = readable_size(group.weight)
        if group.sign == "~" and group.before != group.after:
            sizes = f"{readable_size(group.before)} -> {readable_size(group.after)}"
        note = ", ".join(group.changed) if group.sign == "~" else ""
        if group.count > 1:
            note = f"{group.count:,} files"
        table.add_row(group.sign, sizes, cut_lines([path_in_store(group.name)]), note)
    yield table
    if (more := len(groups) - MAX_FILES) > 0:
        yield Text(f"and {more:,} more")


def _config_line(change: ConfigChange) -> str:
    return one_line(f"{change.place}: {_value(change.before)} -> {_value(change.after)}")


def _value(value: Any) -> str:
    text = "none" if value is None else json.dumps(value, ensure_ascii=False)
    return text if len(text) <= MAX_VALUE else text[:MAX_VALUE] + "…"

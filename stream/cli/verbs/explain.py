"""`stream-image explain`: the layers of a conf or specification, and which would be transferred."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

from stream.cli.options import add_digest_arguments, add_run_argument, given_digests
from stream.cli.output import say_json, say_rendered
from stream.cli.progress import Reporter, readable_size
from stream.cli.tables import cut_lines, new_table, render, store_name, uncut_line
from stream.cli.usage import UsageError
from stream.config import is_spec, read_conf_document
from stream.planning.plan import plan
from stream.planning.spec import read_spec_document
from stream.schema.reading import conf_name, ignore, load_object
from stream.text import one_line
from stream.tools.earlier import read_earlier
from stream.tools.explain import ExplainedLayer, Explanation, explain
from stream.values import replace

if TYPE_CHECKING:
    from rich.table import Table

SUMMARY = "show the layers of an image, and what a push would transfer"
DESCRIPTION = """\
Show the layers of an image with the sizes of their store paths; with --against, which
layers an earlier image already has and how many bytes a push would transfer."""
EPILOG = """\
Examples: stream-image explain spec.json
          stream-image explain conf.json --against old.json
          stream-image explain conf.json --against old.tar
          stream-image plan spec.json --previous old.json | stream-image explain - --against old.json
The JSON is described in docs/plan.md.
"""
HAS_PROGRESS = False

MAX_PATHS = 8  # the largest store paths shown for each layer


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the verb's own arguments."""
    parser.add_argument(
        "target", metavar="CONF|SPEC", help="a conf, or a specification; - for standard input"
    )
    parser.add_argument(
        "--against",
        metavar="OLD",
        help="an earlier image: its conf, whose files need no longer exist, or an archive",
    )
    add_run_argument(parser)
    add_digest_arguments(parser)
    parser.add_argument("--json", action="store_true", help="print one JSON object, for programs")


def run(args: argparse.Namespace, reporter: Reporter) -> None:
    """Explain and print. Raises StreamImageError."""
    if args.target == args.against == "-":
        raise UsageError(
            "CONF and --against: only one can be standard input; name a file for the other"
        )
    name = conf_name(args.target)
    warn: Callable[[str], None] = reporter.warning
    document = load_object(args.target)
    if is_spec(document):
        spec = read_spec_document(document, name=name, warn=reporter.warning)
        if not args.run_commands:
            spec = replace(spec, conf=replace(spec.conf, commands="skipped"))
        planned = plan(spec, warn=reporter.warning, digests=given_digests(args, reporter.warning))
        warn = ignore  # planning has warned of the same image
        conf, document = planned.conf, planned.document
    else:
        conf = read_conf_document(document, name=name, need_tag=False, warn=reporter.warning)
    earlier = read_earlier(args.against, conf.architecture) if args.against else None
    explanation = explain(
        conf,
        earlier,
        document=document,
        run_commands=args.run_commands,
        warn=warn,
        digests=given_digests(args, reporter.warning),
    )
    if args.json:
        say_json(_document(explanation))
    else:
        say_rendered(_text(explanation))


def _document(explanation: Explanation) -> dict[str, Any]:
    compared = explanation.against is not None
    return {
        "repo_tag": explanation.repo_tag,
        "size": explanation.size,
        "layers": [
            {
                "kind": layer.kind,
                "name": layer.name,
                "size": layer.size,
                "store_paths": [{"path": path, "size": size} for path, size in layer.paths],
                **({"stale_bytecode": layer.stale_bytecode} if layer.paths else {}),
                **({"stays": layer.stays} if compared else {}),
            }
            for layer in explanation.layers
        ],
        **(
            {
                "against": explanation.against,
                "moving_layers": len(explanation.moving),
                "moving_bytes": explanation.moving_size,
            }
            if compared
            else {}
        ),
    }


def _text(explanation: Explanation) -> str:
    from rich.text import Text

    title = uncut_line(one_line(explanation.repo_tag))
    total = uncut_line(_total(explanation))
    notes = [Text(note) for note in _notes(explanation)]
    return render((title, Text(), _table(explanation), Text(), total, *notes))


def _notes(explanation: Explanation) -> Iterator[str]:
    if stale := explanation.stale_bytecode:
        files = "1 .pyc file is" if stale == 1 else f"{stale:,} .pyc files are"
        yield (
            f"{files} stale in the image, where the sources have another modification time: Python"
            " compiles these at each start; set mtime to the time that they were compiled for, or"
            " compile with --invalidation-mode unchecked-hash"
        )


def _table(explanation: Explanation) -> Table:
    from rich.text import Text

    fates = {True: Text("stays", "dim"), False: Text("moves", "yellow"), None: Text("may move")}
    table = new_table()
    if explanation.against is not None:
        table.add_column("", no_wrap=True)
    table.add_column("holds", overflow="ellipsis")  # the only column that may shrink
    for number, layer in enumerate(explanation.layers, 1):
        cells: list[str | Text] = [str(number), _size(layer.size)]
        if explanation.against is not None:
            cells.append(fates[layer.stays])
        table.add_row(*cells, cut_lines(_holds(layer)))
    return table


def _size(size: int | None) -> str:
    return "?" if size is None else readable_size(size)


def _holds(layer: ExplainedLayer) -> list[str]:
    """Return the largest store paths of a layer without their hashes, or its name; both of a
    customisation layer.
    """
    if not layer.paths:
        base = "base image's " if layer.kind == "base" else ""
        return [one_line(base + layer.name)]
    largest = sorted(layer.paths, key=lambda item: -item[1])
    shown = largest if len(largest) <= MAX_PATHS else largest[: MAX_PATHS - 1]
    width = max(len(readable_size(size)) for _, size in shown)
    names = [f"{readable_size(size):>{width}}  {store_name(path)}" for path, size in shown]
    if layer.kind == "customisation":
        names.insert(0, one_line(layer.name))
    if rest := largest[len(shown) :]:
        names.append(
            f"{readable_size(sum(size for _, size in rest)):>{width}}  in {len(rest)} more"
        )
    return names


def _total(explanation: Explanation) -> str:
    count = len(explanation.layers)
    total = f"{count} layer{'s' * (count != 1)}, {readable_size(explanation.size)}"
    if unsized := sum(layer.size is None for layer in explanation.layers):
        total += f" and {unsized} of unknown size"
    if explanation.against is None:
        return total
    moving, size = len(explanation.moving), readable_size(explanation.moving_size)
    summary = f"{total}; against {one_line(explanation.against)}: {moving} of them move, {size}"
    if unknown := explanation.unknown:
        size = readable_size(sum(layer.size or 0 for layer in unknown))
        summary += f"; {len(unknown)} may, {size}: paths without a hash may have changed"
    return summary

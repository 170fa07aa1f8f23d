"""`stream-image explain`: the layers of a conf or specification, and which would be transferred."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterable, Iterator
from typing import TYPE_CHECKING, Any

from stream import __version__
from stream.cli.options import add_digest_arguments, add_run_argument, given_digests
from stream.cli.output import output_file, say_json, say_rendered, standard_output, write_all
from stream.cli.planned import add_previous_arguments, given_previous
from stream.cli.progress import Reporter, readable_size
from stream.cli.tables import cut_lines, new_table, render, store_name, uncut_line
from stream.cli.usage import UsageError
from stream.config import is_spec, read_conf_document
from stream.model import ImageConf
from stream.planning.plan import plan
from stream.planning.spec import read_spec_document
from stream.schema.reading import conf_name, directory_of, ignore, load_object
from stream.text import one_line
from stream.tools.earlier import read_earlier
from stream.tools.explain import ExplainedLayer, Explanation, explain
from stream.tools.page import make_page
from stream.tools.weight import Reason, Weighing
from stream.values import replace

if TYPE_CHECKING:
    from rich.table import Table
    from rich.text import Text

SUMMARY = "show the layers of an image, and what a push would transfer"
DESCRIPTION = """\
Show the layers of an image with the sizes of their store paths; with --against, which
layers an earlier image already has and how many bytes a push would transfer. --tree shows
what each store path brings along, --why the references that bring one in."""
EPILOG = """\
Examples: stream-image explain spec.json
          stream-image explain conf.json --against old.json
          stream-image explain conf.json --against old.tar
          stream-image explain spec.json --tree
          stream-image explain spec.json --why openssl
          stream-image explain spec.json --html size.html
          stream-image explain spec.json --previous old.json --against old.json
The JSON is described in docs/explain.md.
"""
HAS_PROGRESS = False

MAX_PATHS = 8  # the largest store paths shown for each layer
MAX_CHAINS = 8  # shown for each store path
LEAST = 0.005  # of the image: what is smaller is only counted in the tree


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the verb's own arguments."""
    parser.add_argument(
        "target", metavar="CONF|SPEC", help="a conf, or a specification; - for standard input"
    )
    parser.add_argument(
        "--against",
        metavar="OLD",
        help="an earlier image: its conf, whose files need no longer exist, an archive, or an image in a"
        " registry or an engine, as for --previous",
    )
    shown = parser.add_mutually_exclusive_group()
    shown.add_argument(
        "--tree",
        action="store_true",
        help="the store paths, largest first, each below the one that brings it in alone",
    )
    shown.add_argument(
        "--why",
        metavar="PATH",
        help="the chains of references that bring in a store path: the path, a path in it, or its"
        " name",
    )
    add_previous_arguments(parser)
    shown.add_argument(
        "--html", metavar="FILE",
        help="write one HTML page: layers and store paths by size, what would move, and a search",
    )  # fmt: skip
    add_run_argument(parser)
    add_digest_arguments(parser)
    parser.add_argument("--json", action="store_true", help="print one JSON object, for programs")


def run(args: argparse.Namespace, reporter: Reporter) -> None:
    """Explain and print. Raises StreamImageError."""
    if [args.target, args.against, args.previous].count("-") > 1:
        raise UsageError(
            "CONF, --against and --previous: only one can be standard input; name a file for the"
            " others"
        )
    if args.html is not None and args.json:
        raise UsageError("--html and --json: give one of them")
    name = conf_name(args.target)
    warn: Callable[[str], None] = reporter.warning
    document = load_object(args.target)
    if is_spec(document):
        directory = directory_of(args.target)
        spec = read_spec_document(document, name=name, warn=reporter.warning, directory=directory)
        if not args.run_commands:
            spec = replace(spec, conf=replace(spec.conf, commands="skipped"))
        previous = given_previous(args, reporter)(spec)
        digests = given_digests(args, reporter.warning)
        planned = plan(spec, previous, warn=reporter.warning, digests=digests)
        warn = ignore  # planning has warned of the same image
        conf, document = planned.conf, planned.document
    else:
        conf = read_conf_document(document, name=name, need_tag=False, warn=reporter.warning)
    earlier = read_earlier(args.against, conf.architecture, conf.variant) if args.against else None
    explanation = explain(
        conf,
        earlier,
        document=document,
        run_commands=args.run_commands,
        warn=warn,
        digests=given_digests(args, reporter.warning),
    )
    _show(args, conf, explanation)


def _show(args: argparse.Namespace, conf: ImageConf, explanation: Explanation) -> None:
    """Print or write what the options ask for."""
    if args.html is not None:
        _write_page(args.html, explanation, Weighing(conf, explanation))
    elif args.why is not None:
        weighing = Weighing(conf, explanation)
        reasons = weighing.reasons(args.why)
        if args.json:
            say_json(
                {
                    "references_known": weighing.is_known,
                    "reasons": [_reason_document(reason) for reason in reasons],
                }
            )
        else:
            say_rendered(_reasons_text(reasons, weighing))
    elif args.tree:
        weighing = Weighing(conf, explanation)
        if args.json:
            say_json(_tree_document(explanation, weighing))
        else:
            say_rendered(_tree_text(explanation, weighing))
    elif args.json:
        say_json(_document(explanation))
    else:
        say_rendered(_text(explanation))


def _write_page(path: str, explanation: Explanation, weighing: Weighing) -> None:
    """Write the page to the file `path`, which appears when it is complete."""
    page = make_page(explanation, weighing, __version__)
    with standard_output() if path == "-" else output_file(path) as fd:
        write_all(fd, page, "the page")


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


# ---- --tree and --why


def _tree_document(explanation: Explanation, weighing: Weighing) -> dict[str, Any]:
    return {
        "repo_tag": explanation.repo_tag,
        "size": explanation.size,
        "references_known": weighing.is_known,
        "tree": [
            {
                "path": branch.path,
                "depth": branch.depth,
                "size": branch.size,
                "total": branch.total,
            }
            for branch in weighing.tree()
        ],
        "others": [
            {"kind": layer.kind, "name": layer.name, "size": size}
            for layer, size in _others(explanation)
        ],
    }


def _others(explanation: Explanation) -> Iterator[tuple[ExplainedLayer, int | None]]:
    """Yield the layers with something else than store paths, each with the size of that."""
    for layer in explanation.layers:
        if layer.kind != "store":
            paths = sum(size for _, size in layer.paths)
            yield layer, None if layer.size is None else layer.size - paths


def _tree_text(explanation: Explanation, weighing: Weighing) -> str:
    from rich.text import Text

    whole = explanation.size
    parts = [*_other_parts(explanation)]  # the size of each, and its lines
    small = small_size = 0
    for branch in weighing.tree():
        if branch.total < whole * LEAST:
            small, small_size = small + 1, small_size + branch.size
            continue
        name = "  " * branch.depth + store_name(branch.path)
        own = f"  (itself {readable_size(branch.size)})" if branch.size < branch.total else ""
        line = _share(branch.total, whole, name + own)
        if branch.depth:
            parts[-1][1].append(line)
        else:
            parts.append((branch.total, [line]))
    parts.sort(key=lambda part: -part[0])
    lines = [line for _, below in parts for line in below]
    if small:
        lines.append(_share(small_size, whole, f"in {small:,} more"))
    title = uncut_line(one_line(explanation.repo_tag))
    total = uncut_line(_total(explanation))
    return render((title, Text(), cut_lines(lines), Text(), total, *_gaps(weighing)))


def _gaps(weighing: Weighing) -> list[Text]:
    from rich.text import Text

    if weighing.is_known:
        return []
    return [
        Text(
            "the references of the store paths are unknown: a specification has them, with"
            " references_graph or where Nix is installed"
        )
    ]


def _other_parts(explanation: Explanation) -> Iterator[tuple[int, list[str]]]:
    base = [size for layer, size in _others(explanation) if layer.kind == "base"]
    if base:
        known = sum(size or 0 for size in base)
        what = f"base image, {len(base)} layer{'s' * (len(base) != 1)}"
        yield known, [_share(known, explanation.size, what)]
    for layer, size in _others(explanation):
        if layer.kind != "base":
            yield size or 0, [_share(size, explanation.size, one_line(layer.name))]


def _share(size: int | None, whole: int, what: str) -> str:
    """Return the line of a part of the image: its share, its size, and what it is."""
    share = "?" if size is None else f"{100 * size / whole:.1f}%" if whole else "0.0%"
    return f"{share:>6}  {_size(size):>9}  {what}"


def _reason_document(reason: Reason) -> dict[str, Any]:
    return {
        "path": reason.path,
        "size": reason.size,
        "layer": reason.layer,
        "only": list(reason.only),
        "only_size": reason.only_size,
        "chains": [{"place": chain.place, "paths": list(chain.paths)} for chain in reason.chains],
    }


def _reasons_text(reasons: Iterable[Reason], weighing: Weighing) -> str:
    from rich.text import Text

    parts: list[Text] = []
    for reason in reasons:
        parts += (uncut_line(reason.path), Text(_reason_line(reason)), Text())
        for chain in reason.chains[:MAX_CHAINS]:
            lines = [chain.place or "listed in the layers"]
            lines += ["  " * depth + store_name(path) for depth, path in enumerate(chain.paths, 1)]
            parts += (cut_lines(lines), Text())
        if (more := len(reason.chains) - MAX_CHAINS) > 0:
            parts += (Text(f"and from {more:,} more store paths"), Text())
    return render((*parts, *_gaps(weighing)))


def _reason_line(reason: Reason) -> str:
    if reason.layer is None:
        return "in the base image"
    line = f"{readable_size(reason.size)} in layer {reason.layer}"
    if reason.only:
        count = len(reason.only)
        paths = "1 store path that is" if count == 1 else f"{count} store paths that are"
        line += f"; {readable_size(reason.only_size)} with {paths} there for it alone"
    return line

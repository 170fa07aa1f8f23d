"""An explanation as one HTML page: layers as areas, their store paths inside, and a list to search.

The page needs no server, no network and no other file, and without scripts it still shows
everything. Its policy allows only its own script. All that comes from an image is escaped. Knows
neither argv nor terminals.
"""

from __future__ import annotations

import base64
import hashlib
import re
from collections.abc import Iterator, Sequence
from html import escape
from typing import NamedTuple

from stream.nix.hashes import DIGITS
from stream.text import one_line
from stream.tools.explain import ExplainedLayer, Explanation
from stream.tools.treemap import Area, squarify
from stream.tools.weight import Weighing

LEAST = 0.0002  # of the image: smaller store paths of a layer share an area
TINY = 1e-6  # of a whole: smaller parts are in the tables only
_STORE = re.compile(rf"^.*/(?:[{DIGITS}]{{32}}-)?")
_KINDS = {"base": "base image", "store": "store paths", "customisation": "customisation"}
_FATES = {True: "stays", False: "moves", None: "may move"}

_STYLE = """
:root { color-scheme: light dark; --ground: #fff; --text: #1b1f24; --dim: #59636e; --line: #d1d9e0;
  --area: #dbe9f9; --layer: #eef3f8; --moves: #ffdfb6; --mark: #0550ae; }
@media (prefers-color-scheme: dark) { :root { --ground: #12161b; --text: #e6edf3; --dim: #9aa5b1;
  --line: #3a434d; --area: #1d3450; --layer: #1a2028; --moves: #5c3a0a; --mark: #79b8ff; } }
* { box-sizing: border-box; }
body { margin: 0 auto; max-width: 90rem; padding: 1rem 1.5rem 3rem; background: var(--ground);
  color: var(--text); font: 1rem/1.5 system-ui, sans-serif; }
h1 { margin: 0; font-size: 1.5rem; overflow-wrap: anywhere; }
h2 { font-size: 1.1rem; margin: 1.5rem 0 .5rem; }
p { margin: .25rem 0; }
.dim { color: var(--dim); }
a { color: var(--mark); }
.skip { position: absolute; left: -99rem; }
.skip:focus { position: static; }
:focus-visible { outline: 3px solid var(--mark); outline-offset: -1px; z-index: 1; }
input { font: inherit; width: min(30rem, 100%); padding: .4rem .6rem; color: inherit;
  background: var(--ground); border: 1px solid var(--dim); border-radius: .3rem; }
.map { position: relative; height: min(65vh, 40rem); min-height: 22rem; margin-top: 1rem; }
.layer { position: absolute; overflow: hidden; border: 1px solid var(--ground);
  background: var(--layer); }
.layer > .name { display: block; height: 1.4rem; padding: 0 .3rem; font-size: .8rem;
  white-space: nowrap; overflow: hidden; text-overflow: ellipsis; }
.inside { position: absolute; inset: 1.4rem 1px 1px; }
.flat > .name { display: none; }
.flat > .inside { inset: 1px; }
.area { position: absolute; overflow: hidden; margin: 0; padding: .1rem .25rem; border: 1px solid
  var(--line); border-radius: 0; background: var(--area); color: inherit; font: .75rem/1.2
  system-ui, sans-serif; text-align: left; display: block; cursor: pointer; }
.moves .area { background: var(--moves); border-style: dashed; border-color: var(--dim); }
.out { opacity: .2; }
#detail { display: block; min-height: 4.5rem; margin-top: .5rem; overflow-wrap: anywhere;
  white-space: pre-line; }
.wide { overflow-x: auto; }
table { border-collapse: collapse; width: 100%; }
th, td { text-align: left; vertical-align: top; padding: .2rem .6rem; border-bottom: 1px solid
  var(--line); }
td:last-child { overflow-wrap: anywhere; width: 60%; }
.number { text-align: right; white-space: nowrap; }
"""

_SCRIPT = """
"use strict";
const areas = [...document.querySelectorAll(".area")];
const rows = [...document.querySelectorAll("#paths tbody tr")];
const detail = document.getElementById("detail");
const found = document.getElementById("found");
const show = (area) => { detail.textContent = area.dataset.about; };
areas.forEach((area, at) => {
  area.tabIndex = at ? -1 : 0;
  area.addEventListener("focus", () => show(area));
  area.addEventListener("click", () => show(area));
});
const steps = {ArrowRight: 1, ArrowDown: 1, ArrowLeft: -1, ArrowUp: -1, Home: -1e9, End: 1e9};
document.querySelector(".map").addEventListener("keydown", (event) => {
  const at = areas.indexOf(document.activeElement);
  if (!(event.key in steps) || at < 0) return;
  const next = areas[Math.min(Math.max(at + steps[event.key], 0), areas.length - 1)];
  areas[at].tabIndex = -1;
  next.tabIndex = 0;
  next.focus();
  event.preventDefault();
});
document.getElementById("search").addEventListener("input", (event) => {
  const words = event.target.value.toLowerCase().split(" ").filter(Boolean);
  const fits = (element) => words.every((word) => element.dataset.text.includes(word));
  let count = 0;
  for (const row of rows) { row.hidden = !fits(row); count += !row.hidden; }
  for (const area of areas) area.classList.toggle("out", !fits(area));
  found.textContent = words.length ? `${count} of ${rows.length}` : "";
});
document.getElementById("searching").hidden = false;
"""


class _Item(NamedTuple):
    """A part of a layer: its name, its size in bytes, what is shown of it, and what finds it."""

    name: str
    size: int
    about: str
    text: str


def make_page(explanation: Explanation, weighing: Weighing, version: str) -> bytes:
    """Return the HTML page of `explanation`, with the references of its store paths. `version` is
    that of the program.
    """
    return "".join(_page(explanation, weighing, version)).encode("utf-8", "backslashreplace")


def _page(explanation: Explanation, weighing: Weighing, version: str) -> Iterator[str]:
    digest = base64.b64encode(hashlib.sha256(_SCRIPT.encode()).digest()).decode()
    policy = f"default-src 'none'; style-src 'unsafe-inline'; script-src 'sha256-{digest}'"
    title = _text(explanation.repo_tag)
    yield (
        '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        f'<meta http-equiv="Content-Security-Policy" content="{policy}">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        '<meta name="referrer" content="no-referrer">\n'
        f'<meta name="generator" content="stream-image {_text(version)}">\n'
        f"<title>{title}</title>\n<style>{_STYLE}</style>\n</head>\n<body>\n"
        '<a class="skip" href="#list">Skip to the list of store paths</a>\n'
        f"<header><h1>{title}</h1>\n<p>{_text(_summary(explanation))}</p>\n</header>\n<main>\n"
        '<p id="searching" hidden><label>Search <input type="search" id="search"></label> '
        '<span id="found" role="status" class="dim"></span></p>\n'
    )
    yield from _map(explanation, weighing)
    yield '<output id="detail" class="dim">Choose an area to see what it is.</output>\n'
    yield from _layer_table(explanation)
    yield from _path_table(explanation, weighing)
    yield f"</main>\n<script>{_SCRIPT}</script>\n</body>\n</html>\n"


def _text(text: str) -> str:
    """Return `text` for HTML: on one line, and escaped, also for an attribute."""
    return escape(one_line(text), quote=True)


def _size(size: int | None) -> str:
    if size is None:
        return "?"
    amount: float = size
    for unit in ("B", "kB", "MB", "GB"):
        if amount < 1000:
            return f"{amount:.0f} B" if unit == "B" else f"{amount:.1f} {unit}"
        amount /= 1000
    return f"{amount:.1f} TB"


def _share(size: int | None, explanation: Explanation) -> str:
    if size is None:
        return "?"
    return f"{100 * size / explanation.size:.1f} %" if explanation.size else "0.0 %"


def _summary(explanation: Explanation) -> str:
    count = len(explanation.layers)
    text = f"{_size(explanation.size)} in {count} layer{'s' * (count != 1)}, uncompressed"
    if explanation.against is None:
        return text
    moving = len(explanation.moving)
    text += f"; against {explanation.against}: {moving} move, {_size(explanation.moving_size)}"
    return text + (f", {len(explanation.unknown)} may" if explanation.unknown else "")


def _fate(layer: ExplainedLayer, explanation: Explanation) -> str:
    return "" if explanation.against is None else _FATES[layer.stays]


# ---- areas


def _map(explanation: Explanation, weighing: Weighing) -> Iterator[str]:
    layers = [*enumerate(explanation.layers, 1)]
    layers = [item for item in layers if (item[1].size or 0) > TINY * explanation.size]
    layers.sort(key=lambda item: -(item[1].size or 0))
    areas = squarify([layer.size or 0 for _, layer in layers], Area(0, 0, 100, 50))
    yield '<div class="map" role="group" aria-label="Layers and store paths by size">\n'
    for (number, layer), area in zip(layers, areas, strict=True):
        name = f"{number}: {_size(layer.size)}"
        if fate := _fate(layer, explanation):
            name += f", {fate}"
        classes = "layer"
        classes += " moves" * (layer.stays is False) + " flat" * (area.height < 6 or area.width < 5)
        yield f'<div class="{classes}" style="{_style(area, 50)}"><span class="name">{_text(name)}</span>'
        yield '<div class="inside">\n'
        items = [*_items(number, layer, explanation, weighing)]
        inner = Area(0, 0, area.width, area.height)
        for item, part in zip(items, squarify([item.size for item in items], inner), strict=True):
            scaled = Area(
                100 * part.x / area.width, part.y, 100 * part.width / area.width, part.height
            )
            yield (
                f'<button type="button" class="area" style="{_style(scaled, area.height)}"'
                f' aria-label="{_text(item.about)}" data-about="{_text(item.about)}"'
                f' data-text="{_text(item.text.lower())}">{_text(item.name)}</button>\n'
            )
        yield "</div></div>\n"
    yield "</div>\n"


def _style(area: Area, height: float) -> str:
    """Return the place of an area in percent, if 100 % are a width of 100 and this height."""
    top, high = 100 * area.y / height, 100 * area.height / height
    return f"left:{area.x:.3f}%;top:{top:.3f}%;width:{area.width:.3f}%;height:{high:.3f}%"


def _items(
    number: int, layer: ExplainedLayer, explanation: Explanation, weighing: Weighing
) -> Iterator[_Item]:
    """Yield the parts of a layer, largest first: store paths, the small ones together, and the rest."""
    where = f"in layer {number}"
    if fate := _fate(layer, explanation):
        where += f", which {fate}"

    def item(name: str, size: int, what: str, text: str, more: str = "") -> _Item:
        about = f"{what}: {_size(size)}, {_share(size, explanation)} of the image, {where}{more}"
        return _Item(name, size, about, text)

    found: list[_Item] = []
    small: list[tuple[str, int]] = []
    for path, size in layer.paths:
        if size < LEAST * explanation.size or not size:
            small.append((path, size))
            continue
        above = weighing.chain(path)[:-1]
        more = f"; brought in by {' > '.join(map(_name, above))}" if above else ""
        found.append(item(_name(path), size, path, path, more))
    if (size := sum(size for _, size in small)) > 0:
        text = " ".join(path for path, _ in small)
        found.append(item(f"{len(small)} more", size, f"{len(small)} small store paths", text))
    rest = (layer.size or 0) - sum(size for _, size in layer.paths)
    if rest > 0 and (layer.kind != "store" or not found):
        name = f"{_KINDS.get(layer.kind, '')}: {layer.name}"
        found.append(item(name, rest, name, name))
    visible = (one for one in found if one.size > TINY * (layer.size or 0))
    yield from sorted(visible, key=lambda one: -one.size)


def _name(path: str) -> str:
    return _STORE.sub("", path)


# ---- tables


def _layer_table(explanation: Explanation) -> Iterator[str]:
    compared = explanation.against is not None
    columns = ["Layer", "Share", "Size", *(["Fate"] if compared else [])]
    yield _head("layers", "Layers, from bottom to top", columns, "Content")
    for number, layer in enumerate(explanation.layers, 1):
        cells = [str(number), _share(layer.size, explanation), _size(layer.size)]
        if compared:
            cells.append(_fate(layer, explanation))
        count = len(layer.paths)
        what = f"{_KINDS.get(layer.kind, layer.kind)}: {layer.name}"
        if layer.kind == "store":
            what = "1 store path" if count == 1 else f"{count} store paths"
        yield _row(cells, what)
    yield "</tbody></table></section>\n"


def _path_table(explanation: Explanation, weighing: Weighing) -> Iterator[str]:
    layers = {
        path: number
        for number, layer in enumerate(explanation.layers, 1)
        for path, _ in layer.paths
    }
    columns = ["Share", "Size", "With what it alone brings in", "Layer"]
    yield _head("paths", "Store paths, largest first", columns, "Path")
    branches = [branch for branch in weighing.tree() if branch.path in layers]
    for branch in sorted(branches, key=lambda branch: (-branch.size, branch.path)):
        total = _size(branch.total) if weighing.is_known else "?"
        share = _share(branch.size, explanation)
        yield _row([share, _size(branch.size), total, str(layers[branch.path])], branch.path)
    yield "</tbody></table></section>\n"


def _head(name: str, heading: str, columns: Sequence[str], last: str) -> str:
    heads = "".join(f'<th scope="col" class="number">{column}</th>' for column in columns)
    target = ' id="list" tabindex="-1"' if name == "paths" else ""
    return (
        f'<section class="wide"><h2{target}>{heading}</h2>\n<table id="{name}"><thead><tr>{heads}'
        f'<th scope="col">{last}</th></tr></thead>\n<tbody>\n'
    )


def _row(cells: Sequence[str], last: str) -> str:
    numbers = "".join(f'<td class="number">{_text(cell)}</td>' for cell in cells)
    return f'<tr data-text="{_text(last.lower())}">{numbers}<td>{_text(last)}</td></tr>\n'

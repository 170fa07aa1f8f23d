"""`stream-image explain --html`: one page, whatever is in the image. tests/consumers opens it."""

import base64
import hashlib
import itertools
import json
import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import commandline
import pytest
from hypothesis import given
from hypothesis import strategies as st
from support import COMMAND, Store

import stream
from stream.tools.explain import ExplainedLayer, Explanation, explain
from stream.tools.page import make_page
from stream.tools.treemap import Area, squarify
from stream.tools.weight import Weighing

NAMES = [
    f"{letter * 32}-{name}"
    for letter, name in zip("abcd", ("app", "lib", "x&y", "small"), strict=True)
]
SIZES = [60_000, 30_000, 150_000, 3]
TEXTS = st.one_of(
    st.text(), st.sampled_from(["<script>alert(1)</script>", "\" onclick='x' <b>", "]]>-->"])
)


class Page(HTMLParser):
    """The elements of a page with their attributes, and its text outside of scripts and styles."""

    def __init__(self, page: bytes) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self.code: dict[str, str] = {}
        self._raw = ""
        self.feed(page.decode())

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """Keep an element."""
        self.elements.append((tag, dict(attrs)))
        self._raw = tag if tag in ("script", "style") else ""

    def handle_endtag(self, tag: str) -> None:
        """End a script or a style."""
        self._raw = ""

    def handle_data(self, data: str) -> None:
        """Keep text."""
        if self._raw:
            self.code[self._raw] = self.code.get(self._raw, "") + data
        else:
            self.text += data

    def attributes(self, tag: str, style: str) -> list[dict[str, Any]]:
        """Return the attributes of the elements of a class."""
        found = (attributes for name, attributes in self.elements if name == tag)
        return [one for one in found if style in (one.get("class") or "").split()]


def page_of(explanation: Explanation, conf: stream.ImageConf) -> Page:
    """Return the page of an explanation."""
    return Page(make_page(explanation, Weighing(conf, explanation), "1"))


@pytest.fixture
def conf(tmp_path: Path) -> Path:
    """Return a conf with two store layers and a customisation layer."""
    store = Store.below(tmp_path)
    for name, size in zip(NAMES, SIZES, strict=True):
        store.file(f"{name}/f", size)
    return store.conf(NAMES[:2], NAMES[2:], customisation_layer={"directories": {"/tmp": "1777"}})


def percent(style: str) -> list[float]:
    """Return left, top, width and height."""
    return [float(number) for number in re.findall(r":([0-9.]+)%", style)]


def test_areas_are_in_proportion(conf: Path) -> None:
    """The largest part of an image must be the largest on the page."""
    loaded = stream.load_conf(conf)
    explanation = explain(loaded)
    page = page_of(explanation, loaded)
    layers = [percent(one["style"]) for one in page.attributes("div", "layer")]
    shares = [width * height / 100 for _, _, width, height in layers]
    expected = sorted(100 * (layer.size or 0) / explanation.size for layer in explanation.layers)
    assert shares == pytest.approx(expected[::-1], abs=0.1)
    areas = page.attributes("button", "area")
    named = {one["data-text"]: percent(one["style"]) for one in areas}
    large, small = (named[f"{conf.parent}/store/{name}".lower()] for name in NAMES[:2])
    assert large[2] * large[3] == pytest.approx(2 * small[2] * small[3], rel=0.1)
    about = {one["aria-label"] for one in areas}
    assert any(
        re.search(r"-app: 6\d\.\d kB, \d+\.\d % of the image, in layer 1$", one) for one in about
    )
    assert all(str(conf.parent / "store" / name) in page.text for name in NAMES)


def test_what_would_move(conf: Path) -> None:
    """It is written as well: not everybody sees colours."""
    document = json.loads(conf.read_bytes())
    earlier = {**document, "store_layers": document["store_layers"][:1]}
    loaded = stream.load_conf(conf)
    page = page_of(explain(loaded, earlier), loaded)
    assert [set(one["class"].split()) >= {"moves"} for one in page.attributes("div", "layer")] == [
        True, False, False,
    ]  # fmt: skip
    assert re.search(r"against test:1: 1 move, [0-9.]+ kB", page.text)
    labels = [one["aria-label"] for one in page.attributes("button", "area")]
    assert sum(label.endswith("in layer 2, which moves") for label in labels) == 2


def test_nothing_comes_from_elsewhere(conf: Path) -> None:
    """The page is opened from a disk, and without a network; its policy allows its own script alone."""
    loaded = stream.load_conf(conf)
    page = page_of(explain(loaded), loaded)
    digest = base64.b64encode(hashlib.sha256(page.code["script"].encode()).digest()).decode()
    (policy,) = (one["content"] for _, one in page.elements if one.get("http-equiv"))
    assert policy == f"default-src 'none'; style-src 'unsafe-inline'; script-src 'sha256-{digest}'"
    attributes = {key for _, one in page.elements for key in one}
    assert not attributes & {"src", "srcset", "action", "data", "poster"}
    assert [one["href"] for _, one in page.elements if "href" in one] == ["#list"]
    assert "url(" not in page.code["style"]
    assert "@import" not in page.code["style"]


@given(texts=st.tuples(TEXTS, TEXTS, TEXTS))
def test_hostile_names(texts: tuple[str, str, str]) -> None:
    """A name in an image could be a script in the page of who looks at it."""
    conf = stream.parse_conf(b'{"repo_tag": "x:1", "architecture": "amd64"}')
    tag, name, path = texts
    layers = [
        ExplainedLayer(kind="base", name=name, size=5000),
        ExplainedLayer(kind="store", name=name, size=3000, paths=((path, 3000),), stays=False),
    ]
    explanation = Explanation(repo_tag=tag, layers=tuple(layers), against=name)
    plain = Explanation(
        repo_tag="t", against="n", layers=(
            ExplainedLayer(kind="base", name="n", size=5000),
            ExplainedLayer(kind="store", name="n", size=3000, paths=(("p", 3000),), stays=False),
        )
    )  # fmt: skip
    page, expected = page_of(explanation, conf), page_of(plain, conf)
    assert [tag for tag, _ in page.elements] == [tag for tag, _ in expected.elements]
    assert [{*one} for _, one in page.elements] == [{*one} for _, one in expected.elements]
    assert page.code == expected.code


sizes = st.lists(st.integers(1, 10**12), min_size=1, max_size=40)


@given(sizes=sizes, width=st.floats(1, 1000), height=st.floats(1, 1000))
def test_treemap(sizes: list[int], width: float, height: float) -> None:
    """Areas that overlap hide each other; those out of proportion mislead."""
    sizes = sorted((size for size in sizes if size > 1e-6 * sum(sizes)), reverse=True)
    areas = squarify(sizes, Area(0, 0, width, height))
    whole, slack = sum(sizes), 1e-6 * max(width, height)
    for size, area in zip(sizes, areas, strict=True):
        assert area.width * area.height == pytest.approx(size / whole * width * height, rel=1e-3)
        assert area.x + area.width <= width + slack
        assert area.y + area.height <= height + slack
    for one, other in itertools.combinations(areas, 2):
        wide = min(one.x + one.width, other.x + other.width) - max(one.x, other.x)
        high = min(one.y + one.height, other.y + other.height) - max(one.y, other.y)
        assert wide < slack or high < slack


def test_command(conf: Path, tmp_path: Path) -> None:
    """The file appears, or the page is on standard output."""
    path = tmp_path / "page.html"
    commandline.run([*COMMAND, "explain", str(conf), "--html", str(path)], check=True)
    done = commandline.run(
        [*COMMAND, "explain", str(conf), "--html", "-"], check=True, capture_output=True
    )
    assert path.read_bytes() == done.stdout
    assert done.stdout.startswith(b"<!DOCTYPE html>")
    wrong = commandline.run(
        [*COMMAND, "explain", str(conf), "--html", "-", "--json"], capture_output=True, check=False
    )
    assert wrong.returncode == 2

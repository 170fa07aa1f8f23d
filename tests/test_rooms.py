"""The counting of rooms, on trees small enough to count by eye."""

from pathlib import Path

import pytest
from rooms import circles, floors, main, module_graph, modules, room_graph, upward

FILES = {
    "stream/__init__.py": "from stream.top import run\n",
    "stream/top/__init__.py": "",
    "stream/top/a.py": "from stream.top.b import x\nfrom stream import base\n",
    "stream/top/b.py": "def f():\n    from stream.top.a import y\n",
    "stream/base.py": "from stream import _tarhash, __version__\nfrom stream import top\n",
    "bench/__init__.py": "from stream.base import z\n",
    "demo.py": "import stream\n",
    "docs/design.md": "# Floors\n\n```floors\nabove │ top\nbelow │ base\nC     │ _tarhash\n```\n",
}


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """A tree of two rooms that import each other, one of which has a circle of modules."""
    for name, text in FILES.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text, "utf-8")
    return tmp_path


def test_rooms_and_arrows(tree: Path) -> None:
    """A room or an arrow that is missed makes a tangle look tidy."""
    assert room_graph(tree) == {
        "__init__": {"top"},
        "top": {"base"},
        "base": {"_tarhash", "__init__", "top"},
        "_tarhash": set(),
        "bench": {"base"},
        "demo": {"__init__"},
    }


def test_upward(tree: Path) -> None:
    """An arrow upward is what the floors exist to forbid."""
    drawn = floors(tree / "docs" / "design.md")
    assert upward(room_graph(tree), drawn) == [("base", "__init__"), ("base", "top")]


def test_circles(tree: Path) -> None:
    """A circle inside a room is seen as well, and each is counted once."""
    assert circles({"a": {"b"}, "b": {"c"}, "c": {"b"}, "d": set()}) == [["b", "c"]]
    files = modules(tree / "stream")
    del files["__init__"]
    assert circles(module_graph(files)) == [["top.a", "top.b"]]


def test_the_first_line(tree: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """It is what is quoted."""
    main(str(tree))
    first = capsys.readouterr().out.splitlines()[0]
    assert first == "rooms: 6, arrows: 7, circles: 1, upward: 2"

"""`files` in a recipe: its members, faults, and the way back to JSON."""

from pathlib import Path
from typing import Any

import pytest

from stream.model import PlacedFile
from stream.nix.store_root import Disk
from stream.schema.files import file_documents, read_files, start_from


def read(value: object) -> tuple[tuple[PlacedFile, ...], list[str]]:
    """Return the files of a member `files`, and its faults."""
    faults: list[str] = []
    found = read_files(
        value, "files", lambda place, wrong: faults.append(f"{place}: {wrong}"), Disk()
    )
    return found, faults


def test_members(tmp_path: Path) -> None:
    """Each key reaches the image, in an order that does not depend on who wrote the document."""
    value = {
        "/srv": {"path": str(tmp_path), "exclude": ["*.pyc"], "uid": 1000, "gid": "100"},
        "/entry": {"text": "é\0", "mode": "0750"},
        "/app": str(tmp_path),
    }
    found, faults = read(value)
    assert not faults
    source = str(tmp_path).encode()
    assert found == (
        PlacedFile(path=b"/app", source=source),
        PlacedFile(path=b"/entry", text="é\0", mode=0o750),
        PlacedFile(path=b"/srv", source=source, exclude=("*.pyc",), uid=1000, gid=100),
    )
    assert read(file_documents(found)) == (found, [])


@pytest.mark.parametrize(
    ("value", "fault"),
    [
        ([], "files: must be an object like"),
        ({"srv": "/"}, 'files["srv"]: \'srv\' is not an absolute path'),
        ({"/srv/": "/"}, "files[\"/srv/\"]: '/srv/' is not in normal form"),
        ({"/a/.wh.b": "/"}, 'files["/a/.wh.b"]: \'/a/.wh.b\' has a component that begins with .wh.'),
        ({f"/{'a' * 256}": "/"}, "has a component of 256 bytes"),
        ({"/a": 1}, 'files["/a"]: must be a path, or an object'),
        ({"/a": None}, 'files["/a"]: must be a path, or an object'),
        ({"/a": {}}, 'files["/a"]: needs either path or text'),
        ({"/a": {"path": "/", "text": ""}}, 'files["/a"]: needs either path or text'),
        ({"/a": {"path": 1}}, 'files["/a"].path: must be a string'),
        ({"/a": "missing"}, "files[\"/a\"]: 'missing' is not an absolute path"),
        ({"/a": "/\0"}, "contains a NUL character"),
        ({"/a": "/\ud800"}, "contains an unpaired UTF-16 surrogate"),
        ({"/a": "/no/such"}, 'files["/a"]: /no/such: no such file'),
        ({"/a": {"text": "\ud800"}}, 'files["/a"].text: contains an unpaired UTF-16 surrogate'),
        ({"/a": {"text": "", "exclude": []}}, 'files["/a"].exclude: applies to a directory'),
        ({"/a": {"path": "/", "exclude": "a"}}, 'files["/a"].exclude: must be a list'),
        ({"/a": {"path": "/", "exclude": ["a\nb"]}}, 'files["/a"].exclude[0]: contains a line break'),
        ({"/a": {"text": "", "mode": 755}}, 'files["/a"].mode: must be octal digits in a string'),
        ({"/a": {"text": "", "uid": -1}}, 'files["/a"].uid: must be a number'),
        ({"/a": {"text": "", "Mode": "0755"}}, 'did you mean "mode"?'),
    ],
)  # fmt: skip
def test_faults(value: Any, fault: str) -> None:
    """A mistake is reported with its place, before any file is read."""
    _, faults = read(value)
    assert [fault in one for one in faults].count(True) == 1


def test_a_link_to_nothing(tmp_path: Path) -> None:
    """It would be found only once the image is written."""
    (tmp_path / "link").symlink_to("missing")
    assert read({"/a": f"{tmp_path}/link"})[1] == [
        f'files["/a"]: {tmp_path}/link: is a link to nothing'
    ]


def test_start_from() -> None:
    """Paths start from a directory; whatever is not a path is left for the reader to report."""
    value = {"/a": "app", "/b": {"path": "../b", "text": "t"}, "/c": "/c", "/d": 1, "/e": ""}
    assert start_from(value, "/here/there") == {
        "/a": "/here/there/app",
        "/b": {"path": "/here/b", "text": "t"},
        "/c": "/c",
        "/d": 1,
        "/e": "",
    }
    assert start_from(1, "/here") == 1

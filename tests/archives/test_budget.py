"""The budget of an input: what may be made of it, in all readings together."""

import bz2
import io
from pathlib import Path

import pytest
from handmade import Base, layer_tar, tar_of

from stream.archives.bytesource import Budget, FileBytes, StreamBytes
from stream.archives.images import open_archive
from stream.archives.summary import summarise
from stream.archives.tarreader import read_members
from stream.errors import ArchiveError
from stream.limits import BOMB_RATIO, BOMB_SIZE
from stream.tools.verify import verify

MIB = 1 << 20
LAYERS = [layer_tar({"zeros": bytes(MIB) + bytes([number])}) for number in range(6)]
BASE = Base(layers=LAYERS)
STORED = [bz2.compress(layer) for layer in LAYERS]


def summarise_all(path: Path) -> None:
    """Read every layer of the archive."""
    with open_archive(str(path), summarise) as archive:
        for layer in archive.images[0].layers:
            archive.container.peruse(layer.blob)


def _write(tmp_path: Path, form: str) -> Path:
    path = tmp_path / "image"
    if form == "tar":
        path.write_bytes(BASE.docker_archive(stored=STORED))
        return path
    for name, data in BASE.oci_files(stored=STORED).items():
        (path / name).parent.mkdir(parents=True, exist_ok=True)
        (path / name).write_bytes(data)
    return path


@pytest.mark.parametrize("form", ["tar", "directory"])
def test_bombs_that_are_small_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, form: str
) -> None:
    """Without one budget for all, each layer could expand to just below the limit."""
    path = _write(tmp_path, form)
    monkeypatch.setattr("stream.archives.bytesource.BOMB_SIZE", 30 * MIB)
    summarise_all(path)
    assert not any("bomb" in str(fault) for fault in verify(path).faults)
    monkeypatch.setattr("stream.archives.bytesource.BOMB_SIZE", 8 * MIB)
    with pytest.raises(ArchiveError, match=r"expands to more than \d+ times .* as a bomb"):
        summarise_all(path)
    assert any("bomb" in str(fault) for fault in verify(path).faults)


def test_what_is_read_is_paid_for() -> None:
    """Without it a large archive, or one that is read twice, could be taken for a bomb."""
    budget = Budget()
    budget.take(BOMB_SIZE, "x", "too much")
    with pytest.raises(ArchiveError, match="x: too much; refused as a bomb"):
        budget.take(1, "x", "too much")
    budget.pay(BOMB_SIZE // BOMB_RATIO + 1)
    budget.take(1, "x", "too much")


def test_entries_cost_something(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without it a megabyte could hold two million entries, which take gigabytes to list."""
    monkeypatch.setattr("stream.archives.bytesource.BOMB_SIZE", MIB)
    tar = tar_of([(f"{number}", b"") for number in range(200)])
    assert len(list(read_members(StreamBytes(io.BytesIO(tar), "plain")))) == 200
    compressed = StreamBytes(io.BytesIO(tar), "compressed", FileBytes(-1, "x", size=0))
    with pytest.raises(ArchiveError, match="has too many entries for its size"):
        list(read_members(compressed))


@pytest.mark.parametrize("kind", ["tar", "compressed"])
def test_names_of_members(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str) -> None:
    """Without it names of 4 KiB, which compress to nothing, could fill the memory."""
    for module in ("stream.archives.tars", "stream.tools.verify.scan"):
        monkeypatch.setattr(f"{module}.MAX_MEMBER_NAMES", 1000)
    data = tar_of([("x" * 90 + f"{number}", b"") for number in range(20)])
    path = tmp_path / "image"
    path.write_bytes(data if kind == "tar" else bz2.compress(data))
    with pytest.raises(ArchiveError, match="bytes of members' names"):
        open_archive(str(path))
    assert [fault.rule for fault in verify(path).faults] == ["archive-unreadable"]


def test_an_error_is_kept_without_what_was_read(tmp_path: Path) -> None:
    """Without it each member that is not a layer would keep its frames and buffers alive."""
    path = tmp_path / "image"
    members = [("a", b"not a layer"), ("manifest.json", b"[]")]
    path.write_bytes(bz2.compress(tar_of(members)))
    with open_archive(str(path), summarise) as archive:
        blob = archive.container.find("a")
        assert blob is not None
        for _ in range(2):
            with pytest.raises(ArchiveError, match="is not a tar") as caught:
                archive.container.peruse(blob)
            assert caught.value.__cause__ is caught.value.__context__ is None

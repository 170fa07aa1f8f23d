"""Every consumer with every output: it runs each one it reads, and one it refuses leaves nothing behind."""

import os
import re
import subprocess
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path

import pytest

from .consumer import Consumer, Loaded, LoadError, Runner
from .daemonless import Umoci
from .images import REPO_TAG, BuiltImage, producer
from .requirements import PATH, require
from .table import COMPRESSIONS, FORMATS, PIPE, ROWS, TAR, VERSIONS, Refusal, Row

pytestmark = pytest.mark.consumers

Saved = Callable[[str, str], Path]

_DAEMONS = {"docker": "dockerd"}


@dataclass(frozen=True, slots=True)
class Cell:
    """A consumer, a way to load, and an output."""

    row: Row
    archive_format: str
    compression: str

    def __str__(self) -> str:
        way = self.row.way.strip("`")
        return f"{self.row.command}, {way}: {self.archive_format}, {self.compression}"

    @property
    def refusal(self) -> Refusal | None:
        """The reason why it is refused, or None."""
        return self.row.refusal(self.archive_format, self.compression)


CELLS = [
    Cell(row, archive_format, compression)
    for row in ROWS
    for archive_format in FORMATS
    for compression in COMPRESSIONS
]


REFUSED = [
    [*cells]
    for _, cells in groupby(
        (cell for cell in CELLS if cell.refusal), lambda cell: (cell.row, cell.archive_format)
    )
]
"""The cells that are refused, by row and format: each list shares a consumer."""

Load = Callable[[Cell], Loaded]


def _named(cells: Sequence[Cell]) -> str:
    return ", ".join((str(cells[0]), *(cell.compression for cell in cells[1:])))


def options(archive_format: str, compression: str) -> Sequence[str]:
    """Return the options that select an output."""
    return ("--format", archive_format, "--compress", compression)


@pytest.fixture(scope="session")
def saved(image: BuiltImage, tmp_path_factory: pytest.TempPathFactory) -> Saved:
    """Return the file with an output, each written once."""
    directory = tmp_path_factory.mktemp("outputs")

    def save(archive_format: str, compression: str) -> Path:
        path = directory / f"{archive_format}-{compression}"
        if not path.exists():
            with path.open("wb") as output:
                argv = producer(image.conf, "-q", *options(archive_format, compression))
                subprocess.run(argv, stdout=output, check=True)
        return path

    return save


@pytest.fixture
def consumer(request: pytest.FixtureRequest, cells: Sequence[Cell]) -> Consumer:
    """Return the cells' consumer, with a cold store."""
    chosen = request.getfixturevalue(cells[0].row.fixtures[cells[0].archive_format])
    assert isinstance(chosen, Consumer)
    return chosen


@pytest.fixture
def load(consumer: Consumer, image: BuiltImage, saved: Saved) -> Load:
    """Return a function that loads as a cell says."""

    def load(cell: Cell) -> Loaded:
        if cell.row.way == PIPE:
            argv = producer(image.conf, *options(cell.archive_format, cell.compression))
            return consumer.load_unfiltered(argv)
        return consumer.load_file(saved(cell.archive_format, cell.compression))

    return load


@pytest.mark.parametrize("cells", [[cell] for cell in CELLS if not cell.refusal], ids=_named)
def test_reads(
    consumer: Consumer, load: Load, cells: Sequence[Cell], image: BuiltImage, expected_id: str
) -> None:
    """Without it the page could promise a way that leads to no running container, or to another image."""
    loaded = load(cells[0])

    assert loaded.images == {consumer.reference(REPO_TAG): expected_id}
    if loaded.producer is not None:
        assert loaded.producer.status == 0, loaded.producer.stderr
    if isinstance(consumer, Runner):
        ran = consumer.run(REPO_TAG)
        assert (ran.returncode, ran.stdout) == (0, image.greeting("hello")), ran.stderr


@pytest.mark.parametrize("cells", REFUSED, ids=_named)
def test_refuses(consumer: Consumer, load: Load, cells: Sequence[Cell]) -> None:
    """Without it the page could warn of something that works by now, or a consumer load half an image silently.

    The store stays cold: after each refusal it holds no image.
    """
    for cell in cells:
        assert cell.refusal is not None

        with pytest.raises(LoadError) as refused:
            load(cell)

        assert cell.refusal.says in refused.value.consumer.stderr, cell
        assert consumer.images() == {}, cell
        if isinstance(consumer, Runner):
            ran = consumer.run(REPO_TAG)
            assert (ran.returncode != 0, ran.stdout) == (True, ""), cell


@pytest.mark.parametrize("compression", [name for name in COMPRESSIONS if name != "none"])
def test_umoci_if_tar_is_told(
    umoci: Umoci, image: BuiltImage, saved: Saved, compression: str, expected_id: str
) -> None:
    """Without it the note under the table could give a command that does not work."""
    option = "--gzip" if compression == "gzip" else "--zstd"
    assert option in TAR.reason
    archive = saved("oci-archive", compression)
    unpacked = subprocess.run(
        ["tar", "-x", option, "-C", str(umoci.isolation.path(umoci.layout))],
        input=archive.read_bytes(),
        check=False,
        capture_output=True,
    )

    assert unpacked.returncode == 0, unpacked.stderr
    assert umoci.image_id(REPO_TAG) == expected_id
    assert umoci.run(REPO_TAG).stdout == image.greeting("hello")


@pytest.mark.parametrize("consumer", VERSIONS)
def test_version(consumer: str) -> None:
    """Without it the page could name versions that nobody has tested."""
    program = _DAEMONS.get(consumer, consumer)
    require([program])
    said = subprocess.run(
        [program, "--version"],
        env=os.environ | {"PATH": PATH},
        check=True,
        capture_output=True,
        text=True,
    ).stdout

    found = re.search(r"\b\d+\.\d+", said)
    assert found is not None
    assert found[0] == VERSIONS[consumer]

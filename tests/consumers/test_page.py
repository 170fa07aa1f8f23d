"""docs/consumers.md, `verify` and a warning agree with the table; no consumer is run."""

from pathlib import Path

import commandline
import pytest
from support import COMMAND, Store

from stream import limits
from stream.tools.verify import CONSUMERS, verify

from .table import COMPRESSIONS, FILE, FORMATS, LIMITS, ROWS, TAR, VERSIONS, Row, page

PAGE = Path(__file__).parents[2] / "docs" / "consumers.md"


def test_page() -> None:
    """Without it the page could keep claims that the tests have refuted."""
    assert PAGE.read_text("utf-8") == page(), "run python -m tests.consumers.table > the page"


@pytest.mark.parametrize("archive_format", FORMATS)
@pytest.mark.parametrize("compression", COMPRESSIONS)
def test_verify_agrees(tmp_path: Path, archive_format: str, compression: str) -> None:
    """Without it `verify` could warn of consumers that read the archive, or miss some that do not."""
    conf = Store.below(tmp_path).conf()
    archive = tmp_path / "image"
    options = ("--format", archive_format, "--compress", compression, "-o", str(archive))
    commandline.run([*COMMAND, "-q", *options, str(conf)], check=True)

    def reads(row: Row) -> bool:
        refusal = row.refusal(archive_format, compression)
        # Whoever unpacks the archive for umoci can also decompress it.
        return (row.refusal(archive_format, "none") if refusal is TAR else refusal) is None

    read = {row.consumer for row in ROWS if row.way == FILE and reads(row)}
    refused = {name for finding in verify(str(archive)).findings for name in finding.refused_by}
    assert refused == set(CONSUMERS) - read == VERSIONS.keys() - read


def test_limits_agree() -> None:
    """Without it the warning and `verify` could state a limit that no consumer has."""
    allowed = {limit.consumer: limit.layers for limit in LIMITS}

    assert allowed["docker"] == limits.DOCKER_MAX_LAYERS
    assert limits.OVERLAY_MAX_LAYERS == allowed["podman"] == allowed["buildah"]

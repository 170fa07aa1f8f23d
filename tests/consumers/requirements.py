"""The requirements of these tests, and how they are skipped or fail without them."""

import os
import shutil
from collections.abc import Sequence
from typing import Final, NoReturn

import pytest

REQUIRED: Final = "STREAM_IMAGE_REQUIRE_CONSUMERS"
"""Set to 1 where consumers must be installed, as in CI: a test that cannot run then fails."""

# Daemons are in directories that are not in an ordinary user's PATH.
PATH: Final = os.pathsep.join((os.environ.get("PATH", os.defpath), "/usr/sbin", "/sbin"))


def unmet(reason: str) -> NoReturn:
    """Skip the test if consumers are optional, fail if they are required."""
    if os.environ.get(REQUIRED) == "1":
        pytest.fail(f"{reason}, and {REQUIRED}=1", pytrace=False)
    pytest.skip(reason)


def require(programs: Sequence[str]) -> None:
    """Check that programs are installed."""
    missing = [program for program in programs if shutil.which(program, path=PATH) is None]
    if missing:
        unmet(f"not installed: {', '.join(missing)}")

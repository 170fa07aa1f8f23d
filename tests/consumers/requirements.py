"""What a machine must offer to these tests, and what happens where it does not."""

import os
import shutil
from collections.abc import Sequence
from typing import Final, NoReturn

import pytest

REQUIRED: Final = "STREAM_IMAGE_REQUIRE_CONSUMERS"
"""Set to 1 where consumers must be there, as in CI: a test that cannot run then fails."""

# Daemons are in directories that an ordinary user's PATH leaves out.
PATH: Final = os.pathsep.join((os.environ.get("PATH", os.defpath), "/usr/sbin", "/sbin"))


def unmet(reason: str) -> NoReturn:
    """Skip where consumers are a courtesy, fail where they are required."""
    if os.environ.get(REQUIRED) == "1":
        pytest.fail(f"{reason}, and {REQUIRED}=1", pytrace=False)
    pytest.skip(reason)


def require(programs: Sequence[str]) -> None:
    """See that programs are installed."""
    missing = [program for program in programs if shutil.which(program, path=PATH) is None]
    if missing:
        unmet(f"not installed: {', '.join(missing)}")

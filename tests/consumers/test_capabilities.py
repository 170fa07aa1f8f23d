"""Capabilities as text, compared with setcap and with the kernel's result."""

import os
import subprocess
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stream.schema.capabilities import NAMES, capability_data

from .requirements import require, unmet

pytestmark = pytest.mark.consumers

# For setcap, `all` is the set that its kernel knows, which may be larger or smaller.
KERNEL_KNOWS = Path("/proc/sys/kernel/cap_last_cap")
ALL = ["all", "ALL"] if KERNEL_KNOWS.read_text("ascii") == f"{len(NAMES) - 1}\n" else []

names = st.lists(
    st.sampled_from(
        [*NAMES, *ALL, "CAP_KILL", "0", "7", "017", "0x1F", "40", "64", "08", "cap_", "x"]
    ),
    min_size=0 if ALL else 1,
    max_size=3,
)
actions = st.from_regex(r"([=+-][eip]{0,2}){1,2}|=ep|\+p", fullmatch=True)
clauses = st.tuples(names.map(",".join), actions).map("".join)
texts = st.lists(clauses, min_size=1, max_size=3).map(" ".join)


@given(text=texts)
def test_like_setcap(tmp_path: Path, text: str) -> None:
    """Without it a capability could mean one thing to setcap, and another in an image."""
    require(["setcap"])
    file = tmp_path / "file"
    if not file.exists():
        file.touch()
        if subprocess.run(
            ["setcap", "cap_kill=p", file], check=False, capture_output=True
        ).returncode:
            unmet("setcap may not give capabilities here")
    if "security.capability" in os.listxattr(file):
        os.removexattr(file, "security.capability")
    done = subprocess.run(
        ["setcap", "-q", "-", file],
        input=text.encode(),
        check=False,
        capture_output=True,
        timeout=60,
    )
    assert done.returncode in (0, 1)
    if not done.returncode:
        assert capability_data(text) == os.getxattr(file, "security.capability")
    else:
        with pytest.raises(ValueError, match=r"'"):
            capability_data(text)

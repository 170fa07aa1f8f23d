"""Inputs of at most a megabyte that try to take all memory or time, read by every command."""

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from hostile import HOSTILE, MAX_SIZE

MAX_SECONDS = 10
MAX_MEMORY = 256 << 20  # bytes
PROGRAM = [sys.executable, "-m", "stream"]
# A small process that starts the command: until it execs, a child is accounted the memory of its
# parent.
MEASURE = """
import json, os, sys
pid = os.posix_spawn(sys.argv[1], sys.argv[1:], os.environ)
_, status, usage = os.wait4(pid, 0)
code = os.waitstatus_to_exitcode(status)
print(json.dumps([code, usage.ru_utime + usage.ru_stime, usage.ru_maxrss << 10]), file=sys.stderr)
"""


def cost(*arguments: str) -> tuple[int, float, int]:
    """Return the exit status of the command, the seconds of processor time and bytes of memory."""
    command = [sys.executable, "-I", "-S", "-c", MEASURE, *PROGRAM, *arguments]
    done = subprocess.run(
        command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, check=True,
        timeout=300, cwd=Path(__file__).parent.parent,
    )  # fmt: skip
    message, _, measured = done.stderr.rstrip().rpartition(b"\n")
    assert b"internal error" not in message
    assert b"Traceback" not in message
    code, seconds, memory = json.loads(measured)
    return code, seconds, memory


@pytest.mark.slow
@pytest.mark.parametrize("make", HOSTILE.values(), ids=[name.replace(" ", "-") for name in HOSTILE])
def test_every_command_stays_within_bounds(make: Callable[[], bytes], tmp_path: Path) -> None:
    """Without it a small archive from anywhere could stop the machine that looks into it."""
    archive = tmp_path / "image"
    archive.write_bytes(make())
    assert archive.stat().st_size <= MAX_SIZE + 50_000  # tar's own headers are not the attack
    conf = tmp_path / "conf.json"
    recipe = {"directories": {"/tmp": "1777"}}
    document = {"repo_tag": "x:1", "from_image": os.fspath(archive), "customisation_layer": recipe}
    conf.write_text(json.dumps({**document, "skip_base_paths": True, "architecture": "amd64"}))
    name = os.fspath(archive)
    commands = [["inspect", name], ["verify", name], ["export", name], ["merge", name], [str(conf)]]
    for command in commands:
        code, seconds, memory = cost(*command)
        assert code in (0, 1), command
        assert seconds < MAX_SECONDS, (command, seconds)
        assert memory < MAX_MEMORY, (command, memory)

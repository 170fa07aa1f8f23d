"""Calls functions of tests as an ordinary user."""

import json
import os
import shutil
import subprocess
from pathlib import Path
from typing import Any

import orjson
import pytest

import stream

NOBODY = 65534
TESTS = Path(__file__).parents[3]
SITES = [str(Path(module.__file__ or "").parent.parent) for module in (stream, orjson, pytest)]

_CODE = """
import importlib, json, sys
sys.path[:0] = {sites!r}
function = getattr(importlib.import_module({module!r}), {name!r})
print(json.dumps([function(argument) for argument in json.load(sys.stdin)]))
"""


def call_as_nobody(module: str, name: str, arguments: list[Any], temporary: Path) -> list[Any]:
    """Return what the function `name` of `module` returns for each of `arguments`, called by a
    process of nobody whose TMPDIR is `temporary`. All are values that JSON can hold. Skips the
    test if this installation is closed to nobody.
    """
    python = shutil.which("python3", path="/usr/bin:/usr/local/bin:/run/current-system/sw/bin")
    code = _CODE.format(sites=[*SITES, str(TESTS)], module=module, name=name)
    settings: dict[str, Any] = {
        "user": NOBODY, "group": NOBODY, "extra_groups": [], "cwd": "/", "capture_output": True,
        "env": {
            "PATH": os.environ["PATH"], "TMPDIR": str(temporary), "PYTHONDONTWRITEBYTECODE": "1",
        },
        "timeout": 60,
    }  # fmt: skip

    def call(given: list[Any]) -> "subprocess.CompletedProcess[bytes]":
        command = [python or "", "-c", code]
        return subprocess.run(command, check=False, input=json.dumps(given).encode(), **settings)

    if not python or call([]).returncode:
        pytest.skip("this installation is closed to others")
    done = call(arguments)
    assert done.returncode == 0, done.stderr.decode()
    found: list[Any] = json.loads(done.stdout)
    return found

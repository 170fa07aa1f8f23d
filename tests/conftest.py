"""What all tests share: hypothesis profiles, a store to fill, the command to run."""

import os
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import orjson
import pytest
from hypothesis import HealthCheck, settings

# Examples share a test's store directory, each in a subdirectory of its own.
_COMMON: dict[str, Any] = {
    "deadline": None,
    "suppress_health_check": [HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
}
settings.register_profile("quick", max_examples=60, **_COMMON)
settings.register_profile("thorough", max_examples=600, print_blob=True, **_COMMON)
settings.load_profile(
    os.environ.get("HYPOTHESIS_PROFILE") or ("thorough" if os.environ.get("CI") else "quick")
)

# What ignores signals, as nohup and a shell's background jobs do, would hand that on, past
# pytest, to the programs that tests send them to.
signal.signal(signal.SIGHUP, signal.SIG_DFL)
signal.signal(signal.SIGTERM, signal.SIG_DFL)
signal.signal(signal.SIGINT, signal.default_int_handler)

Run = Callable[..., "subprocess.CompletedProcess[bytes]"]


@pytest.fixture
def store_dir() -> Iterator[bytes]:
    """An empty store directory with a short name: long ones are made, not met."""
    path = tempfile.mkdtemp(prefix="s")
    yield os.fsencode(path)
    # Not shutil: a tree can be deeper than Python recurses, and closed to its owner.
    if os.geteuid() != 0:
        subprocess.run(["chmod", "-R", "u+rwX", path], check=False, stderr=subprocess.DEVNULL)
    subprocess.run(["rm", "-rf", path], check=True)


@pytest.fixture
def write_conf(store_dir: bytes) -> Iterator[Callable[[Mapping[str, object]], str]]:
    """Write a conf beside the store; returns its path."""
    path = os.fsdecode(store_dir) + ".json"

    def write(document: Mapping[str, object]) -> str:
        with open(path, "wb") as file:
            file.write(orjson.dumps(document))
        return path

    yield write
    if os.path.exists(path):
        os.unlink(path)


@pytest.fixture
def stream_image() -> Run:
    """Run `stream-image` as a program of its own."""

    def run(
        *args: str,
        env: Mapping[str, str] | None = None,
        prefix: Sequence[str] = (),
        stdin: bytes = b"",
        timeout: float = 120,
        **options: Any,
    ) -> subprocess.CompletedProcess[bytes]:
        return subprocess.run(
            [*prefix, sys.executable, "-m", "stream", *args],
            check=False,
            capture_output=True,
            env={**os.environ, **(env or {})},
            input=stdin,
            timeout=timeout,
            **options,
        )

    return run


@pytest.fixture(scope="session")
def without_privilege() -> list[str]:
    """What to put before a command for it to meet permissions, even as root."""
    if os.geteuid() != 0:
        return []
    prefix = ["setpriv", "--bounding-set", "-dac_override,-dac_read_search", "--"]
    if not shutil.which("setpriv") or subprocess.run([*prefix, "true"], check=False).returncode:
        pytest.skip("needs setpriv and leave to drop capabilities")
    return prefix

"""Fixtures for all tests: hypothesis profiles, a store to fill, the command to run."""

import atexit
import os
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import commandline
import orjson
import pytest
from hypothesis import HealthCheck, settings
from support import COMMAND

# Examples share a test's store directory, each in its own subdirectory.
_COMMON: dict[str, Any] = {
    "deadline": None,
    "suppress_health_check": [HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
}
settings.register_profile("quick", max_examples=20, **_COMMON)
settings.register_profile("thorough", max_examples=200, print_blob=True, **_COMMON)
settings.load_profile(
    os.environ.get("HYPOTHESIS_PROFILE") or ("thorough" if os.environ.get("CI") else "quick")
)

# Under nohup or as a shell's background job, signals are ignored. The programs that tests send
# signals to would inherit that through pytest.
signal.signal(signal.SIGHUP, signal.SIG_DFL)
signal.signal(signal.SIGTERM, signal.SIG_DFL)
signal.signal(signal.SIGQUIT, signal.SIG_DFL)
signal.signal(signal.SIGINT, signal.default_int_handler)

# An unbuffered standard error never fails again when Python exits: tests would pass that fail
# for users, who do not have this.
os.environ.pop("PYTHONUNBUFFERED", None)

# Programs that tests start keep their caches here, not in the user's home.
os.environ["XDG_CACHE_HOME"] = tempfile.mkdtemp(prefix="stream-image-tests-cache-")
atexit.register(shutil.rmtree, os.environ["XDG_CACHE_HOME"], ignore_errors=True)

Run = Callable[..., "subprocess.CompletedProcess[bytes]"]


@pytest.fixture
def store_dir() -> Iterator[bytes]:
    """Make an empty store directory with a short name, since long names are tests of their own."""
    path = tempfile.mkdtemp(prefix="s")
    yield os.fsencode(path)
    # Not shutil: a tree can be too deep for recursion, and unreadable for its owner.
    if os.geteuid() != 0:
        subprocess.run(["chmod", "-R", "u+rwX", path], check=False, stderr=subprocess.DEVNULL)
    subprocess.run(["rm", "-rf", path], check=True)


@pytest.fixture
def write_conf(store_dir: bytes) -> Iterator[Callable[[Mapping[str, object]], str]]:
    """Return a function that writes a conf beside the store and returns its path."""
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
    """Return a function that runs `stream-image` as a separate program."""

    def run(
        *args: str,
        env: Mapping[str, str] | None = None,
        prefix: Sequence[str] = (),
        stdin: bytes = b"",
        timeout: float = 120,
        **options: Any,
    ) -> subprocess.CompletedProcess[bytes]:
        return commandline.run(
            [*prefix, *COMMAND, *args],
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
    """Return a command prefix under which permissions apply, even to root."""
    if os.geteuid() != 0:
        return []
    prefix = ["setpriv", "--bounding-set", "-dac_override,-dac_read_search", "--"]
    if not shutil.which("setpriv") or subprocess.run([*prefix, "true"], check=False).returncode:
        pytest.skip("needs setpriv and leave to drop capabilities")
    return prefix

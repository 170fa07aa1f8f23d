"""`--digest-cache` and `--no-digest-cache`: known digests change what is done, never the image."""

import os
import subprocess
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
from support import Store

Run = Callable[..., "subprocess.CompletedProcess[bytes]"]


@pytest.fixture
def conf(tmp_path: Path) -> str:
    """Return a conf of two small layers."""
    store = Store.below(tmp_path)
    store.file("one", b"content")
    store.file("two/file", 5000)
    return str(store.conf(["one"], ["two"]))


@pytest.mark.parametrize(
    ("options", "warning"),
    [
        (["--digest-cache", "/dev/null"], "--digest-cache /dev/null: ignored: is not a directory"),
        (
            ["--digest-cache", "/proc/none"],
            # Root may write there, as far as the system tells.
            "--digest-cache /proc/none: ignored: cannot be made: /proc is not writable"
            if os.geteuid()
            else "",
        ),
        (["--no-digest-cache"], ""),
    ],
    ids=["not-a-directory", "not-to-be-made", "none"],
)
def test_image_needs_no_cache(
    conf: str, options: Sequence[str], warning: str, stream_image: Run
) -> None:
    """An image would not be written because its digests cannot be kept."""
    expected = f"stream-image: warning: {warning}\n".encode() if warning else b""
    plain = stream_image("--quiet", conf)
    for environment in {}, {"HOME": "/nonexistent", "XDG_CACHE_HOME": ""}:
        done = stream_image("--quiet", conf, *options, env=environment)
        assert (done.returncode, done.stderr) == (0, expected)
        assert done.stdout == plain.stdout


def test_cache_without_a_name_is_an_error(conf: str, stream_image: Run) -> None:
    """A script whose variable is not set would put entries into its working directory."""
    done = stream_image(conf, "--digest-cache", "")
    assert (done.returncode, done.stdout) == (2, b"")
    assert done.stderr == (
        b"stream-image: --digest-cache: is empty; give the name of a directory\n"
    )

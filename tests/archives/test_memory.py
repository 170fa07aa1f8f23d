"""Decompression where the system gives no memory, as under `ulimit -v`."""

import lzma
import struct
import subprocess
import sys
from pathlib import Path

import pytest

from stream.archives.images import open_archive
from stream.errors import ArchiveError

_CONTENT = bytes(1024)
# A frame that needs a window of 128 MiB: its header, and one last block, stored.
_FRAME = (
    b"\x28\xb5\x2f\xfd"
    + bytes([0, 17 << 3])
    + (len(_CONTENT) << 3 | 1).to_bytes(3, "little")
    + _CONTENT
)
_TABLE = struct.pack("<IIIIIBI", 0x184D2A5E, 17, len(_FRAME), len(_CONTENT), 1, 0, 0x8F92EAB1)
_LARGE_DICTIONARY = [{"id": lzma.FILTER_LZMA2, "preset": 0, "dict_size": 64 << 20}]
ARCHIVES = {
    "zstd": _FRAME,
    "zstd-seekable": _FRAME + _TABLE,
    "xz": lzma.compress(_CONTENT, filters=_LARGE_DICTIONARY),
}

# Everything is imported first, so that the limit is met in the decompressor.
_LIMITED = """
import resource, sys
import lzma, pyzstd
import stream.cli.verbs.inspect, stream.cli.verbs.verify, stream.tools.inspect
from stream.cli.main import main
pages = int(open("/proc/self/statm").read().split()[0])
limit = pages * resource.getpagesize() + (32 << 20)
resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
sys.exit(main(sys.argv[1:]))
"""


@pytest.mark.parametrize(
    ("verb", "codec"), [("verify", "zstd"), ("verify", "xz"), ("inspect", "zstd-seekable")]
)
def test_no_memory_for_the_window(tmp_path: Path, verb: str, codec: str) -> None:
    """Without it a sound archive would be reported as damaged, and perhaps be thrown away."""
    path = tmp_path / "archive"
    path.write_bytes(ARCHIVES[codec])
    command = [sys.executable, "-c", _LIMITED, verb, "-q", str(path)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (1, "", "stream-image: out of memory\n")


@pytest.mark.parametrize("codec", ARCHIVES)
def test_memory_for_the_window(tmp_path: Path, codec: str) -> None:
    """Without it the archives above could need no memory, or be damaged."""
    path = tmp_path / "archive"
    path.write_bytes(ARCHIVES[codec])
    with pytest.raises(ArchiveError, match=r"neither manifest\.json nor index\.json"):
        open_archive(str(path))

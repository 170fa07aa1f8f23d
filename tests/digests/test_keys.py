"""Keys of layers."""

import hashlib
import re
from pathlib import Path

import pytest

from stream.digests import (
    FORMAT,
    NO_DIGESTS,
    SETTLING_NS,
    content_key,
    file_key,
    is_settled,
    joined_key,
    path_key,
)
from stream.model import Descriptor, Digest, Layer

GOLDEN = Path(__file__).parents[1] / "golden"
DIFF_ID = Digest("sha256:" + "d" * 64)
LAYER = Layer(
    archive_name="x",
    diff_id=DIFF_ID,
    size=3,
    comment="",
    descriptor=Descriptor(media_type="t", digest=Digest("sha256:" + "b" * 64), size=2),
)


def test_keys_differ_in_whatever_differs() -> None:
    """Without it two layers could have one key, and one be shipped for the other."""
    keys = [
        file_key([b"a"], [b"b"], settled=True),
        file_key([b"ab"], [b""], settled=True),
        file_key([b"a", b"b"], [], settled=True),
        file_key([b"a"], [b"b", b""], settled=True),
        path_key([b"a"], [(b"/p", "h")]),
        path_key([b"a"], [(b"/ph", "")]),
        path_key([b"a"], [(b"/p", "h"), (b"/q", "h")]),
        path_key([b"a", b"/p", b"h"], []),
        content_key(DIFF_ID),
    ]
    assert len({key.value for key in keys}) == len(keys)
    assert all(len(key.value) == 64 and int(key.value, 16) for key in keys)


@pytest.mark.parametrize(
    ("age", "settled"),
    [(SETTLING_NS + 1, True), (SETTLING_NS, False), (0, False), (-3600 * 10**9, False)],
    ids=["old", "just-too-young", "now", "in-the-future"],
)
def test_files_settle(age: int, *, settled: bool) -> None:
    """Without it a file that changes again at once, or after the clock was set back, would keep
    the digest of its first content.
    """
    now = 10**18
    assert is_settled(now - age, now) == settled
    assert file_key([], [], settled=settled).recordable == settled


def test_nothing_is_remembered() -> None:
    """Without it a run that asked for no cache could use one."""
    key = content_key(DIFF_ID)
    NO_DIGESTS.record([key], LAYER, "")
    assert NO_DIGESTS.lookup([key], "") is None
    assert NO_DIGESTS.forget([key]) is None


def test_other_layers_have_other_keys() -> None:
    """Without it a release that writes other bytes for the same files would take the digests of
    the one before for its own.

    The golden layers stand for all; each line has a format and what they are in it. If they change,
    raise `stream.digests.FORMAT` and add a line.
    """
    image = (GOLDEN / "image.txt").read_text("utf-8")
    layers = re.findall(r"^\S+/layer\.tar \d+ bytes (sha256 [0-9a-f]{64})$", image, re.MULTILINE)
    assert layers
    digest = hashlib.sha256("\n".join(layers).encode()).hexdigest()
    lines = (GOLDEN / "layer_formats.txt").read_text("utf-8").splitlines()
    formats = [line.split()[0] for line in lines]
    assert formats == [str(number) for number in range(1, FORMAT + 1)]
    assert lines[-1] == f"{FORMAT} {digest}"


def test_a_joined_key_is_as_portable_as_its_parts() -> None:
    """Without it files of this machine could be taken for those of another."""
    here = file_key([b"a"], [b"i"], settled=True)
    anywhere = path_key([b"a"], [])
    assert joined_key(anywhere, content_key(DIFF_ID)).portable
    assert not joined_key(anywhere, here).portable
    young = file_key([b"a"], [b"i"], settled=False)
    assert not joined_key(anywhere, young).recordable

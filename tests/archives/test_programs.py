"""The programs and links of layers, listed in bounded memory."""

import io
import tarfile
from collections.abc import Sequence

import pytest
from handmade import Entry, link, tar_of

from stream.archives import programs
from stream.archives.bytesource import StreamBytes
from stream.archives.programs import LayeredPrograms, ProgramBudget, ProgramListing
from stream.archives.tarreader import read_members
from stream.typeflags import DIRECTORY, FILE, LINK


def executable() -> tarfile.TarInfo:
    """Return the header of an empty program, without a name."""
    info = tarfile.TarInfo()
    info.mode = 0o755
    return info


def listed(entries: Sequence[Entry], budget: ProgramBudget | None = None) -> ProgramListing:
    """Return the listing of a layer."""
    content = StreamBytes(io.BytesIO(tar_of(entries)), "layer")
    listing = ProgramListing(budget or ProgramBudget())
    for member in read_members(content):
        listing.add(member, content)
    return listing


def test_only_what_can_matter_is_kept() -> None:
    """Most files of an image are data, and would take most of the memory."""
    found = listed([("a/x", executable()), ("a/data", b"data"), ("l", link("a"))])
    assert {path: entry.typeflag for path, entry in found.entries.items()} == {
        b"a": DIRECTORY,
        b"a/x": FILE,
        b"l": LINK,
    }


@pytest.mark.parametrize("limit", ["MAX_LISTED", "MAX_BYTES"])
def test_beyond_the_limits_nothing_is_known(monkeypatch: pytest.MonkeyPatch, limit: str) -> None:
    """The limit is one for all layers: many small ones must not add up."""
    monkeypatch.setattr(programs, limit, 20)
    budget = ProgramBudget()
    listings = [
        listed([(f"{number}-{layer}", executable()) for number in range(9)], budget)
        for layer in range(3)
    ]
    assert listings[0].is_complete is (limit == "MAX_LISTED")
    assert not listings[-1].is_complete
    assert not listings[-1].entries


def test_a_layer_with_entries_below_its_own_link_is_not_known() -> None:
    """Consumers disagree on where such an entry goes, so nothing can be said of it."""
    assert not listed([("bin", link("usr")), ("bin/x", executable())]).is_complete
    assert listed([("bin", link("usr")), ("usr/x", executable())]).is_complete


def test_an_upper_layer_wins() -> None:
    """A container sees the topmost entry, and none that an upper layer replaced above it."""
    below = listed([("a/x", executable()), ("b", link("a")), ("etc/passwd", b"one")])
    above = listed([("a", link("c")), ("b/y", executable()), ("etc/passwd", b"two")])
    files = LayeredPrograms([below, above])
    found = [files.find(path) for path in (b"a", b"a/x", b"b", b"b/y")]
    assert [entry and entry.typeflag for entry in found] == [LINK, None, DIRECTORY, FILE]
    assert files.read(b"etc/passwd") == b"two"

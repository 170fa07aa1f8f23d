"""What one run has learnt of layers."""

import pytest

from stream.digests import NO_DIGESTS
from stream.digests.memory import Learnt, RunDigests
from stream.model import LayerKey

from .cached import ONE, TWO, known, layer

YOUNG = LayerKey(value="3" * 64, recordable=False)


class Kept:
    """Digests as they are kept from run to run, of which `ONE` is known."""

    def __init__(self) -> None:
        self.asked = 0
        self.recorded: list[LayerKey] = []
        self.forgotten: list[LayerKey] = []

    def lookup(self, keys: object, encoding: str) -> object:
        """Return what is known of `ONE`."""
        self.asked += 1
        return known(blob="b" if encoding == "z" else None) if keys == [ONE] else None

    def record(self, keys: list[LayerKey], *_: object) -> None:
        """Record that something is recorded."""
        self.recorded += keys

    def forget(self, keys: list[LayerKey]) -> str:
        """Record that something is forgotten."""
        self.forgotten += keys
        return "entry"


def test_layer_too_young_to_be_kept_is_known_in_its_run() -> None:
    """Without it the second image of a run would read again what was built just before it."""
    digests = RunDigests(NO_DIGESTS, Learnt())
    digests.record([YOUNG], layer(), "z")
    assert digests.lookup([YOUNG], "z") == known()
    assert digests.lookup([YOUNG], "") is None


def test_kept_digests_are_asked_once_and_told_all() -> None:
    """Without it each image would read the cache again, or the next run would know nothing."""
    kept = Kept()
    digests = RunDigests(kept, Learnt())  # type: ignore[arg-type]
    for _ in range(3):
        assert digests.lookup([ONE], "z") == known()
    assert kept.asked == 1
    assert digests.lookup([ONE], "g") == known(blob=None), "another form may be learnt meanwhile"
    assert digests.lookup([ONE], "g") == known(blob=None)
    assert kept.asked == 3
    digests.record([TWO], layer(), "z")
    assert kept.recorded == [TWO]


def test_wrong_digest_is_forgotten_everywhere() -> None:
    """Without it a digest that turned out wrong would fail all images that follow."""
    kept = Kept()
    digests = RunDigests(kept, Learnt())  # type: ignore[arg-type]
    digests.record([TWO], layer(), "z")
    assert digests.forget([TWO]) == "entry"
    assert digests.lookup([TWO], "z") is None
    assert kept.forgotten == [TWO]


def test_memory_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without it a run over any number of images would grow without an end."""
    monkeypatch.setattr("stream.digests.memory._MOST", 2)
    digests = RunDigests(NO_DIGESTS, Learnt())
    for key in (ONE, TWO, YOUNG):
        digests.record([key], layer(), "z")
    assert [digests.lookup([key], "z") is None for key in (ONE, TWO, YOUNG)] == [True, False, False]

"""A mapping that does not grow."""

from stream.recent import Recent


def test_first_entry_makes_room() -> None:
    """Without it a run over any number of images would grow without an end."""
    recent: Recent[int, str] = Recent(2)
    for number in (1, 2, 1, 3):
        recent[number] = str(number)
    assert dict(recent) == {2: "2", 3: "3"}

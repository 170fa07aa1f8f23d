"""The customisation layer: its bytes are the ones promised, or the run fails."""

import hashlib
import os
from pathlib import Path

import pytest
from support import BALLAST, MIB, Run, Store, assert_failed, members

CONTENT = bytes(range(256)) * 200


def _customisation(store: Store, content: bytes | int, promised: bytes) -> Path:
    layer = store.file("customisation/layer.tar", content)
    checksum = hashlib.sha256(promised).hexdigest() + "\n"
    store.file("customisation/checksum", checksum.encode())
    return layer


def _conf(store: Store, *layers: list[str]) -> Path:
    return store.conf(*layers, customisation_layer=str(store.path("customisation")))


def test_right_checksum(store: Store) -> None:
    """Without it the tests of invalid layers could pass for another reason."""
    _customisation(store, CONTENT, CONTENT)
    with Run(_conf(store), "--progress", "none") as run:
        outcome = run.finish()
    assert outcome.status == 0, outcome.stderr
    assert members(outcome.stdout)[-1] == "manifest.json"


def test_wrong_checksum(store: Store) -> None:
    """Without it a damaged customisation layer could be loaded as the one that was built."""
    _customisation(store, CONTENT, CONTENT + b"!")
    with Run(_conf(store), "--progress", "none") as run:
        outcome = run.finish()
    found = hashlib.sha256(CONTENT).hexdigest()
    assert_failed(outcome, str(store.path("customisation")), "sha256", found)


@pytest.mark.parametrize("size", [100, 20 * MIB, BALLAST + 1])
def test_layer_cut_or_grown_while_it_is_copied(store: Store, size: int) -> None:
    """Without it the bytes announced and the bytes written could differ."""
    layer = _customisation(store, BALLAST, b"whatever")
    with Run(_conf(store), "--progress", "none") as run:
        run.stall()
        os.truncate(layer, size)
        assert_failed(run.finish(), str(layer))


@pytest.mark.parametrize(
    "change",
    [
        *("cut", "vanish", "replace", "fifo"),
        *(pytest.param(change, marks=pytest.mark.slow) for change in ("grow", "directory")),
    ],
)
def test_layer_changed_before_its_turn(store: Store, change: str) -> None:
    """Without it the file checked and the file copied could differ, or the copy wait for ever."""
    store.file("one/ballast", BALLAST)
    layer = _customisation(store, CONTENT, CONTENT)
    with Run(_conf(store, ["one"]), "--progress", "none") as run:
        run.stall()
        if change in ("cut", "grow"):
            os.truncate(layer, len(CONTENT) + (1 if change == "grow" else -1))
        else:
            layer.unlink()
        if change == "replace":
            layer.write_bytes(CONTENT[::-1])
        if change == "fifo":
            os.mkfifo(layer)
        if change == "directory":
            layer.mkdir()
        assert_failed(run.finish(), str(store.path("customisation")))

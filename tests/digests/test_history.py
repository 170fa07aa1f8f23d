"""Whatever happens to files, known digests are those of the bytes: histories of changes to a tree,
against an oracle that reads all of it each time.
"""

import hashlib
import io
import os
import shutil
import tarfile
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Literal
from unittest import mock

import oracle
import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from parity import conf_of

import stream
from stream.digests import NO_DIGESTS
from stream.digests.store import DigestCache
from stream.model import KnownLayer, LayerKey
from stream.tools.digests import compute_digests

NAMES = ["tree/a", "tree/b", "tree/sub/c"]
LAYERS = 2  # of the images
SIZE = 20_000  # enough for a file to be moved without being read, once its digest is known
SECOND = 10**9

Clock = Literal["later", "now", "set back"]
Step = tuple[str, int, Clock]


# ---- changes, each of one file; the second argument is another


def rewrite(path: Path, _: Path) -> None:
    """Write the file in place: other bytes, as many as before."""
    with path.open("r+b") as file:
        first = file.read(1)[0]
        file.seek(0)
        file.write(bytes([(first + 1) % 256]))


def rewrite_in_secret(path: Path, _: Path) -> None:
    """Write the file in place, and put its modification time back."""
    before = path.stat().st_mtime_ns
    rewrite(path, _)
    os.utime(path, ns=(before, before))


def replace(path: Path, other: Path) -> None:
    """Replace the file with another of the same size and modification time."""
    new = path.with_name("new")
    shutil.copy2(path, new)
    rewrite_in_secret(new, other)
    new.rename(path)


def exchange(path: Path, other: Path) -> None:
    """Exchange the names of two files, which differ in nothing but their content."""
    swap = path.with_name("swap")
    path.rename(swap)
    other.rename(path)
    swap.rename(other)


def touch(path: Path, _: Path) -> None:
    """Change the modification time alone."""
    os.utime(path, ns=(0, path.stat().st_mtime_ns + 1))


def restore(path: Path, _: Path) -> None:
    """Set the modification time that all files had at first."""
    os.utime(path, ns=(0, SECOND))


def change_mode(path: Path, _: Path) -> None:
    """Change the mode alone."""
    path.chmod(path.stat().st_mode ^ 0o111)


def optimise(path: Path, other: Path) -> None:
    """Make another file a hard link to this one, as `nix-store --optimise` does."""
    other.unlink()
    other.hardlink_to(path)


def replace_by_link(path: Path, _: Path) -> None:
    """Replace the file by a symbolic link to one that has its content."""
    (path.parents[1] / "elsewhere").write_bytes(path.read_bytes())
    path.unlink()
    path.symlink_to("../elsewhere")


CHANGES = {
    change.__name__: change
    for change in (
        rewrite, rewrite_in_secret, replace, exchange, touch, restore, change_mode, optimise,
        replace_by_link,
    )
}  # fmt: skip


def carry_out(directory: Path, change: str, number: int) -> None:
    """Carry out a change of the file `number`; nothing happens to what is a link by now."""
    path, other = (directory / NAMES[n % len(NAMES)] for n in (number, number + 1))
    if change in CHANGES and not path.is_symlink() and not other.is_symlink():
        CHANGES[change](path, other)


# ---- clocks


def settle(directory: Path) -> None:
    """Wait until any change would have another ctime than all that there were."""
    newest = max(path.lstat().st_ctime_ns for path in directory.rglob("*"))
    probe = directory / "probe"
    probe.touch()
    while probe.stat().st_ctime_ns <= newest:
        time.sleep(0.001)
        probe.touch()


@contextmanager
def at(clock: Clock, directory: Path) -> Iterator[None]:
    """Have layers walked at this time, seen from the changes before."""
    if clock == "later":
        settle(directory)
    offset = {"later": 10, "now": 0, "set back": -3600}[clock] * SECOND
    faked = mock.Mock(time_ns=lambda: time.time_ns() + offset)
    with (
        mock.patch("stream.sources.store.time", faked),
        mock.patch("stream.sources.customisation.layer.time", faked),
    ):
        yield


class Watched(DigestCache):
    """A cache that counts how often it knew a layer."""

    hits = 0

    def lookup(self, keys: Sequence[LayerKey], encoding: str) -> KnownLayer | None:
        """See DigestCache."""
        found = super().lookup(keys, encoding)
        self.hits += found is not None
        return found


steps = st.tuples(
    st.sampled_from([*CHANGES, "nothing"]),
    st.integers(0, len(NAMES) - 1),
    st.sampled_from(["later", "later", "now", "set back"]),
)


def run_history(parent: str, history: Sequence[Step]) -> int:
    """Carry out `history` in a new tree, which is a store path and is copied into the customisation
    layer, and check all digests after each step. Return the number of times that one was known.
    """
    directory = Path(tempfile.mkdtemp(dir=parent))
    (directory / "tree/sub").mkdir(parents=True)
    for number, name in enumerate(NAMES):
        (directory / name).write_bytes(bytes([number]) * SIZE)
        restore(directory / name, directory)
    document = conf_of(os.fsencode(directory), "tree")
    recipe = {"copy_to_root": [f"{directory}/tree"]}
    conf = stream.parse_conf(orjson.dumps({**document, "customisation_layer": recipe}))
    warm = Watched(str(directory / "cache"))
    for number, (change, which, clock) in enumerate(history):
        carry_out(directory, change, which)
        archives = []
        with at(clock, directory):
            cold = DigestCache(str(directory / f"cold{number}"))
            for digests in (NO_DIGESTS, cold, warm, warm):
                file = io.BytesIO()
                image = stream.write_image(conf, file, digests=digests)
                archives.append(file.getvalue())
                contents = layers_in(archives[-1])
                assert contents[0] == oracle.layers(document)[0]
                hashes = [f"sha256:{hashlib.sha256(content).hexdigest()}" for content in contents]
                assert [layer.diff_id for layer in image.layers] == hashes
            assert compute_digests(conf, warm).image_id == image.image_id
        assert archives.count(archives[0]) == len(archives)
    return warm.hits


def layers_in(archive: bytes) -> list[bytes]:
    """Return the layers of a docker-archive."""
    with tarfile.open(fileobj=io.BytesIO(archive)) as tar:
        members = {member.name: tar.extractfile(member).read() for member in tar}  # type: ignore[union-attr]
    return [members[name] for name in orjson.loads(members["manifest.json"])[0]["Layers"]]


@pytest.mark.slow
@settings(max_examples=25)
@given(st.lists(steps, min_size=1, max_size=6))
def test_any_history(store_dir: bytes, history: list[Step]) -> None:
    """Without it a file changed behind our back would be shipped under the digest of its past."""
    run_history(os.fsdecode(store_dir), history)


def test_digests_are_known_only_of_files_that_have_settled(store_dir: bytes) -> None:
    """Without it the test above could pass with a cache that knows nothing, or too much."""
    parent = os.fsdecode(store_dir)
    assert run_history(parent, [("nothing", 0, "now"), ("nothing", 0, "set back")]) == 0
    assert run_history(parent, [("nothing", 0, "later")]) == 2 * LAYERS
    assert run_history(parent, [("nothing", 0, "later")] * 2) == 5 * LAYERS
    assert run_history(parent, [("nothing", 0, "later"), ("touch", 0, "later")]) == 4 * LAYERS

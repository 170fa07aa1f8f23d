"""Truncated or corrupt streams: a consumer must not make an image of them."""

import hashlib
import io
import json
import shutil
import tarfile
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from .consumer import Consumer, LoadError, Runner
from .images import REPO_TAG, BuiltImage, producer

pytestmark = pytest.mark.consumers


def _middle_of_the_largest_layer(members: Sequence[tarfile.TarInfo]) -> int:
    largest = max(members, key=lambda member: member.size)
    return largest.offset_data + largest.size // 2


def _between_two_layers(members: Sequence[tarfile.TarInfo]) -> int:
    return members[1].offset


def _before_the_image_config(members: Sequence[tarfile.TarInfo]) -> int:
    return members[-2].offset


def _before_the_manifest(members: Sequence[tarfile.TarInfo]) -> int:
    return members[-1].offset


def _within_the_manifest(members: Sequence[tarfile.TarInfo]) -> int:
    return members[-1].offset_data + members[-1].size // 2


PLACES: Sequence[Callable[[Sequence[tarfile.TarInfo]], int]] = [
    _middle_of_the_largest_layer,
    _between_two_layers,
    _before_the_image_config,
    _before_the_manifest,
    _within_the_manifest,
]


def test_cut_stream(consumer: Consumer, image: BuiltImage, archive: Path) -> None:
    """Without it a run that dies midway could leave an image that loads.

    The store stays cold: after each refusal it holds no image.
    """
    with tarfile.open(archive) as tar:
        members = tar.getmembers()
    for place in PLACES:
        with pytest.raises(LoadError):
            consumer.load(_cut(image.producer, place(members)))

        _assert_absent(consumer)


def test_stream_cut_at_its_very_end(consumer: Consumer, image: BuiltImage, archive: Path) -> None:
    """Without it the truncated streams could be refused for a fault of the test's own, and prove nothing."""
    loaded = consumer.load(_cut(image.producer, archive.stat().st_size))

    assert consumer.reference(REPO_TAG) in loaded.images


def test_wrong_diff_id(consumer: Consumer, archive: Path, tmp_path: Path) -> None:
    """Without it consumers might not notice a layer whose hash is wrong."""
    changed = tmp_path / "changed.tar"
    _change_first_diff_id(archive, changed)

    with pytest.raises(LoadError):
        consumer.load(["cat", str(changed)])

    _assert_absent(consumer)


def test_wrong_checksum(consumer: Consumer, image: BuiltImage, tmp_path: Path) -> None:
    """Without it a failed run of ours could still end in an archive that loads."""
    conf = json.loads(image.conf.read_bytes())
    layer = tmp_path / "customisation"
    shutil.copytree(conf["customisation_layer"], layer)
    (layer / "checksum").write_text("0" * 64 + "\n")
    changed = tmp_path / "conf.json"
    changed.write_text(json.dumps(conf | {"customisation_layer": str(layer)}))

    with pytest.raises(LoadError) as refused:
        consumer.load(producer(changed))

    ours = refused.value.producer
    assert ours is not None
    assert ours.status != 0
    assert "checksum" in ours.stderr
    _assert_absent(consumer)


def _assert_absent(consumer: Consumer) -> None:
    assert consumer.image_id(REPO_TAG) is None
    if isinstance(consumer, Runner):
        ran = consumer.run(REPO_TAG)
        assert ran.returncode != 0
        assert ran.stdout == ""


def _cut(argv: Sequence[str], length: int) -> Sequence[str]:
    """Return a command that writes only the first bytes of the output of another one."""
    return ("sh", "-c", 'length=$1; shift; "$@" | head -c "$length"', "sh", str(length), *argv)


def _change_first_diff_id(archive: Path, changed: Path) -> None:
    """Copy an archive, consistent except for the digest of its first layer."""
    with tarfile.open(archive) as source, tarfile.open(changed, "w") as target:
        *layers, config, manifest = source.getmembers()
        for member in layers:
            target.addfile(member, source.extractfile(member))
        file = source.extractfile(config)
        assert file is not None
        image_config = json.load(file)
        image_config["rootfs"]["diff_ids"][0] = (
            f"sha256:{hashlib.sha256(b'another layer').hexdigest()}"
        )
        content = json.dumps(image_config).encode()
        name = f"{hashlib.sha256(content).hexdigest()}.json"
        _add(target, name, content)
        file = source.extractfile(manifest)
        assert file is not None
        (described,) = json.load(file)
        _add(target, "manifest.json", json.dumps([described | {"Config": name}]).encode())


def _add(tar: tarfile.TarFile, name: str, content: bytes) -> None:
    member = tarfile.TarInfo(name)
    member.size = len(content)
    tar.addfile(member, io.BytesIO(content))

"""`stream-image diff`: layers, files and configs of two images."""

import json
import tarfile
from pathlib import Path
from typing import Any

import commandline
import pytest
from handmade import Base, layer_tar, tar_of
from support import COMMAND, Store

from stream.tools.diff import Difference, diff


def entry(name: str, **attributes: Any) -> tuple[str, tarfile.TarInfo]:
    """Return a header of an entry without content."""
    info = tarfile.TarInfo(name)
    for key, value in attributes.items():
        setattr(info, key, value)
    return name, info


def symlink(name: str, target: str) -> tuple[str, tarfile.TarInfo]:
    """Return a link."""
    return entry(name, type=tarfile.SYMTYPE, linkname=target)


def device(name: str, minor: int) -> tuple[str, tarfile.TarInfo]:
    """Return a character device."""
    return entry(name, type=tarfile.CHRTYPE, devminor=minor)


def archive(path: Path, *layers: bytes, **more: Any) -> str:
    """Write a docker-archive of these layers."""
    path.write_bytes(Base(layers=list(layers), **more).docker_archive())
    return str(path)


def changes(difference: Difference) -> dict[str, Any]:
    """Return what has become of each file that differs."""
    return {
        change.path: change.changed if change.fate == "changed" else change.fate
        for change in difference.files
    }


@pytest.mark.parametrize("contents", [False, True])
def test_a_conf_and_its_image_are_the_same(tmp_path: Path, contents: bool) -> None:  # noqa: FBT001 — a parameter of the test
    """Differences between an image and its own conf would bury those that are meant."""
    store = Store.below(tmp_path)
    digits = "abcd" * 8
    store.file(f"{digits}-lib/lib/x", b"x" * 5000)
    store.file(f"{digits}-tool/bin/tool", b"t").chmod(0o755)
    store.path(f"{digits}-tool/link").symlink_to("bin/tool")
    base = archive(
        tmp_path / "base.tar", layer_tar({"etc/a": b"1", "etc/b": b"2"}), config={"Env": ["A=1"]}
    )
    conf = store.conf(
        [f"{digits}-lib"],
        customisation_layer={"contents": [str(store.path(f"{digits}-tool"))], "extra_commands": ""},
        customisation_store_paths=[str(store.path(f"{digits}-tool"))],
        from_image=base,
        config={"Cmd": ["x"], "Env": ["B=2"]},
    )
    image = tmp_path / "image.tar"
    commandline.run([*COMMAND, "-q", str(conf), "-o", str(image)], check=True)
    difference = diff(str(conf), str(image), contents=contents)
    assert difference.is_empty
    assert len(difference.after.layers) == 3
    assert diff(base, base, contents=contents).is_empty


def test_files(tmp_path: Path) -> None:
    """Each kind of change is found in the whole of the layers, not in each of them."""
    low = layer_tar({name: name.encode() * 9 for name in ("kept", "gone", "content", "size")})
    old = tar_of([
        entry("mode", mode=0o644), entry("owner", uid=1), entry("type"), symlink("target", "a"),
        entry("dir", type=tarfile.DIRTYPE, mode=0o755), device("dev", 1),
    ])  # fmt: skip
    new = tar_of([
        (".wh.gone", b""), ("new", b"n"), ("content", b"CONTENT" * 9), ("size", b"s"),
        ("kept", b"kept" * 9), entry("mode", mode=0o600), entry("owner", uid=2), symlink("type", "x"),
        symlink("target", "b"), entry("dir", type=tarfile.DIRTYPE, mode=0o700), device("dev", 2),
    ])  # fmt: skip
    before = archive(tmp_path / "old.tar", low, old)
    after = archive(tmp_path / "new.tar", low, old, new)
    expected = {
        "/dev": ("target",), "/dir": ("mode",), "/gone": "removed", "/mode": ("mode",),
        "/new": "added", "/owner": ("owner",), "/size": ("size",), "/target": ("target",),
        "/type": ("type",),
    }  # fmt: skip
    difference = diff(before, after)
    assert changes(difference) == expected
    assert (difference.removed_layers, len(difference.added_layers)) == ((), 1)
    assert difference.moving_size == len(new)
    read = diff(before, after, contents=True)
    assert changes(read) == {**expected, "/content": ("content",), "/size": ("size", "content")}
    assert {change.path: (change.before, change.after) for change in read.files}["/size"] == (36, 1)
    back = diff(after, before)
    assert changes(back)["/new"] == "removed"
    assert len(back.removed_layers) == 1


def test_config(tmp_path: Path) -> None:
    """A variable is compared by its name: where it is in the list makes no difference."""
    layer = layer_tar({"x": b""})
    old = {"Env": ["A=1", "B=2", "C="], "Labels": {"l": "1"}, "User": "7"}
    new = {"Env": ["C=", "B=3", "A=1"], "Labels": {"l": "2"}, "Cmd": ["x"], "User": "7"}
    difference = diff(
        archive(tmp_path / "old.tar", layer, config=old),
        archive(tmp_path / "new.tar", layer, config=new),
    )
    assert {one.place: (one.before, one.after) for one in difference.config} == {
        "config.Env[B]": ("2", "3"),
        "config.Labels[l]": ("1", "2"),
        "config.Cmd": (None, ["x"]),
    }
    assert not difference.files
    assert not difference.added_layers


def test_layers_of_confs_that_have_no_digests(tmp_path: Path) -> None:
    """Before anything is hashed, the same store paths with another owner are another layer."""
    store = Store.below(tmp_path)
    store.file("a/x", b"1")
    store.file("b/x", b"22")
    document = json.loads(store.conf(["a"], ["b"]).read_bytes())
    paths = []
    for number, more in enumerate(({}, {"uid": 7})):
        path = tmp_path / f"{number}.json"
        path.write_text(json.dumps({**document, **more}), "utf-8")
        paths.append(str(path))
    assert diff(paths[0], paths[0]).is_empty
    assert len(diff(paths[0], paths[1]).added_layers) == 2


def test_an_archive_on_standard_input(tmp_path: Path) -> None:
    """It would be read to its end, and then be found empty."""
    path = archive(tmp_path / "image.tar", layer_tar({"x": b""}))
    done = commandline.run(
        [*COMMAND, "diff", "-", path],
        input=Path(path).read_bytes(),
        capture_output=True,
        check=False,
    )
    assert done.returncode == 2
    assert b"save it to a file" in done.stderr


def test_commands(tmp_path: Path) -> None:
    """What people and programs see."""
    before = archive(tmp_path / "old.tar", layer_tar({"a": bytes(2000)}), tags=["app:1"])
    after = archive(tmp_path / "new.tar", layer_tar({"b": bytes(9000)}), tags=["app:2"])

    def shown(*options: str) -> str:
        words = [*COMMAND, "diff", before, after, *options]
        return commandline.run(words, capture_output=True, check=True).stdout.decode()

    lines = shown().splitlines()
    assert lines[0] == "app:1 -> app:2"
    assert [line.split() for line in lines if line.endswith(("/a", "/b"))] == [
        ["+", "9.0", "kB", "/b"], ["-", "2.0", "kB", "/a"],
    ]  # fmt: skip
    assert "1 of 1 layers would move, 20.5 kB; 0 would stay" in lines
    document = json.loads(shown("--json"))
    assert (document["same"], document["moving_bytes"]) == (False, 20480)
    assert document["files"][0] == {
        "path": "/a", "fate": "removed", "before": 2000, "after": None, "changed": [],
    }  # fmt: skip

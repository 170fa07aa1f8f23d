"""Python's bytecode caches in the customisation layer, with Python as the judge."""

import errno
import json
import os
import py_compile
import shutil
import subprocess
import sys
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from support import unpack

import stream
from stream.config import parse_conf
from stream.planning.plan import plan
from stream.planning.spec import parse_spec

MTIME = "2001-02-03T04:05:06+00:00"
Package = Callable[..., Path]


@pytest.fixture
def package(tmp_path: Path) -> Package:
    """Return a function that makes a directory with a compiled module."""

    def make(name: str = "package", time: float = 1_700_000_000.75, **options: Any) -> Path:
        source = tmp_path / name / "lib" / "web.py"
        source.parent.mkdir(parents=True)
        source.write_text("ANSWER = 42\n", "utf-8")
        os.utime(source, (time, time))
        py_compile.compile(str(source), doraise=True, **options)
        return tmp_path / name

    return make


def image_of(tmp_path: Path, **keys: Any) -> Path:
    """Return the customisation layer of an image with these keys, unpacked."""
    conf = parse_conf(json.dumps({"repo_tag": "x:1", "mtime": MTIME, **keys}).encode())
    path = tmp_path / "image.tar"
    with path.open("wb") as file:
        image = stream.write_image(conf, file)
    root = tmp_path / "root"
    shutil.rmtree(root, ignore_errors=True)
    with (
        tarfile.open(path) as tar,
        tarfile.open(fileobj=tar.extractfile(image.layers[-1].archive_name)) as layer,
    ):
        unpack(layer, root)
    return root


def is_valid(root: Path) -> bool:
    """Return True if Python takes the cached module in `root` instead of compiling it."""
    ended = subprocess.run(
        [sys.executable, "-IBv", "-c", f"import sys; sys.path[:0] = [{str(root / 'lib')!r}]; import web"],
        capture_output=True, check=True, text=True,
    )  # fmt: skip
    assert "web.py" in ended.stderr
    return f"# code object from '{root}/lib/__pycache__" in ended.stderr


def cache_of(root: Path) -> Path:
    """Return the only cache in `root`."""
    (found,) = root.glob("lib/__pycache__/*.pyc")
    return found


def test_a_copied_cache_stays_valid(package: Package, tmp_path: Path) -> None:
    """Otherwise every start of the container compiles the whole program."""
    copied = package()
    before = cache_of(copied).read_bytes()
    root = image_of(tmp_path, customisation_layer={"copy_to_root": [str(copied)]})
    assert is_valid(root)
    after = cache_of(root).read_bytes()
    assert after[:8] + after[12:] == before[:8] + before[12:]
    assert cache_of(copied).read_bytes() == before


def test_a_cache_has_the_time_of_its_layer(package: Package, tmp_path: Path) -> None:
    """The sources in the customisation layer have its time, which may not be that of the others."""
    root = image_of(
        tmp_path,
        customisation_layer={"copy_to_root": [str(package())]},
        customisation_mtime="1980-01-01T00:00:00Z",
    )
    assert (root / "lib/web.py").stat().st_mtime == 315532800
    assert is_valid(root)


@pytest.mark.parametrize("time", [0.0, 1.0, 5_000_000_000.0, 1_700_000_000.9999999])
def test_times_of_any_size(package: Package, tmp_path: Path, time: float) -> None:
    """The header has 32 bits of the seconds, rounded as Python rounds them."""
    root = image_of(tmp_path, customisation_layer={"copy_to_root": [str(package(time=time))]})
    assert is_valid(root)


@pytest.mark.parametrize("change", ["time", "size"])
def test_a_cache_that_was_stale_stays_stale(package: Package, tmp_path: Path, change: str) -> None:
    """The image would otherwise run code that is not the source's."""
    copied = package()
    source = copied / "lib" / "web.py"
    if change == "size":
        source.write_text("ANSWER = 43  # corrected\n", "utf-8")
        os.utime(source, (1_700_000_000, 1_700_000_000))
    else:
        source.write_text("ANSWER = 43\n", "utf-8")
        os.utime(source, (1_700_000_001, 1_700_000_001))
    before = cache_of(copied).read_bytes()
    root = image_of(tmp_path, customisation_layer={"copy_to_root": [str(copied)]})
    assert cache_of(root).read_bytes() == before
    assert not is_valid(root)


@pytest.mark.parametrize("mode", ["CHECKED_HASH", "UNCHECKED_HASH"])
def test_a_cache_by_hash_is_copied_as_it_is(package: Package, tmp_path: Path, mode: str) -> None:
    """It knows no time, and a changed flag would change what Python checks."""
    copied = package(invalidation_mode=py_compile.PycInvalidationMode[mode])
    root = image_of(tmp_path, customisation_layer={"copy_to_root": [str(copied)]})
    assert cache_of(root).read_bytes() == cache_of(copied).read_bytes()
    assert is_valid(root)


@pytest.mark.slow
def test_a_cache_that_commands_leave(package: Package, tmp_path: Path) -> None:
    """Commands find files with the image's time, so that what was valid cannot be seen any more;
    what they compile themselves is valid for the time of the run.
    """
    compiled = f"{os.path.realpath(sys.executable)} -m py_compile lib/web.py"
    made = f"mkdir lib && echo 'ANSWER = 42' > lib/web.py && {compiled}"
    assert is_valid(image_of(tmp_path, customisation_layer={"extra_commands": made}))
    copied = {"copy_to_root": [str(package())]}
    for commands in ("true", "touch other"):
        root = image_of(tmp_path, customisation_layer={**copied, "extra_commands": commands})
        assert is_valid(root)
    changed = "echo 'ANSWER = 43' > lib/web.py"
    root = image_of(tmp_path, customisation_layer={**copied, "extra_commands": changed})
    assert not is_valid(root)


def test_a_cache_on_a_disk_that_fails(
    package: Package, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without it the message would not name the file."""
    copied = package()
    cache = cache_of(copied)
    for name in ("read", "pread"):
        real = getattr(os, name)

        def fail(fd: int, *rest: int, real: Callable[..., bytes] = real) -> bytes:
            if os.path.samestat(os.fstat(fd), cache.stat()):
                raise OSError(errno.EIO, os.strerror(errno.EIO))
            return real(fd, *rest)

        monkeypatch.setattr(os, name, fail)
    with pytest.raises(stream.SourceError, match="Input/output error") as caught:
        image_of(tmp_path, customisation_layer={"copy_to_root": [str(copied)]})
    assert caught.value.path == os.fsencode(cache)


def test_the_derived_tag_does_not_know_the_sources_time(package: Package) -> None:
    """Two checkouts of one program, compiled, are one image."""

    def tag(path: Path) -> object:
        spec = {"name": "x", "copyToRoot": [str(path)], "architecture": "amd64"}
        return plan(parse_spec(json.dumps(spec).encode())).document["repo_tag"]

    shared = {"dfile": "/lib/web.py"}  # the name of the source is in the cache as well
    assert tag(package("one", 1.0, **shared)) == tag(package("two", 2.0, **shared))


@pytest.mark.parametrize(("mtime", "stale"), [("2023-11-14T22:13:20+00:00", 0), (MTIME, 1)])
def test_explain_reports_stale_caches_in_store_paths(
    package: Package, tmp_path: Path, mtime: str, stale: int
) -> None:
    """Store paths are never changed, so that only the user can help; silence would not."""
    path = package("store/package", 1_700_000_000)
    (path / "lib" / "__pycache__" / "gone.cpython-311.pyc").write_bytes(bytes(16))
    document = {
        "repo_tag": "x:1", "mtime": mtime, "store_dir": str(tmp_path / "store"),
        "store_layers": [[str(path)]],
    }  # fmt: skip
    explanation = stream.explain(parse_conf(json.dumps(document).encode()))
    assert explanation.stale_bytecode == stale
    if not stale:
        return
    conf = tmp_path / "conf.json"
    conf.write_text(json.dumps(document), "utf-8")
    ended = subprocess.run(
        [sys.executable, "-m", "stream", "explain", conf], capture_output=True, check=True
    )
    assert b"1 .pyc file is stale in the image" in ended.stdout

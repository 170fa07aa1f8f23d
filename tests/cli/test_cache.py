"""`stream-image cache`: what is in the cache, whether it is right, and digests from elsewhere."""

import hashlib
import json
import os
import shutil
import subprocess
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import commandline
import pytest
from support import COMMAND, Store

NAMES = [f"{letter * 32}-{name}" for letter, name in (("a", "app"), ("b", "lib"))]
CACHE = "cache"


@pytest.fixture
def conf(tmp_path: Path) -> Path:
    """Return a conf of two small layers, the hashes of whose store paths are known."""
    return _conf(tmp_path)


def _conf(directory: Path) -> Path:
    directory.mkdir(exist_ok=True)
    store = Store.below(directory)
    store.file(f"{NAMES[0]}/bin/app", b"app")
    store.file(NAMES[1], 5000)
    # Of nothing in particular: whoever writes a conf answers for its hashes.
    hashes = {
        f"/nix/store/{name}": f"sha256:{hashlib.sha256(name.encode()).hexdigest()}"
        for name in NAMES
    }
    root = directory / "root"
    (root / "nix").mkdir(parents=True)
    store.directory.rename(root / "nix" / "store")
    document = {
        "architecture": "amd64",
        "repo_tag": "test:1",
        "store_root": str(root),
        "store_layers": [[f"/nix/store/{name}"] for name in NAMES],
        "store_path_hashes": hashes,
    }
    path = directory / "conf.json"
    path.write_text(json.dumps(document), "utf-8")
    return path


def _run(
    *arguments: str | Path, cache: Path, status: int = 0, stdin: bytes = b""
) -> "subprocess.CompletedProcess[bytes]":
    done = commandline.run(
        [*COMMAND, *map(str, arguments), "--digest-cache", str(cache)],
        capture_output=True, check=False, input=stdin,
    )  # fmt: skip
    assert done.returncode == status, done.stderr
    return done


def _shown(cache: Path, *arguments: str | Path, status: int = 0) -> dict[str, Any]:
    done = _run("cache", "--json", "--quiet", *arguments, cache=cache, status=status)
    assert done.stderr == b""
    shown: dict[str, Any] = json.loads(done.stdout)
    return shown


def _entries(cache: Path) -> list[Path]:
    return sorted(cache.glob("?/*.json"))


def _replace_digest(entry: Path, diff_id: str, other: str) -> None:
    """Make an entry claim that its layer is another one, as a fault of ours would."""
    document = json.loads(entry.read_bytes())
    layer = document["layer"]
    data = json.dumps(layer, separators=(",", ":")).replace(diff_id, other)
    checksum = hashlib.sha256(b"stream-image digests 1\0" + data.encode()).hexdigest()
    entry.unlink()  # it may be a link to that of another key
    entry.write_text(f'{{"layer":{data},"checksum":"{checksum}"}}\n', "ascii")


def test_cache_is_shown_and_emptied(conf: Path, tmp_path: Path) -> None:
    """Users would not know what takes space in their home, or how to be rid of it."""
    cache = tmp_path / CACHE
    assert _shown(cache) == {
        "directory": str(cache), "problem": None, "layers": 0, "size": 0, "oldest": None,
        "imported": 0, "bad_entries": [],
    }  # fmt: skip
    assert not cache.exists()
    image = _run(conf, cache=cache).stdout
    for entry in _entries(cache):
        os.utime(entry, (86400, 86400))
    sizes = {entry.stat().st_ino: entry.stat().st_size for entry in _entries(cache)}
    size = sum(sizes.values())
    shown = _shown(cache)
    assert (shown["layers"], shown["size"], shown["oldest"]) == (
        2, size, "1970-01-02T00:00:00+00:00",
    )  # fmt: skip
    printed = _run("cache", cache=cache).stdout.decode()
    assert printed.startswith(f"{cache}: 2 layers, ")
    assert printed.endswith("B, the oldest last used 1970-01-02T00:00:00+00:00\n")
    assert _run(conf, cache=cache).stdout == image
    assert _run("cache", "--clear", cache=cache).stdout.decode() == f"{cache}: 0 layers, 0 B\n"
    assert not _entries(cache)


def test_cache_that_is_not_used_says_why(conf: Path, tmp_path: Path) -> None:
    """Users would not find out why every layer is hashed again."""
    cache = tmp_path / CACHE
    cache.mkdir()
    cache.chmod(0o770)
    problem = "can be written by other users; remove their permission (chmod go-w)"
    assert _shown(cache)["problem"] == problem
    line = f"{cache}: 0 layers, 0 B; not used: {problem}\n"
    assert _run("cache", cache=cache).stdout.decode() == line
    said = _run("digests", conf, "-q", cache=cache).stderr.decode()
    assert said == f"stream-image: warning: --digest-cache {cache}: ignored: {problem}\n"


def test_no_place_for_a_cache() -> None:
    """A user without a home would get an internal error."""
    environment = {**os.environ, "HOME": "", "XDG_CACHE_HOME": ""}
    done = commandline.run([*COMMAND, "cache"], capture_output=True, check=False, env=environment)
    assert (done.returncode, done.stdout) == (2, b"")
    assert b"this user has no home directory to keep it in" in done.stderr


def test_check_removes_what_is_of_no_use(conf: Path, tmp_path: Path) -> None:
    """An entry that cannot be read would be read, in vain, in each run."""
    cache = tmp_path / CACHE
    _run(conf, cache=cache)
    assert _shown(cache, "--check")["bad_entries"] == []
    bad, *good = _entries(cache)
    data = bad.read_bytes()
    bad.unlink()  # it may be a link to that of another key
    bad.write_bytes(data[:-10])
    reason = "is not JSON: cut off, or written by something else; removed"
    assert _shown(cache, "--check", status=1)["bad_entries"] == [
        {"path": str(bad), "reason": reason}
    ]
    assert _entries(cache) == good
    assert _shown(cache, "--check")["bad_entries"] == []


def test_check_with_a_conf_finds_a_wrong_digest(conf: Path, tmp_path: Path) -> None:
    """A digest that is wrong would stay, and be shipped with every image that has the layer."""
    cache = tmp_path / CACHE
    digests = json.loads(_run("digests", conf, cache=cache).stdout)
    assert _shown(cache, "--check", conf)["bad_entries"] == []
    right = digests["layers"][0]["diff_id"]
    wrong = f"sha256:{'0' * 64}"
    entry = cache / digests["layers"][0]["key"][0] / f"{digests['layers'][0]['key']}.json"
    _replace_digest(entry, right, wrong)
    assert _shown(cache, "--check")["bad_entries"] == []
    assert _shown(cache, "--check", conf, status=1)["bad_entries"] == [
        {"path": str(entry), "reason": f"has {wrong}, the layer is {right}; removed"}
    ]
    assert not entry.exists()
    assert json.loads(_run("digests", conf, cache=cache).stdout) == digests


def test_digests_are_known_on_another_machine(conf: Path, tmp_path: Path) -> None:
    """A machine that gets the digests of a Nix build would hash all layers nevertheless."""
    printed = _run("digests", conf, cache=tmp_path / "builder").stdout
    assert len(json.loads(printed)["layers"]) == 2
    # The same store paths, in other files and with other times.
    elsewhere = _conf(tmp_path / "elsewhere")
    cache = tmp_path / CACHE
    done = _run("cache", "--import", "-", cache=cache, stdin=printed)
    assert done.stdout.decode().startswith(f"2 layers imported\n{cache}: 2 layers, ")
    document = json.loads(printed)
    document["layers"][0]["key"] = None
    done = _run("cache", "--import", "-", cache=cache, stdin=json.dumps(document).encode())
    assert done.stdout.startswith(b"1 layer imported; 1 without a key, ")
    # Content that differs, though the hash in the conf does not, is not read: the digest is known.
    app = elsewhere.parent / "root/nix/store" / NAMES[0] / "bin/app"
    app.write_bytes(b"APP")
    assert _run("digests", elsewhere, cache=cache).stdout == printed
    assert _run("digests", elsewhere, cache=tmp_path / "other").stdout != printed


def test_copied_cache_is_known_on_another_machine(conf: Path, tmp_path: Path) -> None:
    """A cache that CI keeps would be of no use in the next run, on another machine."""
    cache = tmp_path / "builder"
    printed = _run("digests", conf, cache=cache).stdout
    elsewhere = _conf(tmp_path / "elsewhere")
    (elsewhere.parent / "root/nix/store" / NAMES[0] / "bin/app").write_bytes(b"APP")
    shutil.copytree(cache, tmp_path / CACHE)
    assert _run("digests", elsewhere, cache=tmp_path / CACHE).stdout == printed


@pytest.mark.parametrize(
    ("change", "place"),
    [
        (lambda document: document.pop("layers"), "layers: must be a list, not null; give the out"),
        (lambda document: document["layers"].append(1), "layers[2]: must be an object"),
        (lambda document: document["layers"][0].update(diff_id="x"), "layers[0]: diff_id must be"),
        (lambda document: document["layers"][1].update(size=-1), "layers[1]: size must be"),
        (lambda document: document["layers"][1].update(key="../x"), "layers[1]: key must be"),
    ],
    ids=["none", "number", "digest", "size", "key"],
)
def test_what_is_not_digests_is_not_imported(
    conf: Path, tmp_path: Path, change: Callable[[dict[str, Any]], object], place: str
) -> None:
    """A wrong file would be taken for digests, or written outside of the cache."""
    document = json.loads(_run("digests", conf, cache=tmp_path / "builder").stdout)
    change(document)
    file = tmp_path / "digests.json"
    file.write_text(json.dumps(document), "utf-8")
    done = _run("cache", "--import", file, cache=tmp_path / CACHE, status=2)
    assert done.stderr.decode().startswith(f"stream-image: {file}: {place}")
    assert not (tmp_path / CACHE).exists()


def test_import_that_cannot_be_kept_fails(conf: Path, tmp_path: Path) -> None:
    """A script would go on as if the digests were known."""
    printed = _run("digests", conf, cache=tmp_path / "builder").stdout
    done = _run("cache", "--import", "-", cache=Path("/dev/null"), status=1, stdin=printed)
    assert done.stderr == b"stream-image: /dev/null: is not a directory\n"


@pytest.mark.slow
def test_hostile_entries_change_no_image(
    conf: Path, tmp_path: Path, without_privilege: Sequence[str]
) -> None:
    """A cache that something has spoilt would fail a run, hold it up, or change the image."""

    def run(*options: str, prefix: Sequence[str] = ()) -> bytes:
        command = [*prefix, *COMMAND, "digests", "--quiet", str(conf), *options]
        done = commandline.run(command, check=True, capture_output=True, timeout=60)
        assert done.stderr == b""
        return done.stdout

    cache = tmp_path / CACHE
    expected = run("--no-digest-cache")
    spoils: list[Callable[[Path], object]] = [
        lambda entry: entry.write_bytes(b"{}"),
        os.mkfifo,
        Path.mkdir,
        lambda entry: entry.symlink_to("/dev/zero"),
        lambda entry: os.truncate(os.open(entry, os.O_CREAT | os.O_WRONLY), 1 << 40),
    ]
    for spoil in spoils:
        shutil.rmtree(cache, ignore_errors=True)
        run("--digest-cache", str(cache))
        assert _entries(cache)
        for entry in _entries(cache):
            entry.unlink()
            spoil(entry)
        assert run("--digest-cache", str(cache)) == expected
    shutil.rmtree(cache)
    run("--digest-cache", str(cache))
    for directory in [*cache.glob("?"), cache]:
        directory.chmod(0o500)
    assert run("--digest-cache", str(cache), prefix=without_privilege) == expected
    for directory in [cache, *cache.glob("?")]:
        directory.chmod(0o700)
    # A file system that is full from the start.
    full = ["prlimit", "--fsize=0", "--"]
    assert run("--digest-cache", str(tmp_path / "other"), prefix=full) == expected
    assert not _entries(tmp_path / "other")


@pytest.mark.slow
def test_runs_at_once_of_which_some_are_killed(conf: Path, tmp_path: Path) -> None:
    """Builds that share a cache in CI, where they are cancelled, would disturb each other."""
    cache = tmp_path / CACHE
    command = [*COMMAND, "--quiet", str(conf), "--digest-cache"]
    expected = subprocess.run([*command, str(tmp_path / "other")], check=True, capture_output=True)
    for turn in range(2):
        running = [
            subprocess.Popen([*command, str(cache)], stdout=subprocess.PIPE) for _ in range(4)
        ]
        killed, left = running[:2], running[2:]
        time.sleep(0.2 + 0.1 * turn)
        for process in killed:
            process.kill()
            process.communicate()
        for process in left:
            assert process.communicate()[0] == expected.stdout
            assert process.returncode == 0
        assert _shown(cache, "--check")["bad_entries"] == []


@pytest.mark.slow
def test_executable_takes_the_options(conf: Path, tmp_path: Path) -> None:
    """An executable that has an option of its own would refuse the user's, or ignore it."""
    executable, cache, other = tmp_path / "image", tmp_path / CACHE, tmp_path / "other"
    commandline.run([*COMMAND, "wrap", str(conf), "-o", str(executable)], check=True)
    # As makeWrapper makes it.
    wrapper = tmp_path / "wrapper"
    wrapper.write_text(f'#!/bin/sh\nexec {executable} --digest-cache {cache} "$@"\n', "utf-8")
    wrapper.chmod(0o755)
    image = subprocess.run([wrapper], check=True, stdout=subprocess.PIPE).stdout
    entries = _entries(cache)
    assert len(entries) >= 2
    shutil.rmtree(cache)
    for options in ["--no-digest-cache"], ["--digest-cache", str(other)]:
        command = [str(wrapper), "--quiet", *options]
        assert subprocess.run(command, check=True, stdout=subprocess.PIPE).stdout == image
        assert not cache.exists()
    assert len(_entries(other)) >= 2

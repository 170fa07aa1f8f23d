"""The cache of digests: what is recorded is found again, and whatever is wrong is a miss."""

import errno
import hashlib
import json
import os
import resource
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from itertools import count
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from digests.cached import ONE, TWO, known, layer
from stream.digests import store
from stream.digests.store import CacheExtent, DigestCache, default_directory
from stream.model import LayerKey

OTHER = LayerKey(value="7" * 64)


@pytest.fixture
def cache(tmp_path: Path) -> DigestCache:
    """Return a cache in which ONE is known."""
    made = DigestCache(str(tmp_path / "made" / "cache"))
    made.record((ONE,), layer(), "")
    return made


def _entry_of(cache: DigestCache, key: LayerKey = ONE) -> Path:
    return Path(cache.directory, key.value[0], f"{key.value}.json")


def _files_in(directory: str) -> list[str]:
    return sorted(file for _, _, files in os.walk(directory) for file in files)


# ---- what is remembered


def test_recorded_layer_is_found_by_each_of_its_keys(tmp_path: Path) -> None:
    """Without it, nothing would ever be known."""
    cache = DigestCache(str(tmp_path / "cache"))
    assert cache.lookup((ONE, TWO), "") is None
    cache.record((ONE, TWO), layer(), "")
    assert cache.lookup((ONE, TWO), "") == known()
    for key in ONE, TWO:
        assert DigestCache(cache.directory).lookup((key,), "") == known()
    assert cache.lookup((OTHER,), "") is None
    assert cache.lookup((), "") is None


def test_file_system_without_links(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """On such a file system, layers would be known by one of their keys, or not at all."""

    def link(*_: object) -> None:
        raise PermissionError(errno.EPERM, "Operation not permitted")

    monkeypatch.setattr(os, "link", link)
    cache = DigestCache(str(tmp_path / "cache"))
    cache.record((ONE, TWO), layer(), "")
    for key in ONE, TWO:
        assert cache.lookup((key,), "") == known()


def test_blobs_of_several_encodings_are_merged(cache: DigestCache) -> None:
    """A push with zstd would forget what a push with gzip has found out."""
    assert cache.lookup((ONE,), "zstd:1") == known(blob=None)
    cache.record((ONE,), layer(blob="c"), "zstd:1")
    # Another process knows the layer by one key more.
    cache.record((ONE, TWO), layer(blob="d"), "gzip:6")
    for key in ONE, TWO:
        found = {name: cache.lookup((key,), name) for name in ("", "zstd:1", "gzip:6")}
        assert found == {
            "": known(),
            "zstd:1": known(blob="c"),
            "gzip:6": known(blob="d"),
        }


def test_blobs_of_another_tar_are_dropped(cache: DigestCache) -> None:
    """The blob of one tar would be sent with the diff_id of another."""
    cache.record((ONE,), layer("e", "f"), "zstd:1")
    assert cache.lookup((ONE,), "") == known("e", None)
    assert cache.lookup((ONE,), "zstd:1") == known("e", "f")


def test_first_key_decides(cache: DigestCache) -> None:
    """A blob known by the second key would be mistaken for one of the layer of the first."""
    cache.record((TWO,), layer("e", "f"), "zstd:1")
    assert cache.lookup((ONE, TWO), "zstd:1") == known(blob=None)
    assert cache.lookup((TWO, ONE), "zstd:1") == known("e", "f")


def test_encodings_do_not_accumulate(cache: DigestCache) -> None:
    """Each version of a compressor would make every entry longer, for ever."""
    for number in range(store.MAX_ENCODINGS + 1):
        cache.record((ONE,), layer(blob="c"), f"zstd:1 version {number}")
    assert cache.lookup((ONE,), "zstd:1 version 1") == known(blob="c")
    assert cache.lookup((ONE,), "zstd:1 version 0") == known(blob=None)


def test_changing_file_is_neither_recorded_nor_looked_up(cache: DigestCache) -> None:
    """A file written twice within a tick of the clock would have the digest of the first."""
    for key in ONE, TWO:
        racy = LayerKey(value=key.value, recordable=False)
        cache.record((racy,), layer("e"), "")
        assert cache.lookup((racy,), "") is None
    assert cache.lookup((ONE,), "") == known()
    assert cache.lookup((TWO,), "") is None


def test_forgotten_layer_is_named_and_gone(cache: DigestCache) -> None:
    """A digest that turned out wrong would be used again."""
    cache.record((ONE, TWO), layer(), "")
    assert cache.forget((ONE, TWO)) == str(_entry_of(cache))
    assert cache.lookup((ONE, TWO), "") is None
    assert cache.forget((ONE, TWO)) is None


def test_key_that_is_none_leads_nowhere(cache: DigestCache, tmp_path: Path) -> None:
    """A program's mistake would read, write or remove files outside of the cache."""
    (tmp_path / "made" / "x.json").touch()
    for value in "", "../../x", "a" * 63 + "\n", "A" * 64:
        key = LayerKey(value=value)
        cache.record((key,), layer(), "")
        assert cache.lookup((key,), "") is None
        assert cache.forget((key,)) is None
    assert _files_in(str(tmp_path)) == [_entry_of(cache).name, "CACHEDIR.TAG", "x.json"]


def test_nothing_new_is_not_written(cache: DigestCache) -> None:
    """Every run would write all entries again."""
    before = os.stat(_entry_of(cache)).st_ino
    cache.record((ONE,), layer(), "")
    assert os.stat(_entry_of(cache)).st_ino == before


# ---- its extent


def test_least_recently_used_layers_are_removed(
    cache: DigestCache, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The cache would grow for ever, or lose what is used every day."""
    monkeypatch.setattr(store, "MAX_IN_SHARD", 16)
    monkeypatch.setattr(store, "KEPT_IN_SHARD", 8)
    abandoned = Path(cache.directory, "1", f".{'a' * 16}.part")
    abandoned.touch()
    os.utime(abandoned, (0, 0))
    # One key of sixteen, in the last digit, makes the cache look at what it has.
    keys = [LayerKey(value=f"1{number:062x}{number % 16:x}") for number in range(64)]
    for number, key in enumerate(keys):
        cache.record((key,), layer(), "")
        os.utime(_entry_of(cache, key), (number, number))
        cache.lookup((keys[0],), "")
    assert cache.lookup((keys[0],), "")
    assert cache.lookup((keys[-1],), "")
    assert len(_files_in(cache.directory)) < 2 * 16 + len(["CACHEDIR.TAG"])
    assert not abandoned.exists()


def test_use_is_noted_once_a_day(cache: DigestCache) -> None:
    """A lookup would write, or what is used every day would be removed as unused."""
    now = time.time()
    for age, is_noted in (3600, False), (2 * 24 * 3600, True), (-2 * 24 * 3600, True):
        os.utime(_entry_of(cache), (now - age, now - age))
        assert cache.lookup((ONE,), "") == known()
        assert (abs(os.stat(_entry_of(cache)).st_mtime - now) < 600) == is_noted


def test_extent_and_clear(cache: DigestCache) -> None:
    """A user would not see what is there, or lose files that are not ours."""
    cache.record((TWO, OTHER), layer("e"), "")
    os.utime(_entry_of(cache, OTHER), (86400, 86400))
    size = sum(_entry_of(cache, key).stat().st_size for key in (ONE, TWO))
    assert cache.extent() == CacheExtent(layers=2, size=size, oldest=86400)
    own = Path(cache.directory, "1", "notes.txt")
    own.touch()
    cache.clear()
    assert cache.extent() == CacheExtent(layers=0, size=0, oldest=None)
    assert _files_in(cache.directory) == ["CACHEDIR.TAG", "notes.txt"]


# ---- what is wrong with an entry


def _make_directory(path: Path) -> None:
    path.unlink()
    path.mkdir()


def _make_link(path: Path) -> None:
    path.rename(path.with_suffix(".moved"))
    path.symlink_to(path.with_suffix(".moved"))


def _make_fifo(path: Path) -> None:
    path.unlink()
    os.mkfifo(path)


def _make_huge(path: Path) -> None:
    os.truncate(path, 1 << 40)


def _replace(old: bytes, new: bytes) -> Callable[[Path], None]:
    def write(path: Path) -> None:
        data = path.read_bytes()
        assert old in data
        path.write_bytes(data.replace(old, new))

    return write


HOSTILE: dict[str, Callable[[Path], object]] = {
    "empty": lambda path: path.write_bytes(b""),
    "binary": lambda path: path.write_bytes(bytes(range(256))),
    "null": lambda path: path.write_bytes(b"null"),
    "list": lambda path: path.write_bytes(b"[]"),
    "deep": lambda path: path.write_bytes(b"[" * 8000),
    "deep-blobs": _replace(b'"blobs":{', b'"blobs":{"x":' + b"[" * 2000 + b"]" * 2000 + b","),
    "other-digest": _replace(b"a" * 64, b"c" * 64),
    "other-size": _replace(b"10240", b"10241"),
    "negative-size": _replace(b"10240", b"-1"),
    "size-of-another-type": _replace(b"10240", b"true"),
    "endless-size": _replace(b"10240", b"1" * 400),
    "not-a-digest": _replace(b"a" * 64, b"../" * 10),
    "other-key": _replace(b"1" * 64, b"2" * 64),
    "other-checksum": _replace(b'"checksum":"', b'"checksum":"0'),
    "more": lambda path: path.write_bytes(path.read_bytes() + b"x"),
    "huge": _make_huge,
    "fifo": _make_fifo,
    "link": _make_link,
    "group-writable": lambda path: path.chmod(0o620),
    "world-writable": lambda path: path.chmod(0o602),
}


@pytest.mark.parametrize("spoil", [pytest.param(made, id=name) for name, made in HOSTILE.items()])
def test_spoilt_entry_is_a_miss_and_replaced(
    cache: DigestCache, spoil: Callable[[Path], object]
) -> None:
    """A wrong digest would be shipped, or a run hang or fail for a file that nobody needs."""
    spoil(_entry_of(cache))
    assert cache.lookup((ONE,), "") is None
    (bad,) = cache.bad_entries()
    assert bad.path == str(_entry_of(cache))
    cache.record((ONE,), layer("d"), "")
    assert cache.lookup((ONE,), "") == known("d")
    assert not [*cache.bad_entries()]


def test_directory_for_an_entry_is_a_miss(cache: DigestCache) -> None:
    """A run would fail for a directory that nobody needs."""
    _make_directory(_entry_of(cache))
    cache.record((ONE,), layer(), "")
    assert cache.lookup((ONE,), "") is None
    assert cache.forget((ONE,)) is None
    assert [bad.reason for bad in cache.bad_entries()] == ["is not a regular file"]


@pytest.mark.skipif(os.geteuid() != 0, reason="gives files to another user")
def test_files_of_another_user_are_a_miss(cache: DigestCache) -> None:
    """Another user could choose what is shipped."""
    places = [_entry_of(cache), _entry_of(cache).parent, Path(cache.directory)]
    for place in places:
        os.chown(place, 12345, -1)
        assert cache.lookup((ONE,), "") is None
        os.chown(place, 0, -1)
    assert cache.lookup((ONE,), "") == known()
    for place in places[1:]:
        os.chown(place, 12345, -1)
        cache.record((TWO, LayerKey(value="1" + "2" * 63)), layer(), "")
        os.chown(place, 0, -1)
    assert cache.lookup((LayerKey(value="1" + "2" * 63),), "") is None


@pytest.mark.parametrize("mode", [0o720, 0o702])
def test_directories_that_others_may_write_are_a_miss(cache: DigestCache, mode: int) -> None:
    """Another user could put an old entry in the place of a new one."""
    for directory in _entry_of(cache).parent, Path(cache.directory):
        directory.chmod(mode)
        assert cache.lookup((ONE,), "") is None
        cache.record((LayerKey(value="1" + "2" * 63),), layer(), "")
        directory.chmod(0o700)
        assert cache.lookup((LayerKey(value="1" + "2" * 63),), "") is None
    assert cache.lookup((ONE,), "") == known()


def test_no_cut_and_no_altered_byte_gives_another_answer(cache: DigestCache) -> None:
    """A torn write, or a bit that a disk has lost, would be shipped as a digest."""
    path = _entry_of(cache)
    data = path.read_bytes()
    with path.open("r+b", buffering=0) as file:
        for at, byte in enumerate(data):
            os.pwrite(file.fileno(), bytes([byte ^ 1]), at)
            assert cache.lookup((ONE,), "") in (None, known()), data[at : at + 10]
            os.pwrite(file.fileno(), bytes([byte]), at)
        assert cache.lookup((ONE,), "") == known()
        for size in range(len(data) - len(b"}\n"), -1, -1):
            os.ftruncate(file.fileno(), size)
            assert cache.lookup((ONE,), "") is None


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text() | st.just("1" * 64),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=6,
)
CLAIMS: dict[str, object] = {"keys": ["1" * 64], "diff_id": f"sha256:{'a' * 64}", "size": 10240}
BLOB: dict[str, object] = {"media_type": "tar", "digest": f"sha256:{'b' * 64}", "size": 4096}


@given(
    claims=st.dictionaries(st.sampled_from([*CLAIMS, "blobs"]), VALUES, max_size=1),
    blob=st.dictionaries(st.sampled_from([*BLOB]), VALUES, max_size=1),
)
def test_right_checksum_makes_no_entry_right(
    tmp_path_factory: pytest.TempPathFactory, claims: dict[str, object], blob: dict[str, object]
) -> None:
    """An entry of another version of this program would fail a run, or be a wrong answer."""
    claims = {**CLAIMS, "blobs": {"": {**BLOB, **blob}}, **claims}
    cache = DigestCache(str(tmp_path_factory.getbasetemp() / "checksums"))
    cache.record((ONE,), layer(), "")
    data = json.dumps(claims, separators=(",", ":"), ensure_ascii=False).encode(errors="replace")
    checksum = hashlib.sha256(b"stream-image digests 1\0" + data).hexdigest()
    _entry_of(cache).write_bytes(b'{"layer":%b,"checksum":"%b"}' % (data, checksum.encode()))
    found = cache.lookup((ONE,), "")
    if found is not None:
        assert found.diff_id == claims["diff_id"] == f"sha256:{'a' * 64}"
        assert type(found.size) is int
        assert found.size == claims["size"]
        if found.descriptor is not None:
            assert found.descriptor.digest == f"sha256:{'b' * 64}"
            assert type(found.descriptor.size) is int


def test_entry_under_another_name_is_a_miss(cache: DigestCache) -> None:
    """A copied file would give one layer the digest of another."""
    os.link(_entry_of(cache), _entry_of(cache).with_name(f"1{'2' * 63}.json"))
    assert cache.lookup((LayerKey(value="1" + "2" * 63),), "") is None


# ---- what is wrong with the directory


def _link_to_nowhere(path: Path) -> None:
    path.symlink_to("nowhere/at/all")


BAD_PLACES: dict[str, Callable[[Path], object]] = {
    "file": Path.touch,
    "fifo": os.mkfifo,
    "link-to-nowhere": _link_to_nowhere,
    "link-to-itself": lambda path: path.symlink_to(path),
}


@pytest.mark.parametrize("below", ["", "/below"])
@pytest.mark.parametrize("make", [pytest.param(m, id=name) for name, m in BAD_PLACES.items()])
def test_place_that_cannot_be_a_directory_is_a_miss(
    tmp_path: Path, make: Callable[[Path], object], below: str
) -> None:
    """An image would not be written because its digests cannot be remembered."""
    make(tmp_path / "place")
    cache = DigestCache(f"{tmp_path}/place{below}")
    cache.record((ONE,), layer(), "")
    assert cache.lookup((ONE,), "") is None
    assert cache.forget((ONE,)) is None
    assert not [*cache.bad_entries()]
    cache.clear()
    assert cache.extent() == CacheExtent(layers=0, size=0, oldest=None)


@pytest.mark.parametrize(
    "place", ["/proc/none", "/dev/null", "/dev/full/x", "x" * 300, "/a" * 1500, "/no\0thing", ""]
)
def test_impossible_place_is_a_miss(
    place: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A run would fail for a place that exists only on another machine."""
    monkeypatch.chdir(tmp_path)
    if place == "":  # a working directory that is gone
        tmp_path.rmdir()
        place = "cache"
    cache = DigestCache(place)
    if not place.startswith("/a"):
        cache.record((ONE,), layer(), "")
    assert cache.lookup((ONE,), "") is None
    assert cache.forget((ONE,)) is None
    assert cache.extent().layers == 0
    cache.why_unused()


def test_directory_that_cannot_be_made(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever names a directory would not learn that nothing is ever kept in it."""
    cache = DigestCache(str(tmp_path / "a" / "b"))
    assert cache.why_unused() is None
    monkeypatch.setattr(os, "access", lambda path, _mode: path != str(tmp_path))
    assert cache.why_unused() == f"cannot be made: {tmp_path} is not writable"


def test_link_in_place_of_a_shard_is_not_followed(cache: DigestCache, tmp_path: Path) -> None:
    """Entries would be read from, and written and removed, where a link leads."""
    shard = _entry_of(cache).parent
    shard.rename(tmp_path / "elsewhere")
    shard.symlink_to(tmp_path / "elsewhere")
    assert cache.lookup((ONE,), "") is None
    cache.record((ONE,), layer("e"), "")
    cache.clear()
    assert _files_in(str(tmp_path / "elsewhere")) == [_entry_of(cache).name]


def test_cache_may_be_a_link_itself(cache: DigestCache, tmp_path: Path) -> None:
    """A home whose caches are on another disk would have none."""
    (tmp_path / "link").symlink_to(cache.directory)
    assert DigestCache(str(tmp_path / "link")).lookup((ONE,), "") == known()


@contextmanager
def limited_files(size: int) -> Iterator[None]:
    """Let no file grow beyond `size` bytes, as a full disk does."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


@pytest.mark.parametrize("size", [0, 1, 300])
def test_full_disk_leaves_what_was_there(cache: DigestCache, size: int) -> None:
    """A full disk would fail a run, or leave an entry that is cut off."""
    with limited_files(size):
        cache.record((ONE,), layer(blob="c"), "zstd:1")
        cache.record((TWO,), layer(blob="c"), "zstd:1")
    assert cache.lookup((ONE,), "") == known()
    assert cache.lookup((TWO,), "zstd:1") is None
    assert _files_in(cache.directory) == [_entry_of(cache).name, "CACHEDIR.TAG"]


def test_read_only_cache_is_read(cache: DigestCache, without_privilege: list[str]) -> None:
    """A cache that CI mounts read-only would fail each run, or not be used."""
    script = f"""
import sys
from digests.cached import ONE, TWO, known, layer
from stream.digests.store import DigestCache
cache = DigestCache({cache.directory!r})
cache.record((TWO,), layer(), "")
sys.exit(not (cache.lookup((ONE,), "") == known() and cache.lookup((TWO,), "") is None))
"""
    _entry_of(cache).chmod(0o400)
    os.utime(_entry_of(cache), (0, 0))
    for directory in _entry_of(cache).parent, Path(cache.directory):
        directory.chmod(0o500)
    path = [str(Path(__file__).parents[1]), str(Path(__file__).parents[2])]
    env = {**os.environ, "PYTHONPATH": os.pathsep.join(path)}
    try:
        command = [*without_privilege, sys.executable, "-c", script]
        ended = subprocess.run(command, env=env, check=False, capture_output=True, timeout=60)
        assert (ended.returncode, ended.stderr) == (0, b"")
    finally:
        for directory in Path(cache.directory), _entry_of(cache).parent:
            directory.chmod(0o700)


# ---- several processes


def _work(directory: str, blob: str) -> int:
    """Look up and record layers for ever, `blob` being the digit of their blobs' digests. Return 1
    for a wrong answer.
    """
    cache = DigestCache(directory)
    for turn in count():
        for number in range(40):
            digit = f"{number % 16:x}"
            keys = [LayerKey(value=f"{number % 3}{number:063x}"), LayerKey(value=f"{number:064x}")]
            found = cache.lookup(keys, blob)
            if found not in (None, known(digit, None), known(digit, blob)):
                return 1
            if (number + turn) % 7 == 0:
                cache.forget(keys)
            cache.record(keys, layer(digit, blob), blob)
        if turn % 50 == 49 and blob == "0":
            cache.clear()
    return 0


def _fork(directory: str, blob: str) -> int:
    """Return the process ID of a process that works."""
    process = os.fork()
    if process == 0:
        status = 2
        with suppress(BaseException):
            status = _work(directory, blob)
        os._exit(status)
    return process


def _kill(process: int) -> None:
    """Kill a process that works, and wait for its end. It must not have ended by itself."""
    os.kill(process, signal.SIGKILL)
    _, status = os.waitpid(process, 0)
    assert os.waitstatus_to_exitcode(status) == -signal.SIGKILL


@pytest.mark.slow
def test_processes_may_be_killed_at_any_moment(tmp_path: Path) -> None:
    """Two runs at once, or one that is killed, would leave a digest that is wrong."""
    directory = str(tmp_path / "cache")
    # One lives from the first to the last; the others are killed, at other moments each.
    watcher = _fork(directory, "0")
    for moment in range(24):
        workers = [_fork(directory, f"{number + moment % 3 + 1:x}") for number in range(2)]
        time.sleep(0.01 + 0.002 * moment)
        for worker in workers:
            _kill(worker)
    _kill(watcher)
    cache = DigestCache(directory)
    assert not [*cache.bad_entries()]
    cache.clear()
    assert _files_in(directory) == ["CACHEDIR.TAG"]


# ---- where it is


def test_usual_directory(tmp_path: Path) -> None:
    """The cache would be where backups and users do not expect it, or in the working directory."""
    home, caches = str(tmp_path), str(tmp_path / "caches")
    for environment, expected in (
        ({"HOME": home}, f"{home}/.cache/stream-image/digests"),
        ({"HOME": home, "XDG_CACHE_HOME": caches}, f"{caches}/stream-image/digests"),
        ({"HOME": home, "XDG_CACHE_HOME": "caches"}, f"{home}/.cache/stream-image/digests"),
        ({"HOME": home, "XDG_CACHE_HOME": ""}, f"{home}/.cache/stream-image/digests"),
        ({"HOME": f"{home}/none"}, None),  # as in Nix's builds, which must not make it
        ({"HOME": ""}, None),
        ({"HOME": "home"}, None),
        ({}, None),
    ):
        assert default_directory(environment) == expected, environment


@pytest.mark.skipif(os.geteuid() != 0, reason="root alone would do this")
def test_root_leaves_nothing_in_a_home_of_another_user(tmp_path: Path) -> None:
    """After one `sudo stream-image`, the user could neither use nor remove the cache."""
    home = tmp_path / "home"
    home.mkdir()
    os.chown(home, 12345, -1)
    assert default_directory({"HOME": str(home)}) is None
    assert default_directory({"XDG_CACHE_HOME": str(home / "none")}) is None
    (home / ".cache").mkdir()  # root's, and root may use it
    assert default_directory({"HOME": str(home)}) is not None


def test_directories_are_private(tmp_path: Path) -> None:
    """With a umask of 0, other users could choose what is shipped."""
    before = os.umask(0)
    try:
        cache = DigestCache(str(tmp_path / "above" / "cache"))
        cache.record((ONE,), layer(), "")
    finally:
        os.umask(before)
    for path in _entry_of(cache).parent, _entry_of(cache).parents[1], _entry_of(cache).parents[2]:
        assert path.stat().st_mode & 0o777 == 0o700
    assert _entry_of(cache).stat().st_mode & 0o777 == 0o600
    assert cache.lookup((ONE,), "") == known()


def test_copied_cache_is_used(cache: DigestCache, tmp_path: Path) -> None:
    """A cache that CI puts back, without links and times, would be of no use."""
    cache.record((ONE, TWO), layer(), "")
    shutil.copytree(cache.directory, tmp_path / "copy", copy_function=shutil.copyfile)
    for path in (tmp_path / "copy").rglob("*"):
        with suppress(OSError):
            path.chmod(0o700 if path.is_dir() else 0o644)
    assert DigestCache(str(tmp_path / "copy")).lookup((TWO,), "") == known()

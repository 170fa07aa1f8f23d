"""The cost of a run and what it leaves behind: memory, descriptors, threads, references, opens."""

import bz2
import gc
import gzip
import hashlib
import io
import json
import lzma
import os
import random
import shutil
import subprocess
import sys
import tarfile
import threading
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import distribution
import memray
import orjson
import pytest
import pyzstd
from support import MIB, Store

import stream
from stream.model import Owner
from stream.tarwriter import Entries

LAUNCHER = Path(__file__).parent.parent / "bench" / "launch.py"
MAX_RSS = 64 * MIB


def _conf(store: Store, *layers: list[str], **more: object) -> stream.ImageConf:
    return stream.load_conf(store.conf(*layers, **more))


def _to_null(conf: stream.ImageConf) -> stream.Image:
    with open(os.devnull, "wb") as null:
        return stream.write_image(conf, null)


@pytest.fixture
def store(tmp_path: Path) -> Store:
    """Make an empty store."""
    return Store.below(tmp_path)


def _peak(conf: stream.ImageConf, tmp_path: Path) -> int:
    """Return the peak of all allocations in bytes, including native ones."""
    path = tmp_path / f"memray-{len(os.listdir(tmp_path))}"
    with memray.Tracker(path, native_traces=False):
        _to_null(conf)
    reader = memray.FileReader(path)
    peak = int(reader.metadata.peak_memory)
    reader.close()
    return peak


@pytest.mark.slow
def test_memory_does_not_grow_with_content(store: Store, tmp_path: Path) -> None:
    """Without it a layer could be collected in memory before it is written."""
    store.file("small", 100 * MIB)  # more than all buffers hold
    store.file("large", 500 * MIB)
    _to_null(_conf(store, ["small"]))  # imports
    small = _peak(_conf(store, ["small"]), tmp_path)
    large = _peak(_conf(store, ["large"]), tmp_path)
    assert large <= small + MIB, (small, large)
    assert large < 20 * MIB


@pytest.mark.slow
@pytest.mark.parametrize("layers", [5, 100])
def test_memory_of_entries(store: Store, tmp_path: Path, layers: int) -> None:
    """Without it the metadata of all layers could be held at once."""
    names = []
    for layer in range(layers):
        for number in range(200):
            store.file(f"path-{layer}/{'long-name-' * 10}{number}", b"")
        names.append([f"path-{layer}"])
    assert _peak(_conf(store, *names), tmp_path) < 8 * MIB


@pytest.mark.slow
@pytest.mark.parametrize("compression", ["none", "store", "gzip:1"])
def test_peak_of_the_process(store: Store, compression: str) -> None:
    """Without it the README's memory figure might not hold for a whole process."""
    store.file("large", 700 * MIB)
    assert _process_peak(str(store.conf(["large"])), "--compress", compression) < MAX_RSS


@pytest.mark.slow
def test_peak_of_a_push(store: Store) -> None:
    """Without it a layer could be collected in memory before it is sent, or too many be in flight."""
    names = [f"large-{number}" for number in range(6)]
    for number, name in enumerate(names):
        store.file(name, 32 * MIB + number)  # not equal, so that each is sent
    conf = str(store.conf(*([name] for name in names)))
    with distribution.running() as registry:
        words = (conf, f"{registry.address}/large", "--compress", "none", "--no-digest-cache")
        assert _process_peak("push", *words) < MAX_RSS
        assert len(registry.repository("large").blobs) == 7


@pytest.mark.slow
def test_memory_does_not_grow_with_images(store: Store, tmp_path: Path) -> None:
    """Without it a run could hold the entries of the layers of all its images."""
    layers = [[f"path-{number}"] for number in range(4)]
    for layer in layers:
        for number in range(500):
            store.file(f"{layer[0]}/{'long-name-' * 10}{number}", b"")
    document = json.loads(store.conf(*layers).read_bytes())
    peaks = []
    for count in (4, 40):
        confs = tmp_path / f"confs-{count}"
        confs.mkdir()
        for number in range(count):  # each has layers of its own, as its files have another time
            own = {"repo_tag": f"app:{number}", "mtime": f"2001-01-01T00:00:{number:02}+00:00"}
            (confs / f"{number}.json").write_text(json.dumps(document | own))
        with distribution.running() as registry:
            words = (str(confs), registry.address, "--compress", "none", "--no-digest-cache")
            peaks.append(_process_peak("push-all", *words))
            assert len(registry.repository("app").blobs) == 5 * count
    few, many = peaks
    assert many < few + 6 * MIB, (few, many)


def _process_peak(*arguments: str) -> int:
    """Return the peak memory of the command in bytes, as measured by the kernel."""
    command = [sys.executable, "-m", "stream", *arguments, "-q"]
    done = subprocess.run(
        [sys.executable, "-I", "-S", str(LAUNCHER), json.dumps([command])],
        capture_output=True, check=True, cwd=LAUNCHER.parent.parent,
    )  # fmt: skip
    return int(json.loads(done.stdout)["peak_rss"])


OPENED: dict[str, Callable[[Path], Any]] = {
    "plain": lambda path: path.open("wb"),
    "gzip": lambda path: gzip.open(path, "wb", 1),  # noqa: SIM115
    "bzip2": lambda path: bz2.open(path, "wb", 1),  # noqa: SIM115
    "xz": lambda path: lzma.open(path, "wb", preset=0),  # noqa: SIM115
    "zstd": lambda path: pyzstd.ZstdFile(path, "wb"),
    "zstd-seekable": lambda path: pyzstd.SeekableZstdFile(path, "wb"),
}


@pytest.mark.slow
@pytest.mark.parametrize("compression", OPENED)
def test_memory_of_a_large_base_image(store: Store, tmp_path: Path, compression: str) -> None:
    """Without it a large base image could be unpacked in memory, and fail where memory is scarce."""
    path = tmp_path / "base"
    noise = random.Random(1)  # enough that the image does not count as a decompression bomb
    layer = tarfile.TarInfo("file")
    layer.size = 2 * MAX_RSS
    header = layer.tobuf()
    digest = hashlib.sha256(header)
    with OPENED[compression](path) as file:
        member = tarfile.TarInfo("layer.tar")
        member.size = len(header) + layer.size + 1024
        file.write(member.tobuf())
        file.write(header)
        for _ in range(layer.size // MIB):
            piece = noise.randbytes(32 * 1024) + bytes(MIB - 32 * 1024)
            file.write(piece)
            digest.update(piece)
        digest.update(bytes(1024))
        file.write(bytes(1024))
        diff_id = f"sha256:{digest.hexdigest()}"
        config = {"rootfs": {"type": "layers", "diff_ids": [diff_id]}, "architecture": "amd64"}
        manifest = [{"Config": "config.json", "RepoTags": None, "Layers": ["layer.tar"]}]
        for name, document in (("config.json", config), ("manifest.json", manifest)):
            data = json.dumps(document).encode()
            info = tarfile.TarInfo(name)
            info.size = len(data)
            file.write(info.tobuf() + data + bytes(-len(data) % 512))
        file.write(bytes(1024))
    conf = store.conf(from_image=str(path), architecture="amd64")
    assert _process_peak(str(conf)) < MAX_RSS
    path.unlink()


def _descriptors() -> list[str]:
    return sorted(os.listdir("/proc/self/fd"))


def _threads() -> int:
    return len(os.listdir("/proc/self/task"))


def _fails(conf: stream.ImageConf) -> Callable[[], None]:
    def run() -> None:
        with pytest.raises(stream.SourceError):
            _to_null(conf)

    return run


@pytest.mark.slow
def test_nothing_stays_behind(store: Store) -> None:
    """Without it a program that writes many images would run out of descriptors or memory."""
    store.file("one/a", b"a" * 100_000)
    store.file("one/b", b"b")
    os.mkfifo(store.path("two"))
    good = _conf(store, ["one"])
    runs: list[Callable[[], object]] = [
        lambda: _to_null(good),
        lambda: stream.write_image(good, io.BytesIO()),
        _fails(_conf(store, ["one"], ["two"])),
        lambda: stream.parse_conf(orjson.dumps({"repo_tag": "x:1"})),
    ]
    for run in runs:
        run()
        before: tuple[object, ...] | None = None
        for _ in range(3):
            for _ in range(20):
                run()
            for thread in threading.enumerate():
                if thread is not threading.current_thread():
                    thread.join(5)
            gc.collect()
            state = (_descriptors(), _threads(), sys.getrefcount(good), sys.getrefcount(None) >> 12)
            objects = len(gc.get_objects())
            if before is not None:
                assert state == before[0]
                # Fewer can be: other tests leave objects that go in the meantime.
                assert objects - int(str(before[1])) < 20, "objects stay behind"
            before = (state, objects)


@pytest.mark.slow
def test_native_memory_is_freed(store: Store) -> None:
    """Without it each image would leak its buffers or its metadata."""
    for number in range(500):
        store.file(f"one/{'n' * 100}{number}", b"x")
    conf = _conf(store, ["one"])

    for _ in range(20):
        _to_null(conf)
    before = _resident()
    for _ in range(200):
        _to_null(conf)
    assert _resident() - before < 4 * MIB


def _resident() -> int:
    """Return the resident memory of this process in bytes."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * 4096


def test_the_root_is_freed() -> None:
    """Without it each layer of a store under another root would leak that root's path."""
    before = _resident()
    for _ in range(200):
        Entries(owner=Owner(), mtime=0, root=b"/" * MIB)
    assert _resident() - before < 20 * MIB


@pytest.mark.skipif(not shutil.which("strace"), reason="needs strace; CI has it")
def test_each_file_is_opened_once(store: Store, tmp_path: Path) -> None:
    """Without it a second pass could slip in unnoticed."""
    for number in range(50):
        store.file(f"one/d{number % 5}/file-{number}", os.urandom(3000))
    store.file("two", 2 * MIB)
    log = tmp_path / "strace"
    # A log for each thread: in a shared one, concurrent calls are split into two lines.
    trace = ["strace", "-ff", "-e", "trace=open,openat,read,pread64", "-y", "-o", str(log)]
    conf = store.conf(["one"], ["two"])
    done = subprocess.run(
        [*trace, sys.executable, "-m", "stream", "-q", conf, "-o", "/dev/null"],
        check=False, capture_output=True,
    )  # fmt: skip
    if b"Operation not permitted" in done.stderr:
        pytest.skip("no leave to trace")
    assert done.returncode == 0, done.stderr
    opens = Counter[str]()
    read = Counter[str]()
    logs = tmp_path.glob("strace.*")
    for line in "".join(log.read_text("utf-8", "replace") for log in logs).splitlines():
        for path in [*store.directory.glob("one/*/*"), store.path("two")]:
            if line.startswith("open") and line.endswith(f"<{path}>"):
                opens[str(path)] += 1
            elif f"<{path}>" in line and line.startswith(("read(", "pread64(")):
                read[str(path)] += int(line.rsplit("= ", 1)[1].split()[0])
    assert len(opens) == 51
    assert set(opens.values()) == {1}
    assert sum(read.values()) == 50 * 3000 + 2 * MIB

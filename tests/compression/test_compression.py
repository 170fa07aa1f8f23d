"""Compression of the output: what other programs read from it, and how it is truncated."""

import errno
import gzip
import io
import os
import random
import shutil
import signal
import struct
import subprocess
import tempfile
import threading
import time
import tracemalloc
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path

import commandline
import pytest
import pyzstd
import zstandard
from support import BALLAST, COMMAND, MIB, Run, Store, leftovers, members

from stream.cli.options import compression_of_name, parse_compression
from stream.cli.usage import UsageError
from stream.compression import CHOICES, Compression, opened_compressor
from stream.compression.codecs import CODECS as CODECS_BY_NAME
from stream.compression.pump import opened_encoder
from stream.compression.workers import map_in_order
from stream.errors import OutputError, ReaderClosedError

CODECS = [name for name in CHOICES if name != "none"]
PATIENCE = 20.0


def data(size: int) -> bytes:
    """Return bytes that compress about as well as programs do; always the same."""
    chance = random.Random(size)
    words = [chance.randbytes(chance.randrange(3, 40)) for _ in range(3000)]
    out = bytearray()
    while len(out) < size:
        out += b"".join(chance.choices(words, k=2000))
    return bytes(out[:size])


LARGE = data(10 * MIB + 12345)  # several zstd jobs, frames and members; the last one not full


def write(fd: int, content: bytes) -> None:
    """Write all data, in pieces like an image's."""
    view = memoryview(content)
    while view:
        view = view[os.write(fd, view[:70_000]) :]


def compress(tmp_path: Path, text: str, content: bytes, threads: int | None = None) -> bytes:
    """Return the compressed data, written through a file."""
    path = tmp_path / "compressed"
    with (
        path.open("wb") as file,
        opened_compressor(file.fileno(), parse_compression(text), threads=threads) as fd,
    ):
        write(fd, content)
    return path.read_bytes()


def by_program(*command: str) -> Callable[[bytes], bytes]:
    """Return a decoder that runs another program."""

    def decode(content: bytes) -> bytes:
        if not shutil.which(command[0]):
            pytest.skip(f"{command[0]} is not installed")
        done = subprocess.run(command, input=content, capture_output=True, check=False)
        if done.returncode:
            raise ValueError(done.stderr)
        return done.stdout

    return decode


def by_zstandard(content: bytes) -> bytes:
    """Return all frames. Raises an error at the first that is incomplete."""
    out, left = b"", content
    while left:
        if left[:4] == struct.pack("<I", 0x184D2A5E):
            (size,) = struct.unpack_from("<I", left, 4)
            assert len(left) >= 8 + size, "skippable frame cut short"
            left = left[8 + size :]
            continue
        frame = zstandard.ZstdDecompressor().decompressobj()
        out += frame.decompress(left)
        if not frame.eof:
            raise ValueError("frame cut short")
        left = frame.unused_data
    return out


ZSTD: dict[str, Callable[[bytes], bytes]] = {
    "zstandard": by_zstandard,
    "pyzstd": pyzstd.decompress,
    "zstd": by_program("zstd", "-dcq"),
}
GZIP: dict[str, Callable[[bytes], bytes]] = {
    "python": gzip.decompress,
    "gzip": by_program("gzip", "-dc"),
    "pigz": by_program("pigz", "-dc"),
}
READERS = [
    (codec, reader)
    for codec in CODECS
    for reader in ((GZIP if codec == "gzip" else ZSTD).values())
]  # fmt: skip


@cache
def compressed(codec: str, size: int) -> bytes:
    """Return the first bytes of LARGE, compressed."""
    with tempfile.TemporaryDirectory() as place:
        return compress(Path(place), codec, LARGE[:size])


@pytest.mark.parametrize("size", [0, 1, 131_072, 1_048_576, 4 * MIB, 4 * MIB + 1, len(LARGE)])
@pytest.mark.parametrize(("codec", "decode"), READERS)
def test_others_read_it(codec: str, decode: Callable[[bytes], bytes], size: int) -> None:
    """Without it only we might be able to read a stream, or its end could be lost."""
    assert decode(compressed(codec, size)) == LARGE[:size]


@pytest.mark.parametrize("codec", ["gzip:1", "gzip:12", "zstd:1", "zstd:9", "zstd-seekable:9"])
def test_levels(tmp_path: Path, codec: str) -> None:
    """Without it a level could be accepted and ignored."""
    content = LARGE[: 5 * MIB]
    name = codec.partition(":")[0]
    made = compress(tmp_path, codec, content)
    assert (gzip.decompress if name == "gzip" else by_zstandard)(made) == content
    assert made != compress(tmp_path, name, content)


@pytest.mark.parametrize(
    "codec", [*CODECS, "zstd:1", pytest.param("zstd:9", marks=pytest.mark.slow)]
)
def test_threads_do_not_show(tmp_path: Path, codec: str) -> None:
    """Without it the same image could have another checksum on another machine."""
    content = LARGE * 2 if codec == "zstd:9" else LARGE  # its jobs are 16 MiB
    one, *others = (compress(tmp_path, codec, content, threads) for threads in (1, 2, 64, None))
    assert others == [one] * len(others)


@pytest.mark.parametrize("codec", CODECS)
def test_pieces_do_not_show(tmp_path: Path, codec: str) -> None:
    """Without it the bytes could depend on how fast the image arrives."""
    content = LARGE[: 3 * MIB]

    def drip(fd: int) -> None:
        for start in range(0, len(content), 300_001):
            os.write(fd, content[start : start + 300_001])
            time.sleep(0.003)

    path = tmp_path / "dripped"
    with path.open("wb") as file, opened_compressor(file.fileno(), parse_compression(codec)) as fd:
        drip(fd)
    assert path.read_bytes() == compress(tmp_path, codec, content)


def test_store_is_raw_blocks(tmp_path: Path) -> None:
    """Without it `store` could cost more than copying, or need more memory to read."""
    made = compress(tmp_path, "store", LARGE)
    blocks = -(-len(LARGE) // 131_072)
    assert len(made) == 6 + len(LARGE) + 3 * blocks + 3
    parameters = zstandard.get_frame_parameters(made)
    assert parameters.window_size == 131_072
    assert not parameters.has_checksum


def test_gzip_header_names_nobody(tmp_path: Path) -> None:
    """Without it a time or a file name could be in the image."""
    made = compress(tmp_path, "gzip", b"content")
    assert made[:8] == b"\x1f\x8b\x08\0\0\0\0\0"


def test_seekable_is_read_by_position(tmp_path: Path) -> None:
    """Without it a zstd-seekable base image could need reading from its beginning."""
    made = compress(tmp_path, "zstd-seekable", LARGE)
    with pyzstd.SeekableZstdFile(io.BytesIO(made)) as file:
        assert file.seek(0, os.SEEK_END) == len(LARGE)
        for start in (0, 4 * MIB - 5, 9 * MIB, len(LARGE) - 1):
            file.seek(start)
            assert file.read(10) == LARGE[start : start + 10]


@pytest.mark.slow
@pytest.mark.parametrize("codec", CODECS)
@pytest.mark.parametrize("size", [0, 100, 2 * len(LARGE)])
def test_failure_cuts_the_stream(tmp_path: Path, codec: str, size: int) -> None:
    """Without it a reader could take half an image for a whole one."""
    path = tmp_path / "cut"
    content = (LARGE * 2)[:size]
    with (  # noqa: PT012 — the body is what fails
        pytest.raises(KeyError, match="fault"),
        path.open("wb") as file,
        opened_compressor(file.fileno(), parse_compression(codec), threads=1) as fd,
    ):
        write(fd, content)
        _wait_until_still(path)
        raise KeyError("fault")
    made = path.read_bytes()
    assert (len(made) > 6) == (size > MIB)
    if made:
        for decode in (GZIP if codec == "gzip" else ZSTD).values():
            with pytest.raises((ValueError, EOFError, pyzstd.ZstdError)):
                decode(made)


def _wait_until_still(path: Path) -> None:
    """Wait until the file stops growing."""
    size = -1
    while size != (size := path.stat().st_size):
        time.sleep(0.3)


@pytest.mark.slow
@pytest.mark.parametrize("name", CODECS)
def test_every_cut_is_seen(name: str) -> None:
    """Without it a stream truncated between two members or frames could look complete."""

    def blocks(size: int) -> Iterator[memoryview]:
        for start in range(0, len(LARGE), size):
            yield memoryview(LARGE)[start : start + size]

    codec = CODECS_BY_NAME[name]
    encoded = codec.encode(blocks, codec.default_level, 2)
    writes = [b"".join(buffers) for buffers in encoded]
    decode = gzip.decompress if name == "gzip" else by_zstandard
    assert decode(b"".join(writes)) == LARGE
    for count in range(1, len(writes)):
        if cut := b"".join(writes[:count]):
            with pytest.raises((ValueError, EOFError, AssertionError)):
                decode(cut)


@pytest.mark.parametrize("codec", CODECS)
def test_reader_closes_early(codec: str) -> None:
    """Without it compression could continue, or hang, after its consumer has failed."""
    read_end, write_end = os.pipe()
    os.close(read_end)
    with (  # noqa: PT012
        pytest.raises(ReaderClosedError),
        opened_compressor(write_end, parse_compression(codec)) as fd,
    ):
        while True:  # until the pump has reported it
            write(fd, LARGE)
    os.close(write_end)


@pytest.mark.parametrize("codec", CODECS)
@pytest.mark.parametrize("size", [10, len(LARGE)])
def test_full_disk(codec: str, size: int) -> None:
    """Without it a full disk could be reported as a closed reader, or not at all."""
    with open("/dev/full", "wb", buffering=0) as full:  # noqa: SIM117
        with pytest.raises(OutputError, match="No space left") as caught:
            with opened_compressor(full.fileno(), parse_compression(codec)) as fd:
                write(fd, LARGE[:size])
    assert caught.value.errno == errno.ENOSPC
    assert not isinstance(caught.value, ReaderClosedError)


@pytest.mark.parametrize("codec", CODECS)
def test_non_blocking_output(codec: str, tmp_path: Path) -> None:
    """Without it a pipe that another program made non-blocking could end the image."""
    read_end, write_end = os.pipe()
    os.set_blocking(write_end, False)
    received: list[bytes] = []

    def slowly() -> None:
        time.sleep(0.2)
        while got := os.read(read_end, 65_536):
            received.append(got)

    reader = threading.Thread(target=slowly)
    reader.start()
    with opened_compressor(write_end, parse_compression(codec)) as fd:
        write(fd, LARGE)
    os.close(write_end)
    reader.join()
    os.close(read_end)
    assert b"".join(received) == compress(tmp_path, codec, LARGE)


@pytest.mark.parametrize("codec", CODECS)
def test_failure_does_not_wait_for_a_stalled_reader(codec: str) -> None:
    """Without it Ctrl-C could be ignored while the consumer hangs."""
    read_end, write_end = os.pipe()
    start = time.monotonic()
    with pytest.raises(KeyboardInterrupt):  # noqa: PT012, SIM117
        with opened_compressor(write_end, parse_compression(codec)) as fd:
            write(fd, LARGE[: 900 * 1024])  # fits into the pipe without a reader
            time.sleep(0.1)
            raise KeyboardInterrupt
    assert time.monotonic() - start < 1
    os.close(write_end)
    os.close(read_end)


def test_encoder_fails() -> None:
    """Without it an out-of-memory error in a thread could be reported as a closed reader."""

    def failing(blocks: Callable[[int], Iterator[memoryview]]) -> Iterator[list[bytes]]:
        for _ in blocks(1024):
            raise MemoryError
        yield []

    with (  # noqa: PT012
        open(os.devnull, "wb") as null,
        pytest.raises(MemoryError),
        opened_encoder(null.fileno(), failing) as fd,  # type: ignore[arg-type]
        pytest.raises(BrokenPipeError),
    ):
        while True:
            os.write(fd, bytes(4096))


@pytest.mark.parametrize("codec", CODECS)
def test_nothing_is_left_behind(tmp_path: Path, codec: str) -> None:
    """Without it a program that streams many images could run out of descriptors or threads."""
    compress(tmp_path, codec, LARGE[:MIB])
    threads, descriptors = threading.active_count(), len(os.listdir("/proc/self/fd"))
    for _ in range(3):
        compress(tmp_path, codec, LARGE[:MIB])
    until_idle = time.monotonic() + PATIENCE
    while threading.active_count() > threads and time.monotonic() < until_idle:
        time.sleep(0.01)
    assert threading.active_count() <= threads
    assert len(os.listdir("/proc/self/fd")) <= descriptors


def test_none_is_the_descriptor_itself() -> None:
    """Without it an uncompressed image could be copied once more."""
    threads = threading.active_count()
    with opened_compressor(1, Compression()) as fd:
        assert fd == 1
        assert threading.active_count() == threads


@pytest.mark.slow
@pytest.mark.parametrize("codec", ["gzip", "zstd-seekable", "store"])
def test_memory_is_bounded(codec: str) -> None:
    """Without it the image could pile up in memory when the disk is slow."""
    read_end, write_end = os.pipe()

    def slowly() -> None:
        while os.read(read_end, 1 << 20):
            time.sleep(0.001)

    reader = threading.Thread(target=slowly)
    reader.start()
    tracemalloc.start()
    try:
        with opened_compressor(write_end, parse_compression(codec), threads=2) as fd:
            for _ in range(8):
                write(fd, LARGE)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
        os.close(write_end)
        reader.join()
        os.close(read_end)
    assert peak < 40 * MIB  # twice as many frames as threads, as input and output


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("none", Compression()),
        ("store", Compression(codec="store")),
        ("gzip", Compression(codec="gzip", level=6)),
        ("gzip:1", Compression(codec="gzip", level=1)),
        ("zstd", Compression(codec="zstd", level=3)),
        ("zstd:19", Compression(codec="zstd", level=19)),
        ("zstd-seekable:7", Compression(codec="zstd-seekable", level=7)),
    ],
)
def test_parse(text: str, expected: Compression) -> None:
    """Without it levels and defaults could change unnoticed."""
    assert parse_compression(text) == expected


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "not one of none, store, gzip, zstd, zstd-seekable"),
        ("lzma", "not one of"),
        ("GZIP", "not one of"),
        ("none:1", "none has no levels"),
        ("store:1", "store has no levels"),
        ("gzip:", "1 to 12"),
        ("gzip:0", "1 to 12"),
        ("gzip:13", "1 to 12"),
        ("gzip:-1", "1 to 12"),
        ("gzip:6:6", "1 to 12"),
        ("gzip:٣", "1 to 12"),
        ("gzip:06", "1 to 12"),
        ("zstd:20", "1 to 19"),
        ("zstd:" + "9" * 5000, "1 to 19"),
    ],
)
def test_parse_refuses(text: str, said: str) -> None:
    """Without it a mistyped level could be reported late, or select another one."""
    with pytest.raises(UsageError, match=said):
        parse_compression(text)


@pytest.mark.parametrize(
    ("path", "codec"),
    [
        ("-", "none"),
        ("image.tar", "none"),
        ("image.tar.gz", "gzip"),
        ("image.tar.gzip", "gzip"),
        ("a/image.TGZ", "gzip"),
        ("image.tar.zst", "zstd"),
        ("image.tzst", "zstd"),
        ("dir.zst/image", "none"),
        (".gz", "none"),
        ("/dev/stdout", "none"),
    ],
)
def test_for_name(path: str, codec: str) -> None:
    """Without it image.tar.zst could contain a plain tar."""
    assert compression_of_name(path) == parse_compression(codec)


@pytest.mark.parametrize("path", ["image.tar.xz", "image.TBZ2", "a.b/image.tar.lz4"])
def test_for_name_of_another_compression(path: str) -> None:
    """A file name with an unsupported extension is refused, not used for a plain tar."""
    with pytest.raises(UsageError, match="is not supported"):
        compression_of_name(path)


# --- the command


@pytest.fixture
def store(tmp_path: Path) -> Store:
    """Return a store with one path."""
    store = Store.below(tmp_path)
    store.file("one/file", LARGE[: 3 * MIB])
    return store


def command(*args: str | Path) -> subprocess.CompletedProcess[bytes]:
    """Run the command."""
    return commandline.run(
        [*COMMAND, "-q", *map(str, args)], capture_output=True, check=False, timeout=60
    )


@pytest.mark.parametrize("codec", CODECS)
def test_command(store: Store, codec: str) -> None:
    """Without it --compress could be accepted and ignored, or change the image."""
    conf = store.conf(["one"])
    done = command(conf, "--compress", codec, "--threads", "2")
    assert (done.returncode, done.stderr) == (0, b"")
    decode = gzip.decompress if codec == "gzip" else by_zstandard
    assert decode(done.stdout) == command(conf).stdout


def test_output_name_chooses(store: Store, tmp_path: Path) -> None:
    """Without it -o image.tar.gz might not be gzip, or --compress not override it."""
    conf = store.conf(["one"])
    plain = command(conf).stdout
    assert command(conf, "-o", tmp_path / "image.tar.gz").returncode == 0
    assert gzip.decompress((tmp_path / "image.tar.gz").read_bytes()) == plain
    assert command(conf, "-o", tmp_path / "image.tar.zst").returncode == 0
    assert by_zstandard((tmp_path / "image.tar.zst").read_bytes()) == plain
    assert command(conf, "-o", tmp_path / "image.tar.zst", "--compress", "none").returncode == 0
    assert members((tmp_path / "image.tar.zst").read_bytes())


@pytest.mark.parametrize(
    "args", [["--compress", "lzma"], ["--compress", "gzip:99"], ["--threads", "0"], ["--threads", "x"]]
)  # fmt: skip
def test_usage_errors(store: Store, args: list[str]) -> None:
    """Without it a mistyped option could be reported only after the image."""
    done = command(store.conf(["one"]), *args)
    assert (done.returncode, done.stdout) == (2, b"")
    assert args[0] in done.stderr.decode()


@pytest.mark.slow
@pytest.mark.parametrize("codec", CODECS)
@pytest.mark.parametrize("signum", [signal.SIGINT, signal.SIGTERM])
def test_signal_while_the_pipe_is_full(store: Store, codec: str, signum: signal.Signals) -> None:
    """Without it a program whose reader hangs could be stopped only by SIGKILL."""
    store.path("one/file").write_bytes(random.Random(1).randbytes(BALLAST))
    with Run(store.conf(["one"]), "--progress", "none", "--compress", codec) as run:
        run.read(MIB)
        run.stall()
        time.sleep(0.2)  # the threads have filled all buffers
        outcome, seconds = run.stopped_by(signum)
    assert (outcome.status, outcome.stderr) == (128 + signum, "")
    assert seconds < 1


@pytest.mark.slow
@pytest.mark.parametrize("codec", CODECS)
def test_signal_while_the_end_is_stalled(store: Store, codec: str) -> None:
    """Without it Ctrl-C could be ignored while a reader hangs at the very end."""
    store.path("one/file").write_bytes(random.Random(1).randbytes(1600 * 1024))
    conf = store.conf(["one"])
    with Run(conf, "--progress", "none", "--compress", codec) as run:
        run.read(4096)
        time.sleep(0.5)
        outcome, seconds = run.stopped_by(signal.SIGTERM)
    if outcome.status == 0:
        pytest.skip("the pipe took it all")
    assert (outcome.status, outcome.stderr) == (128 + signal.SIGTERM, "")
    assert seconds < 1


@pytest.mark.slow
@pytest.mark.parametrize("codec", CODECS)
def test_failed_source(store: Store, tmp_path: Path, codec: str) -> None:
    """Without it an image that failed half-way could decompress without an error."""
    store.path("one/file").write_bytes(random.Random(1).randbytes(BALLAST))
    os.mkfifo(store.path("fifo"))
    conf = store.conf(["one"], ["fifo"])
    done = command(conf, "--compress", codec)
    assert done.returncode == 1
    assert b"is a FIFO" in done.stderr
    if done.stdout:
        decode = gzip.decompress if codec == "gzip" else by_zstandard
        with pytest.raises((ValueError, EOFError, AssertionError)):
            decode(done.stdout)
    before = leftovers(tmp_path)
    assert command(conf, "--compress", codec, "-o", tmp_path / "image.tar.zst").returncode == 1
    assert leftovers(tmp_path) == before


@pytest.mark.parametrize("codec", ["gzip", "zstd"])
def test_reader_of_the_command_closes(store: Store, codec: str) -> None:
    """Without it `| head -c 1` could print an error, or hang."""
    store.path("one/file").write_bytes(random.Random(1).randbytes(BALLAST))
    with Run(store.conf(["one"]), "--progress", "none", "--compress", codec) as run:
        run.read(MIB)
        run.close_pipe()
        outcome = run.wait()
    assert (outcome.status, outcome.stderr) == (1, "")


def test_command_to_a_full_disk(store: Store) -> None:
    """Without it -o to a full disk could be reported as a closed reader."""
    for codec in CODECS:
        done = command(store.conf(["one"]), "--compress", codec, "-o", "/dev/full")
        assert done.returncode == 1
        assert b"cannot write the image: No space left on device\n" in done.stderr


def test_worker_that_cannot_begin() -> None:
    """If memory for a compressor runs out, an error is raised; nothing waits for its results."""

    def worker() -> Callable[[int], int]:
        raise MemoryError

    with pytest.raises(MemoryError):
        list(map_in_order(worker, range(3), 2))


def test_fewer_threads_than_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    """If the system allows no more threads, those that run do the work."""
    start = threading.Thread.start
    started: list[threading.Thread] = []

    def limited(thread: threading.Thread) -> None:
        if len(started) == 2:
            raise RuntimeError("can't start new thread")
        started.append(thread)
        start(thread)

    monkeypatch.setattr(threading.Thread, "start", limited)
    assert list(map_in_order(lambda: str, range(50), 8)) == [str(n) for n in range(50)]
    assert len(started) == 2


def test_compressor_without_memory(tmp_path: Path) -> None:
    """An out-of-memory error suggests options that need less memory."""
    store = Store.below(tmp_path)
    store.file("large", 4 << 20)
    command = [
        *COMMAND,
        "-q",
        str(store.conf(["large"])),
        "--compress",
        "zstd:19",
        "--threads",
        "30",
    ]
    done = subprocess.run(
        ["sh", "-c", 'ulimit -v 500000; exec "$@"', "sh", *command],
        capture_output=True, check=False, timeout=60,
    )  # fmt: skip
    assert done.returncode == 1
    assert done.stderr.count(b"\n") == 1
    assert b"fewer threads" in done.stderr or b"out of memory" in done.stderr

"""The extension on its own: its contract with threads, buffers and descriptors."""

import contextlib
import ctypes
import fcntl
import hashlib
import itertools
import os
import random
import re
import signal
import socket
import struct
import subprocess
import sys
import threading
import time
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from stream import _tarhash
from stream._tarhash import Entries, EntryError, Writer

MIB = 1 << 20
SEND_MIN = 16 * 1024  # bytes of a file from which on it is not read, if it is not hashed either
ROOT = Path(_tarhash.__file__).parent.parent
OWNER: dict[str, Any] = {
    "mtime": 1,
    "uid": 0,
    "gid": 0,
    "uname": "root",
    "gname": "root",
    "root": b"",
}


def _entries(*paths: Path) -> Entries:
    entries = Entries(**OWNER)
    for path in paths:
        entries.walk(os.fsencode(path))
    return entries


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """Make a directory with some files, 6 MiB in total."""
    path = tmp_path / "tree"
    path.mkdir()
    for number in range(6):
        (path / str(number)).write_bytes(bytes([number + 1]) * MIB)
    return path


@pytest.fixture
def writer(tmp_path: Path) -> Iterator[Writer]:
    """Open a writer on a file."""
    with (tmp_path / "written").open("wb") as file:
        writer = Writer(file.fileno())
        yield writer
        writer.close()


@contextlib.contextmanager
def _stalled_writer() -> Iterator[tuple[Writer, threading.Thread, int]]:
    """Open a writer that another thread uses, waiting for a pipe that nobody reads."""
    read_end, write_end = os.pipe()
    writer = Writer(write_end)
    entered = threading.Event()

    def write() -> None:
        entered.set()
        with contextlib.suppress(OSError):
            writer.write(bytes(2 * MIB))

    thread = threading.Thread(target=write)
    thread.start()
    entered.wait()
    while writer.position == 0:
        pass
    try:
        yield writer, thread, write_end
    finally:
        os.close(read_end)
        thread.join()
        os.close(write_end)
        writer.close()


def test_one_thread_at_a_time(tmp_path: Path) -> None:
    """Without it two threads would mix their bytes in one archive, or corrupt memory."""
    entries = _entries(tmp_path)
    with _stalled_writer() as (writer, _, _):
        calls: list[Callable[[], object]] = [
            lambda: writer.write(b"x"),
            lambda: writer.write_zeros(1),
            lambda: writer.write_entries(entries),
            lambda: writer.copy(0, 1, b"path"),
            writer.begin_hash,
            writer.end_hash,
            lambda: writer.digest(0),
            writer.flush,
            writer.close,
        ]
        for call in calls:
            with pytest.raises(RuntimeError, match="in use by another thread"):
                call()
        assert writer.position > 0  # but any thread may read it
    assert len(entries) == 1
    entries.walk(os.fsencode(tmp_path))  # and can then be used again


def test_entries_in_use(tree: Path) -> None:
    """Without it entries could move in memory while another thread writes them."""
    entries = _entries(tree)
    read_end, write_end = os.pipe()
    writer = Writer(write_end)
    thread = threading.Thread(target=lambda: _ignoring_errors(writer.write_entries, entries))
    thread.start()
    while writer.position < 1024:
        pass
    with pytest.raises(RuntimeError):
        entries.walk(os.fsencode(tree))
    with pytest.raises(BufferError):
        memoryview(entries)
    os.close(read_end)
    thread.join()
    os.close(write_end)
    writer.close()


def test_entries_of_two_writers(tree: Path) -> None:
    """Without it one reader of a layer that takes nothing would keep it from all others."""
    entries = _entries(tree)
    read_end, write_end = os.pipe()
    stalled = Writer(write_end)
    thread = threading.Thread(target=lambda: _ignoring_errors(stalled.write_entries, entries))
    thread.start()
    while stalled.position < 1024:
        pass
    with open(os.devnull, "wb") as nowhere:
        writer = Writer(nowhere.fileno())
        writer.write_entries(entries)
        assert writer.position == entries.tar_size
        writer.close()
    with pytest.raises(RuntimeError):
        entries.walk(os.fsencode(tree))
    os.close(read_end)
    thread.join()
    os.close(write_end)
    stalled.close()
    entries.walk(os.fsencode(tree))


def _ignoring_errors(call: Callable[..., object], *args: object) -> None:
    with contextlib.suppress(OSError):
        call(*args)


def test_closed(tmp_path: Path, writer: Writer) -> None:
    """Without it a call after close() would use freed memory."""
    writer.close()
    writer.close()
    entries = _entries(tmp_path)
    for call in [
        lambda: writer.write(b"x"),
        lambda: writer.write_zeros(1),
        lambda: writer.write_entries(entries),
        lambda: writer.copy(0, 1, b"path"),
        writer.begin_hash,
        writer.end_hash,
        lambda: writer.digest(0),
        writer.flush,
    ]:
        with pytest.raises(ValueError, match="closed"):
            call()


def test_buffer_forbids_growth(tmp_path: Path) -> None:
    """Without it an exported buffer would point to freed memory."""
    entries = _entries(tmp_path)
    with memoryview(entries) as buffer:
        assert buffer.readonly
        with pytest.raises(BufferError):
            entries.walk(os.fsencode(tmp_path))
        with pytest.raises(BufferError):
            entries.add(b"5", b"/d/", 0o755)
    entries.add(b"5", b"/d/", 0o755)
    assert len(entries) == 2


def test_refused_buffer() -> None:
    """Without it releasing a refused buffer would release a random object."""
    prototype = ctypes.PYFUNCTYPE(ctypes.c_int, ctypes.py_object, ctypes.c_void_p, ctypes.c_int)
    get_buffer = prototype(("PyObject_GetBuffer", ctypes.pythonapi))
    pointers = (ctypes.c_void_p * 16)(*[1] * 16)  # a Py_buffer: the second is `obj`
    with pytest.raises(BufferError):
        get_buffer(Entries(**OWNER), pointers, 1)  # PyBUF_WRITABLE
    assert pointers[1] is None


def test_writers_side_by_side(tree: Path, tmp_path: Path) -> None:
    """Without it writers in several threads could share state that must be separate."""
    expected = hashlib.sha256()
    sizes: list[int] = []
    digests: list[bytes] = []

    def write(number: int) -> None:
        with (tmp_path / str(number)).open("wb") as file:
            writer = Writer(file.fileno())
            entries = _entries(tree)
            for _ in range(3):
                writer.begin_hash()
                writer.write_entries(entries)
                last = writer.end_hash()
            digests.append(writer.digest(last))
            writer.flush()
            sizes.append(writer.position)
            writer.close()

    threads = [threading.Thread(target=write, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    data = (tmp_path / "0").read_bytes()
    assert set(sizes) == {len(data)}
    expected.update(data[: len(data) // 3])
    assert digests == [expected.digest()] * 4
    for number in range(1, 4):
        assert (tmp_path / str(number)).read_bytes() == data


def test_digests_of_many_stretches(tmp_path: Path, writer: Writer) -> None:
    """Without it a digest could be that of the previous layer, or of the bytes in between."""
    stretches = [bytes([n]) * size for n, size in enumerate([0, 1, 512, 262_144, 262_145, MIB, 0])]
    numbers = []
    for content in stretches:
        writer.write(b"between")
        writer.begin_hash()
        writer.write(content)
        numbers.append(writer.end_hash())
    assert [writer.digest(number) for number in reversed(numbers)] == [
        hashlib.sha256(content).digest() for content in reversed(stretches)
    ]
    writer.flush()
    written = (tmp_path / "written").read_bytes()
    assert written == b"".join(b"between" + content for content in stretches)
    with pytest.raises((RuntimeError, ValueError, IndexError)):
        writer.digest(len(stretches))


@pytest.mark.parametrize("slots", [8, 64])
def test_buffers_of_any_size_hash_the_same(tmp_path: Path, slots: int) -> None:
    """Without it several writers could not share a bound on memory, or one would wait forever."""
    content = b"".join(bytes([number]) * MIB for number in range(5))
    with (tmp_path / "written").open("wb") as file:
        writer = Writer(file.fileno(), slots)
        writer.begin_hash()
        writer.write(content)
        assert writer.digest(writer.end_hash()) == hashlib.sha256(content).digest()
        writer.flush()
        writer.close()
    assert (tmp_path / "written").read_bytes() == content


@pytest.mark.parametrize("slots", [-1, 0, 7, 65])
def test_number_of_buffers_is_bounded(slots: int) -> None:
    """Without it a writer could wait for buffers that it does not have."""
    with pytest.raises(ValueError, match="slots"):
        Writer(1, slots)


def test_identities(tree: Path) -> None:
    """Without it a file changed in place could be taken for the one that was hashed."""
    entries = _entries(tree)
    entries.add(b"5", b"made/", 0o755)
    found = [tree.lstat(), *((tree / name).lstat() for name in sorted(os.listdir(tree)))]
    numbers = [
        number
        for one in found
        for number in (one.st_dev, one.st_ino, one.st_mtime_ns, one.st_ctime_ns)
    ]
    expected = struct.pack(f"<{len(numbers) + 4}Q", *numbers, 0, 0, 0, 0)
    assert entries.identities == (expected, max(one.st_ctime_ns for one in found))


def test_non_blocking_pipe() -> None:
    """Without it an output that another program made non-blocking would end the run."""
    read_end, write_end = os.pipe()
    os.set_blocking(write_end, False)
    fcntl.fcntl(write_end, fcntl.F_SETPIPE_SZ, 4096)
    received: list[bytes] = []

    def read() -> None:
        while data := os.read(read_end, 3000):
            received.append(data)

    thread = threading.Thread(target=read)
    thread.start()
    content = bytes(range(256)) * 8192
    writer = Writer(write_end)
    writer.write(content)
    writer.flush()
    writer.close()
    os.close(write_end)
    thread.join()
    os.close(read_end)
    assert b"".join(received) == content


def _in_turn(*calls: Callable[[], None]) -> None:
    for call in calls:
        call()


@pytest.mark.parametrize("how", ["written", "sent"])
def test_nothing_after_a_failed_write(how: str, tree: Path) -> None:
    """Without it a caller that continues after an error would write an archive with a hole."""
    read_end, write_end = os.pipe()
    os.close(read_end)
    writer = Writer(write_end)
    entries = _entries(tree)
    with pytest.raises(BrokenPipeError) as broken:
        writer.write(bytes(MIB)) if how == "written" else writer.write_entries(entries)
    assert broken.value.filename is None
    for call in [lambda: writer.write(b"x"), lambda: writer.write_zeros(1), writer.flush]:
        with pytest.raises(BrokenPipeError):
            _in_turn(call, writer.flush)
    writer.close()
    os.close(write_end)


class _RaisedByHandlerError(Exception):
    pass


@pytest.mark.parametrize("how", ["written", "sent"])
@pytest.mark.parametrize("output", ["null", "pipe"])
def test_nothing_after_an_interrupted_write(output: str, how: str, tmp_path: Path) -> None:
    """Without it a call after Ctrl-C would give a SystemError, or an archive with a hole."""
    read_end, write_end = os.pipe()
    null = os.open(os.devnull, os.O_WRONLY)
    endless = os.open(tmp_path / "endless", os.O_CREAT | os.O_RDONLY)
    os.truncate(tmp_path / "endless", 1 << 40)
    writer = Writer(null if output == "null" else write_end)
    raised = threading.Event()

    def handle(*_: object) -> None:
        if not raised.is_set():
            raised.set()
            raise _RaisedByHandlerError

    def interrupt() -> None:
        while not raised.is_set():
            if writer.position:
                signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGUSR1)
            time.sleep(0.01)

    before = signal.signal(signal.SIGUSR1, handle)
    thread = threading.Thread(target=interrupt)
    try:
        if how == "written":
            writer.begin_hash()  # then the file is read
        thread.start()
        with pytest.raises(_RaisedByHandlerError):
            writer.copy(endless, 1 << 40, b"endless")
        calls: list[Callable[[], object]] = [
            writer.flush,
            writer.begin_hash if how == "sent" else writer.end_hash,
            lambda: writer.copy(endless, MIB, b"endless"),
            lambda: writer.write_zeros(MIB),
        ]
        for call in calls:
            with pytest.raises(InterruptedError):
                call()
    finally:
        raised.set()
        thread.join()
        signal.signal(signal.SIGUSR1, before)
        writer.close()
        for descriptor in (read_end, write_end, null, endless):
            os.close(descriptor)


def test_writer_of_the_parent_process() -> None:
    """Without it a child process would wait for ever for threads that only its parent has."""
    null = os.open(os.devnull, os.O_WRONLY)
    writer = Writer(null)
    writer.begin_hash()
    writer.write_zeros(5 * MIB)
    time.sleep(0.05)  # the hashing thread waits for more
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # of fork() with threads
        child = os.fork()
    if not child:
        signal.signal(signal.SIGALRM, signal.SIG_DFL)
        signal.alarm(10)
        status = 1
        with contextlib.suppress(BaseException):
            with pytest.raises(ValueError, match="belongs to the parent process"):
                writer.end_hash()
            assert writer.position == 5 * MIB
            writer.close()
            status = 0
        os._exit(status)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    writer.digest(writer.end_hash())
    writer.close()
    os.close(null)


def test_position_after_close(writer: Writer) -> None:
    """Without it a progress bar that reads the position just too late would show a traceback."""
    writer.write(b"four")
    writer.close()
    assert writer.position == 4


@pytest.mark.parametrize("unit", [1, SEND_MIN], ids=["read", "sent"])
def test_copy(tmp_path: Path, writer: Writer, unit: int) -> None:
    """Without it a file could be copied from the wrong place, or beyond its end unnoticed."""
    path = tmp_path / "source"
    content = [bytes([digit]) * unit for digit in b"0123456789"]
    path.write_bytes(b"".join(content))
    with path.open("rb", buffering=0) as file:
        writer.copy(file.fileno(), 3 * unit, b"source")
        writer.copy(file.fileno(), 2 * unit, b"source", offset=8 * unit)
        writer.copy(file.fileno(), unit, b"source")
        writer.flush()
        copied = b"".join(content[digit] for digit in (0, 1, 2, 8, 9, 3))
        assert (tmp_path / "written").read_bytes() == copied
        with pytest.raises(EntryError) as caught:
            writer.copy(file.fileno(), 7 * unit, b"source")
        assert caught.value.args == (b"source", "is shorter than when it was walked")
        for count in (-1, 2**64):
            with pytest.raises(OverflowError):
                writer.copy(file.fileno(), count, b"source")
    with pytest.raises(OSError) as failed:  # noqa: PT011 — the file name is what matters
        writer.copy(file.fileno() if not file.closed else 999, 1, b"gone")
    assert failed.value.filename == b"gone"


# ---- files that are sent, not read: those of some size, outside of layers


@contextlib.contextmanager
def _output(kind: str, path: Path) -> Iterator[tuple[Writer, list[bytes]]]:
    """Open a writer on an output of this kind, and a list that holds, at the end, all bytes
    that have arrived there.
    """
    received: list[bytes] = []
    if kind in ("file", "append"):
        flags = os.O_CREAT | os.O_WRONLY | (os.O_APPEND if kind == "append" else 0)
        write_end = os.open(path, flags)
        read_end = os.open(path, os.O_RDONLY)
    elif kind == "socket":
        read_end, write_end = (end.detach() for end in socket.socketpair())
    else:
        read_end, write_end = os.pipe()
        os.set_blocking(write_end, kind != "non-blocking")
    writer = Writer(write_end)
    if kind == "non-blocking":
        fcntl.fcntl(write_end, fcntl.F_SETPIPE_SZ, 4096)

    def read() -> None:
        while data := os.read(read_end, 300_000):
            received.append(data)

    thread = threading.Thread(target=read)
    if kind not in ("file", "append"):
        thread.start()
    try:
        yield writer, received
    finally:
        writer.close()
        os.close(write_end)
        if kind in ("file", "append"):
            read()
        else:
            thread.join()
        os.close(read_end)


@pytest.mark.parametrize("kind", ["pipe", "non-blocking", "socket", "file", "append"])
def test_sent_as_hashed(kind: str, tmp_path: Path) -> None:
    """Without it a layer whose digest is known could be other bytes than those of the digest."""
    tree = tmp_path / "tree"
    tree.mkdir()
    noise = random.Random(kind)
    for size in (0, 1, SEND_MIN - 1, SEND_MIN, SEND_MIN + 1, 255 * 1024, MIB - 512, 3 * MIB + 1):
        (tree / f"{size:09}").write_bytes(noise.randbytes(size))
        (tree / f"{size:09}-small").write_bytes(b"between")
    entries = _entries(tree)
    with _output(kind, tmp_path / "output") as (writer, received):
        writer.begin_hash()
        writer.write_entries(entries)
        digest = writer.digest(writer.end_hash())
        assert writer.position == entries.tar_size
        writer.write_entries(entries)
        assert writer.position == 2 * entries.tar_size
        writer.flush()
    data = b"".join(received)
    assert hashlib.sha256(data[: entries.tar_size]).digest() == digest
    assert data[entries.tar_size :] == data[: entries.tar_size]


@pytest.mark.parametrize("kind", ["pipe", "file"])
def test_sources_that_cannot_be_sent(kind: str, tmp_path: Path) -> None:
    """Without it a base image that arrives in a pipe could not be copied."""
    content = bytes(range(256)) * 200
    with _output(kind, tmp_path / "output") as (writer, received):
        read_end, write_end = os.pipe()
        os.write(write_end, content)
        writer.copy(read_end, len(content), b"pipe")
        os.close(read_end)
        os.close(write_end)
        device = os.open("/dev/zero", os.O_RDONLY)
        writer.copy(device, SEND_MIN, b"zeros")
        os.close(device)
        writer.flush()
    assert b"".join(received) == content + bytes(SEND_MIN)


def test_sent_to_a_full_device(tree: Path) -> None:
    """Without it a disk that is full could count as written to, or as a file that is not read."""
    full = os.open("/dev/full", os.O_WRONLY)
    writer = Writer(full)
    with pytest.raises(OSError, match="No space left on device") as failed:
        writer.write_entries(_entries(tree))
    assert failed.value.filename is None
    writer.close()
    os.close(full)


def _cut(path: Path) -> None:
    os.truncate(path, 2 * MIB)


def _rewrite(path: Path) -> None:
    path.write_bytes(bytes(8 * MIB))


@pytest.mark.parametrize("change", [_cut, _rewrite])
def test_changed_while_it_is_sent(change: Callable[[Path], None], tmp_path: Path) -> None:
    """Without it an image could hold a mixture of two states of a file."""
    victim = tmp_path / "victim"
    victim.write_bytes(bytes(8 * MIB))
    entries = _entries(victim)
    read_end, write_end = os.pipe()
    writer = Writer(write_end)
    failures: list[BaseException] = []

    def write() -> None:
        try:
            writer.write_entries(entries)
        except EntryError as error:
            failures.append(error)
        os.close(write_end)

    thread = threading.Thread(target=write)
    thread.start()
    while writer.position < 1000 * 1024:
        pass
    change(victim)
    while os.read(read_end, MIB):
        pass
    thread.join()
    os.close(read_end)
    assert [error.args[0] for error in failures] == [bytes(victim)]
    writer.close()


def test_odd_arguments() -> None:
    """Without it a wrong argument could crash the interpreter."""
    entries = Entries(**OWNER)
    for wrong in [b"0", b"\0", b"x"]:
        with pytest.raises(ValueError, match="typeflag"):
            entries.add(wrong, b"name", 0)
    with pytest.raises(ValueError, match="null byte"):
        entries.walk(b"/a\0b")
    with pytest.raises(TypeError):
        entries.walk("/text")  # type: ignore[arg-type]
    with pytest.raises(OSError, match="File name too long"):
        entries.walk(b"/" + b"a" * 5000)
    for root, kind in ((b"/a\0b", ValueError), ("/text", TypeError), (None, TypeError)):
        with pytest.raises(kind):
            Entries(**{**OWNER, "root": root})
    for number in (-1, 2**21, 2**32, 2**64):
        for device in ((number, 0), (0, number)):
            with pytest.raises((OverflowError, ValueError)):
                _tarhash.encode_header(b"null", 0, 0, 0, typeflag=b"3", device=device)
    for mtime in (-(2**63), 2**63 - 1, -1, 8**11, 0):
        odd = Entries(
            mtime=mtime, uid=2**64 - 1, gid=2**64 - 1, uname="ü" * 400, gname="", root=b""
        )
        odd.add(b"2", b"", 0o7777, b"\xff" * 5000)
        odd.add(b"5", b"x" * 70_000, 0)
        assert odd.tar_size % 512 == 0
        for size in (0, 2**33 - 1, 2**33, 2**64 - 1):
            for gnu in (False, True):
                header = _tarhash.encode_header(name=b"", mode=-1, size=size, mtime=mtime, gnu=gnu)
                assert len(header) % 512 == 0


@pytest.mark.parametrize("length", [0, 99, 100, 101, 511, 512, 513, 70_000])
def test_gnu_header_of_any_length(length: int) -> None:
    """Without it a name, a link target or records could be written past their block."""
    text = b"x" * length
    for name, link, records in ((text, b"", b""), (b"", text, b""), (text, text, text)):
        header = _tarhash.encode_header(
            name, 0, 0, 0, link=link, typeflag=b"2", records=records, gnu=True
        )
        own = header[-512:]
        assert own[:100].rstrip(b"\0") == name[:100]
        assert own[157:257].rstrip(b"\0") == link[:100]
        blocks = sum(1 + (len(extra) + 512) // 512 for extra in (name, link) if len(extra) > 100)
        blocks += 1 + (len(records) + 511) // 512 if records else 0
        assert len(header) == 512 * (blocks + 1)


def test_references_on_every_path(tmp_path: Path, writer: Writer) -> None:
    """Without it a call, failed or successful, could leak an object or free one in use."""
    os.mkfifo(tmp_path / "pipe")
    fifo, gone, data = bytes(tmp_path / "pipe"), bytes(tmp_path / "gone"), bytearray(b"data")
    entries, changed = Entries(**OWNER), Entries(**OWNER)
    entries.add(b"2", b"name", 0, b"target")
    (tmp_path / "file").write_bytes(b"content")
    changed.walk(bytes(tmp_path / "file"))
    (tmp_path / "file").unlink()
    (tmp_path / "large").write_bytes(bytes(2 * SEND_MIN))
    large = os.open(tmp_path / "large", os.O_RDONLY)
    calls: list[Callable[[], object]] = [
        lambda: Entries(**OWNER),
        lambda: Entries(**{**OWNER, "root": None}),
        lambda: entries.walk(gone),
        lambda: entries.walk(fifo),
        lambda: entries.add(b"x", gone, 0),
        entries.list,
        lambda: bytes(memoryview(entries)),
        lambda: Writer(999).flush(),
        lambda: writer.write(data),
        lambda: writer.write(None),  # type: ignore[arg-type]
        lambda: writer.write_entries(entries),
        lambda: writer.write_entries(changed),
        lambda: writer.write_entries(None),  # type: ignore[arg-type]
        lambda: writer.copy(999, 1, gone),
        lambda: writer.copy(999, SEND_MIN, gone),
        lambda: writer.copy(large, 2 * SEND_MIN, gone, 0),
        lambda: writer.copy(large, 2 * SEND_MIN, gone, SEND_MIN),
        writer.begin_hash,
        lambda: writer.digest(writer.end_hash()),
        lambda: writer.digest(2**63),
        lambda: _tarhash.encode_header(gone, 0, 0, 0),
        lambda: _tarhash.encode_header(gone, 0, 0, 0, device=(2**21, 0)),
    ]
    objects = [Entries, Writer, EntryError, gone, fifo, data, entries, changed, writer]

    def run() -> tuple[list[int], int]:
        for call in calls * 100:
            with contextlib.suppress(Exception):
                call()
        return [sys.getrefcount(item) for item in objects], sys.getallocatedblocks()

    run()
    references, blocks = run()
    again, more = run()
    os.close(large)
    assert again == references
    assert more < blocks + 50


def test_bad_descriptor() -> None:
    """Without it bytes could count as written to an invalid descriptor."""
    writer = Writer(999)
    writer.write(b"x")
    with pytest.raises(OSError, match="Bad file descriptor"):
        writer.flush()
    writer.close()


def test_list(tree: Path) -> None:
    """Without it an export would not know a layer's entries before the layer passes."""
    entries = Entries(**OWNER)
    entries.add(b"2", b"", 0o777, b"")
    assert entries.list() == [(b"2", b"", 0o777, b"")]
    entries = _entries(tree)
    entries.add(b"1", b"hard", 0o600, b"\xff" * 200)
    listed = entries.list()
    assert len(listed) == len(entries)
    assert listed[-1] == (b"1", b"hard", 0o600, b"\xff" * 200)
    found = {os.fsencode(path) for path in [tree, *tree.rglob("*")]}
    assert {name.rstrip(b"/") for _, name, _, _ in listed[:-1]} == found


@pytest.mark.parametrize("cores", [None, 1])
def test_layers_hashed_in_turn(cores: int | None) -> None:
    """Layers that are hashed at the same time each get their own digest, for any thread count."""
    before = os.sched_getaffinity(0)
    if cores:
        os.sched_setaffinity(0, set(list(before)[:cores]))
    try:
        writer = Writer(os.open(os.devnull, os.O_WRONLY))
    finally:
        os.sched_setaffinity(0, before)
    noise = random.Random(1)
    block = noise.randbytes(3 << 20)
    expected = []
    for number in range(150):
        length = noise.choice([0, 1, 511, 262_144, 300_001, 3 << 20])
        writer.write(b"between")
        writer.begin_hash()
        for at in range(0, length, 1 << 18):
            writer.write(block[at : min(at + (1 << 18), length)])
        assert writer.end_hash() == number
        expected.append(hashlib.sha256(block[:length]).digest())
    assert [writer.digest(number) for number in reversed(range(150))] == expected[::-1]
    assert writer.digest(149, wait=False) == expected[149]
    writer.close()


def test_relative_and_root_paths(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Files are opened relative to their directory, even if a name has none."""
    (tmp_path / "file").write_bytes(b"content")
    monkeypatch.chdir(tmp_path)
    for name in (b"file", b"./file", os.fsencode(tmp_path / "file")):
        entries = Entries(**OWNER)
        entries.walk(name)
        with (tmp_path / "out").open("wb") as file:
            writer = Writer(file.fileno())
            writer.write_entries(entries)
            writer.flush()
            writer.close()
        assert b"content" in (tmp_path / "out").read_bytes()


# ---- names below a root


def _long_path(directory: bytes, length: int) -> None:
    """Make a file in `x` in the directory, with a path of `length` bytes."""
    here = os.open(directory, os.O_RDONLY)
    left = length - len(directory)
    for name in itertools.chain([b"x"], itertools.repeat(b"d" * 200)):
        if left < 250:
            break
        os.mkdir(name, dir_fd=here)
        below = os.open(name, os.O_RDONLY, dir_fd=here)
        os.close(here)
        here, left = below, left - 1 - len(name)
    file = os.open(b"f" * (left - 1), os.O_CREAT | os.O_WRONLY, dir_fd=here)
    os.write(file, b"content")
    os.close(file)
    os.close(here)


@pytest.mark.parametrize("length", [4094, 4095, 4096, 4100])
def test_paths_as_long_as_there_are(store_dir: bytes, length: int, writer: Writer) -> None:
    """Without it the root would not count, and a buffer would be too small for both."""
    _long_path(store_dir, length)
    for root, path in ((b"", store_dir + b"/x"), (store_dir, b"/x")):
        entries = Entries(**{**OWNER, "root": root})
        if length < 4096:
            entries.walk(path)
            writer.write_entries(entries)
            assert len(entries.list()[-1][1]) == length - len(root)
        else:
            with pytest.raises(OSError, match="File name too long") as caught:
                entries.walk(path)
            assert len(caught.value.filename) == length


@pytest.mark.parametrize(("root", "path"), [(4096, 1), (4095, 1), (2048, 2048), (1, 4095)])
def test_no_room_below_a_root(root: int, path: int) -> None:
    """Without it a path that is too long would be opened, or written past a buffer."""
    entries = Entries(**{**OWNER, "root": b"r" * root})
    with pytest.raises(OSError, match="File name too long"):
        entries.walk(b"/" * path)


def test_faults_name_the_path_on_disk(tmp_path: Path, writer: Writer) -> None:
    """Without it an error could point to the wrong file."""
    (tmp_path / "x").mkdir()
    (tmp_path / "x" / "file").write_bytes(b"content")
    entries = Entries(**{**OWNER, "root": bytes(tmp_path)})
    entries.walk(b"/x")
    assert [name for _, name, _, _ in entries.list()] == [b"/x/", b"/x/file"]
    (tmp_path / "x" / "file").write_bytes(b"changed")
    (tmp_path / "x" / "link").symlink_to("file")
    os.mkfifo(tmp_path / "x" / "pipe")
    with pytest.raises(EntryError) as changed:
        writer.write_entries(entries)
    assert changed.value.args[0] == bytes(tmp_path / "x" / "file")
    with pytest.raises(EntryError) as refused:
        entries.walk(b"/x")
    assert refused.value.args[0] == bytes(tmp_path / "x" / "pipe")
    with pytest.raises(FileNotFoundError) as missing:
        entries.walk(b"/no")
    assert missing.value.filename == bytes(tmp_path / "no")


# ---- the C itself


@pytest.fixture(scope="module")
def objects(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Compile the object files of the extension, as for an installation."""
    directory = tmp_path_factory.mktemp("objects")
    build = [f"--build-temp={directory}", f"--build-lib={directory}"]
    subprocess.run(
        [sys.executable, "setup.py", "-q", "build_ext", "--force", *build],
        check=True, cwd=ROOT, env=_without_sanitizers(),
    )  # fmt: skip
    return directory / "native"


def _without_sanitizers() -> dict[str, str]:
    return {k: v for k, v in os.environ.items() if k not in {"STREAM_IMAGE_CFLAGS", "LD_PRELOAD"}}


@pytest.mark.slow
@pytest.mark.parametrize("unit", sorted(path.stem for path in ROOT.glob("native/*.c")))
def test_a_header_for_each_source(objects: Path, unit: str) -> None:
    """Without it a prefix might not identify its file, or a header lack its contract."""
    source = (ROOT / "native" / f"{unit}.c").read_text("utf-8")
    # It compiles, so its first header does not depend on others included before it.
    assert re.findall("#include (.*)", source)[0] == f'"{unit}.h"'
    header = (ROOT / "native" / f"{unit}.h").read_text("utf-8")
    code = re.sub(r"/\*.*?\*/", "", header, flags=re.DOTALL)
    declared = set(re.findall(r"^\w[\w *]*?(\w+)(?:\(|;$)", code, re.MULTILINE))
    tags = set(re.findall(r"^(?:struct|enum) (\w+)(?: \{|;)", code, re.MULTILINE))
    symbols = subprocess.check_output(
        ["nm", "--defined-only", "--extern-only", "--format=just-symbols", objects / f"{unit}.o"]
    )
    assert set(symbols.decode().split()) == declared - tags
    assert {name for name in declared | tags if not re.match(f"{unit}(_|$)", name)} <= {
        "PyInit__tarhash"
    }


@pytest.mark.slow
def test_no_pool_to_free(objects: Path, tmp_path: Path) -> None:
    """Without it the clean-up after a pool that could not be created could crash."""
    (tmp_path / "main.c").write_text('#include "pool.h"\nint main(void) { pool_free(NULL); }\n')
    subprocess.run(
        ["cc", "-I", ROOT / "native", tmp_path / "main.c", objects / "pool.o", objects / "fault.o",
         "-lcrypto", "-pthread", "-o", tmp_path / "main"],
        check=True, env=_without_sanitizers(),
    )  # fmt: skip
    subprocess.run([tmp_path / "main"], check=True, env=_without_sanitizers())
